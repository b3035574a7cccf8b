"""Artifacts that agree with their manifest and are wrong nevertheless: each ends as an ArtifactError."""

import hashlib
import io
import itertools
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service import artifact as contract
from service import backends
from service.artifact import Artifact, store
from service.errors import ArtifactError
from service.settings import REPOSITORY
from tests.support.artifacts import PUBLISHED

IMAGES, LOGITS = np.zeros((2, 24, 94, 3), np.uint8), np.zeros((2, 20, 18), np.float32)


def hashed(folder: Path, **changes: object) -> Path:
    """The folder, with the sha256 of its files as they are now, and other changes to its manifest."""
    path = folder / contract.MANIFEST
    manifest = json.loads(path.read_text()) | changes
    files = [file for file in folder.iterdir() if file.is_file() and file != path]
    manifest["files"] = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    path.write_text(json.dumps(manifest))
    return folder


def proved(folder: Path) -> None:
    """All that stands before serving."""
    found = contract.read(folder)
    backend = backends.load(found)
    contract.check_probe(backend, found)
    backend.close()


@pytest.fixture
def folder(tiny: Artifact, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny.folder, tmp_path / "tiny"))


@pytest.fixture
def compiled(tmp_path: Path) -> Path:
    """A copy of a published variant of compiled code."""
    return Path(shutil.copytree(PUBLISHED / "tvm-fast", tmp_path / "tvm-fast"))


def npz(compression: int = zipfile.ZIP_DEFLATED, **arrays: Any) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", compression) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, np.asarray(array))
    return packed.getvalue()


def lying(data: bytes) -> bytes:
    """An archive whose members claim to be small."""
    at = data.rindex(b"PK\x01\x02", 0, data.rindex(b"PK\x01\x02"))  # in its directory
    return data[: at + 24] + (1000).to_bytes(4, "little") + data[at + 28 :]


