"""Probe of an artifact: images with expected outputs, the one proof that an engine computes what was published.

A model that takes images of several sizes has some of each: `input` and `logits`, then `input1` and `logits1`, ...
"""

import io
import itertools
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import DTypeLike, NDArray

from service import host
from service.artifact.manifest import PROBE, Library, Probe
from service.artifact.store import Artifact
from service.errors import ArtifactError, brief

if TYPE_CHECKING:  # backends reads artifacts, so only the type may come from there
    from service.backends.base import Backend

PROBE_BYTES: Final = 64 << 20  # most of each array of a probe, decompressed

Pair = tuple[NDArray[np.uint8], NDArray[np.float32]]  # images (n, H, W, 3) and the outputs expected for them (n, ...)


def write_probe(
    folder: Path, images: NDArray[np.uint8], logits: NDArray[np.float32], file: str = PROBE, more: Sequence[Pair] = ()
) -> None:
    """Write a probe: images uint8 (n, H, W, 3) and the outputs float32 expected for them; `more` are of other sizes."""
    pairs = zip(_names(), [(images, logits), *more], strict=False)
    arrays: dict[str, Any] = {name: array for names, pair in pairs for name, array in zip(names, pair, strict=True)}
    np.savez_compressed(folder / file, **arrays)


def library_here(artifact: Artifact) -> Library | None:
    """The library that this CPU runs; None where it can run none, or nothing is compiled."""
    return artifact.manifest.library(host.flags())


def probe_here(artifact: Artifact) -> Probe:
    """What has to be computed on this CPU: the probe of the library that it runs, if that has its own."""
    library = library_here(artifact)
    return library.probe if library and library.probe else artifact.manifest.probe


def read_probe(artifact: Artifact) -> list[Pair]:
    """Images and expected outputs of the probe for this CPU, for each shape of image that the model takes.

    Raises ArtifactError where that one, or one for other CPUs, is damaged.
    """
    found = {probe.file: _probe(artifact, probe.file) for probe in artifact.manifest.probes}
    return found[probe_here(artifact).file]


def check_probe(backend: "Backend", artifact: Artifact) -> None:
    """Compute the probe for this CPU and compare: the one check of publisher, readiness and tests.

    Raises ArtifactError if shapes differ or a logit is further from the expected one than the manifest's tolerance.
    """
    probe = probe_here(artifact)
    for images, expected in read_probe(artifact):
        _check(backend, artifact.file(probe.file), probe.tolerance, images, expected)


def _check(
    backend: "Backend", path: Path, tolerance: float, images: NDArray[np.uint8], expected: NDArray[np.float32]
) -> None:
    try:
        logits = backend.infer(images)
    except Exception as error:  # engines raise whatever a model of other shapes leads them to
        raise ArtifactError(f"{path}: {backend.engine} cannot compute it: {brief(error)}") from error
    if logits.shape != expected.shape:
        raise ArtifactError(f"{path}: expected logits {expected.shape}, {backend.engine} computed {logits.shape}")
    with np.errstate(all="ignore"):
        difference = float(np.abs(logits - expected).max())
    if not difference <= tolerance:  # written so that NaN fails too
        raise ArtifactError(
            f"{path}: {backend.engine} is off by {difference:.3g}, more than the {tolerance:.3g} allowed"
        )


def _names() -> Iterator[tuple[str, str]]:
    """Names of the arrays of each pair."""
    return ((f"input{number}", f"logits{number}") for number in itertools.chain([""], itertools.count(1)))


def _probe(artifact: Artifact, name: str) -> list[Pair]:
    path, manifest = artifact.file(name), artifact.manifest
    data, row = artifact.content(name), manifest.output.shape[1:]
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            pairs = [
                (_array(archive, one, np.uint8, shape), _array(archive, other, np.float32, row))
                for (one, other), shape in zip(_names(), manifest.images, strict=False)
            ]
    except Exception as error:  # zipfile and NumPy raise whatever damaged bytes lead them to
        raise ArtifactError(f"{path} is not a probe with the arrays input and logits: {brief(error)}") from error
    for images, logits in pairs:
        if not np.isfinite(logits).all():
            raise ArtifactError(f"{path} holds logits that are no finite numbers, so the model cannot be checked")
        if len(images) != len(logits) or len(images) == 0:
            raise ArtifactError(f"{path} must hold input and logits of the same length, at least 1")
    return pairs


def _array(archive: zipfile.ZipFile, name: str, dtype: DTypeLike, row: tuple[int | str, ...]) -> NDArray[Any]:
    """An array (n, *row) of a probe; raises ValueError, also for one that would be too large, before it is unpacked."""
    member = archive.getinfo(f"{name}.npy")
    if member.file_size > PROBE_BYTES or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name} has more than {PROBE_BYTES} bytes, or is compressed otherwise than by deflate")
    with archive.open(member) as stream:
        data = stream.read(member.file_size)  # no more, whatever the compressed bytes hold
    array: NDArray[Any] = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    if array.dtype != dtype or not _fits(array.shape[1:], row):
        raise ValueError(f"{name} must be {np.dtype(dtype)} of rows {row}")
    return array


def _fits(shape: tuple[int, ...], wanted: tuple[int | str, ...]) -> bool:
    """Whether `shape` is the wanted one; a name stands for any size."""
    return len(shape) == len(wanted) and all(
        isinstance(size, str) or size == found for found, size in zip(shape, wanted, strict=True)
    )
