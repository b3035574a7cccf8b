"""A small finder and a small refiner, published."""

from pathlib import Path

import numpy as np
import torch

from model_builder import candidates, publish
from model_builder.networks.finder import Finder, Widths
from model_builder.networks.refiner import FORM, Refiner
from model_builder.networks.refiner import Widths as RefinerWidths
from model_builder.render.scene import Drawn, Scene
from model_builder.tasks import REFINING, Finding
from service.artifact import Origin
from service.finding.refine import CORNERS, HEATS, PLATE, rough_in_crop

SMALL = Widths(4, 4, (4,), (4,), (4,), (4,))
TASK = Finding("refiner", ((128, 256), (64, 96)))
QUAD = np.array([[40, 60], [120, 60], [120, 84], [40, 84]], float)


def publish_small(root: Path) -> Path:
    """Publish both below `root`, with random weights."""
    torch.manual_seed(1)
    refiner = Refiner(RefinerWidths((4,), (4,), (4,), (4,), (4,)))
    publish.publish(root, candidates.traced_candidate("refiner", refiner, FORM.size, Origin(seed=1), REFINING), {})
    publish.publish(root, small_finder(), {})
    return root


def small_finder() -> candidates.Candidate:
    """A candidate with random weights."""
    return candidates.traced_candidate("finder", Finder(SMALL), TASK.sizes[0], Origin(seed=1), TASK)


def moved(x: float, y: float) -> np.ndarray:
    """A plate elsewhere."""
    return QUAD + np.array([x, y])


def scene(*quads: np.ndarray, unsure: tuple[np.ndarray, ...] = ()) -> Scene:
    """A scene with plates in these places."""
    plates = tuple(Drawn(quad, 1, "blue", "cn-blue", False) for quad in quads)
    return Scene(np.zeros((128, 256, 3), np.uint8), plates, unsure)


def maps_of(answers: np.ndarray) -> np.ndarray:
    """A refiner's maps (N, rows, columns, channels) that answer this, (N, answers).

    A corner is shared by the four cells around it; it must lie at least half a cell from the edge of the crop.
    """
    (rows, columns), count = FORM.cells, len(answers)
    maps = np.full((count, rows, columns, FORM.channels), -40, np.float32)
    maps[..., HEATS:] = answers[:, None, None, PLATE:]
    places = answers[:, CORNERS].reshape(count, HEATS, 2) + rough_in_crop(FORM)
    for number, corners in enumerate(places * [columns, rows] - 0.5):
        for channel, (x, y) in enumerate(corners):
            left, top = np.floor((x, y)).astype(int).clip(0, (columns - 2, rows - 2))
            across, down = np.clip((x - left, y - top), 1e-9, 1 - 1e-9)
            shares = np.outer((1 - down, down), (1 - across, across))
            maps[number, top : top + 2, left : left + 2, channel] = np.log(shares)
    return maps
