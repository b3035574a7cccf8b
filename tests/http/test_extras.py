"""Each published variant is served by the packages of its own extra alone, and `make serve` installs just those."""

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import Distribution, distribution
from pathlib import Path

import httpx
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from service import bundled
from service.artifact import read, readers
from service.settings import REPOSITORY, Settings
from tests.support.artifacts import PUBLISHED, TINY_TEXT
from tests.support.images import encode
from tests.support.processes import Process, environment, started
from tests.support.samples import FOLDER, SAMPLES


def installed(*extras: str) -> list[Distribution]:
    """What `pip install '.[extras]'` brings, but for lpr itself."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"]]
    for extra in extras:
        wanted += project["optional-dependencies"][extra]
    found: dict[str, Distribution] = {}
    while wanted:
        requirement = Requirement(wanted.pop())
        name = canonicalize_name(requirement.name)
        if name == "lpr":
            wanted += [each for extra in requirement.extras for each in project["optional-dependencies"][extra]]
            continue
        if name not in found and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            found[name] = distribution(name)
            wanted += found[name].requires or []
    return list(found.values())


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """An empty folder of packages beside a folder that holds `service` alone."""
    (tmp_path / "packages").mkdir()
    (tmp_path / "service").symlink_to(REPOSITORY / "service")
    return tmp_path / "packages"


def link(distributions: list[Distribution], packages: Path) -> None:
    """Put into `packages` what the distributions have in site-packages."""
    for found in distributions:
        files = [file.parts for file in found.files or []]
        for name in {first for first, *rest in files if rest or first.endswith((".py", ".so"))} - {"..", "__pycache__"}:
            if not (packages / name).exists():
                (packages / name).symlink_to(found.locate_file(name))


@pytest.mark.slow
@pytest.mark.parametrize("variant", readers(PUBLISHED))
def test_a_variant_is_served_with_its_extra_alone(variant, packages):
    engine = read(PUBLISHED / variant).manifest.backend
    link(installed(engine), packages)
    brought = {engine, "onnxruntime"} if engine == "tvm" else {engine}  # the default finder's
    for name in {"torch", "tvm", "onnxruntime", "openvino", "httpx"} - brought:
        assert not (packages / name).exists()
    command = [sys.executable, "-S", "-m", "service"]  # without site-packages
    env = environment(PUBLISHED, VARIANT=variant, FINDER="") | {"PYTHONPATH": str(packages)}
    server = Process(env, command, packages.parent)
    try:
        file, text = SAMPLES[0]
        assert hasattr(server, "url"), server.said
        answer = httpx.post(f"{server.url}/recognize", files={"image": (file, (FOLDER / file).read_bytes())}).json()
        assert answer["results"][0]["plates"][0]["text"] == text
        assert answer["model"]["engine"].split()[0] == engine
    finally:
        server.process.kill()
        server.process.wait()


def make(**settings: str) -> set[str]:
    """The extras that `make serve` would install into a new environment."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("LPR_", "MAKE", "MFLAGS"))}
    command = ["make", "--dry-run", "serve", "VENV=none"]
    done = subprocess.run(command, cwd=REPOSITORY, env=inherited | settings, capture_output=True, text=True, check=True)
    found = re.findall(r"--editable '?\.\[(.*?)\]'?\n", done.stdout)
    assert found
    return {extra for extras in found for extra in extras.split(",")}


@pytest.mark.parametrize("variant", readers(PUBLISHED))
def test_make_serve_installs_the_engine_of_the_variant(variant):
    engine = read(PUBLISHED / variant).manifest.backend
    assert make(LPR_VARIANT=variant, LPR_FINDER="") == {"client", engine}
    assert make(LPR_VARIANT=variant) == {"client", engine, "tvm"}


def test_make_serve_knows_the_default_and_the_folder_of_artifacts(artifacts):
    default = Settings.model_fields["variant"].default
    assert make() == make(LPR_VARIANT=default, LPR_FINDER=bundled.FINDER) == {"client", "tvm"}
    assert make(LPR_BACKEND="tiny", LPR_ARTIFACTS=str(artifacts)) == {"client", "onnxruntime"}  # the old name
    assert make(LPR_VARIANT="tiny", LPR_ARTIFACTS=str(artifacts)) == {"client", "onnxruntime"}


def test_make_serve_leaves_it_to_the_service_to_name_the_variants_there_are():
    assert make(LPR_VARIANT="nonsense", LPR_FINDER="") == {"client"}


@pytest.mark.slow
def test_the_command_of_the_documents_reads_on_the_server_that_make_serve_starts(packages, artifacts):
    page = (REPOSITORY / "docs" / "api.md").read_text(encoding="utf-8")
    (printed,) = re.findall(r"^\.venv/bin/lpr (read .*--url http://127\.0\.0\.1:8000) ", page, re.MULTILINE)
    link(installed(*make()), packages)
    (packages.parent / "plates").mkdir()
    for name in ("a.jpg", "plates/b.jpg"):
        (packages.parent / name).write_bytes(encode())
    with started(artifacts) as server:
        words = printed.replace("http://127.0.0.1:8000", server.url).split()
        command = "import sys; from service.client.cli import main; sys.exit(main(sys.argv[1:]))"
        done = subprocess.run(
            [sys.executable, "-S", "-c", command, *words],
            cwd=packages.parent,
            env={"PYTHONPATH": str(packages)},
            capture_output=True,
            text=True,
            check=False,
        )
    assert (done.stderr, done.returncode) == ("", 0)
    assert [line.split("\t")[:2] for line in done.stdout.splitlines()] == [
        ["plates/b.jpg", TINY_TEXT],
        ["a.jpg", TINY_TEXT],
    ]
