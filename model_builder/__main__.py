"""`python -m model_builder COMMAND`; each command has its own --help."""

import argparse
import json
import os
import shutil
import signal
import sys
from dataclasses import MISSING, asdict, fields, replace
from pathlib import Path

import torch

from model_builder import bench, build, evaluate, preview, prune, publish
from model_builder.data import SHIPPED_SEED, Crops, DataError, read_folder, validation_set, write_folder
from model_builder.model import LPRNet, SpatialTransformer
from model_builder.plates import ALPHABET
from model_builder.prune import PruneConfig
from model_builder.quantize import QuantizeConfig
from model_builder.render import Renderer, batch
from model_builder.train import Interrupted, TrainConfig, train
from service import artifact as contract
from service.artifact import Artifact
from service.backends import load
from service.errors import LprError

_ARTIFACTS = Path(__file__).resolve().parent.parent / "artifacts"
_NETWORK = "network.pt"
_NOTE = "kept in the manifest's provenance: what its other fields don't tell"
_FINE_TUNING = TrainConfig(steps=600, learning_rate=1e-3, warmup=50, log_every=100)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; 0 when done, 1 for an error that is told on stderr, 130 when interrupted."""
    parser = argparse.ArgumentParser(prog="python -m model_builder", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_train(commands)
    _add_prune(commands)
    _add_publish(commands)
    _add_quantize(commands)
    _add_compile(commands)
    _add_build(commands)
    _add_evaluate(commands)
    _add_preview(commands)
    _add_render(commands)
    _add_bench(commands)
    _add_report(commands)
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except (DataError, LprError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except Interrupted as error:
        print(error, file=sys.stderr)
        return 130
    return 0


def _add_train(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "train",
        help="train from rendered plates, or fine-tune on a folder of crops, and publish",
        description="Train LPRNet on rendered plates and publish it. With --data, fine-tune the published network on "
        "your own crops instead, half of each batch, rendered plates the other half. Interrupt it with Ctrl-C; the "
        "same command goes on.",
    )
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="your crops: labels.csv with file,text")
    parser.add_argument("--out", type=Path, help="checkpoint and log (default: runs/VARIANT)")
    parser.add_argument("--variant", help="name to publish as (default: baseline, or fine-tuned with --data)")
    parser.add_argument("--note", help=_NOTE)
    parser.add_argument("--source", help="artifact to start from (default: none; baseline with --data)")
    _add_publishing(parser)
    for field in fields(TrainConfig):
        assert field.default is not MISSING
        flag = "--" + field.name.replace("_", "-")
        if isinstance(field.default, bool):
            parser.add_argument(flag, action="store_true", default=None)
        else:
            tuned = getattr(_FINE_TUNING, field.name)
            note = f"default: {field.default}" + (f"; {tuned} with --data" if tuned != field.default else "")
            parser.add_argument(flag, type=type(field.default), help=note)
    parser.set_defaults(run=_train)


def _add_publishing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--artifacts", type=Path, default=_ARTIFACTS, help="folder of artifacts (default: %(default)s)")
    parser.add_argument("--real", type=Path, metavar="FOLDER", help="folder of real sets to measure accuracy on")
    parser.add_argument(
        "--rendered",
        type=int,
        default=8000,
        help="rendered plates to measure on, which no training looks at; fewer tell less: of 2000, 0.3 points are six "
        "plates (default: %(default)s)",
    )


def _train(options: argparse.Namespace) -> None:
    # Before anything else is done: a mistake in the user's data is told at once.
    own = read_folder(options.data) if options.data else None
    given = {f.name: value for f in fields(TrainConfig) if (value := getattr(options, f.name)) is not None}
    config = replace(_FINE_TUNING if own else TrainConfig(), **given)
    source = options.source or ("baseline" if own else None)
    initial = publish.load_network(contract.find(options.artifacts, source)) if source else None
    if initial is not None:
        if config.transformer and initial.transformer is None:
            initial.transformer = SpatialTransformer()  # it starts as the identity
        config = replace(config, transformer=initial.transformer is not None)
    variant = options.variant or ("fine-tuned" if own else "baseline")
    folder = options.out or Path("runs") / variant
    _use_all_cores()
    network = train(folder, config, own=own, initial=initial)
    arguments: dict[str, object] = {"training": asdict(config)}
    if source:
        arguments["source"] = source
    if own:
        arguments["crops"] = len(own.texts)
    if options.note:
        arguments["note"] = options.note
    torch.save(
        {
            "arguments": arguments,
            "seed": config.seed,
            "network": network.configuration(),
            "weights": network.state_dict(),
        },
        folder / _NETWORK,
    )
    _publish_run(options, folder, variant)


def _add_prune(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "prune",
        help="cut channels out of a published network, train what is left, and publish it",
        description="Cut the channels that cost the least accuracy for what they save, in rounds, each followed by "
        "training distilled from the source. Interrupt it with Ctrl-C; the same command goes on.",
    )
    parser.add_argument("--source", default="baseline", help="artifact to prune (default: %(default)s)")
    parser.add_argument("--variant", default="pruned", help="name to publish as (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="cuts, checkpoints and logs (default: runs/VARIANT)")
    parser.add_argument(
        "--study",
        type=Path,
        metavar="FILE",
        help="prune by magnitude only, publish nothing, and write what it did to accuracy and size as JSON",
    )
    parser.add_argument("--note", help=_NOTE)
    _add_publishing(parser)
    _add_gate(parser)
    _add_fields(parser, PruneConfig)
    parser.set_defaults(run=_prune)


def _add_gate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-loss",
        type=float,
        default=0.3,
        help="points of rendered accuracy that may be lost against the baseline (default: %(default)s)",
    )


def _add_fields(parser: argparse.ArgumentParser, config: type[PruneConfig] | type[QuantizeConfig]) -> None:
    """An option for each field of a configuration."""
    for field in fields(config):
        flag, reason = "--" + field.name.replace("_", "-"), field.metadata["help"]
        parser.add_argument(
            flag, type=type(field.default), default=field.default, help=f"{reason} (default: %(default)s)"
        )


def _prune(options: argparse.Namespace) -> None:
    _use_all_cores()
    source = contract.find(options.artifacts, options.source)
    folder = options.out or Path("runs") / options.variant
    config = PruneConfig(**{field.name: getattr(options, field.name) for field in fields(PruneConfig)})
    if options.study:
        network = publish.load_network(source)
        found = prune.study(folder / "study", network, validation_set(options.rendered), config.steps)
        found |= {"source": source.manifest.version, "machine": evaluate.machine()}
        options.study.parent.mkdir(parents=True, exist_ok=True)
        options.study.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(f"wrote {options.study}")
        return
    reference = contract.find(options.artifacts, build.BASELINE)
    _publish(options, build.pruned(source, options.variant, folder, config=config, note=options.note), reference)


def _use_all_cores() -> None:
    build.use_all_cores()
    for number in (signal.SIGINT, signal.SIGTERM):  # a job in the background ignores Ctrl-C's signal unless told
        signal.signal(number, signal.default_int_handler)


def _publish(options: argparse.Namespace, candidate: publish.Candidate, reference: Artifact | None = None) -> None:
    """Publish and print what was measured; refuse what loses more than allowed against `reference`."""
    sets = evaluate.sets(options.real, options.rendered)
    gate = publish.Gate(reference, sets["rendered"], options.max_loss) if reference else None
    published = publish.publish(options.artifacts, candidate, sets, gate)
    print(f"published {published.folder} {published.manifest.version}")
    build.print_figures(published)


def _add_publish(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("publish", help="publish (again) what a training left in its folder")
    parser.add_argument("folder", type=Path, help="the training's folder, such as runs/baseline")
    parser.add_argument("--variant", default="baseline", help="name to publish as (default: %(default)s)")
    _add_publishing(parser)
    parser.set_defaults(run=lambda options: _publish_run(options, options.folder, options.variant))


def _publish_run(options: argparse.Namespace, folder: Path, variant: str) -> None:
    saved = torch.load(folder / _NETWORK, weights_only=True)
    network = LPRNet.configured(len(ALPHABET) + 1, saved["network"])
    network.load_state_dict(saved["weights"])
    candidate = publish.torch_candidate(variant, network, seed=saved["seed"], arguments=saved["arguments"])
    _publish(options, candidate)


def _add_quantize(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "quantize",
        help="make an int8 network of a published one, and publish it",
        description="Fold batch normalization, calibrate on rendered plates, measure which layers stay in float, train "
        "with simulated integers where calibration alone loses too much, and publish what reads as well as the "
        "baseline. Interrupt it with Ctrl-C; the same command goes on.",
    )
    parser.add_argument("--source", default="baseline", help="artifact to quantize (default: %(default)s)")
    parser.add_argument("--variant", default="quantized", help="name to publish as (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="choice, checkpoint and log (default: runs/VARIANT)")
    _add_publishing(parser)
    _add_gate(parser)
    _add_fields(parser, QuantizeConfig)
    parser.set_defaults(run=_quantize)


def _quantize(options: argparse.Namespace) -> None:
    config = QuantizeConfig(**{field.name: getattr(options, field.name) for field in fields(QuantizeConfig)})
    source = contract.find(options.artifacts, options.source)
    reference = contract.find(options.artifacts, build.BASELINE)
    _use_all_cores()
    folder = options.out or Path("runs") / options.variant
    _publish(options, build.quantized(source, options.variant, folder, config=config), reference)


def _add_compile(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "compile",
        help="compile an artifact with TVM and publish it",
        description="Compile the network of a torch artifact, or the integers of a quantized one, into one library per "
        "CPU level, with the tuning records in model_builder/tuning, and publish it where its logits equal the "
        "source's. The server takes the best library that its CPU can run. With --tune, make the records first: let "
        "nothing else run meanwhile. Interrupt it with Ctrl-C; the same command goes on.",
    )
    parser.add_argument(
        "source", nargs="?", default="baseline", help="torch or quantized artifact to compile (default: %(default)s)"
    )
    names = ", ".join(f"{s.variant} of {s.source}" for s in build.STAGES if s.make is build.compiled)
    parser.add_argument("--variant", help=f"name to publish as (default: {names}; of any other, tvm-SOURCE)")
    parser.add_argument(
        "--target",
        action="append",
        metavar="LEVEL",
        help="x86-64-v4 (AVX-512), x86-64-v4-vnni (and its VNNI, for integers), x86-64-v3 (AVX2) or native (this "
        "machine's CPU, with all it can do); may be repeated, the fastest first (default: AVX-512, with VNNI for "
        "integers, and AVX2). Without VNNI, the integers are computed as floats of the same weights: that is faster",
    )
    parser.add_argument("--tune", action="store_true", help="first search for the convolutions' best schedules")
    parser.add_argument(
        "--trials",
        type=int,
        default=32,
        help="schedules to measure for each convolution, so that the last gets as many as the first (default: "
        "%(default)s: a first round of 16, and one that learns from it; most kernels have 30 to 160 to choose from)",
    )
    parser.add_argument(
        "--stage",
        default="prepacked",
        help="last pass to run: untuned, fold, layout, winograd, fuse, cse, tuned or prepacked, each with those before "
        "it (default: %(default)s, all; less is for showing what a pass brings)",
    )
    parser.add_argument(
        "--max-loss",
        type=float,
        default=publish.Gate.max_loss,
        help="points of rendered accuracy that it may lie below its source (default: %(default)s)",
    )
    _add_publishing(parser)
    parser.set_defaults(run=_compile)


def _compile(options: argparse.Namespace) -> None:
    from model_builder import compile  # TVM takes seconds to import, which no other command needs to wait for

    passes = compile.stage(options.stage)
    source = contract.find(options.artifacts, options.source)
    network = compile.network_of(source)
    levels = tuple(map(compile.level, options.target or ())) or compile.levels_of(network)
    if options.tune:
        try:
            for level in levels:
                compile.tune(network, level, options.trials, passes)
        except KeyboardInterrupt as error:
            raise Interrupted("stopped; the same command goes on with the trials that are left") from error
    variant = options.variant or build.compiled_name(options.source)
    candidate = build.compiled(source, variant, Path(), levels=options.target or (), passes=options.stage)
    _publish(options, candidate, source)


def _add_build(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    names = ", ".join(stage.variant for stage in build.STAGES)
    parser = commands.add_parser(
        "build",
        help="make all variants of the baseline, and publish those that read as well",
        description=f"Make {names}, in this order. Each takes the weights of the variant that is published, where that "
        "was made of the same source with the same settings, and tuning records from model_builder/tuning; it is "
        "exported, checked against its source, measured and published anew, or left as it is where nothing changed. "
        "Otherwise it is trained: that takes hours. A variant that loses too much is not published; the others are, "
        "and the exit status is 1. Interrupt it with Ctrl-C; the same command goes on.",
    )
    parser.add_argument(
        "--retrain",
        action="store_true",
        help="train and calibrate from scratch, whatever is published (tuning is `compile --tune`)",
    )
    _add_publishing(parser)
    _add_gate(parser)
    parser.set_defaults(run=_build)


def _build(options: argparse.Namespace) -> None:
    _use_all_cores()
    sets = evaluate.sets(options.real, options.rendered)
    folder = Path("runs") / "build"
    refusals = build.build(build.STAGES, options.artifacts, folder, sets, options.max_loss, retrain=options.retrain)
    if refusals:
        raise publish.Refused(f"{len(refusals)} of {len(build.STAGES)} not published\n" + "\n".join(refusals))


def _add_evaluate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("evaluate", help="accuracy and latency of an artifact through the serving code")
    parser.add_argument("variant", nargs="?", default="baseline", help="which (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads of the engine (default: %(default)s)")
    parser.add_argument("--errors", action="store_true", help="print every wrong reading")
    _add_publishing(parser)
    parser.set_defaults(run=_evaluate)


def _evaluate(options: argparse.Namespace) -> None:
    artifact = contract.find(options.artifacts, options.variant)
    backend = load(artifact, threads=options.threads)
    contract.check_probe(backend, artifact)
    print(f"{options.variant} {artifact.manifest.version}, {backend.engine}, {evaluate.machine()}")
    for name, crops in evaluate.sets(options.real, options.rendered).items():
        read = list(evaluate.readings(artifact, backend, crops))
        wrong = [(text, r.text) for r, text in zip(read, crops.texts, strict=True) if r.text != text]
        build.print_score(name, evaluate.wilson(len(read) - len(wrong), len(read)))
        if options.errors:
            print("\n".join(f"    {text} read as {reading}" for text, reading in wrong))
    times = evaluate.latency(backend, threads=options.threads)
    print(f"latency: median {times.median:.2f} ms, p95 {times.p95:.2f} ms, batch 1, {options.threads} thread(s)")


def _add_preview(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("preview", help="write a contact sheet of rendered plates")
    parser.add_argument("--out", type=Path, default=Path("preview.png"), help="image to write (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first plate (default: %(default)s)")
    parser.add_argument("--count", type=int, default=96, help="rendered plates (default: %(default)s)")
    parser.add_argument("--columns", type=int, default=8, help="plates a row (default: %(default)s)")
    parser.add_argument("--real", type=Path, metavar="FOLDER", help="a set of real crops to show in every other row")
    parser.set_defaults(run=_preview)


def _preview(options: argparse.Namespace) -> None:
    real = evaluate.real_set(options.real) if options.real else None
    preview.write(options.out, options.seed, options.count, options.columns, real)
    print(f"wrote {options.out}")


def _add_render(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "render",
        help="write rendered plates as a labelled folder",
        description="Write rendered plates as a set: labels.csv with file,text, and images/. The defaults are those "
        f"that made {evaluate.SHIPPED.name}, which comes with the repository: seeds that neither training nor "
        "validation nor any choice of the builder draws from. Typefaces that are installed join in.",
    )
    parser.add_argument("folder", type=Path, help="folder to write")
    parser.add_argument("--count", type=int, default=500, help="plates (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=SHIPPED_SEED, help="of the first plate (default: %(default)s)")
    parser.set_defaults(run=_render)


def _render(options: argparse.Namespace) -> None:
    images, texts = batch(Renderer(), options.seed, options.count)
    write_folder(options.folder, Crops(images, texts))
    print(f"wrote {options.count} plates to {options.folder}")


def _add_bench(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "bench",
        help="measure speeds: the renderer's, and all variants beside other engines; let nothing else run meanwhile",
        description="Measure how fast plates are rendered, small JPEGs decoded (by OpenCV, and by simplejpeg beside "
        "it) and logits read, and how fast every variant and the engines that people "
        "would otherwise use (ONNX Runtime, OpenVINO, torch.compile, on the baseline's weights) read them, in turns.",
    )
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--processes", type=int, default=cores, help="renderers side by side (default: %(default)s)")
    _add_contest(parser)
    parser.set_defaults(run=_bench)


def _add_contest(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--artifacts", type=Path, default=_ARTIFACTS, help="folder of artifacts (default: %(default)s)")
    parser.add_argument(
        "--rounds",
        type=int,
        default=20,
        help="turns of each at each batch size, 15 calls a turn (default: %(default)s)",
    )


def _bench(options: argparse.Namespace) -> None:
    from model_builder import contest, peers, report, tables  # they bring matplotlib

    speed = bench.rendering(options.processes)
    print(f"rendering: {speed:.0f} plates a second, {options.processes} process(es), {evaluate.machine()}", flush=True)
    decoders = ", ".join(f"{name} {duration:.1f} us" for name, duration in bench.decoding().items())
    print(f"decoding a 94x24 JPEG: {decoders}", flush=True)
    for variant in contract.variants(options.artifacts):
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


def _add_report(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "report",
        help="measure and compare all variants, and write report/ and README's table",
        description="Measure accuracy, latency beside other engines, start, memory and size of every variant through "
        "the serving code; write tables, JSON and figures, and README's table. Takes a quarter of an hour: let nothing "
        "else run meanwhile. Interrupt it with Ctrl-C; the same command goes on with the parts that are left.",
    )
    _add_contest(parser)
    repository = _ARTIFACTS.parent
    real, out, readme = repository.parent / "shared" / "data", repository / "report", repository / "README.md"
    parser.add_argument(
        "--real",
        type=Path,
        metavar="FOLDER",
        default=real,
        help="folder of real sets (default: ../shared/data where it exists)",
    )
    parser.add_argument("--out", type=Path, default=out, help="folder to write (default: report)")
    parser.add_argument("--readme", type=Path, default=readme, help="file that shows the table (default: README.md)")
    parser.add_argument(
        "--study",
        type=Path,
        metavar="FILE",
        help="what `prune --study` wrote (default: study.json in the folder --out)",
    )
    parser.add_argument(
        "--work", type=Path, default=Path("runs") / "report", help="folder of finished parts (default: %(default)s)"
    )
    parser.add_argument("--fresh", action="store_true", help="measure everything again")
    parser.set_defaults(run=_report)


def _report(options: argparse.Namespace) -> None:
    from model_builder import report, tables

    report.check_readme(options.readme)
    if options.fresh:
        shutil.rmtree(options.work, ignore_errors=True)
    study = options.study or options.out / "study.json"
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        measured = report.measure(options.artifacts, options.real, study, options.work, options.rounds)
    except KeyboardInterrupt as error:
        raise Interrupted(f"stopped; the same command goes on with the parts that are not in {options.work}") from error
    report.write(options.out, measured)
    report.into_readme(options.readme, tables.readme(measured, options.out, options.readme.parent))
    print(tables.comparison(measured))
    print("\n".join(measured["notes"]))
    print(f"wrote {options.out} and the table in {options.readme}")


if __name__ == "__main__":
    sys.exit(main())
