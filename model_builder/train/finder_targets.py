"""What the finder is to answer for a scene, and the loss of its answer."""

from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from model_builder.render.scene import Scene
from service.finding.maps import STRIDE

Floats = NDArray[np.float32]

LEARNED = 0.4  # corners are learned where the heat is above
_ALONG, _ACROSS, _LEAST = 0.12, 0.22, 0.6  # deviation of the heat: shares of the plate's width and height; cells
_BETA = (
    0.3  # heights of the plate; smooth L1 is quadratic below, so that plates taken for turned otherwise pull hardest
)


class Targets(NamedTuple):
    """For each cell (H, W): `heat`, 1 where a plate's centre lies; `weight` 0 where an answer counts neither way;
    `corners` (H, W, 8) in cells from the cell's centre; `height` of the plate in cells, 0 where none is learned."""

    heat: Floats
    weight: Floats
    corners: Floats
    height: Floats


def targets(scene: Scene) -> Targets:
    """The targets of a scene, float32, with one cell a STRIDE pixels."""
    rows, columns = scene.image.shape[0] // STRIDE, scene.image.shape[1] // STRIDE
    x, y = np.meshgrid(np.arange(columns) + 0.5, np.arange(rows) + 0.5)
    cells = np.stack((x, y), 2)
    heat, weight = np.zeros((rows, columns)), np.ones((rows, columns), np.float32)
    corners, height = np.zeros((rows, columns, 8)), np.zeros((rows, columns))
    for plate in scene.plates:
        quad = plate.corners / STRIDE
        own = _heat(cells, quad)
        quad = as_seen(quad)
        learned = (own > LEARNED) & (own > heat)
        corners[learned] = (quad[None] - cells[learned][:, None]).reshape(-1, 8)
        height[learned] = _sides(quad)[1]
        np.maximum(heat, own, out=heat)
    for quad in scene.unsure:
        cv2.fillConvexPoly(weight, np.round(quad / STRIDE - 0.5).astype(np.int32), 0.0)
    weight[heat > LEARNED] = 1
    return Targets(*(values.astype(np.float32) for values in (heat, weight, corners, height)))


def as_seen(quad: NDArray[Any]) -> NDArray[Any]:
    """The corners (4, 2) in the order that the finder answers: from the left end of the plate as it lies in the image.

    A plate that stands on its head keeps its outline, and only its letters tell; the refiner reads those. So the finder
    answers directions of -45 to 135 degrees, and a plate of any other as if it were turned by 180.
    """
    row = quad[1] + quad[2] - quad[0] - quad[3]
    return quad if row[0] + row[1] >= 0 else np.roll(quad, 2, axis=0)


def _sides(quad: NDArray[np.float64]) -> tuple[float, float]:
    """Length of a quad's mean row and mean upright."""
    row, upright = (quad[1] + quad[2] - quad[0] - quad[3]) / 2, (quad[2] + quad[3] - quad[0] - quad[1]) / 2
    return max(float(np.hypot(*row)), 1e-3), max(float(np.hypot(*upright)), 1e-3)


def _heat(cells: NDArray[np.float64], quad: NDArray[np.float64]) -> NDArray[np.float64]:
    """A Gaussian (H, W) around the plate's centre, stretched as the plate is; exactly 1 in the centre's cell."""
    center = quad.mean(0)
    width, height = _sides(quad)
    row = (quad[1] + quad[2] - quad[0] - quad[3]) / 2 / width
    across = np.array([-row[1], row[0]])
    away = cells - center
    along_sigma, across_sigma = max(_ALONG * width, _LEAST), max(_ACROSS * height, _LEAST)
    heat = np.exp(-0.5 * (((away @ row) / along_sigma) ** 2 + ((away @ across) / across_sigma) ** 2))
    at = np.clip(center.astype(int), 0, np.array(heat.shape)[::-1] - 1)
    heat[at[1], at[0]] = 1
    return np.asarray(heat)


def losses(maps: Tensor, wanted: "Targets | tuple[Tensor, ...]") -> tuple[Tensor, Tensor]:
    """Loss of the heat and of the corners of maps (N, H, W, CHANNELS), each a mean over plates.

    The first is the penalty-reduced focal loss (Law and Deng, arXiv 1808.01244), the second smooth L1 in heights of the
    plate, so that a small plate's corners weigh as much as a large one's.
    """
    heat, weight, corners, height = (torch.as_tensor(values, device=maps.device) for values in wanted)
    logits = maps[..., 0].float()
    probability = logits.sigmoid()
    plates = heat == 1
    found = functional.logsigmoid(logits) * (1 - probability) ** 2 * plates
    none = functional.logsigmoid(-logits) * probability**2 * (1 - heat) ** 4 * weight
    heat_loss = -(found + none).sum() / plates.sum().clamp(min=1)
    learned = height > 0
    error = (maps[..., 1:].float() - corners)[learned] / (height[learned] + 0.5)[:, None]
    weights = heat[learned][:, None]
    corner_loss = functional.smooth_l1_loss(error * weights, torch.zeros_like(error), beta=_BETA, reduction="sum")
    return heat_loss, corner_loss / (8 * weights.sum()).clamp(min=1)
