"""Readings of rendered plates in one view, and in several where that is unsure, as the server reads photographs."""

from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from model_builder import evaluate
from model_builder.measure import blocks
from model_builder.render.plate import Renderer
from model_builder.train.data import DEVELOPMENT_SEED
from service.artifact import Artifact
from service.backends import Backend
from service.finding.views import SHIFTS, SURE
from service.reading.text import Reader

_FIRST = DEVELOPMENT_SEED + 1_000_000  # apart from the plates that training is watched by


class Row(NamedTuple):
    """Of `total` plates, those read exactly in so many `views`, and those that were looked at again."""

    views: int
    total: int
    exact: int
    again: int


def measured(artifact: Artifact, backend: Backend, count: int) -> list[Row]:
    """A row of one view, and one of several, of `count` plates of development seeds."""
    reader, renderer = Reader.of(artifact.reader), Renderer()
    once = several = again = 0
    for seed in tqdm(range(_FIRST, _FIRST + count), artifact.manifest.variant, unit="plate", leave=False):
        samples = [renderer.sample(seed, shift=shift) for shift in ((0.0, 0.0), *SHIFTS)]
        logits, text = backend.infer(np.stack([sample.image for sample in samples])), samples[0].text
        reading = reader.read(logits[0])
        once += reading.text == text
        if reading.confidence < SURE:
            again += 1
            reading = reader.read(logits)
        several += reading.text == text
    return [Row(1, count, once, 0), Row(1 + len(SHIFTS), count, several, again)]


def table(rows: list[Row]) -> str:
    """Markdown."""
    head = ["views", "plates", "exact, with 95 % interval", "looked at again"]
    return blocks.table(head, [_cells(row) for row in rows])


def _cells(row: Row) -> list[str]:
    score = evaluate.wilson(row.exact, row.total)
    share = f"{100 * row.exact / row.total:.1f} % ({100 * score.low:.1f} to {100 * score.high:.1f})"
    return [str(row.views), f"{row.total:,}", share, f"{100 * row.again / row.total:.1f} %"]
