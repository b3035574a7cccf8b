"""Nothing in an artifact is unpickled, also where torch would do so by itself."""

import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from service import artifact, backends
from service.errors import ArtifactError
from tests.support.artifacts import describe

MODEL = "model.pt2"


class Trap:
    """Unpickled, it makes a file."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.sprung,)


def trapped(source: Path, folder: Path, name: str, content: bytes) -> Path:
    """A whole artifact, with `name` in its archive replaced or added."""
    shutil.copytree(source, folder)
    with zipfile.ZipFile(folder / MODEL) as archive:
        files = {entry: archive.read(entry) for entry in archive.namelist()}
    root = next(iter(files)).split("/")[0]
    files[f"{root}/{name}"] = content
    with zipfile.ZipFile(folder / MODEL, "w", zipfile.ZIP_STORED) as archive:
        for entry, data in files.items():
            archive.writestr(entry, data)
    (folder / artifact.MANIFEST).unlink()
    artifact.write(folder, describe().model_copy(update={"backend": "torch"}))
    return folder


def test_pickled_sample_inputs_are_refused(torch_artifact, tmp_path):
    import torch

    sprung, content = tmp_path / "sprung", tmp_path / "content"
    torch.save(({"x": Trap(sprung)},), content)
    folder = trapped(torch_artifact.folder, tmp_path / "tiny", "data/sample_inputs/model.pt", content.read_bytes())
    with pytest.raises(ArtifactError, match=r"model\.pt2 cannot be loaded"):
        backends.load(artifact.read(folder))
    assert not sprung.exists()


@pytest.mark.parametrize("kind", ["custom", "opaque"])
def test_pickled_constants_are_refused(kind, torch_artifact, tmp_path):
    sprung = tmp_path / "sprung"
    name, content = f"data/constants/{kind}_obj_0", pickle.dumps(Trap(sprung))
    folder = trapped(torch_artifact.folder, tmp_path / "tiny", name, content)
    with pytest.raises(ArtifactError, match="pickled objects"):
        backends.load(artifact.read(folder))
    assert not sprung.exists()


def test_a_pickled_probe_is_refused(torch_artifact, tmp_path):
    sprung = tmp_path / "sprung"
    folder = Path(shutil.copytree(torch_artifact.folder, tmp_path / "tiny"))
    trap = np.array([Trap(sprung)], dtype=object)
    np.savez(folder / artifact.PROBE, input=trap, logits=trap)
    (folder / artifact.MANIFEST).unlink()
    found = artifact.write(folder, describe().model_copy(update={"backend": "torch"}))
    with pytest.raises(ArtifactError, match=r"probe\.npz"):
        artifact.read_probe(found)
    assert not sprung.exists()
