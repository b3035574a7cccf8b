"""Commands that show and write rendered plates, and the font of their characters: preview, render and font."""

import argparse
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from model_builder import evaluate
from model_builder.commands import flags
from model_builder.commands.finding import photographs_in
from model_builder.measure import preview, scene_preview
from model_builder.plates import kinds, webfont
from model_builder.render.plate import Renderer, batch
from model_builder.render.scene import SceneRenderer
from model_builder.train import labels
from model_builder.train.data import SHIPPED_SEED, Crops

_SHOWN: Final = 96


def add(commands: flags.Commands) -> None:
    """Add the commands."""
    _add_preview(commands)
    _add_render(commands)
    _add_font(commands)


def _add_preview(commands: flags.Commands) -> None:
    parser = flags.add_command(commands, "preview", _preview, help="write a contact sheet of rendered plates or scenes")
    parser.add_argument("--out", type=Path, default=Path("preview.png"), help="image to write (default: %(default)s)")
    parser.add_argument("--seed", type=flags.natural, default=0, help="seed of the first one (default: %(default)s)")
    parser.add_argument(
        "--kind",
        action="append",
        metavar="NAME",
        help="a kind, a region or a country's file to show; may be repeated (default: a row of every kind)",
    )
    parser.add_argument("--count", type=flags.positive, help="plates by their shares, or of each kind given, or scenes")
    parser.add_argument("--columns", type=flags.positive, help="a row (default: 8, or 4 with --scenes)")
    parser.add_argument("--scenes", action="store_true", help="draw scenes, with the outlines of their plates")
    parser.add_argument("--backgrounds", type=Path, action="append", metavar="FOLDER", help="of --scenes")
    parser.add_argument("--fonts", type=Path, action="append", metavar="FOLDER", help="of --scenes")
    parser.add_argument("--real", type=Path, metavar="FOLDER", help="a set of real images to show in every other row")


def _preview(options: argparse.Namespace) -> None:
    image = _scenes(options) if options.scenes else _plates(options)
    preview.write(options.out, image)
    print(f"wrote {options.out}")


def _plates(options: argparse.Namespace) -> NDArray[np.uint8]:
    real = labels.read_set(options.real) if options.real else None
    columns = options.columns or 8
    plates = [plate for name in options.kind or () for plate in kinds.named(name)]
    count = options.count or (_SHOWN if plates or real else None)
    if count is None:
        plates, count = list(kinds.PLATES), columns
    return preview.sheet(options.seed, count, columns, real, plates)


def _scenes(options: argparse.Namespace) -> NDArray[np.uint8]:
    renderer = SceneRenderer(photographs_in(options.backgrounds or ()), options.fonts or ())
    return scene_preview.sheet(renderer, options.seed, options.count or 24, options.columns or 4, options.real)


def _add_render(commands: flags.Commands) -> None:
    parser = flags.add_command(
        commands,
        "render",
        _render,
        help="write rendered plates as a labelled folder",
        description="Write rendered plates as a set: labels.csv with file,text, and images/. The defaults are those "
        f"that made {evaluate.SHIPPED.name}, which comes with the repository: seeds that neither training nor "
        "validation nor any choice of the builder draws from. Typefaces that are installed join in.",
    )
    parser.add_argument("folder", type=Path, help="folder to write")
    parser.add_argument("--count", type=flags.positive, default=500, help="plates (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=SHIPPED_SEED, help="of the first plate (default: %(default)s)")


def _render(options: argparse.Namespace) -> None:
    images, texts = batch(Renderer(), options.seed, options.count)
    labels.write_folder(options.folder, Crops(images, texts))
    print(f"wrote {options.count} plates to {options.folder}")


def _add_font(commands: flags.Commands) -> None:
    parser = flags.add_command(commands, "font", _font, help="write the web font of Chinese characters for the page")
    parser.add_argument("--out", type=Path, default=webfont.FILE, help="file to write (default: the page's own)")


def _font(options: argparse.Namespace) -> None:
    webfont.write(options.out)
    print(f"wrote {len(webfont.CHARACTERS)} characters to {options.out}")
