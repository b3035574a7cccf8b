"""From encoded images to readings, with the time of each stage. Knows neither HTTP nor Prometheus.

A pool of threads decodes images and composes readings, and in between waits for the `Team`, whose threads compute; the
event loop only waits. What is admitted is bounded at the door, so no queue behind it can grow without limit.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from service import plate
from service.artifact import Artifact, Grammar
from service.backends.team import Team
from service.errors import Busy, InputError, Stopping
from service.plate import Encoded, Pixels, Reading


@dataclass(frozen=True)
class Seen:
    """One image: its size in pixels, orientation applied, what the network computed (T, C), and what was read in it."""

    width: int
    height: int
    logits: NDArray[np.float32]
    reading: Reading


Outcome = Seen | InputError  # of one image


@dataclass(frozen=True)
class Timing:
    """Seconds per stage; `total` also holds the hand-overs between threads."""

    decode: float
    preprocess: float
    queue: float
    inference: float
    postprocess: float
    total: float


@dataclass(frozen=True)
class Prepared:
    """Crops uint8 (H, W, 3), and for each image its size or why it cannot be read; the seconds that took."""

    crops: list[NDArray[np.uint8]]
    sizes: list[tuple[int, int] | InputError]
    decode: float
    preprocess: float


class Recognizer:
    """A loaded, proven artifact that reads plates. Its methods belong to the event loop."""

    def __init__(self, artifact: Artifact, threads: int, queue: int, max_pixels: int) -> None:
        """Load and prove the artifact; raises ArtifactError."""
        self.manifest = artifact.manifest
        self._queue = queue
        self._max_pixels = max_pixels
        self._admitted = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._retired = False
        self._team = Team(artifact, threads)
        # While one thread waits for the team, another one can decode.
        self._pool = ThreadPoolExecutor(max_workers=2 * threads, thread_name_prefix="images")
        self.engine = self._team.engine

    @property
    def ready(self) -> bool:
        """Whether requests should be sent here: the probe has passed, and nobody asked to stop."""
        return self._team.alive and not self._retired

    async def idle(self) -> None:
        """Wait until nothing is admitted."""
        await self._idle.wait()

    def retire(self) -> None:
        """Stop being ready; requests that come nevertheless are still served until `close`."""
        self._retired = True

    async def close(self) -> None:
        """Finish what was admitted, then free the engine."""
        self.retire()
        self._queue = 0
        await self._idle.wait()
        await asyncio.to_thread(self._pool.shutdown)
        await asyncio.to_thread(self._team.close)

    async def recognize(
        self, images: Sequence[Encoded | Pixels], top_k: int, only: Grammar | None = None
    ) -> tuple[list[Outcome], Timing]:
        """Read one plate per image, an encoded one or BGR uint8 (H, W, 3); with `only`, as one of its formats and
        nothing else.

        An image that cannot be read has its error in its place. Raises Busy or Stopping where nothing more is admitted.
        """
        with self._admit(len(images)):
            start = time.perf_counter()
            loop = asyncio.get_running_loop()
            seen, stages = await loop.run_in_executor(self._pool, self._recognize, images, top_k, only)
            return seen, Timing(*stages, time.perf_counter() - start)

    @contextmanager
    def _admit(self, count: int) -> Iterator[None]:
        if self._queue == 0:
            raise Stopping("The server is shutting down: send the request to another one.")
        if self._admitted + count > self._queue:
            raise Busy(f"{self._admitted} images are already waiting: try again in a moment.")
        self._admitted += count
        self._idle.clear()
        try:
            yield
        finally:
            self._admitted -= count
            if self._admitted == 0:
                self._idle.set()

    def _recognize(
        self, images: Sequence[Encoded | Pixels], top_k: int, only: Grammar | None
    ) -> tuple[list[Outcome], tuple[float, float, float, float, float]]:
        """Read the images, with the seconds of each stage, on a thread of the pool."""
        prepared = self._prepare(images)
        submitted = time.perf_counter()
        parts = [part.result() for part in self._team.submit(np.stack(prepared.crops))] if prepared.crops else []
        started = min((part.started for part in parts), default=submitted)
        finished = max((part.finished for part in parts), default=submitted)
        logits = (row for part in parts for row in part.logits)
        seen: list[Outcome] = [
            size if isinstance(size, InputError) else self._see(size, next(logits), top_k, only)
            for size in prepared.sizes
        ]
        waited, computed, composed = started - submitted, finished - started, time.perf_counter() - finished
        return seen, (prepared.decode, prepared.preprocess, waited, computed, composed)

    def _see(self, size: tuple[int, int], logits: NDArray[np.float32], top_k: int, only: Grammar | None) -> Seen:
        alphabet, blank = self.manifest.alphabet, self.manifest.blank
        if only is None:
            reading = plate.read(logits, alphabet, blank, self.manifest.grammar, top_k)
        else:
            reading = plate.read_as(logits, alphabet, blank, only, top_k)
        return Seen(*size, logits, reading)

    def _prepare(self, images: Sequence[Encoded | Pixels]) -> Prepared:
        prepared, decode, preprocess = Prepared([], [], 0, 0), 0.0, 0.0
        for data in images:
            start = time.perf_counter()
            try:
                image = data if isinstance(data, np.ndarray) else plate.decode_image(data, self._max_pixels)
            except InputError as error:
                prepared.sizes.append(error)
                continue
            decoded = time.perf_counter()
            prepared.crops.append(plate.prepare(image))
            prepared.sizes.append((image.shape[1], image.shape[0]))
            decode += decoded - start
            preprocess += time.perf_counter() - decoded
        return replace(prepared, decode=decode, preprocess=preprocess)
