"""The wheel and the source distribution: built, unpacked elsewhere, and used there."""

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
from email.parser import Parser
from pathlib import Path

import pytest

from service import bundled
from service.client import cli
from service.settings import REPOSITORY
from tests.support.artifacts import PUBLISHED
from tests.support.samples import FOLDER, SAMPLES

SOURCES = (
    "pyproject.toml",
    "setup.py",
    "README.md",
    "LICENSE",
    "service",
    *(f"artifacts/{name}" for name in bundled.VARIANTS),
)
MOST_BYTES = 14_000_000
BUILD = """
import sys
from setuptools import build_meta
getattr(build_meta, sys.argv[1])(sys.argv[2])
"""


def build(what: str, folder: Path, target: Path) -> Path:
    """The one file that setuptools builds of a folder."""
    target.mkdir()
    command = [sys.executable, "-c", BUILD, f"build_{what}", str(target)]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    (built,) = target.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source distribution."""
    root = tmp_path_factory.mktemp("wheel")
    checkout = root / "checkout"
    for source in SOURCES:
        target = checkout / source
        target.parent.mkdir(parents=True, exist_ok=True)
        if (REPOSITORY / source).is_dir():
            shutil.copytree(REPOSITORY / source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(REPOSITORY / source, target)
    sdist = build("sdist", checkout, root / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(root, filter="data")
    (unpacked,) = root.glob("lpr-*")
    return build("wheel", unpacked, root / "dist")


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel holds."""
    folder = tmp_path_factory.mktemp("installed")
    shutil.unpack_archive(wheel, folder, "zip")
    return folder


@pytest.fixture
def environment(installed: Path) -> dict[str, str]:
    """No setting, and the wheel before the repository."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LPR_")}
    return kept | {"PYTHONPATH": str(installed)}


@pytest.mark.slow
def test_the_wheel_holds_the_service_and_the_default_variants(wheel, installed):
    assert wheel.stat().st_size < MOST_BYTES
    metadata = next(installed.glob("lpr-*.dist-info"))
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert Parser().parsestr((metadata / "METADATA").read_text())["Version"] == project["version"]
    assert {path.name for path in installed.iterdir()} == {"service", metadata.name}
    assert {path.name for path in (installed / "service" / "models").iterdir()} == set(bundled.VARIANTS)
    for name in bundled.VARIANTS:
        for path in (PUBLISHED / name).iterdir():
            assert (installed / "service" / "models" / name / path.name).read_bytes() == path.read_bytes()
    ours = [path for path in (REPOSITORY / "service").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert [path for path in ours if not (installed / path.relative_to(REPOSITORY)).is_file()] == []


@pytest.mark.slow
def test_it_reads_in_a_program_elsewhere(installed, environment, tmp_path):
    file, text = SAMPLES[0]
    program = f"""
import service
print(service.__file__)
with service.Reader() as reader:
    print(reader.read({str(FOLDER / file)!r})[0].text)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(installed / "service" / "__init__.py"), text]


@pytest.mark.slow
def test_lpr_artifacts_goes_before_what_it_brings_along(environment, tmp_path):
    command = [sys.executable, "-c", "from service.client.cli import main; main()", "read", str(FOLDER)]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment | {"LPR_ARTIFACTS": str(tmp_path)}, capture_output=True, text=True
    )
    assert f"no variant '{bundled.VARIANT}' in {tmp_path}" in done.stderr


def test_the_command_line_tells_the_version(capsys):
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"lpr {project['version']}\n"
