"""`make profile`: where the time of a request goes, and the CPU time beyond inference; ARGS="--help" for options.

A real server of one thread is asked over kept-alive connections for one JPEG of 94x24 pixels, as a raw body and as a
form. CPU time is what the kernel counted for the server's threads (/proc/PID/task/TID/schedstat, nanoseconds); the
stages and the CPU time of inference are those of /metrics.
"""

import argparse
import pstats
import re
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from model_builder import evaluate
from model_builder.measure import blocks
from model_builder.measure.load import servers
from model_builder.measure.load.__main__ import plates
from model_builder.measure.load.generator import form, message
from model_builder.measure.load.scrape import scrape
from model_builder.measure.load.servers import Running, Server
from service.settings import REPOSITORY, Settings

LIMITS_MS = {"raw": 0.6, "form": 0.9}  # of CPU beyond inference, what this project asks for
CONNECTIONS = (1, 8)
STAGES = ("decode", "preprocess", "queue", "inference", "postprocess", "total")
COLUMNS = ("body", "connections", "batch", "CPU", "beyond inference", "limit", "event loop", "threads", *STAGES)
WARM_UP = 200

Measured = dict[str, float]


@dataclass(frozen=True)
class Line:
    """One kind of body on so many connections; `spent` is in milliseconds a request, by COLUMNS and "engine"."""

    body: str
    connections: int
    batch: float
    spent: Measured

    @property
    def beyond(self) -> float:
        """CPU time of the whole server, less inference."""
        return self.spent["event loop"] + self.spent["threads"] - self.spent["engine"]

    @property
    def good(self) -> bool:
        """Whether that is within its limit."""
        return self.beyond <= LIMITS_MS[self.body]

    def row(self) -> list[str]:
        """The cells of COLUMNS."""
        cpu = self.spent["event loop"] + self.spent["threads"]
        figures = [cpu, self.beyond, LIMITS_MS[self.body], *(self.spent[name] for name in COLUMNS[6:])]
        return [self.body, str(self.connections), f"{self.batch:.1f}", *(f"{figure:.3f}" for figure in figures)]


def main() -> int:
    """Measure, print the table and write it; 1 if CPU time beyond inference is over its limit."""
    options = _parser().parse_args()
    server = servers.ours(options.variant, threads="1")
    if options.functions:
        functions(server, options.requests)
        return 0
    with servers.running(server) as running:
        lines = list(measure(running, options.requests))
    text = markdown(evaluate.machine(), evaluate.commit(), options.variant, options.requests, lines)
    print(text)
    options.out.mkdir(parents=True, exist_ok=True)
    blocks.put(options.out / blocks.PAGE, "profile", text)
    return int(not all(line.good for line in lines))


def functions(server: Server, requests: int) -> None:
    """What the server's main thread does, function by function; profiling makes everything slower."""
    python, *rest = server.command
    with tempfile.TemporaryDirectory() as folder:
        stats = Path(folder) / "stats"
        profiled = replace(server, command=(python, "-m", "cProfile", "-o", str(stats), *rest))
        with servers.running(profiled) as running:
            ask(running.port, bodies()["raw"], 8, requests)
        pstats.Stats(str(stats)).sort_stats("tottime").print_stats(40)


def bodies() -> dict[str, bytes]:
    """A whole HTTP request of each kind."""
    (image,) = plates(1)
    return {"raw": message("/recognize", image, "image/jpeg"), "form": message("/recognize", *form(image))}


def measure(running: Running, requests: int) -> Iterator[Line]:
    """A line for each kind of body and number of connections."""
    for body, sent in bodies().items():
        for connections in CONNECTIONS:
            ask(running.port, sent, connections, WARM_UP)
            told, used = metrics(running.url), cpu(running.process.pid)  # in this order: a scrape takes CPU time too
            ask(running.port, sent, connections, requests)
            used_then, told_then = cpu(running.process.pid), metrics(running.url)
            seconds = {name: used_then[name] - used[name] for name in used}
            counted = {name: told_then[name] - told[name] for name in told}
            count, batches = counted.pop("requests"), counted.pop("batches")
            spent = {name: 1e3 * value / count for name, value in (seconds | counted).items()}
            yield Line(body, connections, count / batches, spent)


def ask(port: int, sent: bytes, connections: int, requests: int) -> None:
    """Send a request on every connection, read all answers, and repeat."""
    sockets = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(connections)]
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


def cpu(pid: int) -> Measured:
    """Seconds on a CPU of the main thread, `event loop`, and of all others, `threads`."""
    found = {"event loop": 0.0, "threads": 0.0}
    for task in Path(f"/proc/{pid}/task").iterdir():
        seconds = int((task / "schedstat").read_text().split()[0]) / 1e9
        found["event loop" if task.name == str(pid) else "threads"] += seconds
    return found


def metrics(url: str) -> Measured:
    """Seconds of all requests in each stage and of the engine, and how many requests and batches there were."""
    found: Measured = {"requests": 0, "batches": 0, "engine": 0, **dict.fromkeys(STAGES, 0.0)}
    for (name, labels), value in scrape(url).items():
        match name, dict(labels).get("stage"):
            case "lpr_stage_seconds_sum", str(stage):
                found[stage] = value
            case "lpr_stage_seconds_count", "total":
                found["requests"] = value
            case "lpr_inference_cpu_seconds_total", _:
                found["engine"] = value
            case "lpr_batch_images_count", _:
                found["batches"] = value
    return found


def markdown(machine: str, commit: str, variant: str, requests: int, lines: Sequence[Line]) -> str:
    """The method and the table, in Markdown."""
    over = sum(not line.good for line in lines)
    return "\n\n".join(
        [
            "## What does the server do beside inference?",
            f"`make profile` on {machine}, commit {commit}: a server of `{variant}` with one thread, {requests:,} "
            "requests a line. A request is one JPEG of 94x24 pixels, as a raw body or in a form. All figures are "
            "milliseconds a request. `CPU` is the CPU time of the whole server as the kernel counts it: that of the "
            "`event loop` and of the other `threads`. `beyond inference` is the same without the network. The stages "
            "after them are those of /metrics, waiting included; requests that are computed together all take as long "
            "as their batch.",
            f"{over} of {len(lines)} lines are over their limit.",
            blocks.table(COLUMNS, [line.row() for line in lines]),
        ]
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model_builder.measure.load.profile", description=__doc__)
    parser.add_argument("--variant", default=Settings.model_fields["variant"].default, help="(default: %(default)s)")
    parser.add_argument("--requests", type=int, default=3000, help="to measure, for each line (default: %(default)s)")
    parser.add_argument("--functions", action="store_true", help="list the functions of the event loop, by cProfile")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "report", help="folder (default: report)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
