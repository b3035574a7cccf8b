"""The budget of a process, shared by all its variants so that the bounds hold however many of them are loaded: places
for images, and threads that decode large images with a bound on their pixels."""

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Final

from service.errors import Busy
from service.reading.geometry import Pixels

AT_ONCE: Final = 4  # times the largest image: so many pixels are decoded at a time, at most


class Budget:
    """Places for images. Its methods belong to the event loop, but for `pixels`, which the decode threads call."""

    def __init__(self, images: int, threads: int, max_pixels: int) -> None:
        """Have places for `images`, and `threads` to decode large ones, of which one has up to `max_pixels`."""
        self._images = images
        self._admitted = 0
        self._max_pixels = max_pixels
        self._free = AT_ONCE * max_pixels
        self._freed = threading.Condition()
        self._jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()
        for _ in range(threads):  # daemons: the end of the process does not wait for a decoder
            threading.Thread(target=self._run, name="large-images", daemon=True).start()

    def check_room(self, count: int = 1) -> None:
        """Raise Busy where no `count` images would be admitted now."""
        if self._admitted + count > self._images:
            raise Busy(f"{self._admitted} images are already waiting: try again in a moment.")

    def admit(self, count: int) -> None:
        """Take `count` places; raises Busy where there are not so many."""
        self.check_room(count)
        self._admitted += count

    def release(self, count: int) -> None:
        """Give `count` places back."""
        self._admitted -= count

    def decode(self, work: Callable[[], None]) -> None:
        """Have a decode thread do `work`, which must not raise.

        The queue has no bound of its own: only images that were admitted come here.
        """
        self._jobs.put(work)

    @contextmanager
    def pixels(self, count: int) -> Iterator["Room"]:
        """Meanwhile an image of so many pixels may be decoded, as soon as others leave room for it; 0 if nobody knows
        how many it has."""
        count = count or self._max_pixels
        with self._freed:
            while count > self._free:
                self._freed.wait()
            self._free -= count
        room = Room()
        try:
            yield room
        finally:
            if room.kept_for is None:
                self._leave(count)
            else:
                weakref.finalize(room.kept_for, self._leave, count)
                room.kept_for = None

    def _leave(self, count: int) -> None:
        with self._freed:
            self._free += count
            self._freed.notify_all()

    def _run(self) -> None:
        while True:
            work = self._jobs.get()
            work()
            del work  # while the thread sleeps, its image is to be freed


class Room:
    """Room for the pixels of an image. It is left with the context, or as late as `kept_for` is freed."""

    kept_for: Pixels | None = None
