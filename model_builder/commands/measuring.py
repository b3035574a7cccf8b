"""Commands that measure: evaluate, bench and report."""

import argparse
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from model_builder import build, evaluate, team
from model_builder.commands import flags
from model_builder.measure import bench, by_kind, by_view, by_way, covered, found, reliability, thresholds
from model_builder.plates import kinds
from model_builder.render.scene import Scene
from model_builder.tasks import finding, task_of
from model_builder.train.data import DEVELOPMENT_SEED
from model_builder.train.labels import DataError
from model_builder.train.loop import Interrupted
from service import artifact as contract
from service.backends import Backend
from service.finding.search import Search

_PHOTOGRAPHS = ("ccpd-crops", "ccpd-scenes", "easypr-scenes")  # what README's table is measured on

_SCENES = 400  # rendered ones, for the table of a finder's thresholds


def add(commands: flags.Commands) -> None:
    """Add the commands."""
    _add_evaluate(commands)
    _add_bench(commands)
    _add_report(commands)


def _add_evaluate(commands: flags.Commands) -> None:
    parser = flags.add_command(
        commands, "evaluate", _evaluate, help="accuracy and latency of an artifact through the serving code"
    )
    parser.add_argument("variant", nargs="?", default="baseline", help="which (default: %(default)s)")
    parser.add_argument(
        "--threads", type=flags.positive, default=1, help="threads of the engine (default: %(default)s)"
    )
    parser.add_argument("--errors", action="store_true", help="print every wrong reading")
    parser.add_argument(
        "--thresholds",
        action="store_true",
        help="print a table of what a least confidence, or probability, keeps",
    )
    parser.add_argument(
        "--kinds",
        type=flags.positive,
        metavar="COUNT",
        help="of a reader: print how many of so many rendered plates of each kind are exact",
    )
    parser.add_argument(
        "--kind",
        action="append",
        metavar="NAME",
        help="of --kinds: a kind, a region or a country's file; may be repeated (default: all)",
    )
    parser.add_argument(
        "--views",
        type=flags.positive,
        metavar="COUNT",
        help="of a reader: print how many of so many rendered plates are exact in one view, and in several",
    )
    parser.add_argument(
        "--reliability",
        type=Path,
        metavar="SVG",
        help="of a reader: print how many readings of each confidence are exact, and write the same as a diagram",
    )
    parser.add_argument(
        "--no-plate",
        type=Path,
        nargs="+",
        default=[],
        metavar="PATH",
        help="images, or folders of them, without a plate, for the table of --thresholds",
    )
    parser.add_argument(
        "--ways",
        metavar="READER",
        help="of a finder: print how many plates of the rendered scenes READER reads in a wrong number of rows, or "
        "upside down",
    )
    parser.add_argument(
        "--redact", action="store_true", help="of a finder: print a table of the plates that redaction leaves readable"
    )
    flags.add_publishing(parser)


def _evaluate(options: argparse.Namespace) -> None:
    artifact = contract.find(options.artifacts, options.variant)
    sets = task_of(artifact.manifest).sets(options.real, options.rendered)
    backend = team.load(artifact, options.threads)
    contract.check_probe(backend, artifact)
    print(f"{options.variant} {artifact.manifest.version}, {backend.engine}, {evaluate.machine()}")
    if artifact.manifest.task == "read":
        _print_readings(options, artifact, backend, sets)
    else:
        task = task_of(artifact.manifest)
        for name, examples in () if options.redact or options.ways else sets.items():
            figures = task.measure(artifact, backend, examples)
            build.print_score(name, figures.score, figures.corner_error, figures.false_alarms, right=task.right)
        if options.thresholds and artifact.manifest.task == "find":
            _print_found(options.no_plate, artifact, backend)
        if options.ways and artifact.manifest.task == "find":
            scenes = cast(Iterable[Scene], sets["rendered"])
            _print_ways(contract.find(options.artifacts, options.ways), artifact, backend, scenes)
        if options.redact and artifact.manifest.task == "find":
            with finding.searching(artifact, backend) as search:
                if not isinstance(search, Search):
                    raise ValueError(f"--redact needs the refiner of {options.variant}: publish it first")
                for name, examples in sets.items():
                    print(covered.table(search, name, cast(Iterable[Scene], examples)), flush=True)
    height, width, _ = map(int, artifact.manifest.images[0])
    times = evaluate.latency(backend, threads=options.threads, size=(height, width))
    print(f"latency: median {times.median:.2f} ms, p95 {times.p95:.2f} ms, batch 1, {options.threads} thread(s)")


