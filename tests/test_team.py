"""A team of engines: rows keep their order, callers their rows, and an error stays with the one who caused it."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from model_builder import team as teams
from model_builder.team import Team
from service import backends
from service.artifact import Artifact
from service.backends import Backend
from service.errors import ArtifactError

CROPS = np.random.default_rng(1).integers(0, 256, (9, 24, 94, 3), np.uint8)


def running() -> int:
    """Threads with an engine."""
    return sum(thread.name.startswith("engine") for thread in threading.enumerate())


@pytest.fixture
def team(tiny: Artifact) -> Iterator[Team]:
    team = Team(tiny, 2)
    yield team
    team.close()


@pytest.fixture(scope="module")
def expected(tiny: Artifact) -> np.ndarray:
    return backends.load(tiny).infer(CROPS)


def test_several_threads_are_a_team(tiny):
    before = running()
    loaded = teams.load(tiny, 3)
    assert isinstance(loaded, Team)
    assert running() == before + 3
    assert loaded.engine == teams.load(tiny, 1).engine
    loaded.close()


def test_rows_keep_their_order(team, expected):
    for count in range(1, len(CROPS) + 1):
        assert len(team.submit(CROPS[:count])) == min(count, 2)
        np.testing.assert_allclose(team.infer(CROPS[:count]), expected[:count], atol=1e-4)


def test_callers_at_the_same_time_get_their_own_rows(team, expected):
    with ThreadPoolExecutor(4) as callers:
        for first, logits in enumerate(callers.map(lambda first: team.infer(CROPS[first:]), range(len(CROPS)))):
            np.testing.assert_allclose(logits, expected[first:], atol=1e-4)


def test_parts_are_computed_side_by_side(tiny, monkeypatch):
    meeting, load = threading.Barrier(2), backends.load

    class Meets:
        """The real engine, once another thread is in there too."""

        def __init__(self, engine: Backend) -> None:
            self.engine, self.close, self._infer = engine.engine, engine.close, engine.infer

        def infer(self, batch: np.ndarray) -> np.ndarray:
            if batch.shape[0] != 4:  # it is not the probe
                meeting.wait(timeout=20)
            return self._infer(batch)

    monkeypatch.setattr(backends, "load", lambda artifact: Meets(load(artifact)))
    team = Team(tiny, 2)
    assert team.infer(CROPS[:6]).shape[0] == 6
    team.close()


def test_an_error_belongs_to_its_caller_and_the_threads_go_on(team, expected):
    for _ in range(3):
        with pytest.raises(Exception, match="Expected: 24"):
            team.infer(CROPS[:2, :10])
    np.testing.assert_allclose(team.infer(CROPS), expected, atol=1e-4)


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

    def fail_later(artifact: Artifact) -> Backend:
        calls.append(1)
        if len(calls) > good:
            raise ArtifactError("no more memory")
        return load(artifact)

    monkeypatch.setattr(backends, "load", fail_later)
    with pytest.raises(ArtifactError, match="no more memory"):
        Team(tiny, 3)
    assert calls == [1] * (good + 1)
    assert running() == before
