"""Watch: the frames of all cameras, one after the other, through the same engines, to events."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from service.errors import BadParameter
from service.video.crops import Crops
from service.video.engines import Engines
from service.video.events import Event, event
from service.video.lists import WatchList
from service.video.messages import say
from service.video.passages import Follower, Rules
from service.video.sources import Feeder, Mailbox, Source
from service.video.tracks import Track

TURN_S: Final = 1.0  # seconds to wait for a frame before looking at what else is to be done

Tell = Callable[[Event, Track], None]


@dataclass
class Options:
    """How to watch: frames a second of each camera, whether files play at their own pace, what becomes of plates."""

    fps: float = 5.0
    realtime: bool = False
    rules: Rules = field(default_factory=Rules)
    lists: WatchList = field(default_factory=lambda: WatchList(()))
    crops: Crops | None = None


class Watch:
    """Watches sources until their ends, or until it is stopped. The engines belong to the thread that calls `run`."""

    def __init__(self, sources: Sequence[Source], engines: Engines, tell: Tell, options: Options) -> None:
        """`tell` is called with each event, and the track that it is of, on the thread that runs."""
        names = [source.name for source in sources]
        if double := next((name for name in names if names.count(name) > 1), None):
            raise BadParameter(f"Two cameras are called {double}: name them, as in front=ADDRESS.")
        self._tell, self._options, self._mailbox = tell, options, Mailbox()
        self.followers = {name: Follower(engines, options.rules) for name in names}
        self._feeders = {
            source.name: Feeder(source, self._mailbox, options.fps, options.realtime) for source in sources
        }

    @property
    def dropped(self) -> int:
        """Frames of live sources that newer ones replaced."""
        return self._mailbox.dropped

    def run(self) -> bool:
        """Watch; False if a file could not be read to its end."""
        for feeder in self._feeders.values():
            feeder.start()
        try:
            while not self._mailbox.done:
                self._turn()
        finally:
            self.stop()
            self._mailbox.close()
            for name, follower in self.followers.items():
                self._give(name, follower.end())
        return self._told_errors() == 0

    def stop(self) -> None:
        """Have `run` return; any thread, or a signal's handler, may call it."""
        for feeder in self._feeders.values():
            feeder.stop()
        self._mailbox.closed = True

    def _turn(self) -> None:
        taken = self._mailbox.take(TURN_S)
        if taken:
            name, frame = taken
            self._give(name, self.followers[name].see(frame))
        for name, feeder in self._feeders.items():
            if feeder.source.live and not self._mailbox.holds(name):  # else it is late only because this thread is
                due = time.time() - feeder.start_time - 1 / self._options.fps
                self._give(name, self.followers[name].miss(due))
        if self._options.crops:
            self._options.crops.clean()

    def _give(self, name: str, tracks: Sequence[Track]) -> None:
        for track in tracks:
            told = event(name, track, self._feeders[name].start_time)
            if track.fused:
                told.matches = self._options.lists.matches(track.fused)
            if self._options.crops and track.best:
                told.crop = self._options.crops.keep(told.id, track.best.image)
            self._tell(told, track)

    def _told_errors(self) -> int:
        errors = [(name, feeder.error) for name, feeder in self._feeders.items() if feeder.error]
        for name, error in errors:
            say(f"{name}: {error}")
        return len(errors)
