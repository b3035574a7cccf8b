"""Training of the finder on rendered scenes: configuration, scenes, loop, score."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import IterableDataset, get_worker_info

from model_builder.networks.finder import Finder
from model_builder.render.scene import Scene, SceneRenderer
from model_builder.train.data import drawn
from model_builder.train.finder_targets import Targets, as_seen, losses, targets
from model_builder.train.fit import FitConfig, begun, fit
from model_builder.train.loop import Log
from service.finding.maps import decode

DEVELOPMENT_SEED = 1 << 34  # training draws from seed << 36 upwards, and never that many
# Canvases (width, height), batch after batch: mostly those on which a plate may fill the picture
CANVASES = ((320, 320), (384, 256), (320, 320), (256, 384), (320, 320), (640, 384), (320, 320), (384, 640))


@dataclass(frozen=True)
class FinderConfig(FitConfig):
    """Everything that decides a training of the finder, with the reason for each default."""

    steps: int = 12000  # 192,000 scenes
    batch_size: int = 16  # scenes of 320x320; of larger canvases as many as have the same area
    corners: float = 4.0  # weight of the corners' loss: at 1, its gradients are a tenth of the heat's
    development: int = 160  # rendered scenes that the log's figures are measured on


class FinderLog(Log):
    """Losses and what `score` tells, as CSV."""

    columns = ("step", "heat", "corners", "found", "corner_error", "false", "seconds")

    def write(self, step: int, *figures: float) -> None:
        self._append((step, *(f"{value:.4f}" for value in figures)))


Drawn = tuple[NDArray[np.uint8], Targets]  # scenes (n, H, W, 3) and their targets


class RenderedScenes(IterableDataset[Drawn]):
    """Endless batches of scenes. Batch number i is the same whatever worker draws it, so that a training that resumes
    at step i sees what it would have seen."""

    def __init__(
        self, config: FinderConfig, photographs: Sequence[Path], fonts: Sequence[Path], first_batch: int = 0
    ) -> None:
        self.config, self.photographs, self.fonts, self.first_batch = config, photographs, fonts, first_batch

    def __iter__(self) -> Iterator[Drawn]:
        cv2.setNumThreads(1)
        worker = get_worker_info()
        offset, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        renderer = SceneRenderer(self.photographs, self.fonts)
        number = self.first_batch + offset
        while True:
            yield self._batch(renderer, number)
            number += stride

    def _batch(self, renderer: SceneRenderer, number: int) -> Drawn:
        canvas = CANVASES[number % len(CANVASES)]
        count = round(self.config.batch_size * 320 * 320 / (canvas[0] * canvas[1]))
        first = (self.config.seed << 36) + number * self.config.batch_size
        return collate([renderer.scene(first + i, canvas) for i in range(count)])


def collate(scenes: Sequence[Scene]) -> Drawn:
    """Scenes of one size and their targets, stacked."""
    wanted = [targets(scene) for scene in scenes]
    images = np.stack([scene.image for scene in scenes])
    return images, Targets(*(np.stack(values) for values in zip(*wanted, strict=True)))


def train(
    folder: Path,
    config: FinderConfig,
    photographs: Sequence[Path] = (),
    fonts: Sequence[Path] = (),
    *,
    initial: Finder | None = None,
) -> Finder:
    """Train, or resume from the checkpoint in `folder`, and return the averaged network.

    Scenes are drawn on `photographs` where there are any, with the typefaces of the folders `fonts` beside those
    installed; `initial` gives the weights and the widths to start from. Writes `folder`/checkpoint.pt and log.csv.
    Raises ValueError when the checkpoint in `folder` was made with another configuration.
    """
    model = begun(lambda: Finder(initial.widths if initial else None), config.seed)
    if initial is not None:
        model.load_state_dict(initial.state_dict())
    device = next(model.parameters()).device
    renderer = SceneRenderer(photographs, fonts)
    development = [renderer.scene(DEVELOPMENT_SEED + i, (320, 320)) for i in range(config.development)]
    started = time.monotonic()

    def batches(first: int) -> Iterator[Drawn]:
        FinderLog(folder / "log.csv", first)
        return drawn(RenderedScenes(config, photographs, fonts, first), config.workers)

    def weighted(network: nn.Module, batch: Drawn) -> tuple[Tensor, Tensor]:
        images, wanted = batch
        heat, corners = losses(network(torch.from_numpy(images).to(device)), wanted)
        return heat, config.corners * corners

    def record(network: nn.Module, step: int, means: list[float]) -> str:
        figures = score(network, development)
        FinderLog(folder / "log.csv", step).write(step, *means, *figures, time.monotonic() - started)
        return f"heat {means[0]:.3f}, corners {means[1]:.3f}, found {100 * figures[0]:.1f} %"

    return fit(folder, config, model, batches, weighted, record)


@torch.inference_mode()
def score(model: nn.Module, scenes: Sequence[Scene]) -> tuple[float, float, float]:
    """On scenes of one size: the share of plates found, the median of the largest error of a corner in widths of the
    plate, and false alarms a scene."""
    device = next(model.parameters()).device
    found, plates, false, errors = 0, 0, 0, []
    model.eval()
    for scene in scenes:
        maps = model(torch.from_numpy(scene.image[None]).to(device))[0].cpu().numpy()
        seen = decode(maps)
        free = np.ones(len(seen.probabilities), bool)
        for plate in scene.plates:
            plates += 1
            overlaps = [overlap(corners, plate.corners) for corners in seen.corners]
            free &= np.array(overlaps) < 0.1 if overlaps else True
            if overlaps and max(overlaps) >= 0.5:
                found += 1
                best = seen.corners[int(np.argmax(overlaps))]
                width = np.hypot(*(plate.corners[1] - plate.corners[0]))
                errors.append(np.hypot(*(best - as_seen(plate.corners)).T).max() / width)
        for outline in scene.unsure:
            free &= np.array([overlap(corners, outline) < 0.1 for corners in seen.corners], bool)
        false += int(free.sum())
    return found / max(plates, 1), float(np.median(errors)) if errors else 1.0, false / max(len(scenes), 1)


def overlap(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Intersection over union of the upright boxes of two quads."""
    low, high = np.maximum(one.min(0), other.min(0)), np.minimum(one.max(0), other.max(0))
    common = float(np.clip(high - low, 0, None).prod())
    return common / max(float(np.ptp(one, 0).prod() + np.ptp(other, 0).prod()) - common, 1e-9)
