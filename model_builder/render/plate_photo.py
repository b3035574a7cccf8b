"""What light, lens, sensor and codec make of a painted plate; the plane is one and a half times the network's input."""

import math
import random
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from model_builder.plates import CROP
from service.reading.geometry import prepare

Image = NDArray[np.uint8]
Floats = NDArray[Any]  # float32 in memory, which the stubs of OpenCV and NumPy can't follow

WIDTH: Final = 141  # the photographed crop, one and a half times the network's input
HEIGHT: Final = 36

X = np.linspace(-1, 1, WIDTH, dtype=np.float32)[None, :]
Y = np.linspace(-1, 1, HEIGHT, dtype=np.float32)[:, None]


def color(values: list[float]) -> Floats:
    """A colour for planes, float32 (3, 1, 1). Channels come first because NumPy is slow over a last axis of 3."""
    return np.array(values, np.float32).reshape(3, 1, 1)


def ramp(rng: random.Random, low: float, high: float) -> Floats:
    """A plane of light over the crop, float32 (36, 141), values between about `low` and `high`."""
    angle, a, b = rng.uniform(0, math.tau), rng.uniform(low, high), rng.uniform(low, high)
    half = (b - a) / 2
    return np.float32(a + half) + (X * (half * math.cos(angle)) + Y * (half * math.sin(angle)))


def blotches(noise: np.random.Generator, strength: float) -> Floats:
    """Soft random spots, float32 (36, 141), 0..strength."""
    coarse = noise.random((5, 14), np.float32) - 0.5
    spots = np.clip(cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC) * 2, 0, 1)
    return spots * np.float32(strength)


def photograph(rng: random.Random, noise: np.random.Generator, paint: Floats) -> Image:
    """Light, lens, sensor and codec: float32 planes (3, 36, 141) -> the network's input, uint8 (24, 94, 3)."""
    image = np.ascontiguousarray(_light(rng, noise, paint).transpose(1, 2, 0))
    image = _lens(rng, image)
    image = _exposure(rng, image)
    return _sensor(rng, noise, image)


def _light(rng: random.Random, noise: np.random.Generator, image: Floats) -> Floats:
    """Shadows, glare, night and colour casts on planes (3, 36, 141)."""
    kind = rng.random()
    if kind < 0.12:  # shadow edge across the plate
        angle = rng.uniform(0, math.tau)
        edge = (X * math.cos(angle) + Y * (math.sin(angle) * 0.5) - rng.uniform(-0.7, 0.7)) * rng.uniform(4, 40)
        image = image * (1 - np.float32(rng.uniform(0.3, 0.75)) / (1 + np.exp(-np.clip(edge, -30, 30))))
    elif kind < 0.22:  # glare or a headlight's spot
        x, y, size = rng.uniform(-1, 1), rng.uniform(-1.5, 1.5), rng.uniform(0.2, 0.9)
        spot = np.exp(-((X - x) ** 2 + ((Y - y) * 0.6) ** 2) / (2 * size * size))
        image = image + spot * np.float32(rng.uniform(30, 170))
    elif kind < 0.26:  # dappled light
        image = image * (1 - blotches(noise, rng.uniform(0.4, 0.9)))
    tone = rng.random()
    if tone < 0.12:  # infrared or night: hardly any colour
        grey = image[0] * 0.2 + image[1] * 0.4 + image[2] * 0.4
        image = grey + (image - grey) * np.float32(rng.uniform(0, 0.3))
    elif tone < 0.6:
        grey = image[0] * 0.114 + image[1] * 0.587 + image[2] * 0.299
        image = grey + (image - grey) * np.float32(rng.uniform(0.4, 1.8))
    cast = 0.22 if rng.random() < 0.25 else 0.07
    return image * color([math.exp(rng.gauss(0, cast)) for _ in range(3)])


