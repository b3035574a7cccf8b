"""The folder of a training that has come to its end: its network with its origin, saved, loaded and published."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch

from model_builder import build, candidates, publish
from model_builder.networks.finder import Finder
from model_builder.networks.reader import LPRNet
from model_builder.networks.refiner import FORM, Refiner
from model_builder.plates.kinds import ALPHABET
from model_builder.tasks import READING, REFINING, Finding, Reading, Task
from model_builder.tasks.finding import SIZES
from model_builder.train.labels import DataError
from service.artifact import Artifact, Grammar, Origin

NETWORK: Final = "network.pt"
GRAMMAR: Final = "grammar.json"  # of a reader that was trained with further countries
_VARIANT: Final = "variant"  # the name to publish as

Network = LPRNet | Finder | Refiner

VARIANTS: Final[dict[type[Network], str]] = {LPRNet: "baseline", Finder: "finder", Refiner: "refiner"}  # default names
_CONFIGURED: Final[dict[str, Callable[[Any], Network]]] = {
    LPRNet.__name__: lambda saved: LPRNet.configured(len(ALPHABET) + 1, saved),
    Finder.__name__: Finder.configured,
    Refiner.__name__: Refiner.configured,
}


def save(folder: Path, variant: str, origin: Origin, network: Network) -> None:
    """Write what `load` and `variant_in` read."""
    saved = {
        "kind": type(network).__name__,
        "origin": origin.model_dump(mode="json"),
        "network": network.configuration(),
        "weights": network.state_dict(),
    }
    torch.save(saved, folder / NETWORK)
    (folder / _VARIANT).write_text(variant, encoding="utf-8")


def variant_in(folder: Path) -> str | None:
    """The name that a training was to be published as; None where an older version of this program trained."""
    path = folder / _VARIANT
    return path.read_text(encoding="utf-8").strip() if path.is_file() else None


def task_in(folder: Path) -> Task:
    """The task of a reader that was trained in a folder, with the grammar of the plates that it was trained on."""
    path = folder / GRAMMAR
    return Reading(Grammar.model_validate_json(path.read_bytes())) if path.is_file() else READING


def load(folder: Path) -> tuple[Origin, Network]:
    """What a training saved: how its network was made, and the network. Raises DataError."""
    path = folder / NETWORK
    if not path.is_file():
        raise DataError(f"there is no {path}: give the folder of a training that has come to its end")
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        origin = Origin.model_validate(saved["origin"])
        network = _CONFIGURED[saved.get("kind", LPRNet.__name__)](saved["network"])
        network.load_state_dict(saved["weights"])
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is not what a training saves, or is damaged: train again") from error
    return origin, network


def task(network: Network, refiner: str | None = None) -> Task:
    """The task of a network; `refiner` is the variant that refines what a finder finds (default: refiner)."""
    match network:
        case Finder():
            return Finding(refiner or VARIANTS[Refiner])
        case Refiner():
            return REFINING
        case _:
            return READING


def candidate(
    variant: str, network: Network, origin: Origin, refiner: str | None = None, reading: Task = READING
) -> candidates.Candidate:
    """What publishes a network: LPRNet as a torch program, from which others are made, the others as ONNX."""
    if isinstance(network, LPRNet):
        return candidates.torch_candidate(variant, network, origin, reading)
    size = SIZES[0] if isinstance(network, Finder) else FORM.size
    return candidates.traced_candidate(variant, network, size, origin, task(network, refiner))


def publish_run(root: Path, folder: Path, variant: str, sets: dict[str, Any], refiner: str | None = None) -> Artifact:
    """Publish what a training left below `root`, and print what was measured."""
    origin, network = load(folder)
    published = publish.publish(root, candidate(variant, network, origin, refiner, task_in(folder)), sets)
    print(f"published {published.folder} {published.manifest.version}")
    build.print_figures(published)
    return published
