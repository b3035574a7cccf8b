"""The networks that find plates, beside other engines on the same weights: what they find, and how fast they are."""

from collections.abc import Callable, Container, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Final, Literal

from model_builder.measure import peers, serving
from model_builder.measure.contest import contest
from model_builder.measure.parts import Parts, identity
from model_builder.measure.peers import Contestant
from model_builder.networks.refiner import FORM
from model_builder.tasks import REFINING, task_of
from model_builder.tasks.finding import RenderedScenes
from model_builder.tasks.labelled_scenes import LabelledScenes
from model_builder.train import labels
from model_builder.train.labels import DataError
from service import artifact as contract
from service.artifact import Artifact
from service.backends.onnxruntime import MODEL

Draw = Callable[[], Any]  # examples of a set

SCENES: Final = 300  # rendered ones that a finder is measured on
CROPS: Final = 1000  # rendered ones that a refiner is measured on


@dataclass(frozen=True)
class Subject:
    """The networks of a task: the names of those that others are made of, in float32 and in int8, and what is timed:
    sizes (height, width) of images, and batches of them."""

    task: Literal["find", "refine"]
    floats: str
    integers: str
    sizes: tuple[tuple[int, int], ...]
    batches: tuple[int, ...]


SUBJECTS: Final = (
    Subject("find", "finder", "finder-quantized", ((384, 640), (544, 960), (224, 224)), (1,)),
    Subject("refine", "refiner", "refiner-quantized", (FORM.size,), (1, 8)),
)


def measure(parts: Parts, artifacts: Path, real: Sequence[Path], rounds: int) -> dict[str, Any]:
    """Times and figures by task, of the tasks of which both networks are published."""
    found: dict[str, Any] = {}
    for subject in published(artifacts):
        found[subject.task] = timed = times(parts, artifacts, subject, rounds)
        timed["figures"] = _figures(parts, artifacts, subject, real, timed["times"])
    return found


def published(artifacts: Path) -> list[Subject]:
    """The subjects whose networks are there."""
    there = contract.variants(artifacts)
    return [subject for subject in SUBJECTS if subject.floats in there and subject.integers in there]


def notes(found: dict[str, Any]) -> list[str]:
    """What was left out, and why."""
    missing = [
        f"`{subject.floats}` was not measured: it and `{subject.integers}` are not published."
        for subject in SUBJECTS
        if subject.task not in found
    ]
    return missing + [
        f"{name} was left out ({task}): {reason}"
        for task, facts in found.items()
        for name, reason in facts["left_out"].items()
    ]


def contestants(artifacts: Path, subject: Subject) -> list[Contestant]:
    """Every published variant of the task, and other engines with the same weights."""
    ours = [Contestant(name, "artifact", artifacts / name) for name in _of_task(artifacts, subject.task)]
    floats, integers = (contract.find(artifacts, name).file(MODEL) for name in (subject.floats, subject.integers))
    return [*ours, *peers.of_floats(floats), *peers.of_integers(integers)]


def times(parts: Parts, artifacts: Path, subject: Subject, rounds: int) -> dict[str, Any]:
    """Of each contestant that ran at every size: times, engine and bytes of the file; of the others, the reason."""
    playing = contestants(artifacts, subject)
    versions = {contestant.name: _identity(artifacts, contestant, subject) for contestant in playing}
    found: dict[str, Any] = {"times": {}, "engine": {}, "left_out": {}, "bytes": {}}
    for size in subject.sizes:
        label = f"{size[1]}x{size[0]}"
        key = {"versions": versions, "rounds": rounds, "batches": subject.batches}
        outcome = parts.get(f"{subject.task} contest, {label}", key, partial(_contest, playing, size, subject, rounds))
        for name, results in outcome["times"].items():
            found["times"].setdefault(name, []).extend({**result, "size": label} for result in results)
        found["engine"] |= outcome["engines"]
        found["left_out"] |= outcome["left_out"]
    for name in found["left_out"]:
        found["times"].pop(name, None)
    found["bytes"] = {contestant.name: _bytes(contestant) for contestant in playing}
    found["ours"] = [contestant.name for contestant in playing if contestant.kind == "artifact"]
    return found


def _contest(playing: Sequence[Contestant], size: tuple[int, int], subject: Subject, rounds: int) -> dict[str, Any]:
    sized = [replace(contestant, size=size) for contestant in playing]
    return asdict(contest(sized, 1, subject.batches, rounds=rounds))


def _of_task(artifacts: Path, task: str) -> list[str]:
    return [name for name in contract.variants(artifacts) if contract.find(artifacts, name).manifest.task == task]


def _source(artifacts: Path, contestant: Contestant, subject: Subject) -> Artifact:
    """The artifact that says how a contestant is used."""
    name = subject.integers if contestant.name.endswith("int8") else subject.floats
    return contract.find(artifacts, contestant.name if contestant.kind == "artifact" else name)


def _identity(artifacts: Path, contestant: Contestant, subject: Subject) -> str | None:
    return identity(artifacts, _source(artifacts, contestant, subject).manifest.variant)


def _bytes(contestant: Contestant) -> int:
    """Of the file that is loaded."""
    if contestant.kind == "artifact":
        return serving.loaded_bytes(contract.read(contestant.model))
    return contestant.model.stat().st_size


def _figures(
    parts: Parts, artifacts: Path, subject: Subject, real: Sequence[Path], ran: Container[str]
) -> dict[str, Any]:
    """Figures of each contestant that `ran` on each set, through the serving code."""
    found: dict[str, Any] = {}
    sets = _sets(subject, real)
    for contestant in (one for one in contestants(artifacts, subject) if one.name in ran):
        artifact = _source(artifacts, contestant, subject)
        key = {"version": _identity(artifacts, contestant, subject), "refiner": _refiner(artifacts, artifact)}
        for name, (digest, draw) in sets.items():
            part = f"{subject.task}, {contestant.name} on {name}"
            score = parts.get(part, {**key, "set": digest}, partial(_score, contestant, artifact, draw))
            found.setdefault(contestant.name, {})[name] = score
    return found


def _refiner(artifacts: Path, artifact: Artifact) -> str | None:
    """Digest of the refiner that belongs to a finder."""
    manifest = artifact.manifest
    return identity(artifacts, manifest.refiner) if manifest.task == "find" else None


def _sets(subject: Subject, real: Sequence[Path]) -> dict[str, tuple[str, Draw]]:
    """Sets by name: what tells them from others, and their examples. Sets without corners are left out.

    Rendered ones are drawn when they are first asked for, and kept.
    """
    if subject.task == "refine":
        return {"rendered": (f"{CROPS} rendered crops", cache(lambda: REFINING.sets((), CROPS)["rendered"]))}
    scenes = RenderedScenes(SCENES)
    found: dict[str, tuple[str, Draw]] = {"rendered": (scenes.digest(), cache(lambda: list(scenes)))}
    for name, folder in labels.named(real, "rendered").items():
        try:
            photographs = LabelledScenes(folder)
        except DataError:  # a set of crops
            continue
        found[name] = (photographs.digest(), partial(iter, photographs))
    return found


def _score(contestant: Contestant, artifact: Artifact, draw: Draw) -> dict[str, Any]:
    backend = peers.engine(contestant, threads=1)
    measured = task_of(artifact.manifest).measure(artifact, backend, draw())
    backend.close()
    return {**measured.score.model_dump(), "corners": measured.corner_error, "false_alarms": measured.false_alarms}
