"""Supervisor of worker processes that serve one port. Each worker is a whole server.

The supervisor starts the workers, replaces those that die or hang, and stops them together. Each worker has a
listening socket of its own on the port (SO_REUSEPORT), and the kernel spreads the connections over them. Metrics are in
files that all workers map, so the counts of a killed worker are kept.

Compared with uvicorn's own supervisor, which shares one socket (AMD EPYC, 2 busy CPUs, 2 workers, medians of 5 runs):
1.8 times the requests/s at 8 connections and 1.4 times at 64, half the p99 at both. When it is killed itself, its
workers go on. It waits for ever for a worker that does not stop, and kills a worker that takes over 5 s to start.
"""

import ctypes
import logging
import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import connection, get_context
from multiprocessing.context import SpawnProcess
from types import FrameType
from typing import Final

from service import artifact, logs, metrics
from service.errors import ArtifactError
from service.pipeline.registry import beginning, naming
from service.process import listeners, server
from service.settings import Settings

CHECK_S: Final = 1.0  # between checks of the heartbeats
MISSED: Final = 10  # checks in a row without a heartbeat, after which a worker is killed and replaced
MAX_BACKOFF_S: Final = 30.0  # between attempts to replace a worker that cannot start
GRACE_S: Final = 2.0  # beyond LPR_DRAIN_S, before a worker that does not end is killed

logger = logging.getLogger("uvicorn.error")


@dataclass
class _Slot:
    """The place of one worker, and what is known of the process that fills it now."""

    number: int
    process: SpawnProcess | None = None
    ready: "connection.Connection[None, bool] | None" = None  # readable when the worker serves, or ended before
    serves: bool = False
    failures: int = 0  # starts in a row that failed
    start_at: float = 0.0  # by time.monotonic
    heartbeats: ctypes.c_ulong = field(default_factory=ctypes.c_ulong)  # counted by the event loop of the worker
    last: int = 0  # heartbeats at the last check
    missed: int = 0  # checks in a row without a heartbeat


