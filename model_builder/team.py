"""Several threads that compute one batch. Each owns an engine: an engine belongs to the thread that loads it."""

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from service import backends
from service.artifact import Artifact, check_probe
from service.backends import Backend


class Team:
    """Runs an artifact on `threads` threads; a Backend that any thread may call, and several at a time."""

    def __init__(self, artifact: Artifact, threads: int) -> None:
        """Return once the probe has passed on every thread; raises ArtifactError where it, or the loading, does not."""
        self._threads = [ThreadPoolExecutor(1, "engine") for _ in range(threads)]
        try:  # one after the other: not every engine can be loaded twice at a time
            self._engines = [thread.submit(_proven, artifact).result() for thread in self._threads]
        except BaseException:
            self._end()
            raise
        self.engine = self._engines[0].engine

    def submit(self, batch: NDArray[np.uint8]) -> list[Future[NDArray[np.float32]]]:
        """Queue a batch of crops uint8 (N, H, W, 3): the logits float32 (n, T, C) of its parts in their order, one a
        thread where there are enough."""
        parts = np.array_split(batch, min(len(batch), len(self._threads)))
        members = zip(self._threads, self._engines, strict=True)
        return [thread.submit(engine.infer, part) for part, (thread, engine) in zip(parts, members, strict=False)]

    def infer(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Crops uint8 (N, H, W, 3) to logits float32 (N, T, C), computed on all threads."""
        return np.concatenate([part.result() for part in self.submit(batch)])

    def close(self) -> None:
        """Finish what is queued, then free the engines."""
        for thread, engine in zip(self._threads, self._engines, strict=True):
            thread.submit(engine.close)
        self._end()

    def _end(self) -> None:
        for thread in self._threads:
            thread.shutdown()


def load(artifact: Artifact, threads: int) -> Backend:
    """An engine on the calling thread, or a Team of several; raises ArtifactError."""
    return backends.load(artifact) if threads == 1 else Team(artifact, threads)


def _proven(artifact: Artifact) -> Backend:
    engine = backends.load(artifact)
    check_probe(engine, artifact)
    return engine
