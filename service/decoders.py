"""What decoders of images print on standard error, and a filter that leaves it out.

libpng and libjpeg print a line about a damaged image, and name no file. The result of that image tells what is wrong.
"""

import io
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from typing import Final

LINES: Final = re.compile(
    r"^(libpng (warning|error): |Corrupt JPEG data: |Premature end of JPEG file|Invalid SOS parameters"
    r"|Inconsistent progression sequence|Unknown Adobe color transform|Warning: unknown JFIF revision).*\n?",
    re.MULTILINE,
)
LONGEST: Final = 4096  # bytes that are taken for a line
LAST_S: Final = 0.5  # seconds for what waits at the end: a child process may hold the pipe open


@contextmanager
def filtered() -> Iterator[None]:
    """Leave LINES out of what libraries write to descriptor 2 meanwhile.

    The descriptor is a pipe meanwhile, and a thread passes the other lines on. `sys.stderr` goes past the pipe: a bar
    still sees a terminal, and no line of Python's is late or lost. Writing to the pipe does not block, because a
    library may write while it holds Python's global lock, which that thread needs.
    """
    kept = None
    with suppress(OSError):  # it is closed
        kept = os.dup(2)
    if kept is None:
        yield
        return
    stream, past = sys.stderr, _past(kept)
    read, write = os.pipe()
    os.set_blocking(write, False)
    os.dup2(write, 2)
    os.close(write)
    listener = Thread(target=_pass_on, args=(read, kept), name="stderr", daemon=True)
    listener.start()
    sys.stderr = past or stream
    try:
        yield
    finally:
        with suppress(OSError):
            if sys.stderr:
                sys.stderr.flush()
        sys.stderr = stream
        os.dup2(kept, 2)
        listener.join(LAST_S)
        if past is None and not listener.is_alive():  # else somebody may still write to it, such as a handler of logs
            os.close(kept)


def _past(kept: int) -> io.TextIOWrapper | None:
    """A stream to the descriptor that was kept, where `sys.stderr` would go to descriptor 2."""
    stream = sys.stderr
    try:
        if stream is None or stream.fileno() != 2:
            return None
    except (OSError, ValueError):  # of a test, in memory
        return None
    return open(kept, "w", buffering=1, encoding=stream.encoding, errors=stream.errors, closefd=False)


def _pass_on(pipe: int, out: int) -> None:
    """Write the other lines to a descriptor, until the pipe's other end is closed."""
    with open(pipe, "rb") as lines:
        while line := lines.readline(LONGEST):
            if not LINES.match(line.decode(errors="replace")):
                with suppress(OSError):  # nobody reads any more; the pipe must be emptied all the same
                    os.write(out, line)
