"""Rendered videos of plates that pass, with what is to be read in them.

A clip is one background before a camera that does not move. Vehicles come nearer, go away, cross the picture or stand;
their pose changes between that of the beginning and that of the end. By its kind, a clip shows the day, the night, a
camera out of focus, two vehicles at once, or a parked one that another one passes. Everything follows from the seed.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import cv2
import numpy as np

from model_builder.plates.kinds import PLATES
from model_builder.render.plate import draw_text
from model_builder.render.scene_backgrounds import Backgrounds
from model_builder.render.scene_objects import Vehicle
from model_builder.render.scene_pen import Floats, Pen, Pixels, Point, blend, pose, project, warp
from model_builder.render.scene_plates import Art, with_text
from model_builder.render.scene_text import Lines

SIZE: Final = (1280, 720)  # width and height
KINDS: Final = ("day", "night", "blurred", "two", "parked")
_CHINESE: Final = tuple(plate for plate in PLATES if plate.name.startswith("cn-") and plate.height < 200)
_STAYS_S: Final = 18.0  # of a parked vehicle
_AFTER_S: Final = 3.0  # of the clip, when all have passed


class Passage(NamedTuple):
    """A plate that passes: its text, and between which seconds all of it is seen, at most `widest` pixels wide."""

    text: str
    first: float
    last: float
    widest: float


class Clip(NamedTuple):
    """A clip: its kind, how long it is in seconds, and what passes in it."""

    kind: str
    seconds: float
    passages: tuple[Passage, ...]


@dataclass(frozen=True)
class _Ride:
    """A vehicle's way: what it looks like, by a seed, and homographies from mm to pixels at its begin and end."""

    seed: int
    text: str
    art: Art
    begin: float
    end: float
    views: tuple[Floats, Floats]

    def view(self, time: float) -> Floats | None:
        """The homography at a time; None while it is not on its way."""
        if not self.begin <= time <= self.end:
            return None
        share = (time - self.begin) / (self.end - self.begin)
        mixed: Floats = (1 - share) * self.views[0] + share * self.views[1]
        return mixed

    def corners(self, time: float) -> Floats | None:
        """The plate's corners (4, 2) in pixels at a time."""
        view = self.view(time)
        x, y = self.art.size[0] / 2, self.art.size[1] / 2
        return None if view is None else project(view, [(-x, -y), (x, -y), (x, y), (-x, y)])


class VideoRenderer:
    """Draws clips on `photographs`; without any, on procedural backgrounds. `fonts` are folders of typefaces."""

    def __init__(self, photographs: Sequence[Path] = (), fonts: Sequence[Path] = ()) -> None:
        self.backgrounds, self.lines = Backgrounds(photographs), Lines(*fonts)

    def clip(self, seed: int, fps: float) -> tuple[Clip, Iterator[Pixels]]:
        """The clip of this seed and its frames, BGR (H, W, 3), `fps` a second, drawn one after the other."""
        rng = random.Random(seed)
        kind = KINDS[seed % len(KINDS)]
        rides = _rides(rng, kind)
        seconds = max(ride.end for ride in rides) + _AFTER_S
        passages = tuple(_passage(ride, fps) for ride in rides)
        return Clip(kind, seconds, passages), self._frames(rng, seed, kind, rides, round(seconds * fps), fps)

    def _frames(
        self, rng: random.Random, seed: int, kind: str, rides: Sequence[_Ride], count: int, fps: float
    ) -> Iterator[Pixels]:
        noise = np.random.Generator(np.random.SFC64(seed))
        street = np.array(self.backgrounds.draw(rng, noise, SIZE), np.uint8)
        camera = _Camera(rng, noise, kind)
        for number in range(count):
            image = street.copy()
            seen = [(ride, view) for ride in rides if (view := ride.view(number / fps)) is not None]
            for ride, view in sorted(seen, key=lambda one: float(np.linalg.det(one[1][:2, :2]))):
                self._draw(image, ride, view, camera.night)
            yield camera.photograph(image)

    def _draw(self, image: Pixels, ride: _Ride, view: Floats, night: bool) -> None:
        Vehicle(random.Random(ride.seed), Pen(image, view), self.lines, ride.art.size).draw()
        x, y = ride.art.size[0] / 2, ride.art.size[1] / 2
        quad = project(view, [(-x, -y), (x, -y), (x, y), (-x, y)])
        paint, opacity = (
            warp(ride.art.image, quad, SIZE[::-1], cv2.BORDER_REPLICATE),
            warp(ride.art.opacity, quad, SIZE[::-1]),
        )
        if paint and opacity:
            shine = np.float32(2.2 if night else 0.9)  # plates reflect what shines on them
            blend(image, np.minimum(paint[0] * shine, 255), opacity[0] * np.float32(1 / 255), opacity[1])


