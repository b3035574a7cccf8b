"""The finder and the refiner beside other engines: all compute the same, and what was measured is kept."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model_builder import candidates, publish
from model_builder.measure import finders, peers
from model_builder.measure.contest import Outcome, Times
from model_builder.measure.finders import Subject
from model_builder.measure.parts import Parts
from model_builder.measure.peers import Contestant
from model_builder.networks.refiner import FORM, Refiner
from model_builder.networks.refiner import Widths as RefinerWidths
from model_builder.tasks import REFINING
from model_builder.train.data import Crops
from model_builder.train.labels import write_folder
from service.artifact import Origin
from service.backends import load
from tests.support.finding import TASK, publish_small, small_finder

FINDER = Subject("find", "finder", "finder-quantized", TASK.sizes, (1,))
REFINER = Subject("refine", "refiner", "refiner-quantized", (FORM.size,), (1, 3))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small networks, under all names that are measured."""
    root = publish_small(tmp_path_factory.mktemp("finders"))
    publish.publish(root, replace(small_finder(), variant="finder-quantized"), {})
    refiner = Refiner(RefinerWidths((4,), (4,), (4,), (4,), (4,)))
    name = REFINER.integers
    publish.publish(root, candidates.traced_candidate(name, refiner, FORM.size, Origin(seed=1), REFINING), {})
    return root


@pytest.mark.slow
@pytest.mark.parametrize("subject", [FINDER, REFINER], ids=["finder", "refiner"])
def test_every_engine_computes_what_the_artifact_does_at_every_size(subject, root):
    pytest.importorskip("openvino")
    for contestant in finders.contestants(root, subject):
        if contestant.kind == "openvino bf16":
            continue
        source = load(finders._source(root, contestant, subject))
        engine = peers.engine(contestant, threads=1)
        for height, width in (*subject.sizes, *subject.sizes):
            for batch in subject.batches:
                images = np.random.default_rng(0).integers(0, 256, (batch, height, width, 3), np.uint8)
                np.testing.assert_allclose(engine.infer(images), source.infer(images), atol=1e-3, rtol=1e-3)
        engine.close()


def fake(contestants: Sequence[Contestant], threads: int, batches: Sequence[int], *, rounds: int) -> Outcome:
    """A contest in which all take as long."""
    times = {
        one.name: [Times(1, one.size[0], 1, 1, batch, threads, rounds) for batch in batches] for one in contestants
    }
    return Outcome(times, dict.fromkeys(times, "an engine"), {})


def test_times_and_figures_are_measured_once(root, tmp_path, monkeypatch):
    monkeypatch.setattr(finders, "contest", fake)
    monkeypatch.setattr(finders, "SUBJECTS", (FINDER, REFINER))
    monkeypatch.setattr(finders, "SCENES", 2)
    monkeypatch.setattr(finders, "CROPS", 8)
    monkeypatch.setattr(peers, "of_integers", lambda _: [])
    of_floats = peers.of_floats
    monkeypatch.setattr(peers, "of_floats", lambda model: of_floats(model)[:1])
    write_folder(tmp_path / "crops", Crops(np.zeros((1, 24, 94, 3), np.uint8), ["京A12345"]))

    found = finders.measure(Parts(tmp_path / "work"), root, [tmp_path / "crops"], 1)
    assert finders.notes(found) == []
    ours = {"find": ["finder", "finder-quantized"], "refine": ["refiner", "refiner-quantized"]}
    for task, subject in (("find", FINDER), ("refine", REFINER)):
        facts = found[task]
        assert facts["ours"] == ours[task]
        assert {*facts["times"]} == {*facts["figures"]} == {*ours[task], "ONNX Runtime fp32"}
        settings = [(f"{width}x{height}", batch) for height, width in subject.sizes for batch in subject.batches]
        for name, times in facts["times"].items():
            assert [(time["size"], time["batch"]) for time in times] == settings
            assert [time["median"] for time in times] == [
                height for height, _ in subject.sizes for _ in subject.batches
            ]
            assert {*facts["figures"][name]} == {"rendered"}  # a set without corners is left out
        assert facts["bytes"]["ONNX Runtime fp32"] == facts["bytes"][subject.floats] > 1000
    assert found["refine"]["figures"]["refiner"]["rendered"]["total"] == 8

    def again(*_: object, **__: object) -> None:
        raise ValueError("measured again")

    monkeypatch.setattr(finders, "contest", again)
    monkeypatch.setattr(finders, "_score", again)
    assert finders.measure(Parts(tmp_path / "work"), root, [], 1) == found


def test_what_is_not_published_is_not_measured(root, tmp_path):
    (tmp_path / "finder").symlink_to(root / "finder")
    assert finders.published(tmp_path) == []
    assert len(finders.notes(finders.measure(Parts(tmp_path / "work"), tmp_path, [], 1))) == len(finders.SUBJECTS)
