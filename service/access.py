"""Request ids, and the access log: a line of JSON for each request, without its image, its query and its key.

Texts of plates are personal data in many places, so that they are in the log only with LPR_LOG_PLATES.
"""

import json
import logging
import os
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from queue import Full, Queue
from threading import Thread
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "X-Request-Id"
PROBES = ("/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready")  # logged only if they fail
BACKLOG = 10_000  # lines that wait for a slow reader; those beyond it are lost, rather than requests delayed
LAST_S = 1.0  # in which a reader may take what is left in the end

log = logging.getLogger("lpr.requests")

_ACCEPTED = re.compile(r"[A-Za-z0-9._:-]{1,128}")  # of a client's ids: what can break no header and no log


def request_id(request: Request) -> str:
    """The id of a request: the client's X-Request-Id, if that is a sensible one, or ours."""
    return str(request.state.request_id)


def note(request: Request, **facts: Any) -> None:
    """Have the request's line tell more: keys with values that JSON has."""
    request.state.facts.update(facts)


class Access:
    """ASGI middleware that gives each request its id, echoes that in the answer, and logs the line."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(HEADER, "")
        number = given if _ACCEPTED.fullmatch(given) else uuid.uuid4().hex
        facts: dict[str, Any] = {}
        scope.setdefault("state", {}).update(request_id=number, facts=facts)
        status, started = 500, time.perf_counter()

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[HEADER] = number
            await send(message)

        try:
            await self._app(scope, receive, answer)
        finally:
            if log.isEnabledFor(logging.INFO) and (status >= 400 or scope["path"] not in PROBES):
                log.info(_line(scope, number, status, time.perf_counter() - started, facts))


def _line(scope: Scope, number: str, status: int, seconds: float, facts: dict[str, Any]) -> str:
    line = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "request_id": number,
        "client": (scope.get("client") or [None])[0],
        "method": scope["method"],
        "path": scope["path"][:200],
        "status": status,
        "ms": round(1e3 * seconds, 3),
        **facts,
    }
    return json.dumps(line, ensure_ascii=False)


class _Writer(logging.Handler):
    """Writes lines from a thread of its own."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._lines: Queue[str | None] = Queue(BACKLOG)
        self._thread = Thread(target=self._write, args=(descriptor,), name="access-log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Never waits: this is called on the event loop."""
        with suppress(Full):
            self._lines.put_nowait(record.getMessage())

    def close(self) -> None:
        """Write what there is, if somebody takes it within LAST_S."""
        with suppress(Full):
            self._lines.put(None, timeout=LAST_S)
            self._thread.join(LAST_S)
        super().close()

    def _write(self, descriptor: int) -> None:
        """Without a buffer, which would hold what could not be written until the process ends, and fail it then."""
        while (line := self._lines.get()) is not None:
            with suppress(OSError):
                os.write(descriptor, f"{line}\n".encode(errors="replace"))


@contextmanager
def written_to(descriptor: int) -> Iterator[None]:
    """Meanwhile the access log goes to a file descriptor; one that is full, or that nobody reads, delays no request."""
    writer = _Writer(descriptor)
    log.addHandler(writer)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(writer)
        log.setLevel(logging.NOTSET)
        writer.close()
