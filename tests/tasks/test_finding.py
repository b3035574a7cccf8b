"""Finding as a task: what counts as found, its artifacts, and its figures through the serving code."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model_builder import publish
from model_builder.networks.refiner import FORM
from model_builder.render.scene import Scene
from model_builder.tasks import REFINING, task_of
from model_builder.tasks.finding import Tally, searching
from model_builder.train.finder_targets import targets
from service import artifact as contract
from service.artifact import Artifact
from service.backends import load
from service.errors import ArtifactError
from service.finding.refine import CORNERS, PLATE
from tests.support.finding import QUAD, TASK, maps_of, moved, publish_small, scene, small_finder


def test_a_tally_counts_plates_found_corners_and_false_alarms():
    tally = Tally()
    tally.add([moved(4, 0), moved(0, 40)], [QUAD, moved(80, 0)], [moved(0, 40)])
    tally.add([moved(0, 40)], [QUAD])
    figures = tally.figures()
    assert (figures.score.exact, figures.score.total) == (1, 3)
    assert figures.corner_error == pytest.approx(4 / 80)
    assert figures.false_alarms == 0.5


def test_a_plate_that_is_read_on_its_head_has_wrong_corners():
    tally = Tally()
    tally.add([np.roll(QUAD, 2, axis=0)], [QUAD])
    assert tally.figures().corner_error > 1


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small finder and a small refiner, published. Copy before changing anything."""
    return publish_small(tmp_path_factory.mktemp("finding"))


@pytest.fixture(scope="module")
def finder(root: Path) -> Artifact:
    return contract.find(root, "finder")


def test_the_manifests_tell_sizes_networks_and_forms(root, finder):
    manifest = finder.manifest
    assert (manifest.task, manifest.backend, manifest.max_batch) == ("find", "onnxruntime", 1)
    assert (manifest.sizes, manifest.stride, manifest.refiner) == (TASK.sizes, 8, "refiner")
    assert manifest.output.shape == ("N", "H/8", "W/8", 9)
    assert manifest.provenance.network.widths["middle"] == (4,)
    assert manifest.measured.latency_ms.median > 0
    assert task_of(manifest) == TASK
    refiner = contract.find(root, "refiner").manifest
    assert (refiner.task, refiner.size, refiner.around, refiner.colours) == ("refine", *FORM)
    assert task_of(refiner) is REFINING


def test_the_probe_proves_every_size_of_a_finder(finder):
    pairs = contract.read_probe(finder)
    assert [images.shape[1:3] for images, _ in pairs] == list(TASK.sizes)
    assert all(images.std() > 10 for images, _ in pairs)  # something is on them
    backend = load(finder)
    contract.check_probe(backend, finder)
    backend.close()


def test_a_model_that_fails_at_one_size_is_not_published(root, tmp_path):
    shutil.copytree(root / "finder", tmp_path / "finder")
    right = small_finder()
    wrong = replace(right, logits=lambda images: right.logits(images) + np.float32(images.shape[1] == 64))
    with pytest.raises(ArtifactError, match="is off by 1"):
        publish.publish(tmp_path, wrong, {})
    assert contract.read(tmp_path / "finder").manifest == contract.find(root, "finder").manifest


class Perfect:
    """A backend that answers what the targets of a scene ask for, whatever it sees."""

    engine = "targets 1"

    def __init__(self, drawn: Scene) -> None:
        wanted = targets(drawn)
        logits = np.where(wanted.heat == 1, 20, -20)
        self.maps = np.concatenate((logits[..., None], wanted.corners), 2).astype(np.float32)[None]

    def infer(self, images: np.ndarray) -> np.ndarray:
        if images.shape[1:3] == (128, 256):
            return self.maps
        return np.full((1, images.shape[1] // 8, images.shape[2] // 8, 9), -20, np.float32)

    def close(self) -> None:
        pass


def test_without_its_refiner_a_finder_is_measured_alone(finder, tmp_path, capsys):
    lonely = Artifact(tmp_path / "finder", finder.manifest)
    figures = TASK.measure(lonely, Perfect(scene(QUAD)), [scene(QUAD), scene(moved(0, 12))])
    assert "there is no refiner" in capsys.readouterr().out
    assert (figures.score.exact, figures.score.total, figures.false_alarms) == (1, 2, 0)


def test_what_a_finder_finds_goes_through_its_refiner(finder, monkeypatch):
    answer = np.zeros((1, FORM.answers), np.float32)
    answer[0, PLATE] = 20
    answer[0, CORNERS.start] = 0.1 / FORM.around[0]  # the first corner a tenth of the plate to the right

    class Refining:
        def infer(self, crops: np.ndarray) -> np.ndarray:
            return maps_of(answer).repeat(len(crops), 0)

        def close(self) -> None:
            pass

    monkeypatch.setattr("model_builder.tasks.finding.load", lambda _: Refining())
    with searching(finder, Perfect(scene(QUAD))) as search:
        (found,) = search(scene(QUAD).image)
    assert found.corners[0, 0] - QUAD[0, 0] > 8  # twice
    figures = TASK.measure(finder, Perfect(scene(QUAD)), [scene(QUAD)])
    assert 0.1 < figures.corner_error < 0.3
