"""Tracks: the plates of one camera, followed from frame to frame by where they must be at constant speed."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.artifact import Grammar
from service.finding.refine import Refined
from service.reading.geometry import Pixels
from service.reading.plates import doubt
from service.reading.text import Reading
from service.video.fusion import Fused, Weighed, fuse

Floats = NDArray[np.float32]

LOST_S: Final = 2.0  # seconds after which a plate that is not seen has left
OVERLAP: Final = 0.1  # of what a plate and its place as predicted cover together, both with a margin
MARGIN: Final = 0.5  # widths of a plate around it
FAR: Final = 12.0  # widths of a plate within which an alike text is the same plate
ALIKE: Final = 0.05  # probability that two readings are of the same plate
SURE: Final = 0.98  # confidence from which a plate is read again only where it is larger
READINGS: Final = 3  # before a plate is sure
GROWN: Final = 1.25  # times the width of the widest reading
KEPT: Final = 16  # readings of a track that are fused, the best
CUT: Final = 0.05  # weight of a plate that the edge of the frame cuts

Read = Callable[[Sequence[Refined]], list[Reading]]


@dataclass(eq=False)
class Best:
    """The best look at a plate: what it said, and its picture with a margin."""

    worth: float
    reading: Reading
    image: Pixels


@dataclass(eq=False)
class Told:
    """A passage that was told: what it said, where it was last, and when."""

    fused: Fused
    corners: Floats
    last: float


@dataclass(eq=False)
class Track:
    """A plate that passes. Times are seconds of the frames, places are pixels."""

    plate: Refined
    first: float
    last: float
    begin: Floats
    velocity: Floats = field(default_factory=lambda: np.zeros(2, np.float32))
    seen: int = 1
    surely: bool = False  # whether any sighting alone would be given as a plate
    readings: list[Weighed] = field(default_factory=list)
    widest: float = 0.0
    fused: Fused | None = None
    best: Best | None = None
    colours: Counter[str] = field(default_factory=Counter)
    rows: Counter[int] = field(default_factory=Counter)
    told: Told | None = None  # once its event was told, or that of the same passage before

    def expected(self, time: float) -> Floats:
        """Where its corners (4, 2) are now, at constant speed."""
        return self.plate.corners + self.velocity * np.float32(time - self.last)

    def wants(self, plate: Refined) -> bool:
        """Whether a further reading is worth its time."""
        if plate.cut and self.readings:
            return False
        unsure = self.fused is None or self.fused.confidence < SURE or len(self.readings) < READINGS
        return unsure or plate.width > GROWN * self.widest

    def see(self, plate: Refined, time: float) -> None:
        """Take a sighting."""
        moved = (plate.corners - self.plate.corners).mean(0) / np.float32(max(time - self.last, 1e-3))
        self.velocity = moved if self.seen == 1 else (self.velocity + moved) / 2
        self.plate, self.last, self.seen = plate, time, self.seen + 1

    def stand(self, time: float) -> None:
        """Nothing moved where it is: it is still there."""
        self.last, self.velocity = time, np.zeros(2, np.float32)

    def read(self, reading: Reading, plate: Refined, image: Pixels, grammar: Grammar) -> None:
        """Take what a frame (H, W, 3) says."""
        worth = max(reading.confidence, 1e-3) * plate.probability * (CUT if plate.cut else 1.0)
        self.surely |= doubt(reading, None, plate) is None
        self.readings = sorted([*self.readings, Weighed(reading, worth)], key=lambda one: -one.weight)[:KEPT]
        self.widest = max(self.widest, 0.0 if plate.cut else plate.width)
        self.fused = fuse(self.readings, grammar)
        self.colours[plate.colour] += 1
        self.rows[plate.rows] += 1
        if reading.text and (self.best is None or worth > self.best.worth):
            self.best = Best(worth, reading, _around(image, plate.corners))

    def alike(self, reading: Reading) -> bool:
        """Whether a reading may be of this plate."""
        if self.fused is None or not reading.text:
            return False
        same = any(text == self.fused.text and share >= ALIKE for text, share in reading.candidates)
        return same or self.fused.probability(reading.text) >= ALIKE


class Tracks:
    """The plates that one camera sees now."""

    def __init__(self, grammar: Grammar) -> None:
        self.alive: list[Track] = []
        self._grammar = grammar

    def update(self, plates: Sequence[Refined], time: float, image: Pixels, read: Read) -> None:
        """Take the plates of a frame: first by their places, then, those that are left, by their texts."""
        pairs, left = self._by_place(plates, time)
        wanted = [plate for track, plate in pairs if track.wants(plate)] + left
        texts = {id(plate): text for plate, text in zip(wanted, read(wanted), strict=True)}
        for plate in left:
            track = self._by_text(plate, texts[id(plate)], time, [track for track, _ in pairs])
            if track:
                track.see(plate, time)
            else:
                track = Track(plate, time, time, plate.corners)
                self.alive.append(track)
            pairs.append((track, plate))
        for track, plate in pairs:
            if text := texts.get(id(plate)):
                track.read(text, plate, image, self._grammar)

    def ended(self, time: float) -> list[Track]:
        """Take out the plates that have left."""
        gone = [track for track in self.alive if time - track.last > LOST_S]
        self.alive = [track for track in self.alive if time - track.last <= LOST_S]
        return gone

    def _by_place(self, plates: Sequence[Refined], time: float) -> tuple[list[tuple[Track, Refined]], list[Refined]]:
        """Plates with the tracks that they go on with, and those of no track; the largest overlaps first."""
        overlaps = [
            (overlap(track.expected(time), plate.corners), index, number)
            for index, track in enumerate(self.alive)
            for number, plate in enumerate(plates)
        ]
        tracks, taken, pairs = set[int](), set[int](), []
        for share, index, number in sorted(overlaps, reverse=True):
            if share >= OVERLAP and index not in tracks and number not in taken:
                tracks.add(index)
                taken.add(number)
                pairs.append((self.alive[index], plates[number]))
                self.alive[index].see(plates[number], time)
        return pairs, [plate for number, plate in enumerate(plates) if number not in taken]

    def _by_text(self, plate: Refined, reading: Reading, time: float, taken: Iterable[Track]) -> Track | None:
        """The track nearby that is not seen in this frame and has an alike text."""
        busy = {id(track) for track in taken}
        near = {
            float(np.hypot(*(track.expected(time) - plate.corners).mean(0))): track
            for track in self.alive
            if id(track) not in busy and track.alike(reading)
        }
        return near[min(near)] if near and min(near) <= FAR * plate.width else None


def overlap(one: Floats, other: Floats) -> float:
    """The area that two plates (4, 2) have in common as a share of what they cover together, upright and with margins.

    The margin is a part of the width: plates are wide and low, and lose each other upwards first.
    """
    a, b = _box(one), _box(other)
    low, high = np.maximum(a[0], b[0]), np.minimum(a[1], b[1])
    common = float(np.prod(np.maximum(high - low, 0)))
    return common / max(float(np.prod(a[1] - a[0]) + np.prod(b[1] - b[0])) - common, 1e-9)


def _box(corners: Floats) -> tuple[Floats, Floats]:
    margin = np.float32(MARGIN) * np.ptp(corners[:, 0])
    return corners.min(0) - margin, corners.max(0) + margin


def _around(image: Pixels, corners: Floats) -> Pixels:
    """The plate with half its height around it, as a copy: the frame is to be freed."""
    margin = np.ptp(corners[:, 1]) / 2
    left, top = np.maximum(corners.min(0) - margin, 0).astype(int)
    right, bottom = np.ceil(corners.max(0) + margin).astype(int)
    return image[top:bottom, left:right].copy()
