"""Blocks of a Markdown page, each between two markers and written by one command of the Makefile; tables in them."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

PAGE: Final = "README.md"  # of the folder report/


def markers(command: str) -> tuple[str, str]:
    """The lines before and after what `make command` writes."""
    return f"<!-- {command}: written by `make {command}` -->", f"<!-- {command}: end -->"


def check(page: Path, command: str) -> None:
    """Raise ValueError where the markers are missing."""
    content = page.read_text(encoding="utf-8")
    begin, end = markers(command)
    if content.count(begin) != 1 or content.count(end) != 1:
        raise ValueError(f"{page} must hold the lines {begin} and {end} once each")


def put(page: Path, command: str, text: str) -> None:
    """Replace the block of `command`, or append it where the page has none; the page need not exist yet."""
    begin, end = markers(command)
    content = page.read_text(encoding="utf-8") if page.exists() else ""
    if begin not in content:
        content = f"{content.rstrip()}\n\n{begin}\n{end}\n".lstrip()
    before, rest = content.split(begin)
    page.write_text(f"{before}{begin}\n\n{text.strip()}\n\n{end}{rest.split(end)[1]}", encoding="utf-8")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))
