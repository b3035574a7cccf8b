"""Views: a plate cut out again, a little beside where it was found, for a text that was read unsurely.

What a network makes of a blurred character changes with where it lies in the pixels of the crop; what several crops
say together is right more often (test-time augmentation). Views of two rows differ in the share of the columns that the
upper row gets, because either row may have more characters; and each row is looked at alone, where its characters are
as wide as those of a plate of one row.
"""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from service.finding.refine import Refined, rectified
from service.finding.rows import UPPER
from service.finding.warp import frame, warped

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]

SURE: Final = 0.9  # confidence of a text from which on its plate is not looked at again


class View(NamedTuple):
    """How a plate is cut out. It is moved by shares of its width and height. `upper` is the upper row's share of the
    columns, where there are two rows."""

    across: float = 0.0
    down: float = 0.0
    upper: float = UPPER


FOUND: Final = View()
FURTHER: Final = (View(0.03, 0.0, 0.5), View(-0.03, 0.0, 0.5), View(0.0, 0.06, 0.3), View(0.0, -0.06, 0.6))
ROWS: Final = (View(upper=1.0), View(upper=0.0))  # each of two rows alone
_ROOM: Final = (0.03, 0.06)  # on each side of the plate, that all views have it
_FINER: Final = (4, 2)  # rows and columns to one of a crop: those of a two-row plate have half its height


class Around(NamedTuple):
    """A straight plate and what lies around it, which further views are cut from; and the plate's corners (4, 2)."""

    pixels: Pixels
    corners: Floats


def surroundings(image: Pixels, plate: Refined, size: tuple[int, int]) -> Around:
    """What views of this size need of a plate in a photograph."""
    height, width = (
        round(n * finer * (1 + 2 * room)) for n, finer, room in zip(size, _FINER, _ROOM[::-1], strict=True)
    )
    across, down = _ROOM
    matrix = cv2.getPerspectiveTransform(frame((1, 1)), plate.corners.astype(np.float32))
    outside = cv2.perspectiveTransform(_box(-across, -down, 1 + across, 1 + down)[None], matrix)[0]
    left, top = (n * room / (1 + 2 * room) for n, room in zip((width, height), _ROOM, strict=True))
    return Around(warped(image, outside, (height, width)), _box(left, top, width - left, height - top))


def alone(crop: Pixels, size: tuple[int, int]) -> Around:
    """What views of this size need of an image that is one plate. The pixels of its edges are repeated outside."""
    height, width = (min(n, most * finer) for n, most, finer in zip(crop.shape[:2], size, _FINER, strict=True))
    across, down = (math.ceil(n * room) for n, room in zip((width, height), _ROOM, strict=True))
    small = cv2.resize(crop, (width, height), interpolation=cv2.INTER_AREA)
    pixels = cv2.copyMakeBorder(small, down, down, across, across, cv2.BORDER_REPLICATE)
    return Around(np.asarray(pixels, np.uint8), _box(across, down, across + width, down + height))


def views(around: Around, rows: int, turned: bool, size: tuple[int, int], wanted: Sequence[View] = FURTHER) -> Pixels:
    """The `wanted` views (N, *size, 3) of a plate of so many rows; `turned` where it is upside down there."""
    sides = around.corners[2] - around.corners[0]
    shown = []
    for view in wanted:
        corners = np.roll(around.corners + sides * (view.across, view.down), 2 * turned, 0)
        shown.append(rectified(around.pixels, Refined(corners, 1.0, rows, "", False), size, view.upper))
    return np.stack(shown)


def _box(left: float, top: float, right: float, bottom: float) -> Floats:
    """Its corners (4, 2), clockwise from the upper left."""
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.float32)
