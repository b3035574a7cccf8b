"""Options that commands share, and types of options: a value out of range is a usage error before anything is done."""

import argparse
import math
import re
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, TypeAlias

from model_builder.publish import Gate

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
Run = Callable[[argparse.Namespace], None]

ARTIFACTS = Path(__file__).resolve().parents[2] / "artifacts"

_FROM_0 = ("steps", "warmup", "workers", "seed", "last_steps")  # whole numbers that may be 0; the others are at least 1
_POINTS = ("layer_loss", "calibrated_loss")
_SHARES = ("decay", "average", "dropout", "drill", "hidden")


def add_command(
    commands: Commands, name: str, run: Run, *, help: str, description: str | None = None
) -> argparse.ArgumentParser:
    """A command that calls `run` with its options."""
    parser = commands.add_parser(name, help=help, description=description)
    parser.set_defaults(run=run)
    return parser


def add_variant(parser: argparse.ArgumentParser, default: str) -> None:
    """`--variant`: the name to publish as; `default` tells which it is where none is given."""
    parser.add_argument("--variant", type=name, help=f"name to publish as (default: {default})")


def add_source(parser: argparse.ArgumentParser, purpose: str, files: str) -> None:
    """What a training starts from, what it is published as, and the folder that it leaves `files` in."""
    parser.add_argument("--source", default="baseline", help=f"artifact to {purpose} (default: %(default)s)")
    add_variant(parser, f"{purpose}d, or SOURCE-{purpose}d")
    parser.add_argument("--out", type=Path, help=f"{files} (default: runs/VARIANT)")


def add_artifacts(parser: argparse.ArgumentParser) -> None:
    """`--artifacts`: where artifacts are."""
    parser.add_argument("--artifacts", type=Path, default=ARTIFACTS, help="folder of artifacts (default: %(default)s)")


def add_note(parser: argparse.ArgumentParser) -> None:
    """`--note`."""
    parser.add_argument("--note", help="kept in the manifest's provenance: what its other fields don't tell")


def add_publishing(parser: argparse.ArgumentParser) -> None:
    """Where artifacts are, and what accuracy is measured on."""
    add_artifacts(parser)
    add_real(parser, "to measure accuracy on")
    parser.add_argument(
        "--rendered",
        type=positive,
        help="rendered plates to measure on, which no training looks at; fewer tell less: of 2000, 0.3 points are six "
        "plates (default: 8000 plates; for finders 500 scenes, for refiners 4000 crops)",
    )


def add_real(parser: argparse.ArgumentParser, purpose: str) -> None:
    """`--real`, as a list of folders."""
    parser.add_argument(
        "--real",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help=f"photographs or crops {purpose}: a set (labels.csv and images), or a folder of sets; may be repeated",
    )


def add_gate(parser: argparse.ArgumentParser, reference: str = "the source") -> None:
    """`--max-loss`."""
    parser.add_argument(
        "--max-loss",
        type=points,
        default=Gate.max_loss,
        help=f"points of rendered accuracy that may be lost against {reference} (default: %(default)s)",
    )


def add_fields(parser: argparse.ArgumentParser, config: type[Any]) -> None:
    """An option for each field of a configuration, a dataclass whose fields are `option`s."""
    for field in fields(config):
        flag, reason = "--" + field.name.replace("_", "-"), field.metadata["help"]
        parser.add_argument(flag, type=of(field), default=field.default, help=f"{reason} (default: %(default)s)")


def positive(text: str) -> int:
    """A whole number of at least 1."""
    return _whole(text, 1)


def natural(text: str) -> int:
    """A whole number of at least 0."""
    return _whole(text, 0)


def bits(text: str) -> int:
    """Bits of a weight: 2 to 8."""
    return _whole(text, 2, 8)


def _whole(text: str, least: int, most: int = (1 << 31) - 1) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if not least <= value <= most:
        raise argparse.ArgumentTypeError(f"{text[:50]!r} is no whole number from {least} to {most}")
    return value


def number(text: str) -> float:
    """A finite number of at least 0."""
    return _between(text, 0, math.inf)


def points(text: str) -> float:
    """A finite number, such as -1 where something has to be gained."""
    return _between(text, -math.inf, math.inf)


def share(text: str) -> float:
    """A number from 0 to 1."""
    return _between(text, 0, 1)


def held_out(text: str) -> float:
    """A number over 0 and up to a half."""
    value = _between(text, 0, 0.5)
    if value == 0:
        raise argparse.ArgumentTypeError("something has to be held out, or nobody knows what the training brought")
    return value


def _between(text: str, low: float, high: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (low <= value <= high and math.isfinite(value)):
        limits = f"number from {low} to {high}" if math.isfinite(high) else "finite number"
        limits += " of at least 0" if (low, high) == (0, math.inf) else ""
        raise argparse.ArgumentTypeError(f"{text[:50]!r} is no {limits}")
    return value


def name(text: str) -> str:
    """A variant's name, which is that of its folder."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", text):
        raise argparse.ArgumentTypeError(
            f"{text[:50]!r} is no name of a variant: letters, digits, '.', '_' and '-', but the first no '.' nor '-'"
        )
    return text


def of(field: "Field[Any]") -> Any:
    """The type of a configuration's field."""
    assert field.default is not MISSING
    match field.default:
        case int() if field.name == "bits":
            return bits
        case int():
            return natural if field.name in _FROM_0 else positive
        case float() if field.name in _POINTS:
            return points
        case float():
            return share if field.name in _SHARES else number
        case _:
            return str
