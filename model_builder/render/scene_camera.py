"""The camera of a scene: light, weather, lens, sensor and codec on the whole picture."""

import math
import random
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Floats = NDArray[Any]  # float32 in memory, which the stubs of OpenCV and NumPy can't follow


Light = tuple[float, float, float]  # x, y and radius in pixels


def photograph(
    rng: random.Random, noise: np.random.Generator, scene: Pixels, finest: float, lights: Sequence[Light] = ()
) -> Pixels:
    """The scene (H, W, 3) as a camera sees it. `finest` is the height in pixels of the smallest plate that must stay
    visible: blur and noise keep to what it bears. `lights` shine into the lens."""
    image = scene.astype(np.float32)
    image = _light(rng, noise, image)
    if lights:
        _dazzle(rng, image, lights)
    harsh = rng.random() < 0.4  # most photographs look natural
    image = _tones(rng, image, harsh)
    image = _lens(rng, image, finest)
    if rng.random() < 0.08:
        _weather(rng, noise, image)
    image = _exposure(rng, image, harsh)
    return _sensor(rng, noise, image, finest)


def _field(noise: np.random.Generator, size: tuple[int, int], cells: int) -> Floats:
    coarse = noise.standard_normal((cells, cells), np.float32)
    return np.asarray(cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC), np.float32)[..., None]


def _light(rng: random.Random, noise: np.random.Generator, image: Floats) -> Floats:
    """Uneven light, shadows with edges, glare."""
    height, width = image.shape[:2]
    if rng.random() < 0.6:
        image *= np.clip(1 + _field(noise, (width, height), rng.randint(2, 5)) * rng.uniform(0.05, 0.3), 0.25, 2)
    if rng.random() < 0.2:
        _shadow(rng, image)
    for _ in range(rng.choice((0, 0, 0, 0, 1, 2))):
        x, y, size = rng.random() * width, rng.random() * height, rng.uniform(0.01, 0.15) * width
        colour = np.array(rng.choice(((255, 255, 255), (190, 230, 255), (90, 90, 255))), np.float32)
        _glow(image, x, y, size, colour * np.float32(rng.uniform(0.3, 1.2)))
    return image


def _shadow(rng: random.Random, image: Floats) -> None:
    height, width = image.shape[:2]
    x, y = np.linspace(-1, 1, width, dtype=np.float32)[None, :], np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    angle = rng.uniform(0, math.tau)
    edge = (x * math.cos(angle) + y * math.sin(angle) - rng.uniform(-0.7, 0.7)) * rng.uniform(5, 80)
    image *= (1 - np.float32(rng.uniform(0.3, 0.7)) / (1 + np.exp(-np.clip(edge, -30, 30))))[..., None]


def _glow(image: Floats, x: float, y: float, size: float, colour: Floats) -> None:
    """A spot of light that fades over four times its size."""
    low = max(0, int(x - 4 * size)), max(0, int(y - 4 * size))
    part = image[low[1] : int(y + 4 * size), low[0] : int(x + 4 * size)]
    if part.size == 0:
        return
    across = np.arange(part.shape[1], dtype=np.float32) + (low[0] - x)
    down = np.arange(part.shape[0], dtype=np.float32) + (low[1] - y)
    weight = np.exp(-(down[:, None] ** 2 + across[None, :] ** 2) / (2 * size * size)).astype(np.float32)
    part += weight[..., None] * colour


def _dazzle(rng: random.Random, image: Floats, lights: Sequence[Light]) -> None:
    """Lamps that are white in their middle and lay a veil of their colour over what is around."""
    tint = np.array(
        rng.choice(((255, 255, 255), (200, 235, 255), (60, 40, 255), (200, 120, 255), (255, 160, 220))), np.float32
    )
    veil, wide, core = rng.uniform(0.1, 0.7), rng.uniform(3, 12), rng.uniform(0.6, 1.5)
    for x, y, radius in lights:
        size = max(radius, 0.6)
        _glow(image, x, y, core * size, np.float32(1.5) * (tint + 255) / 2)
        _glow(image, x, y, min(wide * size, 0.5 * image.shape[1]), np.float32(veil) * tint)


def _tones(rng: random.Random, image: Floats, harsh: bool) -> Floats:
    """Infrared, saturation and colour casts."""
    kind, saturation = rng.random(), 1.0
    if kind < 0.75:
        saturation = 0.0 if kind < 0.07 else rng.uniform(0.1, 1.9) if harsh else rng.uniform(0.3, 1.1)
    spread = rng.choice((0.1, 0.25)) if harsh else 0.04
    grey = (1 - saturation) * np.array([0.114, 0.587, 0.299])
    casts = np.array([[math.exp(rng.gauss(0, spread))] for _ in range(3)])
    return np.asarray(cv2.transform(image, casts * (grey + saturation * np.eye(3))))


