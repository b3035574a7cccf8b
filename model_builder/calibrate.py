"""Calibration: the temperature of a reader that makes its confidences true on rendered plates."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from model_builder.train.data import Crops
from service.artifact import Artifact, Reads
from service.backends import Backend
from service.reading import geometry
from service.reading.text import Reader

_LEAST, _MOST, _STEPS = 1.0, 3.0, 7  # none under 1: a plate with a hidden character would be read surely
_SURE: Final = 1e-4  # no reading counts as surer, so that one plate that is not legible doesn't decide


def temperature(artifact: Artifact, backend: Backend, crops: Crops) -> float:
    """What the logits of a model, loaded as `backend`, are to be divided by: the temperature under which it is most
    probable, by their confidences, that the readings of `crops` are exact or not as they are (Guo et al. 2017, arXiv
    1706.04599). It is looked for between 1 and 3, then around the best.
    """
    model = artifact.reader
    logits = [backend.infer(geometry.prepare(image, model.size)[None])[0] for image in crops.images]
    best, low, high = 1.0, _LEAST, _MOST
    for _ in range(2):
        tried = np.geomspace(low, high, _STEPS).tolist()
        losses = [_loss(model, logits, crops.texts, each) for each in tried]
        place = int(np.argmin(losses))
        best, low, high = tried[place], tried[max(place - 1, 0)], tried[min(place + 1, _STEPS - 1)]
    return round(best, 3)


def _loss(model: Reads, logits: Sequence[NDArray[np.float32]], texts: Sequence[str], temperature: float) -> float:
    """Mean negative logarithm of the probability that the readings are exact or not as they are."""
    reader = Reader(model.alphabet, model.blank, model.grammar, temperature)
    readings = [reader.read(each) for each in logits]
    sure = np.clip([reading.confidence for reading in readings], _SURE, 1 - _SURE)
    exact = np.array([reading.text == text for reading, text in zip(readings, texts, strict=True)])
    return float(-np.log(np.where(exact, sure, 1 - sure)).mean())
