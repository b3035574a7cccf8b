"""The command `lpr bulk`: its options. What it runs is imported when it runs."""

import argparse
import sys
from typing import Any, Final

from service.client import files
from service.errors import printable

SIZE: Final = 256  # images a partition
ALL_READ, SOME_NOT_READ = 0, 1  # exit statuses


def add_command(commands: Any) -> Any:
    """Add the command to those of `lpr`; returns its parser, which lacks the options of reading."""
    parser = commands.add_parser(
        "bulk",
        help="read millions of images into Parquet files",
        description="Read the images at INPUT on all cores, or on a cluster of Ray, into the folder OUTPUT of Parquet "
        "files: a row for each plate, one row for an image without. Both may be any address that fsspec knows "
        "(/folder, s3://bucket/folder, s3://bucket/*.jpg). After an interruption, the same command goes on. Exit "
        "status: 0 if all images were read, 1 if some could not be, 2 if none was tried. The documentation is "
        "docs/bulk.md.",
    )
    parser.add_argument("input", metavar="INPUT", help="an image, a folder, or a pattern such as 'a/*.jpg'")
    parser.add_argument("output", metavar="OUTPUT", help="folder to write, such as plates.parquet")
    parser.add_argument("--workers", type=_count, default=0, metavar="N", help="engines (default: one for each core)")
    parser.add_argument("--address", metavar="ADDRESS", help="of a cluster of Ray (default: this machine alone)")
    parser.add_argument(
        "--partition", type=_count, default=SIZE, metavar="N", help="images in a file of OUTPUT (default: %(default)s)"
    )
    parser.set_defaults(run=run)
    return parser


def run(options: argparse.Namespace) -> int:
    """Read all images; returns the exit status. Raises LprError where none can be tried."""
    from service.bulk import listing
    from service.bulk import run as bulk

    found = listing.find(options.input, files.SUFFIXES)
    chosen = {"top_k": options.top_k, "find": options.find, "min_confidence": options.min_confidence}
    chosen |= {"formats": _names(options.format), "regions": _names(options.region)}
    done = bulk.run(
        found,
        options.output,
        bulk.Options(options.variant, chosen, options.partition, options.workers, options.address),
    )
    unread = f", with {done.unread_before} images that were not read" if done.unread_before else ""
    before = f" {done.before} partitions were there already{unread}." if done.before else ""
    told = f"{done.images - done.errors} images read with {done.plates} plates, {done.errors} not.{before}"
    print(f"lpr: {told} {printable(options.output)}", file=sys.stderr)
    return SOME_NOT_READ if done.errors or done.unread_before else ALL_READ


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _count(text: str) -> int:
    if text.isdecimal() and (count := int(text)) > 0:
        return count
    raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
