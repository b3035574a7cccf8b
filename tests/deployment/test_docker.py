"""The Dockerfiles without a container engine: linted, their paths checked, the service's steps done in a folder."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from model_builder.measure.load.servers import free_port
from service.artifact import read
from service.settings import REPOSITORY, Settings
from tests.support.artifacts import PUBLISHED
from tests.support.processes import Process, program
from tests.support.samples import FOLDER, SAMPLES

DOCKER = REPOSITORY / "docker"
DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))
SERVICE = DOCKER / "service.Dockerfile"
# Shared libraries that python:slim has (Debian's base has libstdc++ and libgcc_s for apt), or that looking up a user's
# name loads where systemd runs.
SYSTEM = re.compile(
    r"(ld-linux-x86-64|lib(c|m|dl|rt|util|pthread|stdc\+\+|gcc_s|z|ffi|bz2|lzma|uuid|expat|crypto|ssl|python3.*|nss_\w+|cap))\.so"
)


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile, in order."""
    lines = [line for line in dockerfile.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(word, rest.strip()) for word, rest in re.findall(r"^([A-Z]+) (.*)$", joined, re.MULTILINE)]


def arguments(dockerfile: Path) -> dict[str, str]:
    """The build arguments with a default."""
    return dict(rest.split("=", 1) for word, rest in instructions(dockerfile) if word == "ARG" and "=" in rest)


