"""A transport that coalesces writes: what is written in one turn of the event loop goes to the kernel in one call.

uvicorn writes the head and the body of an answer separately. One call wakes the client once, with the whole answer.
"""

import asyncio
from collections.abc import Callable
from typing import Any


class CoalescingTransport:
    """Wraps the transport of a connection. `on_close` decides when it is closed."""

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, on_close: Callable[[], None]
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._on_close = on_close
        self._closing = False
        self._written: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Send the data at the end of this turn."""
        if not self._written:
            self._loop.call_soon(self._flush)
        self._written.append(data)

    def pause_reading(self) -> None:
        """Do nothing if it is closing, where uvloop raises."""
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Do nothing if it is closing, where uvloop raises."""
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def write_eof(self) -> None:
        """Tell the client that no more answers follow."""
        if not self._transport.is_closing():
            self._transport.write_eof()

    def close(self) -> None:
        """Send what was written, then leave the closing to `on_close`. Nothing more may be written."""
        if not self.is_closing():
            self._flush()
            self._closing = True
            self._on_close()

    def close_now(self) -> None:
        """Close the connection once what was written is sent."""
        self._flush()
        self._transport.close()

    def is_closing(self) -> bool:
        return self._closing or self._transport.is_closing()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def _flush(self) -> None:
        if self._written and not self.is_closing():  # the client may be gone
            self._transport.write(b"".join(self._written))
        self._written.clear()
