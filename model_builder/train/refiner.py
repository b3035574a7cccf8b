"""Training of the refiner on crops of rendered scenes: configuration, batches, losses, score."""

import hashlib
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import IterableDataset, get_worker_info

from model_builder.networks.refiner import FORM, Refiner
from model_builder.render.scene import SceneRenderer
from model_builder.train.data import drawn
from model_builder.train.finder import DEVELOPMENT_SEED
from model_builder.train.fit import FitConfig, begun, fit
from model_builder.train.loop import Log
from model_builder.train.refiner_samples import Find, Sample, samples
from service.finding.maps import Plates, decode
from service.finding.refine import COLOUR, CORNERS, CUT, HEATS, PLATE, ROWS, TURNS, centers, rough_in_crop

CANVASES = ((320, 320), (384, 256), (256, 384), (480, 320))  # width, height of the scenes
_SCENES = 1 << 12  # seeds of a batch: more than it takes scenes
_BETA = 0.01  # of smooth L1, in widths and heights of the crop: half a pixel
_SPREAD = 0.8  # standard deviation, in cells, of the heat that is asked for around a corner
_FOUND = 0.15  # probability of the finder above which its answers are samples


@dataclass(frozen=True)
class RefinerConfig(FitConfig):
    """Everything that decides a training of the refiner."""

    steps: int = 8000
    batch_size: int = 128  # crops
    development: int = 1500  # crops that the log's figures are measured on


class RefinerLog(Log):
    """Losses and what `score` tells, as CSV."""

    columns = (
        "step",
        "corners",
        "heat",
        "plate",
        "turns",
        "rest",
        "corner_error",
        "plates",
        "upright",
        "rows",
        "colours",
        "seconds",
    )

    def write(self, step: int, *figures: float) -> None:
        self._append((step, *(f"{value:.4f}" for value in figures)))


class Batch(NamedTuple):
    """Samples, stacked."""

    crops: NDArray[np.uint8]
    corners: NDArray[np.float32]
    plate: NDArray[np.int64]
    turns: NDArray[np.int64]
    rows: NDArray[np.int64]
    cut: NDArray[np.int64]
    colour: NDArray[np.int64]

    def digest(self) -> str:
        """SHA-256 of the crops and of what is to be answered."""
        return hashlib.sha256(b"".join(values.tobytes() for values in self)).hexdigest()


class RenderedCrops(IterableDataset[Batch]):
    """Endless batches. Batch number i is the same whatever worker draws it."""

    def __init__(
        self,
        config: RefinerConfig,
        photographs: Sequence[Path],
        fonts: Sequence[Path],
        finder: nn.Module | None = None,
        first_batch: int = 0,
    ) -> None:
        self.config, self.photographs, self.fonts = config, photographs, fonts
        self.finder, self.first_batch = finder, first_batch

    def __iter__(self) -> Iterator[Batch]:
        cv2.setNumThreads(1)
        torch.set_num_threads(1)
        worker = get_worker_info()
        offset, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        renderer = SceneRenderer(self.photographs, self.fonts)
        find = found_by(self.finder) if self.finder else None
        number = self.first_batch + offset
        while True:
            first = (self.config.seed << 36) + (1 << 35) + number * _SCENES
            yield collate(crops(renderer, first, self.config.batch_size, find))
            number += stride


def crops(renderer: SceneRenderer, first: int, count: int, find: Find | None) -> list[Sample]:
    """`count` samples of the scenes with seeds from `first` on."""
    found: list[Sample] = []
    seed = first
    while len(found) < count:
        scene = renderer.scene(seed, CANVASES[seed % len(CANVASES)])
        found += samples(random.Random(seed), scene, find)
        seed += 1
    return found[:count]


def collate(found: Sequence[Sample]) -> Batch:
    """Samples as arrays."""
    first, second, *rest = zip(*found, strict=True)
    return Batch(np.stack(first), np.stack(second), *(np.array(values, np.int64) for values in rest))


def found_by(finder: nn.Module) -> Find:
    """What the finder finds in a BGR image whose sides are multiples of 32."""
    finder = finder.eval()

    @torch.inference_mode()
    def find(image: NDArray[np.uint8]) -> Plates:
        return decode(finder(torch.from_numpy(image[None]))[0].numpy(), _FOUND)

    return find


