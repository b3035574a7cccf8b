"""Reading: a crop of one plate to a text."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from model_builder import calibrate, evaluate
from model_builder.plates.kinds import ALPHABET, GRAMMAR, PLATES, Plate
from model_builder.tasks.base import Figures
from model_builder.train.data import Crops, development_set, validation_set
from service.artifact import Artifact, Grammar, Reads, Tensor
from service.backends import Backend

_PROBE_PLATES = 8
_ENOUGH, _CALIBRATION = 500, 3000  # least and most plates to calibrate with
_RENDERED = 8000  # of 2000, 0.3 points are six plates


@dataclass(frozen=True)
class Reading:
    """The task of readers; examples are `Crops`. A model says that it knows this grammar, and this alphabet if it has
    as many classes, else today's."""

    grammar: Grammar = GRAMMAR
    alphabet: str = ALPHABET

    verb: ClassVar = "reads"
    right: ClassVar = "exact"
    examples: ClassVar = "plates"
    any_size: ClassVar = False
    max_batch: ClassVar = 64

    @property
    def plates(self) -> Sequence[Plate]:
        """The kinds whose texts the grammar has: on others, a reader of one country would count as wrong. All kinds
        where it has the texts of none."""
        names = {form.name for form in self.grammar.formats}
        return tuple(plate for plate in PLATES if (plate.family or plate.name) in names) or PLATES

    def probe(self) -> Sequence[NDArray[np.uint8]]:
        return [validation_set(_PROBE_PLATES).images]

    def describe(self, outputs: Sequence[NDArray[np.float32]], **shared: Any) -> Reads:
        (images,), (logits,) = self.probe(), outputs
        alphabet = self.alphabet if logits.shape[-1] == len(self.alphabet) + 1 else ALPHABET
        return Reads(
            **shared,
            input=Tensor(
                dtype="uint8",
                shape=("N", *images.shape[1:]),
                description="BGR crop of one plate, resized; not normalized",
            ),
            output=Tensor(dtype="float32", shape=("N", *logits.shape[1:]), description="CTC logits, blank last"),
            alphabet=alphabet,
            blank=len(alphabet),
            grammar=self.grammar,
        )

    def sets(self, real: Sequence[Path], rendered: int | None, *taken: str) -> dict[str, Crops]:
        return evaluate.sets(real, rendered or _RENDERED, *taken, plates=self.plates)

    def development(self, count: int) -> NDArray[np.uint8]:
        return development_set(count, self.plates).images

    def measure(self, artifact: Artifact, backend: Backend, examples: Crops) -> Figures:
        return Figures(evaluate.accuracy(artifact, backend, examples))

    def calibrate(self, artifact: Artifact, backend: Backend, examples: Crops | None) -> dict[str, Any]:
        count = len(examples.texts) if examples else 0
        if count < _ENOUGH:
            return {}
        crops = development_set(min(count, _CALIBRATION), self.plates)
        return {"temperature": calibrate.temperature(artifact, backend, crops)}


READING = Reading()
