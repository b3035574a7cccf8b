"""Commands that make a variant of a published one: prune, quantize and compile; and build, which makes all."""

import argparse
import json
from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from model_builder import build, candidates, evaluate, publish
from model_builder.commands import flags
from model_builder.compress import prune
from model_builder.compress.prune import PruneConfig
from model_builder.compress.quantize import QuantizeConfig
from model_builder.tasks import Examples, Reading, task_of
from model_builder.train.data import validation_set
from model_builder.train.loop import Interrupted
from service import artifact as contract


def add(commands: flags.Commands) -> None:
    """Add the commands."""
    _add_prune(commands)
    _add_quantize(commands)
    _add_compile(commands)
    _add_build(commands)


def _add_prune(commands: flags.Commands) -> None:
    parser = flags.add_command(
        commands,
        "prune",
        _prune,
        help="cut channels out of a published network, train what is left, and publish it",
        description="Cut the channels that cost the least accuracy for what they save, in rounds, each followed by "
        "training distilled from the source. Interrupt it with Ctrl-C; the same command goes on.",
    )
    flags.add_source(parser, "prune", "cuts, checkpoints and logs")
    parser.add_argument(
        "--study",
        type=Path,
        metavar="FILE",
        help="prune by magnitude only, publish nothing, and write what it did to accuracy and size as JSON",
    )
    parser.add_argument(
        "--teacher",
        type=Path,
        metavar="FILE",
        help="network to distill from: the tutor.pt of a training with --tutor (default: the source)",
    )
    flags.add_note(parser)
    flags.add_publishing(parser)
    flags.add_gate(parser)
    flags.add_fields(parser, PruneConfig)


def _prune(options: argparse.Namespace) -> None:
    source = contract.find(options.artifacts, options.source)
    config = PruneConfig(**{field.name: getattr(options, field.name) for field in fields(PruneConfig)})
    if options.study:
        build.use_all_cores()
        variant = options.variant or build.name_of(build.pruned, options.source)
        folder = options.out or Path("runs") / variant
        network = candidates.load_network(source)
        found = prune.study(folder / "study", network, validation_set(options.rendered or 8000), config.steps)
        found |= {"source": source.manifest.version, "machine": evaluate.machine()}
        options.study.parent.mkdir(parents=True, exist_ok=True)
        options.study.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(f"wrote {options.study}")
        return
    _build_one(options, build.pruned, options.out, config=config, note=options.note, teacher=options.teacher)


def _add_quantize(commands: flags.Commands) -> None:
    parser = flags.add_command(
        commands,
        "quantize",
        _quantize,
        help="make an int8 network of a published one, and publish it",
        description="Fold batch normalization, calibrate on rendered plates, measure which layers stay in float, train "
        "with simulated integers where calibration alone loses too much, and publish what reads as well as the "
        "source. A finder or a refiner is calibrated alone. Interrupt it with Ctrl-C; the same command goes on.",
    )
    flags.add_source(parser, "quantize", "choice, checkpoint and log")
    flags.add_publishing(parser)
    flags.add_gate(parser)
    flags.add_fields(parser, QuantizeConfig)


def _quantize(options: argparse.Namespace) -> None:
    config = QuantizeConfig(**{field.name: getattr(options, field.name) for field in fields(QuantizeConfig)})
    if contract.find(options.artifacts, options.source).manifest.task == "read":
        _build_one(options, build.quantized, options.out, config=config)
    else:
        _build_one(options, build.calibrated, options.out, calibration=options.calibration)


def _add_compile(commands: flags.Commands) -> None:
    parser = flags.add_command(
        commands,
        "compile",
        _compile,
        help="compile an artifact with TVM and publish it",
        description="Compile the network of a torch artifact, or the integers of a quantized one, into one library per "
        "CPU level, with the tuning records in model_builder/compile/tuning, and publish it where its logits equal the "
        "source's. The server takes the best library that its CPU can run. With --tune, make the records first: let "
        "nothing else run meanwhile. Interrupt it with Ctrl-C; the same command goes on.",
    )
    parser.add_argument(
        "source", nargs="?", default="baseline", help="torch or quantized artifact to compile (default: %(default)s)"
    )
    names = ", ".join(f"{s.variant} of {s.source}" for s in build.every_stage() if s.make is build.compiled)
    flags.add_variant(parser, f"{names}; of any other, tvm-SOURCE")
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
    flags.add_gate(parser)
    flags.add_publishing(parser)


