"""Command measure-bulk: photographs a second of `lpr bulk`."""

import argparse
import shutil
from pathlib import Path

from model_builder.commands import flags
from model_builder.commands.finding import photographs_in
from model_builder.measure import bulk
from model_builder.render.scene import SceneRenderer


def add(commands: flags.Commands) -> None:
    """Add the command."""
    parser = flags.add_command(
        commands,
        "measure-bulk",
        _measure,
        help="measure `lpr bulk` with one and two workers",
        description="Write rendered photographs of 640 x 480 pixels and read them, first by one worker, then by two. "
        "Let nothing else run. Photographs that are there already are not drawn again.",
    )
    parser.add_argument("folder", type=Path, help="folder to write")
    parser.add_argument("--count", type=flags.positive, default=20_000, help="files (default: %(default)s)")
    parser.add_argument(
        "--distinct", type=flags.positive, default=500, help="of them drawn; others are links (default: %(default)s)"
    )
    parser.add_argument(
        "--backgrounds", type=Path, action="append", metavar="FOLDER", help="photographs without plates"
    )


def _measure(options: argparse.Namespace) -> None:
    images = options.folder / "images"
    bulk.write(images, SceneRenderer(photographs_in(options.backgrounds or ())), options.count, options.distinct)
    runs = []
    for workers in (1, 2):
        output = options.folder / f"by-{workers}.parquet"
        shutil.rmtree(output, ignore_errors=True)
        runs.append(bulk.measure(images, output, workers))
    drawn = min(options.count, options.distinct)
    print(f"{options.count} files of 640 x 480 pixels, {drawn} of them drawn, the others links to these")
    print(bulk.table(options.count, runs))
