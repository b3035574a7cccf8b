"""`python -m service` as a process: starting, refusing to start, serving, stopping."""

import asyncio
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from service.app import create_app
from service.process.server import Server
from service.settings import REPOSITORY, Settings
from tests.support.artifacts import PUBLISHED, TINY_TEXT
from tests.support.images import encode, picture
from tests.support.processes import COMMAND, HEAD, Process, environment, refuse, started
from tests.support.servers import eventually


@pytest.fixture(scope="module")
def server(artifacts: Path) -> Iterator[Process]:
    """One for all tests that do not end it; stopped by Ctrl-C, which needs no notice."""
    with started(artifacts, NOTICE_S="60", DRAIN_S="61") as process:
        yield process
        assert process.stop(signal.SIGINT) == 0
        assert not any("Traceback" in line for line in process.said)


def test_it_serves(server):
    with httpx.Client(base_url=server.url) as client:
        answer = client.post("/recognize", files=[("image", ("p.jpg", encode(), "image/jpeg"))]).json()
        assert answer["results"][0]["plates"][0]["text"] == TINY_TEXT
        assert client.get("/readyz").status_code == 200


def test_an_answer_arrives_in_one_piece(server):
    with server.connect() as connection:
        for _ in range(20):
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: lpr\r\n\r\n")
            assert connection.recv(65_536).endswith(b'{"status":"ok"}')


def test_a_compiled_network_is_served_without_torch_and_the_compiler():
    with started(PUBLISHED, VARIANT="tvm", THREADS="2") as server, httpx.Client(base_url=server.url) as client:
        answer = client.post("/recognize", files=[("image", ("p.jpg", encode(), "image/jpeg"))] * 5)
        assert len(answer.json()["results"]) == 5
        folder = Path("/proc", str(server.process.pid))
        mapped = {Path(line.split()[-1]).name for line in (folder / "maps").read_text().splitlines()}
    assert "libtvm_runtime.so" in mapped
    assert not [name for name in mapped if name.startswith(("libtorch", "libtvm.so", "libtvm_compiler", "libLLVM"))]


def test_sigterm_turns_readiness_off_then_closes_the_port_then_drains_then_exits_with_0(artifacts):
    with (
        started(artifacts, NOTICE_S="0.5") as server,
        server.connect() as connection,
        httpx.Client(base_url=server.url) as client,
    ):
        image = encode()
        connection.sendall(HEAD % len(image) + image[:100])
        eventually(lambda: 'lpr_requests_in_flight{backend="tiny"} 1.0' in client.get("/metrics").text)
        server.process.send_signal(signal.SIGTERM)
        eventually(lambda: client.get("/readyz").status_code == 503)
        assert client.get("/healthz").status_code == 200
        eventually(server.refuses_connections)
        connection.sendall(image[100:])
        connection.settimeout(20)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        assert server.process.wait(timeout=20) == 0
    assert not any("Traceback" in line for line in server.said)


@pytest.mark.slow
def test_asked_to_stop_it_ends_connections_with_an_answer_and_loses_no_request(artifacts):
    with started(artifacts, NOTICE_S="2") as server, ThreadPoolExecutor(4) as pool:
        busy = threading.Semaphore(0)

        def post_until_told_to_go(_: int) -> set[int]:
            statuses = set()
            with httpx.Client(base_url=server.url, timeout=60) as client:
                while True:
                    response = client.post("/recognize", content=encode(), headers={"Content-Type": "image/jpeg"})
                    statuses.add(response.status_code)
                    busy.release()
                    if response.headers.get("connection") == "close":
                        return statuses

        clients = [pool.submit(post_until_told_to_go, number) for number in range(4)]
        for _ in range(20):
            assert busy.acquire(timeout=60)
        server.process.send_signal(signal.SIGTERM)
        assert [client.result() for client in clients] == [{200}] * 4
        assert server.process.wait(timeout=20) == 0


@pytest.mark.parametrize("turns", range(4))
def test_connections_that_the_kernel_made_before_the_port_closes_are_served(artifacts, turns):
    """They come while the event loop is busy; it closes the port some turns later."""
    settings = Settings(variant="tiny", artifacts=artifacts, threads=1, port=0, notice_s=0)
    server = Server(create_app(settings), settings)
    on_tick, busy, sent = server.on_tick, threading.Event(), threading.Event()

    async def late(counter: int) -> bool:
        if not await on_tick(counter):
            return False
        busy.set()
        sent.wait(20)
        for _ in range(turns):
            await asyncio.sleep(0)
        return True

    server.on_tick = late  # type: ignore[method-assign]
    with ThreadPoolExecutor(1) as pool, ExitStack() as stack:
        ended = pool.submit(server.run)
        eventually(lambda: server.started)
        address = server.servers[0].sockets[0].getsockname()
        server.handle_exit(signal.SIGTERM, None)
        assert busy.wait(20)
        clients = [stack.enter_context(socket.create_connection(address, timeout=20)) for _ in range(20)]
        for client in clients:
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        sent.set()
        for client in clients:
            assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
        ended.result()


