"""Readings of each kind of plate: how many rendered ones of it are exact, and how many have a wrong length."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tqdm import tqdm

from model_builder.measure import blocks
from model_builder.measure.by_view import Looker, Read, exact
from model_builder.plates.kinds import PLATES, Plate
from model_builder.train.data import VALIDATION_SEED
from service.artifact import Artifact
from service.backends import Backend
from service.reading.plates import doubt


class Row(NamedTuple):
    """Of `total` plates of a kind, or of several: those exact in one view, and if that is unsure, in several, as the
    server reads photographs; those that then have more or fewer characters; and those of these that are sure enough to
    be given."""

    name: str
    total: int
    once: int
    exact: int
    other_length: int
    given: int


def measured(artifact: Artifact, backend: Backend, count: int, plates: Sequence[Plate] = PLATES) -> Iterator[Row]:
    """A row for each kind, of `count` plates of the validation seeds; then one for all with two rows, and one for all.

    The model is loaded as `backend`, and read through the serving code.
    """
    rows, two = [], []
    looker = Looker(artifact, backend)
    for plate in tqdm(plates, artifact.manifest.variant, unit="kind", leave=False):
        row = _row(plate.name, [looker.read(VALIDATION_SEED + number, plate) for number in range(count)])
        rows.append(row)
        if plate.rows == 2:
            two.append(row)
        yield row
    if two:
        yield _together("all of two rows", two)
    yield _together("all", rows)


def _row(name: str, read: Sequence[Read]) -> Row:
    other_length = [one.several for one in read if len(one.several.text) != len(one.text)]
    return Row(
        name,
        len(read),
        sum(one.once.text == one.text for one in read),
        sum(one.several.text == one.text for one in read),
        len(other_length),
        sum(doubt(reading, None) is None for reading in other_length),
    )


def _together(name: str, rows: Sequence[Row]) -> Row:
    return Row(name, *(sum(numbers) for numbers in zip(*(row[1:] for row in rows), strict=True)))


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    head = ["kind", "plates", "exact in one view", "exact in several where unsure", "wrong length", "of these, given"]
    return blocks.table(head, [_cells(row) for row in rows])


def _cells(row: Row) -> list[str]:
    shares = [exact(count, row.total) for count in (row.once, row.exact)]
    lengths = [f"{100 * count / row.total:.1f} %" for count in (row.other_length, row.given)]
    return [row.name, str(row.total), *shares, *lengths]
