"""The documents name nothing that does not exist: files, links, commands, flags, settings, routes, fields."""

import ast
import importlib
import re
import runpy
import shlex
import tomllib
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from ray.scripts.scripts import cli as ray_cli

from model_builder.__main__ import main as builder
from service.artifact import variants
from service.client import cli
from service.settings import RENAMED, REPOSITORY, ClientSettings, Settings, WatchSettings
from service.wire import Recognition
from tests.deployment.test_docker import arguments
from tests.support.artifacts import PUBLISHED
from tests.support.processes import program

PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md"), *(REPOSITORY / "report").glob("*.md")])
README = REPOSITORY / "README.md"
DEPLOYMENT = REPOSITORY / "docs" / "deployment.md"  # its values are compared with the chart's in a test of the chart
IMAGES = REPOSITORY / "docs" / "images"
FIELDS = (*Settings.model_fields, *ClientSettings.model_fields, *WatchSettings.model_fields)
SETTINGS = {*RENAMED, *(f"LPR_{name.upper()}" for name in FIELDS)}
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORDS, PICTURES, PICTURE_BYTES = 900, 3, 200_000
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
PATH = re.compile(r"`((?:service|model_builder|tests|docker|artifacts|docs|report|\.ci)/[\w./-]*)`")
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text(page), re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """What the headings can be linked by."""
    headings = re.findall(r"^#+ (.*)$", text(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_every_link_and_picture_leads_somewhere(page):
    for _, _, target in LINK.findall(text(page)):
        if re.match(r"https?:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@each_page
def test_every_file_that_is_named_exists(page):
    missing = [path for path in PATH.findall(text(page)) if not (REPOSITORY / path).exists()]
    tests = {path.name for path in (REPOSITORY / "tests").rglob("test_*.py")}
    assert missing + [name for name in re.findall(r"`(test_\w+\.py)`", text(page)) if name not in tests] == []


@each_page
def test_every_setting_that_is_named_exists(page):
    assert {*re.findall(r"\bLPR_[A-Z_]+\b", text(page))} - SETTINGS == set()


def test_readme_is_short():
    shown = re.sub(r"<!--.*?-->", "", text(README), flags=re.DOTALL)
    assert sum(bool(picture) for picture, *_ in LINK.findall(shown)) == PICTURES
    words = [word for word in LINK.sub(r"\2", shown).split() if re.search(r"\w", word)]
    assert len(words) <= WORDS


def test_pictures_are_small_and_shown():
    shown = {target for page in PAGES for picture, _, target in LINK.findall(text(page)) if picture}
    for picture in IMAGES.iterdir():
        assert picture.stat().st_size < PICTURE_BYTES
        assert f"docs/images/{picture.name}" in shown


def test_the_table_of_settings_is_what_the_settings_say():
    generated = runpy.run_path(str(REPOSITORY / "docs" / "generate.py"))["tables"]()
    assert generated in text(REPOSITORY / "docs" / "settings.md")


@pytest.mark.slow
def test_the_pictures_are_made_by_a_command(tmp_path):
    program("chromium")
    runpy.run_path(str(REPOSITORY / "docs" / "generate.py"))["pictures"](tmp_path)
    made = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert made.keys() == {path.name for path in IMAGES.iterdir()}
    assert min(made.values()) > 10_000  # bytes: an empty page is smaller


def test_every_published_variant_is_described():
    described = re.findall(r"^\| `([\w-]+)`", text(REPOSITORY / "docs" / "variants.md"), re.MULTILINE)
    assert sorted(described) == variants(PUBLISHED)


def commands() -> Iterator[str]:
    """Every line of every block of shell, without its comment."""
    for page in PAGES:
        for block in blocks(page, "sh"):
            yield from block.splitlines()


Help = Callable[..., str]


@pytest.fixture
def help_of(capsys: pytest.CaptureFixture[str]) -> Help:
    """What a command of ours prints for --help."""

    def printed(run: Callable[[list[str]], int], *words: str) -> str:
        with pytest.raises(SystemExit) as stopped:
            run([*words, "--help"])
        assert stopped.value.code == 0
        return capsys.readouterr().out

    return printed


def flags(words: list[str]) -> list[str]:
    return [word for word in words if word.startswith("--")]


def checked(words: list[str], help_of: Help) -> bool:
    """Whether a command is of a kind that is checked here; asserts that what it names exists."""
    match words:
        case ["make", target, *rest]:
            recipes = re.findall(
                rf"^(?:[a-z]+ )*{target}(?: [a-z]+)*:.*\n((?:\t.*\n)*)", text(REPOSITORY / "Makefile"), re.MULTILINE
            )
            assert recipes, target
            for given in rest:
                name, _, value = given.partition("=")
                assert name == "ARGS"
                if "model_builder" not in "".join(recipes) and "$(BIN)/lpr" not in "".join(recipes):
                    return False
                known = help_of(builder if "model_builder" in "".join(recipes) else cli.main, target)
                assert [flag for flag in flags(shlex.split(value)) if f"{flag} " not in known] == []
        case [".venv/bin/lpr" | "lpr", command, *rest]:
            known = help_of(cli.main, command)
            assert [flag for flag in flags(rest) if f"{flag} " not in known] == []
        case [".venv/bin/python", "-m", "model_builder", command, *rest]:
            known = help_of(builder, command)
            assert [flag for flag in flags(rest) if flag not in known] == []
        case [".venv/bin/python", "-m", "service"]:
            pass
        case [".venv/bin/ray", command, *rest]:
            assert {*flags(rest)} <= {name for option in ray_cli.commands[command].params for name in option.opts}
        case ["export", setting]:
            assert setting.partition("=")[0] in {*SETTINGS, "RAY_AUTH_MODE"}
        case [".venv/bin/serve", "run", application]:
            assert (REPOSITORY / f"{application.partition(':')[0].replace('.', '/')}.py").is_file()
        case ["pip" | ".venv/bin/pip" | "/opt/lpr/bin/pip", "install", package]:
            extras = re.findall(r"\[(.*)\]", package)[0].split(",")
            assert {*extras} <= {*PROJECT["optional-dependencies"]}
        case ["curl", *rest]:
            for word in rest:
                name = word.partition("@")[2]
                if name and not name.isupper():  # capitals stand for a file of the user's
                    assert (REPOSITORY / name).is_file(), name
            assert any(route in rest[-1] for route in ("/recognize", "/redact", "/v1/"))
        case ["docker", *rest]:
            (file,) = (REPOSITORY / rest[at + 1] for at, word in enumerate(rest) if word == "-f")
            assert file.is_file()
            arguments_given = dict(rest[at + 1].split("=") for at, word in enumerate(rest) if word == "--build-arg")
            assert arguments_given.keys() <= (arguments(file).keys() if arguments_given else set())
            assert arguments_given.get("VARIANT", "baseline") in variants(PUBLISHED)
        case ["helm" | "kubectl" | "install" | "systemctl" | "python3", *rest]:
            assert [word for word in rest if word.startswith("docker/") and not (REPOSITORY / word).exists()] == []
            chosen = {value.partition("=")[0] for option, value in pairwise(rest) if option == "--set"}
            assert chosen <= {*re.findall(r"^\| `([\w.]+)` \|", text(DEPLOYMENT), re.MULTILINE)}
        case [path] if (REPOSITORY / path).is_file():
            pass
        case _:
            return False
    return True


@pytest.mark.parametrize("command", sorted({*commands()} - {""}))
def test_every_command_exists_with_its_flags(command, help_of):
    words = shlex.split(command, comments=True)
    while words and "=" in words[0]:
        assert words.pop(0).partition("=")[0] in SETTINGS
    if ">" in words:
        words = words[: words.index(">")]
    assert checked(words, help_of)


@each_page
def test_what_python_imports_from_the_service_exists(page):
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("service"):
                module = importlib.import_module(str(node.module))
                assert [name.name for name in node.names if not hasattr(module, name.name)] == []


def test_the_answer_that_is_shown_is_one():
    shown = [block for block in blocks(REPOSITORY / "docs" / "api.md", "json") if '"results"' in block]
    assert len(shown) == 1
    assert Recognition.model_validate_json(shown[0]).results[0].plates[0].text == "渝U10841"