@pytest.mark.slow
def test_what_never_arrives_holds_it_up_no_longer_than_it_may(artifacts):
    with started(artifacts, NOTICE_S="0", DRAIN_S="2") as server, server.connect() as connection:
        connection.sendall(HEAD % 999 + b"abc")
        eventually(lambda: 'lpr_requests_in_flight{backend="tiny"} 1.0' in httpx.get(f"{server.url}/metrics").text)
        server.process.send_signal(signal.SIGTERM)
        connection.settimeout(20)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert server.process.wait(timeout=20) == 0
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"urn:lpr:stopping" in answer
    assert not any("Traceback" in line for line in server.said)


def test_a_client_that_goes_away_half_way_does_no_harm(server):
    for _ in range(3):
        with server.connect() as connection:
            connection.sendall(HEAD % 999 + b"abc")
    metrics = f"{server.url}/metrics"
    eventually(lambda: 'cause="client_gone"} 3.0' in httpx.get(metrics).text)
    assert 'cause="internal"} 0.0' in httpx.get(metrics).text


def test_an_oversized_body_is_refused_by_its_announced_length(server):
    with server.connect() as connection:
        connection.sendall(HEAD % 999_999_999)
        connection.settimeout(5)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_an_unknown_variant_is_refused_with_those_that_exist(artifacts):
    assert "Available: tiny." in refuse(environment(artifacts, VARIANT="nonsense"))


@pytest.mark.slow
def test_a_damaged_artifact_is_refused_with_its_file(artifacts, tmp_path):
    copy = Path(shutil.copytree(artifacts, tmp_path / "artifacts"))
    with (copy / "tiny" / "model.onnx").open("ab") as model:
        model.write(b"x")
    assert "model.onnx differs from its sha256" in refuse(environment(copy))


@pytest.mark.slow
def test_its_help_lists_every_setting():
    done = subprocess.run([*COMMAND, "--help"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert re.findall(r"^  LPR_(\w+)$", done.stdout, re.MULTILINE) == [name.upper() for name in Settings.model_fields]
    assert "Default: 8000." in done.stdout
    assert subprocess.run([*COMMAND, "x"], cwd=REPOSITORY, capture_output=True, check=False).returncode == 2


@pytest.mark.slow
def test_an_old_name_of_a_setting_is_warned_of_in_one_line(artifacts):
    with started(artifacts, BACKEND="tiny", VARIANT="", NOTICE_S="0") as server:
        assert server.stop() == 0
    warning = "WARNING:  LPR_BACKEND is now called LPR_VARIANT: the old name works in this release only\n"
    assert [line for line in server.said if line.startswith("WARNING")] == [warning]
    assert refuse(environment(artifacts, BACKEND="tiny")).endswith("both are set: unset LPR_BACKEND\n")


def test_a_senseless_setting_is_refused_by_name(artifacts):
    assert refuse(environment(artifacts, PORT="many")).startswith("LPR_PORT: ")


@pytest.mark.slow
@pytest.mark.parametrize("side", [20, 900])
def test_the_end_does_not_wait_for_a_decoder(artifacts, side):
    """Small images are decoded on the threads of the engine, large ones on others."""
    stuck = "import time; from service.reading import decode; decode.decode_plate = lambda *image: time.sleep(60)"
    command = [sys.executable, "-c", f"import sys; {stuck}; from service.__main__ import main; sys.exit(main())"]
    process = Process(environment(artifacts, NOTICE_S="0", DRAIN_S="2"), command)
    try:
        with process.connect() as connection:
            data = encode(".jpg", picture(side, side))
            connection.sendall(HEAD % len(data) + data)
            time.sleep(0.5)
            start = time.monotonic()
            assert process.stop() == 0
            assert time.monotonic() - start < 4  # the time to drain, and what a busy machine needs besides
            assert connection.recv(65_536).startswith(b"HTTP/1.1 503 ")
    finally:
        process.process.kill()
        process.process.wait()
    assert not any("Traceback" in line for line in process.said)