def _compile(options: argparse.Namespace) -> None:
    from model_builder.compile import compiler, tuner  # TVM takes seconds to import, and no other command needs it

    passes = compiler.stage(options.stage)
    source = contract.find(options.artifacts, options.source)
    network = compiler.network_of(source)
    levels = tuple(map(compiler.level, options.target or ())) or compiler.levels_of(network)
    if options.tune:
        try:
            for level in levels:
                tuner.tune(network, level, options.trials, passes, sizes=compiler.sizes_of(source))
        except KeyboardInterrupt as error:
            raise Interrupted("stopped; the same command goes on with the trials that are left") from error
    _build_one(options, build.compiled, None, levels=tuple(options.target or ()), passes=options.stage)


def _build_one(options: argparse.Namespace, make: "build.Maker", out: Path | None, **settings: Any) -> None:
    """Make one variant of `options.source` as `build` makes them, held to what its source reads."""
    variant = options.variant or build.name_of(make, options.source)
    if variant == options.source:
        raise ValueError(f"{variant} would be replaced by what is made of it: give another --variant")
    source = contract.find(options.artifacts, options.source)  # a wrong name is told at once
    sets = task_of(source.manifest).sets(options.real, options.rendered)
    stage = build.Stage(variant, options.source, partial(make, **settings))
    folder = out or Path("runs") / variant
    refusals = build.build((stage,), options.artifacts, folder, sets, options.max_loss, reference=options.source)
    if refusals:
        raise publish.Refused(f"not published: {refusals[0]}")


def _add_build(commands: flags.Commands) -> None:
    names = ", ".join(stage.variant for stage in build.STAGES)
    others = "; ".join(f"{', '.join(s.variant for s in made)} of {of}" for of, made in build.OTHER_STAGES.items())
    parser = flags.add_command(
        commands,
        "build",
        _build,
        help="make all variants of what was trained, and publish those that read as well",
        description=f"Make the variants of {build.BASELINE} in this order: {names}; and those of other networks, where "
        f"these are published: {others}. Each takes the weights of the variant that is published, where that was made "
        "of the same source with the same settings, and the tuning records in model_builder/compile/tuning. It is "
        "exported, checked against its source, measured and published anew, or left as it is where nothing changed. "
        "Otherwise it is trained: that takes hours. A variant that loses too much is not published; the others are, "
        "and the exit status is 1. Interrupt it with Ctrl-C; the same command goes on.",
    )
    parser.add_argument(
        "--retrain",
        action="store_true",
        help="train and calibrate from scratch, whatever is published (tuning is `compile --tune`)",
    )
    flags.add_publishing(parser)
    flags.add_gate(parser, "what it is made of in the end")


def _build(options: argparse.Namespace) -> None:
    groups = {build.BASELINE: build.STAGES, **build.OTHER_STAGES}
    groups = {name: stages for name, stages in groups.items() if name in contract.variants(options.artifacts)}
    sets = {name: _sets(options, name) for name in groups}  # a mistake in the user's data is told at once
    refusals = []
    for name, stages in groups.items():
        folder = Path("runs") / ("build" if name == build.BASELINE else f"build-{name}")
        refusals += build.build(
            stages, options.artifacts, folder, sets[name], options.max_loss, retrain=options.retrain, reference=name
        )
    if refusals:
        total = sum(map(len, groups.values()))
        raise publish.Refused(f"{len(refusals)} of {total} not published\n" + "\n".join(refusals))


def _sets(options: argparse.Namespace, name: str) -> Mapping[str, Examples]:
    """What variants of an artifact are measured on; `--real` holds crops, so that readers alone are."""
    task = task_of(contract.find(options.artifacts, name).manifest)
    return task.sets(options.real if isinstance(task, Reading) else (), options.rendered)
