"""What stands before the application: it turns away at once what there is no room for, and bounds what arrives.

ASGI middleware, because a server that is asked for three times what it can do must not spend its time on refusing.
"""

import asyncio

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import Busy, NoSuchVariant, SlowUpload, Stopping, Unavailable
from service.http import access_log, error_responses
from service.http.state import parts_of
from service.metrics import NONE
from service.pipeline.registry import Variants

HEALTH = ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready")
READING = ("/recognize", "/infer")  # how the addresses end that take images


class Door:
    """Around every request to read: room in the queue, bytes held by all of them together, and the time of an upload.

    Once the server is asked to stop, every answer also ends its connection, so that none is left with a request on its
    way when the port closes.
    """

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
        """Let a request in, or answer it with why not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        parts, path = parts_of(Request(scope)), scope["path"]

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start" and parts.variants.retired:
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        if scope["method"] != "POST" or not path.endswith(READING):
            if path not in HEALTH:
                await self._wait_turn()
            await self._app(scope, receive, answer)
            return
        try:
            parts.variants.check_room()
        except Unavailable as error:
            meant = _meant(scope, parts.variants)
            access_log.note(Request(scope), variant=meant)
            with parts.metrics.request(meant):
                await error_responses.refuse(Request(scope), error)(scope, receive, answer)
            return
        held, complete, until = 0, False, asyncio.get_running_loop().time() + self._upload_s

        async def take() -> Message:
            nonlocal held, complete
            if complete:  # what follows the body, the end of the connection, may take its time
                return await receive()
            try:
                async with asyncio.timeout_at(until):
                    message = await receive()
            except TimeoutError as error:
                raise SlowUpload(f"The body took over {self._upload_s:g} s to arrive: send less at a time.") from error
            size = len(message.get("body", b""))
            held += size
            self._held += size
            complete = not message.get("more_body", False)
            if self._held > self._most_bytes:
                raise Busy("Too many bytes are arriving or waiting just now: try again in a moment.")
            return message

        try:
            await self._app(scope, take, answer)
        except asyncio.CancelledError:  # the time to drain is over
            stopping = Stopping("The server shut down before the request was done: send it to another one.")
            await error_responses.refuse(Request(scope), stopping)(scope, receive, send)
        finally:
            self._held -= held


def _meant(scope: Scope, variants: Variants) -> str:
    """The variant that a request to read would be read by; what is refused counts as its."""
    names = scope["path"].split("/")  # of /v2/models/NAME/infer
    chosen = names[3] if names[1:3] == ["v2", "models"] else QueryParams(scope["query_string"]).get("variant")
    try:
        return variants.choose(chosen)
    except NoSuchVariant:
        return NONE
