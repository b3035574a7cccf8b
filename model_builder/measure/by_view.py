"""Readings of rendered plates in one view, and in several where that is unsure, as the server reads."""

import math
import random
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from model_builder import evaluate
from model_builder.measure import blocks
from model_builder.plates.kinds import PLATES, Plate
from model_builder.render.plate import Renderer
from model_builder.train.data import DEVELOPMENT_SEED
from service.artifact import Artifact, Looks
from service.artifact.grammar import MISJUDGED, SPREAD
from service.backends import Backend
from service.finding.refine import Form
from service.finding.views import FURTHER, ROWS, SURE
from service.reading.text import Reader, Reading

_FIRST = DEVELOPMENT_SEED + 1_000_000  # apart from the plates that training is watched by
VIEWS = 1 + len(FURTHER)  # and two more where there are two rows
_TWO_ROWS = {plate.name: plate.rows == 2 for plate in PLATES}


class Read(NamedTuple):
    """A rendered plate: its text, what is read in one view, and what the server reads: in several if that is unsure."""

    text: str
    once: Reading
    several: Reading


class Looker:
    """Renders plates, and reads them with a model that is loaded as `backend`."""

    def __init__(self, artifact: Artifact, backend: Backend) -> None:
        self._reader, self._backend, self._renderer = Reader.of(artifact.reader), backend, Renderer()
        self._kinds = {kind.name: kind for format in artifact.reader.grammar.formats for kind in format.kinds}

    def read(self, seed: int, kind: Plate | None = None) -> Read:
        """The plate of this seed, of a kind drawn by its share or of the one given. As with photographs, its rows,
        its colour and its shape are known, the last two with the errors that a refiner makes."""
        first = self._renderer.sample(seed, kind)
        two_rows = kind.rows == 2 if kind else _TWO_ROWS[first.kind]
        wanted = (*FURTHER, *ROWS) if two_rows else FURTHER
        further = [self._renderer.sample(seed, kind, view=view) for view in wanted]
        logits = self._backend.infer(np.stack([sample.image for sample in (first, *further)]))
        looks = self._looks(seed, first.kind)
        once = self._reader.read(logits[0], looks=looks)
        if once.confidence >= SURE:
            return Read(first.text, once, once)
        rows = logits[VIEWS:] if two_rows else None
        return Read(first.text, once, self._reader.read(logits[:VIEWS], looks=looks, rows=rows))

    def _looks(self, seed: int, name: str) -> Looks | None:
        """Those of a plate of this kind; None where the model does not know it."""
        if (kind := self._kinds.get(name)) is None:
            return None
        rng, aspect = random.Random(seed), None
        if kind.aspect:
            aspect = math.exp(rng.gauss(rng.uniform(*map(math.log, kind.aspect)), SPREAD))
        colours = Form().colours if rng.random() < MISJUDGED else kind.colours
        return Looks(kind.rows, rng.choice(colours), aspect)


class Row(NamedTuple):
    """Of `total` plates, those read exactly in so many `views`, and those that were looked at again."""

    views: int
    total: int
    exact: int
    again: int


def measured(artifact: Artifact, backend: Backend, count: int) -> list[Row]:
    """A row of one view, and one of several, of `count` plates of development seeds."""
    looker = Looker(artifact, backend)
    seeds = tqdm(range(_FIRST, _FIRST + count), artifact.manifest.variant, unit="plate", leave=False)
    read = [looker.read(seed) for seed in seeds]
    return [
        Row(1, count, sum(one.once.text == one.text for one in read), 0),
        Row(
            VIEWS,
            count,
            sum(one.several.text == one.text for one in read),
            sum(one.once.confidence < SURE for one in read),
        ),
    ]


def table(rows: list[Row]) -> str:
    """Markdown."""
    head = ["views", "plates", "exact, with 95 % interval", "looked at again"]
    return blocks.table(head, [_cells(row) for row in rows])


def exact(count: int, total: int) -> str:
    """The cell of a table for so many exact ones: the share and its 95 % interval."""
    score = evaluate.wilson(count, total)
    return f"{100 * count / total:.1f} % ({100 * score.low:.1f} to {100 * score.high:.1f})"


def _cells(row: Row) -> list[str]:
    return [
        str(row.views),
        f"{row.total:,}",
        exact(row.exact, row.total),
        f"{100 * row.again / row.total:.1f} %",
    ]
