"""Connections of uvicorn with bounds: bytes of a head, requests parsed ahead, and seconds for everything a client does.

uvicorn bounds only the time between two requests, and stops that clock at any byte. Here every wait for a client has
its own end:

- the head of a request arrives within `upload_s`, the first byte included; `Admission` bounds its body;
- after an answer, the next request begins within uvicorn's keep-alive time;
- an answer is taken by the client within `upload_s`;
- what still arrives of a request that is answered already is thrown away, within `upload_s` and up to `most_bytes`,
  because most clients read no answer before all is sent. A pause of QUIET_S ends that too.
"""

import asyncio
import sys
from collections.abc import Callable
from typing import Any, Final, NoReturn, cast

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

MANY: Final = 65_536
PIECE: Final = 1024  # bytes parsed at a time, outside a body of known length: what is parsed ahead is no more
HEAD_BYTES: Final = 64 * 1024 - PIECE  # a piece that ends a head is not counted
HEADERS: Final = 256
VALUE_BYTES: Final = 16 * 1024  # of one header
URL_BYTES: Final = 8 * 1024
REFUSALS: Final = {
    400: "Invalid HTTP request received.",
    414: f"The address is longer than {URL_BYTES} bytes.",
    431: f"At most 64 kB of head, {HEADERS} headers, and {VALUE_BYTES} bytes in one of them are taken.",
}
QUIET_S: Final = 3.0
BEYOND: Final = 64 * 1024**2  # bytes beyond the largest body that are thrown away, so that the refusal is seen


