"""uvicorn with a graceful end: SIGTERM turns /readyz to 503 first, then the port closes, then it drains and exits 0."""

import asyncio
import ctypes
import gc
import logging
import math
import os
import signal
import socket
import sys
import time
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import connection
from types import FrameType
from typing import Any, Final, cast

import uvicorn
from fastapi import FastAPI

from service import logs
from service.allocator import return_large_blocks
from service.app import create_app
from service.http import access_log
from service.metrics import Shared
from service.process import listeners
from service.process.connections import BEYOND, Connection, allow_many
from service.settings import Settings

REFUSED: Final = 2  # exit status: wrong settings, or an artifact that cannot be served
# Signals that end it gracefully: those that the system would end it by.
STOPS: Final = tuple(signal.Signals[f"SIG{name}"] for name in ("TERM", "INT", "HUP", "QUIT", "USR1", "USR2"))
BEAT_S: Final = 0.5  # between signs of life of the event loop
READ_S: Final = 0.1  # for reading what clients have sent on connections that were accepted last
CLOSING_S: Final = 0.5  # of the time to drain, for what is left once nobody is served any more

logger = logging.getLogger("uvicorn.error")


@dataclass(frozen=True)
class Worker:
    """What one of several processes is told: where to count, the port, its parent, whom to tell that it serves, and
    what to count up as long as its event loop turns."""

    shared: Shared
    port: int
    parent: int
    told: "connection.Connection[bool, None]"
    beats: "ctypes.c_ulong"


class Server(uvicorn.Server):
    """Between SIGTERM and the closing of the port, load balancers get `notice_s` to see that it is not ready."""

    def __init__(self, app: FastAPI, settings: Settings, worker: Worker | None = None) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                settings.host,
                settings.port,
                http=connections(settings),
                access_log=False,
                log_config=None,
                proxy_headers=bool(settings.proxies),
                forwarded_allow_ips=[str(network) for network in settings.proxies],
                server_header=False,
                ws="none",
                lifespan="on",
            )
        )
        self._app = app
        self._worker = worker
        self._notice_s = settings.notice_s
        self._drain_s = settings.drain_s
        self._closes: float | None = None
        self._ends = math.inf
        self._interrupts = 0
        self.lost = False  # whether it ends because it cannot serve any more

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop, once however many signals come: service managers send SIGTERM to every process of a service,
        and the first of several processes hands it on. Ctrl-C does without the notice, and twice without the draining.

        uvicorn's own would raise the signal again at the end, and so exit with another status than 0.
        """
        self._interrupts += sig == signal.SIGINT
        if self._closes is None:
            self._app.state.lpr.variants.retire()
            now = time.monotonic()
            self._closes = now + (0 if sig == signal.SIGINT else self._notice_s)
            self._ends = now + self._drain_s - CLOSING_S
        elif self._interrupts == 2 and not self._worker:
            self.should_exit = self.force_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the port, and tell it where somebody wants to know."""
        await super().startup(sockets)
        if self._worker:
            self._beat(self._worker)
            with suppress(BrokenPipeError):  # the first process was killed meanwhile
                self._worker.told.send(True)
            self._worker.told.close()

    def _beat(self, worker: Worker) -> None:
        worker.beats.value += 1
        asyncio.get_running_loop().call_later(BEAT_S, self._beat, worker)

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second; True ends the serving."""
        if self._worker and self._closes is None and os.getppid() != self._worker.parent:
            self.handle_exit(signal.SIGTERM, None)  # nobody is there to do it
        if self._closes is None and not self._app.state.lpr.variants.alive:
            logger.critical("A thread of inference has ended: the process ends, too.")
            self.lost = True
            self.handle_exit(signal.SIGTERM, None)
        if self._closes is not None and time.monotonic() >= self._closes:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the port, finish what was accepted, and give up on the rest in time."""
        if self._closes is not None:
            self.config.timeout_graceful_shutdown = max(0.0, self._ends - time.monotonic())  # type: ignore[assignment]
        await listeners.close(self.servers)
        await asyncio.sleep(READ_S)
        await super().shutdown(sockets)
        if self.force_exit:  # what is left is cancelled now, as somebody wanted it: no tracebacks tell of that
            logger.disabled = True


def connections(settings: Settings) -> type[asyncio.Protocol]:
    """What uvicorn calls to make a connection."""
    made = partial(Connection, upload_s=settings.upload_s, most_bytes=settings.max_bytes + BEYOND)
    return cast(type[asyncio.Protocol], made)


def serve(settings: Settings, worker: Worker | None = None) -> int:
    """Serve until a signal; the exit status is 0 after a graceful end, REFUSED where another process took the port
    meanwhile. Raises ArtifactError or NoPort where it cannot start."""
    heed(lambda number, frame: sys.exit(0))  # nothing is accepted yet
    if worker is None:  # before the model is loaded; uvicorn takes the port by itself
        for reserved in listeners.bind(settings.host, settings.port, shared=False):
            reserved.close()
    with logs.guarded() as out, access_log.written_to(out) if settings.log else nullcontext():
        app = create_app(settings, worker.shared if worker else None)
        allow_many()
        if app.state.lpr.variants.active.manifest.backend != "torch":  # whose batches need large blocks all the time
            return_large_blocks()
        gc.collect()
        gc.freeze()  # what is there now stays: collections need not look through it
        server = Server(app, settings, worker)
        heed(server.handle_exit)
        try:
            server.run(listeners.bind(settings.host, worker.port, shared=True) if worker else None)
        except SystemExit:  # uvicorn has said why
            return REFUSED
        heed(signal.SIG_IGN)  # it ends already
    return 0 if server.started and not server.lost else 1


def heed(handler: Any) -> None:
    """Handle the signals that end a server; SIGHUP only where it is not ignored, as nohup(1) has it."""
    for number in STOPS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)
