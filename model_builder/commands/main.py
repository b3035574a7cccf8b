"""The builder's command line: each command has its own --help, and its group a file beside this one."""

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from model_builder.commands import bulk, measuring, rendering, training, variants, video
from model_builder.train.labels import DataError
from model_builder.train.loop import Interrupted
from service.errors import LprError


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; 0 when done, 1 for an error that is told on stderr, 130 when interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m model_builder", description="Make and measure models; each command has its own --help."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for group in (training, variants, rendering, measuring, video, bulk):
        group.add(commands)
    options = parser.parse_args(arguments)
    with _interruptible() as stopped:
        try:
            options.run(options)
        except Interrupted as error:
            print(error, file=sys.stderr)
            return 130
        except Exception as error:
            if stopped:  # raised inside a pass of TVM, a KeyboardInterrupt comes out as a RuntimeError
                raise KeyboardInterrupt from error
            if not isinstance(error, DataError | LprError | ValueError | OSError):
                raise
            print(f"error: {error}", file=sys.stderr)
            return 1
    return 0


@contextmanager
def _interruptible() -> Iterator[list[int]]:
    """SIGINT and SIGTERM raise KeyboardInterrupt; yields a list of those that came.

    A job in the background ignores SIGINT unless told.
    """
    stopped: list[int] = []

    def stop(number: int, _frame: object) -> None:
        stopped.append(number)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
