"""Threads that each own an engine: each loads one, proves it by the probe, computes with it, closes it.

Engines keep their thread pools and flags (denormals, TVM's virtual machine) per calling thread, so nobody else may
touch them. The networks are independent: nothing waits for the slowest thread after every layer, and requests of one
plate run side by side. That takes engines that let go of Python's lock while they compute, as all of them do.
"""

import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Thread

import numpy as np
from numpy.typing import NDArray

from service import backends
from service.artifact import Artifact, check_probe


@dataclass(frozen=True)
class Inferred:
    """Logits float32 (N, T, C), and when they were computed, in seconds of `time.perf_counter`."""

    logits: NDArray[np.float32]
    started: float
    finished: float


@dataclass(frozen=True)
class _Job:
    batch: NDArray[np.uint8]
    result: "Future[Inferred]" = field(default_factory=Future)

    def run(self, engine: backends.Backend) -> None:
        if not self.result.set_running_or_notify_cancel():
            return
        started = time.perf_counter()
        try:
            logits = engine.infer(self.batch)
        except Exception as error:  # belongs to whoever waits for this job; the thread goes on
            self.result.set_exception(error)
        else:
            self.result.set_result(Inferred(logits, started, time.perf_counter()))


class Team:
    """Runs an artifact on `threads` threads; a Backend that any thread may call, and several at a time.

    The queue has no bound of its own: `Recognizer` admits only so many images.
    """

    def __init__(self, artifact: Artifact, threads: int) -> None:
        """Return once the probe has passed on every thread; raises ArtifactError where it, or the loading, does not."""
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._threads: list[Thread] = []
        try:
            for _ in range(threads):  # one after the other: not every engine can be loaded twice at a time
                loaded: Future[str] = Future()
                self._threads.append(Thread(target=self._run, args=(artifact, loaded), name="inference", daemon=True))
                self._threads[-1].start()
                self.engine = loaded.result()
        except BaseException:
            self.close()
            raise

    def submit(self, batch: NDArray[np.uint8]) -> "list[Future[Inferred]]":
        """Queue a batch of crops uint8 (N, H, W, 3): its parts in their order, one a thread where there are enough."""
        parts = np.array_split(batch, min(len(batch), len(self._threads)))
        jobs = [_Job(part) for part in parts]
        for job in jobs:
            self._jobs.put(job)
        return [job.result for job in jobs]

    def infer(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Crops uint8 (N, H, W, 3) to logits float32 (N, T, C), computed on all threads."""
        return np.concatenate([part.result().logits for part in self.submit(batch)])

    @property
    def alive(self) -> bool:
        """Whether every thread still takes jobs."""
        return all(thread.is_alive() for thread in self._threads)

    def close(self) -> None:
        """Finish the queued jobs, then free the engines."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self, artifact: Artifact, loaded: "Future[str]") -> None:
        try:
            engine = backends.load(artifact, 1)
            check_probe(engine, artifact)
        except BaseException as error:
            loaded.set_exception(error)
            return
        loaded.set_result(engine.engine)
        while (job := self._jobs.get()) is not None:
            job.run(engine)
        engine.close()
