"""Reading: a crop of one plate to a text."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from model_builder import evaluate
from model_builder.plates.kinds import ALPHABET, GRAMMAR
from model_builder.tasks.base import Figures
from model_builder.train.data import Crops, development_set, validation_set
from service.artifact import Artifact, Reads, Tensor
from service.backends import Backend

_PROBE_PLATES = 8
_RENDERED = 8000  # of 2000, 0.3 points are six plates


class Reading:
    """The task of readers; examples are `Crops`."""

    verb: ClassVar = "reads"
    right: ClassVar = "exact"
    examples: ClassVar = "plates"
    any_size: ClassVar = False
    max_batch: ClassVar = 64

    def probe(self) -> Sequence[NDArray[np.uint8]]:
        return [validation_set(_PROBE_PLATES).images]

    def describe(self, outputs: Sequence[NDArray[np.float32]], **shared: Any) -> Reads:
        (images,), (logits,) = self.probe(), outputs
        return Reads(
            **shared,
            input=Tensor(
                dtype="uint8",
                shape=("N", *images.shape[1:]),
                description="BGR crop of one plate, resized; not normalized",
            ),
            output=Tensor(dtype="float32", shape=("N", *logits.shape[1:]), description="CTC logits, blank last"),
            alphabet=ALPHABET,
            blank=len(ALPHABET),
            grammar=GRAMMAR,
        )

    def sets(self, real: Sequence[Path], rendered: int | None, *taken: str) -> dict[str, Crops]:
        return evaluate.sets(real, rendered or _RENDERED, *taken)

    def development(self, count: int) -> NDArray[np.uint8]:
        return development_set(count).images

    def measure(self, artifact: Artifact, backend: Backend, examples: Crops) -> Figures:
        return Figures(evaluate.accuracy(artifact, backend, examples))


READING = Reading()