def _lens(rng: random.Random, image: Floats, finest: float) -> Floats:
    """Defocus, motion, few pixels. A plate of `finest` pixels stays visible."""
    most = min(0.3 + 0.07 * finest, 4.0)
    kind = rng.random()
    height, width = image.shape[:2]
    if kind < 0.3:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, most))
    elif kind < 0.42:
        length = max(2, min(round(rng.uniform(2, 6 * most)), 19))
        kernel = np.zeros((length, length), np.float32)
        angle, middle = rng.uniform(0, math.pi), (length - 1) / 2
        dx, dy = math.cos(angle) * middle, math.sin(angle) * middle
        ends = [round(value * 16) for value in (middle - dx, middle - dy, middle + dx, middle + dy)]
        cv2.line(kernel, (ends[0], ends[1]), (ends[2], ends[3]), 1.0, 1, cv2.LINE_AA, 4)
        image = cv2.filter2D(image, -1, kernel / max(float(kernel.sum()), 1e-3))
    if rng.random() < 0.2:
        factor = rng.uniform(1.1, max(1.2, min(4.0, finest / 6)))
        small = max(8, round(width / factor)), max(8, round(height / factor))
        image = cv2.resize(image, small, interpolation=rng.choice((cv2.INTER_AREA, cv2.INTER_LINEAR)))
        image = cv2.resize(image, (width, height), interpolation=rng.choice((cv2.INTER_LINEAR, cv2.INTER_CUBIC)))
    return np.asarray(image, np.float32)


def _weather(rng: random.Random, noise: np.random.Generator, image: Floats) -> None:
    """Rain or snow in front, or fog that grows upwards."""
    height, width = image.shape[:2]
    if rng.random() < 0.4:
        veil = np.linspace(rng.uniform(0.2, 0.8), rng.uniform(0, 0.5), height, dtype=np.float32)[:, None, None]
        image += (np.float32(rng.uniform(130, 230)) - image) * veil
        return
    slant, length = rng.uniform(-0.3, 0.3), rng.choice((2.0, rng.uniform(5, 30)))
    light = rng.uniform(140, 240)
    for x, y in (noise.random((rng.randint(20, 200), 2)) * (width, height)).tolist():
        end = round(x + slant * length), round(y + length)
        cv2.line(image, (round(x), round(y)), end, (light, light, light), 1, cv2.LINE_AA)


def _exposure(rng: random.Random, image: Floats, harsh: bool) -> Floats:
    """Exposure as cameras choose it, or too dark or bright; contrast, with a floor, and gamma."""
    if rng.random() < 0.5:
        image = image * np.float32(min(rng.uniform(70, 140) / max(float(image.mean()), 1), 3.0))
    kind, mean = rng.random(), float(image.mean())
    if not harsh:
        image = (image - mean) * np.float32(rng.uniform(0.75, 1.25)) + np.float32(mean + rng.gauss(0, 15))
    elif kind < 0.2:
        image = image * np.float32(rng.uniform(20, 70) / max(mean, 20))
    elif kind < 0.3:
        image = np.float32(rng.uniform(40, 200)) + (image - mean) * np.float32(rng.uniform(0.15, 0.5))
    elif kind < 0.5:
        image = image * np.float32(rng.uniform(1.2, 2.0))
    elif kind < 0.9:
        image = (image - mean) * np.float32(rng.uniform(0.6, 1.6)) + np.float32(mean + rng.gauss(0, 25))
    np.clip(image, 0, 255, out=image)
    if harsh and rng.random() < 0.5:
        image = np.float32(255) * np.power(image / np.float32(255), np.float32(rng.uniform(0.5, 1.9)))
    contrast = float(image[::4, ::4].std())
    if contrast < 8:
        mean = float(image.mean())
        image = np.clip(mean + (image - mean) * np.float32(8 / max(contrast, 1)), 0, 255)
    return image


def _sensor(rng: random.Random, noise: np.random.Generator, image: Floats, finest: float) -> Pixels:
    """Noise, sharpening, few shades, JPEG."""
    if rng.random() < 0.3:
        blurred = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.8, 2.0))
        image = image + (image - blurred) * np.float32(rng.uniform(0.3, 1.8))
    if rng.random() < 0.5:
        sigma = rng.random() ** 1.5 * min(5 + finest / 2, 22)
        plain = noise.standard_normal((*image.shape[:2], 1), np.float32) * np.float32(sigma)
        image = image + plain * np.array([rng.uniform(0.3, 1) for _ in range(3)], np.float32)
    photo = np.clip(image, 0, 255).astype(np.uint8)
    if rng.random() < 0.06:  # few shades, as of old cameras and of rescaled palettes
        step = rng.choice((16, 32, 48))
        photo = photo // step * step + step // 2
    if rng.random() < 0.6:
        quality = [cv2.IMWRITE_JPEG_QUALITY, rng.randint(25 if finest > 12 else 55, 95)]
        return np.asarray(cv2.imdecode(cv2.imencode(".jpg", photo, quality)[1], cv2.IMREAD_COLOR), np.uint8)
    return photo
