"""What a camera, and what cuts the plate out of its photograph, make of a flat plate: homographies into the crop."""

import math
import random
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from model_builder.render.plate_art import Art, Canvas, Image
from model_builder.render.plate_photo import HEIGHT, WIDTH
from service.finding import rows
from service.finding.views import FOUND, View

Floats = NDArray[Any]

_STRAIGHT = 0.5  # how often a plate is straightened by its corners instead of cut by an upright box
_FRAMED = 0.2  # how often a dealer's frame, or a line on the plate, is taken for its edge
_SHRINKS = 2.2  # pixels of the canvas on one of the crop from which they are averaged


class _Part(NamedTuple):
    """A quad on the plate, (4, 2) in mm, where it lies in a part of the crop, and the width of that in pixels."""

    source: Floats
    target: Floats
    width: int


def viewed(rng: random.Random, art: Art, view: View = FOUND) -> tuple[Image, Image | None]:
    """The masks of a flat plate and its paper as a photograph's crop shows them: uint8 (36, 141, 3) each."""
    canvas = art.canvas
    if art.rows == 2:
        parts = _rows(rng, canvas, art.split, view)
    elif rng.random() < _STRAIGHT:
        parts = [_Part(_believed(rng, canvas, view), _frame(WIDTH), WIDTH)]
    else:
        source, target = _boxed(rng, canvas)
        parts = [_Part(source, target - np.multiply((view.across, view.down), (WIDTH, HEIGHT)), WIDTH)]
    masks: Image = np.asarray(cv2.merge((art.ink, art.body, art.extra)), np.uint8)
    return _warped(canvas, masks, parts), None if art.paper is None else _warped(canvas, art.paper, parts)


def _warped(canvas: Canvas, image: Image, parts: list[_Part]) -> Image:
    return np.hstack([_one(canvas, image, part) for part in parts]) if len(parts) > 1 else _one(canvas, image, parts[0])


def _one(canvas: Canvas, image: Image, part: _Part) -> Image:
    source = (part.source + canvas.origin) * canvas.scale
    shrinks = np.ptp(source[:, 0]) / np.ptp(part.target[:, 0])
    finer = math.ceil(shrinks / 2) if shrinks > _SHRINKS else 1
    matrix = cv2.getPerspectiveTransform(source.astype(np.float32), (part.target * (finer, 1)).astype(np.float32))
    size = part.width * finer, HEIGHT
    found = cv2.warpPerspective(image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    if finer > 1:
        found = cv2.resize(found, (part.width, HEIGHT), interpolation=cv2.INTER_AREA)
    return np.asarray(found, np.uint8)


def _frame(width: float) -> Floats:
    return np.array([[0, 0], [width, 0], [width, HEIGHT], [0, HEIGHT]], np.float32)


def _corners(canvas: Canvas) -> Floats:
    w, h = canvas.plate
    return np.array([[0, 0], [w, 0], [w, h], [0, h]])


def _believed(rng: random.Random, canvas: Canvas, view: View) -> Floats:
    """The corners that a refiner believes the plate to have: near the true ones, all a little in or out at times."""
    w, h = canvas.plate
    wrong = min(math.exp(rng.gauss(-4.4, 0.6)), 0.05) * w
    out = rng.gauss(0.003, 0.012) * w
    away = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * (out, min(out, 0.06 * h))
    if rng.random() < _FRAMED:
        left, right, top, bottom = (rng.uniform(-0.05, share) * h for share in (0.12, 0.12, 0.16, 0.16))
        away = away + np.array([[-left, -top], [right, -top], [right, bottom], [-left, bottom]])
    noise = np.array([rng.gauss(0, wrong) for _ in range(8)]).reshape(4, 2)
    beside = np.multiply((view.across, view.down), (w, h))
    believed: Floats = _corners(canvas) + away + np.clip(noise, -0.14 * h, 0.14 * h) + beside
    return believed


def _rows(rng: random.Random, canvas: Canvas, split: float, view: View) -> list[_Part]:
    """The two rows of a plate side by side, as serving joins them."""
    corners = _believed(rng, canvas, view)
    cut = split - view.down + rng.gauss(0, 0.02)
    left = round(view.upper * WIDTH)
    places = zip(rows.parts(cut), (left, WIDTH - left), strict=True)
    return [_Part(rows.part(corners, *row), _frame(columns), columns) for row, columns in places if columns]


def _boxed(rng: random.Random, canvas: Canvas) -> tuple[Floats, Floats]:
    """Corners in mm and in the crop: a pose before a pinhole camera, and the upright box of a detector."""
    steep = rng.random() < 0.45
    yaw = math.radians(rng.gauss(0, 28 if steep else 12))
    pitch = math.radians(rng.gauss(0, 20 if steep else 8))
    roll = math.radians(rng.gauss(0, 8 if steep else 2.5))
    rotation = _rotation(yaw, pitch, roll)
    w, h = canvas.plate
    corners = _corners(canvas)
    spatial = (corners - (w / 2, h / 2)) @ rotation[:, :2].T
    distance = rng.uniform(1500, 6000)  # mm
    flat = spatial[:, :2] * (distance / (distance + spatial[:, 2:]))
    # the lens and the position of the camera: vertical strokes lean, rows slope
    flat += flat[:, ::-1] * (rng.gauss(0, 0.22 if steep else 0.06), rng.gauss(0, 0.15 if steep else 0.03))
    (left, top), (right, bottom) = flat.min(0).tolist(), flat.max(0).tolist()
    # margins of the crop as shares of the box of the plate: usually small, sometimes large, sometimes negative
    cut = rng.random()
    if cut < 0.55:
        loose = [rng.gauss(0.005, 0.02) for _ in range(2)] + [rng.gauss(0.01, 0.05) for _ in range(2)]
    elif cut < 0.8:
        loose = [rng.uniform(-0.01, 0.09) for _ in range(2)] + [rng.uniform(-0.03, 0.25) for _ in range(2)]
    else:
        loose = [rng.uniform(-0.07, 0.01) for _ in range(2)] + [rng.uniform(-0.15, 0.02) for _ in range(2)]
    left, right = left - loose[0] * (right - left), right + loose[1] * (right - left)
    top, bottom = top - loose[2] * (bottom - top), bottom + loose[3] * (bottom - top)
    target = (flat - (left, top)) * (WIDTH / (right - left), HEIGHT / (bottom - top))
    return corners, target


def _rotation(yaw: float, pitch: float, roll: float) -> NDArray[np.float64]:
    cy, sy, cp, sp, cr, sr = (f(angle) for angle in (yaw, pitch, roll) for f in (math.cos, math.sin))
    return np.array(  # roll @ pitch @ yaw
        [
            [cr * cy - sr * sp * sy, -sr * cp, cr * sy + sr * sp * cy],
            [sr * cy + cr * sp * sy, cr * cp, sr * sy - cr * sp * cy],
            [-cp * sy, sp, cp * cy],
        ]
    )
