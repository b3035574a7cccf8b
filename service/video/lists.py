"""Watch lists: which entries an event may be, and how probable that is."""

import csv
import unicodedata
from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import Final

from pydantic import BaseModel

from service.errors import BadParameter, printable
from service.video.fusion import TWINS, Fused

LEAST: Final = 0.05  # probability from which a match is told
MATCHES: Final = 10  # of an event, the most probable
LONGEST: Final = 12  # letters and digits of a plate; no country has more
DOTS: Final = ".·•‧∙⋅・\N{MINUS SIGN}"  # and the minus, which is no dash to Unicode
# Letters of Cyrillic and Greek, which are drawn as the Latin ones below them
LATIN: Final = str.maketrans(
    "АВЕКМНОРСТУХІЅЈΑΒΕΖΗΙΚΜΝΟΡΤΥΧ",
    "ABEKMHOPCTYXISJABEZHIKMNOPTYX",
)
BETWEEN: Final = ("Zs", "Pd", "Mn", "Mc", "Cf")  # spaces, dashes, accents of their own, and what nobody sees


class Match(BaseModel):
    """An entry of a watch list, and the probability that the plate is this one."""

    plate: str
    note: str
    probability: float


class WatchList:
    """Plates with notes."""

    def __init__(self, entries: Iterable[tuple[str, str]]) -> None:
        self._notes = {_plain(plate): note for plate, note in entries if _plain(plate)}

    def matches(self, fused: Fused) -> list[Match]:
        """The entries that the plate may be, the most probable first.

        Where a plate may be of several entries, their probabilities add up to at most 1.
        """
        texts = {plate: fused.probability(plate) for plate in self._notes}
        total = max(1.0, sum(texts.values()))
        likely = sorted(((share / total, plate) for plate, share in texts.items() if share / total >= LEAST))[::-1]
        return [
            Match(plate=plate, note=self._notes[plate], probability=round(share, 4))
            for share, plate in likely[:MATCHES]
        ]


def read(files: Sequence[Path], alphabet: str) -> WatchList:
    """The lists of files: a plate a line, a note after a comma; empty lines, and those after a #, say nothing.

    `alphabet` has what is read of plates. Accents are left out, and letters that are drawn alike are the Latin ones.

    Raises BadParameter with the number of a line that is anything else: a plate that is taken for something else
    would never match, and nobody would know.
    """
    entries, readable = [], {*alphabet, *"".join(TWINS)}
    for file in files:
        try:
            lines = file.read_text(encoding="utf-8-sig").split("\n")
        except UnicodeDecodeError as error:
            raise BadParameter(f"The list {file} is not UTF-8: save it as UTF-8.") from error
        except OSError as error:
            raise BadParameter(f"The list {file} cannot be read: {error}.") from error
        first = True
        for number, line in enumerate(lines, 1):
            if line.replace(",", "").strip() and not line.startswith("#"):
                where = f"Line {number} of the list {file}"
                plate, note = _entry(line, where)
                _check(_plain(plate), where, readable, first)
                entries.append((plate, note))
                first = False
    return WatchList(entries)


def _check(plate: str, where: str, readable: Container[str], first: bool) -> None:
    """Raise BadParameter for what is no plate that is read, or a heading; `first` says that nothing is above it."""
    if strange := next((char for char in plate if char not in readable), None):
        raise BadParameter(f"{where} would never match: {printable(strange)} is not read on any plate.")
    if first and plate.isalpha():
        raise BadParameter(
            f"{where} may be a heading: begin it with #. A plate without digits may stand below another one."
        )


def _entry(line: str, where: str) -> tuple[str, str]:
    """The plate and the note of a line, each as it is or in quotes."""
    try:
        (plate, *notes), *_ = csv.reader([line.strip()], strict=True)
    except csv.Error as error:
        raise BadParameter(f"{where} cannot be read ({error}): quotes begin and end in the same line.") from error
    if not 0 < len(_plain(plate)) <= LONGEST or not all(map(_in_plates, plate)):
        raise BadParameter(f"{where} is no plate, or no comma stands between the plate and its note.")
    return plate, ",".join(notes).strip()


def _in_plates(char: str) -> bool:
    return char.isalnum() or char in DOTS or unicodedata.category(char) in BETWEEN


def _plain(plate: str) -> str:
    """The letters and digits of a plate, as they are read.

    People write spaces, dashes and dots between them, some in full width, letters with accents, and letters of other
    keyboards. No plate is read with accents.
    """
    apart = unicodedata.normalize("NFKD", plate).upper().translate(LATIN)
    return "".join(char for char in apart if char.isalnum())
