"""Engines that find and read the plates of frames. They belong to the thread that made them; all cameras share them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from service import artifact, backends
from service.artifact import check_probe
from service.errors import ArtifactError
from service.finding.canvas import shrunk
from service.finding.refine import Refined, rectified
from service.pipeline.stages import search_with
from service.reading.geometry import Pixels
from service.reading.plates import likeliest, restrict
from service.reading.text import Reader, Reading

LONGEST: Final = 1200  # pixels of the longer side of what is searched: the finder takes its smaller canvas up to there
CANDIDATES: Final = 8  # texts of a reading: what is fused


class Box(NamedTuple):
    """A part of a frame in pixels; `right` and `bottom` are the first ones outside."""

    left: int
    top: int
    right: int
    bottom: int


class Engines:
    """The networks of a variant that reads and of one that finds, loaded and proved by their probes."""

    def __init__(self, artifacts: Path, variant: str, finder: str | None, regions: Sequence[str] = ()) -> None:
        """Only plates of the `regions` are read, where any are named.

        Raises ArtifactError where a network cannot be loaded or proved, or where no finder is named, and BadParameter
        for a region that the reader does not know.
        """
        if not finder:
            raise ArtifactError("Video needs a finder: set LPR_FINDER.")
        model = artifact.find(artifacts, variant)
        found = artifact.find_finder(artifacts, finder)
        self.manifest = model.reader
        self._only = restrict(self.manifest.grammar, None, None, regions)
        self.grammar = self._only or self.manifest.grammar
        self._all = [backends.load(one) for one in (model, *found)]
        for engine, one in zip(self._all, (model, *found), strict=True):
            check_probe(engine, one)
        search = search_with(found, self._all[1:])
        assert search is not None
        self._search, self._texts = search, Reader.of(self.manifest)

    def find(self, image: Pixels, box: Box) -> list[Refined]:
        """The plates in a part of a BGR frame (H, W, 3), corners in pixels of the frame."""
        part = np.ascontiguousarray(image[box.top : box.bottom, box.left : box.right])
        height, width = part.shape[:2]
        scale = min(1.0, LONGEST / max(width, height))
        if scale < 1:
            part = shrunk(part, (round(width * scale), round(height * scale)))
        corner = np.array([box.left, box.top], np.float32)
        return [one._replace(corners=one.corners / np.float32(scale) + corner) for one in self._search(part)]

    def read(self, image: Pixels, plates: Sequence[Refined]) -> list[Reading]:
        """What the plates of a frame say, in one batch."""
        if not plates:
            return []
        crops = np.stack([rectified(image, way, self.manifest.size) for plate in plates for way in plate.ways])
        logits = iter(self._all[0].infer(crops))
        return [self._read([next(logits) for _ in plate.ways], plate.ways) for plate in plates]

    def _read(self, logits: Sequence[NDArray[np.float32]], ways: Sequence[Refined]) -> Reading:
        """What a plate says, in the best of the ways; which one that is, the regions do not decide."""
        readings = [self._texts.read(one, CANDIDATES) for one in logits]
        best = likeliest(readings, ways)
        return readings[best] if self._only is None else self._texts.read(logits[best], CANDIDATES, self._only)

    def close(self) -> None:
        """Free the engines."""
        for engine in self._all:
            engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
