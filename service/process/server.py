"""The server of one process: uvicorn with a graceful shutdown.

After SIGTERM, /readyz answers 503 first. After LPR_NOTICE_S the port closes, accepted requests are finished, and the
process exits with status 0. A stock uvicorn closes the port at once and raises the signal again at the end.
"""

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
from service.process.connections import DISCARD_BYTES, Connection
from service.settings import Settings

REFUSED: Final = 2  # exit status for wrong settings, or for an artifact that cannot be served
# Signals that stop the server gracefully: those whose default action is to end the process.
STOPS: Final = tuple(signal.Signals[f"SIG{name}"] for name in ("TERM", "INT", "HUP", "QUIT", "USR1", "USR2"))
HEARTBEAT_S: Final = 0.5  # between heartbeats of the event loop
READ_S: Final = 0.1  # for reading the requests on connections that were accepted last
CLOSING_S: Final = 0.5  # the part of LPR_DRAIN_S for the steps after the last answer

logger = logging.getLogger("uvicorn.error")


@dataclass(frozen=True)
class Worker:
    """What the supervisor hands to a worker process."""

    shared: Shared  # the directory of metric files
    port: int
    parent: int  # process id of the supervisor
    ready: "connection.Connection[bool, None]"  # where the worker says that it serves
    heartbeats: "ctypes.c_ulong"  # what its event loop counts up


class Server(uvicorn.Server):
    """uvicorn's server with a shutdown in steps. Load balancers have `notice_s` to see that it is not ready."""

    def __init__(self, app: FastAPI, settings: Settings, worker: Worker | None = None) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                settings.host,
                settings.port,
                http=http_protocol(settings),
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
        self._closes: float | None = None  # when the port closes, by time.monotonic
        self._ends = math.inf  # when what is not finished is cancelled
        self._interrupts = 0
        self.lost = False  # whether it stops because an inference thread ended

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop at the first signal. Ctrl-C skips the notice; a second Ctrl-C skips the draining.

        More signals may come: a service manager sends SIGTERM to every process, and the supervisor sends it too.
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
        """Open the port, and tell the supervisor."""
        await super().startup(sockets)
        if self._worker:
            self._send_heartbeat(self._worker)
            with suppress(BrokenPipeError):  # the supervisor was killed meanwhile
                self._worker.ready.send(True)
            self._worker.ready.close()

    def _send_heartbeat(self, worker: Worker) -> None:
        worker.heartbeats.value += 1
        asyncio.get_running_loop().call_later(HEARTBEAT_S, self._send_heartbeat, worker)

    async def on_tick(self, counter: int) -> bool:
        """Decide ten times a second whether to stop; True ends the main loop."""
        if self._worker and self._closes is None and os.getppid() != self._worker.parent:
            self.handle_exit(signal.SIGTERM, None)  # the supervisor was killed
        if self._closes is None and not self._app.state.lpr.variants.alive:
            logger.critical("A thread of inference has ended: the process ends, too.")
            self.lost = True
            self.handle_exit(signal.SIGTERM, None)
        if self._closes is not None and time.monotonic() >= self._closes:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the port, finish accepted requests, and cancel those that take longer than LPR_DRAIN_S."""
        await listeners.close(self.servers)
        await asyncio.sleep(READ_S)  # uvicorn closes connections that have no request yet
        if self._closes is not None:
            self.config.timeout_graceful_shutdown = max(0.0, self._ends - time.monotonic())  # type: ignore[assignment]
        await super().shutdown(sockets)
        if self.force_exit:  # requests are cancelled on purpose now: log no tracebacks of them
            logger.disabled = True


def http_protocol(settings: Settings) -> type[asyncio.Protocol]:
    """What uvicorn calls to make a connection: `Connection` with the bounds of the settings."""
    made = partial(Connection, upload_s=settings.upload_s, most_bytes=settings.max_bytes + DISCARD_BYTES)
    return cast(type[asyncio.Protocol], made)


def serve(settings: Settings, worker: Worker | None = None) -> int:
    """Serve until a signal. The exit status is 0 after a graceful end, and REFUSED if another process took the port
    while the model was loaded.

    Raises ArtifactError or NoPort if it cannot start.
    """
    handle_signals(lambda number, frame: sys.exit(0))  # until the server runs
    if worker is None:  # fail early if the port is taken; uvicorn binds it later
        for reserved in listeners.bind(settings.host, settings.port, shared=False):
            reserved.close()
    with logs.guarded() as out, access_log.written_to(out) if settings.log else nullcontext():
        app = create_app(settings, worker.shared if worker else None)
        listeners.raise_file_limit()
        if app.state.lpr.variants.active.manifest.backend != "torch":  # torch needs large blocks for each batch
            return_large_blocks()
        gc.collect()
        gc.freeze()  # objects of the start stay until the end: no collection needs to look through them
        server = Server(app, settings, worker)
        handle_signals(server.handle_exit)
        try:
            server.run(listeners.bind(settings.host, worker.port, shared=True) if worker else None)
        except SystemExit:  # uvicorn has logged the reason
            return REFUSED
        handle_signals(signal.SIG_IGN)  # it ends already
    return 0 if server.started and not server.lost else 1


def handle_signals(handler: Any) -> None:
    """Install a handler for STOPS. SIGHUP stays ignored where nohup(1) has it ignored."""
    for number in STOPS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)
