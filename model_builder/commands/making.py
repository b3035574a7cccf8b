"""The builder's command line; each command has its own --help."""

import argparse
import json
import pickle
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from model_builder import build, candidates, evaluate, publish
from model_builder.commands import flags, measuring, own_crops
from model_builder.compress import prune
from model_builder.compress.prune import PruneConfig
from model_builder.compress.quantize import QuantizeConfig
from model_builder.networks.reader import LPRNet
from model_builder.plates.kinds import ALPHABET
from model_builder.train import labels
from model_builder.train.data import Crops, validation_set
from model_builder.train.labels import DataError
from model_builder.train.loop import Interrupted, TrainConfig, train
from service import artifact as contract
from service.artifact import Artifact, Origin, Source
from service.artifact.provenance import OwnCrops, Trained
from service.errors import LprError

_NETWORK = "network.pt"
_NOTE = "kept in the manifest's provenance: what its other fields don't tell"
_FINE_TUNING = TrainConfig(steps=600, learning_rate=1e-3, warmup=50, log_every=100)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; 0 when done, 1 for an error that is told on stderr, 130 when interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m model_builder", description="Make and measure models; each command has its own --help."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_train(commands)
    _add_prune(commands)
    _add_publish(commands)
    _add_quantize(commands)
    _add_compile(commands)
    _add_build(commands)
    measuring.add(commands)
    options = parser.parse_args(arguments)
    with _interruptible() as stopped:
        try:
            options.run(options)
        except Interrupted as error:
            print(error, file=sys.stderr)
            return 130
        except Exception as error:
            if stopped:  # raised inside a pass of TVM, a KeyboardInterrupt comes out as a RuntimeError
                raise KeyboardInterrupt from error
            if not isinstance(error, DataError | LprError | ValueError | OSError):
                raise
            print(f"error: {error}", file=sys.stderr)
            return 1
    return 0


