"""HTTP connections with bounds, made of uvicorn's protocol for httptools, which has none of them.

Stock uvicorn, what is done here instead, and the test on a real socket that fails with the stock part:

- It reads a head of any size. Here bytes, headers and the address have bounds: 431 or 414. (test_a_head_is_bounded)
- It has no clock for a head, and any byte stops its keep-alive clock. Here a head, its first byte included, arrives
  within `upload_s`; `http.admission` bounds the body. (test_every_connection_is_closed_in_time)
- It waits for ever for a client that does not read. Here an answer is read within `upload_s`.
  (test_answers_that_nobody_reads_are_given_up)
- It parses all requests that have arrived and keeps them. Here no request is parsed behind one that waits.
  (test_requests_behind_one_that_waits_are_not_parsed_and_do_not_outlive_the_connection)
- It closes at once after a refusal, which resets a client that still sends, and so hides the refusal. Here the rest of
  the request is discarded, for `upload_s` and `most_bytes` at most.
  (test_a_client_sees_why_it_is_refused_while_it_sends)
- It drops the body of a request with a header `Upgrade`. Here the header is ignored.
  (test_a_wish_for_another_protocol_is_ignored)
- It sends the head and the body of an answer apart: see transport.py. (test_an_answer_arrives_in_one_piece)
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final, NoReturn, cast

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from service.process.transport import CoalescingTransport

PIECE_BYTES: Final = 1024  # parsed at a time outside a body of known length, and so the most that is parsed ahead
HEAD_BYTES: Final = 64 * 1024 - PIECE_BYTES  # the piece in which a head ends is not counted
HEADERS: Final = 256
VALUE_BYTES: Final = 16 * 1024  # of one header
URL_BYTES: Final = 8 * 1024
REFUSALS: Final = {
    400: "Invalid HTTP request received.",
    414: f"The address is longer than {URL_BYTES} bytes.",
    431: f"At most 64 kB of head, {HEADERS} headers, and {VALUE_BYTES} bytes in one of them are taken.",
}
QUIET_S: Final = 3.0  # a pause that ends the discarding: test_an_oversized_body_is_refused_by_its_announced_length
DISCARD_BYTES: Final = 64 * 1024**2  # beyond the largest body, so that a client that sends more sees the refusal


class Connection(HttpToolsProtocol):
    """One connection; uvicorn makes it."""

    def __init__(self, *args: Any, upload_s: float, most_bytes: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._upload_s = upload_s
        self._most_bytes = most_bytes
        self._receive_timer = _Timer(self.loop, lambda: self._out.close_now())  # for what the client is to send
        self._send_timer = _Timer(self.loop, lambda: self._out.abort())  # for what it is to read
        self._unparsed = bytearray()
        self._in_head = False
        self._status = 400  # of the answer to a request that cannot be parsed
        self._framing = 0  # bytes of the current request that are not its body
        self._body_left = 0  # bytes of its body, if their number is known
        self._current: RequestResponseCycle | None = None  # to be answered next; `cycle` is the last one parsed
        self._ignoring = False  # whether what arrives is not parsed any more
        self._discarded: int | None = None  # bytes, while the rest of an answered request arrives
        self._discard_until = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        transport.set_write_buffer_limits(high=0)  # call `pause_writing` whenever the client has not taken all
        self._out = CoalescingTransport(transport, self.loop, self._close)
        super().connection_made(cast(asyncio.Transport, self._out))
        self._receive_timer.start(self._upload_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self._receive_timer.stop()
        self._send_timer.stop()
        self._unset_keepalive_if_required()
        self._unparsed.clear()
        self.pipeline.clear()  # breaks a reference cycle, so that they are freed now
        self._disconnect()
        super().connection_lost(exc)
        self._ignoring = True

    # Receiving

    def data_received(self, data: bytes) -> None:
        if self._discarded is not None:
            self._discard(len(data))
        if not self._ignoring:
            self._unparsed += data
            self._parse()

    def _parse(self) -> None:
        """Parse what has arrived, up to the first request that has to wait for its answer."""
        while self._unparsed and not (self.pipeline or self._ignoring):
            piece = bytes(self._unparsed[: max(PIECE_BYTES, self._body_left)])
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
        if self._ignoring:
            self._unparsed.clear()
        elif self._unparsed:
            self.flow.pause_reading()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._unset_keepalive_if_required()
        self._in_head, self._framing = True, 0
        if not self._receive_timer.running and self._answered():
            self._receive_timer.start(self._upload_s)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # trailers are not read
            super().on_header(name, value)
            if len(self.headers) > HEADERS or len(value) > VALUE_BYTES:
                self._stop_parsing(431)

    def on_headers_complete(self) -> None:
        self._in_head, self._framing = False, 0
        if len(self.url) > URL_BYTES:
            self._stop_parsing(414)
        if self._out.is_closing():  # a request behind the last answer is not served
            return
        super().on_headers_complete()
        if self.parser.should_upgrade():
            return
        self._receive_timer.stop()
        self._body_left = int(dict(self.headers).get(b"content-length", 0))
        if self.expect_100_continue:  # a client that gets no 100 may leave its body out
            self.cycle.keep_alive = False
        if not self.pipeline:
            self._current = self.cycle

    def on_body(self, body: bytes) -> None:
        # Chunks may have as much framing as content. All but the smallest chunks have less.
        self._framing = max(0, self._framing - 2 * len(body))
        self._body_left -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._framing = self._body_left = 0
        if self._discarded is not None:
            self.cycle.more_body = False
            self._end_discarding()
        super().on_message_complete()

    def _should_upgrade(self) -> bool:
        return True  # uvicorn does nothing with such a request then, and `_ignore_upgrade` parses it again

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Parse a request again without its header Upgrade, because the parser ignores the body of an upgrade."""
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._refuse(400)
            return
        lines = [b"%b: %b\r\n" % (name, value) for name, value in self.headers if name != b"upgrade"]
        version = self.parser.get_http_version().encode()
        self._unparsed[:0] = b"%b %b HTTP/%b\r\n%b\r\n" % (method, self.url, version, b"".join(lines)) + rest
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does

    def _stop_parsing(self, status: int) -> NoReturn:
        """Raise through the parser, which calls this, into `_parse`, which refuses the request."""
        self._status = status
        raise ValueError(REFUSALS[status])

    def _refuse(self, status: int) -> None:
        """Answer a request that cannot be parsed, after those before it, and ignore what follows."""
        if self._ignoring:
            return
        self._ignoring = True
        whole = self.cycle is not None and not self.cycle.more_body
        if whole and not self.cycle.response_complete:
            self.cycle.keep_alive = False
            self.flow.pause_reading()
            return
        if not (self.pipeline or (self._current and self._current.response_started and not whole)):
            detail = REFUSALS[status].encode()
            head = b"content-type: text/plain; charset=utf-8\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
            self._out.write(STATUS_LINE[status] + head % len(detail) + detail)
        self._disconnect()
        self._out.close()

    # Sending

    def on_response_complete(self) -> None:
        answered = self._current
        if self.pipeline:
            self._current = self.pipeline[-1][0]
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if not self.flow.write_paused:
            self._send_timer.stop()
        if answered is self.cycle and answered.more_body:
            self._unset_keepalive_if_required()
            self._start_discarding()
        elif answered is self._current and self._in_head:
            self._unset_keepalive_if_required()
            self._receive_timer.start(self._upload_s)
        self._parse()

    def pause_writing(self) -> None:
        super().pause_writing()
        if not self._send_timer.running:
            self._send_timer.start(self._upload_s)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._current is None or self._current.response_complete or not self._current.response_started:
            self._send_timer.stop()

    def _close(self) -> None:
        """Close the connection when the client has sent all. Closed before, it is reset, and the answer is lost."""
        if self._ignoring or self.pipeline or self._unparsed:  # it is not known where the request ends
            self._ignoring = True
            self.pipeline.clear()
            self._out.write_eof()
            self._start_discarding()
        elif self.cycle is not None and self.cycle.more_body and self.cycle.response_complete:
            self._start_discarding()
        else:
            self._out.close_now()

    # Discarding the rest of a request that is answered already

    def _start_discarding(self) -> None:
        self._discarded = 0
        self._discard_until = self.loop.time() + self._upload_s
        self.flow.resume_reading()
        self._discard(len(self._unparsed))

    def _discard(self, count: int) -> None:
        assert self._discarded is not None
        self._discarded += count
        left = self._discard_until - self.loop.time()
        if self._discarded > self._most_bytes or left <= 0:
            self._ignoring = True
            self._out.close_now()
        else:
            self._receive_timer.start(min(QUIET_S, left))

    def _end_discarding(self) -> None:
        """The request is complete: close the connection, or wait for the next request."""
        self._discarded = None
        self._receive_timer.stop()
        if self._out.is_closing():
            self._out.close_now()
        else:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _answered(self) -> bool:
        """Whether no request waits for its answer."""
        return self._current is None or self._current.response_complete

    def _disconnect(self) -> None:
        """Tell the application that the client is gone. uvicorn tells only the last request parsed."""
        for cycle in (self._current, self.cycle):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()


class _Timer:
    """Calls an action once after some seconds, unless it is started again or stopped before."""

    def __init__(self, loop: asyncio.AbstractEventLoop, action: Callable[[], None]) -> None:
        self._loop = loop
        self._action = action
        self._handle: asyncio.TimerHandle | None = None

    @property
    def running(self) -> bool:
        return self._handle is not None

    def start(self, seconds: float) -> None:
        """Start, or start again, from now on."""
        self.stop()
        self._handle = self._loop.call_later(seconds, self._action)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
