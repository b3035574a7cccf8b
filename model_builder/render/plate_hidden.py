"""What hides a part of a plate: something that lies before it, and the edge of the image."""

import itertools
import math
import random
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from service.finding.canvas import FILL

Image = NDArray[np.uint8]
Floats = NDArray[Any]


def hide(rng: random.Random, planes: Floats) -> None:
    """Put something about as wide as a character before painted planes (3, H, W): mud, a leaf, a tow bar, a strap."""
    _, height, width = planes.shape
    shade = rng.choice((rng.uniform(20, 90), rng.uniform(20, 240)))
    colour = [shade + rng.gauss(0, 20) for _ in range(3)]
    x, half = rng.uniform(0.04, 0.96) * width, rng.uniform(0.035, 0.075) * width
    lean = rng.gauss(0, 0.15) * height
    mask = np.zeros((height, width), np.uint8)
    if rng.random() < 0.5:
        corners = [(x - half - lean, 0), (x + half - lean, 0), (x + half + lean, height), (x - half + lean, height)]
        cv2.fillPoly(mask, [np.array(corners).round().astype(np.int32)], 255, cv2.LINE_AA)
    else:
        angles = np.linspace(0, math.tau, 12, endpoint=False)
        far = np.array([rng.uniform(0.75, 1.25) for _ in angles])
        points = np.stack((x + half * far * np.cos(angles), height / 2 + 0.55 * height * far * np.sin(angles)), 1)
        cv2.fillPoly(mask, [points.round().astype(np.int32)], 255, cv2.LINE_AA)
    share = mask * np.float32(1 / 255)
    planes += (np.array(colour, np.float32).reshape(3, 1, 1) - planes) * share


def cut(rng: random.Random, image: Image, joints: Sequence[int]) -> None:
    """Fill what lies outside of the photograph with the grey of serving, in a straight plate (H, W, 3).

    `joints` are the columns where its rows, set side by side, meet.
    """
    side = rng.random()
    share, lean = rng.uniform(0.03, 0.17), rng.gauss(0, 0.02)
    for left, right in itertools.pairwise((0, *joints, image.shape[1])):
        row = image[:, left:right]
        height, width = row.shape[:2]
        y, x = np.mgrid[:height, :width].astype(np.float32)
        if side < 0.4:
            row[x < width * share + lean * width * (y / height - 0.5)] = FILL
        elif side < 0.8:
            row[x > width * (1 - share) + lean * width * (y / height - 0.5)] = FILL
        elif side < 0.9 and not joints:  # of two rows, one would be cut alone
            row[y < 2 * height * share + lean * 3 * (x - width / 2)] = FILL
        elif not joints:
            row[y > height * (1 - 2 * share) + lean * 3 * (x - width / 2)] = FILL
