"""`lpr bulk` measured: rendered photographs on disk, read by one worker, then by two."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import psutil
from tqdm import tqdm

from model_builder.measure import blocks
from model_builder.render.scene import SceneRenderer

SIZE: Final = (640, 480)  # pixels of a photograph
SEED: Final = 8_000_000
_MAIN: Final = "import sys; from service.client.cli import main; sys.exit(main())"


@dataclass(frozen=True)
class Run:
    """Seconds from the command to its end, those of them before the first file was there, and the most memory that
    the command and all processes of Ray held, in bytes (shared pages counted once)."""

    workers: int
    total_s: float
    start_s: float
    memory: int


def write(folder: Path, renderer: SceneRenderer, count: int, distinct: int) -> None:
    """Write `distinct` scenes as JPEG files, and links to them up to `count` files; those that are there stay."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in tqdm(range(count), unit="image", leave=False, dynamic_ncols=True):
        path = folder / f"{number:06}.jpg"
        if path.exists():
            continue
        if number >= distinct:
            os.link(folder / f"{number % distinct:06}.jpg", path)
            continue
        part = path.with_suffix(".part.jpg")
        cv2.imwrite(str(part), renderer.scene(SEED + number, SIZE).image, [cv2.IMWRITE_JPEG_QUALITY, 90])
        part.rename(path)


def measure(folder: Path, output: Path, workers: int) -> Run:
    """Read the folder into `output`, which must not be there yet."""
    command = [sys.executable, "-c", _MAIN, "bulk", str(folder), str(output), "--workers", str(workers)]
    begun, first, most = time.monotonic(), 0.0, 0
    with subprocess.Popen(command) as process:
        while process.poll() is None:
            most = max(most, _memory(process.pid))
            if not first and any(output.glob("part-*")):
                first = time.monotonic() - begun
            threading.Event().wait(1)
    if process.returncode not in (0, 1):
        raise RuntimeError(f"lpr bulk ended with {process.returncode}")
    return Run(workers, time.monotonic() - begun, first, most)


def table(count: int, runs: Sequence[Run]) -> str:
    """Images a second, the start included, and the share of what so many times one worker would do."""
    alone = runs[0]
    rows = [
        [
            str(run.workers),
            f"{run.total_s:.0f}",
            f"{run.start_s:.0f}",
            f"{count / run.total_s:.1f}",
            f"{alone.total_s / run.total_s:.2f}",
            f"{alone.total_s / run.total_s / run.workers:.2f}",
            f"{run.memory / 1e6:,.0f}",
        ]
        for run in runs
    ]
    head = [
        "workers",
        "seconds",
        "of these until the first file",
        "images a second",
        "times one worker's",
        "share of ideal",
        "memory, MB",
    ]
    return blocks.table(head, rows)


def _memory(pid: int) -> int:
    """Bytes of a process and all below it, each page shared among them in parts."""
    total = 0
    try:
        whole = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for one in whole:
        try:
            total += one.memory_full_info().pss
        except psutil.Error:
            continue
    return total
