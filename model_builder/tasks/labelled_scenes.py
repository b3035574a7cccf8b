"""Labelled photographs as scenes: whole images with the corners of the plates in them, for measurements.

A set is a folder as `train/labels.py` describes it. Here only the columns `file` and `x1,y1` to `x4,y4` are needed, and
each line is a plate: a file has as many lines as plates.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from model_builder.render.scene import Drawn, Scene
from model_builder.train import labels
from model_builder.train.labels import DataError
from service.errors import InputError
from service.reading import decode

_MAX_PIXELS = 100_000_000


class LabelledScenes:
    """The photographs of a set, each read when it is asked for. One that cannot be read is left out, and printed.

    Raises DataError for a list that lacks a column, or a plate without corners.
    """

    def __init__(self, folder: Path) -> None:
        listing = folder / labels.LISTING
        columns, rows = labels.table(listing)
        if missing := [name for name in ("file", *labels.CORNERS) if name not in columns]:
            raise DataError(f"{listing} lacks the columns {', '.join(missing)}: a finder is measured on whole images")
        self._listing = listing
        self._plates: dict[Path, list[Drawn]] = {}
        for line, row in rows:
            place = f"{listing}, line {line}"
            corners = labels.corners_of(place, row)
            if corners is None:
                raise DataError(f"{place} has no corners; write them or remove the line")
            plate = Drawn(corners, rows=1, colour="other", kind="", cut=False)
            self._plates.setdefault(labels.image_of(folder, row["file"]), []).append(plate)

    def __len__(self) -> int:
        return len(self._plates)

    def digest(self) -> str:
        """SHA-256 of the list."""
        return hashlib.sha256(self._listing.read_bytes()).hexdigest()

    def __iter__(self) -> Iterator[Scene]:
        for path, plates in self._plates.items():
            try:
                yield Scene(decode.decode_image(path.read_bytes(), _MAX_PIXELS), tuple(plates), ())
            except (InputError, OSError) as error:
                print(f"{path} left out: {error}")


def read_sets(folders: Sequence[Path], *taken: str) -> dict[str, LabelledScenes]:
    """The sets in folders, by name, none called as `taken` are. Raises DataError."""
    return {name: LabelledScenes(path) for name, path in labels.named(folders, *taken).items()}
