"""What goes wrong around a real server process: silence, a changed artifact, no room for its log.

Beside these: a client that is gone, and SIGTERM under load, in test_server.py; a slow upload and overload in
test_door.py; a killed process in test_workers.py; hostile images in test_hostile_images.py.
"""

import resource
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from model_builder.measure.load.servers import free_port
from service.settings import REPOSITORY
from tests.support.artifacts import PUBLISHED
from tests.support.processes import COMMAND, HEAD, VARIANT, Process, answers, environment, refuse, started
from tests.support.samples import TEXT, read
from tests.support.servers import eventually

pytestmark = pytest.mark.slow

SILENT = 1000


@contextmanager
def many_files() -> Iterator[None]:
    """Let this process open twice as many files as there are silent connections."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] < 2 * SILENT:
        pytest.skip(f"only {before[1]} files may be open here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], 2 * SILENT), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_thousand_connections_that_say_nothing_keep_nobody_out():
    few = ["sh", "-c", 'ulimit -Sn 256 && exec "$0" "$@"', *COMMAND]  # the server asks for more
    server = Process(environment(PUBLISHED, VARIANT=VARIANT), few)
    try:
        with many_files(), ExitStack() as stack:
            for _ in range(SILENT):
                stack.enter_context(server.connect())
            assert read(server.url) == TEXT
            assert httpx.get(f"{server.url}/readyz", timeout=60).status_code == 200
            descriptors = Path(f"/proc/{server.process.pid}/fd")
            eventually(lambda: len(list(descriptors.iterdir())) > SILENT)  # they are indeed held
        eventually(lambda: len(list(descriptors.iterdir())) < SILENT)
        assert server.stop(signal.SIGINT) == 0
    finally:
        server.process.kill()
        server.process.wait()


def test_a_connection_that_says_nothing_or_only_the_beginning_of_a_head_is_closed():
    with started(PUBLISHED, VARIANT=VARIANT, UPLOAD_S="0.5") as server:
        beginning, second = HEAD[:20], b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" + HEAD[:20]
        for said, answers in ((b"", 0), (beginning, 0), (second, 1)):
            with server.connect() as connection:
                connection.sendall(said)
                connection.settimeout(60)
                heard = b"".join(iter(lambda connection=connection: connection.recv(65536), b""))
                assert heard.count(b"HTTP/1.1 200 ") == answers
        assert read(server.url) == TEXT


def overwrite(file: Path) -> None:
    """Change it where it is."""
    file.write_bytes(b"rubbish" * 1000)


def replace(file: Path) -> None:
    """Put another one in its place, as the publisher does."""
    other = file.with_name("other")
    overwrite(other)
    other.rename(file)


@pytest.mark.parametrize(("variant", "change"), [(VARIANT, overwrite), ("tvm-fast", replace)])
def test_an_artifact_changed_on_disk_is_not_served_but_the_one_that_was_proven_is(variant, change, tmp_path):
    copy = Path(shutil.copytree(PUBLISHED / variant, tmp_path / variant))
    with started(tmp_path, VARIANT=variant) as server:
        before = httpx.get(f"{server.url}/model", timeout=60).json()
        for file in copy.iterdir():
            change(file)
        assert read(server.url) == TEXT
        assert httpx.get(f"{server.url}/model", timeout=60).json() == before
        assert httpx.get(f"{server.url}/readyz", timeout=60).status_code == 200
        assert "is not JSON" in refuse(environment(tmp_path, VARIANT=variant))
        shutil.rmtree(copy)
        assert read(server.url) == TEXT


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_it_serves_though_its_log_cannot_be_written():
    port = str(free_port())
    env = environment(PUBLISHED, VARIANT=VARIANT, PORT=port, NOTICE_S="0") | {"PYTHONUNBUFFERED": ""}
    with open("/dev/full", "w") as full:
        process = subprocess.Popen(COMMAND, cwd=REPOSITORY, env=env, stdout=full, stderr=full)
    url = f"http://127.0.0.1:{port}"
    try:
        while process.poll() is None and not answers(url):
            time.sleep(0.05)
        with socket.create_connection(("127.0.0.1", int(port))) as connection:
            connection.sendall(b"rubbish\r\n\r\n")  # which is logged
            assert connection.recv(65536).startswith(b"HTTP/1.1 400 ")
        refused = httpx.post(f"{url}/recognize", content=b"x", headers={"Content-Type": "image/png"}, timeout=60)
        assert refused.status_code == 400
        assert read(url) == TEXT
        assert 'cause="internal"} 0.0' in httpx.get(f"{url}/metrics", timeout=60).text
        process.terminate()
        assert process.wait(timeout=60) in (0, 120)  # 120: Python, where it cannot write what it held for stderr
    finally:
        process.kill()
        process.wait()
