"""Accuracy, latency and size of any artifact, through the serving code."""

import math
import platform
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from model_builder.plates.kinds import PLATES, Plate
from model_builder.train import labels
from model_builder.train.data import Crops, validation_set
from service.artifact import Artifact, Latency, Score
from service.backends import Backend
from service.reading import geometry
from service.reading.text import Reader, Reading

SHIPPED = Path(__file__).parent / "plates-500"  # 500 rendered plates that come with the repository


def wilson(exact: int, total: int) -> Score:
    """`exact` of `total` with the 95 % interval of Wilson (1927)."""
    z = 1.96
    share, scale = exact / total, 1 + z * z / total
    center = (share + z * z / (2 * total)) / scale
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total)) / scale
    return Score(exact=exact, total=total, low=max(0.0, center - half), high=min(1.0, center + half))


def readings(artifact: Artifact, backend: Backend, crops: Crops) -> Iterator[Reading]:
    """What the server would read on each crop, one at a time, however unsure."""
    reader = Reader.of(artifact.reader)
    for image in crops.images:
        yield reader.read(backend.infer(geometry.prepare(image, artifact.reader.size)[None])[0])


def read_texts(artifact: Artifact, logits: NDArray[np.float32]) -> list[str]:
    """What the server would answer to each of `logits` (n, steps, classes)."""
    reader = Reader.of(artifact.reader)
    return [reader.read(rows).text for rows in logits]


def accuracy(artifact: Artifact, backend: Backend, crops: Crops) -> Score:
    """Exact match of the served readings."""
    total, name = len(crops.texts), artifact.manifest.variant
    read = tqdm(readings(artifact, backend, crops), name, total, unit="plate", leave=False, dynamic_ncols=True)
    exact = sum(reading.text == text for reading, text in zip(read, crops.texts, strict=True))
    return wilson(exact, total)


def sets(real: Sequence[Path], rendered: int, *taken: str, plates: Sequence[Plate] = PLATES) -> dict[str, Crops]:
    """So many rendered plates of the validation seeds, of the kinds `plates`, and the sets in the folders `real`, none
    called as `taken` are.

    Raises DataError.
    """
    photographs = labels.read_sets(real, "rendered", *taken)  # first, for a mistake is told at once
    return {"rendered": validation_set(rendered, plates), **photographs}


def latency(backend: Backend, *, threads: int, batch: int = 1, repeats: int = 300, size: tuple[int, int]) -> Latency:
    """Milliseconds of `infer` on `batch` plates: median and 95th percentile of `repeats` calls after 30 of warm-up."""
    crops = np.random.default_rng(0).integers(0, 255, (batch, *size, 3), np.uint8)
    times = []
    for _ in range(30 + repeats):
        start = time.perf_counter()
        backend.infer(crops)
        times.append((time.perf_counter() - start) * 1e3)
    median, p95 = np.percentile(times[30:], (50, 95))
    return Latency(
        median=round(float(median), 3), p95=round(float(p95), 3), threads=threads, batch=batch, repeats=repeats
    )


def machine() -> str:
    """The CPU's name, as figures carry it."""
    cv2.setNumThreads(1)
    try:
        match = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        match = None
    return match.group(1).strip() if match else platform.processor() or platform.machine()


def commit(digits: int = 7) -> str:
    """The commit of the working tree, with "-dirty" where files differ from it, or "unknown" outside git."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty", f"--abbrev={digits}"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"
