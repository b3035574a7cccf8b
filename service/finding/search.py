"""The search for the plates of a photograph: the finder's looks, then two passes of the refiner over what was found."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from service.finding import canvas, maps
from service.finding.looks import FINE, WIDE_FROM, Size, all_tiles, looks, tiles
from service.finding.maps import Plates
from service.finding.refine import Form, Refined, answers, crop, refined

Pixels = NDArray[np.uint8]
Infer = Callable[[NDArray[np.uint8]], NDArray[np.float32]]  # a network: images (N, H, W, 3) to what it computes

HINT: Final = 0.15  # probability from which the refiner looks at what the finder found
SURE: Final = 0.5  # probability, by finder and refiner together, from which it is a plate
MOST: Final = 32  # plates of a photograph
WIDE: Final = 0.05  # probability, by the finder alone, from which a wide search looks closer
COVERED: Final = 0.1  # probability from which a wide search gives what may be a plate: docs/redacting.md has the table
SUSPECTS: Final = 128  # outlines that a wide search gives, at most
SAME: Final = 0.5  # overlap, of the smaller one, from which two plates are the same


class Search:
    """Searches photographs with the networks of one thread."""

    def __init__(self, find: Infer, refine: Infer, sizes: Sequence[Size], form: Form) -> None:
        """`sizes` are those that `find` takes; `form` is that of what `refine` takes and answers."""
        self._find, self._refine, self._sizes, self._form = find, refine, sizes, form

    def __call__(self, image: Pixels) -> list[Refined]:
        """The plates of a BGR photograph (H, W, 3), the largest first, corners in its pixels."""
        plates = self._plates(image)
        if not plates:
            for left, top, right, bottom in tiles(image.shape[1], image.shape[0]):
                found, corner = self._plates(image[top:bottom, left:right]), np.array([left, top], np.float32)
                plates += [plate._replace(corners=plate.corners + corner) for plate in found]
        return sorted(distinct(plates)[:MOST], key=lambda plate: -_area(plate.corners))

    def _plates(self, image: Pixels) -> list[Refined]:
        """The plates of a photograph or of a tile."""
        rough = self.rough(image)
        found = self._refined(image, list(rough.corners))
        kept = [
            one._replace(probability=_joint(float(hint), one.probability))
            for one, hint in zip(found, rough.probabilities, strict=True)
        ]
        again = _likely(kept, SURE / 2)
        exact = self._refined(image, [one.corners for one in again])
        both = [
            two._replace(probability=(one.probability * _joint(1.0, two.probability)) ** 0.5)
            for one, two in zip(again, exact, strict=True)
        ]
        return _likely(both, SURE)

    def suspects(self, image: Pixels, least: float = COVERED) -> list[Refined]:
        """All that may be a plate, the most probable first, to be covered; for one plate, several outlines.

        A wide search: lower thresholds, tiles of every larger photograph, and of each suspect the rough corners beside
        the refined ones. Takes several times as long as `__call__`.
        """
        height, width = image.shape[:2]
        found: list[Refined] = []
        for left, top, right, bottom in [(0, 0, width, height), *all_tiles(width, height)]:
            corner = np.array([left, top], np.float32)
            for one in self._suspected(image[top:bottom, left:right]):
                found.append(one._replace(corners=one.corners + corner))
        return sorted(_likely(found, least), key=lambda one: -one.probability)[:SUSPECTS]

    def _suspected(self, image: Pixels) -> Iterator[Refined]:
        """What may be a plate in a photograph or a tile: refined, then roughly."""
        rough = self.rough(image, WIDE, WIDE_FROM)
        for one, quad, hint in zip(
            self._refined(image, list(rough.corners)), rough.corners, rough.probabilities, strict=True
        ):
            found = one._replace(probability=_joint(float(hint), one.probability))
            yield found
            yield found._replace(corners=quad)

    def rough(self, image: Pixels, least: float = HINT, fine: int = FINE) -> Plates:
        """What the finder alone finds with a probability of at least `least`, the most probable first, at most MOST."""
        (height, width), scale, passes = image.shape[:2], 1.0, []
        for size, longest in looks(width, height, self._sizes, fine):
            seen, smaller = canvas.fit(image, size, longest)
            scale *= smaller
            passes.append((maps.decode(self._find(seen[None])[0], least, MOST), scale))
            rows, columns = (max(1, round(length * smaller)) for length in image.shape[:2])
            image = seen[:rows, :columns]  # for a coarser look
        return maps.merged(passes, MOST)

    def _refined(self, image: Pixels, corners: Sequence[NDArray[Any]]) -> list[Refined]:
        """One pass of the refiner over plates with rough corners."""
        if not corners:
            return []
        maps = self._refine(np.stack([crop(image, quad, self._form) for quad in corners]))
        found = answers(maps, self._form)
        return [refined(answer, quad, self._form) for answer, quad in zip(found, corners, strict=True)]


def _likely(plates: Sequence[Refined], least: float) -> list[Refined]:
    """The plates of at least this probability, without those whose corners are no finite numbers."""
    return [one for one in plates if one.probability >= least and np.isfinite(one.corners).all()]


def _joint(finder: float, refiner: float) -> float:
    """One probability of two networks that see different things: the refiner's, pulled down by an unsure finder."""
    return refiner * float(min(1.0, (finder / 0.5) ** 0.25))


def distinct(plates: Sequence[Refined]) -> list[Refined]:
    """The plates, the most probable first, none that covers one before it."""
    kept: list[Refined] = []
    for plate in sorted(plates, key=lambda plate: -plate.probability):
        if all(_overlap(plate, other) < SAME for other in kept):
            kept.append(plate)
    return kept


def _area(corners: NDArray[Any]) -> float:
    return float(cv2.contourArea(cv2.convexHull(corners)))


def _overlap(one: Refined, other: Refined) -> float:
    """The area that two plates have in common, as a share of the smaller one's."""
    a, b = (cv2.convexHull(plate.corners.astype(np.float32)) for plate in (one, other))
    common = float(cv2.intersectConvexConvex(a, b)[0])
    return common / max(min(cv2.contourArea(a), cv2.contourArea(b)), 1e-9)
