"""The budget of a process, shared by all its variants so that the bounds hold however many of them are loaded: places
for images, and threads that decode large images with a bound on their pixels.

An image takes places by the time that it costs, so that the queue is full before it takes longer than anybody waits:
256 crops, 32 photographs of 1280 x 720 or 12 of 12 megapixels are a full queue alike.
"""

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Final

from service.errors import Busy, TooManyPixels
from service.reading.geometry import Pixels

AT_ONCE: Final = 4  # times the largest image: so many pixels are decoded at a time, at most
REQUEST_PIXELS: Final = 100_000_000  # of all images of a request, at most; of one image, as many as it may have
PER_PLACE: Final = 1_000_000  # pixels that take a place more
SEARCHED: Final = 7  # places more of an image in which plates are searched
WIDE: Final = 5  # times as long a wide search takes


class Budget:
    """Places for images. Its methods belong to the event loop, but for `pixels`, which the decode threads call."""

    def __init__(self, places: int, threads: int, max_pixels: int) -> None:
        """Have so many places, and `threads` to decode large images, of which one has up to `max_pixels`."""
        self._places = places
        self._taken = 0
        self._max_pixels = max_pixels
        self._free = AT_ONCE * max_pixels
        self._freed = threading.Condition()
        self._jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()
        for _ in range(threads):  # daemons: the end of the process does not wait for a decoder
            threading.Thread(target=self._run, name="large-images", daemon=True).start()

    def check_room(self) -> None:
        """Raise Busy where all places are taken."""
        if self._taken >= self._places:
            raise Busy("The queue is full: try again in a moment.")

    def places(self, sizes: Sequence[int | None], find: bool, wide: bool = False) -> int:
        """Places for the images of a request with so many pixels each, None where nobody knows how many.

        `wide` is a search that covers plates. Raises TooManyPixels for more than a request may hold.
        """
        pixels = [self._max_pixels if size is None else min(size, self._max_pixels) for size in sizes]
        most = max(REQUEST_PIXELS, self._max_pixels)
        if sum(pixels) > most:
            raise TooManyPixels(
                f"The images have {sum(pixels):,} pixels together; at most {most:,} are accepted in a request, where a "
                f"GIF, TIFF, AVIF or HEIC counts as {self._max_pixels:,}: send them in several requests."
            )
        return sum(1 + size // PER_PLACE + SEARCHED * find * (WIDE if wide else 1) for size in pixels)

    @contextmanager
    def taken(self, places: int) -> Iterator[Callable[[int], None]]:
        """Meanwhile so many places are taken; raises Busy where none is left. Call what it yields to give some back.

        One is enough, whatever the request takes: what is before it decides how long it waits.
        """
        self.check_room()
        self._taken += places
        held = places

        def leave(count: int) -> None:
            nonlocal held
            count = min(count, held)
            held -= count
            self._taken -= count

        try:
            yield leave
        finally:
            leave(held)

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
