"""Commands that train a network and publish what a training left: train and publish."""

import argparse
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, Final

from model_builder import build, candidates
from model_builder.commands import finding, flags, own_crops, run_folder
from model_builder.networks.reader import LPRNet
from model_builder.plates import kinds
from model_builder.tasks import READING
from model_builder.train import labels
from model_builder.train.finder import FinderConfig
from model_builder.train.loop import TrainConfig, train
from model_builder.train.refiner import RefinerConfig
from service import artifact as contract
from service.artifact import Origin, Source
from service.artifact.provenance import OwnCrops, Trained

_FINE_TUNING = TrainConfig(steps=600, learning_rate=1e-3, warmup=50, log_every=100)
_USERS: Final = "fine-tuned"  # default name of what a user trains of a published reader, or for a country
_CONFIGS: Final[dict[str, type[Any]]] = {"reader": TrainConfig, "finder": FinderConfig, "refiner": RefinerConfig}
# Options of some networks alone, beside the fields of configurations.
_OF: Final = {
    "data": ("reader",),
    "source": ("reader",),
    "country": ("reader",),
    "backgrounds": ("finder", "refiner"),
    "fonts": ("reader", "finder", "refiner"),
    "refiner": ("finder",),
    "finder": ("refiner",),
}


def add(commands: flags.Commands) -> None:
    """Add the commands."""
    _add_train(commands)
    _add_publish(commands)


