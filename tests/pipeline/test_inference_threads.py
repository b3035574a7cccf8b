"""Inference threads: what waits is taken together, and an error ends no thread."""

import threading
from collections.abc import Callable

import numpy as np
import pytest

from service import backends
from service.artifact import Artifact
from service.backends import Backend
from service.errors import ArtifactError
from service.pipeline.inference_threads import Crew

CROPS = np.random.default_rng(1).integers(0, 256, (9, 24, 94, 3), np.uint8)


class Held:
    """Work for a crew that stands still until it is let go on, and knows what was taken together."""

    def __init__(self) -> None:
        self.taken: list[list[int]] = []
        self.came, self.go = threading.Semaphore(0), threading.Semaphore(0)

    def on(self, engine: Backend) -> Callable[[list[int]], None]:
        return self.work

    def work(self, items: list[int]) -> None:
        self.taken.append(items)
        self.came.release()
        assert self.go.acquire(timeout=60)


def fail(items: list[int], error: Exception) -> None:
    raise AssertionError from error


def running() -> int:
    """Threads with an engine, those of other tests' servers included."""
    return sum(thread.name == "inference" for thread in threading.enumerate())


@pytest.mark.parametrize(("most", "then"), [(10, [[1, 2, 3, 4, 5]]), (2, [[1, 2], [3, 4], [5]])])
def test_what_waits_is_taken_together_up_to_the_most(tiny, most, then):
    held = Held()
    crew = Crew((tiny,), 1, held.on, fail, most)
    crew.put([0])
    assert held.came.acquire(timeout=60)  # alone, and at once: nothing else was waiting
    for item in range(1, 6):
        crew.put([item])
    held.go.release(10)
    crew.close()
    assert held.taken == [[0], *then]


def test_a_thread_leaves_their_share_to_the_other_ones(tiny):
    held = Held()
    crew = Crew((tiny,), 2, held.on, fail, most=10)
    for item in (0, 1):
        crew.put([item])
        assert held.came.acquire(timeout=60)
    crew.put([2, 3, 4, 5, 6])
    held.go.release(1)
    assert held.came.acquire(timeout=60)
    held.go.release(10)
    crew.close()
    assert held.taken[:3] == [[0], [1], [2, 3, 4]]
    assert [item for items in held.taken[3:] for item in items] == [5, 6]


def test_a_thread_that_is_told_to_wait_fills_its_batch(tiny):
    held = Held()
    crew = Crew((tiny,), 1, held.on, fail, most=3, wait_s=60)
    for item in range(3):
        crew.put([item])
    assert held.came.acquire(timeout=50)
    assert held.taken == [[0, 1, 2]]
    held.go.release()
    crew.close()


def test_a_thread_outlives_work_that_fails_and_whoever_waits_is_told(tiny):
    failed: list[tuple[list[int], str]] = []
    done = threading.Semaphore(0)

    def work(items: list[int]) -> None:
        done.release()
        if 0 in items:
            raise RuntimeError("broken")

    crew = Crew((tiny,), 1, lambda engine: work, lambda items, error: failed.append((items, str(error))))
    for item in (0, 1, 0, 1):
        crew.put([item])
    for _ in range(4):
        assert done.acquire(timeout=60)
    assert crew.alive
    crew.close()
    assert failed == [([0], "broken")] * 2


@pytest.mark.parametrize("good", [0, 1])
def test_where_one_thread_cannot_load_none_is_left(tiny, monkeypatch, good):
    load, calls, before = backends.load, [], running()

    def fail_later(artifact: Artifact) -> Backend:
        calls.append(1)
        if len(calls) > good:
            raise ArtifactError("no more memory")
        return load(artifact)

    monkeypatch.setattr(backends, "load", fail_later)
    with pytest.raises(ArtifactError, match="no more memory"):
        Crew((tiny,), 3, lambda engine: lambda items: None, fail)
    assert calls == [1] * (good + 1)
    assert running() == before
