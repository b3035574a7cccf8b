"""Logs that block no request and that no client can forge.

Lines wait in memory for a thread that writes them. If the reader is too slow, lines are lost. Standard output has the
lines of the access log only. Standard error has the records of Python's logging: a record begins with its level in the
first column, its further lines begin with a bar, and control characters are escaped. What other code writes to file
descriptors 1 and 2 (a library's print, a traceback) becomes such a record too, but for what decoders say of an image.
"""

import logging
import os
import select
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import Final

from uvicorn.logging import DefaultFormatter

from service import decoders
from service.errors import printable

BACKLOG: Final = 4 * 1024**2  # bytes that wait for a slow reader; lines beyond them are lost
LAST_S = 0.5  # for the last lines, when the process ends
PAUSE_S: Final = 0.05  # between writes: waking the thread for each line would cost more than writing the line
ATOMIC: Final = 4096  # bytes (PIPE_BUF) that a pipe takes in one piece, so that workers do not mix their lines
NOISE: Final = 4096  # bytes of other output that become one record each PAUSE_S; the pipe holds 64 kB more
LONGEST: Final = 20_000  # characters of a record; the middle of a longer one is left out
INDENT: Final = "\n    | "

log = logging.getLogger(__name__)


class Writer:
    """Writes lines on a thread of its own, all lines of PAUSE_S together."""

    def __init__(self, descriptor: int) -> None:
        self._lines: deque[bytes] = deque()
        self._put = self._taken = 0  # bytes; one thread counts each
        self._there = Event()
        self._closing = False
        self._thread = Thread(target=self._write, args=(descriptor,), name="log", daemon=True)
        self._thread.start()

    def put(self, line: bytes) -> None:
        """Queue a line, or drop it if BACKLOG is full. Does not block. One thread at a time may call it."""
        if self._put - self._taken < BACKLOG:
            self._put += len(line)
            self._lines.append(line)
            if not self._there.is_set():
                self._there.set()

    def close(self) -> None:
        """Write the lines that wait, for LAST_S at most."""
        self._closing = True
        self._there.set()
        self._thread.join(LAST_S)

    @property
    def stuck(self) -> bool:
        """Whether lines are left after `close`, because nobody reads."""
        return self._thread.is_alive()

    def _write(self, descriptor: int) -> None:
        while self._lines or not self._closing:
            self._there.wait()
            self._there.clear()
            while self._lines:
                _write_all(descriptor, self._next())
            if not self._closing:
                time.sleep(PAUSE_S)

    def _next(self) -> bytes:
        """The next lines to write together: at least one, at most ATOMIC bytes if there are several."""
        together = bytearray()
        while self._lines and (not together or len(together) + len(self._lines[0]) < ATOMIC):
            line = self._lines.popleft()
            self._taken += len(line)
            together += line + b"\n"
        return bytes(together)


def _write_all(descriptor: int, data: bytes) -> None:
    """Write without a buffer: Python would flush a buffer again at the exit, and fail then."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:  # the descriptor was made non-blocking by the parent process
            select.select([], [descriptor], [])
        except OSError:
            return


class _Records(logging.Handler):
    """Formats records and gives them to a writer."""

    def __init__(self, writer: Writer) -> None:
        super().__init__()
        self._writer = writer
        self.setFormatter(DefaultFormatter("%(levelprefix)s %(message)s", use_colors=False))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
        except Exception:
            self.handleError(record)
            return
        if len(text) > LONGEST:
            text = f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"
        self._writer.put(INDENT.join(map(printable, text.splitlines())).encode())


@contextmanager
def recorded(descriptor: int = 2) -> Iterator[Writer]:
    """Send Python's logging to a file descriptor meanwhile: warnings, and uvicorn's messages of level INFO."""
    root, writer = logging.getLogger(), Writer(descriptor)
    handler = _Records(writer)
    logging.getLogger("uvicorn").setLevel(logging.INFO)
    root.addHandler(handler)
    try:
        yield writer
    finally:
        root.removeHandler(handler)
        writer.close()


@contextmanager
def guarded() -> Iterator[int]:
    """Connect descriptors 1 and 2 to a pipe meanwhile, and make records of its content. Yields the old descriptor 1.

    Writing to the pipe does not block, and what does not fit is lost. A library may write while it holds Python's
    global lock; if it waited for the thread that reads the pipe, both would wait for ever.
    """
    out, error = os.dup(1), os.dup(2)
    read, write = os.pipe()
    os.set_blocking(write, False)
    for number in (1, 2):
        os.dup2(write, number)
    os.close(write)
    try:
        with recorded(error) as writer:
            ending = Event()
            listener = Thread(target=_listen, args=(read, ending), name="stderr", daemon=True)
            listener.start()
            try:
                yield out
            finally:
                _flush()
                _connect_to(os.devnull)
                ending.set()
                listener.join(LAST_S)
    finally:
        if not writer.stuck:  # else each further write would wait for a reader that is stuck
            _flush()
            os.dup2(out, 1)
            os.dup2(error, 2)


def _listen(pipe: int, ending: Event) -> None:
    """Make records of what arrives in a pipe, until its other end is closed; without a pause once that is near."""
    while said := os.read(pipe, NOISE):
        if text := decoders.LINES.sub("", said.decode(errors="backslashreplace")).strip():
            log.warning("stderr: %s", text)
        ending.wait(PAUSE_S)
    os.close(pipe)


def _connect_to(path: str) -> None:
    opened = os.open(path, os.O_WRONLY)
    for number in (1, 2):
        os.dup2(opened, number)
    os.close(opened)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()


def open_missing() -> None:
    """Open the standard streams that were closed (`>&-`) on /dev/null.

    Otherwise the next file or socket would get the number of a standard stream, and receive what is printed.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115
