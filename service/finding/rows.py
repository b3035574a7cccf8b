"""Plates of two rows: where the rows part, and the two set side by side for a network that reads one row."""

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from service.finding.warp import warped

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]

UPPER: Final = 0.4  # share of the columns that the upper row gets; most plates have fewer characters there
OVERLAP: Final = 0.02  # of the plate's height that both rows show, so that a wrong cut takes less away
_LOOK: Final = (64, 96)  # height and width in which the gap is looked for
_BETWEEN: Final = (0.26, 0.62)  # where it can be, in heights of the plate
_WINDOW: Final = 5  # rows over which edges are averaged


def joined(image: Pixels, corners: Floats, size: tuple[int, int], share: float = UPPER) -> Pixels:
    """The rows of the plate with these corners (4, 2) straight and side by side, (*size, 3).

    The upper row gets this share of the columns; with 1 or 0, the upper or the lower row is there alone.
    """
    height, width = size
    left = round(share * width)
    places = zip(parts(split(warped(image, corners, _LOOK))), (left, width - left), strict=True)
    return np.hstack([warped(image, part(corners, *row), (height, columns)) for row, columns in places if columns])


def split(plate: Pixels) -> float:
    """Where the rows of a straight plate (H, W, 3) part, in its heights: where there are the fewest upright edges."""
    grey = cv2.cvtColor(plate, cv2.COLOR_BGR2GRAY).astype(np.float32)
    margin = grey.shape[1] // 8
    edges = np.abs(np.diff(grey[:, margin:-margin], axis=1)).mean(1)
    smooth = np.convolve(edges, np.ones(_WINDOW) / _WINDOW, "same")
    first, last = (round(share * len(smooth)) for share in _BETWEEN)
    return float((first + smooth[first:last].argmin() + 0.5) / len(smooth))


def parts(cut: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """Top and bottom of the upper row, and of the lower one, in heights of a plate whose rows part at `cut`."""
    return (0.0, cut + OVERLAP), (cut - OVERLAP, 1.0)


def part(corners: Floats, top: float, bottom: float) -> Floats:
    """The corners (4, 2) of what lies between two shares of the height of a plate with these corners."""
    down = corners[[3, 2]] - corners[[0, 1]]
    return np.asarray(np.vstack([corners[:2] + top * down, (corners[:2] + bottom * down)[::-1]]), np.float32)
