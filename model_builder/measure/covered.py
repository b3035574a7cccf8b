"""What a search for redaction leaves readable: the table from which `finding.search.COVERED` is chosen."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from model_builder.measure import blocks
from model_builder.render.scene import Scene
from service.finding.cover import polygon
from service.finding.refine import Refined
from service.finding.search import COVERED, Search

LEAST: Final = (0.02, 0.05, COVERED, 0.2, 0.3, 0.5)
NEEDED: Final = 0.8  # share of a plate's labelled area; of one that is covered less, characters may be read
READABLE: Final = 40  # pixels of a plate's longer side, below which nobody reads it


def table(search: Search, name: str, scenes: Iterable[Scene]) -> str:
    """Markdown, of each least probability: the set's readable plates that are left, and what else is covered."""
    titles = ["set", "probability at least", "readable plates", "left", "share", "covered of what is no plate"]
    return blocks.table(titles, _rows(name, search, scenes))


def _rows(name: str, search: Search, scenes: Iterable[Scene]) -> list[list[str]]:
    plates, left = 0, np.zeros(len(LEAST), int)
    others: list[list[float]] = []
    for scene in tqdm(scenes, name, unit="photograph", leave=False, dynamic_ncols=True):
        suspects = search.suspects(scene.image, min(LEAST))
        readable = [plate.corners for plate in scene.plates if _longer(plate.corners) >= READABLE]
        known = _drawn(scene.image.shape[:2], [*(plate.corners for plate in scene.plates), *scene.unsure])
        plates += len(readable)
        others.append([])
        for place, least in enumerate(LEAST):
            covered = _covered(scene.image.shape[:2], suspects, least)
            left[place] += sum(share(corners, covered) < NEEDED for corners in readable)
            others[-1].append(float((covered & ~known).mean()))
    mean = np.mean(others, axis=0) if others else np.zeros(len(LEAST))
    return [
        [name, f"{least:g}", str(plates), str(count), f"{100 * count / max(1, plates):.1f} %", f"{100 * other:.2f} %"]
        for least, count, other in zip(LEAST, left.tolist(), mean.tolist(), strict=True)
    ]


def share(corners: NDArray[Any], covered: NDArray[np.bool_]) -> float:
    """The share of a plate's area, as far as it lies in the image, that is covered; 1 where nothing of it does."""
    plate = _drawn(covered.shape, [corners])
    return float((plate & covered).sum() / plate.sum()) if plate.any() else 1.0


def _covered(size: tuple[int, ...], suspects: Sequence[Refined], least: float) -> NDArray[np.bool_]:
    mask = np.zeros(size, np.uint8)
    for one in suspects:
        if one.probability >= least:
            cv2.fillConvexPoly(mask, polygon(one.corners), 1)
    return mask.astype(bool)


def _drawn(size: tuple[int, ...], outlines: Iterable[NDArray[Any]]) -> NDArray[np.bool_]:
    mask = np.zeros(size, np.uint8)
    for corners in outlines:
        cv2.fillConvexPoly(mask, np.rint(corners).astype(np.int32), 1)
    return mask.astype(bool)


def _longer(corners: NDArray[Any]) -> float:
    sides = np.hypot(*(np.roll(corners, -1, 0) - corners).T)
    return float(sides.max())
