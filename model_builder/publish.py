"""The sole writer of artifacts/: written aside, checked through the serving code, measured, then exchanged."""

import ctypes
import datetime
import errno
import importlib.metadata
import os
import shutil
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from model_builder import evaluate
from model_builder.candidates import Candidate
from model_builder.plates.kinds import ALPHABET, GRAMMAR
from model_builder.train.data import Crops, validation_set
from service import artifact as contract
from service.artifact import (
    Artifact,
    BackendName,
    Measured,
    Origin,
    Probe,
    Provenance,
    Reads,
    Score,
    Tensor,
)
from service.backends import Backend, load

_PROBE_PLATES = 8
_DISTRIBUTIONS: Final[dict[BackendName, str]] = {
    "torch": "torch",
    "onnxruntime": "onnxruntime",
    "tvm": "apache-tvm",
}  # what pip calls each engine
_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of renameat2(2)


@dataclass(frozen=True)
class Gate:
    """The allowed loss: points of accuracy on `crops` that a variant may lie below `baseline`."""

    baseline: Artifact
    crops: Crops
    max_loss: float = 0.3

    @cached_property
    def reference(self) -> Score:
        """What the baseline reads."""
        backend = load(self.baseline)
        score = evaluate.accuracy(self.baseline, backend, self.crops)
        backend.close()
        return score

    def check(self, score: Score, library: str = "") -> None:
        """Raise Refused where `score`, reached on the same crops, is too far below the baseline's.

        `library` names the level of the library that reached it, where it is not the one that is served here.
        """
        loss = 100 * (self.reference.exact - score.exact) / score.total
        if loss > self.max_loss:
            subject = f"the library for {library} " if library else ""
            raise Refused(
                f"{subject}reads {score.exact} of {score.total} rendered plates, {self.baseline.manifest.variant} "
                f"{self.reference.exact}: {loss:.2f} points lost, {self.max_loss:.2f} allowed (--max-loss)"
            )


class Refused(ValueError):
    """A model that loses too much accuracy to be published; the message holds the figures."""


def publish(
    root: Path,
    candidate: Candidate,
    sets: dict[str, Crops],
    gate: Gate | None = None,
    older: Artifact | None = None,
) -> Artifact:
    """Publish as `root`/variant what has proved equal through the serving code and passed the gate.

    Of several libraries, each that this CPU can run has to; the figures are those of the one that it would be served.
    `sets` holds the set "rendered", which the gate compares on. `older`, the artifact in that place, stays and is
    returned where the new one would only tell another day and other times. Raises ArtifactError when a logit differs
    from the candidate's reference by more than the tolerance, Refused by the gate; either leaves an older artifact as
    it was.
    """
    aside = root / f".{candidate.variant}.new"
    _remove(aside)
    aside.mkdir(parents=True)
    try:
        written = contract.write(aside, _write_files(aside, candidate))
        with closing(load(written)) as backend:
            contract.check_probe(backend, written)
            measured = _measured(written, backend, candidate, sets, gate)
            written = contract.write(aside, written.reader.model_copy(update={"measured": measured}))
            kept = older if older is not None and _unchanged(older, written) else None
            if kept is not None:
                contract.check_probe(backend, kept)
        if kept is None:
            _replace(aside, root / candidate.variant)
    finally:
        _remove(aside)
    return kept or contract.read(root / candidate.variant)


def _write_files(folder: Path, candidate: Candidate) -> Reads:
    """Write the model and its probes, and describe them."""
    images = validation_set(_PROBE_PLATES).images
    logits = candidate.logits(images)
    candidate.write(folder)
    contract.write_probe(folder, images, logits)
    for file, compute in candidate.others.items():
        contract.write_probe(folder, images, compute(images), file)
    return Reads(
        variant=candidate.variant,
        version=f"{importlib.metadata.version('lpr')}+{candidate.digest}",
        backend=candidate.backend,
        input=Tensor(
            dtype="uint8", shape=("N", *images.shape[1:]), description="BGR crop of one plate, resized; not normalized"
        ),
        output=Tensor(dtype="float32", shape=("N", *logits.shape[1:]), description="CTC logits, blank last"),
        alphabet=ALPHABET,
        blank=len(ALPHABET),
        grammar=GRAMMAR,
        max_batch=candidate.max_batch,
        probe=Probe(tolerance=candidate.tolerance),
        provenance=_provenance(candidate.origin, candidate.backend),
        libraries=candidate.libraries,
    )


