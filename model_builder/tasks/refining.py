"""Refining: the crop around a found plate to its exact corners, and to what it is."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from model_builder import evaluate
from model_builder.networks.refiner import FORM
from model_builder.render.scene import SceneRenderer
from model_builder.tasks.base import Figures
from model_builder.train.data import DEVELOPMENT_SEED, VALIDATION_SEED
from model_builder.train.labels import DataError
from model_builder.train.refiner import Batch, collate, crops
from service.artifact import Artifact, Refines, Tensor
from service.backends import Backend
from service.finding.refine import CORNERS, PLATE, answers

_PROBE_CROPS: Final = 8
_RENDERED: Final = 4000
_PROBE_SEED: Final = VALIDATION_SEED - 100


class Refining:
    """The task of refiners; examples are a `Batch` of crops."""

    verb: ClassVar = "tells"
    right: ClassVar = "right"
    examples: ClassVar = "crops"
    any_size: ClassVar = False
    max_batch: ClassVar = 64

    def probe(self) -> Sequence[NDArray[np.uint8]]:
        return [np.stack([sample.crop for sample in crops(SceneRenderer(), _PROBE_SEED, _PROBE_CROPS, None)])]

    def describe(self, outputs: Sequence[NDArray[np.float32]], **shared: Any) -> Refines:
        return Refines(
            **shared,
            input=Tensor(dtype="uint8", shape=("N", *FORM.size, 3), description="BGR crop around a found plate"),
            output=Tensor(
                dtype="float32",
                shape=("N", *FORM.cells, FORM.channels),
                description="maps, as service.finding.refine has them",
            ),
            around=FORM.around,
            colours=FORM.colours,
        )

    def sets(self, real: Sequence[Path], rendered: int | None, *taken: str) -> dict[str, Batch]:
        if real:
            raise DataError(f"{real[0]}: a refiner is measured on rendered crops alone; give --real to its finder")
        return {"rendered": collate(crops(SceneRenderer(), VALIDATION_SEED, rendered or _RENDERED, None))}

    def development(self, count: int) -> NDArray[np.uint8]:
        return collate(crops(SceneRenderer(), DEVELOPMENT_SEED, count, None)).crops

    def calibrate(self, artifact: Artifact, backend: Backend, examples: Any) -> dict[str, Any]:
        return {}

    def measure(self, artifact: Artifact, backend: Backend, examples: Batch) -> Figures:
        """The share of crops that are rightly told to show a plate or none, and the error of plates' corners."""
        found = answers(backend.infer(examples.crops), FORM)
        real = examples.plate == 1
        right = (found[:, PLATE] > 0) == real
        off = (found[real, CORNERS] - examples.corners[real]).reshape(-1, 4, 2)
        # From widths and heights of the crop to widths of the plate, as it is found.
        height = FORM.around[0] * FORM.size[0] / FORM.size[1]
        errors = np.hypot(off[..., 0] * FORM.around[0], off[..., 1] * height).max(1)
        error = round(float(np.median(errors)), 4) if len(errors) else None
        return Figures(evaluate.wilson(int(right.sum()), len(right)), error)


REFINING = Refining()