def copied(dockerfile: Path) -> list[str]:
    """What is copied from the repository."""
    sources = [rest.split()[:-1] for word, rest in instructions(dockerfile) if word == "COPY" and "--from" not in rest]
    return [source for several in sources for source in several]


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_it_passes_hadolint(dockerfile):
    done = subprocess.run([program("hadolint"), dockerfile], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_what_it_copies_exists_and_is_let_through(dockerfile):
    ignore = Path(f"{dockerfile}.dockerignore").read_text(encoding="utf-8").split()
    assert ignore[0] == "*"
    assert {line.removeprefix("!") for line in ignore if line.startswith("!")} == set(copied(dockerfile))
    for source in copied(dockerfile):
        assert (REPOSITORY / source).exists()


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_it_runs_as_nobody_in_particular_and_pins_its_base(dockerfile):
    assert [rest for word, rest in instructions(dockerfile) if word == "USER"] == ["10001:10001"]
    assert re.fullmatch(r"3\.\d+-slim-[a-z]+", arguments(dockerfile)["PYTHON"])
    assert {rest.split(" AS ")[0] for word, rest in instructions(dockerfile) if word == "FROM"} == {"python:${PYTHON}"}


def test_the_extras_and_variants_that_they_name_exist():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for dockerfile in DOCKERFILES:
        assert arguments(dockerfile)["EXTRA"] in project["optional-dependencies"]
    service = arguments(SERVICE)
    assert service["VARIANT"] == ""  # the server's own default
    assert read(PUBLISHED / Settings.model_fields["variant"].default).manifest.backend == service["EXTRA"]
    compose = (DOCKER / "compose.yaml").read_text(encoding="utf-8")
    assert re.findall(r"(VARIANT|EXTRA): \$\{\1:-(.*)}", compose) == [
        (name, service[name]) for name in ("VARIANT", "EXTRA")
    ]


def test_the_builder_has_from_debian_what_the_makefile_installs():
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    extras = re.search(r"^extras:.*\n\tapt-get install (.*)$", makefile, re.MULTILINE)
    assert extras is not None
    (command,) = (rest for word, rest in instructions(DOCKER / "builder.Dockerfile") if "apt-get install" in rest)
    wanted = {word for word in extras[1].split() if not word.startswith("-")} | {"g++"}
    assert wanted == {word for word in command.split("&&")[1].split()[2:] if not word.startswith("-")}


class Image:
    """A folder made as service.Dockerfile says: paths of the image are below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environment: dict[str, str] = {}
        self.workdir = root
        self.commands: dict[str, list[str]] = {}
        self._values = arguments(SERVICE)
        (root / "bin").mkdir()
        (root / "bin" / "python").symlink_to(sys._base_executable)  # type: ignore[attr-defined]
        for word, rest in instructions(SERVICE):
            getattr(self, f"_{word.lower()}")(re.sub(r"\$\{(\w+)}", lambda name: self._values[name[1]], rest))

    def place(self, path: str) -> Path:
        """Where a path of the image lies; relative ones are below its WORKDIR."""
        return self.root / path.lstrip("/") if path.startswith("/") else self.workdir / path

    def _arg(self, rest: str) -> None:
        pass  # `arguments` has them

    def _from(self, rest: str) -> None:
        self.environment = {}

    def _env(self, rest: str) -> None:
        self.environment |= dict(pair.split("=", 1) for pair in rest.split())

    def _workdir(self, rest: str) -> None:
        self.workdir = self.place(rest)
        self.workdir.mkdir(parents=True)

    def _copy(self, rest: str) -> None:
        if rest.startswith("--from=build "):
            _, source, target = rest.split()
            assert source == target  # a virtual environment can't move
            return
        *sources, target = rest.split()
        for path in map(REPOSITORY.joinpath, sources):
            if path.is_dir():
                shutil.copytree(path, self.place(target), ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(path, self.place(target))

    def _run(self, rest: str) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
        environment = kept | self.environment | {"PATH": f"{self.root / 'bin'}:{os.environ['PATH']}"}
        del environment["PIP_NO_CACHE_DIR"]  # fills layers there, and saves downloads here
        environment["PIP_ONLY_BINARY"] = ":all:"  # the image has no compiler
        command = rest.replace("/opt/lpr", str(self.place("/opt/lpr")))
        subprocess.run(["sh", "-c", command], cwd=self.workdir, env=environment, check=True, capture_output=True)

    def _user(self, rest: str) -> None:
        self.user, self.group = rest.split(":")

    def _expose(self, rest: str) -> None:
        self.port = rest

    def _healthcheck(self, rest: str) -> None:
        self.commands["healthcheck"] = self._command(rest.split(" CMD ", 1)[1])

    def _entrypoint(self, rest: str) -> None:
        self.commands["entrypoint"] = self._command(rest)

    def _command(self, rest: str) -> list[str]:
        program, *others = json.loads(rest)
        return [str(self.place(program)), *others]

    def run_environment(self, port: int) -> dict[str, str]:
        """What a container's process finds, on another port, and with no program to call."""
        assert self.environment["LPR_PORT"] == self.port
        artifacts = str(self.place(self.environment["LPR_ARTIFACTS"]))
        return self.environment | {"LPR_ARTIFACTS": artifacts, "LPR_PORT": str(port), "PATH": "/nowhere"}

    def isolated(self, command: list[str]) -> list[str]:
        """A command with every file system of ours read-only, as the image's user and without capabilities."""
        mount = program("mount")
        seal = (
            f'{mount} --bind "$0" "$0" && {mount} -o remount,bind,ro "$0" && {mount} -o remount,bind,ro / && exec "$@"'
        )
        nobody = [program("setpriv"), f"--reuid={self.user}", f"--regid={self.group}", "--clear-groups"]
        nobody += ["--bounding-set=-all", "--no-new-privs"]
        return [program("unshare"), "--mount", "/bin/sh", "-c", seal, str(self.root), *nobody, *command]


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    """Not below pytest's folders, which other users can't enter."""
    with tempfile.TemporaryDirectory(prefix="lpr-image-") as folder:
        Path(folder).chmod(0o755)
        yield Image(Path(folder))


def isolation_works() -> bool:
    done = subprocess.run(
        ["unshare", "--mount", "mount", "-o", "remount,bind,ro", "/"], capture_output=True, check=False
    )
    return done.returncode == 0


@pytest.mark.slow
def test_the_image_serves_read_only_as_nobody_and_stops_when_told(image):
    if not isolation_works():
        pytest.skip("needs root and mount namespaces")
    environment = image.run_environment(free_port())
    server = Process(environment, image.isolated(image.commands["entrypoint"]), Path("/"))
    try:
        assert hasattr(server, "url"), server.said
        url = f"http://127.0.0.1:{environment['LPR_PORT']}"
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        assert re.search(r"^Uid:\s+10001\s+10001", status, re.MULTILINE)
        assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE)
        subprocess.run(image.commands["healthcheck"], env=environment, check=True)
        file, text = SAMPLES[0]
        answer = httpx.post(f"{url}/recognize", files={"image": (FOLDER / file).read_bytes()}).json()
        assert answer["results"][0]["plates"][0]["text"] == text
        for path in ("/", "/static/page.js", "/static/examples/blue.jpg", "/docs", "/static/swagger/swagger-ui.css"):
            assert httpx.get(url + path).status_code == 200, path
        loaded = set(re.findall(r"\S+\.so\S*$", Path(f"/proc/{server.process.pid}/maps").read_text(), re.MULTILINE))
        outside = {Path(name).name for name in loaded if not name.startswith(str(image.root))}
        assert [name for name in sorted(outside) if not (SYSTEM.match(name) or ".cpython-" in name)] == []
        assert server.stop(signal.SIGTERM) == 0
    finally:
        server.process.kill()
        server.process.wait()
    assert subprocess.run(image.commands["healthcheck"], env=environment, capture_output=True, check=False).returncode


@pytest.mark.slow
def test_the_image_has_no_other_engine_no_compiler_and_no_builder(image):
    listing = "from importlib.metadata import distributions as d; print(*sorted(x.name.lower() for x in d()))"
    python = image.commands["entrypoint"][0]
    found = subprocess.run([python, "-I", "-c", listing], capture_output=True, text=True, check=True).stdout.split()
    assert {"lpr", "fastapi", "apache-tvm"} <= set(found)
    assert not {"torch", "openvino", "onnx", "xgboost-cpu", "pytest", "playwright"} & set(found)
    probe = "from importlib.util import find_spec; print(find_spec('model_builder'), find_spec('service').origin)"
    builder, service = subprocess.run(
        [python, "-I", "-c", probe], capture_output=True, text=True, check=True
    ).stdout.split()
    assert builder == "None"
    assert service.startswith(str(image.root))
    assert not list(image.root.rglob("*compiler*.so"))
    assert "apt-get" not in SERVICE.read_text(encoding="utf-8")
