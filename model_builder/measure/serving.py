"""A variant as a server process: how long it takes to start, what it occupies, and how long each stage takes."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from model_builder import evaluate
from service import artifact as contract
from service.artifact import Artifact
from service.errors import ArtifactError

_STARTS = 3  # of a server; the median counts
_READY_S = 300  # a server that takes longer has failed, whatever else runs
_REQUESTS, _WARM_UP = 50, 20  # the first ones are not counted


def measure(variant: str, artifacts: Path) -> dict[str, float]:
    """Seconds from start to ready; resident bytes after some requests; median milliseconds of their stages."""
    example = min((evaluate.SHIPPED / "images").iterdir()).read_bytes()
    starts = []
    for _ in range(_STARTS):
        with served(variant, artifacts, threads=1) as (url, process, seconds):
            starts.append(seconds)
            timings = [_request(url, example) for _ in range(_REQUESTS)]
            memory = resident(process.pid)
    stages = {f"{stage}_ms": float(np.median([timing[stage] for timing in timings[_WARM_UP:]])) for stage in timings[0]}
    return {"start_s": round(float(np.median(starts)), 2), "resident_bytes": memory, **stages}


def loaded_bytes(artifact: Artifact) -> int:
    """Size of the files that a server loads here: of a compiled variant one library of several."""
    files = [name for name in artifact.manifest.files if name != contract.PROBE]
    if library := contract.library_here(artifact):
        files = [library.file]
    return sum((artifact.folder / name).stat().st_size for name in files)


def _request(url: str, image: bytes) -> dict[str, float]:
    request = urllib.request.Request(f"{url}/recognize", image, {"Content-Type": "image/jpeg"})
    with urllib.request.urlopen(request) as response:
        timing: dict[str, float] = json.load(response)["timing_ms"]
    return timing


@contextmanager
def served(variant: str, artifacts: Path, threads: int) -> Iterator[tuple[str, subprocess.Popen[bytes], float]]:
    """A server process of `variant`: its URL, the process, and the seconds until it was ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"LPR_VARIANT": variant, "LPR_ARTIFACTS": str(artifacts), "LPR_PORT": str(port)}
    settings |= {"LPR_THREADS": str(threads), "LPR_NOTICE_S": "0", "LPR_LOG": "0"}
    url, started = f"http://127.0.0.1:{port}", time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "service"], env=os.environ | settings, stderr=subprocess.DEVNULL)
    try:
        while not _ready(url):
            if process.poll() is not None:
                raise ArtifactError(
                    f"the server of {variant} stopped: LPR_VARIANT={variant} python -m service says why"
                )
            if time.perf_counter() - started > _READY_S:
                raise ArtifactError(f"the server of {variant} was not ready after {_READY_S} s")
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
