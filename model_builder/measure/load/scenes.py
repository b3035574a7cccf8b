"""Rendered photographs, to send to servers: scenes that fill their canvas, as JPEGs."""

from itertools import count, islice
from typing import Final

import cv2
import numpy as np

from model_builder.render.scene import Drawn, Scene, SceneRenderer
from model_builder.train.data import VALIDATION_SEED
from service.finding.canvas import FILL

QUALITY: Final = 92
_GRAIN: Final = 3.0  # standard deviation
_SEED: Final = VALIDATION_SEED + (1 << 20)  # of the first one: the scenes of no other set
_REDUCED: Final = 4  # times smaller that a scene is drawn to see what is on it
_NARROWEST: Final = 30  # of such plates the image's longer side has as many widths at most: they are found for sure


def photographs(width: int, height: int, number: int, plates: int | None = None) -> list[bytes]:
    """The first JPEGs of this size; with `plates`, those with so many plates, whole and of a fair size."""
    size, renderer = (width, height), SceneRenderer()
    small = (width // _REDUCED, height // _REDUCED)  # a scene shows much the same at any size
    seeds = (seed for seed in count(_SEED) if plates is None or _fair(renderer.scene(seed, small)) == plates)
    scenes = ((seed, renderer.scene(seed, size)) for seed in seeds)
    fitting = ((seed, scene) for seed, scene in scenes if _fair(scene) == plates or (plates is None and _full(scene)))
    return [_encoded(scene, seed) for seed, scene in islice(fitting, number)]


def _full(scene: Scene) -> bool:
    """Whether the photograph fills its canvas."""
    return not (_grey(scene.image[-1]) or _grey(scene.image[:, -1]))


def _grey(line: np.ndarray) -> bool:
    """Whether a line of pixels is what surrounds a photograph that does not fill its canvas."""
    return bool((line == FILL).all())


def _fair(scene: Scene) -> int | None:
    """The number of plates; None where one is small or not whole, or where the canvas is not full."""
    least = max(scene.image.shape) / _NARROWEST
    good = all(not plate.cut and _width(plate) >= least for plate in scene.plates)
    return len(scene.plates) if good and not scene.unsure and _full(scene) else None


def _width(plate: Drawn) -> float:
    return float(np.hypot(*(plate.corners[1] - plate.corners[0])))


def _encoded(scene: Scene, seed: int) -> bytes:
    """A JPEG with the grain of a camera: a large one would else be smaller, and decoded faster, than a real one."""
    grain = np.random.default_rng(seed).normal(0, _GRAIN, scene.image.shape).astype(np.float32)
    pixels = np.clip(scene.image + grain, 0, 255).astype(np.uint8)
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