def _print_readings(
    options: argparse.Namespace, artifact: contract.Artifact, backend: Backend, sets: Mapping[str, Any]
) -> None:
    judged = {}
    for name, crops in sets.items():
        read = list(evaluate.readings(artifact, backend, crops))
        wrong = [(text, r.text) for r, text in zip(read, crops.texts, strict=True) if r.text != text]
        build.print_score(name, evaluate.wilson(len(read) - len(wrong), len(read)))
        rest = sum(text[1:] == reading[1:] for text, reading in wrong) + len(read) - len(wrong)
        print(f"    without the first character, the province's: {rest}, {100 * rest / len(read):.1f} %")
        if options.errors:
            print("\n".join(f"    {text} read as {reading}" for text, reading in wrong))
        judged[name] = thresholds.judge(read, crops.texts)
    if options.kinds:
        plates = [plate for name in options.kind for plate in kinds.named(name)] if options.kind else kinds.PLATES
        print(by_kind.table(list(by_kind.measured(artifact, backend, options.kinds, plates))))
    if options.views:
        print(by_view.table(by_view.measured(artifact, backend, options.views)))
    if options.reliability:
        print(reliability.table(judged))
        reliability.diagram(options.reliability, judged)
        print(f"wrote {options.reliability}")
    if options.thresholds:
        _print_thresholds(judged, options.no_plate, artifact, backend)


def _print_thresholds(
    judged: dict[str, list[thresholds.Judged]], no_plate: list[Path], artifact: contract.Artifact, backend: Backend
) -> None:
    rendered, *others = judged.values()
    nothing = []
    if no_plate:
        crops = thresholds.whole(no_plate)
        nothing = thresholds.judge(evaluate.readings(artifact, backend, crops), crops.texts)
    print(thresholds.table(rendered, [one for other in others for one in other], nothing))


def _print_found(no_plate: list[Path], artifact: contract.Artifact, backend: Backend) -> None:
    scenes = list(finding.RenderedScenes(_SCENES, DEVELOPMENT_SEED))
    with finding.searching(artifact, backend) as search:
        print(found.table(search, scenes, [file for path in no_plate for file in _files(path)]))


def _print_ways(
    reader: contract.Artifact, artifact: contract.Artifact, backend: Backend, scenes: Iterable[Scene]
) -> None:
    with finding.searching(artifact, backend) as search:
        print(by_way.table(by_way.measured(search, reader, team.load(reader, 1), scenes)))


def _files(path: Path) -> list[Path]:
    """The file, or the files in the folder and below. Raises DataError where it holds none."""
    files = sorted(path.rglob("*.*")) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path} is empty: name a folder of images without a plate")
    return files


def _add_bench(commands: flags.Commands) -> None:
    parser = flags.add_command(
        commands,
        "bench",
        _bench,
        help="measure speeds: the renderer's, and all variants beside other engines; let nothing else run meanwhile",
        description="Measure how fast plates are rendered, small JPEGs decoded (by OpenCV, and by simplejpeg beside "
        "it) and logits read, and how fast every variant and the engines that people "
        "would otherwise use (ONNX Runtime, OpenVINO, torch.compile, on the baseline's weights) read them, in turns; "
        "then the same of the finder and the refiner.",
    )
    cores = len(os.sched_getaffinity(0))
    parser.add_argument(
        "--processes", type=flags.positive, default=cores, help="renderers side by side (default: %(default)s)"
    )
    _add_contest(parser)


def _add_contest(parser: argparse.ArgumentParser) -> None:
    flags.add_artifacts(parser)
    parser.add_argument(
        "--rounds",
        type=flags.positive,
        default=20,
        help="turns of each at each batch size, 15 calls a turn (default: %(default)s)",
    )