@contextmanager
def _interruptible() -> Iterator[list[int]]:
    """SIGINT and SIGTERM raise KeyboardInterrupt; yields a list of those that came.

    A job in the background ignores SIGINT unless told.
    """
    stopped: list[int] = []

    def stop(number: int, _frame: object) -> None:
        stopped.append(number)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _add_train(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "train",
        help="train from rendered plates, or fine-tune on a folder of crops, and publish",
        description="Train LPRNet on rendered plates and publish it. With --data, fine-tune the published network on "
        "your own crops instead, half of each batch, rendered plates the other half. Interrupt it with Ctrl-C; the "
        "same command goes on.",
    )
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="your crops: labels.csv with file,text")
    parser.add_argument(
        "--hold-out",
        type=flags.held_out,
        default=0.1,
        metavar="SHARE",
        help="share of your crops that is not trained on, but read before and after (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, help="checkpoint and log (default: runs/VARIANT)")
    parser.add_argument("--variant", type=flags.name, help="name (default: baseline, or fine-tuned with --data)")
    parser.add_argument("--note", help=_NOTE)
    parser.add_argument("--source", help="artifact to start from (default: none; baseline with --data)")
    flags.add_publishing(parser)
    for field in fields(TrainConfig):
        flag = "--" + field.name.replace("_", "-")
        if isinstance(field.default, bool):
            parser.add_argument(flag, action="store_true", default=None)
        else:
            tuned = getattr(_FINE_TUNING, field.name)
            note = f"default: {field.default}" + (f"; {tuned} with --data" if tuned != field.default else "")
            parser.add_argument(flag, type=flags.of(field), help=note)
    parser.set_defaults(run=_train)


def _train(options: argparse.Namespace) -> None:
    # Before anything else is done: a mistake in the user's data is told at once.
    given = {f.name: value for f in fields(TrainConfig) if (value := getattr(options, f.name)) is not None}
    config = replace(_FINE_TUNING if options.data else TrainConfig(), **given)
    variant = options.variant or ("fine-tuned" if options.data else "baseline")
    folder = options.out or Path("runs") / variant
    own, held = None, None
    if options.data:
        own, held = own_crops.split(labels.read_folder(options.data), options.hold_out, config.seed)
    source = options.source or ("baseline" if own else None)
    start = contract.find(options.artifacts, source) if source else None
    initial = candidates.load_network(start) if start else None
    sets = evaluate.sets(options.real, options.rendered, own_crops.HELD_OUT)
    before = None
    if start and own and held:
        sets[own_crops.HELD_OUT] = held
        labels.write_folder(folder / own_crops.HELD_OUT, held, suffix=".png", replace=True)
        print(f"{len(own.texts)} crops to train on; {len(held.texts)} held out, in {folder / own_crops.HELD_OUT}")
        before = own_crops.read_by(start, held)
        build.print_score(f"{own_crops.HELD_OUT} before, read by {source}", before)
    build.use_all_cores()
    network = train(folder, config, own=own, initial=initial)
    crops = OwnCrops(trained=len(own.texts), held_out=len(held.texts)) if own and held else None
    origin = Origin(
        seed=config.seed,
        source=Source.of(start.manifest) if start else None,
        made=Trained(settings=asdict(config), own_crops=crops),
        note=options.note,
    )
    torch.save(
        {
            "origin": origin.model_dump(mode="json"),
            "network": network.configuration(),
            "weights": network.state_dict(),
        },
        folder / _NETWORK,
    )
    published = _publish_run(options, folder, variant, sets)
    if before and published.manifest.measured:
        after = published.manifest.measured.accuracy[own_crops.HELD_OUT]
        print(f"{own_crops.HELD_OUT}: {before.exact} of {before.total} exact before, {after.exact} after")


def _add_prune(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "prune",
        help="cut channels out of a published network, train what is left, and publish it",
        description="Cut the channels that cost the least accuracy for what they save, in rounds, each followed by "
        "training distilled from the source. Interrupt it with Ctrl-C; the same command goes on.",
    )
    parser.add_argument("--source", default="baseline", help="artifact to prune (default: %(default)s)")
    parser.add_argument("--variant", type=flags.name, help="name to publish as (default: pruned, or SOURCE-pruned)")
    parser.add_argument("--out", type=Path, help="cuts, checkpoints and logs (default: runs/VARIANT)")
    parser.add_argument(
        "--study",
        type=Path,
        metavar="FILE",
        help="prune by magnitude only, publish nothing, and write what it did to accuracy and size as JSON",
    )
    parser.add_argument("--note", help=_NOTE)
    flags.add_publishing(parser)
    _add_gate(parser)
    _add_fields(parser, PruneConfig)
    parser.set_defaults(run=_prune)


def _add_gate(parser: argparse.ArgumentParser, reference: str = "the source") -> None:
    parser.add_argument(
        "--max-loss",
        type=flags.points,
        default=publish.Gate.max_loss,
        help=f"points of rendered accuracy that may be lost against {reference} (default: %(default)s)",
    )


def _add_fields(parser: argparse.ArgumentParser, config: type[PruneConfig] | type[QuantizeConfig]) -> None:
    """An option for each field of a configuration."""
    for field in fields(config):
        flag, reason = "--" + field.name.replace("_", "-"), field.metadata["help"]
        parser.add_argument(flag, type=flags.of(field), default=field.default, help=f"{reason} (default: %(default)s)")


def _prune(options: argparse.Namespace) -> None:
    source = contract.find(options.artifacts, options.source)
    config = PruneConfig(**{field.name: getattr(options, field.name) for field in fields(PruneConfig)})
    if options.study:
        build.use_all_cores()
        variant = options.variant or build.name_of(build.pruned, options.source)
        folder = options.out or Path("runs") / variant
        network = candidates.load_network(source)
        found = prune.study(folder / "study", network, validation_set(options.rendered), config.steps)
        found |= {"source": source.manifest.version, "machine": evaluate.machine()}
        options.study.parent.mkdir(parents=True, exist_ok=True)
        options.study.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(f"wrote {options.study}")
        return
    _build_one(options, build.pruned, options.out, config=config, note=options.note)


def _build_one(options: argparse.Namespace, make: "build.Maker", out: Path | None, **settings: Any) -> None:
    """Make one variant of `options.source` as `build` makes them, held to what its source reads."""
    variant = options.variant or build.name_of(make, options.source)
    if variant == options.source:
        raise ValueError(f"{variant} would be replaced by what is made of it: give another --variant")
    contract.find(options.artifacts, options.source)  # a wrong name is told at once
    sets = evaluate.sets(options.real, options.rendered)
    stage = build.Stage(variant, options.source, partial(make, **settings))
    folder = out or Path("runs") / variant
    refusals = build.build((stage,), options.artifacts, folder, sets, options.max_loss, reference=options.source)
    if refusals:
        raise publish.Refused(f"not published: {refusals[0]}")


def _add_publish(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("publish", help="publish (again) what a training left in its folder")
    parser.add_argument("folder", type=Path, help="the training's folder, such as runs/baseline")
    parser.add_argument(
        "--variant", type=flags.name, default="baseline", help="name to publish as (default: %(default)s)"
    )
    flags.add_publishing(parser)
    parser.set_defaults(run=_republish)


def _republish(options: argparse.Namespace) -> None:
    _trained(options.folder / _NETWORK)
    held = options.folder / own_crops.HELD_OUT
    sets = evaluate.sets(options.real, options.rendered, own_crops.HELD_OUT)
    if held.is_dir():
        sets |= labels.read_sets([held])
    _publish_run(options, options.folder, options.variant, sets)


def _publish_run(options: argparse.Namespace, folder: Path, variant: str, sets: dict[str, Crops]) -> Artifact:
    """Publish what a training left and print what was measured."""
    origin, network = _trained(folder / _NETWORK)
    published = publish.publish(options.artifacts, candidates.torch_candidate(variant, network, origin), sets)
    print(f"published {published.folder} {published.manifest.version}")
    build.print_figures(published)
    return published


def _trained(path: Path) -> tuple[Origin, LPRNet]:
    """What a training saved: how its network was made, and the network. Raises DataError."""
    if not path.is_file():
        raise DataError(f"there is no {path}: give the folder of a training that has come to its end")
    try:
        saved = torch.load(path, weights_only=True)
        origin = Origin.model_validate(saved["origin"])
        network = LPRNet.configured(len(ALPHABET) + 1, saved["network"])
        network.load_state_dict(saved["weights"])
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is not what a training saves, or is damaged: train again") from error
    return origin, network


def _add_quantize(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "quantize",
        help="make an int8 network of a published one, and publish it",
        description="Fold batch normalization, calibrate on rendered plates, measure which layers stay in float, train "
        "with simulated integers where calibration alone loses too much, and publish what reads as well as the "
        "source. Interrupt it with Ctrl-C; the same command goes on.",
    )
    parser.add_argument("--source", default="baseline", help="artifact to quantize (default: %(default)s)")
    parser.add_argument(
        "--variant", type=flags.name, help="name to publish as (default: quantized, or SOURCE-quantized)"
    )
    parser.add_argument("--out", type=Path, help="choice, checkpoint and log (default: runs/VARIANT)")
    flags.add_publishing(parser)
    _add_gate(parser)
    _add_fields(parser, QuantizeConfig)
    parser.set_defaults(run=_quantize)


def _quantize(options: argparse.Namespace) -> None:
    config = QuantizeConfig(**{field.name: getattr(options, field.name) for field in fields(QuantizeConfig)})
    _build_one(options, build.quantized, options.out, config=config)


def _add_compile(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "compile",
        help="compile an artifact with TVM and publish it",
        description="Compile the network of a torch artifact, or the integers of a quantized one, into one library per "
        "CPU level, with the tuning records in model_builder/compile/tuning, and publish it where its logits equal the "
        "source's. The server takes the best library that its CPU can run. With --tune, make the records first: let "
        "nothing else run meanwhile. Interrupt it with Ctrl-C; the same command goes on.",
    )
    parser.add_argument(
        "source", nargs="?", default="baseline", help="torch or quantized artifact to compile (default: %(default)s)"
    )
    names = ", ".join(f"{s.variant} of {s.source}" for s in build.STAGES if s.make is build.compiled)
    parser.add_argument(
        "--variant", type=flags.name, help=f"name to publish as (default: {names}; of any other, tvm-SOURCE)"
    )
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
        type=flags.positive,
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
    _add_gate(parser)
    flags.add_publishing(parser)
    parser.set_defaults(run=_compile)


def _compile(options: argparse.Namespace) -> None:
    from model_builder.compile import compiler  # TVM takes seconds to import, which no other command needs to wait for

    passes = compiler.stage(options.stage)
    source = contract.find(options.artifacts, options.source)
    network = compiler.network_of(source)
    levels = tuple(map(compiler.level, options.target or ())) or compiler.levels_of(network)
    if options.tune:
        try:
            for level in levels:
                compiler.tune(network, level, options.trials, passes)
        except KeyboardInterrupt as error:
            raise Interrupted("stopped; the same command goes on with the trials that are left") from error
    _build_one(options, build.compiled, None, levels=tuple(options.target or ()), passes=options.stage)


def _add_build(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    names = ", ".join(stage.variant for stage in build.STAGES)
    parser = commands.add_parser(
        "build",
        help="make all variants of the baseline, and publish those that read as well",
        description=f"Make the variants of {build.BASELINE} in this order: {names}. Each takes the weights of the "
        "variant that is published, where that was made of the same source with the same settings, and the tuning "
        "records in model_builder/compile/tuning. It is exported, checked against its source, measured and published "
        "anew, or left as it is where nothing changed. Otherwise it is trained: that takes hours. A variant that loses "
        "too much is not published; the others are, and the exit status is 1. Interrupt it with Ctrl-C; the same "
        "command goes on.",
    )
    parser.add_argument(
        "--retrain",
        action="store_true",
        help="train and calibrate from scratch, whatever is published (tuning is `compile --tune`)",
    )
    flags.add_publishing(parser)
    _add_gate(parser, "the baseline")
    parser.set_defaults(run=_build)


def _build(options: argparse.Namespace) -> None:
    sets = evaluate.sets(options.real, options.rendered)
    folder = Path("runs") / "build"
    refusals = build.build(build.STAGES, options.artifacts, folder, sets, options.max_loss, retrain=options.retrain)
    if refusals:
        raise publish.Refused(f"{len(refusals)} of {len(build.STAGES)} not published\n" + "\n".join(refusals))
