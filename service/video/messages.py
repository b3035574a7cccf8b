"""Messages of the watching to whoever runs it, on stderr."""

import sys
from contextlib import suppress

from service.errors import printable


def say(sentence: str) -> None:
    """Write a line to stderr. Where that fails, as on a full disk, nothing else ends."""
    if sys.stderr:  # None where the process was started without it; `print` would take stdout then
        with suppress(OSError, ValueError):
            print(f"lpr: {printable(sentence)}", file=sys.stderr, flush=True)
