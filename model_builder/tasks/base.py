"""What publishing has to know of a task: how its models are probed, described and measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from service.artifact import Artifact, Description, Score
from service.backends import Backend


@dataclass(frozen=True)
class Figures:
    """What was measured on one set of examples.

    `corner_error` is the median, over plates, of the largest distance of a corner, in widths of the plate;
    `false_alarms` are a scene. Both are None for a task that has none.
    """

    score: Score
    corner_error: float | None = None
    false_alarms: float | None = None


class Examples(Protocol):
    """A set of examples to measure on."""

    def digest(self) -> str:
        """What differs where the examples do."""


class Task(Protocol):
    """A task of models. Words for messages: `verb`, "reads" so many `examples`, "plates"; `right` are "exact"."""

    verb: ClassVar[str]
    right: ClassVar[str]
    examples: ClassVar[str]
    any_size: ClassVar[bool]  # whether models take images of any height and width
    max_batch: ClassVar[int]

    def probe(self) -> Sequence[NDArray[np.uint8]]:
        """Images uint8 (n, H, W, 3) for a probe, of each shape that models take."""

    def describe(self, outputs: Sequence[NDArray[np.float32]], **shared: Any) -> Description:
        """A model with these outputs for the images of `probe`; `shared` are the fields that every task has."""

    def sets(self, real: Sequence[Path], rendered: int | None, *taken: str) -> Mapping[str, Examples]:
        """Examples to measure on: "rendered", the first so many of the validation seeds (None: as many as tell enough),
        which no training draws; and the sets in the folders `real`, none called as `taken` are.

        Raises DataError.
        """

    def development(self, count: int) -> NDArray[np.uint8]:
        """Images uint8 (count, H, W, 3) of the development seeds, for calibration."""

    def calibrate(self, artifact: Artifact, backend: Backend, examples: Any) -> dict[str, Any]:
        """Fields of the manifest that make the answers of a model, loaded as `backend`, as probable as they say. They
        are fitted on rendered plates of the development seeds, as many as there are `examples`; none on too few."""

    def measure(self, artifact: Artifact, backend: Backend, examples: Any) -> Figures:
        """Figures of a model, loaded as `backend`, through the serving code."""
