"""Items: the parts of the images of a request, and what becomes of them. Knows neither HTTP nor Prometheus.

An item begins as a whole image. Stages replace it by none, one or many items, each with its place in the request. An
item ends with an outcome: what was seen, or why it cannot be read. A request is complete when all its items have ended.
"""

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from service.artifact import Grammar
from service.errors import InputError, TooLate
from service.finding.cover import How
from service.finding.refine import Refined
from service.reading.containers import Encoded
from service.reading.encode import Kind
from service.reading.geometry import Pixels
from service.reading.text import Reading

Source = Encoded | Pixels | InputError  # an image: a file, BGR uint8 (H, W, 3), or why there is none
Place = tuple[int, ...]  # number of the image, then of the part of it, then of the part of that, ...

STAGES: Final = ("decode", "find", "rectify", "preprocess", "inference", "postprocess")  # whose time is told


@dataclass(frozen=True)
class Seen:
    """One plate: size of its image in pixels, orientation applied, what the network computed (T, C), and its text.

    `plate` tells where it was found; None where the image was read as a crop of one plate.
    """

    width: int
    height: int
    logits: NDArray[np.float32]
    reading: Reading
    truncated: bool = False  # whether the file ended early, and only a part of the image was seen
    plate: Refined | None = None


@dataclass(frozen=True)
class Empty:
    """An image in which no plate was found."""

    truncated: bool = False


@dataclass(frozen=True)
class Redacted:
    """An image whose plates are covered, encoded again: its bytes, their kind, and how many plates were covered."""

    data: bytes
    kind: Kind
    plates: int
    truncated: bool = False


Outcome = Seen | Empty | Redacted | InputError  # of one item


@dataclass(frozen=True)
class Timing:
    """Seconds per stage of a request. Where several threads shared its items: of the one that was done last.

    `queue` is all the waiting: for a thread, for the images computed together with its own, for hand-overs.
    """

    decode: float
    find: float
    rectify: float
    preprocess: float
    queue: float
    inference: float
    postprocess: float
    total: float


class Item:
    """A part of an image. `value` is what the last stage made of it; an item that is queued is not changed any more,
    but for `Request.drop`."""

    __slots__ = ("begun", "place", "request", "seconds", "value")

    def __init__(
        self, request: "Request", place: Place, value: Any, seconds: dict[str, float] | None = None, begun: bool = False
    ) -> None:
        self.request = request
        self.place = place
        self.value = value
        self.seconds = {} if seconds is None else seconds  # by stage
        self.begun = begun  # whether an engine computes it or has done so

    def spend(self, stage: str, seconds: float) -> None:
        """Add to the time of a stage."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    def become(self, values: Sequence[Any]) -> "Sequence[Item]":
        """The items of these values, which take the place of this one. Where there are none, it ends here."""
        if len(values) == 1:
            return (Item(self.request, self.place, values[0], self.seconds, self.begun),)
        if not values:
            self.finish(None)
            return ()
        self.request.split(self, len(values))
        places = [(*self.place, number) for number in range(len(values))]
        parts = [Item(self.request, *part, begun=self.begun) for part in zip(places, values, strict=True)]
        parts[0].seconds = self.seconds
        return parts

    def finish(self, outcome: Outcome | None) -> None:
        """End with an outcome, or with none where the item is no part of what was asked for."""
        self.request.finish(self, outcome)


class Request:
    """The items of one request and their outcomes. Threads share it."""

    def __init__(
        self,
        images: Sequence[Any],
        done: Callable[[Exception | None], None],
        top_k: int = 1,
        only: Grammar | None = None,
        expires: float = math.inf,
        find: bool = False,
        cover: How | None = None,
    ) -> None:
        """`done` is called on any thread once all items have ended, or with the error that fails the request.

        `top_k`, `only`, `find` and `cover` are those of `Recognizer.recognize`; an inference thread must begin with it
        before `expires`, by time.perf_counter.
        """
        self.top_k = top_k
        self.only = only
        self.find = find
        self.cover = cover
        self.expires = expires
        self.begun = False  # whether an inference thread has begun with the first of its items
        self.on_begin: Callable[[], None] = lambda: (
            None
        )  # told, on any thread, of each image that an engine begins with
        self.dropped = False
        self.items = [Item(self, (number,), image) for number, image in enumerate(images)]  # as they enter the line
        self._images = self._unfinished = self._waiting = len(images)
        self._outcomes: dict[Place, Outcome] = {}
        self._spent: dict[int, dict[str, float]] = {}  # by thread
        self._last: dict[str, float] = {}
        self._lock = threading.Lock()
        self._done = done
        if not images:
            done(None)

    def wanted(self) -> bool:
        """Whether its items are worth any work; fails the request where all of them have waited too long."""
        if not self.dropped and not self.begun and time.perf_counter() > self.expires:
            self.fail(too_late())
        return not self.dropped

    def drop(self) -> bool:
        """Have no more of its items computed, and free them; False if all of them are computed already."""
        with self._lock:
            self.dropped = self.dropped or self._waiting > 0
        if self.dropped:
            for item in self.items:  # which a queue may hold for a while yet
                item.value = b""
        return self.dropped

    def free(self) -> None:
        """Let go of the images that entered: what still refers to the request, such as a traceback, keeps only it."""
        for item in self.items:
            item.value = b""
        self.items = []

    def begin(self, item: Item) -> bool:
        """Let an engine compute an item, unless the request was dropped."""
        with self._lock:
            begins = not self.dropped and not item.begun
            if begins:
                item.begun = True
                self._waiting -= 1
        if begins:
            self.on_begin()
        return not self.dropped

    def split(self, item: Item, parts: int) -> None:
        """Wait for so many parts of an item instead of the item."""
        with self._lock:
            self._unfinished += parts - 1
            self._waiting += 0 if item.begun else parts - 1

    def finish(self, item: Item, outcome: Outcome | None) -> None:
        """Take the outcome of an item, with the time that the calling thread spent on it."""
        with self._lock:
            if outcome is not None:
                self._outcomes[item.place] = outcome
            thread = threading.get_ident()
            if spent := self._spent.get(thread):
                for stage, seconds in item.seconds.items():
                    spent[stage] = spent.get(stage, 0.0) + seconds
            else:
                spent = self._spent[thread] = item.seconds
            self._waiting -= not item.begun
            self._unfinished -= 1
            done = self._unfinished == 0 and not self.dropped
        if done:
            self._last = spent
            self._done(None)

    def fail(self, error: Exception) -> None:
        """End the request without its outcomes."""
        self.dropped = True
        self._done(error)

    def outcomes(self) -> list[tuple[Outcome, ...]]:
        """Of each image the outcomes of its items, in the order of their places, once the request is complete."""
        found: list[list[Outcome]] = [[] for _ in range(self._images)]
        for place in sorted(self._outcomes):
            found[place[0]].append(self._outcomes[place])
        return [tuple(outcomes) for outcomes in found]

    def timing(self, total: float) -> Timing:
        """Where the `total` seconds went."""
        spent = {stage: self._last.get(stage, 0.0) for stage in STAGES}
        return Timing(**spent, queue=max(0.0, total - sum(spent.values())), total=total)


def fail(items: Sequence[Item], error: Exception) -> None:
    """Fail the requests of items."""
    for item in items:
        item.request.fail(error)


def too_late() -> TooLate:
    """The error of what waited longer than it may."""
    return TooLate("The server is too busy to read this in time: try again in a moment.")
