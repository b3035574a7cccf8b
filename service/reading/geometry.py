"""Geometry of images: the size that a network takes, and resizing to it."""

import cv2
import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 94, 24  # of the crops that the builder's reader takes; a server takes the size from the manifest
SIZE = HEIGHT, WIDTH

Pixels = NDArray[np.uint8]  # BGR (H, W, 3)


def prepare(image: Pixels, wanted: tuple[int, int] = SIZE) -> Pixels:
    """A BGR crop (H, W, 3) of one plate to the network's input uint8 (*wanted, 3).

    Areas are averaged where the crop shrinks in both directions, else it is interpolated linearly.
    """
    if image.shape[:2] == wanted:
        return image
    shrinks = image.shape[0] >= wanted[0] and image.shape[1] >= wanted[1]
    resized = cv2.resize(image, wanted[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.asarray(resized, np.uint8)
