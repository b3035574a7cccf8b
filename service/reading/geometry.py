"""Geometry of images: resizing to the size that a network takes."""

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]  # BGR (H, W, 3)


def prepare(image: Pixels, wanted: tuple[int, int]) -> Pixels:
    """A BGR crop (H, W, 3) of one plate to the network's input uint8 (*wanted, 3).

    `wanted` is the height and width that the network takes. Areas are averaged where the crop shrinks in both
    directions, else it is interpolated linearly.
    """
    if image.shape[:2] == wanted:
        return image
    shrinks = image.shape[0] >= wanted[0] and image.shape[1] >= wanted[1]
    resized = cv2.resize(image, wanted[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.asarray(resized, np.uint8)
