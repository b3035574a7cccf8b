"""Servers in threads of the test's process, and engines that wait at a gate."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import numpy as np
import uvicorn
from numpy.typing import NDArray

from service.app import create_app
from service.backends import Backend
from service.process.server import http_protocol
from service.settings import Settings

Serving = Callable[..., httpx.Client]


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for a condition, but not for ever."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@contextmanager
def running(settings: Settings) -> Iterator[str]:
    """A real server of these settings on a free port, in a thread of this process; yields its URL."""
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(settings), port=0, http=http_protocol(settings), ws="none", access_log=False, log_level="error"
        )
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started and thread.is_alive():
        thread.join(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


class Gate:
    """Holds engines back before they compute, and knows what came in."""

    def __init__(self) -> None:
        self.batches: list[int] = []  # images of each batch that came to the gate
        self._open = threading.Event()
        self._changed = threading.Condition()

    def open(self) -> None:
        """Let all go on, from now on without holding any."""
        self._open.set()

    def wait_for(self, batches: int) -> None:
        """Wait until so many batches have come, but not for ever."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.batches) >= batches, timeout=60)

    def guard(self, engine: Backend) -> Backend:
        """The same engine behind this gate. Its first batch is the probe and passes."""
        infer, probed = engine.infer, threading.Event()

        def guarded(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
            if probed.is_set():
                with self._changed:
                    self.batches.append(len(batch))
                    self._changed.notify_all()
                assert self._open.wait(timeout=60)
            probed.set()
            return infer(batch)

        engine.infer = guarded  # type: ignore[method-assign]
        return engine
