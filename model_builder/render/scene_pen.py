"""Drawing in mm on a plane that a camera sees: poses, polygons, lines, lettering and plates."""

import math
import random
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]
Colour = tuple[float, float, float]  # BGR, 0..255
Point = tuple[float, float]
Seen = tuple[Pixels, tuple[int, int]]

_FAR = 1e6  # pixels: no coordinate is drawn farther out, for OpenCV counts in 32 bits


def pose(rng: random.Random, center: Point, scale: float, roll: float, steep: bool) -> Floats:
    """Homography from mm around (0, 0) of a plane to pixels around `center`, `scale` pixels a mm, turned by `roll`.

    The plane is seen by a pinhole camera from 2.5 to 7 m, more from aside where it is `steep`.
    """
    yaw = math.radians(min(max(rng.gauss(0, 26 if steep else 11), -62), 62))
    pitch = math.radians(min(max(rng.gauss(0, 17 if steep else 8), -45), 45))
    distance = rng.uniform(2500, 7000)
    cy, sy, cp, sp, cr, sr = (f(angle) for angle in (yaw, pitch, roll) for f in (math.cos, math.sin))
    shear = rng.gauss(0, 0.1 if steep else 0.03)  # uprights lean where the camera stands aside and is turned
    rotation = np.array([[cr, -sr], [sr, cr]]) @ np.array([[1, shear], [0, 1]]) @ np.array([[cy, 0], [-sp * sy, cp]])
    depth = -cp * sy / distance, sp / distance
    plane = np.array([[*rotation[0], 0], [*rotation[1], 0], [*depth, 1]])
    placed: Floats = np.array([[scale, 0, center[0]], [0, scale, center[1]], [0, 0, 1]]) @ plane
    return placed


def project(homography: Floats, points: Sequence[Point] | Floats) -> Floats:
    """Points (n, 2) in mm to pixels (n, 2). What lies behind the camera comes out far away."""
    flat = np.asarray(points, np.float64) @ homography[:, :2].T + homography[:, 2]
    seen: Floats = flat[:, :2] / np.maximum(flat[:, 2:], 0.05)
    return np.minimum(np.maximum(seen, -_FAR), _FAR)  # np.clip takes thrice the time for so few


class Pen:
    """Draws on an image in mm of the plane that `homography` shows."""

    def __init__(self, image: Pixels, homography: Floats) -> None:
        self.image, self.homography = image, homography

    def at(self, x: float, y: float) -> "Pen":
        """A pen whose (0, 0) lies at x and y of this one."""
        return Pen(self.image, self.homography @ np.array([[1, 0, x], [0, 1, y], [0, 0, 1]]))

    def pixels(self, length: float) -> float:
        """About how many pixels a length in mm at (0, 0) has."""
        area = abs(float(np.linalg.det(self.homography[:2, :2])))
        return length * math.sqrt(area) / max(float(self.homography[2, 2]), 0.05)

    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        fill(self.image, project(self.homography, points), colour)

    def box(self, left: float, top: float, width: float, height: float, colour: Colour) -> None:
        right, bottom = left + width, top + height
        self.polygon(((left, top), (right, top), (right, bottom), (left, bottom)), colour)

    def line(self, start: Point, end: Point, width: float, colour: Colour) -> None:
        (x0, y0), (x1, y1) = start, end
        length = math.hypot(x1 - x0, y1 - y0) or 1.0
        dx, dy = -(y1 - y0) / length * width / 2, (x1 - x0) / length * width / 2
        self.polygon(((x0 + dx, y0 + dy), (x1 + dx, y1 + dy), (x1 - dx, y1 - dy), (x0 - dx, y0 - dy)), colour)

    def ellipse(self, x: float, y: float, a: float, b: float, colour: Colour) -> None:
        fill(self.image, project(self.homography, _CIRCLE * (a, b) + (x, y)), colour)

    def stamp(self, mask: Pixels, box: tuple[float, float, float, float], colour: Colour, strength: float = 1) -> None:
        """Paint through a mask that lies over the box (left, top, width, height)."""
        left, top, width, height = box
        quad = [(left, top), (left + width, top), (left + width, top + height), (left, top + height)]
        seen = warp(mask, project(self.homography, quad), self.image.shape[:2])
        if seen is not None:
            patch, (x, y) = seen
            blend(self.image, np.array(colour, np.float32), patch * np.float32(strength / 255), (x, y))


_CIRCLE = np.array([(math.cos(i * math.tau / 20), math.sin(i * math.tau / 20)) for i in range(20)])


def fill(image: Pixels, points: Floats, colour: Colour) -> None:
    """A filled polygon with smooth edges, in pixels."""
    cv2.fillPoly(image, [np.round(points * 16).astype(np.int32)], colour, cv2.LINE_AA, 4)


def warp(image: Pixels, quad: Floats, size: tuple[int, int], border: int = cv2.BORDER_CONSTANT) -> Seen | None:
    """The image as the quad shows it, cut to the part that a canvas of `size` (height, width) has of it.

    Returns the part, with two pixels around, 0 if `border` does not tell otherwise, and its place (x, y); None where
    nothing is to be seen.
    """
    low = np.maximum(np.floor(quad.min(0)) - 2, 0).astype(int)
    high = np.minimum(np.ceil(quad.max(0)) + 2, size[::-1]).astype(int)
    if (high - low < 1).any():
        return None
    sides = [np.hypot(*(quad[(i + 1) % 4] - quad[i])) for i in range(4)]
    wanted = max(sides[0], sides[2]), max(sides[1], sides[3])
    shrink = [max(2, min(have, round(1.15 * want))) for have, want in zip(image.shape[1::-1], wanted, strict=True)]
    if (shrink[0], shrink[1]) != image.shape[1::-1]:
        image = np.asarray(cv2.resize(image, (shrink[0], shrink[1]), interpolation=cv2.INTER_AREA), np.uint8)
    height, width = image.shape[:2]
    source = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32) - 0.5
    matrix = cv2.getPerspectiveTransform(source, (quad - low - 0.5).astype(np.float32))
    seen = cv2.warpPerspective(image, matrix, tuple((high - low).tolist()), flags=cv2.INTER_LINEAR, borderMode=border)
    return np.asarray(seen, np.uint8), (int(low[0]), int(low[1]))


def blend(image: Pixels, paint: NDArray[np.float32], opacity: NDArray[np.float32], place: tuple[int, int]) -> None:
    """Lay paint, a colour or BGR (h, w, 3), over the image at `place` (x, y) with an opacity (h, w) of 0..1."""
    x, y = place
    under = image[y : y + opacity.shape[0], x : x + opacity.shape[1]]
    mixed = under + (paint - under) * opacity[..., None]
    np.clip(mixed, 0, 255, out=mixed)
    under[:] = mixed