class Connection(HttpToolsProtocol):
    """One connection; uvicorn makes it."""

    def __init__(self, *args: Any, upload_s: float, most_bytes: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._upload_s = upload_s
        self._most_bytes = most_bytes
        self._waiting = _Timer(self.loop, lambda: self._sending.close_now())  # for what is to arrive
        self._sending_time = _Timer(self.loop, lambda: self._sending.abort())  # for what is to be taken
        self._unparsed = bytearray()
        self._in_head = False
        self._status = 400  # of the answer to what cannot be parsed
        self._framing = 0  # bytes of the current request that are no body
        self._body_left = 0  # bytes of its body, where their number is known
        self._current: RequestResponseCycle | None = None  # whose answer is due; uvicorn's `cycle` is the last parsed
        self._deaf = False  # what arrives is not parsed any more
        self._thrown_away: int | None = None  # bytes, once an answer was sent before its request had arrived
        self._until = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        transport.set_write_buffer_limits(high=0)  # tell whenever the client has not taken all
        self._sending = _Together(transport, self.loop, self._close)
        super().connection_made(cast(asyncio.Transport, self._sending))
        self._waiting.start(self._upload_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self._waiting.stop()
        self._sending_time.stop()
        self._unset_keepalive_if_required()
        self._unparsed.clear()
        self.pipeline.clear()  # these refer to this connection, and would wait for the garbage collector
        self._disconnect()
        super().connection_lost(exc)
        self._deaf = True

    # What arrives

    def data_received(self, data: bytes) -> None:
        if self._thrown_away is not None:
            self._throw_away(len(data))
        if not self._deaf:
            self._unparsed += data
            self._parse()

    def _parse(self) -> None:
        """Parse what has arrived, but no further than to the first request that has to wait for its answer."""
        while self._unparsed and not (self.pipeline or self._deaf):
            piece = bytes(self._unparsed[: max(PIECE, self._body_left)])
            del self._unparsed[: len(piece)]
            self._framing += len(piece)
            try:
                self.parser.feed_data(piece)
            except httptools.HttpParserUpgrade as stopped:
                self._ignore_upgrade(piece[stopped.args[0] :])
            except httptools.HttpParserError:
                self._refuse(self._status)
            if self._framing > HEAD_BYTES:
                self._refuse(431)
        if self._deaf:
            self._unparsed.clear()
        elif self._unparsed:
            self.flow.pause_reading()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._unset_keepalive_if_required()
        self._in_head, self._framing = True, 0
        if not self._waiting.running and self._answered():
            self._waiting.start(self._upload_s)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # trailers are not read
            super().on_header(name, value)
            if len(self.headers) > HEADERS or len(value) > VALUE_BYTES:
                self._stop_parsing(431)

    def on_headers_complete(self) -> None:
        self._in_head, self._framing = False, 0
        if len(self.url) > URL_BYTES:
            self._stop_parsing(414)
        if self._sending.is_closing():  # what follows a last answer is not served
            return
        super().on_headers_complete()
        if self.parser.should_upgrade():
            return
        self._waiting.stop()
        self._body_left = int(dict(self.headers).get(b"content-length", 0))
        if self.expect_100_continue:  # a client that hears no 100 may leave its body out
            self.cycle.keep_alive = False
        if not self.pipeline:
            self._current = self.cycle

    def on_body(self, body: bytes) -> None:
        # As many bytes of framing as of body are allowed for: that is enough for all but the smallest chunks.
        self._framing = max(0, self._framing - 2 * len(body))
        self._body_left -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._framing = self._body_left = 0
        if self._thrown_away is not None:
            self.cycle.more_body = False
            self._arrived()
        super().on_message_complete()

    def _should_upgrade(self) -> bool:
        return True  # so that uvicorn does nothing with such a request, until it is parsed again

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Parse a request again without its header Upgrade, which makes the parser leave its body out."""
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._refuse(400)
            return
        lines = [b"%b: %b\r\n" % (name, value) for name, value in self.headers if name != b"upgrade"]
        version = self.parser.get_http_version().encode()
        self._unparsed[:0] = b"%b %b HTTP/%b\r\n%b\r\n" % (method, self.url, version, b"".join(lines)) + rest
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it

    def _stop_parsing(self, status: int) -> NoReturn:
        """End the parser, which calls this, so that `_parse` refuses the request."""
        self._status = status
        raise ValueError(REFUSALS[status])

    def _refuse(self, status: int) -> None:
        """Answer what cannot be parsed and parse no more; requests before it are answered first."""
        if self._deaf:
            return
        self._deaf = True
        whole = self.cycle is not None and not self.cycle.more_body
        if whole and not self.cycle.response_complete:
            self.cycle.keep_alive = False
            self.flow.pause_reading()
            return
        if not (self.pipeline or (self._current and self._current.response_started and not whole)):
            detail = REFUSALS[status].encode()
            head = b"content-type: text/plain; charset=utf-8\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
            self._sending.write(STATUS_LINE[status] + head % len(detail) + detail)
        self._disconnect()
        self._sending.close()

    # What is sent

    def on_response_complete(self) -> None:
        answered = self._current
        if self.pipeline:
            self._current = self.pipeline[-1][0]
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if not self.flow.write_paused:
            self._sending_time.stop()
        if answered is self.cycle and answered.more_body:
            self._unset_keepalive_if_required()
            self._begin_throwing_away()
        elif answered is self._current and self._in_head:
            self._unset_keepalive_if_required()
            self._waiting.start(self._upload_s)
        self._parse()

    def pause_writing(self) -> None:
        super().pause_writing()
        if not self._sending_time.running:
            self._sending_time.start(self._upload_s)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._current is None or self._current.response_complete or not self._current.response_started:
            self._sending_time.stop()

    def _close(self) -> None:
        """Close the connection, but not before the client has sent all: it would be reset, and the answer lost."""
        if self._deaf or self.pipeline or self._unparsed:  # where the request ends is not known, or more came after it
            self._deaf = True
            self.pipeline.clear()
            self._sending.write_eof()
            self._begin_throwing_away()
        elif self.cycle is not None and self.cycle.more_body and self.cycle.response_complete:
            self._begin_throwing_away()
        else:
            self._sending.close_now()

    # What arrives in vain

    def _begin_throwing_away(self) -> None:
        self._thrown_away = 0
        self._until = self.loop.time() + self._upload_s
        self.flow.resume_reading()
        self._throw_away(len(self._unparsed))

    def _throw_away(self, count: int) -> None:
        assert self._thrown_away is not None
        self._thrown_away += count
        left = self._until - self.loop.time()
        if self._thrown_away > self._most_bytes or left <= 0:
            self._deaf = True
            self._sending.close_now()
        else:
            self._waiting.start(min(QUIET_S, left))

    def _arrived(self) -> None:
        """The rest of an answered request is there."""
        self._thrown_away = None
        self._waiting.stop()
        if self._sending.is_closing():
            self._sending.close_now()
        else:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _answered(self) -> bool:
        """Whether no answer is due."""
        return self._current is None or self._current.response_complete

    def _disconnect(self) -> None:
        """Tell the application that nobody waits for its answer; uvicorn tells only the last request parsed."""
        for cycle in (self._current, self.cycle):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()


class _Timer:
    """Calls something once, unless it is started again or stopped before."""

    def __init__(self, loop: asyncio.AbstractEventLoop, action: Callable[[], None]) -> None:
        self._loop = loop
        self._action = action
        self._handle: asyncio.TimerHandle | None = None

    @property
    def running(self) -> bool:
        return self._handle is not None

    def start(self, seconds: float) -> None:
        """From now on."""
        self.stop()
        self._handle = self._loop.call_later(seconds, self._action)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None


class _Together:
    """A transport that sends together what is written in one turn of the event loop: the head of an answer with its
    body. For each of them, uvloop would ask the kernel, and wake the client. `on_close` decides when it really closes.
    """

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, on_close: Callable[[], None]
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._on_close = on_close
        self._closing = False
        self._written: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Send it with the end of this turn."""
        if not self._written:
            self._loop.call_soon(self._flush)
        self._written.append(data)

    def pause_reading(self) -> None:
        """Without an error where it is closing."""
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Without an error where it is closing."""
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def write_eof(self) -> None:
        """Say that nothing follows what was written."""
        if not self._transport.is_closing():
            self._transport.write_eof()

    def close(self) -> None:
        """Once all is sent, and `on_close` agrees; nothing more may be written."""
        if not self.is_closing():
            self._flush()
            self._closing = True
            self._on_close()

    def close_now(self) -> None:
        """Once all is sent."""
        self._flush()
        self._transport.close()

    def is_closing(self) -> bool:
        return self._closing or self._transport.is_closing()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def _flush(self) -> None:
        if self._written and not self.is_closing():  # by now the client may be gone
            self._transport.write(b"".join(self._written))
        self._written.clear()


def allow_many() -> None:
    """Have room for MANY connections, as far as this process may: most systems allow 1024 until asked for more."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MANY if hard == resource.RLIM_INFINITY else min(MANY, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