def _add_train(commands: flags.Commands) -> None:
    parser = flags.add_command(
        commands,
        "train",
        _train,
        help="train from rendered plates or scenes, or fine-tune on a folder of crops, and publish",
        description="Train LPRNet on rendered plates and publish it; or the finder of plates in photographs, or the "
        "refiner of their corners, on rendered scenes. With --data, fine-tune the published LPRNet on your own crops "
        "instead, half of each batch, rendered plates the other half. Interrupt it with Ctrl-C; the same command goes "
        "on.",
    )
    parser.add_argument(
        "--network", choices=_CONFIGS, default="reader", help="which network to train (default: %(default)s)"
    )
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="reader: your crops: labels.csv with file,text")
    parser.add_argument(
        "--hold-out",
        type=flags.held_out,
        default=0.1,
        metavar="SHARE",
        help="share of your crops that is not trained on, but read before and after (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, help="checkpoint and log (default: runs/VARIANT)")
    parser.add_argument(
        "--variant",
        type=flags.name,
        help="name (default: baseline, finder or refiner; fine-tuned with --data, --source or --country)",
    )
    flags.add_note(parser)
    parser.add_argument(
        "--country",
        type=Path,
        action="append",
        metavar="FILE",
        help="reader: a country's kinds of plate besides; may be repeated",
    )
    parser.add_argument("--source", help="reader: artifact to start from (default: none; baseline with --data)")
    finding.add_options(parser)
    flags.add_publishing(parser)
    for field in _fields():
        flag = "--" + field.name.replace("_", "-")
        parser.add_argument(flag, type=flags.of(field), help=_defaults(field.name))


def _fields() -> list[Any]:
    """The fields of all configurations, each name once."""
    return list({field.name: field for config in _CONFIGS.values() for field in fields(config)}.values())


def _defaults(name: str) -> str:
    """The default of a field for each network that has it, where they differ."""
    found = {network: getattr(config(), name) for network, config in _CONFIGS.items() if hasattr(config(), name)}
    found |= {"with --data": tuned} if (tuned := getattr(_FINE_TUNING, name, None)) != found.get("reader") else {}
    if set(found) >= set(_CONFIGS) and len(set(found.values())) == 1:
        return f"default: {found['reader']}"
    return "default: " + "; ".join(f"{value} {who}" for who, value in found.items())


def _train(options: argparse.Namespace) -> None:
    # Before anything else is done: a mistake in the user's data is told at once.
    given = {f.name: value for f in _fields() if (value := getattr(options, f.name)) is not None}
    known = {field.name for field in fields(_CONFIGS[options.network])}
    strange = [name for name in given if name not in known]
    strange += [name for name, of in _OF.items() if getattr(options, name) and options.network not in of]
    if strange:
        raise ValueError(f"--{strange[0].replace('_', '-')} is no option of --network {options.network}")
    _TRAININGS[options.network](options, given)


def _train_reader(options: argparse.Namespace, given: dict[str, Any]) -> None:
    config = replace(_FINE_TUNING if options.data else TrainConfig(), **given)
    # The published readers are never overwritten by what a user trains of them.
    users = options.data or options.source or options.country
    variant = options.variant or (_USERS if users else run_folder.VARIANTS[LPRNet])
    plates = kinds.beside(options.country or ())
    folder = options.out or Path("runs") / variant
    own, held = None, None
    if options.data:
        own, held = own_crops.split(labels.read_folder(options.data), options.hold_out, config.seed)
    source = options.source or ("baseline" if own else None)
    start = contract.find(options.artifacts, source) if source else None
    if not 0 <= config.kept <= 1:
        raise ValueError(f"--kept is a share from 0 to 1, not {config.kept}")
    if config.kept and not start:
        raise ValueError("--kept is of a network to start from: give its variant as --source")
    initial = candidates.load_network(start) if start else None
    sets = READING.sets(options.real, options.rendered, own_crops.HELD_OUT)
    before = None
    if start and own and held:
        sets[own_crops.HELD_OUT] = held
        labels.write_folder(folder / own_crops.HELD_OUT, held, suffix=".png", replace=True)
        print(f"{len(own.texts)} crops to train on; {len(held.texts)} held out, in {folder / own_crops.HELD_OUT}")
        before = own_crops.read_by(start, held)
        build.print_score(f"{own_crops.HELD_OUT} before, read by {source}", before)
    build.use_all_cores()
    network = train(folder, config, own=own, initial=initial, fonts=options.fonts or (), plates=plates)
    crops = OwnCrops(trained=len(own.texts), held_out=len(held.texts)) if own and held else None
    origin = Origin(
        seed=config.seed,
        source=Source.of(start.manifest) if start else None,
        made=Trained(settings=asdict(config), own_crops=crops),
        note=options.note,
    )
    run_folder.save(folder, variant, origin, network)
    (folder / run_folder.GRAMMAR).write_text(kinds.grammar(plates).model_dump_json(), encoding="utf-8")
    published = run_folder.publish_run(options.artifacts, folder, variant, sets)
    if before and published.manifest.measured:
        after = published.manifest.measured.accuracy[own_crops.HELD_OUT]
        print(f"{own_crops.HELD_OUT}: {before.exact} of {before.total} exact before, {after.exact} after")


_TRAININGS: Final = {"reader": _train_reader, "finder": finding.train_finder, "refiner": finding.train_refiner}


def _add_publish(commands: flags.Commands) -> None:
    parser = flags.add_command(
        commands, "publish", _republish, help="publish (again) what a training left in its folder"
    )
    parser.add_argument("folder", type=Path, help="the training's folder, such as runs/baseline")
    flags.add_variant(parser, "that of the training")
    parser.add_argument("--refiner", type=flags.name, help="of a finder: variant that refines what it finds")
    flags.add_publishing(parser)


def _republish(options: argparse.Namespace) -> None:
    origin, network = run_folder.load(options.folder)
    held = options.folder / own_crops.HELD_OUT
    sets = dict(run_folder.task(network).sets(options.real, options.rendered, own_crops.HELD_OUT))
    if held.is_dir():
        sets |= labels.read_sets([held])
    usual = _USERS if origin.source else run_folder.VARIANTS[type(network)]
    variant = options.variant or run_folder.variant_in(options.folder) or usual
    run_folder.publish_run(options.artifacts, options.folder, variant, sets, options.refiner)
