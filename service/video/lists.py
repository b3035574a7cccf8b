"""Watch lists: which entries an event may be, and how probable that is."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from pydantic import BaseModel

from service.errors import BadParameter
from service.video.fusion import Fused

LEAST: Final = 0.05  # probability from which a match is told
MATCHES: Final = 10  # of an event, the most probable


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


def read(files: Sequence[Path]) -> WatchList:
    """The lists of files: a plate a line, a note after a comma; empty lines, and those after a #, say nothing."""
    entries = []
    for file in files:
        try:
            lines = file.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise BadParameter(f"The list {file} is not UTF-8: save it as UTF-8.") from error
        except OSError as error:
            raise BadParameter(f"The list {file} cannot be read: {error}.") from error
        for row in csv.reader(line for line in lines if line.strip() and not line.startswith("#")):
            entries.append((row[0], ",".join(row[1:]).strip()))
    return WatchList(entries)


def _plain(plate: str) -> str:
    """The letters and digits of a plate: people write spaces, dashes and dots between them."""
    return "".join(char for char in plate.upper() if char.isalnum())
