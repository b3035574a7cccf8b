"""Store of artifacts: a folder a variant, whose files are checked against the manifest before anything trusts them.

::

    artifacts/<variant>/manifest.json    Manifest; names every other file with its sha256
                        probe.npz        "input" uint8 (n, H, W, 3) and "logits" float32; "input1", ... of further sizes
                        model.pt2, ...   whatever the backend named in the manifest loads
                        <level>.npz      as probe.npz, for a library that computes something else

`read` trusts nothing: an unknown key, another format version, a changed byte or a stray file is an `ArtifactError`
that names the file. So is everything else that can be wrong with a file: sizes are checked before anything is read,
decompressed or parsed. Engines load `Artifact.content`, so that what was checked is what runs, also where a file is
replaced meanwhile. `write` is for `model_builder/publish.py` alone.
"""

import hashlib
import io
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import from_json

from service.artifact.manifest import FORMAT_VERSION, Description, FindManifest, Manifest, ReadManifest, RefineManifest
from service.errors import ArtifactError, UnknownVariant, brief, first_fault

MANIFEST = "manifest.json"
MANIFEST_BYTES: Final = 1 << 20  # most of a manifest; those of this repository have 14 kB
FILE_BYTES: Final = 1 << 30  # most of any other file, which is read whole to be loaded

_MANIFEST: Final = TypeAdapter[Manifest](Annotated[Manifest, Field(discriminator="task")])


@dataclass(frozen=True)
class Artifact:
    """A folder whose files are all present, listed and unchanged."""

    folder: Path
    manifest: Manifest

    @property
    def reader(self) -> ReadManifest:
        """The manifest of a model that reads; ArtifactError if the model has another task."""
        if not isinstance(self.manifest, ReadManifest):
            raise ArtifactError(f"{self.folder} holds a model of task {self.manifest.task}; one that reads is needed")
        return self.manifest

    @property
    def finder(self) -> FindManifest:
        """The manifest of a model that finds plates; ArtifactError if the model has another task."""
        if not isinstance(self.manifest, FindManifest):
            raise ArtifactError(f"{self.folder} holds a model of task {self.manifest.task}; one that finds is needed")
        return self.manifest

    @property
    def refiner(self) -> RefineManifest:
        """The manifest of a model that refines; ArtifactError if the model has another task."""
        if not isinstance(self.manifest, RefineManifest):
            raise ArtifactError(f"{self.folder} holds a model of task {self.manifest.task}; one that refines is needed")
        return self.manifest

    def file(self, name: str) -> Path:
        """Path of a file that the manifest lists; ArtifactError if it does not."""
        if name not in self.manifest.files:
            raise ArtifactError(f"{self.folder / MANIFEST} lists no {name}, which its backend needs")
        return self.folder / name

    def content(self, name: str) -> bytes:
        """The bytes of a file, proved by the manifest's sha256; ArtifactError where it was replaced since `read`."""
        path = self.file(name)
        with _opened(path, FILE_BYTES) as stream:
            data = stream.read()
        if hashlib.sha256(data).hexdigest() != self.manifest.files[name]:
            raise _changed(path)
        return data


def variants(root: Path) -> list[str]:
    """Names of the artifacts below `root`, sorted; an empty list if there is no such folder."""
    try:
        names = os.listdir(root)
    except OSError:
        return []
    shown = [name for name in names if not name.startswith(".") and name.isprintable()]
    return sorted(name for name in shown if os.path.lexists(root / name / MANIFEST))


def readers(root: Path) -> list[str]:
    """Names of the artifacts below `root` that read plates, and of those whose manifest cannot be read."""
    return [name for name in variants(root) if _reads(root / name)]


def _reads(folder: Path) -> bool:
    try:
        return isinstance(read_manifest(folder), ReadManifest)
    except ArtifactError:
        return True


