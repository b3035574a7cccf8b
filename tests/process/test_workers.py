"""Several processes on one port: they share it and their counts, are replaced when they die, and end together."""

import os
import signal
import socket
import sys
import time
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.process import listeners
from tests.support.artifacts import PUBLISHED
from tests.support.processes import COMMAND, HEAD, VARIANT, Process, environment, refuse, started
from tests.support.samples import FILE, FOLDER, TEXT
from tests.support.servers import eventually

pytestmark = pytest.mark.slow


# The supervisor looks for heartbeats each 0.3 s, not each second: it gives a process 3 s, which is six heartbeats.
IMPATIENT = """
import sys
from service.__main__ import main
from service.process import workers
workers.CHECK_S = 0.3
sys.exit(main())
"""


def serving(command: list[str] = COMMAND, **settings: str) -> AbstractContextManager[Process]:
    """Two processes of a published variant, and the one that started them."""
    return started(PUBLISHED, command, VARIANT=VARIANT, WORKERS="2", **settings)


def samples(text: str) -> dict[str, float]:
    """Value by name, and by name and labels' values."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[" ".join([sample.name, *(value for _, value in sorted(sample.labels.items()))])] = sample.value
    return found


def scrape(process: Process) -> dict[str, float]:
    """One scrape on a connection of its own, so that any of the processes may answer it."""
    return samples(httpx.get(f"{process.url}/metrics", timeout=60).text)


def children(process: Process) -> list[int]:
    """The processes that serve; the one with which Python tracks resources is another child."""
    listed = Path(f"/proc/{process.process.pid}/task/{process.process.pid}/children").read_text().split()
    found = []
    for pid in listed:
        with suppress(OSError):  # it ended meanwhile
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(int(pid))
    return found


def listening(process: Process) -> int:
    """How many sockets take connections on its port (proc_net_tcp(5): state 0A)."""
    port = f"{int(process.url.rsplit(':', 1)[1]):04X}"
    fields = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    return sum(field[1].endswith(f":{port}") and field[3] == "0A" for field in fields)


def post(process: Process) -> str:
    """The text read on a sample, on a connection of its own."""
    files = {"image": (FILE, (FOLDER / FILE).read_bytes())}
    answer = httpx.post(f"{process.url}/recognize", files=files, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()["results"][0]["plates"][0]["text"]


def test_their_counts_add_up_on_every_scrape_also_when_one_is_killed():
    with serving(NOTICE_S="0") as process:
        assert len(children(process)) == listening(process) == 2
        for number in range(1, 21):
            assert post(process) == TEXT
            assert scrape(process)[f"lpr_plates_total {VARIANT}"] == number
        before = scrape(process)
        assert before[f"lpr_request_seconds_count {VARIANT}"] == before[f"lpr_batch_images_count {VARIANT}"] == 20
        with process.connect() as half:
            half.sendall(HEAD % 9)
            eventually(lambda: scrape(process)[f"lpr_requests_in_flight {VARIANT}"] == 1)
            for victim in children(process):
                os.kill(victim, signal.SIGKILL)
                eventually(lambda victim=victim: victim not in children(process) and listening(process) == 2)
                after = scrape(process)
                assert after[f"lpr_plates_total {VARIANT}"] == 20
                assert after["process_cpu_seconds_total"] >= before["process_cpu_seconds_total"]
        assert scrape(process)[f"lpr_requests_in_flight {VARIANT}"] == 0
        assert post(process) == TEXT
        assert scrape(process)[f"lpr_plates_total {VARIANT}"] == 21
        assert process.stop() == 0
    assert sum("ended with status -9" in line for line in process.said) == 2
    assert not any("Traceback" in line for line in process.said)


def test_a_switch_of_the_variant_reaches_all_of_them():
    key = "0123456789abcdef"
    with serving(API_KEYS=key) as process:
        switch = f"{process.url}/variants/tvm/activate"
        assert httpx.post(switch, headers={"X-API-Key": key}, timeout=60).status_code == 200
        models = [f"{process.url}/model"] * 8  # each on a connection of its own
        eventually(lambda: {httpx.get(model, timeout=60).json()["variant"] for model in models} == {"tvm"})
        assert process.stop(signal.SIGINT) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all_of_them_and_the_port(number):
    with serving(NOTICE_S="0.1") as process:
        pids = children(process)
        assert process.stop(number) == 0
        assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
        assert process.refuses_connections()


def test_they_end_when_the_one_that_started_them_is_killed():
    with serving(NOTICE_S="0") as process:
        process.process.kill()
        process.process.wait()
        eventually(process.refuses_connections)


def test_where_one_cannot_start_none_does(tmp_path):
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('it is not here')", encoding="utf-8")
    env = environment(PUBLISHED, VARIANT=VARIANT, WORKERS="2") | {"PYTHONPATH": str(tmp_path)}
    assert "needs the onnxruntime engine" in refuse(env)  # though the artifact itself is whole


@pytest.mark.parametrize("workers", ["1", "2"])
def test_what_cannot_start_says_one_sentence_with_the_setting(tmp_path, workers):
    (tmp_path / "switch").write_text("nobody 0123")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for name, value in {
            "PORT": str(taken.getsockname()[1]),
            "HOST": "192.0.2.1",  # of another machine
            "SWITCH_FILE": str(tmp_path / "switch"),
            "VARIANT": "nobody",
        }.items():
            chosen = {"VARIANT": VARIANT, "WORKERS": workers, name: value}
            (sentence,) = refuse(environment(PUBLISHED, **chosen)).splitlines()
            assert f"LPR_{name}" in sentence


@pytest.mark.parametrize("workers", ["1", "2"])
def test_they_listen_on_ipv6(workers):
    with started(PUBLISHED, VARIANT=VARIANT, HOST="::1", WORKERS=workers) as process:
        assert httpx.get(f"{process.url}/readyz").status_code == 200
        assert process.stop() == 0


def test_a_port_can_be_shared_but_not_by_chance():
    (reserved,) = listeners.bind("127.0.0.1", 0, shared=False)
    port = reserved.getsockname()[1]
    (worker,) = listeners.bind("127.0.0.1", port, shared=True)
    with reserved, worker:
        worker.listen()
        with pytest.raises(OSError, match="in use"):
            listeners.bind("127.0.0.1", port, shared=False)


def test_a_process_that_is_stopped_is_killed_and_replaced():
    with serving([sys.executable, "-c", IMPATIENT], NOTICE_S="0") as process:
        before = children(process)
        os.kill(before[0], signal.SIGSTOP)
        deadline = time.monotonic() + 60
        while before[0] in children(process) or len(children(process)) < 2 or listening(process) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert before[1] in children(process)
        assert post(process) == TEXT
        assert process.stop() == 0
    assert any("gave no sign of life" in line for line in process.said)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_signals_that_come_again_and_to_every_process_drop_nothing(workers):
    image = (FOLDER / FILE).read_bytes()
    head = b"POST /recognize HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n"
    with started(PUBLISHED, VARIANT=VARIANT, WORKERS=workers, NOTICE_S="0.2") as process:
        halves = [process.connect() for _ in range(8)]
        for half in halves:
            half.sendall(head % len(image) + image[:100])
        time.sleep(0.5)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            for pid in (process.process.pid, *children(process)):
                os.kill(pid, number)
            time.sleep(0.1)
        for half in halves:
            half.sendall(image[100:])
            assert half.recv(65536).startswith(b"HTTP/1.1 200 ")
        assert process.process.wait(timeout=20) == 0
    assert not any("Traceback" in line for line in process.said)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_second_interrupt_ends_it_at_once_and_without_a_traceback(workers):
    with started(PUBLISHED, VARIANT=VARIANT, WORKERS=workers, DRAIN_S="60") as process, process.connect() as half:
        half.sendall(b"POST /recognize HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
        time.sleep(0.5)
        process.process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert process.process.poll() is None
        process.process.send_signal(signal.SIGINT)
        process.process.wait(timeout=20)
    assert not any("Traceback" in line for line in process.said)
