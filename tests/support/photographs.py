"""Photographs with plates in known places, drawn from the page's examples."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

EXAMPLES = Path(__file__).resolve().parents[2] / "service" / "http" / "static" / "examples"
TEXTS = {"blue": "云JJ5X61", "green": "新NB88079", "yellow": "豫UU4ZPP"}
Pixels = NDArray[np.uint8]
Corners = list[tuple[float, float]]


def street(width: int = 1000, height: int = 700) -> Pixels:
    """A street without any plate: a sky, a road, and a house between."""
    image = np.empty((height, width, 3), np.uint8)
    image[:] = np.linspace(190, 90, height, dtype=np.uint8)[:, None, None]
    cv2.rectangle(image, (width // 10, height // 5), (width // 3, height // 2), (120, 140, 160), -1)
    return image


def with_plate(image: Pixels, name: str, corners: Corners) -> Pixels:
    """The image with a dark vehicle around an example plate at `corners`."""
    quad = np.array(corners, np.float32)
    center = quad.mean(0)
    vehicle = center + (quad - center) * [2.6, 5.0]
    scene = cv2.fillConvexPoly(image.copy(), vehicle.astype(np.int32), (60, 50, 45))
    plate = cv2.imread(str(EXAMPLES / f"{name}.jpg"))
    assert plate is not None
    height, width = plate.shape[:2]
    edge = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    matrix = cv2.getPerspectiveTransform(edge, quad)
    size = (scene.shape[1], scene.shape[0])
    mask = cv2.warpPerspective(np.full((height, width), 255, np.uint8), matrix, size)
    painted = cv2.warpPerspective(plate, matrix, size)
    return np.where(mask[..., None] > 127, painted, scene).astype(np.uint8)


def overlap(one: Corners, other: Corners) -> float:
    """Intersection over union of the upright boxes."""
    a, b = np.array(one), np.array(other)
    common = np.clip(np.minimum(a.max(0), b.max(0)) - np.maximum(a.min(0), b.min(0)), 0, None).prod()
    return float(common / (np.ptp(a, 0).prod() + np.ptp(b, 0).prod() - common))