def find(root: Path, variant: str) -> Artifact:
    """Read the artifact called `variant` below `root`; UnknownVariant lists those that exist."""
    known = variants(root)
    if variant not in known:
        listing = ", ".join(known) if known else "none; set LPR_ARTIFACTS to the folder that holds them"
        raise UnknownVariant(f"There is no variant {variant!r} in {root}. Available: {listing}.")
    artifact = read(root / variant)
    if artifact.manifest.variant != variant:
        raise ArtifactError(
            f"{artifact.folder / MANIFEST} calls itself {artifact.manifest.variant!r}: rename the folder"
        )
    return artifact


def find_finder(root: Path, variant: str) -> tuple[Artifact, Artifact]:
    """The artifact called `variant` below `root`, which finds plates, and the one beside it that refines them."""
    finder = find(root, variant)
    refiner = find(root, finder.finder.refiner)
    _ = refiner.refiner
    return finder, refiner


def read(folder: Path) -> Artifact:
    """Check a folder against its manifest: keys, format version, every byte, no stray file.

    Raises ArtifactError that names the file and the reason.
    """
    manifest = read_manifest(folder)
    present = _names(folder)
    for name, expected in manifest.files.items():
        if name not in present:
            raise ArtifactError(f"{folder / name} is listed in {MANIFEST} but missing")
        if _sha256(folder / name) != expected:
            raise _changed(folder / name)
    if stray := sorted(present - set(manifest.files)):
        raise ArtifactError(f"{folder / brief(stray[0])} is not listed in {MANIFEST}: remove it or publish again")
    for probe in manifest.probes:
        if probe.file not in manifest.files:
            raise ArtifactError(f"{folder / MANIFEST} lists no {probe.file}, so the model cannot be checked")
    return Artifact(folder, manifest)


def stamp(folder: Path) -> tuple[int, ...] | None:
    """What differs where a folder's manifest was replaced or written again; None where there is none."""
    try:
        status = (folder / MANIFEST).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def read_manifest(folder: Path) -> Manifest:
    """What a folder's manifest says, without a look at the other files; raises ArtifactError."""
    path = folder / MANIFEST
    with _opened(path, MANIFEST_BYTES) as stream:
        data = stream.read()
    try:
        content = from_json(data)  # unlike Python's own, it bounds how deep lists are nested
    except ValueError as error:
        raise ArtifactError(f"{path} is not JSON: {brief(error)}") from error
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise ArtifactError(
            f"{path} has format version {brief(repr(version))}; this server reads version {FORMAT_VERSION}: "
            "publish the model again"
        )
    try:
        return _MANIFEST.validate_json(data)
    except ValidationError as error:
        raise ArtifactError(f"{path}: {brief(first_fault(error))}") from error


def write(folder: Path, description: Description) -> Artifact:
    """Write manifest.json for the model files and the probes that lie in `folder`, then read it back.

    May be called again on the same folder, for example once figures have been measured.
    """
    files = {name: _sha256(folder / name) for name in sorted(_names(folder))}
    fields = {key: value for key, value in description.model_dump(mode="json").items() if key != "files"}
    manifest = _MANIFEST.validate_json(json.dumps({**fields, "files": files}))
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return read(folder)


def _names(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder)) - {MANIFEST}
    except OSError as error:
        raise ArtifactError(f"{folder} cannot be read: {error.strerror}") from error


@contextmanager
def _opened(path: Path, most: int) -> Iterator[io.BufferedReader]:
    """A regular file of at most `most` bytes, to be read; ArtifactError where it is anything else."""

    def at_once(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NONBLOCK)  # a named pipe would wait for somebody who writes to it

    try:
        with open(path, "rb", opener=at_once) as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ArtifactError(f"{path} is not a regular file")
            if status.st_size > most:
                raise ArtifactError(f"{path} has {status.st_size} bytes; at most {most} are read")
            yield stream
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from error


def _sha256(path: Path) -> str:
    with _opened(path, FILE_BYTES) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _changed(path: Path) -> ArtifactError:
    return ArtifactError(f"{path} differs from its sha256 in {MANIFEST}: it was changed or damaged")
