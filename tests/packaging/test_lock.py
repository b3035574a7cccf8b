"""requirements-dev.lock: what `make check` and `make test` install, one version each."""

import re
import tomllib

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from service.settings import REPOSITORY

LINES = (REPOSITORY / "requirements-dev.lock").read_text(encoding="utf-8").splitlines()
LOCKED = {canonicalize_name(name): Version(version) for name, _, version in (line.partition("==") for line in LINES)}
PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))


def direct() -> list[Requirement]:
    """What `.[build]` and the group dev name, with the extras that they name."""
    extras = PYPROJECT["project"]["optional-dependencies"]
    found, waiting = [], [*PYPROJECT["project"]["dependencies"], *PYPROJECT["dependency-groups"]["dev"], "lpr[build]"]
    while waiting:
        requirement = Requirement(waiting.pop())
        if requirement.name == "lpr":
            waiting += [text for extra in requirement.extras for text in extras[extra]]
        else:
            found.append(requirement)
    return found


def test_each_line_is_a_name_and_a_version():
    """No address and no local version such as +cpu: it fits every index."""
    assert [line for line in LINES if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line)] == []


def test_every_direct_dependency_is_pinned_within_its_bounds():
    requirements = direct()
    assert len(requirements) > 30
    for requirement in requirements:
        name = canonicalize_name(requirement.name)
        assert name in LOCKED, name
        assert requirement.specifier.contains(LOCKED[name]), name


def test_the_makefile_installs_what_is_pinned():
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    assert "--group dev --constraint $(LOCK)" in makefile
    assert "LOCK := requirements-dev.lock" in makefile
