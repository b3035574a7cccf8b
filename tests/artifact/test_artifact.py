"""What makes an artifact unacceptable, and that the message names the file and the reason."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service import artifact as contract
from service import host
from service.artifact import Artifact, Finds, Library, Measured, Probe, Tensor
from service.errors import ArtifactError, UnknownVariant
from tests.support.artifacts import describe

Edit = Callable[[dict[str, Any]], object]


@pytest.fixture
def folder(tiny: Artifact, tmp_path: Path) -> Path:
    """A copy of the tiny artifact, to be damaged."""
    return Path(shutil.copytree(tiny.folder, tmp_path / "tiny"))


def edit_manifest(folder: Path, edit: Edit) -> None:
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_what_was_written_is_read_back(folder):
    found = contract.read(folder)
    assert found.manifest.model_dump(exclude={"files", "provenance"}) == describe().model_dump(exclude={"provenance"})
    assert sorted(found.manifest.files) == ["model.onnx", "probe.npz"]
    assert found.file("model.onnx") == folder / "model.onnx"


def test_figures_may_be_added_to_a_written_artifact(folder):
    latency = {"median": 1.5, "p95": 2, "threads": 1, "batch": 1, "repeats": 100}
    score = {"exact": 9, "total": 10, "low": 0.6, "high": 0.98}
    sizes = {"size_bytes": 1, "parameters": 2, "multiply_adds": 3}
    measured = Measured(accuracy={"set": score}, latency_ms=latency, machine="this one", **sizes)
    before = contract.read(folder).manifest
    after = contract.write(folder, before.model_copy(update={"measured": measured})).manifest
    assert (after.measured, after.files) == (measured, before.files)


@pytest.mark.parametrize("name", ["model.onnx", "probe.npz"])
def test_a_changed_byte_is_refused(folder, name):
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(ArtifactError, match=f"{name} differs from its sha256"):
        contract.read(folder)


@pytest.mark.parametrize("name", ["model.onnx", "probe.npz"])
def test_a_missing_file_is_refused(folder, name):
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match=rf"{name} is listed .* but missing"):
        contract.read(folder)


@pytest.mark.parametrize("name", ["stray.txt", ".hidden", "sub/stray.txt"])
def test_a_stray_file_is_refused(folder, name):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).touch()
    with pytest.raises(ArtifactError, match=f"{name.split('/')[0]} is not listed"):
        contract.read(folder)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda m: m.update(format_version=1),
            "format version 1; this server reads version 2: publish the model again",
        ),
        (lambda m: m.pop("task"), "task"),
        (lambda m: m.update(task="drive"), "does not match any of the expected tags: 'read', 'find'"),
        (lambda m: m.pop("format_version"), "format version None"),
        (lambda m: m.update(colour="red"), "colour: Extra inputs"),
        (lambda m: m["provenance"].update(colour="red"), "provenance.colour: Extra inputs"),
        (lambda m: m.pop("alphabet"), "alphabet: Field required"),
        (lambda m: m.update(backend="pickle"), "backend: Input should be 'torch'"),
        (lambda m: m.update(alphabet="AA"), "alphabet holds a character twice"),
        (lambda m: m.update(blank=99), "blank is 99, but there are only"),
        (lambda m: m.update(alphabet=m["alphabet"][:-1] + "鲁"), "format cn-standard uses E, not in the alphabet"),
        (lambda m: m["files"].update({"../x": "0" * 64}), "files.*should match pattern"),
        (lambda m: m["files"].pop("probe.npz"), "probe.npz is not listed"),
        (lambda m: m["probe"].update(tolerance=float("nan")), "probe.tolerance"),
    ],
)
def test_a_manifest_that_says_something_else_is_refused(folder, edit, message):
    edit_manifest(folder, edit)
    with pytest.raises(ArtifactError, match=message) as refusal:
        contract.read(folder)
    assert str(folder) in str(refusal.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff"])
def test_a_manifest_that_is_no_json_object_is_refused(folder, content):
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        contract.read(folder)


def test_a_missing_manifest_is_refused(folder):
    (folder / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match=r"manifest\.json cannot be read"):
        contract.read(folder)


def test_a_manifest_without_probe_is_refused(folder):
    (folder / "probe.npz").unlink()
    edit_manifest(folder, lambda m: m["files"].pop("probe.npz"))
    with pytest.raises(ArtifactError, match=r"lists no probe\.npz"):
        contract.read(folder)


def test_an_unknown_variant_is_answered_with_those_that_exist(artifacts):
    assert contract.variants(artifacts) == ["tiny"]
    for name in ("baseline", "../tiny", "", "."):
        with pytest.raises(UnknownVariant, match="Available: tiny"):
            contract.find(artifacts, name)


def test_without_any_artifact_the_message_says_what_to_set(tmp_path):
    with pytest.raises(UnknownVariant, match="Available: none; set LPR_ARTIFACTS"):
        contract.find(tmp_path / "nowhere", "baseline")


def test_a_renamed_folder_is_refused(folder):
    folder.rename(folder.with_name("other"))
    with pytest.raises(ArtifactError, match="calls itself 'tiny'"):
        contract.find(folder.parent, "other")


class Computes:
    """A backend that answers with given logits."""

    engine = "arithmetic 1"

    def __init__(self, logits: NDArray[np.float32]) -> None:
        self._logits = logits

    def infer(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self._logits

    def close(self) -> None:
        pass


def test_the_probe_tells_equal_from_different(tiny):
    ((_, expected),) = contract.read_probe(tiny)
    contract.check_probe(Computes(expected + np.float32(5e-5)), tiny)
    wrong = expected.copy()
    wrong[1, 2, 3] += 1
    for logits, message in (
        (wrong, "off by 1, more than the 0.0001"),
        (wrong * np.nan, "off by nan"),
        (wrong[:1], "expected"),
    ):
        with pytest.raises(ArtifactError, match=rf"probe\.npz: .*{message}"):
            contract.check_probe(Computes(logits), tiny)


@pytest.fixture
def libraries(folder: Path) -> Artifact:
    """An artifact with two libraries, the second of which computes logits greater by 3."""
    ((images, logits),) = contract.read_probe(contract.read(folder))
    contract.write_probe(folder, images, logits + np.float32(3), "plain.npz")
    fast = Library(file="model.onnx", level="fast", needs=("warp",))
    plain = Library(file="model.onnx", level="plain", needs=(), probe=Probe(file="plain.npz", tolerance=0.5))
    return contract.write(folder, describe().model_copy(update={"libraries": (fast, plain)}))


@pytest.mark.parametrize(("flags", "more", "file"), [({"warp"}, 0, "probe.npz"), ({"sse"}, 3, "plain.npz")])
def test_a_library_is_compared_with_the_probe_of_its_own(libraries, tiny, monkeypatch, flags, more, file):
    expected = contract.read_probe(tiny)[0][1] + np.float32(more)
    monkeypatch.setattr(host, "flags", lambda: frozenset(flags))
    np.testing.assert_array_equal(contract.read_probe(libraries)[0][1], expected)
    contract.check_probe(Computes(expected), libraries)
    for wrong in (3 - 2 * more, 0.6):
        with pytest.raises(ArtifactError, match=rf"{file}: arithmetic 1 is off by {abs(wrong)}"):
            contract.check_probe(Computes(expected + np.float32(wrong)), libraries)
    allowed = Computes(expected + np.float32(0.4))
    if file == "plain.npz":
        contract.check_probe(allowed, libraries)
    else:
        with pytest.raises(ArtifactError, match=r"more than the 0\.0001 allowed"):
            contract.check_probe(allowed, libraries)


def test_a_library_whose_probe_is_missing_is_refused(libraries):
    (libraries.folder / "plain.npz").unlink()
    edit_manifest(libraries.folder, lambda m: m["files"].pop("plain.npz"))
    with pytest.raises(ArtifactError, match=r"manifest\.json lists no plain\.npz"):
        contract.read(libraries.folder)


@pytest.mark.parametrize(
    "arrays",
    [
        {"input": np.zeros((1, 24, 94, 3), np.uint8)},
        {"input": np.zeros((1, 24, 94, 3), np.uint8), "logits": np.zeros((2, 20, 18), np.float32)},
        {"input": np.zeros((0, 24, 94, 3), np.uint8), "logits": np.zeros((0, 20, 18), np.float32)},
        {"input": np.array([object()]), "logits": np.zeros((1, 20, 18), np.float32)},
    ],
    ids=["no logits", "lengths differ", "empty", "pickled"],
)
def test_a_probe_of_another_shape_is_refused(folder, arrays):
    np.savez(folder / "probe.npz", **arrays)
    with pytest.raises(ArtifactError, match=r"probe\.npz"):
        contract.read_probe(contract.write(folder, describe()))


def zeros(height: int, width: int) -> contract.Pair:
    """An image of a size, and its maps."""
    return np.zeros((1, height, width, 3), np.uint8), np.zeros((1, height // 8, width // 8, 9), np.float32)


@pytest.fixture
def finder(tmp_path: Path) -> Artifact:
    """An artifact of task `find`, of images of two sizes. Its model is no model."""
    contract.write_probe(tmp_path, *zeros(64, 96), more=[zeros(96, 32)])
    (tmp_path / "model.pt2").touch()
    shared = describe().model_dump(exclude={"task", "alphabet", "blank", "grammar", "temperature", "input", "output"})
    image = Tensor(dtype="uint8", shape=("N", "H", "W", 3), description="BGR photograph")
    maps = Tensor(dtype="float32", shape=("N", "H/8", "W/8", 9), description="maps")
    return contract.write(
        tmp_path, Finds(**shared, input=image, output=maps, sizes=((64, 96), (96, 32)), stride=8, refiner="refiner")
    )


def test_a_manifest_is_of_its_task(finder, tiny):
    assert (finder.manifest.task, tiny.manifest.task) == ("find", "read")
    assert tiny.reader is tiny.manifest
    with pytest.raises(ArtifactError, match="holds a model of task find; one that reads is needed"):
        _ = finder.reader
    with pytest.raises(ArtifactError, match="holds a model of task find; one that refines is needed"):
        _ = finder.refiner
    assert (finder.finder, contract.readers(finder.folder.parent)) == (finder.manifest, [])


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda m: m.update(alphabet="AB"), "alphabet: Extra inputs"),
        (lambda m: m.update(sizes=[[640, 380]]), "640 x 380 must be whole cells"),
        (lambda m: m.update(sizes=[[2048, 2048]]), "at most 1048576 pixels"),
        (lambda m: m["output"].update(dtype="uint8"), "output float32"),
    ],
)
def test_a_finder_that_is_described_wrongly_is_refused(finder, edit, message):
    edit_manifest(finder.folder, edit)
    with pytest.raises(ArtifactError, match=message):
        contract.read(finder.folder)


class WrongAtOneSize:
    """A backend that answers 0, and 1 for images of 32 columns."""

    engine = "arithmetic 1"

    def infer(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        n, height, width, _ = images.shape
        return np.full((n, height // 8, width // 8, 9), width == 32, np.float32)


def test_a_probe_proves_every_size(finder):
    assert [images.shape[1:] for images, _ in contract.read_probe(finder)] == [(64, 96, 3), (96, 32, 3)]
    with pytest.raises(ArtifactError, match=r"is off by 1, more than"):  # at the second size alone
        contract.check_probe(WrongAtOneSize(), finder)


def test_a_probe_that_lacks_a_size_is_refused(finder):
    contract.write_probe(finder.folder, *zeros(64, 96))
    with pytest.raises(ArtifactError, match=r"probe\.npz is not a probe"):
        contract.read_probe(contract.write(finder.folder, finder.manifest))