def _bench(options: argparse.Namespace) -> None:
    from model_builder.measure import contest, finders, finding_tables, peers, report, tables  # they bring matplotlib
    from model_builder.measure.parts import Parts

    speed = bench.rendering(options.processes)
    print(f"rendering: {speed:.0f} plates a second, {options.processes} process(es), {evaluate.machine()}", flush=True)
    decoders = ", ".join(f"{name} {duration:.1f} us" for name, duration in bench.decoding().items())
    print(f"decoding a 94x24 JPEG: {decoders}", flush=True)
    for variant in contract.readers(options.artifacts):
        median, p95 = bench.reading(contract.find(options.artifacts, variant))
        print(
            f"{variant}: {median:.3f} ms a plate beyond inference, from the decoded image to the text with 3 "
            f"candidates (95 % of plates within {p95:.3f} ms)",
            flush=True,
        )
    others = peers.peers(options.artifacts, Path("runs") / "bench")
    contestants = [*peers.variants(options.artifacts), *others]
    for threads in report.THREADS:
        outcome = contest.contest(contestants, threads, report.BATCHES, rounds=options.rounds)
        times = {name: [asdict(result) for result in results] for name, results in outcome.times.items()}
        print(f"milliseconds a plate, {evaluate.machine()}")
        print(tables.speeds(times, [other.name for other in others]), flush=True)
    with TemporaryDirectory() as folder:  # nothing is kept
        for subject in finders.published(options.artifacts):
            found = finders.times(Parts(Path(folder)), options.artifacts, subject, options.rounds)
            print(f"milliseconds an image of what is to {subject.task}, {evaluate.machine()}")
            print(finding_tables.speeds(found), flush=True)


def _add_report(commands: flags.Commands) -> None:
    parser = flags.add_command(
        commands,
        "report",
        _report,
        help="measure and compare all variants, and write report/ and README's table",
        description="Measure accuracy, latency beside other engines, start, memory and size of every variant through "
        "the serving code, and of the finder and the refiner; write the report's page with its figure, and README's "
        "table. Takes half an hour: let nothing else run meanwhile. Interrupt it with Ctrl-C; the same command goes on "
        "with what is left.",
    )
    _add_contest(parser)
    repository = flags.ARTIFACTS.parent
    out, readme = repository / "report", repository / "README.md"
    flags.add_real(parser, f"to measure on (default: {', '.join(_PHOTOGRAPHS)} in ../shared/data, where they exist)")
    parser.add_argument("--out", type=Path, default=out, help="folder to write (default: report)")
    parser.add_argument("--readme", type=Path, default=readme, help="file that shows the table (default: README.md)")
    parser.add_argument(
        "--study",
        type=Path,
        default=Path("runs") / "study.json",
        metavar="FILE",
        help="what `prune --study` wrote (default: %(default)s)",
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("runs") / "report",
        help="folder of finished parts and raw data, which are not committed (default: %(default)s)",
    )
    part = parser.add_mutually_exclusive_group()
    part.add_argument("--finders", action="store_true", help="measure the finder and the refiner alone")
    parser.add_argument("--fresh", action="store_true", help="measure everything again")
    part.add_argument("--redraw", action="store_true", help="measure nothing: write again what --work holds")


def _report(options: argparse.Namespace) -> None:
    from model_builder.measure import blocks, report, tables

    blocks.check(options.readme, "report")
    if options.fresh:
        shutil.rmtree(options.work, ignore_errors=True)
    if options.finders:
        report.write_finding(options.out, _interruptible(options, report.measure_finding))
        print(f"wrote {options.out}")
        return
    measured = report.kept(options.work) if options.redraw else _measured(options)
    report.write(options.out, measured)
    blocks.put(options.readme, "report", tables.readme(measured, options.out, options.readme.parent))
    print(tables.choice(measured))
    print("\n".join(measured["notes"]))
    print(f"wrote {options.out} and the table in {options.readme}")


def _measured(options: argparse.Namespace) -> dict[str, Any]:
    from model_builder.measure import report

    measured = _interruptible(options, partial(report.measure, study=options.study))
    report.keep(options.work, measured)
    return measured


def _interruptible(options: argparse.Namespace, measure: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    data = flags.ARTIFACTS.parent.parent / "shared" / "data"
    real = options.real or [data / name for name in _PHOTOGRAPHS if (data / name).is_dir()]
    try:
        return measure(options.artifacts, real, work=options.work, rounds=options.rounds)
    except KeyboardInterrupt as error:
        raise Interrupted(f"stopped; the same command goes on with the parts that are not in {options.work}") from error