def train(
    folder: Path,
    config: RefinerConfig,
    photographs: Sequence[Path] = (),
    fonts: Sequence[Path] = (),
    *,
    finder: nn.Module | None = None,
    initial: Refiner | None = None,
) -> Refiner:
    """Train, or resume from the checkpoint in `folder`, and return the averaged network.

    Scenes are drawn as for the finder. What `finder` finds in them, right or wrong, is learned beside rough quads that
    are drawn at random. `initial` gives the weights and widths to start from. Writes `folder`/checkpoint.pt and
    log.csv. Raises ValueError when the checkpoint in `folder` was made with another configuration.
    """
    model = begun(lambda: Refiner(initial.widths if initial else None), config.seed)
    if initial is not None:
        model.load_state_dict(initial.state_dict())
    find = found_by(finder) if finder else None
    development = collate(crops(SceneRenderer(photographs, fonts), DEVELOPMENT_SEED, config.development, find))
    started = time.monotonic()

    def batches(first: int) -> Iterator[Batch]:
        RefinerLog(folder / "log.csv", first)
        return drawn(RenderedCrops(config, photographs, fonts, finder, first), config.workers)

    def record(network: nn.Module, step: int, means: list[float]) -> str:
        figures = score(network, development)
        RefinerLog(folder / "log.csv", step).write(step, *means, *figures, time.monotonic() - started)
        return f"corners {figures[0]:.4f}, plates {100 * figures[1]:.1f} %, upright {100 * figures[2]:.1f} %"

    return fit(folder, config, model, batches, losses, record)


def losses(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Losses of corners, of their heat maps, of being a plate, of turns, and of all else; each weighted as it is to
    count."""
    device = next(model.parameters()).device
    found, corners, plate, turns, rows, cut, colour = (torch.as_tensor(values, device=device) for values in batch)
    maps = model(found).float()
    real = plate == 1
    answers = answered(maps)
    answer, count = answers[real], real.sum().clamp(min=1)
    corner = functional.smooth_l1_loss(answer[:, CORNERS], corners[real], beta=_BETA, reduction="sum") / (8 * count)
    heat = _heat(maps[real, ..., :HEATS], corners[real]) / (HEATS * count)
    is_plate = functional.binary_cross_entropy_with_logits(answers[:, PLATE], plate.float())
    turn = functional.cross_entropy(answer[:, TURNS], turns[real], reduction="sum")
    rest = (
        functional.binary_cross_entropy_with_logits(answer[:, ROWS], rows[real].float(), reduction="sum")
        + functional.binary_cross_entropy_with_logits(answer[:, CUT], cut[real].float(), reduction="sum")
        + functional.cross_entropy(answer[:, COLOUR:], colour[real], reduction="sum")
    )
    return 30 * corner, 0.2 * heat, is_plate, 0.3 * turn / count, 0.3 * rest / count


def answered(maps: Tensor) -> Tensor:
    """`service.finding.refine.answers` of tensors."""
    shares = maps[..., :HEATS].flatten(1, 2).softmax(1)
    places = shares.transpose(1, 2) @ _cells(maps) - torch.as_tensor(rough_in_crop(FORM), device=maps.device)
    return torch.cat([places.flatten(1), maps[..., HEATS:].mean((1, 2))], 1)


def _heat(heats: Tensor, corners: Tensor) -> Tensor:
    """The divergence of heat maps from normal distributions around the corners, of those that lie in the crop."""
    places = corners.view(-1, 1, 4, 2) + torch.as_tensor(rough_in_crop(FORM), device=heats.device)
    rows, columns = FORM.cells
    off = (_cells(heats)[:, None] - places) * torch.tensor([columns, rows], device=heats.device) / _SPREAD
    asked = (-off.square().sum(-1) / 2).log_softmax(1)
    inside = ((places > 0) & (places < 1)).all(-1).squeeze(1)
    told = heats.flatten(1, 2).log_softmax(1)
    found: Tensor = ((asked.exp() * (asked - told)).sum(1) * inside).sum()
    return found


def _cells(like: Tensor) -> Tensor:
    return torch.as_tensor(centers(FORM), device=like.device)


@torch.inference_mode()
def score(model: nn.Module, batch: Batch) -> tuple[float, ...]:
    """The median of the largest error of a corner (widths of the crop), and shares that are right: plate or not; turns;
    rows; colours."""
    device = next(model.parameters()).device
    answers = answered(model.eval()(torch.as_tensor(batch.crops, device=device)).float()).cpu().numpy()
    real = batch.plate == 1
    error: Any = np.abs(answers[real, CORNERS] - batch.corners[real]).reshape(-1, 4, 2) * [1.0, 0.5]
    right = (
        (answers[:, PLATE] > 0) == real,
        answers[real, TURNS].argmax(1) == batch.turns[real],
        (answers[real, ROWS] > 0) == batch.rows[real],
        answers[real, COLOUR:].argmax(1) == batch.colour[real],
    )
    return float(np.median(error.max((1, 2)))), *(float(values.mean()) for values in right)
