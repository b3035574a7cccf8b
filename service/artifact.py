"""The contract between builder and server: a folder with a model, a probe and a manifest that describes both.

::

    artifacts/<variant>/manifest.json    Manifest; names every other file with its sha256
                        probe.npz        "input" uint8 (n, H, W, 3), "logits" float32 (n, T, C)
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
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator
from pydantic_core import from_json

from service import cpu
from service.errors import ArtifactError, UnknownVariant, brief, first_fault

if TYPE_CHECKING:  # backends reads artifacts, so only the type may come from there
    from service.backends.base import Backend

FORMAT_VERSION: Final = 1
MANIFEST = "manifest.json"
PROBE: Final = "probe.npz"
MANIFEST_BYTES: Final = 1 << 20  # most of a manifest; those of this repository have 14 kB
PROBE_BYTES: Final = 64 << 20  # most of each array of a probe, decompressed
FILE_BYTES: Final = 1 << 30  # most of any other file, which is read whole to be loaded
INPUT_PIXELS: Final = 1 << 20  # most of an image as the network takes it

Count = Annotated[int, Field(ge=0, lt=1 << 63)]
Positive = Annotated[int, Field(gt=0, lt=1 << 63)]
Milliseconds = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")]
Label = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]{1,200}$")]  # stands in answers, logs and metrics
BackendName = Literal["torch", "onnxruntime", "tvm"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Frozen(BaseModel):
    """Immutable, and an unknown key is an error rather than ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Format(Frozen):
    """A family of texts, named after what the text alone tells. A template holds, for each position, the characters
    allowed there."""

    name: Label
    templates: Annotated[tuple[tuple[Annotated[str, Field(min_length=1)], ...], ...], Field(min_length=1)]

    def fits(self, text: str) -> bool:
        """Whether `text` matches one of the templates, position by position."""
        return any(
            len(text) == len(template) and all(char in allowed for char, allowed in zip(text, template, strict=True))
            for template in self.templates
        )


class Grammar(Frozen):
    """The families of texts that a model knows. A text may fit several."""

    formats: tuple[Format, ...]

    def formats_of(self, text: str) -> tuple[str, ...]:
        """Names of the formats that `text` fits, in their order."""
        return tuple([format.name for format in self.formats if format.fits(text)])

    def only(self, names: Collection[str]) -> "Grammar":
        """The grammar of the formats of these names alone; those that it does not know are left out."""
        return Grammar(formats=tuple(format for format in self.formats if format.name in names))


class Tensor(Frozen):
    """One end of the model; `shape` mixes numbers with names of free dimensions, such as "N"."""

    dtype: Literal["uint8", "float32"]
    shape: tuple[Annotated[int, Field(gt=0, le=1 << 16)] | Label, ...]
    description: str


class Probe(Frozen):
    """Inputs with their expected logits, and the largest absolute difference that counts as equal."""

    file: FileName = PROBE
    tolerance: Annotated[float, Field(gt=0, le=1)]  # beyond it, a probe would prove nothing


class Provenance(Frozen):
    """Where the model came from: enough to build it again."""

    commit: str
    created: AwareDatetime
    seed: int
    arguments: dict[str, JsonValue]
    libraries: dict[str, str]


class Score(Frozen):
    """`exact` of `total` plates read without an error; `low` and `high` bound the share (95 %, Wilson)."""

    exact: Count
    total: Positive
    low: Share
    high: Share


class Latency(Frozen):
    """Milliseconds of one `infer` call on `batch` plates."""

    median: Milliseconds
    p95: Milliseconds
    threads: Positive
    batch: Positive
    repeats: Positive


class Measured(Frozen):
    """What `model_builder evaluate` measured through the serving code on the named machine."""

    accuracy: dict[str, Score]
    latency_ms: Latency
    size_bytes: Positive
    parameters: Positive
    multiply_adds: Positive
    machine: Label


class Library(Frozen):
    """One compiled file: it runs on a CPU that has every one of `needs`, named as in /proc/cpuinfo.

    `probe` is its own where it computes something else than the artifact's probe tells: floats in place of integers.
    """

    file: FileName
    level: Label
    needs: tuple[str, ...]
    probe: Probe | None = None


class Description(Frozen):
    """All that a builder has to say about an artifact: the manifest without the hashes, which `write` adds."""

    format_version: Literal[1] = FORMAT_VERSION
    variant: FileName
    version: Label
    backend: BackendName
    input: Tensor
    output: Tensor
    alphabet: Annotated[str, Field(min_length=1)]
    blank: Count
    grammar: Grammar
    max_batch: Annotated[int, Field(gt=0, le=1 << 16)]
    probe: Probe
    provenance: Provenance
    libraries: tuple[Library, ...] = ()  # compiled code, the fastest first
    measured: Measured | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.alphabet)) != len(self.alphabet):
            raise ValueError("alphabet holds a character twice")
        if self.blank > len(self.alphabet):
            raise ValueError(f"blank is {self.blank}, but there are only {len(self.alphabet) + 1} classes")
        for format in self.grammar.formats:
            if strange := set("".join("".join(t) for t in format.templates)) - set(self.alphabet):
                raise ValueError(f"format {format.name} uses {''.join(sorted(strange))}, not in the alphabet")
        match self.input:
            case Tensor(dtype="uint8", shape=(str(), int(height), int(width), 3)) if height * width <= INPUT_PIXELS:
                pass
            case _:
                raise ValueError(f"input must be uint8 (N, height, width, 3) of at most {INPUT_PIXELS} pixels")
        match self.output:
            case Tensor(dtype="float32", shape=(str(), int(), int(classes))) if classes == len(self.alphabet) + 1:
                pass
            case _:
                raise ValueError(f"output must be float32 (N, frames, {len(self.alphabet) + 1})")
        return self

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels of the crops that the network takes."""
        _, height, width, _ = self.input.shape
        return int(height), int(width)

    @property
    def probes(self) -> tuple[Probe, ...]:
        """The artifact's probe, and those of libraries that have their own."""
        return self.probe, *(library.probe for library in self.libraries if library.probe)

    def library(self, flags: frozenset[str]) -> Library | None:
        """The first, and so fastest, library that a CPU with `flags` can run; None where it can run none."""
        return next((library for library in self.libraries if flags.issuperset(library.needs)), None)


