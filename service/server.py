"""uvicorn with a graceful end: SIGTERM turns /readyz to 503 first, then the port closes, then it drains and exits 0."""

import asyncio
import gc
import math
import os
import shutil
import signal
import socket
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from multiprocessing import connection
from types import FrameType
from typing import Final, cast

import uvicorn
from fastapi import FastAPI

from service import access
from service.app import create_app
from service.connection import BEYOND, Connection, allow_many
from service.errors import ArtifactError
from service.memory import return_large_blocks
from service.metrics import Shared
from service.settings import Settings

REFUSED: Final = 2  # exit status: wrong settings, or an artifact that cannot be served
CLOSING_S: Final = 0.5  # of the time to drain, for what is left once nobody is served any more


@dataclass(frozen=True)
class Worker:
    """What one of several processes is told: where to count, the port, its parent, and whom to tell that it serves."""

    shared: Shared
    port: int
    parent: int
    told: "connection.Connection[bool, None]"


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

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; Ctrl-C does without the notice, and a second signal without the draining.

        uvicorn's own would raise the signal again at the end, and so exit with another status than 0.
        """
        if self._closes is not None:
            self.should_exit = self.force_exit = True
            return
        self._app.state.parts.variants.retire()
        now = time.monotonic()
        self._closes = now + (self._notice_s if sig == signal.SIGTERM else 0)
        self._ends = now + self._drain_s - CLOSING_S

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the port, and tell it where somebody wants to know."""
        await super().startup(sockets)
        if self._worker:
            self._worker.told.send(True)
            self._worker.told.close()

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second; True ends the serving."""
        if self._worker and self._closes is None and os.getppid() != self._worker.parent:
            self.handle_exit(signal.SIGTERM, None)  # nobody is there to do it
        if self._closes is not None and time.monotonic() >= self._closes:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the port, finish what was accepted, and give up on the rest in time."""
        if self._closes is not None:
            self.config.timeout_graceful_shutdown = max(0.0, self._ends - time.monotonic())  # type: ignore[assignment]
        await super().shutdown(sockets)


class NoPort(OSError):
    """The server cannot listen where LPR_HOST and LPR_PORT say; the message is a sentence."""


def connections(settings: Settings) -> type[asyncio.Protocol]:
    """What uvicorn calls to make a connection."""
    made = partial(Connection, upload_s=settings.upload_s, most_bytes=settings.max_bytes + BEYOND)
    return cast(type[asyncio.Protocol], made)


def serve(settings: Settings, worker: Worker | None = None) -> int:
    """Serve until a signal; the exit status is 0 after a graceful end, REFUSED with a sentence on stderr if it cannot
    start."""
    try:
        if worker is None:  # before the model is loaded; uvicorn takes the port by itself
            for reserved in bind(settings.host, settings.port, shared=False):
                reserved.close()
        app = create_app(settings, worker.shared if worker else None)
    except (ArtifactError, NoPort) as error:
        print(error, file=sys.stderr)
        return REFUSED
    allow_many()
    if app.state.parts.variants.active.manifest.backend != "torch":  # whose batches need large blocks all the time
        return_large_blocks()
    gc.collect()
    gc.freeze()  # what is there now stays: collections need not look through it
    server = Server(app, settings, worker)
    with access.written_to(sys.stdout.fileno()) if settings.log else nullcontext():
        try:
            server.run(bind(settings.host, worker.port, shared=True) if worker else None)
        except SystemExit:  # uvicorn has said why: another process took the port meanwhile
            return REFUSED
    if worker and os.getppid() != worker.parent:  # which cannot do it any more
        shutil.rmtree(worker.shared.folder, ignore_errors=True)
    return 0 if server.started else 1


def bind(host: str, port: int, *, shared: bool) -> list[socket.socket]:
    """Sockets for every address of `host`, bound but not listening; raises NoPort where another server listens.

    Port 0 is a free one. The sockets themselves can be joined by others on the same port; unless `shared`, it is first
    made sure that nobody else does so already.
    """
    found: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            if not shared:
                with _socket(family, kind, protocol) as alone:
                    alone.bind((address[0], port, *address[2:]))
                    port = alone.getsockname()[1]
            found.append(_socket(family, kind, protocol))
            found[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            found[-1].bind((address[0], port, *address[2:]))
    except OSError as error:
        for reserved in found:
            reserved.close()
        raise NoPort(
            f"LPR_HOST and LPR_PORT: the server cannot listen on {host} port {port}: {error.strerror}. Choose others, "
            "or stop what listens there."
        ) from error
    return found


def _socket(family: int, kind: int, protocol: int) -> socket.socket:
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return made
