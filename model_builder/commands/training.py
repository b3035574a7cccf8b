"""Commands that train a network and publish what a training left: train and publish."""

import argparse
import pickle
from dataclasses import asdict, fields, replace
from pathlib import Path

import torch

from model_builder import build, candidates, evaluate, publish
from model_builder.commands import flags, own_crops
from model_builder.networks.reader import LPRNet
from model_builder.plates.kinds import ALPHABET
from model_builder.train import labels
from model_builder.train.data import Crops
from model_builder.train.labels import DataError
from model_builder.train.loop import TrainConfig, train
from service import artifact as contract
from service.artifact import Artifact, Origin, Source
from service.artifact.provenance import OwnCrops, Trained

_NETWORK = "network.pt"
_FINE_TUNING = TrainConfig(steps=600, learning_rate=1e-3, warmup=50, log_every=100)


def add(commands: flags.Commands) -> None:
    """Add the commands."""
    _add_train(commands)
    _add_publish(commands)


def _add_train(commands: flags.Commands) -> None:
    parser = flags.add_command(
        commands,
        "train",
        _train,
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
    flags.add_note(parser)
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
    _save(folder / _NETWORK, origin, network)
    published = _publish_run(options, folder, variant, sets)
    if before and published.manifest.measured:
        after = published.manifest.measured.accuracy[own_crops.HELD_OUT]
        print(f"{own_crops.HELD_OUT}: {before.exact} of {before.total} exact before, {after.exact} after")


def _save(path: Path, origin: Origin, network: LPRNet) -> None:
    saved = {
        "origin": origin.model_dump(mode="json"),
        "network": network.configuration(),
        "weights": network.state_dict(),
    }
    torch.save(saved, path)


def _add_publish(commands: flags.Commands) -> None:
    parser = flags.add_command(
        commands, "publish", _republish, help="publish (again) what a training left in its folder"
    )
    parser.add_argument("folder", type=Path, help="the training's folder, such as runs/baseline")
    parser.add_argument(
        "--variant", type=flags.name, default="baseline", help="name to publish as (default: %(default)s)"
    )
    flags.add_publishing(parser)


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
