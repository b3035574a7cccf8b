"""Readings of each kind of plate: how many rendered ones of it are exact, and how many have a wrong length."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from model_builder import evaluate
from model_builder.measure import blocks
from model_builder.plates.kinds import PLATES, Plate
from model_builder.render.plate import Renderer
from model_builder.train.data import VALIDATION_SEED, Crops
from service.artifact import Artifact
from service.backends import Backend


class Row(NamedTuple):
    """Of `total` plates of a kind, or of several, those read exactly, and those read with more or fewer characters."""

    name: str
    total: int
    exact: int
    other_length: int


def measured(artifact: Artifact, backend: Backend, count: int, plates: Sequence[Plate] = PLATES) -> Iterator[Row]:
    """A row for each kind, of `count` plates of the validation seeds; then one for all with two rows, and one for all.

    The model is loaded as `backend`, and read through the serving code.
    """
    rows, two = [], []
    renderer = Renderer()
    for plate in plates:
        samples = [renderer.sample(VALIDATION_SEED + number, plate) for number in range(count)]
        crops = Crops(np.stack([sample.image for sample in samples]), [sample.text for sample in samples])
        read = [reading.text for reading in evaluate.readings(artifact, backend, crops)]
        pairs = list(zip(read, crops.texts, strict=True))
        lengths = sum(len(text) != len(true) for text, true in pairs)
        row = Row(plate.name, count, sum(text == true for text, true in pairs), lengths)
        rows.append(row)
        if plate.rows == 2:
            two.append(row)
        yield row
    if two:
        yield _together("all of two rows", two)
    yield _together("all", rows)


def _together(name: str, rows: Sequence[Row]) -> Row:
    return Row(name, *(sum(numbers) for numbers in zip(*(row[1:] for row in rows), strict=True)))


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    head = ["kind", "plates", "exact, with 95 % interval", "wrong length"]
    return blocks.table(head, [_cells(row) for row in rows])


def _cells(row: Row) -> list[str]:
    score = evaluate.wilson(row.exact, row.total)
    exact = f"{100 * row.exact / row.total:.1f} % ({100 * score.low:.1f} to {100 * score.high:.1f})"
    return [row.name, str(row.total), exact, f"{100 * row.other_length / row.total:.1f} %"]