def _lens(rng: random.Random, image: Floats) -> Floats:
    """Defocus, motion and low resolution; half of all plates are sharp, as most real ones are."""
    kind = rng.random()
    if kind < 0.25:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.1))
    elif kind < 0.37:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 2.2), sigmaY=rng.uniform(0.4, 2.0))
    elif kind < 0.46:
        image = cv2.filter2D(image, -1, _motion(rng))
    elif kind < 0.52:  # so blurred that a Chinese character is hardly known
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(1.4, 2.6))
    if rng.random() < 0.2:  # few pixels on the sensor
        small = rng.randint(38, 94), rng.randint(10, 24)
        image = cv2.resize(image, small, interpolation=rng.choice((cv2.INTER_AREA, cv2.INTER_LINEAR)))
        image = cv2.resize(image, (WIDTH, HEIGHT), interpolation=rng.choice((cv2.INTER_LINEAR, cv2.INTER_CUBIC)))
    return image


def _motion(rng: random.Random) -> Floats:
    """The path of a point during the exposure, as a filter kernel that sums to 1."""
    angle = rng.choice((0.0, math.pi / 2, rng.uniform(0, math.pi)))
    length = rng.randint(3, 6 if abs(math.sin(angle)) > 0.5 else 9)
    kernel = np.zeros((length, length), np.float32)
    center = (length - 1) / 2
    dx, dy = math.cos(angle) * center, math.sin(angle) * center
    ends = [round(v * 16) for v in (center - dx, center - dy, center + dx, center + dy)]
    cv2.line(kernel, (ends[0], ends[1]), (ends[2], ends[3]), 1.0, 1, cv2.LINE_AA, 4)
    return kernel / np.float32(max(float(kernel.sum()), 1e-6))


def _exposure(rng: random.Random, image: Floats) -> Floats:
    """Over- and under-exposure, haze and gamma. A floor on contrast keeps every plate readable."""
    kind = rng.random()
    mean = float(image.mean())
    if kind < 0.08:  # dark
        image = image * (rng.uniform(20, 70) / max(mean, 20))
    elif kind < 0.16:  # haze or a veil of light: little contrast at any level
        image = rng.uniform(40, 200) + (image - mean) * rng.uniform(0.1, 0.4)
    elif kind < 0.30:  # over-exposed
        image = image * rng.uniform(1.2, 2.0)
    elif kind < 0.75:
        image = (image - mean) * rng.uniform(0.5, 1.5) + mean + rng.gauss(0, 22)
    if rng.random() < 0.3:
        image = 255 * np.power(np.clip(image, 0, 255) / 255, rng.uniform(0.6, 1.6))
    image = np.clip(image, 0, 255)
    contrast = float(image.std())
    if contrast < 5:
        mean = float(image.mean())
        image = np.clip(mean + (image - mean) * (5 / max(contrast, 0.5)), 0, 255)
    return image


def _sensor(rng: random.Random, noise: np.random.Generator, image: Floats) -> Image:
    """Noise, sharpening, codec, and the resize that serving does."""
    contrast = float(image.std())
    if rng.random() < 0.4:  # a camera's sharpening halo
        image = image + (image - cv2.GaussianBlur(image, (0, 0), rng.uniform(0.8, 2.5))) * rng.uniform(0.3, 1.8)
    if rng.random() < 0.5:
        sigma = min(16 * rng.random() ** 1.5, 0.4 * contrast)
        grain = noise.standard_normal((HEIGHT, WIDTH, 3), np.float32)
        image = image + (grain if rng.random() < 0.5 else cv2.merge((grain[..., 0],) * 3)) * np.float32(sigma)
    photo = np.clip(image, 0, 255).astype(np.uint8)
    late = rng.random() < 0.5  # the codec sees the crop or the whole photograph
    if late:
        photo = prepare(photo, CROP)
    if rng.random() < 0.5:
        quality = [cv2.IMWRITE_JPEG_QUALITY, rng.randint(35, 95) if late else rng.randint(18, 95)]
        photo = np.asarray(cv2.imdecode(cv2.imencode(".jpg", photo, quality)[1], cv2.IMREAD_COLOR), np.uint8)
    return photo if late else prepare(photo, CROP)
