"""uvicorn's connections: many are taken in at once, each with a time for the head of a request and an answer in one
piece.

uvicorn bounds the time between two requests, and `Door` that of a body; without this, whoever opens connections and
keeps silent would use up the server's file descriptors.
"""

import asyncio
import os
import socket
import sys
from collections.abc import Callable
from typing import Any, Final, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MANY: Final = 65_536
AT_ONCE: Final = 16  # connections taken in by one turn of the event loop


def impatient(head_s: float) -> type[asyncio.Protocol]:
    """uvicorn's connections, but with `head_s` seconds for the head of each request, its first byte included."""

    class Connection(HttpToolsProtocol):
        _deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(cast(asyncio.Transport, _Together(transport, self.loop)))
            self._expect_head()

        def on_message_begin(self) -> None:
            super().on_message_begin()
            if self._deadline is None:  # a further request; until it begins, uvicorn's own limit holds
                self._expect_head()

        def on_headers_complete(self) -> None:
            self._cancel()
            super().on_headers_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self._cancel()
            super().connection_lost(exc)

        def _expect_head(self) -> None:
            self._deadline = self.loop.call_later(head_s, self.transport.close)

        def _cancel(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

    return Connection


class _Together:
    """A transport that sends together what is written in one turn of the event loop: the head of an answer with its
    body. For each of them, uvloop would ask the kernel, and wake the client."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._written: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Send it with the end of this turn."""
        if not self._written:
            self._loop.call_soon(self._flush)
        self._written.append(data)

    def close(self) -> None:
        """Once all is sent."""
        self._flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def _flush(self) -> None:
        if self._written:
            self._transport.write(b"".join(self._written))
            self._written.clear()


async def take_in_more(server: asyncio.Server, protocol: Callable[[], asyncio.Protocol]) -> list[asyncio.Server]:
    """Further servers on the sockets of one that listens, so that together they take in AT_ONCE connections a turn.

    libuv takes in one a turn for each descriptor (https://github.com/libuv/libuv/pull/3696), and a turn of a busy event
    loop lasts milliseconds: of a thousand clients that come at once, some waited two seconds for their refusal.
    """
    loop = asyncio.get_running_loop()
    if isinstance(loop, asyncio.BaseEventLoop):  # Python's own takes in all that there are
        return []
    copies = [socket.socket(fileno=os.dup(s.fileno())) for s in server.sockets for _ in range(AT_ONCE - 1)]
    return [await loop.create_server(protocol, sock=copy) for copy in copies]


def allow_many() -> None:
    """Have room for MANY connections, as far as this process may: most systems allow 1024 until asked for more."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MANY if hard == resource.RLIM_INFINITY else min(MANY, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
