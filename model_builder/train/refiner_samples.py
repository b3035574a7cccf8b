"""Samples for the refiner: crops of rendered scenes around rough plates, and around what is no plate."""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from model_builder.networks.refiner import FORM
from model_builder.render.scene import Drawn, Scene
from model_builder.train.finder_targets import as_seen
from service.finding.maps import Plates
from service.finding.refine import crop, in_crop, rough_in_crop

Floats = NDArray[np.float32]
Find = Callable[[NDArray[np.uint8]], Plates]

LEAST = 7.0  # pixels of height of a plate whose corners are learned
_JITTERS = 4  # rough quads for each plate
_NOWHERE = 2  # quads a scene that are drawn at random and hold no plate
_SAME, _OTHER = 0.3, 0.05  # overlaps above which a found quad is a plate's, and below which it is none


class Sample(NamedTuple):
    """A crop (48, 96, 3) and what the refiner is to answer; of what is no plate only `plate` counts."""

    crop: NDArray[np.uint8]
    corners: Floats  # (8,), off from the rough ones, in widths and heights of the crop
    plate: int
    turns: int
    rows: int  # 0 one, 1 two
    cut: int
    colour: int


def samples(rng: random.Random, scene: Scene, find: Find | None = None) -> Iterator[Sample]:
    """Samples of a scene: each plate with several rough quads, quads at random, and what `find` finds there."""
    for plate in scene.plates:
        if _height(plate.corners) >= LEAST:
            for _ in range(_JITTERS):
                yield _plate(scene, plate, rough(rng, as_seen(plate.corners)))
    outlines = [*(plate.corners for plate in scene.plates), *scene.unsure]
    for _ in range(_NOWHERE):
        quad = _anywhere(rng, scene.image.shape[1::-1])
        if all(overlap(quad, outline) < _OTHER for outline in outlines):
            yield _none(scene, quad)
    for quad in find(scene.image).corners if find else ():
        overlaps = [overlap(quad, outline) for outline in outlines]
        best = int(np.argmax(overlaps)) if overlaps else -1
        if not overlaps or overlaps[best] < _OTHER:
            yield _none(scene, quad)
        elif best < len(scene.plates) and overlaps[best] > _SAME and _height(outlines[best]) >= LEAST:
            yield _plate(scene, scene.plates[best], quad)


def rough(rng: random.Random, quad: NDArray[Any]) -> Floats:
    """Corners (4, 2) that are off as a finder's are, and at times turned by a half or a quarter."""
    off = rng.choices((0.0, rng.uniform(0.0, 0.5), rng.uniform(0.5, 1.6)), (0.05, 0.4, 0.55))[0]
    places = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float64) - 0.5
    angle = rng.gauss(0, 0.12 * off)
    aspect = max(1.0, math.dist(quad[0], quad[1]) / max(_height(quad), 1e-3))
    turn = np.array([[math.cos(angle), math.sin(angle) * aspect], [-math.sin(angle) / aspect, math.cos(angle)]])
    stretch = np.exp([rng.gauss(0, 0.12 * off), rng.gauss(0, 0.2 * off)])
    shift = np.array([rng.gauss(0, 0.06 * off), rng.gauss(0, 0.12 * off)])
    each = np.array([[rng.gauss(0, 0.03 * off), rng.gauss(0, 0.07 * off)] for _ in range(4)])
    u, v = ((places * stretch) @ turn + shift + each + 0.5).T
    shares = np.stack(((1 - u) * (1 - v), u * (1 - v), u * v, (1 - u) * v), 1)
    turns = rng.choices((0, 1, 2, 3), (0.7, 0.04, 0.22, 0.04))[0]
    return np.asarray(np.roll(shares @ quad, turns, axis=0), np.float32)


def _plate(scene: Scene, plate: Drawn, quad: Floats) -> Sample:
    """The sample of a plate with a rough quad; the turn is the one that brings corners closest."""
    rolled = [np.roll(plate.corners, turns, axis=0) for turns in range(4)]
    turns = int(np.argmin([np.abs(one - quad).sum() for one in rolled]))
    corners = in_crop(rolled[turns].astype(np.float32), quad, FORM) - rough_in_crop(FORM)
    colour = FORM.colours.index(plate.colour)
    return Sample(crop(scene.image, quad, FORM), corners.ravel(), 1, turns, plate.rows - 1, int(plate.cut), colour)


def _none(scene: Scene, quad: Floats) -> Sample:
    return Sample(crop(scene.image, quad, FORM), np.zeros(8, np.float32), 0, 0, 0, 0, 0)


def _anywhere(rng: random.Random, size: Sequence[int]) -> Floats:
    """A quad of any size, place and direction."""
    width = math.exp(rng.uniform(math.log(14), math.log(0.9 * max(size))))
    height = width / math.exp(rng.uniform(0, 1.6))
    angle = rng.uniform(0, math.tau) if rng.random() < 0.2 else rng.gauss(0, 0.15)
    places = np.array([[-width, -height], [width, -height], [width, height], [-width, height]]) / 2
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    return np.asarray(places @ turn + [rng.random() * size[0], rng.random() * size[1]], np.float32)


def _height(quad: NDArray[Any]) -> float:
    return min(math.dist(quad[0], quad[3]), math.dist(quad[1], quad[2]))


def overlap(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Intersection over union of two quads' convex hulls."""
    a, b = (cv2.convexHull(quad.astype(np.float32)) for quad in (one, other))
    if (np.maximum(a.min((0, 1)), b.min((0, 1))) > np.minimum(a.max((0, 1)), b.max((0, 1)))).any():
        return 0.0
    common = float(cv2.intersectConvexConvex(a, b)[0])
    return common / max(cv2.contourArea(a) + cv2.contourArea(b) - common, 1e-9)