class Workers:
    """Runs `settings.workers` processes until a signal, or until one of them fails at the first start."""

    def __init__(self, settings: Settings) -> None:
        """Check the artifact, so that its fault is told once. Raises ArtifactError."""
        name, setting = beginning(settings.variant, settings.switch_file)
        with naming(setting):
            artifact.find(settings.artifacts, name)
        self._settings = settings
        self._slots = [_Slot(number) for number in range(settings.workers)]
        self._served = False  # whether all of them served at the same time once
        self._status = 0
        self._ends: float | None = None  # by time.monotonic, once a signal came
        self._interrupts = 0

    def run(self) -> int:
        """Serve. The exit status is 0 if every worker ended well after a signal, else that of the worker that did not.

        Raises NoPort.
        """
        reserved = listeners.bind(self._settings.host, self._settings.port, shared=False)
        self._port = reserved[0].getsockname()[1]
        server.handle_signals(self._stop)
        with logs.recorded(), metrics.shared_folder(len(self._slots)) as self._folder:
            if self._settings.switch_file is None:  # the workers switch the variant together through it
                self._settings = self._settings.model_copy(update={"switch_file": self._folder / "variant"})
            self._supervise()
        for listener in reserved:
            listener.close()
        return self._status

    def _supervise(self) -> None:
        """Start the workers, keep them running until a signal, then wait for their end."""
        checked = time.monotonic()
        while any(slot.process for slot in self._slots) or self._ends is None:
            for slot in self._slots:
                self._update(slot)
            self._wait()
            if time.monotonic() >= checked + CHECK_S:
                checked = time.monotonic()
                for slot in self._slots:
                    self._check_heartbeat(slot)

    def _wait(self) -> None:
        """Wait until a worker serves or ends, or until the next start, check or deadline."""
        times = [slot.start_at for slot in self._slots if not slot.process] if self._ends is None else [self._ends]
        pipes = [slot.ready for slot in self._slots if slot.ready]
        sentinels = [slot.process.sentinel for slot in self._slots if slot.process]
        timeout = max(0.0, min([CHECK_S, *(until - time.monotonic() for until in times)]))
        connection.wait([*pipes, *sentinels], timeout)

    def _update(self, slot: _Slot) -> None:
        """Start, notice as serving, kill or bury the worker of a slot, whatever is due."""
        if slot.process is None:
            if self._ends is None and time.monotonic() >= slot.start_at:
                self._start(slot)
            return
        if slot.ready and slot.ready.poll():
            self._note_ready(slot, slot.ready)
        if slot.process.exitcode is not None:
            self._bury(slot, slot.process)
        elif self._ends is not None and time.monotonic() >= self._ends:
            slot.process.kill()

    def _start(self, slot: _Slot) -> None:
        context = get_context("spawn")
        slot.ready, tell = context.Pipe(duplex=False)
        slot.serves = False
        slot.heartbeats = context.RawValue(ctypes.c_ulong)
        worker = server.Worker(
            metrics.Shared(self._folder, slot.number), self._port, os.getpid(), tell, slot.heartbeats
        )
        slot.process = context.Process(target=_serve, args=(self._settings, worker), name=f"worker-{slot.number}")
        slot.process.start()
        tell.close()  # the worker alone holds this end now, so that the pipe breaks when the worker ends
        if self._ends is not None:  # a signal came in between
            slot.process.terminate()

    def _note_ready(self, slot: _Slot, ready: "connection.Connection[None, bool]") -> None:
        with suppress(EOFError):  # the worker ended before it served
            slot.serves = ready.recv()
        ready.close()
        slot.ready = None
        if not self._served and all(slot.serves for slot in self._slots):
            self._served = True
            address = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
            logger.info("%d processes running on http://%s:%d", len(self._slots), address, self._port)

    def _bury(self, slot: _Slot, process: SpawnProcess) -> None:
        """Account for a worker that ended, and plan its replacement unless all are to stop."""
        status = process.exitcode or 0
        process.join()
        slot.process = None
        metrics.forget(metrics.Shared(self._folder, slot.number))
        if self._ends is not None:
            self._status = self._status or (0 if status in (0, -signal.SIGTERM) else 1)
        elif not self._served:
            self._status = status if status > 0 else 1
            self._stop(signal.SIGTERM, None)
        else:
            slot.failures = 0 if slot.serves else slot.failures + 1
            backoff = min(MAX_BACKOFF_S, 2.0**slot.failures - 1)
            slot.start_at = time.monotonic() + backoff
            logger.error("Process %d ended with status %d: another one starts in %g s", slot.number, status, backoff)

    def _check_heartbeat(self, slot: _Slot) -> None:
        """Kill a worker whose event loop stands still.

        Checks are counted instead of seconds: after `docker pause`, which stops all processes together, each worker has
        time for a heartbeat.
        """
        heartbeats = slot.heartbeats.value
        slot.missed = slot.missed + 1 if slot.serves and heartbeats == slot.last else 0
        slot.last = heartbeats
        if slot.process and slot.missed == MISSED:
            logger.error("Process %d gave no sign of life for %g s: it is killed", slot.number, MISSED * CHECK_S)
            slot.process.kill()

    def _stop(self, number: int, frame: FrameType | None) -> None:
        """Send the workers a signal, once. A second Ctrl-C makes them end without draining."""
        self._interrupts += number == signal.SIGINT
        if self._ends is not None:
            if self._interrupts == 2:
                self._ends = time.monotonic()
            return
        self._ends = time.monotonic() + self._settings.drain_s + GRACE_S
        for slot in self._slots:
            if slot.process and slot.process.pid and slot.process.is_alive():
                with suppress(ProcessLookupError):  # this may interrupt `_bury` of the same worker
                    os.kill(slot.process.pid, number if slot.serves else signal.SIGTERM)


def _serve(settings: Settings, worker: server.Worker) -> None:
    """The main function of a worker. It has a session of its own, because Ctrl-C is meant for the supervisor."""
    os.setsid()
    try:
        sys.exit(server.serve(settings, worker))
    except (ArtifactError, listeners.NoPort) as error:
        print(error, file=sys.stderr)
        sys.exit(server.REFUSED)
    finally:
        if os.getppid() != worker.parent:  # the supervisor was killed and cannot remove the folder
            shutil.rmtree(worker.shared.folder, ignore_errors=True)
