"""Reliability of confidences: of the readings that are as sure, how many are exact. A table and a diagram."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from model_builder import evaluate
from model_builder.measure import blocks
from model_builder.measure.thresholds import Judged

EDGES: Final = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)  # of the bins of confidence


class Bin(NamedTuple):
    """Readings of similar confidence: how many, their mean confidence, and how many are exact."""

    low: float
    high: float
    total: int
    confidence: float
    exact: int


def bins(judged: Sequence[Judged]) -> Iterator[Bin]:
    """The readings of each bin that has any."""
    for low, high in itertools.pairwise(EDGES):
        within = [one for one in judged if low <= one.confidence < high or (one.confidence == high == 1)]
        if within:
            mean = sum(one.confidence for one in within) / len(within)
            yield Bin(low, high, len(within), mean, sum(one.exact for one in within))


def table(sets: dict[str, list[Judged]]) -> str:
    """Markdown: of the readings of each set and bin, how many, their mean confidence, and the share that is exact."""
    rows = []
    for name, judged in sets.items():
        for each in bins(judged):
            score = evaluate.wilson(each.exact, each.total)
            right = f"{100 * each.exact / each.total:.1f} % ({100 * score.low:.1f} to {100 * score.high:.1f})"
            rows.append(
                [name, f"{each.low:g} to {each.high:g}", str(each.total), f"{100 * each.confidence:.1f} %", right]
            )
    return blocks.table(["set", "confidence", "readings", "mean confidence", "exact, with 95 % interval"], rows)


def diagram(path: Path, sets: dict[str, list[Judged]]) -> None:
    """The same as a figure, SVG: the mean confidence of each bin across, the share that is exact upwards."""
    from model_builder.measure import figures  # it brings matplotlib

    points = {}
    for name, judged in sets.items():
        scores = [(each.confidence, evaluate.wilson(each.exact, each.total)) for each in bins(judged)]
        points[name] = [(sure, figures.Interval(s.low, s.exact / s.total, s.high)) for sure, s in scores]
    figures.reliability(path, points)
