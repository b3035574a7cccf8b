"""Perspective: a quad of an image straightened to a rectangle."""

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from service.finding.canvas import FILL

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]

_FINEST: Final = 8  # samples along a side of a pixel, at most, that are averaged


def warped(image: Pixels, corners: Floats, size: tuple[int, int]) -> Pixels:
    """The quad of an image straightened to (*size, 3), size being height and width.

    Where the quad is larger than that, each pixel is the mean of as many samples as it takes.
    """
    height, width = size
    sides = np.hypot(*(np.roll(corners, -1, 0) - corners).T)
    shrinks = max(sides[0] / width, sides[2] / width, sides[1] / height, sides[3] / height)
    finer = int(np.clip(np.ceil(shrinks), 1, _FINEST))
    matrix = cv2.getPerspectiveTransform(
        corners.astype(np.float32) - np.float32(0.5), frame(size) * finer - np.float32(0.5)
    )
    fine = cv2.warpPerspective(
        image, matrix, (width * finer, height * finer), borderMode=cv2.BORDER_CONSTANT, borderValue=(FILL, FILL, FILL)
    )
    if finer > 1:
        fine = cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(fine, np.uint8)


def frame(size: tuple[int, int]) -> Floats:
    """The corners (4, 2) of a rectangle of this height and width."""
    height, width = size
    return np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
