"""Trainings of the finder and of the refiner, for the command train."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from torch import nn

from model_builder import build
from model_builder.commands import flags, run_folder
from model_builder.graph import onnx
from model_builder.graph.fake_quantized import plain
from model_builder.tasks import REFINING, Finding
from model_builder.train import finder, refiner
from model_builder.train.finder import FinderConfig
from model_builder.train.labels import DataError
from model_builder.train.refiner import RefinerConfig
from service import artifact as contract
from service.artifact import Origin
from service.artifact.provenance import Trained
from service.backends.onnxruntime import MODEL

_PHOTOGRAPHS: Final = (".jpg", ".jpeg", ".png", ".webp")


def add_options(parser: argparse.ArgumentParser) -> None:
    """What the reader's training does not have."""
    folders: dict[str, Any] = {"type": Path, "action": "append", "metavar": "FOLDER"}
    parser.add_argument(
        "--backgrounds",
        **folders,
        help="finder, refiner: photographs without plates to draw scenes on; may be repeated (default: drawn ones)",
    )
    parser.add_argument("--fonts", **folders, help="typefaces beside those installed; may be repeated")
    parser.add_argument(
        "--refiner", type=flags.name, help="finder: variant that refines what it finds (default: refiner)"
    )
    parser.add_argument(
        "--finder",
        metavar="VARIANT_OR_FOLDER",
        help="refiner: a finder whose answers are samples, its false alarms too: an ONNX artifact, or the folder of a "
        "training that has come to its end (default: none)",
    )


def train_finder(options: argparse.Namespace, given: dict[str, Any]) -> None:
    """Train and publish a finder; `given` are the fields of its configuration that are not left at their defaults."""
    config, variant = FinderConfig(**given), options.variant or "finder"
    photographs = photographs_in(options.backgrounds or ())
    sets = Finding().sets(options.real, options.rendered)
    folder = options.out or Path("runs") / variant
    build.use_all_cores()
    network = finder.train(folder, config, photographs, options.fonts or ())
    run_folder.save(folder, variant, _origin(options, config), network)
    run_folder.publish_run(options.artifacts, folder, variant, sets, options.refiner)


def train_refiner(options: argparse.Namespace, given: dict[str, Any]) -> None:
    """Train and publish a refiner; `given` are the fields of its configuration that are not left at their defaults."""
    config, variant = RefinerConfig(**given), options.variant or "refiner"
    photographs = photographs_in(options.backgrounds or ())
    found_by = _finder(options.artifacts, options.finder) if options.finder else None
    sets = REFINING.sets(options.real, options.rendered)
    folder = options.out or Path("runs") / variant
    build.use_all_cores()
    network = refiner.train(folder, config, photographs, options.fonts or (), finder=found_by)
    run_folder.save(folder, variant, _origin(options, config), network)
    run_folder.publish_run(options.artifacts, folder, variant, sets)


def photographs_in(folders: Sequence[Path]) -> list[Path]:
    """The photographs in folders and below, in an order that does not depend on the machine. Raises DataError."""
    found: list[Path] = []
    for folder in folders:
        inside = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _PHOTOGRAPHS)
        if not inside:
            raise DataError(f"{folder} holds no photograph ({', '.join(_PHOTOGRAPHS)})")
        found += inside
    return found


def _origin(options: argparse.Namespace, config: FinderConfig | RefinerConfig) -> Origin:
    return Origin(seed=config.seed, made=Trained(settings=asdict(config)), note=options.note)


def _finder(artifacts: Path, name: str) -> nn.Module:
    """A finder in float: what a training left in the folder `name`, or the network of an artifact of that name."""
    if (Path(name) / run_folder.NETWORK).is_file():
        return run_folder.load(Path(name))[1]
    source = contract.find(artifacts, name)
    if source.manifest.task != "find" or MODEL not in source.manifest.files:
        raise DataError(f"{source.folder} holds no finder as ONNX: give the variant that others were made of")
    return plain(onnx.read(source.file(MODEL)))
