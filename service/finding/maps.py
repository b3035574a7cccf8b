"""Maps of a finder: from its output to the plates that they show."""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

STRIDE = 8  # pixels of the input a cell of the maps
CHANNELS = 9  # logit of a plate's centre, then x and y of four corners in cells from the cell's own centre
CANDIDATES = 256  # peaks that are looked at, the strongest first: noise may light up every third cell


class Plates(NamedTuple):
    """Plates, the most probable first: probabilities (n,) and corners (n, 4, 2) in reading order, in pixels."""

    probabilities: Floats
    corners: Floats


def decode(maps: Floats, threshold: float = 0.3, limit: int = 32) -> Plates:
    """The plates that one image's maps (H, W, CHANNELS) show, in pixels of the network's input.

    A plate is a cell whose probability is at least `threshold` and the highest of its 3x3 neighbourhood.
    """
    logits = np.ascontiguousarray(maps[..., 0])
    least = np.float32(np.log(threshold / (1 - threshold)))
    peaks = (logits >= least) & (logits >= cv2.dilate(logits, np.ones((3, 3), np.uint8))) & np.isfinite(maps).all(2)
    rows, columns = np.nonzero(peaks)
    order = np.argsort(-logits[rows, columns], kind="stable")[:CANDIDATES]
    rows, columns = rows[order], columns[order]
    centers = np.stack((columns, rows), 1).astype(np.float32) + np.float32(0.5)
    corners = (maps[rows, columns, 1:].reshape(-1, 4, 2) + centers[:, None]) * np.float32(STRIDE)
    probabilities = np.reciprocal(1 + np.exp(-logits[rows, columns]), dtype=np.float32)
    return distinct(Plates(probabilities, corners), limit)


def distinct(plates: Plates, limit: int = 32) -> Plates:
    """At most `limit` plates, the most probable first, none whose centre lies in one before it."""
    kept: list[int] = []
    for index in np.argsort(-plates.probabilities, kind="stable").tolist():
        x, y = plates.corners[index].mean(0).tolist()
        if len(kept) < limit and all(cv2.pointPolygonTest(plates.corners[k], (x, y), False) < 0 for k in kept):
            kept.append(index)
    return Plates(plates.probabilities[kept], plates.corners[kept])


def merged(passes: list[tuple[Plates, float]], limit: int = 32) -> Plates:
    """Plates of several looks at one image, each given with its scale, joined in pixels of the image."""
    probabilities = [plates.probabilities for plates, _ in passes]
    corners = [plates.corners / np.float32(scale) for plates, scale in passes]
    return distinct(Plates(np.concatenate(probabilities), np.concatenate(corners)), limit)