class Manifest(Description):
    """The content of manifest.json."""

    files: dict[FileName, Sha256]


@dataclass(frozen=True)
class Artifact:
    """A folder whose files are all present, listed and unchanged."""

    folder: Path
    manifest: Manifest

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
            f"{path} has format version {brief(repr(version))}; this server reads version {FORMAT_VERSION}"
        )
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        raise ArtifactError(f"{path}: {brief(first_fault(error))}") from error


def write(folder: Path, description: Description) -> Artifact:
    """Write manifest.json for the model files and the probes that lie in `folder`, then read it back.

    May be called again on the same folder, for example once figures have been measured.
    """
    files = {name: _sha256(folder / name) for name in sorted(_names(folder))}
    fields = {key: value for key, value in description.model_dump(mode="json").items() if key != "files"}
    manifest = Manifest.model_validate_json(json.dumps({**fields, "files": files}))
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return read(folder)


def write_probe(folder: Path, images: NDArray[np.uint8], logits: NDArray[np.float32], file: str = PROBE) -> None:
    """Write a probe: images uint8 (n, H, W, 3) and the logits float32 (n, T, C) expected for them."""
    np.savez_compressed(folder / file, input=images, logits=logits)


def library_here(artifact: Artifact) -> Library | None:
    """The library that this CPU runs; None where it can run none, or nothing is compiled."""
    return artifact.manifest.library(cpu.flags())


def probe_here(artifact: Artifact) -> Probe:
    """What has to be computed on this CPU: the probe of the library that it runs, if that has its own."""
    library = library_here(artifact)
    return library.probe if library and library.probe else artifact.manifest.probe


def read_probe(artifact: Artifact) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Images uint8 (n, H, W, 3) and expected logits float32 (n, T, C) of the probe for this CPU.

    Raises ArtifactError where that one, or one for other CPUs, is damaged.
    """
    found = {probe.file: _probe(artifact, probe.file) for probe in artifact.manifest.probes}
    return found[probe_here(artifact).file]


def check_probe(backend: "Backend", artifact: Artifact) -> None:
    """Compute the probe for this CPU and compare: the one check of publisher, readiness and tests.

    Raises ArtifactError if shapes differ or a logit is further from the expected one than the manifest's tolerance.
    """
    images, expected = read_probe(artifact)
    probe = probe_here(artifact)
    path, tolerance = artifact.file(probe.file), probe.tolerance
    try:
        logits = backend.infer(images)
    except Exception as error:  # engines raise whatever a model of other shapes leads them to
        raise ArtifactError(f"{path}: {backend.engine} cannot compute it: {brief(error)}") from error
    if logits.shape != expected.shape or logits.shape[-1] != len(artifact.manifest.alphabet) + 1:
        raise ArtifactError(f"{path}: expected logits {expected.shape}, {backend.engine} computed {logits.shape}")
    with np.errstate(all="ignore"):
        difference = float(np.abs(logits - expected).max())
    if not difference <= tolerance:  # written so that NaN fails too
        raise ArtifactError(
            f"{path}: {backend.engine} is off by {difference:.3g}, more than the {tolerance:.3g} allowed"
        )


def _probe(artifact: Artifact, name: str) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    path, manifest = artifact.file(name), artifact.manifest
    data = artifact.content(name)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            images = _array(archive, "input", np.uint8, manifest.input.shape[1:])
            logits = _array(archive, "logits", np.float32, manifest.output.shape[1:])
    except Exception as error:  # zipfile and NumPy raise whatever damaged bytes lead them to
        raise ArtifactError(f"{path} is not a probe with the arrays input and logits: {brief(error)}") from error
    if not np.isfinite(logits).all():
        raise ArtifactError(f"{path} holds logits that are no finite numbers, so the model cannot be checked")
    if len(images) != len(logits) or len(images) == 0:
        raise ArtifactError(f"{path} must hold input and logits of the same length, at least 1")
    return images, logits


def _array(archive: zipfile.ZipFile, name: str, dtype: DTypeLike, row: tuple[int | str, ...]) -> NDArray[Any]:
    """An array (n, *row) of a probe; raises ValueError, also for one that would be too large, before it is unpacked."""
    member = archive.getinfo(f"{name}.npy")
    if member.file_size > PROBE_BYTES or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name} has more than {PROBE_BYTES} bytes, or is compressed otherwise than by deflate")
    with archive.open(member) as stream:
        data = stream.read(member.file_size)  # no more, whatever the compressed bytes hold
    array: NDArray[Any] = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    if array.dtype != dtype or array.shape[1:] != row:
        raise ValueError(f"{name} must be {np.dtype(dtype)} of rows {row}")
    return array


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
