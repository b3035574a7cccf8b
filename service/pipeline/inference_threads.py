"""A pool of threads, each owning an engine for each network, that take batches from a shared FIFO queue.

A thread loads its engines, proves them by their probes, computes with them, and closes them.

Engines keep their thread pools and flags (denormals, TVM's virtual machine) per calling thread, so nobody else may
touch them. The networks are independent: nothing waits for the slowest thread after every layer, and requests of one
plate run side by side. That takes engines that let go of Python's lock while they compute, as all of them do.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Generic, TypeVar

from service import backends
from service.artifact import Artifact, check_probe

T = TypeVar("T")


class Crew(Generic[T]):
    """Threads with an engine each that work on what is put before them, in its order, together with what else waits.

    The queue has no bound of its own: who puts must not put more than there is room for.
    """

    def __init__(
        self,
        artifacts: Sequence[Artifact],
        threads: int,
        work: Callable[..., Callable[[list[T]], None]],
        fail: Callable[[list[T], Exception], None],
        most: int = 1,
        wait_s: float = 0.0,
    ) -> None:
        """Return once the probes have passed on every thread; raises ArtifactError where one, or the loading, does not.

        `work` makes of a thread's engines, one an artifact, what is called with 1 to `most` items. `fail` is called
        with the same ones and the error if that raises: the thread goes on then. Where fewer wait, a thread waits
        `wait_s` for more.
        """
        self._work, self._fail, self._most, self._wait_s, self._size = work, fail, most, wait_s, threads
        self._waiting: SimpleQueue[T | None] = SimpleQueue()  # None ends a thread
        self._threads: list[Thread] = []
        try:
            for _ in range(threads):  # one after the other: not every engine can be loaded twice at a time
                loaded: Future[str] = Future()
                self._threads.append(Thread(target=self._run, args=(artifacts, loaded), name="inference", daemon=True))
                self._threads[-1].start()
                self.engine = loaded.result()
        except BaseException:
            self.close()
            raise

    def put(self, items: Sequence[T]) -> None:
        """Queue items behind those that wait."""
        for item in items:
            self._waiting.put(item)

    @property
    def alive(self) -> bool:
        """Whether every thread still takes work."""
        return all(thread.is_alive() for thread in self._threads)

    @property
    def working(self) -> bool:
        """Whether a thread has not ended yet."""
        return any(thread.is_alive() for thread in self._threads)

    def end(self) -> None:
        """Have the threads finish what is queued and free their engines; returns at once."""
        for _ in self._threads:
            self._waiting.put(None)

    def close(self) -> None:
        """Finish what is queued, then free the engines."""
        self.end()
        for thread in self._threads:
            thread.join()

    def _run(self, artifacts: Sequence[Artifact], loaded: "Future[str]") -> None:
        try:
            engines = [backends.load(artifact) for artifact in artifacts]
            for engine, artifact in zip(engines, artifacts, strict=True):
                check_probe(engine, artifact)
            work = self._work(*engines)
        except BaseException as error:
            loaded.set_exception(error)
            return
        loaded.set_result(engines[0].engine)
        while items := self._take():
            try:
                work(items)
            except Exception as error:  # belongs to those who wait for the items
                self._fail(items, error)
            del items  # while the thread sleeps, they are to be freed
        for engine in engines:
            engine.close()

    def _take(self) -> list[T]:
        """Wait for items and take this thread's share of them; none once it is closed and nothing waits.

        A thread leaves their shares to the other ones, which are done sooner than it could be with everything. One that
        is told to wait for more takes whatever comes.
        """
        first = self._waiting.get()
        if first is None:
            return []
        items, ends = [first], time.monotonic() + self._wait_s
        share = self._most if self._wait_s else -(-(1 + self._waiting.qsize()) // self._size)
        while len(items) < min(share, self._most):
            try:
                item = self._waiting.get(timeout=max(0.0, ends - time.monotonic()))
            except Empty:
                break
            if item is None:
                self._waiting.put(None)  # it is for the next turn
                break
            items.append(item)
        return items
