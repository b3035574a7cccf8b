"""Connections on real sockets: whatever a client sends or leaves out, it holds little memory, and not for long."""

import asyncio
import gc
import http.client
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import aiohttp
import httpx
import pytest
import requests
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from service.client.client import AsyncClient
from service.errors import Refused
from service.process.connections import DISCARD_BYTES
from service.settings import Settings
from tests.support.artifacts import PUBLISHED, TINY_TEXT
from tests.support.images import encode
from tests.support.processes import HEAD, started
from tests.support.servers import Gate, eventually, running

KEY = "0123456789abcdef"
GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /healthz HTTP/1.1\r\nHost: x\r\n"  # is answered 405, without a look at its body
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
FILE = "/static/swagger/swagger-ui-bundle.js"
TOO_MUCH = 70_000
CLIENTS = 1000


@contextmanager
def serving(artifacts: Path, **settings: object) -> Iterator[int]:
    """The port of a server of the tiny artifact."""
    chosen = {"variant": "tiny", "artifacts": artifacts, "threads": 1, "max_images": 1}
    with running(Settings(**{**chosen, **settings})) as url:
        yield int(url.rsplit(":", 1)[1])


@pytest.fixture(scope="module")
def port(artifacts: Path) -> Iterator[int]:
    """Of a server with a key, which gives a client half a second for everything."""
    with serving(artifacts, upload_s=0.5, api_keys=[KEY]) as port:
        yield port


def connect(port: int, sent: bytes) -> socket.socket:
    """A connection on which this was sent, unless the server ended it before."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    with suppress(ConnectionError):
        connection.sendall(sent)
    return connection


def heard(connection: socket.socket) -> bytes:
    """All until the server closes the connection."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.parametrize(
    "sent",
    [
        GET[:-2] + b"X: " + TOO_MUCH * b"a",
        GET[:-2] + b"X: " + TOO_MUCH * b"a" + b"\r\n\r\n",
        b"GET /" + TOO_MUCH * b"a",
        GET[:-2] + 1000 * b"a: b\r\n" + b"\r\n",
        GET[:-2] + b"X: " + 20_000 * b"a" + b"\r\n\r\n",
    ],
)
def test_a_head_is_bounded(port, sent):
    with connect(port, sent) as connection:
        assert heard(connection).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize("rubbish", [GET[:-2] + b"X: " + 10 * TOO_MUCH * b"a", b"rubbish\r\n\r\n"])
def test_a_request_before_rubbish_is_answered(port, rubbish):
    with connect(port, GET + rubbish) as connection:
        assert heard(connection).startswith(b"HTTP/1.1 200 ")


def test_a_head_below_the_bound_is_served(port):
    with connect(port, GET[:-2] + 7 * (b"X: " + 8_000 * b"a" + b"\r\n") + b"\r\n") as connection:
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("address", [b"/" + 9_000 * b"a", b"/variants?" + 4_500 * b"&a"])
def test_an_address_is_bounded(port, address):
    with connect(port, GET.replace(b"/healthz", address)) as connection:
        answer = heard(connection)
    assert answer.startswith(b"HTTP/1.1 414 ")
    assert answer.endswith(b"The address is longer than 8192 bytes.")


@pytest.mark.parametrize(
    "endless", [b"0\r\n" + 100_000 * b"a: b\r\n", b"5;" + 10 * TOO_MUCH * b"a", 100_000 * b"1\r\na\r\n"]
)
def test_trailers_and_what_frames_chunks_are_bounded(artifacts, endless):
    head = HEAD.replace(b"Content-Length: %d", b"Transfer-Encoding: chunked")
    with serving(artifacts) as port:  # where a body has half a minute
        for sent in (head + endless, CHUNKED + endless):
            with connect(port, sent) as connection:
                assert heard(connection).startswith((b"HTTP/1.1 431 ", b"HTTP/1.1 405 "))


def test_a_large_body_in_chunks_is_no_framing(artifacts):
    chunks = 20_000 * (b"10\r\n" + bytes(16) + b"\r\n") + b"0\r\n\r\n"
    with serving(artifacts) as port:
        sent = HEAD.replace(b"Content-Length: %d", b"Transfer-Encoding: chunked") + chunks
        with connect(port, sent) as connection:
            assert connection.recv(65536).startswith(b"HTTP/1.1 400 ")  # zeros are no image


def parsed() -> int:
    """How many requests uvicorn holds in this process."""
    return sum(type(known) is RequestResponseCycle for known in gc.get_objects())


