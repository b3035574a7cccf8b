"""Motion: where a frame differs from the last one that was searched, at low resolution."""

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from service.video.engines import Box

CELL: Final = 16  # pixels of a frame a cell: their mean has a quarter of a grey level of a camera's noise
LEVELS: Final = 6.0  # grey levels by which a cell's mean must differ
AROUND: Final = 4  # cells around what moved that are searched too
LEAST: Final = (640, 384)  # pixels of a part that is searched: the finder's canvas, so that less costs the same


class Motion:
    """Compares the frames of one camera."""

    def __init__(self) -> None:
        self._before: NDArray[np.float32] | None = None

    def moved(self, luma: NDArray[np.uint8]) -> Box | None:
        """The part of a frame to search, by its brightness (H, W); None where nothing moved.

        A frame of another size, and the first one, has moved as a whole. A camera's change of exposure is no motion:
        the median of all differences is taken off.
        """
        height, width = luma.shape
        size = max(1, width // CELL), max(1, height // CELL)
        cells = np.asarray(cv2.resize(luma, size, interpolation=cv2.INTER_AREA), np.float32)
        before, whole = self._before, Box(0, 0, width, height)
        if before is None or before.shape != cells.shape:
            self._before = cells
            return whole
        difference = cells - before
        rows, columns = np.nonzero(np.abs(difference - np.median(difference)) > LEVELS)
        if not len(rows):
            return None
        self._before = cells
        low, high = (columns.min(), rows.min()), (columns.max() + 1, rows.max() + 1)
        return _grown(Box(*(int(at - AROUND) * CELL for at in low), *(int(at + AROUND) * CELL for at in high)), whole)


def touches(box: Box, corners: NDArray[np.float32]) -> bool:
    """Whether a plate (4, 2), with a margin, has a part in the box."""
    (left, top), (right, bottom) = _around(corners)
    return bool(right > box.left and bottom > box.top and left < box.right and top < box.bottom)


def joined(box: Box, corners: NDArray[np.float32], whole: tuple[int, int]) -> Box:
    """The box grown to hold a plate (4, 2) that it touches, with a margin; `whole` is the frame's (height, width)."""
    if not touches(box, corners):
        return box
    (left, top), (right, bottom) = _around(corners)
    return Box(
        max(0, min(box.left, int(left))),
        max(0, min(box.top, int(top))),
        min(whole[1], max(box.right, int(right) + 1)),
        min(whole[0], max(box.bottom, int(bottom) + 1)),
    )


def _around(corners: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    margin = np.ptp(corners[:, 0]) / 2
    return corners.min(0) - margin, corners.max(0) + margin


def _grown(box: Box, whole: Box) -> Box:
    """The part with at least LEAST pixels, within the frame."""
    left, right = _span(box.left, box.right, LEAST[0], whole.right)
    top, bottom = _span(box.top, box.bottom, LEAST[1], whole.bottom)
    return Box(left, top, right, bottom)


def _span(low: int, high: int, least: int, end: int) -> tuple[int, int]:
    low, high = max(0, low), min(end, high)
    missing = max(0, min(least, end) - (high - low))
    low = max(0, min(low - missing // 2, end - (high - low) - missing))
    return low, min(end, max(high, low + min(least, end)))
