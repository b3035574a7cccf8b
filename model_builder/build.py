"""From one artifact to others: each variant's stage, and all of them in order.

A stage takes the weights of the variant that is already published, where that was made of the same source with the same
settings; it is then exported, checked and measured anew, but not trained again.
"""

import hashlib
import itertools
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import torch

from model_builder import candidates, publish
from model_builder.compress import prune, quantize
from model_builder.compress.prune import PruneConfig
from model_builder.compress.quantize import QuantizeConfig
from model_builder.graph import onnx
from model_builder.tasks import READING, Examples, Finding, Task, task_of
from model_builder.train.data import development_set
from model_builder.train.loop import Interrupted, load_network
from service import artifact as contract
from service.artifact import Artifact, Origin, Score, Source, provenance
from service.artifact.provenance import Settings
from service.backends.onnxruntime import MODEL
from service.errors import ArtifactError

BASELINE: Final = "baseline"

Maker = Callable[..., candidates.Candidate]
Made = TypeVar("Made", provenance.Pruned, provenance.Quantized, provenance.Calibrated)


@dataclass(frozen=True)
class Stage:
    """How `variant` is made of the artifact `source`.

    `make` takes the source, the variant's name, a folder to train in, and the published artifact whose weights may be
    taken instead, or None.
    """

    variant: str
    source: str
    make: Callable[[Artifact, str, Path, Artifact | None], candidates.Candidate]


def pruned(
    source: Artifact,
    variant: str,
    folder: Path,
    published: Artifact | None = None,
    *,
    config: PruneConfig,
    note: str | None = None,
    teacher: Path | None = None,
    **training: Any,
) -> candidates.Candidate:
    """`source` with fewer channels, distilled from the network in the file `teacher` or from `source`.

    `note` is kept in the manifest; `training` are more fields of TrainConfig.
    """
    settings = asdict(config)
    if published and (made := _taken(published, source, provenance.Pruned, settings)):
        network, note = candidates.load_network(published), published.manifest.provenance.note
    else:
        crops = development_set(config.plates)
        given = load_network(teacher) if teacher else None
        network, cuts = prune.prune_network(folder, candidates.load_network(source), config, crops, given, **training)
        made = provenance.Pruned(settings=settings, cuts=tuple(cuts))
    origin = Origin(seed=10, source=Source.of(source.manifest), made=made, note=note)
    return candidates.torch_candidate(variant, network, origin, task_of(source.manifest))


def quantized(
    source: Artifact, variant: str, folder: Path, published: Artifact | None = None, *, config: QuantizeConfig
) -> candidates.Candidate:
    """`source` in integers."""
    if published and (made := _taken(published, source, provenance.Quantized, asdict(config))):
        network = onnx.read(published.file(MODEL))
    else:
        done = quantize.quantize(folder, candidates.load_network(source), config)
        network, made = done.network, done.record()
    origin = Origin(seed=config.seed, source=Source.of(source.manifest), made=made)
    return candidates.onnx_candidate(variant, network, origin, task_of(source.manifest))


def calibrated(
    source: Artifact, variant: str, _folder: Path, published: Artifact | None = None, *, calibration: int = 512
) -> candidates.Candidate:
    """`source`, a float32 ONNX artifact, in integers: ranges are the largest values on so many rendered images."""
    settings: Settings = {"calibration": calibration}
    if published and (made := _taken(published, source, provenance.Calibrated, settings)):
        network = onnx.read(published.file(MODEL))
    else:
        images = task_of(source.manifest).development(calibration)
        network, ranges = quantize.calibrated(onnx.read(source.file(MODEL)), images)
        made = provenance.Calibrated(settings=settings, ranges=ranges)
    was = source.manifest.provenance
    origin = Origin(seed=was.seed, source=Source.of(source.manifest), network=was.network, made=made)
    return candidates.onnx_candidate(variant, network, origin, _task(source, calibrated))


def compiled(
    source: Artifact,
    variant: str,
    _folder: Path,
    _published: Artifact | None = None,
    *,
    levels: Sequence[str] = (),
    passes: str = "prepacked",
) -> candidates.Candidate:
    """`source` compiled by TVM for CPUs of `levels` (default: all that are published), with the tuning records."""
    from model_builder.compile import compiler  # TVM takes seconds to import, which no other command needs to wait for

    made = tuple(map(compiler.level, levels))
    return compiler.candidate(source, variant, made, compiler.stage(passes), task=_task(source, compiled))


