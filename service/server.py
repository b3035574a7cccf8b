"""uvicorn with a graceful end: SIGTERM turns /readyz to 503 first, then the port closes, then it drains and exits 0."""

import signal
import time
from collections.abc import Callable
from types import FrameType

import uvicorn


class Server(uvicorn.Server):
    """Between SIGTERM and the closing of the port, load balancers get `notice_s` to see that it is not ready."""

    def __init__(self, config: uvicorn.Config, retire: Callable[[], None], notice_s: float) -> None:
        super().__init__(config)
        self._retire = retire
        self._notice_s = notice_s
        self._closes: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; Ctrl-C does without the notice, and a second signal without the draining.

        uvicorn's own would raise the signal again at the end, and so exit with another status than 0.
        """
        if self._closes is not None:
            self.should_exit = self.force_exit = True
            return
        self._retire()
        self._closes = time.monotonic() + (self._notice_s if sig == signal.SIGTERM else 0)

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second; True ends the serving."""
        if self._closes is not None and time.monotonic() >= self._closes:
            self.should_exit = True
        return await super().on_tick(counter)
