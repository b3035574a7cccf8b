"""Publishing: what the serving code has proved equal is put in place whole, and nothing else ever is."""

import shutil
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from model_builder import calibrate, candidates, evaluate, publish
from model_builder.networks.reader import LPRNet, Widths
from model_builder.plates.kinds import ALPHABET, GRAMMAR
from model_builder.tasks import reading
from model_builder.train.data import Crops, development_set, validation_set
from service import artifact as contract
from service.artifact import Artifact, Network, Origin
from service.artifact.provenance import Trained
from service.backends import Backend, load
from service.errors import ArtifactError
from service.settings import REPOSITORY

SMALL = Widths(4, (6,), (8, 8), (10,), 10, 8)
WEIGHTS = "model.pt2"


def small(seed: int) -> LPRNet:
    torch.manual_seed(seed)
    return LPRNet(len(ALPHABET) + 1, SMALL)


def publish_small(root: Path, network: LPRNet, **sets: Crops) -> Artifact:
    return publish.publish(root, small_candidate(network), sets)


def small_candidate(network: LPRNet) -> candidates.Candidate:
    return candidates.torch_candidate("small", network, Origin(seed=7, made=Trained(settings={"steps": 0})))


@pytest.fixture(scope="module")
def crops() -> Crops:
    """Nine rendered plates."""
    return validation_set(9)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, crops: Crops) -> Artifact:
    """A small network, published. Copy before changing anything."""
    return publish_small(tmp_path_factory.mktemp("published"), small(1), rendered=crops)


@pytest.fixture
def root(published: Artifact, tmp_path: Path) -> Path:
    """A folder of artifacts that holds a copy of the published one."""
    shutil.copytree(published.folder, tmp_path / "small")
    return tmp_path


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_the_serving_code_accepts_what_was_published(published):
    found = contract.find(published.folder.parent, "small")
    assert found == published
    assert sorted(found.manifest.files) == [WEIGHTS, "probe.npz"]
    backend = load(found)
    contract.check_probe(backend, found)
    backend.close()


@pytest.mark.slow
def test_a_program_names_no_file_of_the_machine_that_exported_it(published):
    with zipfile.ZipFile(published.folder / WEIGHTS) as program:
        assert not [name for name in program.namelist() if b".py" in program.read(name)]


@pytest.mark.slow
def test_the_manifest_describes_the_network(published):
    manifest = published.manifest
    assert (manifest.variant, manifest.backend) == ("small", "torch")
    assert (manifest.alphabet, manifest.blank, manifest.grammar) == (ALPHABET, len(ALPHABET), GRAMMAR)
    assert (manifest.input.dtype, manifest.input.shape) == ("uint8", ("N", 24, 94, 3))
    assert (manifest.output.dtype, manifest.output.shape) == ("float32", ("N", 23, len(ALPHABET) + 1))
    assert manifest.max_batch >= 32
    assert 0 < manifest.probe.tolerance <= 1e-3


@pytest.mark.slow
def test_the_manifest_tells_where_the_network_came_from(published):
    provenance = published.manifest.provenance
    assert provenance.seed == 7
    assert provenance.network == Network.model_validate(small(1).configuration())
    assert provenance.made == Trained(settings={"steps": 0})
    assert provenance.commit
    assert provenance.libraries["torch"] == torch.__version__
    assert {"numpy", "opencv-python-headless"} < set(provenance.libraries)


@pytest.mark.slow
def test_figures_were_measured(published, crops):
    measured = published.manifest.measured
    assert {name: score.total for name, score in measured.accuracy.items()} == {"rendered": len(crops.texts)}
    assert 0 < measured.latency_ms.median <= measured.latency_ms.p95
    assert (measured.latency_ms.batch, measured.latency_ms.threads) == (1, 1)
    assert measured.parameters == sum(parameter.numel() for parameter in small(1).parameters())
    assert 0 < measured.multiply_adds < 149e6
    assert measured.size_bytes >= sum(path.stat().st_size for path in published.folder.glob("[mp]*.*[2z]"))
    assert measured.machine


@pytest.mark.slow
def test_the_probe_is_of_rendered_plates_with_the_network_s_own_logits(published):
    ((images, logits),) = contract.read_probe(published)
    np.testing.assert_array_equal(images, validation_set(len(images)).images)
    with torch.inference_mode():
        expected = small(1).eval()(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-5)


@pytest.mark.slow
def test_any_batch_up_to_the_largest_runs_and_beyond(published):
    backend = load(published)
    images = np.concatenate([contract.read_probe(published)[0][0]] * 9)
    expected = backend.infer(images)
    for count in (1, 2, 5, published.manifest.max_batch, published.manifest.max_batch + 1):
        np.testing.assert_allclose(backend.infer(images[:count]), expected[:count], atol=1e-5)


@pytest.mark.slow
def test_a_published_network_can_be_loaded_for_training_again(published, crops):
    network = small(1)
    again = candidates.load_network(published)
    assert again.configuration() == network.configuration()
    images = torch.from_numpy(crops.images)
    with torch.inference_mode():
        assert torch.equal(again.eval()(images), network.eval()(images))
    again.train()(images).sum().backward()
    assert all(parameter.grad is not None for parameter in again.parameters())


