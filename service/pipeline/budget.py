"""What all variants of a process share, so that its bounds hold however many of them are loaded: the number of images
that were admitted, and the threads that decode large images, with a bound on their pixels."""

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Final

from service.errors import Busy

AT_ONCE: Final = 4  # times the largest image: so many pixels are decoded at a time, at most


class Budget:
    """Places for images. Its methods belong to the event loop, but for `decode`."""

    def __init__(self, images: int, threads: int, max_pixels: int) -> None:
        """Have places for `images`, and `threads` to decode large ones, of which one has up to `max_pixels`."""
        self._images = images
        self._admitted = 0
        self._max_pixels = max_pixels
        self._free = AT_ONCE * max_pixels
        self._freed = threading.Condition()
        self._jobs: SimpleQueue[tuple[int, Callable[[], None]]] = SimpleQueue()
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

    def decode(self, pixels: int, work: Callable[[], None]) -> None:
        """Have a thread do `work`, which must not raise, on an image of so many pixels; 0 if nobody knows how many.

        The queue has no bound of its own: only images that were admitted come here.
        """
        self._jobs.put((pixels or self._max_pixels, work))

    def _run(self) -> None:
        while True:
            pixels, work = self._jobs.get()
            with self._freed:
                while pixels > self._free:
                    self._freed.wait()
                self._free -= pixels
            try:
                work()
            finally:
                del work  # while the thread sleeps, its image is to be freed
                with self._freed:
                    self._free += pixels
                    self._freed.notify_all()
