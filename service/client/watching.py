"""The command `lpr watch`: its options. What it runs is imported when it runs."""

import argparse
from contextlib import suppress
from pathlib import Path
from typing import Any

Commands = Any  # of argparse, which hides their type


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "watch",
        help="read the plates that pass in videos and before cameras",
        description="Watch files, streams and cameras: one event for each plate that passes, as a JSON object a line "
        "on stdout, and to whatever else is named. Exit status: 0 at the end of all files, or when stopped; 1 if a "
        "file could not be read. The documentation is docs/video.md.",
    )
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="a file, an address (rtsp://, http://, ...), or the number or device of a camera; NAME=SOURCE names it",
    )
    parser.add_argument("--fps", type=_over_0, default=5.0, metavar="N", help="frames a second to look at (default: 5)")
    parser.add_argument(
        "--realtime", action="store_true", help="play files at their own pace, and drop as a camera does"
    )
    parser.add_argument(
        "--min-confidence",
        type=_share,
        default=0.3,
        metavar="SHARE",
        help="of an event (default: %(default)s)",
    )
    parser.add_argument(
        "--after",
        type=_over_0,
        default=10.0,
        metavar="SECONDS",
        help="tell of a plate that stays after so long (default: %(default)g)",
    )
    parser.add_argument(
        "--again",
        type=_over_0,
        default=30.0,
        metavar="SECONDS",
        help="tell of the same plate again only after so long without it (default: %(default)g)",
    )
    parser.add_argument("--list", type=Path, action="append", default=[], metavar="FILE", help="plates to look out for")
    parser.add_argument("--quiet", action="store_true", help="write no events to stdout")
    parser.add_argument("--events", type=Path, metavar="FILE", help="append events to this file, a JSON object a line")
    parser.add_argument("--webhook", metavar="ADDRESS", help="post events there, signed with LPR_WEBHOOK_SECRET")
    parser.add_argument("--mqtt", metavar="ADDRESS", help="publish events: mqtt://USER@HOST; LPR_MQTT_PASSWORD")
    parser.add_argument(
        "--queue",
        type=Path,
        default=Path("lpr-watch.sqlite"),
        metavar="FILE",
        help="what receivers have not taken yet (default: %(default)s)",
    )
    parser.add_argument("--keep-crops", type=Path, metavar="FOLDER", help="keep the best picture of each plate there")
    parser.add_argument("--retain", type=_over_0, default=24.0, metavar="HOURS", help="of --keep-crops (default: 24)")
    parser.set_defaults(run=_watch)


def _watch(options: argparse.Namespace) -> int:
    from service.video.run import run

    return run(options)


def _over_0(text: str) -> float:
    with suppress(ValueError):
        if 0 < (value := float(text)) <= 1e6:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is no number over 0")


def _share(text: str) -> float:
    with suppress(ValueError):
        if 0 <= (value := float(text)) <= 1:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 to 1")