STAGES: Final = (
    Stage("pruned", BASELINE, partial(pruned, config=PruneConfig())),
    Stage("quantized", BASELINE, partial(quantized, config=QuantizeConfig())),
    # Trained as the pruned network was, without plates of Chinese characters only.
    Stage("pruned-quantized", "pruned", partial(quantized, config=QuantizeConfig(drill=0.0))),
    Stage("tvm", BASELINE, compiled),
    Stage("tvm-fast", "pruned-quantized", compiled),
)
# Variants of other networks, by the one that each is made of and held to; the refiner's before the finder's, because a
# finder is measured with its refiner.
OTHER_STAGES: Final = {
    "world-baseline": (
        Stage("world-quantized", "world-baseline", partial(quantized, config=QuantizeConfig(calibrated_loss=0.3))),
        Stage("world", "world-quantized", compiled),
    ),
    "refiner": (
        Stage("refiner-quantized", "refiner", calibrated),
        Stage("refiner-fast", "refiner-quantized", compiled),
    ),
    "finder": (
        Stage("finder-quantized", "finder", calibrated),
        Stage("finder-fast", "finder-quantized", compiled),
    ),
}


def every_stage() -> tuple[Stage, ...]:
    """The stages of all networks."""
    return (*STAGES, *itertools.chain.from_iterable(OTHER_STAGES.values()))


def _task(source: Artifact, make: "Maker") -> Task:
    """The task of what `make` makes of `source`. A finder's refiner is what `make` makes of the source's."""
    task = task_of(source.manifest)
    return replace(task, refiner=name_of(make, task.refiner)) if isinstance(task, Finding) else task


def name_of(make: Maker, source: str) -> str:
    """What the variant that `make` makes of `source` is called, if it is not given a name."""
    known = (s.variant for s in every_stage() if s.source == source and getattr(s.make, "func", s.make) is make)
    usual = {compiled: f"tvm-{source}", pruned: f"{source}-pruned"}
    return next(known, usual.get(make, f"{source}-quantized"))


def build(
    stages: Sequence[Stage],
    root: Path,
    folder: Path,
    sets: Mapping[str, Examples],
    max_loss: float,
    *,
    retrain: bool = False,
    reference: str = BASELINE,
) -> list[str]:
    """Make `stages` and publish them below `root`; returns why each of those that were not published was not.

    None is published that reads over `max_loss` points less of the rendered plates than the variant `reference`.
    A model that is already published, byte by byte, and reads what it read then is left as it is. `retrain` takes no
    weights from what is published. A build that was interrupted, in training too, goes on where it was: `folder`, which
    belongs to builds alone, holds the trainings and, until a build has reached its end, which stages are done.
    """
    compared = contract.find(root, reference)
    gate = publish.Gate(compared, sets["rendered"], max_loss)
    identity = {
        "baseline": _state_of(compared),
        "artifacts": str(root.resolve()),
        "sets": {name: examples.digest() for name, examples in sets.items()},
        "max_loss": max_loss,
        "retrain": retrain,
    }
    done = _Done(folder / "done.json", identity)
    if retrain and not done.resumed:
        shutil.rmtree(folder, ignore_errors=True)
    done.save()
    refusals = []
    for number, stage in enumerate(stages, start=1):
        title, started = f"[{number}/{len(stages)}] {stage.variant}", time.monotonic()
        try:
            if done.holds(root, stage):
                print(f"{title}: done before the interruption", flush=True)
                continue
            source, known = _inputs(root, stage, retrain)
            print(f"{title}: of {stage.source} {source.manifest.version}", flush=True)
            use_all_cores()
            # Weights in the name: a training of another source is not gone on with.
            place = folder / f"{stage.variant}-{Source.of(source.manifest).weights}"
            candidate = stage.make(source, stage.variant, place, known)
            published = publish.publish(root, candidate, sets, gate, known)
            print_figures(published)
            done.add(root, stage)
            what = "unchanged" if published is known else "published"
            print(f"{title}: {what}, after {time.monotonic() - started:.0f} s", flush=True)
        except (publish.Refused, ArtifactError) as error:
            refusals.append(f"{stage.variant}: {error}")
            print(f"{title}: not published: {error}", flush=True)
        except KeyboardInterrupt as error:
            raise Interrupted(f"stopped in {stage.variant}; the same command goes on there") from error
    done.path.unlink()
    return refusals


