"""The sole writer of artifacts/: written aside, checked through the serving code, measured, then exchanged."""

import ctypes
import datetime
import errno
import importlib.metadata
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model_builder import evaluate
from model_builder.candidates import Candidate
from model_builder.tasks import task_of
from service import artifact as contract
from service.artifact import (
    PROBE,
    Artifact,
    BackendName,
    Description,
    Measured,
    Origin,
    Probe,
    Provenance,
    Score,
)
from service.backends import Backend, load

RENDERED: Final = "rendered"  # the set of validation seeds
_DISTRIBUTIONS: Final[dict[BackendName, str]] = {
    "torch": "torch",
    "onnxruntime": "onnxruntime",
    "tvm": "apache-tvm",
}  # what pip calls each engine
_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of renameat2(2)


@dataclass(frozen=True)
class Gate:
    """The allowed loss: points of accuracy on the rendered `examples` that a variant may lie below `baseline`."""

    baseline: Artifact
    examples: Any
    max_loss: float = 0.3

    @cached_property
    def reference(self) -> Score:
        """What the baseline reads, or finds."""
        with closing(load(self.baseline)) as backend:
            return task_of(self.baseline.manifest).measure(self.baseline, backend, self.examples).score

    def check(self, score: Score, library: str = "") -> None:
        """Raise Refused where `score`, reached on the same examples, is too far below the baseline's.

        `library` names the level of the library that reached it, where it is not the one that is served here.
        """
        loss = 100 * (self.reference.exact - score.exact) / score.total
        if loss > self.max_loss:
            subject = f"the library for {library} " if library else ""
            verb, examples = (task := task_of(self.baseline.manifest)).verb, task.examples
            raise Refused(
                f"{subject}{verb} {score.exact} of {score.total} rendered {examples}, "
                f"{self.baseline.manifest.variant} {self.reference.exact}: {loss:.2f} points lost, {self.max_loss:.2f} "
                "allowed (--max-loss)"
            )


class Refused(ValueError):
    """A model that loses too much accuracy to be published; the message holds the figures."""


def publish(
    root: Path,
    candidate: Candidate,
    sets: Mapping[str, Any],
    gate: Gate | None = None,
    older: Artifact | None = None,
) -> Artifact:
    """Publish as `root`/variant what has proved equal through the serving code and passed the gate.

    Of several libraries, each that this CPU can run has to; the figures are those of the one that it would be served.
    `sets` holds examples of the candidate's task; the gate compares on the set "rendered". `older`, the artifact in
    that place, stays and is returned where the new one would only tell another day and other times. Raises
    ArtifactError when a logit differs from the candidate's reference by more than the tolerance, Refused by the gate;
    either leaves an older artifact as it was.
    """
    aside = root / f".{candidate.variant}.new"
    _remove(aside)
    aside.mkdir(parents=True)
    try:
        written = contract.write(aside, _write_files(aside, candidate))
        with closing(load(written)) as backend:
            contract.check_probe(backend, written)
            fitted = candidate.task.calibrate(written, backend, sets.get(RENDERED))
            written = contract.write(aside, written.manifest.model_copy(update=fitted))
            measured = _measured(written, backend, candidate, sets, gate)
            written = contract.write(aside, written.manifest.model_copy(update={"measured": measured}))
            kept = older if older is not None and _unchanged(older, written) else None
            if kept is not None:
                contract.check_probe(backend, kept)
        if kept is None:
            _replace(aside, root / candidate.variant)
    finally:
        _remove(aside)
    return kept or contract.read(root / candidate.variant)


def _write_files(folder: Path, candidate: Candidate) -> Description:
    """Write the model and its probes, and describe them."""
    images = candidate.task.probe()
    outputs = [candidate.logits(batch) for batch in images]
    candidate.write(folder)
    _write_probe(folder, images, outputs)
    for file, compute in candidate.others.items():
        _write_probe(folder, images, [compute(batch) for batch in images], file)
    return candidate.task.describe(
        outputs,
        variant=candidate.variant,
        version=f"{importlib.metadata.version('lpr')}+{candidate.digest}",
        backend=candidate.backend,
        max_batch=candidate.max_batch,
        probe=Probe(tolerance=candidate.tolerance),
        provenance=_provenance(candidate.origin, candidate.backend),
        libraries=candidate.libraries,
    )


def _write_probe(
    folder: Path, images: Sequence[NDArray[np.uint8]], outputs: Sequence[NDArray[np.float32]], file: str = PROBE
) -> None:
    (first, expected), *more = zip(images, outputs, strict=True)
    contract.write_probe(folder, first, expected, file, more)


def _provenance(origin: Origin, backend: BackendName) -> Provenance:
    names = dict.fromkeys(("torch", "numpy", "opencv-python-headless", _DISTRIBUTIONS[backend]))
    return Provenance(
        **dict(origin),
        commit=evaluate.commit(40),
        created=datetime.datetime.now(datetime.UTC).replace(microsecond=0),
        libraries={name: importlib.metadata.version(name) for name in names},
    )


def _measured(
    written: Artifact, backend: Backend, candidate: Candidate, sets: Mapping[str, Any], gate: Gate | None
) -> Measured:
    """Figures of what was written, through the serving code. Raises Refused where the gate does not let it pass."""
    figures = {name: candidate.task.measure(written, backend, examples) for name, examples in sets.items()}
    if gate is not None:
        gate.check(figures[RENDERED].score)
    _check_other_libraries(written, candidate, gate)
    height, width, _ = written.manifest.images[0]
    rendered = figures.get(RENDERED)
    return Measured(
        accuracy={name: each.score for name, each in figures.items()},
        corner_error=rendered.corner_error if rendered else None,
        false_alarms=rendered.false_alarms if rendered else None,
        latency_ms=evaluate.latency(backend, threads=1, size=(int(height), int(width))),
        size_bytes=sum(path.stat().st_size for path in written.folder.iterdir()),
        parameters=candidate.parameters,
        multiply_adds=candidate.multiply_adds,
        machine=evaluate.machine(),
    )


def _check_other_libraries(written: Artifact, candidate: Candidate, gate: Gate | None) -> None:
    """Run each library that this CPU can run beside the one that it is served, alone: its probe and the gate."""
    served, task = contract.library_here(written), candidate.task
    for library in written.manifest.libraries:
        alone = replace(written, manifest=written.manifest.model_copy(update={"libraries": (library,)}))
        if contract.library_here(alone) is None:
            print(f"{library.level}: this CPU lacks what it needs, so the library was not run")
        elif library != served:
            backend = load(alone)
            contract.check_probe(backend, alone)
            if gate is not None:
                score = task.measure(alone, backend, gate.examples).score
                print(f"{library.level}: {task.verb} {score.exact} of {score.total} rendered {task.examples}")
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
