"""Request ids, and the access log: a line of JSON for each request, without its image, its query and its key.

Texts of plates are personal data in many places, so that they are in the log only with LPR_LOG_PLATES.
"""

import random
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from ipaddress import ip_address
from typing import Any

from pydantic_core import to_json
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import printable
from service.logs import Writer
from service.pipeline.registry import Variants

HEADER = "x-request-id"
NOT_SNIFFED = (b"x-content-type-options", b"nosniff")  # a text of a client's, back in JSON, is no page to any browser
PROBES = ("/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready")  # logged only if they fail

_ACCEPTED = re.compile(r"[A-Za-z0-9._:-]{1,128}")  # of a client's ids: what can break no header and no log


def request_id(request: Request) -> str:
    """The id of a request: the client's X-Request-Id, if that is a sensible one, or ours."""
    return str(request.state.request_id)


def note(request: Request, **facts: Any) -> None:
    """Have the request's line tell more: keys with values that JSON has."""
    request.state.facts.update(facts)


def noted(request: Request, key: str) -> Any:
    """What `note` has said under a key, or None."""
    return request.state.facts.get(key)


class Access:
    """ASGI middleware that gives each request its id, echoes that in the answer, and logs the line.

    Once the server is asked to stop, every answer also ends its connection, so that none is left with a request on its
    way when the port closes.
    """

    def __init__(self, app: ASGIApp, variants: Variants) -> None:
        self._app = app
        self._variants = variants

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(HEADER, "")
        number = given if _ACCEPTED.fullmatch(given) else f"{random.getrandbits(128):032x}"
        facts: dict[str, Any] = {}
        scope.setdefault("state", {}).update(request_id=number, facts=facts)
        status, started = 500, time.perf_counter()

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                last = [(b"connection", b"close")] if self._variants.retired else []
                echoed = (HEADER.encode(), number.encode())
                message["headers"] = [*message.get("headers", ()), *last, echoed, NOT_SNIFFED]
            await send(message)

        try:
            await self._app(scope, receive, answer)
        finally:
            if _writers and (status >= 400 or scope["path"] not in PROBES):
                line = _line(scope, number, status, time.perf_counter() - started, facts)
                for writer in _writers:
                    writer.put(line)


def _line(scope: Scope, number: str, status: int, seconds: float, facts: dict[str, Any]) -> bytes:
    line = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "request_id": number,
        "client": _address(scope["client"][0]) if scope.get("client") else None,
        "method": scope["method"],
        "path": scope["path"][:200],
        "status": status,
        "ms": round(1e3 * seconds, 3),
        **facts,
    }
    text = to_json(line)
    return text if text.isascii() and b"\x7f" not in text else printable(text.decode()).encode()


@lru_cache(128)
def _address(host: str) -> str | None:
    """A client's address; none where what a proxy said is no address."""
    try:
        return str(ip_address(host.partition("%")[0]))  # behind % anything may stand
    except ValueError:
        return None


_writers: list[Writer] = []


@contextmanager
def written_to(descriptor: int) -> Iterator[Writer]:
    """Meanwhile the access log goes to a file descriptor; one that is full, or that nobody reads, delays no request."""
    writer = Writer(descriptor)
    _writers.append(writer)
    try:
        yield writer
    finally:
        _writers.remove(writer)
        writer.close()
