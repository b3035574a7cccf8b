"""What scenes are drawn on: parts of photographs of a folder, or procedural streets, walls and skies."""

import functools
import math
import random
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

SIDE = 720  # pixels of the longer side that photographs are kept with


class Backgrounds:
    """Backgrounds from photographs, with the share `procedural` of made ones; all are made where there are none."""

    def __init__(self, photographs: Sequence[Path] = (), procedural: float = 0.2) -> None:
        self.photographs = tuple(photographs)
        self.procedural = procedural if self.photographs else 1.0

    def draw(self, rng: random.Random, noise: np.random.Generator, size: tuple[int, int]) -> Pixels:
        """BGR uint8 of `size` (width, height)."""
        if rng.random() < self.procedural:
            return _made(rng, noise, size)
        return _cut(rng, _load(rng.choice(self.photographs)), size)


@functools.lru_cache(maxsize=800)
def _load(path: Path) -> tuple[Pixels, ...]:
    """A photograph, its half and its quarter."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"{path} is no photograph that OpenCV reads")
    scale = SIDE / max(image.shape[:2])
    if scale < 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    half = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    quarter = cv2.resize(half, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    return np.asarray(image, np.uint8), np.asarray(half, np.uint8), np.asarray(quarter, np.uint8)


def _cut(rng: random.Random, photograph: tuple[Pixels, ...], size: tuple[int, int]) -> Pixels:
    """A part of the photograph, from a fifth of what fits to all of it, perhaps mirrored."""
    image, (width, height) = photograph[0], size
    whole = min(image.shape[1] / width, image.shape[0] / height)
    share = whole * math.exp(rng.uniform(math.log(0.2), 0))
    if share >= 2:  # far fewer pixels to average
        level = 2 if share >= 4 else 1
        image, share = photograph[level], share / 2**level
    w, h = max(2, int(width * share)), max(2, int(height * share))
    x, y = rng.randint(0, image.shape[1] - w), rng.randint(0, image.shape[0] - h)
    part = image[y : y + h, x : x + w]
    if rng.random() < 0.5:
        part = part[:, ::-1]
    resized = cv2.resize(part, size, interpolation=cv2.INTER_AREA if share > 1 else cv2.INTER_LINEAR)
    return np.asarray(resized, np.uint8)


def _made(rng: random.Random, noise: np.random.Generator, size: tuple[int, int]) -> Pixels:
    """Ground below, wall or sky above, texture over both, and shapes."""
    width, height = size
    image = np.empty((height, width, 3), np.float32)
    image[:] = _colour(rng)
    horizon = rng.randint(0, height)
    image[horizon:] = _colour(rng, 0.3)
    image += texture(rng, noise, size, rng.uniform(3, 45))
    made = np.clip(image, 0, 255).astype(np.uint8)
    for _ in range(rng.randint(0, 14)):
        _shape(rng, made)
    if rng.random() < 0.25:
        _bricks(rng, made)
    return made


def texture(
    rng: random.Random, noise: np.random.Generator, size: tuple[int, int], strength: float
) -> NDArray[np.float32]:
    """Noise of several scales, float32 (H, W, 1) around 0."""
    field = np.zeros((size[1], size[0]), np.float32)
    for cells in rng.sample((3, 6, 12, 25, 60, 160), 3):
        rows, columns = max(2, cells * size[1] // size[0]), max(2, round(cells * rng.uniform(0.3, 1)))
        coarse = noise.standard_normal((rows, columns), np.float32)
        field += cv2.resize(coarse, size, interpolation=cv2.INTER_LINEAR)
    return field[..., None] * np.float32(strength / 1.7)


def _colour(rng: random.Random, saturation: float = 1.0) -> tuple[float, float, float]:
    base, spread = rng.uniform(10, 250), 40 * saturation
    blue, green, red = (min(max(base + rng.gauss(0, spread), 0), 255) for _ in range(3))
    return blue, green, red


def _shape(rng: random.Random, image: Pixels) -> None:
    """A polygon, a line or an ellipse, somewhere."""
    height, width = image.shape[:2]
    x, y, size = rng.randint(0, width), rng.randint(0, height), rng.uniform(0.03, 0.4) * width
    kind, colour = rng.random(), _colour(rng)
    if kind < 0.4:
        points = [(x + rng.gauss(0, size), y + rng.gauss(0, size)) for _ in range(rng.randint(3, 5))]
        cv2.fillPoly(image, [np.array(points, np.int32)], colour, cv2.LINE_AA)
    elif kind < 0.7:
        end = round(x + rng.gauss(0, 3 * size)), round(y + rng.gauss(0, 3 * size))
        cv2.line(image, (x, y), end, colour, rng.randint(1, max(2, round(size / 6))), cv2.LINE_AA)
    else:
        axes = max(1, round(size * rng.uniform(0.1, 0.6))), max(1, round(size * rng.uniform(0.1, 0.6)))
        cv2.ellipse(image, (x, y), axes, rng.uniform(0, 180), 0, 360, colour, -1, cv2.LINE_AA)


def _bricks(rng: random.Random, image: Pixels) -> None:
    height, width = image.shape[:2]
    row, brick, colour = rng.randint(6, 30), rng.randint(10, 70), _colour(rng, 0.4)
    line = rng.choice((1, 1, 2))
    for number, y in enumerate(range(0, height, row)):
        cv2.line(image, (0, y), (width, y), colour, line)
        for x in range(brick // 2 * (number % 2), width, brick):
            cv2.line(image, (x, y), (x, y + row), colour, line)
