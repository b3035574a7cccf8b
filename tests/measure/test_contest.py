"""The contest: every contestant answers, in a process of its own, and its times are per plate."""

import ctypes
import gc
from pathlib import Path

import numpy as np
import pytest

from model_builder.measure import contest, peers, tables
from model_builder.measure.peers import BASELINE, Contestant
from service import artifact as contract
from service.artifact import Artifact, read_probe


@pytest.mark.slow
def test_contestants_take_turns_and_one_that_fails_is_left_out(tiny: Artifact, tmp_path: Path):
    folders = {"first": tiny.folder, "broken": tmp_path, "second": tiny.folder}
    contestants = [Contestant(name, "artifact", folder) for name, folder in folders.items()]
    contestants.append(Contestant("other size", "artifact", tiny.folder, (48, 96)))
    outcome = contest.contest(contestants, 1, (1, 8), rounds=2, burst=3)
    assert outcome.times.keys() == outcome.engines.keys() == {"first", "second"}
    assert outcome.engines["first"].startswith("onnxruntime ")
    assert "manifest.json cannot be read" in outcome.left_out["broken"]
    assert "Expected: 24" in outcome.left_out["other size"]
    for one, eight in outcome.times.values():
        assert (one.batch, one.threads, eight.batch) == (1, 1, 8)
        assert one.calls <= 6
        assert 0 < one.p10 <= one.median <= one.p95 <= one.p99


def test_percentiles_are_of_one_plate():
    times = contest._times([4.0] * 20 + [8.0] * 78 + [16.0, 80.0], batch=8, threads=2)
    assert (times.p10, times.median, times.calls, times.threads) == (0.5, 1.0, 100, 2)
    assert times.p95 == 1.0
    assert times.p99 > 2


def test_a_burst_ends_after_its_time_but_not_before_a_call():
    class Slow:
        engine = "slow 1"
        calls = 0

        def infer(self, batch: np.ndarray) -> np.ndarray:
            self.calls += 1
            return batch

        def close(self) -> None:
            pass

    slow = Slow()
    assert len(contest._burst(slow, np.zeros(1), 5, seconds=0)) == slow.calls == 1
    assert len(contest._burst(slow, np.zeros(1), 5, seconds=100)) == 5


def test_speeds_are_compared_with_the_baseline_and_the_fastest_peer():
    def times(median: float) -> list[dict[str, float]]:
        return [{"p10": median, "median": median, "p95": median, "p99": median, "batch": 8, "threads": 2}]

    text = tables.speeds(
        {BASELINE: times(4), "peer": times(2), "slower": times(3), "tvm": times(1)}, ["peer", "slower"]
    )
    assert text.splitlines()[0].startswith("| 2 thread(s), batch 8 | p10 | median |")
    assert text.splitlines()[2] == "| tvm | 1.000 | 1.000 | 1.000 | 1.000 | 0.250 | 0.500 |"


@pytest.mark.slow
def test_torch_compile_computes_what_the_artifact_does(torch_artifact: Artifact):
    ((images, logits),) = read_probe(torch_artifact)
    backend = peers.engine(Contestant("compiled", "torch.compile", torch_artifact.folder), threads=1)
    np.testing.assert_allclose(backend.infer(images), logits, atol=1e-4)
    backend.close()


@pytest.mark.slow
def test_there_are_peers_for_integers_where_these_are_published(small_variants, tmp_path):
    assert {"ONNX Runtime int8", "OpenVINO int8"} < {found.name for found in peers.peers(small_variants, tmp_path)}
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / BASELINE).symlink_to(small_variants / BASELINE)
    assert not any("int8" in found.name for found in peers.peers(alone, tmp_path))


@pytest.mark.slow
def test_peers_compute_what_the_baseline_does(small_variants, tmp_path):
    ((images, logits),) = read_probe(contract.find(small_variants, BASELINE))
    for contestant in peers.peers(small_variants, tmp_path):
        if contestant.kind == "openvino":
            pytest.importorskip("openvino")
        if contestant.kind in ("onnxruntime", "openvino"):
            backend = peers.engine(contestant, threads=1)
            for batch in (1, 3):
                np.testing.assert_allclose(backend.infer(images[:batch]), logits[:batch], atol=1e-3, rtol=1e-3)
            backend.close()
            backend = peers.engine(contestant, threads=2)
            many = np.resize(np.arange(len(images)), 32)  # so many that OpenVINO shares them between streams
            np.testing.assert_allclose(backend.infer(images[many]), logits[many], atol=1e-3, rtol=1e-3)
            backend.close()


@pytest.mark.slow
def test_openvino_leaves_no_stack_for_signals_that_it_has_freed(small_variants):
    pytest.importorskip("openvino")
    contestant = Contestant("OpenVINO", "openvino", small_variants / BASELINE)
    first, second = (peers.engine(contestant, threads=1) for _ in range(2))
    first.close()
    del first
    second.close()
    del second
    gc.collect()
    stack = (ctypes.c_uint64 * 3)()  # stack_t: its address, its flags, its size
    ctypes.CDLL(None).sigaltstack(None, stack)
    spans = [line.split()[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines()]
    assert any(int(start, 16) <= stack[0] < int(end, 16) for start, end in spans)


@pytest.mark.slow
def test_the_masked_network_has_zeros_and_dynamic_quantization_changes_nothing(small_variants):
    ((images, logits),) = read_probe(contract.find(small_variants, BASELINE))
    masked, dynamic = (peers.engine(contestant, threads=1) for contestant in peers.attempts(small_variants))
    np.testing.assert_allclose(dynamic.infer(images), logits, atol=1e-4)
    assert masked.infer(images).shape == logits.shape
    assert np.abs(masked.infer(images) - logits).max() > 1e-3
