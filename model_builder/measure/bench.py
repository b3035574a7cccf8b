"""Speeds that the project promises, measured: never asserted in a test, always told with the machine."""

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from model_builder.evaluate import SHIPPED
from model_builder.render.plate import Renderer, batch
from service.artifact import Artifact
from service.backends import load
from service.reading import decode, geometry
from service.reading.text import Reader

_WARM_UP = 4000  # plates, after which nearly every glyph has been painted once and is kept
_MEASURED = 4000
_MAX_PIXELS = 1 << 20
_REPEATED = 20  # times of one plate, of which the shortest counts: what else the machine does only adds


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


def decoding(images: Path = SHIPPED / "images") -> dict[str, float]:
    """Microseconds to decode a small JPEG, the median over those in a folder: by OpenCV, as the service does it, and by
    simplejpeg, the fastest decoder found in the registry."""
    import simplejpeg

    encoded = [path.read_bytes() for path in sorted(images.iterdir())]
    cv2.setNumThreads(1)
    decoders: dict[str, Callable[[bytes], object]] = {
        "OpenCV": lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR),
        "simplejpeg": lambda data: simplejpeg.decode_jpeg(data, "BGR"),
    }
    return {
        name: float(np.median([_fastest(decoder, data) for data in encoded])) * 1e6
        for name, decoder in decoders.items()
    }


def reading(artifact: Artifact, images: Path = SHIPPED / "images", top_k: int = 3) -> tuple[float, float]:
    """Milliseconds from a decoded image to its text and candidates beyond inference: median and 95th percentile over
    the images of a folder."""
    reader = Reader.of(artifact.reader)
    crops = [decode.decode_image(path.read_bytes(), _MAX_PIXELS) for path in sorted(images.iterdir())]
    cv2.setNumThreads(1)
    backend = load(artifact)
    size = artifact.reader.size
    logits = [backend.infer(geometry.prepare(crop, size)[None])[0] for crop in crops]
    backend.close()
    times = [
        _fastest(lambda image: geometry.prepare(image, size), crop) + _fastest(lambda row: reader.read(row, top_k), row)
        for crop, row in zip(crops, logits, strict=True)
    ]
    median, p95 = np.percentile(times, (50, 95)) * 1e3
    return float(median), float(p95)


def _fastest(call: Callable[[Any], object], argument: object) -> float:
    """Seconds of the fastest of some calls."""
    times = []
    for _ in range(_REPEATED):
        began = time.perf_counter()
        call(argument)
        times.append(time.perf_counter() - began)
    return min(times)


_start: Barrier  # shared with every process of the pool when it starts