def test_an_older_alphabet_is_measured_as_it_is_and_trained_with_today_s():
    baseline = contract.find(REPOSITORY / "artifacts", "baseline")  # reads China alone
    assert set(baseline.reader.alphabet) < set(ALPHABET)
    images = torch.from_numpy(contract.read_probe(baseline)[0][0][:1])
    with torch.inference_mode():
        as_it_is = candidates.published_network(baseline).eval()(images)
        widened = candidates.load_network(baseline).eval()(images)
    assert as_it_is.shape[-1] == len(baseline.reader.alphabet) + 1
    assert widened.shape[-1] == len(ALPHABET) + 1


def test_an_artifact_that_does_not_tell_its_network_is_no_source(tiny):
    with pytest.raises(ArtifactError, match="holds no network that can be trained or quantized"):
        candidates.load_network(tiny)


@pytest.mark.slow
def test_an_older_artifact_is_replaced_whole(root, published):
    (root / "small" / "leftover").write_text("of an older format")
    newer = publish_small(root, small(2))
    assert newer.folder == root / "small"
    assert newer.manifest.version != published.manifest.version
    assert [path.name for path in root.iterdir()] == ["small"]
    assert set(content(root / "small")) == {"manifest.json", WEIGHTS, "probe.npz"}
    contract.read(root / "small")


@pytest.mark.slow
def test_a_reader_always_finds_a_folder_while_it_is_replaced(root):
    missing, done = [], threading.Event()

    def look() -> None:
        while not done.is_set():
            if not (root / "small" / contract.MANIFEST).exists():
                missing.append(1)

    reader = threading.Thread(target=look)
    reader.start()
    for _ in range(500):
        shutil.copytree(root / "small", root / ".small.new")
        publish._replace(root / ".small.new", root / "small")
        shutil.rmtree(root / ".small.new")
    done.set()
    reader.join()
    assert not missing


@pytest.mark.slow
def test_where_folders_cannot_be_exchanged_they_are_renamed(root, published, monkeypatch):
    monkeypatch.setattr(publish, "_exchange", lambda one, other: False)
    assert publish_small(root, small(2)).manifest.version != published.manifest.version
    assert [path.name for path in root.iterdir()] == ["small"]


def refused(root: Path, network: LPRNet, message: str) -> None:
    """Publishing fails, the older artifact stays as it was, and nothing is left beside it."""
    before = content(root)
    with pytest.raises(ArtifactError, match=message):
        publish_small(root, network)
    assert content(root) == before
    assert [path.name for path in root.iterdir()] == ["small"]


@pytest.mark.slow
def test_a_program_that_computes_something_else_is_not_published(root, monkeypatch):
    def damaged(network: LPRNet) -> torch.export.ExportedProgram:
        with torch.no_grad():
            network.classify.bias[3] += 0.01
        return export(network)

    export = candidates.exported
    monkeypatch.setattr(candidates, "exported", damaged)
    refused(root, small(3), r"probe\.npz: torch .* is off by 0\.01, more than")


@pytest.mark.slow
def test_a_network_that_diverged_is_not_published(root):
    network = small(3)
    with torch.no_grad():
        network.classify.bias[3] = torch.nan
    refused(root, network, r"probe\.npz holds logits that are no finite numbers")


@pytest.mark.slow
def test_an_export_that_fails_leaves_nothing(root, monkeypatch):
    network = small(3)
    monkeypatch.setattr(
        LPRNet, "forward", lambda _, crops: torch.from_numpy(crops.numpy().mean(axis=3, dtype=np.float32))
    )
    before = content(root)
    with pytest.raises(Exception, match=r"."):  # whatever torch makes of it
        publish_small(root, network)
    assert content(root) == before
    assert [path.name for path in root.iterdir()] == ["small"]


@pytest.mark.slow
def test_what_a_killed_publisher_left_is_swept_away(root, published):
    (root / ".small.new").mkdir()
    (root / ".small.new" / "stray").write_text("half written")
    (root / ".small.old").mkdir()
    again = publish_small(root, small(1))
    assert [path.name for path in root.iterdir()] == ["small"]
    assert again.manifest.version == published.manifest.version  # it names the weights


@pytest.mark.slow
def test_a_variant_that_loses_too_much_is_refused_with_the_figures(root, crops, monkeypatch):
    before = content(root / "small")
    readings = {"small": 9, "worse": 8}  # of nine

    def accuracy(artifact, _backend, _crops):
        return evaluate.wilson(readings[artifact.manifest.variant], 9)

    monkeypatch.setattr(evaluate, "accuracy", accuracy)
    gate = publish.Gate(contract.find(root, "small"), crops, max_loss=11)
    candidate = replace(small_candidate(small(2)), variant="worse")
    with pytest.raises(publish.Refused, match=r"reads 8 of 9 .* small 9: 11\.11 points lost, 11\.00 allowed"):
        publish.publish(root, candidate, {"rendered": crops}, gate)
    assert content(root / "small") == before
    assert [path.name for path in root.iterdir()] == ["small"]
    published = publish.publish(root, candidate, {"rendered": crops}, replace(gate, max_loss=12))
    assert published.manifest.measured.accuracy["rendered"].exact == 8


def test_a_reader_is_calibrated_where_it_is_measured_on_enough_plates(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "_ENOUGH", 9)
    fitted = []

    def temperature(artifact: Artifact, backend: Backend, crops: Crops) -> float:
        fitted.append(crops)
        return 0.7

    monkeypatch.setattr(calibrate, "temperature", temperature)
    published = publish_small(tmp_path, small(1), rendered=validation_set(9))
    assert published.reader.temperature == 0.7
    assert fitted[0].texts == development_set(9).texts
    assert publish_small(tmp_path / "few", small(1), rendered=validation_set(8)).reader.temperature == 1.0
