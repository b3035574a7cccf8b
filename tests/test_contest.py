"""The contest: every contestant answers, in a process of its own, and its times are per plate."""

from pathlib import Path

import numpy as np
import pytest

from model_builder import contest
from model_builder.contest import Contestant
from service.artifact import Artifact, read_probe


def test_contestants_take_turns_and_are_timed_per_plate(tiny: Artifact):
    same = [Contestant(name, "artifact", tiny.folder) for name in ("first", "second")]
    results = contest.contest(same, 1, (1, 8), rounds=2, burst=3)
    assert results.keys() == {"first", "second"}
    for one, eight in results.values():
        assert (one.batch, one.threads, one.calls, eight.batch) == (1, 1, 6, 8)
        assert 0 < one.median <= one.p95 <= one.p99


def test_percentiles_are_of_one_plate():
    times = contest._times([8.0] * 98 + [16.0, 80.0], batch=8, threads=2)
    assert (times.median, times.calls, times.threads) == (1.0, 100, 2)
    assert times.p95 == 1.0
    assert times.p99 > 2


def test_a_contestant_that_cannot_load_is_named(tmp_path: Path):
    with pytest.raises(RuntimeError, match="broken stopped"):
        contest.contest([Contestant("broken", "artifact", tmp_path)], 1, (1,), rounds=1, burst=1)


def test_torch_compile_computes_what_the_artifact_does(tiny: Artifact):
    images, logits = read_probe(tiny)
    backend = contest.engine(Contestant("compiled", "torch.compile", tiny.folder), threads=1)
    np.testing.assert_allclose(backend.infer(images), logits, atol=1e-4)
    backend.close()