class _Camera:
    """Light, focus and noise of a clip."""

    def __init__(self, rng: random.Random, noise: np.random.Generator, kind: str) -> None:
        self.night = kind == "night"
        self._rng, self._noise = rng, noise
        self._gain = rng.uniform(0.22, 0.4) if self.night else rng.uniform(0.75, 1.1)
        self._grain = rng.uniform(5, 9) if self.night else rng.uniform(1, 4)
        self._blur = rng.uniform(1.0, 2.5) if kind == "blurred" else rng.uniform(0.0, 0.8)  # pixels

    def photograph(self, image: Pixels) -> Pixels:
        """A frame as the camera sees it; how far out of focus it is changes by frame."""
        seen: Any = image.astype(np.float32) * np.float32(self._gain)  # float32, which OpenCV's stubs can't follow
        sigma = self._blur * self._rng.uniform(0.5, 1.5)
        seen = cv2.GaussianBlur(seen, (0, 0), max(sigma, 0.1))
        seen += self._noise.standard_normal(seen.shape, np.float32) * np.float32(self._grain)
        return np.asarray(np.clip(seen, 0, 255), np.uint8)


def _rides(rng: random.Random, kind: str) -> list[_Ride]:
    match kind:
        case "two":
            left, right = (0.08, 0.42), (0.58, 0.92)
            return [_passing(rng, 1.0, left), _passing(rng, 1.0 + rng.uniform(0, 0.8), right)]
        case "parked":
            return [_parked(rng), _passing(rng, 5.0 + rng.uniform(0, 3), (0.55, 0.9))]
        case _:
            first = _passing(rng, 1.0, (0.2, 0.8))
            return [first, _passing(rng, first.end + rng.uniform(1, 2), (0.2, 0.8))]


def _passing(rng: random.Random, begin: float, across: tuple[float, float]) -> _Ride:
    """A vehicle that comes nearer, goes away or crosses, within these shares of the picture's width if it can."""
    far = rng.uniform(*across) * SIZE[0], rng.uniform(0.2, 0.35) * SIZE[1]
    near = rng.uniform(*across) * SIZE[0], rng.uniform(1.05, 1.2) * SIZE[1]
    sizes = rng.uniform(35, 55), rng.uniform(130, 190)
    way = rng.choice(("nears", "nears", "leaves", "crosses"))
    if way == "crosses" and across[1] - across[0] > 0.5:
        height, size = rng.uniform(0.5, 0.8) * SIZE[1], rng.uniform(90, 140)
        ends = [(-0.1 * SIZE[0], height), (1.1 * SIZE[0], height + rng.uniform(-30, 30))]
        if rng.random() < 0.5:
            ends.reverse()
        return _ride(rng, begin, rng.uniform(3, 6), ends, (size, size * rng.uniform(0.9, 1.1)))
    ends, widths = [far, near], sizes
    if way == "leaves":
        ends, widths = ends[::-1], sizes[::-1]
    return _ride(rng, begin, rng.uniform(2.5, 5), ends, widths)


def _parked(rng: random.Random) -> _Ride:
    place = rng.uniform(0.12, 0.3) * SIZE[0], rng.uniform(0.5, 0.7) * SIZE[1]
    width = rng.uniform(80, 130)
    ride = _ride(rng, 0.0, _STAYS_S, [place, place], (width, width))
    return _Ride(ride.seed, ride.text, ride.art, ride.begin, ride.end, (ride.views[0], ride.views[0]))


def _ride(
    rng: random.Random, begin: float, seconds: float, ends: Sequence[Point], widths: tuple[float, float]
) -> _Ride:
    kind = rng.choices(_CHINESE, [plate.share for plate in _CHINESE])[0]
    text = draw_text(rng, kind)
    art = with_text(rng, kind, text)
    roll = rng.gauss(0, 0.03)
    first, last = (
        pose(rng, place, width / art.size[0], roll, False) for place, width in zip(ends, widths, strict=True)
    )
    return _Ride(rng.getrandbits(32), text, art, begin, begin + seconds, (first, last))


def _passage(ride: _Ride, fps: float) -> Passage:
    times, widths = [], []
    for number in range(round(ride.begin * fps), round(ride.end * fps) + 1):
        corners = ride.corners(number / fps)
        if corners is not None and (corners >= 0).all() and (corners <= SIZE).all():
            times.append(number / fps)
            widths.append(float(np.hypot(*(corners[1] - corners[0]))))
    return Passage(ride.text, min(times), max(times), round(max(widths), 1))
