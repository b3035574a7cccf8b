"""`make profile`: where the time of a request goes, and how much CPU time the server spends beyond inference.

A real server of one thread, asked over kept-alive connections for one 94x24 JPEG, as a raw body and as multipart. CPU
time is what the kernel counted for the server's threads (/proc/PID/task/TID/schedstat, nanoseconds); the stages are
those of /metrics. Inference is taken at its wall time, which is its CPU time only while nothing else runs.
"""

import argparse
import os
import pstats
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import httpx
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "tests" / "samples" / "blue.png"
LIMITS_MS = {"raw": 0.6, "multipart": 0.9}  # of CPU beyond inference, what this project asks for
STAGES = ("decode", "preprocess", "inference", "postprocess", "queue", "total")
WARM_UP = 200

Measured = dict[str, float]


def main() -> int:
    """Print a table per kind of body and number of connections; 1 if CPU time beyond inference is over its limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="tvm-int8", help="what to serve (default: %(default)s)")
    parser.add_argument("--requests", type=int, default=3000, help="to measure, for each line (default: %(default)s)")
    parser.add_argument("--functions", action="store_true", help="list the functions of the event loop, by cProfile")
    chosen = parser.parse_args()
    if chosen.functions:
        functions(chosen.variant, chosen.requests)
        return 0
    over = 0
    print("| body | connections | CPU ms | beyond inference | event loop | threads | " + " | ".join(STAGES) + " |")
    print("|" + "---|" * (6 + len(STAGES)))
    with serving(chosen.variant, []) as (process, url):
        for kind, limit in LIMITS_MS.items():
            for connections in (1, 8):
                found = measure(process.pid, url, kind, connections, chosen.requests)
                beyond = found["loop"] + found["threads"] - found["inference"]
                over += beyond > limit
                figures = [found["loop"] + found["threads"], beyond, found["loop"], found["threads"]]
                figures += [found[stage] for stage in STAGES]
                print(f"| {kind} | {connections} | " + " | ".join(f"{figure:.3f}" for figure in figures) + " |")
    print(f"Milliseconds a request. Limits of CPU beyond inference: {LIMITS_MS}; lines over theirs: {over}.")
    return int(over > 0)


def functions(variant: str, requests: int) -> None:
    """What the server's main thread does, function by function; profiling makes everything slower."""
    with tempfile.TemporaryDirectory() as folder:
        stats = Path(folder) / "stats"
        with serving(variant, ["-m", "cProfile", "-o", str(stats)]) as (_, url):
            ask(url, request("raw"), 8, requests)
        pstats.Stats(str(stats)).sort_stats("tottime").print_stats(40)


@contextmanager
def serving(variant: str, profiler: list[str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server process of one thread and its URL; stopped as an operator would."""
    environment = os.environ | {"LPR_BACKEND": variant, "LPR_PORT": "0", "LPR_THREADS": "1", "LPR_NOTICE_S": "0"}
    command = [sys.executable, *profiler, "-m", "service"]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        lines = iter(process.stderr.readline, "")
        url = next(found[1] for line in lines if (found := re.search(r"running on (http://\S+)", line)))
        yield process, url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def request(kind: str) -> bytes:
    """A whole HTTP request with a 94x24 JPEG."""
    image = cv2.imencode(".jpg", cv2.resize(cv2.imread(str(SAMPLE)), (94, 24)))[1].tobytes()
    if kind == "raw":
        sent = httpx.Request("POST", "http://x/recognize", content=image, headers={"Content-Type": "image/jpeg"})
    else:
        sent = httpx.Request("POST", "http://x/recognize", files={"image": ("plate.jpg", image, "image/jpeg")})
    head = "".join(f"{name}: {value}\r\n" for name, value in sent.headers.items())
    return f"POST /recognize HTTP/1.1\r\n{head}\r\n".encode() + sent.read()


def ask(url: str, sent: bytes, connections: int, requests: int) -> None:
    """Ask on all connections at once, read all answers, and again."""
    address = httpx.URL(url)
    sockets = [socket.create_connection((address.host, address.port or 80), timeout=60) for _ in range(connections)]
    for _ in range(requests // connections):
        for connection in sockets:
            connection.sendall(sent)
        for connection in sockets:
            receive(connection)
    for connection in sockets:
        connection.close()


def receive(connection: socket.socket) -> None:
    """Read one answer, which must be a 200."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += connection.recv(65536) or _lost()
    head, _, body = answer.partition(b"\r\n\r\n")
    found = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    if not head.startswith(b"HTTP/1.1 200 ") or found is None:
        raise RuntimeError(f"unexpected answer: {answer!r}")
    while len(body) < int(found[1]):
        body += connection.recv(65536) or _lost()


def _lost() -> bytes:
    raise RuntimeError("the server closed the connection")


def measure(pid: int, url: str, kind: str, connections: int, requests: int) -> Measured:
    """Milliseconds a request of the event loop's thread, of the other threads, and of each stage."""
    sent = request(kind)
    ask(url, sent, connections, WARM_UP)
    before = cpu(pid) | stages(url)
    ask(url, sent, connections, requests)
    after = cpu(pid) | stages(url)
    count = after["count"] - before["count"]
    return {name: 1e3 * (after[name] - before[name]) / count for name in after if name != "count"}


def cpu(pid: int) -> Measured:
    """Seconds on a CPU of the main thread, `loop`, and of all others, `threads`."""
    found = {"loop": 0.0, "threads": 0.0}
    for task in Path(f"/proc/{pid}/task").iterdir():
        seconds = int((task / "schedstat").read_text().split()[0]) / 1e9
        found["loop" if task.name == str(pid) else "threads"] += seconds
    return found


def stages(url: str) -> Measured:
    """Seconds of all requests in each stage, and how many requests there were."""
    found: Measured = {}
    for family in text_string_to_metric_families(httpx.get(f"{url}/metrics").text):
        for sample in family.samples:
            if sample.name == "lpr_stage_seconds_sum":
                found[sample.labels["stage"]] = sample.value
            elif sample.name == "lpr_stage_seconds_count":
                found["count"] = sample.value
    return found


if __name__ == "__main__":
    sys.exit(main())
