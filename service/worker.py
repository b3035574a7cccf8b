"""The one thread that owns the engine: loads it, proves it by its probe, computes, closes it.

Engines keep their thread pools and flags (denormals, TVM's virtual machine) per calling thread, so nobody else may
touch them.
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
    """Logits float32 (N, T, C) with the seconds that the job waited and ran."""

    logits: NDArray[np.float32]
    waited: float
    ran: float


@dataclass(frozen=True)
class _Job:
    batch: NDArray[np.uint8]
    result: "Future[Inferred]" = field(default_factory=Future)
    submitted: float = field(default_factory=time.perf_counter)

    def run(self, backend: backends.Backend) -> None:
        if not self.result.set_running_or_notify_cancel():
            return
        started = time.perf_counter()
        try:
            logits = backend.infer(self.batch)
        except Exception as error:  # belongs to whoever waits for this job; the thread goes on
            self.result.set_exception(error)
        else:
            self.result.set_result(Inferred(logits, started - self.submitted, time.perf_counter() - started))


class Worker:
    """Runs an artifact. The queue has no bound of its own: `Recognizer` admits only so many images."""

    def __init__(self, artifact: Artifact, threads: int) -> None:
        """Return once the probe has passed; raises ArtifactError where it, or the loading, does not."""
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        loaded: Future[str] = Future()
        self._thread = Thread(target=self._run, args=(artifact, threads, loaded), name="inference", daemon=True)
        self._thread.start()
        self.engine = loaded.result()

    def submit(self, batch: NDArray[np.uint8]) -> "Future[Inferred]":
        """Queue a batch of crops uint8 (N, H, W, 3)."""
        job = _Job(batch)
        self._jobs.put(job)
        return job.result

    @property
    def alive(self) -> bool:
        """Whether the thread still takes jobs."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Finish the queued jobs, then free the engine."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self, artifact: Artifact, threads: int, loaded: "Future[str]") -> None:
        try:
            backend = backends.load(artifact, threads)
            check_probe(backend, artifact)
        except BaseException as error:
            loaded.set_exception(error)
            return
        loaded.set_result(backend.engine)
        while (job := self._jobs.get()) is not None:
            job.run(backend)
        backend.close()
