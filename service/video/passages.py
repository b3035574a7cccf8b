"""Passages: of one camera's frames, the plates that are to be told, each once."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from service.finding.refine import Refined
from service.reading.text import Reading
from service.video.engines import Box, Engines
from service.video.fusion import Fused
from service.video.motion import Motion, joined, touches
from service.video.sources import Frame
from service.video.tracks import ALIKE, LOST_S, Told, Track, Tracks, overlap

AGAIN_S: Final = 10.0  # seconds after which the whole frame is searched, though nothing moves
SAME_PLACE: Final = 0.3  # overlap from which a plate is where it was
SAME_PLACE_S: Final = 600.0  # seconds for which a plate that stands may be hidden
BREAK_S: Final = 10.0  # seconds without a frame after which no plate goes on
ALONE: Final = 0.8  # confidence from which a single sighting is an event


class Rules(NamedTuple):
    """When a passage is told: from which confidence; after how many seconds at the latest, of a plate that stays; for
    how many seconds the same plate is not told again."""

    least: float = 0.3
    after_s: float = 10.0
    again_s: float = 30.0


RULES: Final = Rules()


class Follower:
    """Follows the plates of one camera. `looks` counts the frames that were searched, `frames` all."""

    def __init__(self, engines: Engines, rules: Rules = RULES) -> None:
        self.frames = self.looks = 0
        self._engines, self._rules = engines, rules
        self._motion, self._tracks = Motion(), Tracks(engines.grammar)
        self._told: list[Told] = []
        self._time, self._searched = 0.0, -AGAIN_S

    def see(self, frame: Frame) -> list[Track]:
        """Take the next frame; the passages that are to be told now."""
        before, self._time, self.frames = self._time, frame.time, self.frames + 1
        moved = self._moved(frame)
        standing = [one for one in self._tracks.alive if one.last == before]
        if moved is not None:
            standing = [one for one in standing if not touches(moved, one.plate.corners)]
        if frame.time - self._searched >= AGAIN_S:
            self._searched = frame.time
            height, width = frame.luma.shape
            self._look(frame, Box(0, 0, width, height))
        elif moved is not None:
            self._look(frame, moved)
        for track in standing:
            if track.last < frame.time:
                track.stand(frame.time)
        self._remember()
        late = [one for one in self._tracks.alive if frame.time - one.first >= self._rules.after_s]
        return self._new([*self._tracks.ended(frame.time), *late])

    def miss(self, time: float) -> list[Track]:
        """Take note that no frame has come until `time`, though one was due; the passages that are to be told now.

        What is told may be seen again, and is the same passage then. After a long break the place may be another
        car's, so nothing that was seen before goes on.
        """
        if time - self._time > BREAK_S:
            return self.end()
        return self._new([one for one in self._tracks.alive if time - one.last > LOST_S])

    def end(self) -> list[Track]:
        """The passages that are left when no frame follows."""
        alive, self._tracks.alive = self._tracks.alive, []
        return self._new(alive)

    def _moved(self, frame: Frame) -> Box | None:
        """The part of a frame that moved, with the plates that it touches."""
        box, (height, width) = self._motion.moved(frame.luma), frame.luma.shape
        for track in self._tracks.alive if box else ():
            assert box is not None
            box = joined(box, track.plate.corners, (height, width))
        return box

    def _look(self, frame: Frame, box: Box) -> None:
        """Search a part of a frame."""
        self.looks += 1
        image = frame.bgr()

        def read(plates: Sequence[Refined]) -> list[Reading]:
            return self._engines.read(image, plates)

        self._tracks.update(self._engines.find(image, box), frame.time, image, read)

    def _new(self, tracks: Sequence[Track]) -> list[Track]:
        """Those that are sure enough, and were not told already."""
        new = []
        for track in tracks:
            if track.fused and track.told is None and self._sure(track, track.fused.confidence):
                track.told = self._again(track, track.fused)
                if track.told is None:
                    track.told = Told(track.fused, track.plate.corners, track.last)
                    self._told.append(track.told)
                    new.append(track)
        return new

    def _sure(self, track: Track, confidence: float) -> bool:
        return track.surely and confidence >= (self._rules.least if track.seen > 1 else ALONE)

    def _again(self, track: Track, fused: Fused) -> Told | None:
        """What was told of the same plate before."""
        for one in self._told:
            place = overlap(one.corners, track.begin) >= SAME_PLACE
            most = SAME_PLACE_S if place else self._rules.again_s
            if track.first - one.last <= most and _same(fused, one.fused):
                return one
        return None

    def _remember(self) -> None:
        """Follow what was told while it is seen; forget it a while later."""
        for track in self._tracks.alive:
            if track.told:
                track.told.last, track.told.corners = track.last, track.plate.corners
        self._told = [one for one in self._told if self._time - one.last <= SAME_PLACE_S]


def _same(one: Fused, other: Fused) -> bool:
    return max(one.probability(other.text), other.probability(one.text)) >= ALIKE
