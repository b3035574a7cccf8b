"""A server that does nothing but answer: `python -m model_builder.measure.load.peers.trivial PORT`.

What it cannot take, nobody could send: it measures the load generator's ceiling.
"""

import asyncio
import sys

import httptools
import uvloop

BODY = b'{"text":"' + b"x" * 1000 + b'"}'  # about as long as a reading
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY


class Trivial(asyncio.Protocol):
    """Parses each request to its end, then answers it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts a connection."""
        self._transport = transport
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        """Part of a request."""
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        """The parser's event at the end of a request."""
        self._transport.write(ANSWER)


async def serve(port: int) -> None:
    """Until a signal."""
    server = await asyncio.get_running_loop().create_server(Trivial, "127.0.0.1", port, backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(int(sys.argv[1])))
