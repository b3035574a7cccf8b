"""Training data: plates that are rendered during training, and crops with their texts, such as those of a user."""

import hashlib
import random
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from model_builder.plates.kinds import ALPHABET, PLATES, Plate
from model_builder.render.plate import Renderer, batch

_INDEX = {character: index for index, character in enumerate(ALPHABET)}
VALIDATION_SEED = 1 << 35  # training draws from seed << 36 upwards, and never that many
DEVELOPMENT_SEED = 1 << 34
SHIPPED_SEED = 1 << 33  # of model_builder/plates-500


@dataclass(frozen=True)
class Batch:
    """Crops uint8 (n, 24, 94, 3) BGR; their texts' classes one after the other, int64; and each text's length.

    `taught` are a teacher's logits (n, steps, classes), where they are known already.
    """

    crops: Tensor
    targets: Tensor
    lengths: Tensor
    taught: Tensor | None = None


def encode(text: str) -> list[int]:
    """Class of each character; KeyError for one outside the alphabet."""
    return [_INDEX[character] for character in text]


def collate(crops: NDArray[np.uint8], texts: list[str]) -> Batch:
    """A batch of crops (n, 24, 94, 3) and their texts."""
    targets = torch.tensor([index for text in texts for index in encode(text)], dtype=torch.long)
    return Batch(torch.from_numpy(crops), targets, torch.tensor([len(text) for text in texts], dtype=torch.long))


Item = TypeVar("Item")
Drawn = tuple[NDArray[np.uint8], list[str]]  # crops (n, 24, 94, 3) and their texts


class RenderedPlates(IterableDataset[Drawn]):
    """Endless batches of rendered plates.

    Batch number i does not depend on the worker that draws it, so that a resumed training sees the same batches.
    """

    def __init__(
        self,
        seed: int,
        batch_size: int,
        first_batch: int = 0,
        drill: float = 0.0,
        *,
        hidden: float = 0.0,
        fonts: Sequence[Path] = (),
        plates: Sequence[Plate] = PLATES,
    ) -> None:
        self.seed, self.batch_size, self.first_batch, self.drill = seed, batch_size, first_batch, drill
        self.hidden, self.fonts, self.plates = hidden, fonts, plates

    def __iter__(self) -> Iterator[Drawn]:
        cv2.setNumThreads(1)
        worker = get_worker_info()
        offset, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        renderer = Renderer(folders=self.fonts, plates=self.plates)
        number = self.first_batch + offset
        while True:
            first = (self.seed << 36) + number * self.batch_size
            yield batch(renderer, first, self.batch_size, drill=self.drill, hidden=self.hidden)
            number += stride


def rendered_batches(
    seed: int,
    batch_size: int,
    first_batch: int,
    workers: int,
    drill: float = 0.0,
    *,
    hidden: float = 0.0,
    fonts: Sequence[Path] = (),
    plates: Sequence[Plate] = PLATES,
) -> Iterator[Batch]:
    """Batches `first_batch`, `first_batch` + 1, ... of the rendered plates of `seed`, drawn by `workers` processes.

    `fonts` are folders of typefaces beside those installed; `plates` are the kinds that are drawn, by their shares.
    `hidden` is the share of plates of which a part is not seen.
    """
    dataset = RenderedPlates(seed, batch_size, first_batch, drill, hidden=hidden, fonts=fonts, plates=plates)
    return (collate(crops, texts) for crops, texts in drawn(dataset, workers))


def drawn(dataset: IterableDataset[Item], workers: int) -> Iterator[Item]:
    """The items of the dataset in order, drawn by `workers` processes, or by this one if `workers` is 0.

    Workers send arrays, not tensors: a worker that is stopped while it sends a tensor may abort its parent.
    """
    if workers == 0:
        return iter(dataset)
    loader = DataLoader(
        dataset,
        batch_size=None,
        collate_fn=_as_drawn,
        num_workers=workers,
        prefetch_factor=6,
        # a forked worker would inherit locked locks of the threads of OpenCV and OpenMP, and hang
        multiprocessing_context="spawn",
        worker_init_fn=_undisturbed,
        # a generator of its own: a seed for the workers from the global one would change dropout after a resume
        generator=torch.Generator(),
    )
    return iter(loader)


def _undisturbed(number: int) -> None:
    """Ignore Ctrl-C, which a terminal sends to all processes: the parent ends this one when it needs no batch."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _as_drawn(drawn: Any) -> Any:
    return drawn


@dataclass(frozen=True)
class Crops:
    """Crops uint8 (n, 24, 94, 3) BGR with their texts."""

    images: NDArray[np.uint8]
    texts: list[str]

    def digest(self) -> str:
        """SHA-256 of these crops and texts."""
        return hashlib.sha256(self.images.tobytes() + "\n".join(self.texts).encode()).hexdigest()

    def batches(self, seed: int, batch_size: int, first_batch: int) -> Iterator[Batch]:
        """Endless batches of randomly chosen crops, each slightly shifted, scaled and changed in exposure."""
        number = first_batch
        while True:
            rng = random.Random(f"{seed} {number}")
            chosen = [rng.randrange(len(self.texts)) for _ in range(batch_size)]
            crops = np.stack([_augment(rng, self.images[index]) for index in chosen])
            yield collate(crops, [self.texts[index] for index in chosen])
            number += 1


def validation_set(count: int, plates: Sequence[Plate] = PLATES) -> Crops:
    """The first `count` rendered plates of the validation seeds, of the kinds `plates`. Training draws none of them."""
    images, texts = batch(Renderer(plates=plates), VALIDATION_SEED, count)
    return Crops(images, texts)


def development_set(count: int, plates: Sequence[Plate] = PLATES) -> Crops:
    """The first `count` rendered plates of the development seeds, of the kinds `plates`, for calibration and choices.

    Neither training nor validation draws these, so that the validation set stays unseen.
    """
    images, texts = batch(Renderer(plates=plates), DEVELOPMENT_SEED, count)
    return Crops(images, texts)


def _augment(rng: random.Random, crop: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = crop.shape[:2]
    scale_x, scale_y, shear = rng.uniform(0.95, 1.05), rng.uniform(0.9, 1.1), rng.gauss(0, 0.05)
    matrix = np.array(
        [
            [scale_x, shear, rng.gauss(0, 1) + (1 - scale_x) * width / 2 - shear * height / 2],
            [rng.gauss(0, 0.01), scale_y, rng.gauss(0, 0.7) + (1 - scale_y) * height / 2],
        ]
    )
    moved = cv2.warpAffine(crop, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    lit = moved.astype(np.float32) * rng.uniform(0.75, 1.25) + rng.gauss(0, 12)
    return np.asarray(np.clip(lit, 0, 255), np.uint8)
