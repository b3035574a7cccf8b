"""The comparison of all variants, measured through the serving code: its page, its figure and README's table.

Each part that is finished is kept in the folder `work`, so that a report that was stopped goes on where it was.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from model_builder import candidates, evaluate
from model_builder.compress import prune, quantize
from model_builder.graph import description, onnx
from model_builder.measure import blocks, figures, finders, peers, serving, tables
from model_builder.measure.contest import contest
from model_builder.measure.parts import Parts, identity, installed_engines
from model_builder.measure.peers import BASELINE, QUANTIZED, Contestant
from model_builder.measure.tables import POOLED, RENDERED
from model_builder.train import labels
from model_builder.train.data import Crops
from service import artifact as contract
from service.artifact import Artifact, Library
from service.backends import load
from service.backends.onnxruntime import MODEL
from service.backends.tvm import cpu_flags
from service.errors import ArtifactError

BATCHES = (1, 8, 32)
THREADS = (1, 2)
RAW = "report.json"  # in the folder of finished parts

_ABLATION_ROUNDS = 5  # its first rows take a second a plate


@dataclass(frozen=True)
class _Subjects:
    """The measurements of variants and of other contestants on the given sets."""

    artifacts: Path
    sets: Mapping[str, Crops]
    parts: Parts

    def artifact(self, name: str) -> Artifact:
        return contract.find(self.artifacts, name)

    def identity(self, name: str) -> str | None:
        return identity(self.artifacts, name)

    def variant(self, contestant: Contestant) -> dict[str, Any]:
        name, artifact = contestant.name, self.artifact(contestant.name)
        version = {"version": self.identity(name)}
        served = self.parts.get(f"serving {name}", version, partial(serving.measure, name, self.artifacts))
        facts = {**_facts(artifact), "accuracy": self._accuracy(contestant, artifact, name), "serving": served}
        source = compiled_from(artifact)
        if source is not None:
            compared = [self.identity(which) for which in (source.manifest.variant, name)]
            subject = {"sets": self._digests(), "versions": compared}
            facts["parity"] = self.parts.get(f"parity of {name}", subject, partial(parity, artifact, source, self.sets))
        return facts

    def kernels(self, name: str) -> Any:
        """The kernels of a compiled integer network, None of any other variant."""
        artifact = self.artifact(name)
        source = compiled_from(artifact)
        if source is None or source.manifest.backend != "onnxruntime":
            return None
        from model_builder.measure import roofline  # as in _ablation

        subject = {"version": self.identity(name)}
        return self.parts.get(f"kernels of {name}", subject, partial(roofline.profile, artifact, source))

    def other(self, contestant: Contestant) -> dict[str, Any]:
        size = contestant.model.stat().st_size if contestant.model.is_file() else None
        baseline = self.artifact(BASELINE)
        return {"accuracy": self._accuracy(contestant, baseline, BASELINE, QUANTIZED), "bytes": size}

    def _accuracy(self, contestant: Contestant, artifact: Artifact, *made_from: str) -> Any:
        subject = {"sets": self._digests(), "versions": [self.identity(name) for name in made_from]}
        measure = partial(accuracies, artifact, contestant, self.sets)
        return self.parts.get(f"accuracy of {contestant.name}", subject, measure)

    def _digests(self) -> dict[str, str]:
        return {name: crops.digest() for name, crops in self.sets.items()}


def measure(artifacts: Path, real: Sequence[Path], study: Path, work: Path, rounds: int) -> dict[str, Any]:
    """All figures of the report, as plain data. Takes half an hour; let nothing else run meanwhile."""
    photographs = labels.read_sets(real, RENDERED)
    sets = {**photographs, RENDERED: labels.read_set(evaluate.SHIPPED)}
    subjects = _Subjects(artifacts, sets, parts := Parts(work))
    variants, engines, attempts = peers.variants(artifacts), peers.peers(artifacts, work), peers.attempts(artifacts)
    versions = {variant.name: subjects.identity(variant.name) for variant in variants}
    timed = _timed(parts, [*variants, *engines, *attempts], versions, rounds)
    notes = [f"{name} was left out: {reason}" for name, reason in timed["left_out"].items()]
    if not photographs:
        notes.append("Photographs were not measured in this run: `--real FOLDER_OF_SETS` names them.")
    finding = finders.measure(parts, artifacts, real, rounds)
    notes += finders.notes(finding)
    baseline = subjects.artifact(BASELINE)
    ran = timed["times"]
    return {
        **_here(),
        "sets": {name: len(crops.texts) for name, crops in sets.items()},
        **timed,
        "variants": {variant.name: subjects.variant(variant) for variant in variants if variant.name in ran},
        "peers": {peer.name: subjects.other(peer) for peer in engines if peer.name in ran},
        "attempts": {attempt.name: subjects.other(attempt) for attempt in attempts if attempt.name in ran},
        "recipe": _recipe(study, baseline, notes),
        "dynamic": {"changed": quantize.dynamic(candidates.published_network(baseline))[0]},
        "ablation": _ablation(parts, baseline, work, notes),
        "kernels": {name: found for name in ran if name in versions and (found := subjects.kernels(name))},
        "finding": finding,
        "notes": notes,
        "measured": parts.measured,
    }


def _here() -> dict[str, Any]:
    """Where, and of what, a report is measured."""
    return {
        "machine": evaluate.machine(),
        "commit": evaluate.commit(),
        "cores": len(os.sched_getaffinity(0)),
        "engines": installed_engines(),
    }


def _timed(
    parts: Parts, contestants: Sequence[Contestant], versions: Mapping[str, str | None], rounds: int
) -> dict[str, Any]:
    """Times and engines of the contestants that ran with every number of threads; reasons of the others."""
    names = [contestant.name for contestant in contestants]
    times: dict[str, list[Any]] = {name: [] for name in names}
    engine: dict[str, str] = {}
    left_out: dict[str, str] = {}
    for threads in THREADS:
        outcome = parts.get(
            f"contest, threads {threads}",
            {"versions": versions, "contestants": names, "rounds": rounds},
            partial(_contest, contestants, threads, BATCHES, rounds),
        )
        for name, results in outcome["times"].items():
            times[name] += results
        engine |= outcome["engines"]
        left_out |= outcome["left_out"]
    if BASELINE in left_out:
        raise ArtifactError(f"the baseline, which all are compared with, did not run: {left_out[BASELINE]}")
    ran = {name: results for name, results in times.items() if name not in left_out}
    return {"times": ran, "engine": engine, "left_out": left_out}


def _contest(contestants: Sequence[Contestant], threads: int, batches: Sequence[int], rounds: int) -> dict[str, Any]:
    return asdict(contest(contestants, threads, batches, rounds=rounds))


def accuracies(artifact: Artifact, contestant: Contestant, sets: Mapping[str, Crops]) -> dict[str, Any]:
    """Exact match of a contestant on each set and on all photographs together; `artifact` says how to read logits."""
    backend = peers.engine(contestant, threads=1)
    scores = {name: evaluate.accuracy(artifact, backend, crops) for name, crops in sets.items()}
    backend.close()
    real = [score for name, score in scores.items() if name != RENDERED]
    if real:
        scores[POOLED] = evaluate.wilson(sum(s.exact for s in real), sum(s.total for s in real))
    return {name: score.model_dump() for name, score in scores.items()}


def _facts(artifact: Artifact) -> dict[str, Any]:
    """Figures that need no clock."""
    manifest = artifact.manifest
    assert manifest.measured is not None
    return {
        "version": manifest.version,
        "bytes": serving.loaded_bytes(artifact),
        "folder_bytes": sum(path.stat().st_size for path in artifact.folder.iterdir()),
        "parameters": manifest.measured.parameters,
        "nonzero": nonzero(artifact),
        "multiply_adds": manifest.measured.multiply_adds,
    }


def nonzero(artifact: Artifact) -> int | None:
    """Parameters that are not 0; of a compiled artifact those of its source, or None where that is gone."""
    match artifact.manifest.backend:
        case "torch":
            network = candidates.published_network(artifact)
            return sum(int(parameter.count_nonzero()) for parameter in network.parameters())
        case "onnxruntime":
            arrays = description.arrays(onnx.read(artifact.file(MODEL)))
            return sum(int(np.count_nonzero(a)) for name, a in arrays.items() if not name.endswith("scales"))
        case "tvm":
            source = compiled_from(artifact)
            return nonzero(source) if source else None


def compiled_from(artifact: Artifact) -> Artifact | None:
    """The source of a compiled artifact, or None if it is not in the same folder any more."""
    if artifact.manifest.backend != "tvm":
        return None
    named = artifact.manifest.provenance.source
    if named is None or named.variant not in contract.variants(artifact.folder.parent):
        return None
    source = contract.find(artifact.folder.parent, named.variant)
    return source if source.manifest.version == named.version else None


def parity(artifact: Artifact, source: Artifact, sets: Mapping[str, Crops]) -> dict[str, Any]:
    """How many texts `artifact` reads otherwise than `source`, per set, and the largest difference of a logit."""
    backends = [load(which) for which in (artifact, source)]
    texts, largest = {}, 0.0
    for name, crops in sets.items():
        logits = [backend.infer(crops.images) for backend in backends]
        read = [evaluate.read_texts(which, rows) for which, rows in zip((artifact, source), logits, strict=True)]
        texts[name] = sum(a != b for a, b in zip(*read, strict=True))
        largest = max(largest, float(np.abs(logits[0] - logits[1]).max()))
    return {"source": source.manifest.variant, "texts": texts, "logits": largest}


def _recipe(path: Path, baseline: Artifact, notes: list[str]) -> dict[str, Any] | None:
    """What `prune --study` wrote, with the stored size of the network that it began with."""
    if not path.exists():
        notes.append(f"Pruning by magnitude was not measured: `python -m model_builder prune --study {path}` does it.")
        return None
    study: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if study["source"] != baseline.manifest.version:
        notes.append(f"{path.name} is of baseline {study['source']}, not of {baseline.manifest.version}.")
    return {**study, "stored": prune.stored(candidates.published_network(baseline))}


def _ablation(parts: Parts, baseline: Artifact, work: Path, notes: list[str]) -> dict[str, Any] | None:
    """What each pass of the compiler brings, with the tuning records that there are."""
    from model_builder.compile import compiler, records  # TVM takes seconds to import

    level = next((level for level in compiler.LEVELS if cpu_flags().issuperset(level.needs)), None)
    files = sorted(records.RECORDS.glob("*.json"))
    if level is None or not files:
        lacks = "tuning records: `python -m model_builder compile --tune` makes them" if level else "a CPU with AVX2"
        notes.append(f"The compiler's ablation was not measured, for want of {lacks}.")
        return None
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    subject = {
        "version": baseline.manifest.version,
        "level": level.name,
        "records": digest,
        "stages": [*compiler.stages()],
    }
    found: dict[str, Any] = parts.get("ablation", subject, lambda: ablation(baseline, level.name, work / "ablation"))
    return found


def ablation(source: Artifact, level: str, work: Path) -> dict[str, Any]:
    """Milliseconds a plate of `source` after each pass of the compiler, with all passes before it."""
    rows = compile_stages(source, level, work)
    contestants = [Contestant(name, "artifact", work / name) for name in rows]
    outcome = contest(contestants, 1, (1,), rounds=_ABLATION_ROUNDS)
    if outcome.left_out:
        raise ArtifactError("; ".join(f"{name}: {reason}" for name, reason in outcome.left_out.items()))
    return {"level": level, "rows": {name: row | asdict(outcome.times[name][0]) for name, row in rows.items()}}


def compile_stages(source: Artifact, level_name: str, work: Path, stages: Sequence[str] = ()) -> dict[str, Any]:
    """Compile `source` to an artifact `work`/STAGE for each stage, by default all. Nothing is tuned.

    Returns for each the names of the kernels for which there was no tuning record: it would be faster with one.
    """
    from model_builder.compile import compiler

    level, network = compiler.level(level_name), candidates.published_network(source).eval()
    libraries = (Library(file=f"{level.name}.so", level=level.name, needs=level.needs),)
    rows: dict[str, Any] = {}
    for name in stages or compiler.stages():
        print(f"compiling: {name}", flush=True)
        folder = work / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        module, untuned = compiler.scheduled(network, level, compiler.stage(name))
        compiler.export(module, level, folder / libraries[0].file)
        shutil.copy(source.file(contract.PROBE), folder)
        update = {"variant": name, "backend": "tvm", "libraries": libraries}
        contract.write(folder, source.manifest.model_copy(update=update))
        rows[name] = {"untuned": untuned}
    return rows


def keep(work: Path, report: Mapping[str, Any]) -> None:
    """Keep the raw data, which is not committed."""
    (work / RAW).write_text(json.dumps(report, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def kept(work: Path) -> dict[str, Any]:
    """What `keep` wrote. Raises FileNotFoundError where nothing was measured yet."""
    found: dict[str, Any] = json.loads((work / RAW).read_text(encoding="utf-8"))
    return found


def write(folder: Path, report: Mapping[str, Any]) -> None:
    """Write the figure, and the blocks of `make report` and `make report-finders` in the folder's page."""
    folder.mkdir(parents=True, exist_ok=True)
    chosen = tables.main_set(report)
    label = f"{'photographs' if chosen == POOLED else 'rendered plates'} read, % exact"
    names = tables.by_speed(report, [*report["variants"], *report["peers"]])
    rows = [_contender(report, name, chosen) for name in names]
    figures.comparison(folder / tables.FIGURE, rows, report["machine"], label)
    blocks.put(folder / blocks.PAGE, "report", tables.page(report))
    write_finding(folder, report)


def measure_finding(artifacts: Path, real: Sequence[Path], work: Path, rounds: int) -> dict[str, Any]:
    """The part of `measure` about the finder and the refiner, in ten minutes."""
    finding = finders.measure(parts := Parts(work), artifacts, real, rounds)
    return {**_here(), "finding": finding, "measured": parts.measured}


def write_finding(folder: Path, report: Mapping[str, Any]) -> None:
    """Write the block of `make report-finders` in the folder's page; it stays where nothing was measured."""
    if report["finding"]:
        folder.mkdir(parents=True, exist_ok=True)
        blocks.put(folder / blocks.PAGE, "report-finders", tables.finding(report))


def _contender(report: Mapping[str, Any], name: str, chosen: str) -> figures.Contender:
    ours = name in report["variants"]
    score = report["variants" if ours else "peers"][name]["accuracy"][chosen]
    times = tables.time_of(report, name)
    return figures.Contender(
        name,
        ours,
        figures.Interval(times["median"], times["median"], times["p99"]),
        figures.Interval(score["low"], score["exact"] / score["total"], score["high"]),
    )
