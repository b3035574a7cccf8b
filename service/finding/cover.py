"""Covering of plates: their outlines, grown a little, are blurred, pixelated or filled. Pure functions.

A blurred plate keeps no more than a pixelated one does: the means of CELLS. Both can tell the plate's colour and
nothing of its characters; `fill` tells nothing at all.
"""

from collections.abc import Sequence
from typing import Any, Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from service.finding.refine import Form, around

Pixels = NDArray[np.uint8]
How = Literal["blur", "pixelate", "fill"]

GROWN: Final = Form(around=(1.25, 1.5))  # width and height of what is covered, in those of the outline
CELLS: Final = (4, 2)  # columns and rows of what a covered plate keeps: fewer than any plate has characters
GREY: Final = 128
_MARGIN: Final = 2  # pixels more: the corners of a tiny plate are wrong by as much
_FARTHEST: Final = 100_000  # pixels; beyond it OpenCV's polygons overflow


def polygon(corners: NDArray[Any]) -> NDArray[np.int32]:
    """The convex polygon (n, 2) that covers a plate with `corners` (4, 2), in whole pixels."""
    grown = around(corners.astype(np.float32), GROWN)
    outward = np.sign(grown - grown.mean(0)) * _MARGIN
    whole = np.clip(np.rint(grown + outward), -_FARTHEST, _FARTHEST).astype(np.int32)
    return np.asarray(cv2.convexHull(whole)[:, 0], np.int32)


def cover(image: Pixels, outlines: Sequence[NDArray[Any]], how: How) -> None:
    """Make unreadable, in a BGR image (H, W, 3), what lies in these outlines (4, 2)."""
    height, width = image.shape[:2]
    for corners in outlines:
        hull = polygon(corners)
        left, top = np.clip(hull.min(0), 0, (width, height)).tolist()
        right, bottom = np.clip(hull.max(0) + 1, 0, (width, height)).tolist()
        if left < right and top < bottom:
            _cover(image[top:bottom, left:right], hull - np.array([left, top], np.int32), how)


def _cover(part: Pixels, hull: NDArray[np.int32], how: How) -> None:
    """Cover the polygon in a part of an image."""
    mask = cv2.fillConvexPoly(np.zeros(part.shape[:2], np.uint8), hull, 255)
    cv2.copyTo(_instead(part, how), mask, part)


def _instead(part: Pixels, how: How) -> Pixels:
    """What a part of an image is replaced by."""
    if how == "fill":
        return np.full_like(part, GREY)
    height, width = part.shape[:2]
    cells = cv2.resize(part, CELLS, interpolation=cv2.INTER_AREA)
    smooth = cv2.INTER_LINEAR if how == "blur" else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(cells, (width, height), interpolation=smooth), np.uint8)
