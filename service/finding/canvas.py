"""Canvas of a finder: a photograph, scaled, laid on a grey image of the network's input size."""

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

FILL = 128  # grey around a photograph: 0 to the network


def fit(image: Pixels, size: tuple[int, int], longest: int | None = None) -> tuple[Pixels, float]:
    """A BGR image (H, W, 3) in the upper left of a canvas of `size` (height, width), the rest grey.

    The image is reduced until it fits and its longer side has at most `longest` pixels; areas are averaged. It is never
    enlarged. Also returns the scale: pixels of the canvas a pixel of the image.
    """
    height, width = image.shape[:2]
    scale = min(size[0] / height, size[1] / width, (longest or max(size)) / max(width, height), 1.0)
    wanted = max(1, min(round(width * scale), size[1])), max(1, min(round(height * scale), size[0]))
    if wanted != (width, height):
        image = np.asarray(cv2.resize(image, wanted, interpolation=cv2.INTER_AREA), np.uint8)
    canvas = np.full((*size, 3), FILL, np.uint8)
    canvas[: wanted[1], : wanted[0]] = image
    return canvas, scale
