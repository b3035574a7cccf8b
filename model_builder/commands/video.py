"""Commands for rendered videos: render-video and evaluate-video."""

import argparse
from pathlib import Path

from model_builder.commands import flags
from model_builder.commands.finding import photographs_in
from model_builder.measure import video
from model_builder.render.video import VideoRenderer
from service.video.engines import Engines
from service.video.watch import Options


def add(commands: flags.Commands) -> None:
    """Add the commands."""
    _add_render(commands)
    _add_evaluate(commands)


def _add_render(commands: flags.Commands) -> None:
    parser = flags.add_command(
        commands,
        "render-video",
        _render,
        help="write rendered videos of plates that pass",
        description=f"Write videos of 1280 x 720 pixels and {video.TRUTH}: what passes in them, and when.",
    )
    parser.add_argument("folder", type=Path, help="folder to write")
    parser.add_argument("--count", type=flags.positive, default=50, help="videos (default: %(default)s)")
    parser.add_argument("--seed", type=flags.natural, default=7_000_000, help="of the first (default: %(default)s)")
    parser.add_argument("--fps", type=flags.positive, default=5, help="frames a second (default: %(default)s)")
    parser.add_argument(
        "--backgrounds", type=Path, action="append", metavar="FOLDER", help="photographs without plates"
    )
    parser.add_argument(
        "--fonts", type=Path, action="append", metavar="FOLDER", help="typefaces beside those installed"
    )


def _render(options: argparse.Namespace) -> None:
    renderer = VideoRenderer(photographs_in(options.backgrounds or ()), options.fonts or ())
    video.write(options.folder, renderer, options.seed, options.count, options.fps)
    print(f"wrote {options.count} videos to {options.folder}")


def _add_evaluate(commands: flags.Commands) -> None:
    parser = flags.add_command(
        commands,
        "evaluate-video",
        _evaluate,
        help="watch rendered videos, and compare the events with what passes",
        description="Watch the videos of render-video as `lpr watch` does; let nothing else run where speed counts.",
    )
    parser.add_argument("folder", type=Path, help="what render-video wrote")
    flags.add_artifacts(parser)
    parser.add_argument("--variant", type=flags.name, default="world", help="that reads (default: %(default)s)")
    parser.add_argument("--finder", type=flags.name, default="finder-fast", help="that finds (default: %(default)s)")
    parser.add_argument(
        "--fps", type=flags.positive, default=5, help="frames a second to look at (default: %(default)s)"
    )
    parser.add_argument("--errors", action="store_true", help="name each passage that is not exact")


def _evaluate(options: argparse.Namespace) -> None:
    with Engines(options.artifacts, options.variant, options.finder) as engines:
        score, speed = video.evaluate(options.folder, engines, Options(fps=options.fps))
    if options.errors:
        print("\n".join(score.wrong))
    print(video.table(score, speed))
