"""The ONNX Runtime backend on an integer network: any batch, independent rows, sentences for what can't be loaded."""

import subprocess
import sys
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch

from model_builder import candidates, publish
from model_builder.candidates import TOLERANCE
from model_builder.compress.quantize import calibrate
from model_builder.graph import onnx
from model_builder.graph.description import Graph
from model_builder.graph.fake_quantized import FakeQuantized
from model_builder.graph.ops import Linear
from model_builder.graph.reference import run
from model_builder.graph.trace import trace
from model_builder.networks.reader import SIZE, LPRNet, Widths
from model_builder.plates.kinds import ALPHABET
from model_builder.train.data import development_set
from service import artifact as contract
from service import backends, host
from service.artifact import Artifact, Origin
from service.backends import Backend
from service.backends.onnxruntime import MODEL, options
from service.errors import ArtifactError
from service.settings import REPOSITORY

SMALL = Widths(8, (10,), (12, 8), (12,), 10, 8)


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    """Plates, and noise, so that rows differ as much as they can."""
    noise = np.random.default_rng(1).integers(0, 256, (32, 24, 94, 3), np.uint8)
    return np.concatenate([development_set(8).images, noise])


@pytest.fixture(scope="module")
def network(crops: np.ndarray) -> Graph:
    torch.manual_seed(0)
    simulation = FakeQuantized(trace(LPRNet(len(ALPHABET) + 1, SMALL), SIZE))
    simulation.set_ranges(calibrate(simulation, crops)["max"])
    return simulation.describe()


@pytest.fixture(scope="module")
def artifact(network: Graph, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Published; change nothing in it."""
    made = candidates.onnx_candidate("small", network, Origin(seed=0))
    return publish.publish(tmp_path_factory.mktemp("artifacts"), made, {})


@pytest.fixture(scope="module")
def backend(artifact: Artifact) -> Backend:
    return backends.load(artifact)


def test_the_artifact_is_complete_and_proves_itself(artifact, backend):
    assert sorted(artifact.manifest.files) == [MODEL, "probe.npz"]
    assert artifact.manifest.backend == "onnxruntime"
    contract.check_probe(backend, artifact)
    assert backend.engine.startswith("onnxruntime 1.")


def test_logits_are_those_of_the_integer_reference(network, backend, crops):
    logits = backend.infer(crops)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, run(network, crops), atol=TOLERANCE)


def test_every_row_of_a_batch_equals_that_row_alone(backend, crops):
    together = backend.infer(crops)
    for row in range(0, len(crops), 3):
        np.testing.assert_allclose(backend.infer(crops[row : row + 1])[0], together[row], atol=1e-4)


def test_any_number_of_crops_is_served(artifact, backend, crops):
    many = np.tile(crops, (artifact.manifest.max_batch // len(crops) + 1, 1, 1, 1))
    assert len(many) > artifact.manifest.max_batch
    expected = backend.infer(crops[:1])[0]
    for count in (1, 2, 7, 33, artifact.manifest.max_batch, len(many)):
        logits = backend.infer(many[:count])
        assert len(logits) == count
        np.testing.assert_allclose(logits[0], expected, atol=1e-4)


def test_an_input_that_is_not_contiguous_is_served(backend, crops):
    flipped = crops[:4, :, ::-1]
    np.testing.assert_allclose(backend.infer(flipped), backend.infer(flipped.copy()), atol=1e-4)


def test_a_float_network_is_served_too(crops, tmp_path):
    torch.manual_seed(0)
    source = LPRNet(len(ALPHABET) + 1, SMALL).eval()
    made = candidates.onnx_candidate("float", trace(source, SIZE), Origin(seed=0))
    loaded = backends.load(publish.publish(tmp_path, made, {}))
    with torch.inference_mode():
        expected = source(torch.from_numpy(crops)).numpy()
    np.testing.assert_allclose(loaded.infer(crops), expected, atol=TOLERANCE)


def test_a_model_that_computes_something_else_is_not_published(network, tmp_path, monkeypatch):
    def damaged(network: Graph, path: Path, **options: bool) -> None:
        bias = cast(Linear, network.output).bias
        bias[3] += 0.01
        write(network, path)
        bias[3] -= 0.01

    write = onnx.write
    monkeypatch.setattr(onnx, "write", damaged)
    with pytest.raises(ArtifactError, match=r"onnxruntime .* is off by 0\.01, more than"):
        publish.publish(tmp_path, candidates.onnx_candidate("small", network, Origin(seed=0)), {})
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_model_is_refused(artifact, tmp_path):
    (tmp_path / MODEL).write_bytes(b"not a model")
    (tmp_path / "probe.npz").write_bytes((artifact.folder / "probe.npz").read_bytes())
    with pytest.raises(ArtifactError, match=r"model\.onnx cannot be loaded by onnxruntime"):
        backends.load(contract.write(tmp_path, artifact.manifest))


def test_an_artifact_without_the_model_is_refused(artifact, tmp_path):
    (tmp_path / "probe.npz").write_bytes((artifact.folder / "probe.npz").read_bytes())
    with pytest.raises(ArtifactError, match=r"lists no model\.onnx"):
        backends.load(contract.write(tmp_path, artifact.manifest))


def test_neither_builder_nor_another_engine_is_needed(artifact):
    program = """if True:
        import sys
        from pathlib import Path
        sys.modules |= dict.fromkeys(("torch", "tvm", "onnx", "openvino", "model_builder"))
        from service import artifact, backends
        found = artifact.read(Path(sys.argv[1]))
        artifact.check_probe(backends.load(found), found)
    """
    subprocess.run([sys.executable, "-c", program, artifact.folder], cwd=REPOSITORY, check=True)


@pytest.mark.parametrize(
    ("flags", "exact"), [({"avx2"}, True), ({"avx512_vnni"}, False), ({"avx2", "avx_vnni"}, False), (set(), True)]
)
def test_a_cpu_without_vnni_multiplies_without_saturation(monkeypatch, flags, exact):
    monkeypatch.setattr(host, "flags", lambda: frozenset(flags))
    settings = options(1)
    if exact:
        assert settings.get_session_config_entry("session.x64quantprecision") == "1"
    else:
        with pytest.raises(RuntimeError):
            settings.get_session_config_entry("session.x64quantprecision")


def test_without_vnni_the_integers_are_the_same(artifact, crops, monkeypatch):
    """ONNX Runtime then multiplies uint8 by uint8, here too."""
    expected = backends.load(artifact).infer(crops)
    monkeypatch.setattr(host, "flags", lambda: frozenset({"avx2"}))
    np.testing.assert_allclose(backends.load(artifact).infer(crops), expected, atol=1e-4)
