"""Speeds that the project promises, measured: never asserted in a test, always told with the machine."""

import multiprocessing
import time
from multiprocessing.synchronize import Barrier

import cv2

from model_builder.render import Renderer, batch

_WARM_UP = 4000  # plates, after which nearly every glyph has been painted once and is kept
_MEASURED = 4000


def rendering(processes: int) -> float:
    """Plates a second that `processes` renderers draw side by side, each after a warm-up."""
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(processes)
    with context.Pool(processes, _share, (start,)) as pool:
        return sum(pool.map(_speed, range(processes), chunksize=1))


def _share(start: Barrier) -> None:
    global _start
    _start = start


def _speed(number: int) -> float:
    cv2.setNumThreads(1)
    renderer, seed = Renderer(), number << 24
    batch(renderer, seed, _WARM_UP)
    _start.wait()
    began = time.perf_counter()
    batch(renderer, seed + _WARM_UP, _MEASURED)
    return _MEASURED / (time.perf_counter() - began)


_start: Barrier  # shared with every process of the pool when it starts
