"""Several processes that serve one port: each is a whole server, and this one starts them, replaces them, stops them.

The kernel spreads connections over them (SO_REUSEPORT), so that a process that was killed takes only those it had with
it. Counters lie in files that all of them map: what a killed process counted stays counted.
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

LONGEST_PAUSE_S: Final = 30.0  # between attempts to replace a process that cannot start
LOOK_S: Final = 1.0  # between looks at whether the processes live
SILENT: Final = 10  # looks in a row without a sign of life, after which a process is killed and replaced
SPARE_S: Final = 2.0  # beyond LPR_DRAIN_S, before a process that does not end is killed

logger = logging.getLogger("uvicorn.error")


@dataclass
class _Slot:
    """A place for one process; `started` turns readable when it serves, or ended without. Its event loop counts `beats`
    up as long as it turns; `seen` is their number at the last look, and `silent` the looks since they changed."""

    number: int
    process: SpawnProcess | None = None
    started: "connection.Connection[None, bool] | None" = None
    serves: bool = False
    failures: int = 0
    restarts: float = 0.0  # by time.monotonic
    beats: ctypes.c_ulong = field(default_factory=ctypes.c_ulong)
    seen: int = 0
    silent: int = 0


class Workers:
    """Runs `settings.workers` processes until a signal, or until one of them cannot start at the first attempt."""

    def __init__(self, settings: Settings) -> None:
        """Raises ArtifactError where the artifact is damaged or missing."""
        name, setting = beginning(settings.variant, settings.switch_file)
        with naming(setting):  # said once, instead of by each process
            artifact.find(settings.artifacts, name)
        self._settings = settings
        self._slots = [_Slot(number) for number in range(settings.workers)]
        self._served = False
        self._status = 0
        self._ends: float | None = None
        self._interrupts = 0

    def run(self) -> int:
        """Serve; the exit status is 0 if every process ended well after a signal, else that of the one that did not.

        Raises NoPort.
        """
        reserved = listeners.bind(self._settings.host, self._settings.port, shared=False)
        self._port = reserved[0].getsockname()[1]
        server.heed(self._stop)
        with logs.recorded(), metrics.shared_folder(len(self._slots)) as self._folder:
            if self._settings.switch_file is None:  # through it they switch variants together
                self._settings = self._settings.model_copy(update={"switch_file": self._folder / "variant"})
            self._look_after_all()
        for listener in reserved:
            listener.close()
        return self._status

    def _look_after_all(self) -> None:
        """Start the processes, then keep them running until a signal, then wait for their end."""
        looked = time.monotonic()
        while any(slot.process for slot in self._slots) or self._ends is None:
            for slot in self._slots:
                self._look_after(slot)
            self._wait()
            if time.monotonic() >= looked + LOOK_S:
                looked = time.monotonic()
                for slot in self._slots:
                    self._listen_to(slot)

    def _start(self, slot: _Slot) -> None:
        context = get_context("spawn")
        slot.started, told = context.Pipe(duplex=False)
        slot.serves = False
        slot.beats = context.RawValue(ctypes.c_ulong)
        worker = server.Worker(metrics.Shared(self._folder, slot.number), self._port, os.getpid(), told, slot.beats)
        slot.process = context.Process(target=_serve, args=(self._settings, worker), name=f"worker-{slot.number}")
        slot.process.start()
        told.close()  # its other end is the process's alone, so that it breaks with it
        if self._ends is not None:  # a signal came in between
            slot.process.terminate()

    def _stop(self, number: int, frame: FrameType | None) -> None:
        """Hand a signal on, once; a second Ctrl-C makes the processes end without draining."""
        self._interrupts += number == signal.SIGINT
        if self._ends is not None:
            if self._interrupts == 2:
                self._ends = time.monotonic()
            return
        self._ends = time.monotonic() + self._settings.drain_s + SPARE_S
        for slot in self._slots:
            if slot.process and slot.process.pid and slot.process.is_alive():
                with suppress(ProcessLookupError):  # this may have interrupted what was just noticing its end
                    os.kill(slot.process.pid, number if slot.serves else signal.SIGTERM)

    def _wait(self) -> None:
        """Until a process serves or ends, or it is time to look after them."""
        times = [slot.restarts for slot in self._slots if not slot.process] if self._ends is None else [self._ends]
        readers = [slot.started for slot in self._slots if slot.started]
        sentinels = [slot.process.sentinel for slot in self._slots if slot.process]
        timeout = max(0.0, min(LOOK_S, *(until - time.monotonic() for until in times)) if times else LOOK_S)
        connection.wait([*readers, *sentinels], timeout)

    def _listen_to(self, slot: _Slot) -> None:
        """Kill a process whose event loop stands still. Looks are counted, not seconds: where all processes were
        stopped together, for example by `docker pause`, each has time for a sign of life."""
        beats = slot.beats.value
        slot.silent = slot.silent + 1 if slot.serves and beats == slot.seen else 0
        slot.seen = beats
        if slot.process and slot.silent == SILENT:
            logger.error("Process %d gave no sign of life for %g s: it is killed", slot.number, SILENT * LOOK_S)
            slot.process.kill()

    def _look_after(self, slot: _Slot) -> None:
        now = time.monotonic()
        if slot.process is None:
            if self._ends is None and now >= slot.restarts:
                self._start(slot)
            return
        if slot.started and slot.started.poll():
            self._heard(slot, slot.started)
        if slot.process.exitcode is None:
            if self._ends is not None and now >= self._ends:
                slot.process.kill()
            return
        status = slot.process.exitcode
        slot.process.join()
        slot.process = None
        metrics.forget(metrics.Shared(self._folder, slot.number))
        if self._ends is not None:
            self._status = self._status or (0 if status in (0, -signal.SIGTERM) else 1)
        elif not self._served:
            self._status = status if status > 0 else 1
            self._stop(signal.SIGTERM, None)
        else:
            slot.failures = 0 if slot.serves else slot.failures + 1
            pause = min(LONGEST_PAUSE_S, 2.0**slot.failures - 1)
            slot.restarts = now + pause
            logger.error("Process %d ended with status %d: another one starts in %g s", slot.number, status, pause)

    def _heard(self, slot: _Slot, started: "connection.Connection[None, bool]") -> None:
        with suppress(EOFError):  # where it ended before
            slot.serves = started.recv()
        started.close()
        slot.started = None
        if not self._served and all(slot.serves for slot in self._slots):
            self._served = True
            address = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
            logger.info("%d processes running on http://%s:%d", len(self._slots), address, self._port)


def _serve(settings: Settings, worker: server.Worker) -> None:
    """What a process does; its own session, because Ctrl-C is meant for the process that started it."""
    os.setsid()
    try:
        sys.exit(server.serve(settings, worker))
    except (ArtifactError, listeners.NoPort) as error:
        print(error, file=sys.stderr)
        sys.exit(server.REFUSED)
    finally:
        if os.getppid() != worker.parent:  # which cannot do it any more
            shutil.rmtree(worker.shared.folder, ignore_errors=True)