def claiming(shape: str) -> bytes:
    """A probe whose input claims a shape and has no content."""
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}".encode().ljust(117) + b"\n"
    packed = io.BytesIO(npz(logits=LOGITS))
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr("input.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    return packed.getvalue()


@pytest.mark.parametrize(
    "probe",
    [
        lambda: b"",
        lambda: b"rubbish",
        lambda: b"PK\x03\x04rubbish",
        lambda: npz(input=IMAGES, logits=LOGITS)[:-30],
        lambda: npz(input=IMAGES[:, :10], logits=LOGITS),
        lambda: npz(input=IMAGES.reshape(2, -1), logits=LOGITS),
        lambda: npz(input=np.uint8(3), logits=np.float32(2)),
        lambda: npz(input=IMAGES, logits=LOGITS[:, 0, 0]),
        lambda: npz(input=IMAGES, logits=LOGITS.astype(np.float64)),
        lambda: npz(input=IMAGES, logits=LOGITS * np.nan),
        lambda: npz(input=IMAGES, logits=LOGITS + np.inf),
        lambda: npz(input=np.zeros((20_000, 24, 94, 3), np.uint8), logits=LOGITS),
        lambda: lying(npz(input=np.zeros((20_000, 24, 94, 3), np.uint8), logits=LOGITS)),
        lambda: npz(zipfile.ZIP_LZMA, input=IMAGES, logits=LOGITS),
        lambda: claiming("(1000000000000, 24, 94, 3)"),
        lambda: claiming("(" + "9" * 30 + ", 24, 94, 3)"),
        lambda: claiming("-" * 60 + "1"),
    ],
    ids=map(str, itertools.count()),
)
def test_a_broken_probe_is_refused(folder, probe):
    (folder / contract.PROBE).write_bytes(probe())
    with pytest.raises(ArtifactError, match=r"probe\.npz"):
        proved(hashed(folder))


@pytest.mark.parametrize(
    "content",
    [
        "[" * 100_000 + "]" * 100_000,
        '{"a":' * 100_000 + "1" + "}" * 100_000,
        '{"format_version": ' + "9" * 5000 + "}",
        '{"format_version": "' + "x" * 100_000 + '"}',
        '{"format_version": 1, "' + "x" * 100_000 + '": 1}',
        '{"format_version": 1, "version": "\\ud800"}',
        '{"format_version": 1e999}',
        " " * (store.MANIFEST_BYTES + 1),
        "\0",
    ],
    ids=["lists", "objects", "digits", "text", "key", "surrogate", "infinity", "size", "nul"],
)
def test_a_hostile_manifest_is_refused_in_a_short_sentence(folder, content):
    (folder / contract.MANIFEST).write_text(content)
    with pytest.raises(ArtifactError) as refusal:
        contract.read(folder)
    assert len(str(refusal.value).replace(str(folder), "")) < 400


@pytest.mark.parametrize(
    "changes",
    [
        {"input": {"dtype": "uint8", "shape": shape, "description": ""}}
        for shape in (
            [],
            ["N", "H", 94, 3],
            ["N", 24, 94, 1],
            ["N", -24, 94, 3],
            ["N", 10**9, 10**9, 3],
            ["N", 60000, 60000, 3],
            [1, 24, 94, 3],
        )
    ]
    + [{"input": {"dtype": "float32", "shape": ["N", 24, 94, 3], "description": ""}}]
    + [
        {"output": {"dtype": "float32", "shape": shape, "description": ""}}
        for shape in (["N", 20], ["N", 20, 19], ["N", 10**6, 18])
    ]
    + [
        {"max_batch": 10**30},
        {"blank": 10**30},
        {"version": "<b>\n" * 3},
        {"version": "x" * 1000},
        {"probe": {"file": "probe.npz", "tolerance": 1e300}},
        {"libraries": [{"file": "x.so", "level": 'x"\n} evil 1', "needs": []}]},
    ],
    ids=str,
)
def test_what_a_manifest_must_not_say_is_refused(folder, changes):
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        contract.read(hashed(folder, **changes))


def test_a_model_of_another_size_than_the_manifest_says_is_refused(folder):
    contract.write_probe(folder, np.zeros((2, 20, 48, 3), np.uint8), LOGITS)
    shape = {"dtype": "uint8", "shape": ["N", 20, 48, 3], "description": ""}
    with pytest.raises(ArtifactError, match=r"probe\.npz: onnxruntime"):
        proved(hashed(folder, input=shape))


@pytest.mark.parametrize("name", [contract.MANIFEST, contract.PROBE])
@pytest.mark.parametrize("kind", ["folder", "loop", "pipe", "device", "dangling"])
def test_what_is_no_regular_file_is_refused_at_once(folder, name, kind):
    path = folder / name
    path.unlink()
    match kind:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case _:
            path.symlink_to({"loop": path, "device": "/dev/zero", "dangling": "nowhere"}[kind])
    with pytest.raises(ArtifactError, match=name.replace(".", r"\.")):
        contract.read(folder)
    assert contract.variants(folder.parent) == ["tiny"]


def test_files_larger_than_can_be_loaded_are_refused_unread(folder):
    with (folder / contract.PROBE).open("r+b") as file:
        file.truncate(store.FILE_BYTES + 1)  # of a file system that keeps no zeros
    with pytest.raises(ArtifactError, match="at most"):
        contract.read(folder)


def test_a_file_that_is_replaced_after_it_was_checked_is_not_loaded(folder):
    found = contract.read(folder)
    (folder / "model.onnx").write_bytes(b"another")
    with pytest.raises(ArtifactError, match=r"model\.onnx differs"):
        backends.load(found)


Damage = Callable[[bytes], bytes]
DAMAGES: dict[str, Damage] = {
    "empty": lambda code: b"",
    "rubbish": lambda code: b"rubbish",
    "cut": lambda code: code[:20_000],
    "zeros": lambda code: code[:100_000] + bytes(len(code) - 100_000),
    "header": lambda code: code[:64] + bytes(len(code) - 64),
    "python": lambda code: Path(sys.executable).resolve().read_bytes(),
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
def test_code_that_cannot_be_loaded_ends_no_process(compiled, damage):
    for library in compiled.glob("*.so"):
        library.write_bytes(DAMAGES[damage](library.read_bytes()))
    with pytest.raises(ArtifactError, match=r"\.so cannot be loaded by tvm"):
        proved(hashed(compiled))


def test_code_that_does_not_come_to_an_end_is_refused(compiled, monkeypatch):
    from service.backends import tvm

    monkeypatch.setattr(tvm, "PROOF_S", 0.001)
    monkeypatch.setattr(tvm, "_proved", set())
    with pytest.raises(ArtifactError, match="did not come to an end"):
        proved(compiled)


@pytest.mark.slow
@pytest.mark.parametrize(("damage", "workers"), [("cut", 2), ("probe", 1)])
def test_a_server_of_a_broken_artifact_ends_with_a_sentence(compiled, damage, workers):
    for file in compiled.glob("*.so" if damage == "cut" else "*.npz"):
        file.write_bytes(file.read_bytes()[:20_000])
    environment = {
        **os.environ,
        "LPR_ARTIFACTS": str(hashed(compiled).parent),
        "LPR_VARIANT": compiled.name,
        "LPR_WORKERS": str(workers),
        "LPR_PORT": "0",
    }
    command = [sys.executable, "-m", "service"]
    ended = subprocess.run(
        command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 2, ended.stderr
    assert str(compiled) in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.slow
def test_code_is_loaded_by_its_content_and_unloaded(compiled):
    """As often as files are replaced: not what a path meant once, and nothing of it stays."""
    others = [compiled, PUBLISHED / "tvm"]
    place = compiled.with_name("place")

    def turn() -> None:
        for source in others:
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(source, place)
            proved(place)

    def mapped() -> int:
        return sum("memfd:library" in line for line in Path("/proc/self/maps").read_text().splitlines())

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    for _ in range(3):
        turn()
    assert mapped() == 0
    before, descriptors = resident(), len(os.listdir("/proc/self/fd"))
    for _ in range(30):
        turn()
    assert resident() - before < 20 * 2**20
    assert (mapped(), len(os.listdir("/proc/self/fd"))) == (0, descriptors)


def test_code_is_loaded_unproved_where_no_process_can_be_started(monkeypatch):
    from service.backends import tvm

    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    tvm.prove(b"code that nothing has proved", [(24, 94, 3)])
