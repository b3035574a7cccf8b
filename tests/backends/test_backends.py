"""What every backend owes, on every artifact there is; nothing in here knows which."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from model_builder.team import Team
from service import backends
from service.artifact import (
    Artifact,
    check_probe,
    library_here,
    probe_here,
    read_probe,
    write,
)
from service.backends import Backend
from service.errors import ArtifactError


@pytest.fixture(scope="module")
def backend(artifact: Artifact) -> Iterator[Backend]:
    loaded = backends.load(artifact)
    yield loaded
    loaded.close()


@pytest.fixture(scope="module")
def crops(artifact: Artifact) -> np.ndarray:
    """32 crops: the probe's and noise, so that rows differ as much as they can."""
    ((images, _),) = read_probe(artifact)
    noise = np.random.default_rng(1).integers(0, 256, (32, *images.shape[1:]), np.uint8)
    noise[: min(len(images), 16)] = images[:16]
    return noise


def test_the_probe_is_computed_as_published(artifact, backend):
    check_probe(backend, artifact)


def test_it_is_loaded_by_several_threads_at_once(artifact):
    with ThreadPoolExecutor(4) as pool:
        for loaded in pool.map(lambda _: backends.load(artifact), range(4)):
            loaded.close()


def test_every_library_that_this_cpu_can_run_computes_its_probe(artifact):
    for library in artifact.manifest.libraries:
        alone = replace(artifact, manifest=artifact.manifest.model_copy(update={"libraries": (library,)}))
        if library_here(alone):
            check_probe(backends.load(alone), alone)


def test_logits_are_as_the_manifest_says(artifact, backend, crops):
    logits = backend.infer(crops[:3])
    assert logits.dtype == np.float32
    assert logits.shape[0] == 3
    assert logits.shape[1:] == artifact.manifest.output.shape[1:]
    assert logits.shape[2] == len(artifact.manifest.alphabet) + 1


def test_every_row_of_a_batch_equals_that_row_alone(artifact, backend, crops):
    alone = np.concatenate([backend.infer(crop[None]) for crop in crops])
    for size in (1, 2, 3, 7, 32):
        together = backend.infer(crops[-size:])
        np.testing.assert_allclose(together, alone[-size:], atol=probe_here(artifact).tolerance, err_msg=f"of {size}")


def test_a_batch_beyond_the_artifacts_maximum_is_served_too(artifact, backend, crops):
    many = np.tile(crops, (artifact.manifest.max_batch // len(crops) + 2, 1, 1, 1))
    assert backend.infer(many).shape[0] == len(many)


def test_an_input_that_is_not_contiguous_is_served(artifact, backend, crops):
    flipped = crops[:4, :, ::-1]
    expected = backend.infer(flipped.copy())
    np.testing.assert_allclose(backend.infer(flipped), expected, atol=probe_here(artifact).tolerance)


def test_on_two_threads_the_same_is_computed(artifact, backend, crops):
    two = Team(artifact, 2)
    for count in (1, 2, 7):
        expected = backend.infer(crops[:count])
        np.testing.assert_allclose(two.infer(crops[:count]), expected, atol=probe_here(artifact).tolerance)
    assert two.engine == backend.engine
    two.close()


def test_the_engine_names_itself(backend):
    assert backend.engine.split(" ")[0]
    assert backend.engine.split(" ")[1][0].isdigit()


def test_a_file_that_is_no_model_is_refused(torch_artifact, tmp_path):
    (tmp_path / "model.pt2").write_bytes(b"not a program")
    (tmp_path / "probe.npz").write_bytes((torch_artifact.folder / "probe.npz").read_bytes())
    with pytest.raises(ArtifactError, match=r"model\.pt2 cannot be loaded by torch"):
        backends.load(write(tmp_path, torch_artifact.manifest))


def test_an_artifact_without_the_backends_file_is_refused(torch_artifact, tmp_path):
    (tmp_path / "probe.npz").write_bytes((torch_artifact.folder / "probe.npz").read_bytes())
    with pytest.raises(ArtifactError, match=r"lists no model\.pt2"):
        backends.load(write(tmp_path, torch_artifact.manifest))