def _inputs(root: Path, stage: Stage, retrain: bool) -> tuple[Artifact, Artifact | None]:
    """A stage's source, and what is published of the stage itself."""
    variants = contract.variants(root)
    if stage.source not in variants:
        raise ArtifactError(f"there is no artifact of {stage.source}, which it is made of")
    known = None if retrain or stage.variant not in variants else contract.find(root, stage.variant)
    return contract.find(root, stage.source), known


def use_all_cores() -> None:
    """Let torch compute on every core; where an artifact was measured, that took a single thread."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))


class _Done:
    """The stages that an interrupted build has done, with the state of their source and of what they published."""

    def __init__(self, path: Path, identity: dict[str, object]) -> None:
        self.path, self.identity = path, identity
        saved = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        self.resumed = saved.get("identity") == identity
        self.stages: dict[str, list[str]] = saved["stages"] if self.resumed else {}

    def holds(self, root: Path, stage: Stage) -> bool:
        """Whether the stage is done, and neither its source nor what it published has changed since."""
        there = {stage.source, stage.variant} <= set(contract.variants(root))
        return there and self.stages.get(stage.variant) == self._states(root, stage)

    def add(self, root: Path, stage: Stage) -> None:
        self.stages[stage.variant] = self._states(root, stage)
        self.save()

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        aside = self.path.with_suffix(".new")
        aside.write_text(json.dumps({"identity": self.identity, "stages": self.stages}, indent=1), encoding="utf-8")
        aside.replace(self.path)

    @staticmethod
    def _states(root: Path, stage: Stage) -> list[str]:
        return [_state_of(contract.find(root, name)) for name in (stage.source, stage.variant)]


def _state_of(artifact: Artifact) -> str:
    """The manifest's sha256: as it names that of each file, no byte of the artifact can change without it."""
    return hashlib.sha256((artifact.folder / contract.MANIFEST).read_bytes()).hexdigest()


def _taken(published: Artifact, source: Artifact, kind: type[Made], settings: dict[str, Any]) -> Made | None:
    """How `published` was made, where that was of the weights of `source` with `settings`: then its own are taken.

    A setting that it lacks is newer than it, and had the value of today's default.
    """
    was = published.manifest.provenance
    same = was.source is not None and was.source.weights == Source.of(source.manifest).weights
    if not (same and isinstance(was.made, kind) and {**settings, **was.made.settings} == settings):
        return None
    print(f"its weights are those of {published.folder}, made of the same source with the same settings", flush=True)
    return was.made


def print_figures(published: Artifact) -> None:
    """What was measured of an artifact when it was published and, for an integer network, the kernel of each layer."""
    measured = published.manifest.measured
    assert measured is not None
    for name, score in measured.accuracy.items():
        rendered, right = name == publish.RENDERED, task_of(published.manifest).right
        print_score(name, score, *(measured.corner_error, measured.false_alarms) if rendered else (), right=right)
    print(
        f"{measured.parameters:,} parameters, {measured.multiply_adds / 1e6:.1f} million multiply-adds, "
        f"{measured.size_bytes / 1e6:.2f} MB, {measured.latency_ms.median:.2f} ms on {measured.machine}"
    )
    if published.manifest.backend == "onnxruntime":
        for layer, kernel in quantize.kernels(published).items():
            print(f"{layer}: {kernel}")


def print_score(
    name: str,
    score: Score,
    corner_error: float | None = None,
    false_alarms: float | None = None,
    *,
    right: str = READING.right,
) -> None:
    """One line of an accuracy, and of what else was measured on the same examples."""
    share, low, high = (100 * value for value in (score.exact / score.total, score.low, score.high))
    corners = "" if corner_error is None else f", corners off by {corner_error:.4f} of the plate's width"
    false = "" if false_alarms is None else f", {false_alarms:.3f} false alarms an image"
    print(f"{name}: {score.exact} of {score.total} {right}, {share:.1f} % ({low:.1f} to {high:.1f}){corners}{false}")