def _provenance(origin: Origin, backend: BackendName) -> Provenance:
    names = dict.fromkeys(("torch", "numpy", "opencv-python-headless", _DISTRIBUTIONS[backend]))
    return Provenance(
        **dict(origin),
        commit=evaluate.commit(40),
        created=datetime.datetime.now(datetime.UTC).replace(microsecond=0),
        libraries={name: importlib.metadata.version(name) for name in names},
    )


def _measured(
    written: Artifact, backend: Backend, candidate: Candidate, sets: dict[str, Crops], gate: Gate | None
) -> Measured:
    """Figures of what was written, through the serving code. Raises Refused where the gate does not let it pass."""
    accuracy = {name: evaluate.accuracy(written, backend, crops) for name, crops in sets.items()}
    if gate is not None:
        gate.check(accuracy["rendered"])
    _check_other_libraries(written, gate)
    return Measured(
        accuracy=accuracy,
        latency_ms=evaluate.latency(backend, threads=1, size=written.reader.size),
        size_bytes=sum(path.stat().st_size for path in written.folder.iterdir()),
        parameters=candidate.parameters,
        multiply_adds=candidate.multiply_adds,
        machine=evaluate.machine(),
    )


def _check_other_libraries(written: Artifact, gate: Gate | None) -> None:
    """Run each library that this CPU can run beside the one that it is served, alone: its probe and the gate."""
    served = contract.library_here(written)
    for library in written.manifest.libraries:
        alone = replace(written, manifest=written.manifest.model_copy(update={"libraries": (library,)}))
        if contract.library_here(alone) is None:
            print(f"{library.level}: this CPU lacks what it needs, so the library was not run")
        elif library != served:
            backend = load(alone)
            contract.check_probe(backend, alone)
            if gate is not None:
                score = evaluate.accuracy(alone, backend, gate.crops)
                print(f"{library.level}: {score.exact} of {score.total} rendered plates read")
                gate.check(score, library.level)
            backend.close()


def _unchanged(old: Artifact, new: Artifact) -> bool:
    """Whether `old` holds the same model, byte by byte, says the same of it, and reads what `new` reads.

    Day, commit, libraries and times are not compared, nor are probes: on another CPU their logits end in other bits.
    """

    def told(artifact: Artifact) -> dict[str, Any]:
        manifest = artifact.manifest
        probes = {probe.file for probe in manifest.probes}
        files = {name: value for name, value in manifest.files.items() if name not in probes}
        told = manifest.model_dump(exclude={"files", "measured", "provenance"})
        return told | {"files": files} | manifest.provenance.model_dump(include=set(Origin.model_fields))

    was, now = old.manifest.measured, new.manifest.measured
    assert now is not None
    return told(old) == told(new) and was is not None and was.accuracy.items() >= now.accuracy.items()


def _replace(new: Path, target: Path) -> None:
    """Put `new` where `target` is, which is at `new` then or gone: a reader finds the old folder or the new one.

    In one step on Linux. Elsewhere, and on file systems that cannot exchange folders (NFS), there is no folder for the
    moment between two renames; the server looks again where it meets that.
    """
    old = target.with_name(f".{target.name}.old")
    _remove(old)
    if not os.path.lexists(target):
        new.rename(target)
    elif not _exchange(new, target):
        target.rename(old)
        new.rename(target)
        _remove(old)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two paths in one step; False where that cannot be done here."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
        return False
    raise OSError(number, os.strerror(number), str(other))


def _remove(path: Path) -> None:
    """Remove a folder, or a link to one, where there is any."""
    if path.is_symlink():
        path.unlink()
    shutil.rmtree(path, ignore_errors=True)
