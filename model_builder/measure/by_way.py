"""How many plates of rendered scenes are read in a wrong number of rows, or upside down."""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np
from tqdm import tqdm

from model_builder.measure import blocks
from model_builder.render.scene import Drawn, Scene
from model_builder.tasks.finding import FOUND, Find
from model_builder.train.finder import overlap
from service.artifact import Artifact
from service.backends import Backend
from service.finding.refine import Refined, rectified
from service.reading.plates import likeliest
from service.reading.text import Reader

SMALLEST: Final = 40.0  # pixels of a plate's longer row, from which it may be legible


class Row(NamedTuple):
    """Of `total` plates that may be read in several ways of a kind: those read wrongly if the surest text counts, and
    those read wrongly by the odds, as the server reads."""

    name: str
    total: int
    surest: int
    odds: int


class _Judged(NamedTuple):
    rows: bool  # whether both numbers of rows were read
    turned: bool  # whether it was read upside down as well
    wrong: tuple[tuple[bool, bool], tuple[bool, bool]]  # rows, turn: by the surest text, by the odds


def measured(find: Find, reader: Artifact, backend: Backend, scenes: Iterable[Scene]) -> list[Row]:
    """A row for the number of rows, and one for standing upright. `backend` is the loaded `reader`."""
    texts, judged = Reader.of(reader.reader), []
    for scene in tqdm(scenes, unit="scene", leave=False, dynamic_ncols=True):
        for plate in find(scene.image):
            drawn = max(scene.plates, key=lambda one: overlap(one.corners, plate.corners), default=None)
            ways = plate.ways
            if drawn is None or len(ways) == 1 or plate.width < SMALLEST:
                continue
            if overlap(drawn.corners, plate.corners) < FOUND:
                continue
            logits = backend.infer(np.stack([rectified(scene.image, way, reader.reader.size) for way in ways]))
            readings = [texts.read(one) for one in logits]
            surest = max(range(len(ways)), key=lambda number: readings[number].confidence)
            judged.append(_judge(ways, drawn, (surest, likeliest(readings, ways))))
    return [
        _row("rows", [one.wrong for one in judged if one.rows], 0),
        _row("upside down", [one.wrong for one in judged if one.turned], 1),
    ]


def _judge(ways: Sequence[Refined], drawn: Drawn, chosen: tuple[int, int]) -> _Judged:
    wrong = [(ways[number].rows != drawn.rows, _is_turned(ways[number], drawn)) for number in chosen]
    return _Judged(
        len({way.rows for way in ways}) > 1, len({_is_turned(way, drawn) for way in ways}) > 1, (wrong[0], wrong[1])
    )


def _is_turned(way: Refined, drawn: Drawn) -> bool:
    """Whether its first corner is rather the plate's third one."""
    first, _, third, _ = (float(np.hypot(*(way.corners[0] - corner))) for corner in drawn.corners)
    return third < first


def _row(name: str, wrong: Sequence[tuple[tuple[bool, bool], tuple[bool, bool]]], which: int) -> Row:
    surest, odds = (sum(one[rule][which] for one in wrong) for rule in (0, 1))
    return Row(name, len(wrong), surest, odds)


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    head = ["read wrongly", "plates that may be", "if the surest text counts", "by the odds"]
    return blocks.table(head, [[row.name, str(row.total), str(row.surest), str(row.odds)] for row in rows])
