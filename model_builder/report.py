"""The comparison of all variants: accuracy, latency beside the peers', size, memory; as JSON, Markdown and figures.

Everything is measured through the serving code. `reports/report.json` holds the figures, and what is drawn and what
README shows is made from it.
"""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from model_builder import evaluate
from model_builder.contest import Contestant, contest
from model_builder.data import Crops
from service import artifact as contract
from service.artifact import Artifact, Score
from service.backends import load

BATCHES = (1, 8, 32)
THREADS = (1, 2)
_BEGIN, _END = "<!-- report: written by `make report` -->", "<!-- report: end -->"


def accuracies(artifact: Artifact, sets: Mapping[str, Crops]) -> dict[str, Score]:
    """Exact match of a variant on each set, and on all real ones pooled."""
    backend = load(artifact, threads=1)
    scores = {name: evaluate.accuracy(artifact, backend, crops) for name, crops in sets.items()}
    backend.close()
    real = [score for name, score in scores.items() if name != "rendered"]
    if real:
        scores["real, pooled"] = evaluate.wilson(sum(s.exact for s in real), sum(s.total for s in real))
    return scores


@contextmanager
def served(variant: str, artifacts: Path, threads: int) -> Iterator[tuple[str, subprocess.Popen[bytes], float]]:
    """A server process of `variant`: its URL, the process, and the seconds until it was ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"LPR_BACKEND": variant, "LPR_ARTIFACTS": str(artifacts), "LPR_PORT": str(port)}
    settings |= {"LPR_THREADS": str(threads), "LPR_NOTICE_S": "0"}
    url, started = f"http://127.0.0.1:{port}", time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "service"], env=os.environ | settings, stderr=subprocess.DEVNULL)
    try:
        while not _ready(url):
            if process.poll() is not None:
                raise RuntimeError(f"the server of {variant} stopped: LPR_BACKEND={variant} python -m service says why")
            time.sleep(0.01)
        yield url, process, time.perf_counter() - started
    finally:
        process.terminate()
        process.wait()


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz") as response:
            return bool(response.status == 200)
    except OSError:
        return False


def resident(process: int) -> int:
    """Bytes of memory that the process occupies."""
    status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    match = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert match
    return int(match.group(1)) * 1024


def serving(variant: str, artifacts: Path, example: bytes) -> dict[str, float]:
    """Seconds from start to ready, resident bytes after 20 requests, and the median seconds of each stage of them."""
    with served(variant, artifacts, threads=1) as (url, process, seconds):
        answers = []
        for _ in range(50):
            request = urllib.request.Request(f"{url}/recognize", example, {"Content-Type": "image/png"})
            with urllib.request.urlopen(request) as response:
                answers.append(json.load(response)["timing_ms"])
        memory = resident(process.pid)
    warm = answers[20:]
    stages = {f"{stage}_ms": sorted(answer[stage] for answer in warm)[len(warm) // 2] for stage in warm[0]}
    return {"start_s": round(seconds, 2), "resident_bytes": memory, **stages}


def measure(
    artifacts: Path, sets: Mapping[str, Crops], peers: Sequence[Contestant], example: bytes, rounds: int
) -> dict[str, Any]:
    """Every figure of the report. Takes minutes; let nothing else run meanwhile."""
    variants = {name: contract.find(artifacts, name) for name in contract.variants(artifacts)}
    contestants = [Contestant(name, "artifact", artifact.folder) for name, artifact in variants.items()]
    times: dict[str, list[dict[str, Any]]] = {}
    for threads in THREADS:
        for name, results in contest([*contestants, *peers], threads, BATCHES, rounds=rounds).items():
            times.setdefault(name, []).extend(asdict(result) for result in results)
    return {
        "machine": evaluate.machine(),
        "times": times,
        "variants": {
            name: {
                "version": artifact.manifest.version,
                "accuracy": {key: score.model_dump() for key, score in accuracies(artifact, sets).items()},
                "serving": serving(name, artifacts, example),
                **_sizes(artifact),
            }
            for name, artifact in variants.items()
        },
        "peers": {peer.name: {"bytes": peer.model.stat().st_size} for peer in peers if peer.model.is_file()},
    }


def _sizes(artifact: Artifact) -> dict[str, Any]:
    measured = artifact.manifest.measured
    assert measured is not None
    files = [artifact.folder / name for name in artifact.manifest.files if name != contract.PROBE]
    return {
        "bytes": sum(path.stat().st_size for path in files),
        "parameters": measured.parameters,
        "multiply_adds": measured.multiply_adds,
    }


def time_of(report: Mapping[str, Any], name: str, batch: int = 1, threads: int = 1) -> dict[str, Any]:
    """Times of a variant or peer at a batch size and number of threads."""
    return next(t for t in report["times"][name] if (t["batch"], t["threads"]) == (batch, threads))


def table(report: Mapping[str, Any]) -> str:
    """The comparison in Markdown: a row per variant, then one per peer."""
    baseline = time_of(report, "baseline")["median"]
    sets = [*next(iter(report["variants"].values()))["accuracy"]]
    head = [
        "variant",
        *sets,
        "ms",
        "of baseline",
        "p99 ms",
        "ms at 32",
        "ms at 32, 2 threads",
        "MB",
        "start s",
        "MB RAM",
    ]
    rows = []
    for name, variant in report["variants"].items():
        scores = [_percent(variant["accuracy"][key]) for key in sets]
        served = variant["serving"]
        memory = [f"{served['start_s']:.1f}", f"{served['resident_bytes'] / 1e6:.0f}"]
        size = f"{variant['bytes'] / 1e6:.2f}"
        rows.append([f"`{name}`", *scores, *_speeds(report, name, baseline), size, *memory])
    for name in report["times"]:
        if name not in report["variants"]:
            size = report["peers"].get(name, {}).get("bytes")
            rows.append(
                [
                    name,
                    *["" for _ in sets],
                    *_speeds(report, name, baseline),
                    f"{size / 1e6:.2f}" if size else "",
                    "",
                    "",
                ]
            )
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


def _percent(score: Mapping[str, Any]) -> str:
    return f"{100 * score['exact'] / score['total']:.1f} % ({score['exact']}/{score['total']})"


def _speeds(report: Mapping[str, Any], name: str, baseline: float) -> list[str]:
    one = time_of(report, name)
    per_plate = [time_of(report, name, 32, threads)["median"] for threads in THREADS]
    return [
        f"{one['median']:.2f}",
        f"{one['median'] / baseline:.3f}",
        f"{one['p99']:.2f}",
        *(f"{t:.2f}" for t in per_plate),
    ]


def into_readme(readme: Path, text: str) -> None:
    """Put `text` between the report's markers. Raises ValueError where they are missing."""
    content = readme.read_text(encoding="utf-8")
    if content.count(_BEGIN) != 1 or content.count(_END) != 1:
        raise ValueError(f"{readme} must hold the lines {_BEGIN} and {_END} once each")
    before, rest = content.split(_BEGIN)
    after = rest.split(_END)[1]
    readme.write_text(f"{before}{_BEGIN}\n{text}\n{_END}{after}", encoding="utf-8")
