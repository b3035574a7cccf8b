"""A connection that says nothing, or the head of its request too slowly, is closed.

uvicorn bounds the time between two requests, and `Door` that of a body; without this, whoever opens connections and
keeps silent would use up the server's file descriptors.
"""

import asyncio
import sys
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MANY: Final = 65_536


def impatient(head_s: float) -> type[asyncio.Protocol]:
    """uvicorn's connections, but with `head_s` seconds for the head of each request, its first byte included."""

    class Connection(HttpToolsProtocol):
        _deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
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


def allow_many() -> None:
    """Have room for MANY connections, as far as this process may: most systems allow 1024 until asked for more."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MANY if hard == resource.RLIM_INFINITY else min(MANY, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
