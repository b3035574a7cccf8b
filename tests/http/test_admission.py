"""Overload on a real server: what there is no room for is refused at once, and nothing is computed for nobody."""

import asyncio
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

from service import errors
from service.http.admission import Admission
from service.settings import Settings
from tests.support.answers import JPEG, problem
from tests.support.images import encode
from tests.support.processes import HEAD
from tests.support.servers import Gate, eventually, running


@contextmanager
def connected(artifacts: Path, **settings: object) -> Iterator[tuple[httpx.Client, ExitStack]]:
    """A client of a server with one thread, and a stack for connections."""
    chosen = Settings(**{"variant": "tiny", "artifacts": artifacts, "threads": 1, "max_images": 1, **settings})
    with running(chosen) as url, httpx.Client(base_url=url, timeout=60) as client, ExitStack() as stack:
        yield client, stack


def connect(client: httpx.Client, sent: bytes) -> socket.socket:
    """A connection on which so much of a request was sent."""
    connection = socket.create_connection(("127.0.0.1", client.base_url.port or 0), timeout=60)
    connection.sendall(sent)
    return connection


def post(client: httpx.Client) -> httpx.Response:
    return client.post("/recognize", content=encode(), headers=JPEG)


def has(client: httpx.Client, line: str) -> bool:
    return line in client.get("/metrics").text


def test_a_full_queue_refuses_before_the_body_arrives_and_health_and_metrics_answer(artifacts, gate: Gate):
    with connected(artifacts, queue=1) as (client, stack), ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(post, client)
        gate.wait_for(1)
        connection = stack.enter_context(connect(client, HEAD % 99_999))
        answer = connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 429 ")
        assert b"retry-after: 1\r\n" in answer
        problem(post(client), 429, errors.Busy)
        assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200
        assert has(client, 'lpr_errors_total{backend="tiny",cause="busy"} 2.0')
        assert has(client, 'lpr_request_seconds_count{backend="tiny"} 2.0')
        gate.open()
        assert waiting.result().status_code == 200
        assert post(client).status_code == 200


def test_bytes_are_bounded_over_all_requests(artifacts):
    with connected(artifacts, max_bytes=10_000, queue_bytes=15_000) as (client, stack):
        first = stack.enter_context(connect(client, HEAD % 9_000 + bytes(8_000)))
        eventually(lambda: has(client, 'lpr_requests_in_flight{backend="tiny"} 1.0'))
        second = stack.enter_context(connect(client, HEAD % 9_000 + bytes(8_000)))
        assert second.recv(65536).startswith(b"HTTP/1.1 429 ")
        first.sendall(bytes(1_000))
        assert first.recv(65536).startswith(b"HTTP/1.1 400 ")  # zeros are no image
        third = stack.enter_context(connect(client, HEAD % 9_000 + bytes(9_000)))
        assert third.recv(65536).startswith(b"HTTP/1.1 400 ")  # what the others held is free again


def test_an_upload_that_takes_too_long_is_ended(artifacts):
    with connected(artifacts, upload_s=0.3) as (client, stack):
        connection = stack.enter_context(connect(client, HEAD % 9_000 + bytes(100)))
        answer = b"".join(iter(lambda: connection.recv(65536), b""))  # until the server closes it
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"urn:lpr:slow_upload" in answer
        assert post(client).status_code == 200


def test_what_waited_too_long_is_refused_and_not_computed(artifacts, gate: Gate):
    with connected(artifacts, deadline_ms=500) as (client, _), ThreadPoolExecutor(1) as pool:
        first = pool.submit(post, client)
        gate.wait_for(1)
        response = post(client)
        problem(response, 503, errors.TooLate)
        assert response.headers["retry-after"] == "1"
        gate.open()
        assert first.result().status_code == 200  # late too, but the engine had begun
    assert gate.batches == [1]


def test_nothing_is_computed_for_a_client_that_is_gone(artifacts, gate: Gate):
    with connected(artifacts, deadline_ms=60_000) as (client, _), ThreadPoolExecutor(1) as pool:
        first = pool.submit(post, client)
        gate.wait_for(1)
        image = encode()
        with connect(client, HEAD % len(image) + image):
            eventually(lambda: has(client, 'lpr_requests_in_flight{backend="tiny"} 2.0'))
        eventually(lambda: has(client, 'cause="client_gone"} 1.0'))
        gate.open()
        assert first.result().status_code == 200
    assert gate.batches == [1]


def test_requests_that_read_nothing_begin_one_in_a_turn_of_the_event_loop():
    """So that a request to read waits for one of them, and not for all that came before it."""
    begun, between = 0, []

    async def slow(scope, receive, send):
        nonlocal begun
        begun += 1
        time.sleep(0.001)  # noqa: ASYNC251 - it takes the event loop's time, as an answer does

    async def reading():
        while begun < 50:
            before = begun
            await asyncio.sleep(0)
            between.append(begun - before)

    async def together():
        scope = {"type": "http", "method": "GET", "path": "/metrics", "headers": []}
        admission = Admission(slow, 1, 1.0)
        await asyncio.gather(*(admission(scope, None, None) for _ in range(50)), reading())

    asyncio.run(together())
    assert max(between) == 1
