"""Admission control: reject early when the queue or the byte budget is full; time uploads.

Both happen before the body of a request is read, or while it arrives: a server that is asked for three times what it
can do must not spend its time on refusing.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import Busy, SlowUpload, Stopping
from service.http import access_log
from service.http.state import State
from service.pipeline.recognizer import Recognizer

HEALTH = ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready")
# How the addresses end that take images.
READING = ("/recognize", "/infer", "/redact", "/plate-reader", "/plate-reader/", "/alpr")


@contextmanager
def admitted(request: Request, state: State, variant: str) -> Iterator[Callable[[], Awaitable[Recognizer]]]:
    """What gives the recognizer of a request to read, which counts for its variant from here on, refused or not.

    To be called once the body is there: a variant that is not loaded is loaded then, which raises VariantUnusable or
    Stopping. Raises Busy where no image would be admitted.
    """
    access_log.note(request, variant=variant)
    with state.metrics.request(variant):
        state.budget.check_room()
        with state.variants.use(variant) as recognizer:
            yield recognizer


class Admission:
    """ASGI middleware around requests to read: bounds the bytes that all of them hold, and the time of an upload."""

    def __init__(self, app: ASGIApp, most_bytes: int, upload_s: float) -> None:
        self._app = app
        self._most_bytes = most_bytes
        self._upload_s = upload_s
        self._held = 0
        self._turn = asyncio.Lock()

    async def _wait_turn(self) -> None:
        """Let one request that reads nothing begin in each turn of the event loop.

        Such a request (GET /metrics, say) takes milliseconds of the event loop at once. If many came together, a
        request to read would wait for all of them.
        """
        async with self._turn:
            await asyncio.sleep(0)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; raises Busy, SlowUpload or Stopping."""
        if scope["type"] != "http" or scope["path"] in HEALTH:
            await self._app(scope, receive, send)
        elif scope["method"] != "POST" or not scope["path"].endswith(READING):
            await self._wait_turn()
            await self._app(scope, receive, send)
        else:
            await self._bounded(scope, receive, send)

    async def _bounded(self, scope: Scope, receive: Receive, send: Send) -> None:
        held, complete, until = 0, False, asyncio.get_running_loop().time() + self._upload_s

        def hold(size: int) -> None:
            nonlocal held
            held += size
            self._held += size
            if self._held > self._most_bytes:
                raise Busy("Too many bytes are arriving or waiting just now: try again in a moment.")

        scope.setdefault("state", {})["hold"] = hold  # for bytes that come otherwise than in the body

        async def take() -> Message:
            nonlocal complete
            if complete:  # what follows the body, the end of the connection, may take its time
                return await receive()
            try:
                async with asyncio.timeout_at(until):
                    message = await receive()
            except TimeoutError as error:
                raise SlowUpload(f"The body took over {self._upload_s:g} s to arrive: send less at a time.") from error
            complete = not message.get("more_body", False)
            hold(len(message.get("body", b"")))
            return message

        try:
            await self._app(scope, take, send)
        except asyncio.CancelledError as error:  # the time to drain is over
            raise Stopping("The server shut down before the request was done: send it to another one.") from error
        finally:
            self._held -= held
