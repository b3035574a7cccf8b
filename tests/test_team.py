"""A team of engines: rows keep their order, callers their rows, and an error stays with the one who caused it."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from service import backends
from service.artifact import Artifact
from service.backends import Backend
from service.backends.team import Crew, Team
from service.errors import ArtifactError

CROPS = np.random.default_rng(1).integers(0, 256, (9, 24, 94, 3), np.uint8)


@pytest.fixture
def team(tiny: Artifact) -> Iterator[Team]:
    team = Team(tiny, 2)
    yield team
    team.close()


@pytest.fixture(scope="module")
def expected(tiny: Artifact) -> np.ndarray:
    return backends.load(tiny, threads=1).infer(CROPS)


class Held:
    """Work for a crew that stands still until it is let go on, and knows what was taken together."""

    def __init__(self) -> None:
        self.taken: list[list[int]] = []
        self.came, self.go = threading.Semaphore(0), threading.Semaphore(0)

    def work(self, engine: Backend, items: list[int]) -> None:
        self.taken.append(items)
        self.came.release()
        assert self.go.acquire(timeout=60)


def fail(items: list[int], error: Exception) -> None:
    raise AssertionError from error


def running() -> int:
    """Threads with an engine, those of other tests' servers included."""
    return sum(thread.name == "inference" for thread in threading.enumerate())


def test_several_threads_are_a_team(tiny):
    before = running()
    loaded = backends.load(tiny, threads=3)
    assert isinstance(loaded, Team)
    assert running() == before + 3
    assert loaded.engine == backends.load(tiny, threads=1).engine
    loaded.close()


def test_rows_keep_their_order(team, expected):
    for count in range(1, len(CROPS) + 1):
        assert len(team.submit(CROPS[:count])) == min(count, 2)
        np.testing.assert_allclose(team.infer(CROPS[:count]), expected[:count], atol=1e-4)


def test_callers_at_the_same_time_get_their_own_rows(team, expected):
    with ThreadPoolExecutor(4) as callers:
        for first, logits in enumerate(callers.map(lambda first: team.infer(CROPS[first:]), range(len(CROPS)))):
            np.testing.assert_allclose(logits, expected[first:], atol=1e-4)


def test_parts_and_single_crops_are_computed_side_by_side(tiny, monkeypatch):
    meeting, load = threading.Barrier(2), backends.load

    class Meets:
        """The real engine, once another thread is in there too."""

        def __init__(self, engine: Backend) -> None:
            self.engine, self.close, self._infer = engine.engine, engine.close, engine.infer

        def infer(self, batch: np.ndarray) -> np.ndarray:
            if batch.shape[0] != 4:  # it is not the probe
                meeting.wait(timeout=20)
            return self._infer(batch)

    monkeypatch.setattr(backends, "load", lambda artifact, threads: Meets(load(artifact, threads)))
    team = Team(tiny, 2)
    assert team.infer(CROPS[:6]).shape[0] == 6
    singles = [team.submit(CROPS[i : i + 1]) for i in range(4)]
    assert [one.result().shape[0] for (one,) in singles] == [1] * 4
    team.close()


@pytest.mark.parametrize(("most", "then"), [(10, [[1, 2, 3, 4, 5]]), (2, [[1, 2], [3, 4], [5]])])
def test_what_waits_is_taken_together_up_to_the_most(tiny, most, then):
    held = Held()
    crew = Crew(tiny, 1, held.work, fail, most)
    crew.put([0])
    assert held.came.acquire(timeout=60)  # alone, and at once: nothing else was waiting
    for item in range(1, 6):
        crew.put([item])
    held.go.release(10)
    crew.close()
    assert held.taken == [[0], *then]


def test_a_thread_leaves_their_share_to_the_other_ones(tiny):
    held = Held()
    crew = Crew(tiny, 2, held.work, fail, most=10)
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
    crew = Crew(tiny, 1, held.work, fail, most=3, wait_s=60)
    for item in range(3):
        crew.put([item])
    assert held.came.acquire(timeout=50)
    assert held.taken == [[0, 1, 2]]
    held.go.release()
    crew.close()


def test_an_error_belongs_to_its_caller_and_the_threads_go_on(team, expected):
    for _ in range(3):
        with pytest.raises(Exception, match="== 24"):
            team.infer(CROPS[:2, :10])
    np.testing.assert_allclose(team.infer(CROPS), expected, atol=1e-4)


def test_a_thread_outlives_work_that_fails_and_whoever_waits_is_told(tiny):
    failed: list[tuple[list[int], str]] = []
    done = threading.Semaphore(0)

    def work(engine: Backend, items: list[int]) -> None:
        done.release()
        if 0 in items:
            raise RuntimeError("broken")

    crew = Crew(tiny, 1, work, lambda items, error: failed.append((items, str(error))))
    for item in (0, 1, 0, 1):
        crew.put([item])
    for _ in range(4):
        assert done.acquire(timeout=60)
    assert crew.alive
    crew.close()
    assert failed == [([0], "broken")] * 2


def test_closing_finishes_what_is_queued_and_ends_the_threads(tiny, expected):
    before = running()
    team = Team(tiny, 2)
    jobs = [team.submit(CROPS) for _ in range(5)]
    team.close()
    for job in jobs:
        logits = np.concatenate([part.result(timeout=0) for part in job])
        np.testing.assert_allclose(logits, expected, atol=1e-4)
    assert running() == before


@pytest.mark.parametrize("good", [0, 1])
def test_where_one_thread_cannot_load_none_is_left(tiny, monkeypatch, good):
    load, calls, before = backends.load, [], running()

    def fail_later(artifact: Artifact, threads: int) -> Backend:
        calls.append(threads)
        if len(calls) > good:
            raise ArtifactError("no more memory")
        return load(artifact, threads)

    monkeypatch.setattr(backends, "load", fail_later)
    with pytest.raises(ArtifactError, match="no more memory"):
        Team(tiny, 3)
    assert calls == [1] * (good + 1)
    assert running() == before