def test_requests_behind_one_that_waits_are_not_parsed_and_do_not_outlive_the_connection(artifacts, gate: Gate):
    image, many = encode(), 1_000
    sent = HEAD % len(image) + image + many * GET
    with serving(artifacts) as port:
        before = parsed()
        gc.disable()
        try:
            with connect(port, sent):
                gate.wait_for(1)
                assert parsed() - before < 100
            gate.open()
            eventually(lambda: parsed() - before < 5)
        finally:
            gc.enable()
        with connect(port, sent[:-2] + b"Connection: close\r\n\r\n") as connection:
            assert heard(connection).count(b"HTTP/1.1 200 ") == 1 + many


def test_a_request_behind_the_last_answer_is_not_served(artifacts):
    refused = b"POST /nothing HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    with serving(artifacts) as port:
        with connect(port, refused) as connection:
            assert connection.recv(65536).startswith(b"HTTP/1.1 404 ")
            connection.sendall(b"12345" + HEAD % 0)
            assert heard(connection) == b""
        metrics = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    assert 'lpr_request_seconds_count{backend="tiny"} 0.0' in metrics


def test_every_connection_is_closed_in_time(port):
    cases = [
        [b""],
        [GET],
        [GET, b"\r\n"],
        [GET, GET[:9]],
        [GET[:-2] + b"Content-Length: 10\r\n\r\n", b"a"],
        [GET[:-2] + b"Content-Length: 10\r\n\r\n"],
        [HEAD % 1000, b"a"],
        [b"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n", b"a"],
        [CHUNKED, b"0\r\n", b"a: b\r\n"],
        [GET[:-2] + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n", b"\x81\x85"],
        [GET[:-2] + b"Connection: close\r\nContent-Length: 1000\r\n\r\n", b"a"],
        [GET[:-2] + b"Expect: 100-continue\r\nContent-Length: 10\r\n\r\n"],
        [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"],
        [b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"],
    ]
    with ExitStack() as stack:
        connections = [stack.enter_context(connect(port, case[0])) for case in cases]
        time.sleep(0.2)
        for connection, case in zip(connections, cases, strict=True):
            for piece in case[1:]:
                with suppress(ConnectionError):
                    connection.sendall(piece)
        for connection in connections:
            connection.settimeout(10)
            with suppress(ConnectionResetError):
                heard(connection)


def test_answers_that_nobody_reads_are_given_up(port):
    asked = 20  # more than the kernel holds
    request = b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % FILE.encode()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", port))
        connection.sendall(asked * request)
        time.sleep(2)
        connection.settimeout(10)
        got = b""
        with suppress(ConnectionResetError):
            for piece in iter(lambda: connection.recv(1 << 20), b""):
                got += piece
    whole = len(httpx.get(f"http://127.0.0.1:{port}{FILE}").content)
    assert len(got) < asked * whole / 2


@pytest.mark.slow
def test_clients_that_are_gone_before_their_answer_leave_no_traceback(artifacts):
    request = b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % FILE.encode()
    with started(artifacts, NOTICE_S="0") as server:
        for number in range(100):
            with server.connect() as connection:
                connection.sendall(request * (1 + 7 * (number % 2)))
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                time.sleep(number % 5 / 1000)
        assert httpx.get(f"{server.url}/healthz").status_code == 200
        assert server.stop() == 0
    assert not any("Traceback" in line for line in server.said)


@pytest.mark.parametrize("protocol", ["h2c", "websocket", "TLS/1.0"])
def test_a_wish_for_another_protocol_is_ignored(client, protocol):
    headers = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": protocol, "HTTP2-Settings": "AAMAAABk"}
    for content in (encode(), iter([encode()])):
        answer = client.post("/recognize", content=content, headers={**headers, "Content-Type": "image/jpeg"})
        assert answer.json()["results"][0]["plates"][0]["text"] == TINY_TEXT
    assert client.get("/healthz", headers=headers).status_code == 200


BODY = bytes(3_000_000)
TIMES = 8
Answer = tuple[int, bytes]


def by_requests(url: str) -> Answer:
    answer = requests.post(url, BODY, headers={"Content-Type": "image/png"}, timeout=60)
    return answer.status_code, answer.content


def by_httpx(url: str) -> Answer:
    answer = httpx.post(url, content=iter([BODY[:9], BODY]), headers={"Content-Type": "image/png"}, timeout=60)
    return answer.status_code, answer.content


def by_urllib(url: str) -> Answer:
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(urllib.request.Request(url, BODY, {"Content-Type": "image/png"}), timeout=60)
    return caught.value.code, caught.value.read()


def by_curl(url: str) -> Answer:
    if shutil.which("curl") is None:
        pytest.skip("there is no curl")
    command = ["curl", "-sS", "-w", "%{http_code}", "--data-binary", "@-", url]  # with Expect: 100-continue
    said = subprocess.run(command, input=BODY, capture_output=True, check=True, timeout=60).stdout
    return int(said[-3:]), said[:-3]


def by_node(url: str) -> Answer:
    if shutil.which("node") is None:
        pytest.skip("there is no node")
    program = f"""fetch("{url}", {{method: "POST", body: new Uint8Array({len(BODY)})}})
        .then(async (answer) => console.log(answer.status + await answer.text()))"""
    said = subprocess.run(["node", "-e", program], capture_output=True, check=True, timeout=60).stdout
    return int(said[:3]), said[3:]


def by_aiohttp(url: str) -> Answer:
    async def post() -> Answer:
        async with aiohttp.ClientSession() as session, session.post(url, data=BODY) as answer:
            return answer.status, await answer.read()

    return asyncio.run(post())


def by_httpx_async(url: str) -> Answer:
    async def post() -> Answer:
        async with httpx.AsyncClient(timeout=60) as client:
            answer = await client.post(url, content=BODY)
            return answer.status_code, answer.content

    return asyncio.run(post())


@pytest.mark.slow
@pytest.mark.parametrize(
    "post",
    [by_requests, by_httpx, by_urllib, by_curl, by_node, by_aiohttp, by_httpx_async],
    ids=lambda post: post.__name__,
)
@pytest.mark.parametrize(("path", "status"), [("/recognize", 401), ("/nothing", 404)])
def test_a_client_sees_why_it_is_refused_while_it_sends(port, post: Callable[[str], Answer], path, status):
    for _ in range(3 if post in (by_curl, by_node) else TIMES):
        answered, content = post(f"http://127.0.0.1:{port}{path}")
        assert answered == json.loads(content)["status"] == status
        assert json.loads(content)["detail"]


def test_our_own_client_sees_why_it_is_refused(port):
    async def read() -> None:
        async with AsyncClient(f"http://127.0.0.1:{port}", api_key="f" * 16, retries=0) as client:
            for _ in range(TIMES):
                with pytest.raises(Refused, match="API key"):
                    await client.read(BODY)

    asyncio.run(read())


def test_after_a_refusal_the_connection_goes_on_where_its_body_ends(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    for _ in range(3):
        connection.request("POST", "/nothing", BODY)
        answer = connection.getresponse()
        assert (answer.status, answer.getheader("connection")) == (404, None)
        answer.read()
    connection.close()


def test_what_follows_a_refusal_is_bounded_in_bytes_and_in_time(artifacts):
    chunk = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
    with serving(artifacts, upload_s=1, max_bytes=1 << 20, queue_bytes=1 << 20) as port:
        sent = 0
        with connect(port, CHUNKED) as connection, suppress(ConnectionError):
            while sent < 3 * DISCARD_BYTES:
                connection.sendall(chunk)
                sent += len(chunk)
        assert sent < 3 * DISCARD_BYTES
        with connect(port, CHUNKED) as connection, suppress(ConnectionError):
            for _ in range(600):
                connection.sendall(b"1\r\na\r\n")
                time.sleep(0.02)
            pytest.fail("the connection stays open for whoever sends a byte now and then")


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_thousand_clients_at_once_wait_for_no_retransmission(workers):
    if int(Path("/proc/sys/net/core/somaxconn").read_text()) < CLIENTS:
        pytest.skip("the kernel lets fewer wait")
    with started(PUBLISHED, VARIANT="quantized", WORKERS=workers, NOTICE_S="0") as server, ExitStack() as stack:
        port = int(server.url.rsplit(":", 1)[1])
        pid = server.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split() if workers != "1" else []
        serving = [pid, *map(int, children)]
        clients = []
        for each in serving:
            os.kill(each, signal.SIGSTOP)  # so that nobody takes them in meanwhile
        for _ in range(CLIENTS):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=0.9))
            client.sendall(GET[:-2] + b"Connection: close\r\n\r\n")
            clients.append(client)
        for each in serving:
            os.kill(each, signal.SIGCONT)
        for client in clients:
            client.settimeout(60)
            assert heard(client).startswith(b"HTTP/1.1 200 ")
        assert server.stop() == 0
