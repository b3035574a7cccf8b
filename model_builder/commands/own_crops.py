"""A user's own crops for fine-tuning: some are held out, and read before and after the training."""

import random
from collections import Counter

import numpy as np

from model_builder import evaluate
from model_builder.train.data import Crops
from model_builder.train.labels import DataError
from service import artifact as contract
from service.artifact import Artifact, Score
from service.backends import load

HELD_OUT = "held-out"  # the set's name, and that of its folder among the training's files
FEWEST = 10  # crops; hundreds are worth the effort
_FEWEST_HELD_OUT = 2


def split(crops: Crops, share: float, seed: int) -> tuple[Crops, Crops]:
    """The crops to train on, and about a `share` of all to measure with; the same seed chooses the same.

    All crops of one text are on one side, so that no plate that was trained on is measured with. Raises DataError where
    there are too few crops or texts.
    """
    count = len(crops.texts)
    if count < FEWEST:
        raise DataError(
            f"there are {count} crops, too few to train on and to tell what it brought: give at least {FEWEST}, "
            "better some hundreds"
        )
    numbers = Counter(crops.texts)
    if len(numbers) == 1:
        raise DataError(f"all {count} crops show the same text: give crops of several plates")
    wanted, chosen, taken = max(_FEWEST_HELD_OUT, round(share * count)), set[str](), 0
    for text in random.Random(seed).sample(sorted(numbers), len(numbers)):
        if taken < wanted and taken + numbers[text] <= count // 2:
            chosen.add(text)
            taken += numbers[text]
    held = np.array([text in chosen for text in crops.texts])
    return _part(crops, ~held), _part(crops, held)


def _part(crops: Crops, which: "np.ndarray[tuple[int], np.dtype[np.bool_]]") -> Crops:
    return Crops(crops.images[which], [text for text, here in zip(crops.texts, which, strict=True) if here])


def read_by(artifact: Artifact, crops: Crops) -> Score:
    """What a published artifact reads of the crops, through the serving code."""
    backend = load(artifact)
    try:
        contract.check_probe(backend, artifact)
        return evaluate.accuracy(artifact, backend, crops)
    finally:
        backend.close()
