"""Figures of the report and of the load test: a row for each variant, a dot for each value, a line for its interval.

Names stand on the axis and values on scales, so no label can lie on another one.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

_SETTINGS: Any = {"svg.hashsalt": "lpr", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
_COLOURS = ("tab:blue", "tab:orange", "tab:green")


class Interval(NamedTuple):
    """A value between a lower and an upper one."""

    low: float
    value: float
    high: float


class Contender(NamedTuple):
    """A row of the comparison: milliseconds a plate, and the share that was read."""

    name: str
    ours: bool
    milliseconds: Interval
    exact: Interval


def comparison(path: Path, rows: Sequence[Contender], machine: str, read: str) -> None:
    """Speed and accuracy side by side, the first row on top; others than ours are grey."""
    with _drawn(path, (8, 1 + 0.25 * len(rows)), columns=2) as (left, right):
        for y, row in enumerate(rows):
            colour = _COLOURS[0] if row.ours else "gray"
            _dot(left, row.milliseconds, y, colour)
            _dot(right, Interval(*(100 * share for share in row.exact)), y, colour)
        left.set_yticks(range(len(rows)), [row.name for row in rows])
        left.invert_yaxis()
        _logarithmic(left)
        left.set(xlabel=f"milliseconds a plate, one thread, {machine}")
        right.set(xlabel=read)


def sustained(path: Path, variants: Mapping[str, Mapping[str, Interval]], machine: str) -> None:
    """Requests a second of each variant, a colour for each server."""
    servers = [*dict.fromkeys(server for found in variants.values() for server in found)]
    with _drawn(path, (8, 1.2 + 0.45 * len(variants))) as (axes,):
        for y, found in enumerate(variants.values()):
            for server, interval in found.items():
                place = servers.index(server)
                _dot(axes, interval, y + 0.2 * (place - (len(servers) - 1) / 2), _COLOURS[place % len(_COLOURS)])
        axes.set_yticks(range(len(variants)), [*variants])
        axes.invert_yaxis()
        _logarithmic(axes)
        for server, colour in zip(servers, _COLOURS, strict=False):
            axes.plot([], [], "o", color=colour, label=server)
        axes.legend(ncols=len(servers), loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)
        axes.set(xlabel=f"requests a second, one plate each, {machine}")


def reliability(path: Path, sets: Mapping[str, Sequence[tuple[float, Interval]]]) -> None:
    """Of each set, the mean confidence of readings across, and the share of them that is exact upwards."""
    with _drawn(path, (5, 5)) as (axes,):
        axes.plot([0, 1], [0, 1], color="gray", linewidth=0.8)
        axes.grid(axis="y", linewidth=0.3)
        for (name, points), colour in zip(sets.items(), cycle(_COLOURS)):
            x, shares = [sure for sure, _ in points], [share for _, share in points]
            errors = [[max(0, s.value - s.low) for s in shares], [max(0, s.high - s.value) for s in shares]]
            values = [s.value for s in shares]
            axes.errorbar(x, values, yerr=errors, fmt="o-", markersize=4, linewidth=1, color=colour, label=name)
        axes.legend(loc="upper left", frameon=False)
        axes.set(xlabel="confidence", ylabel="share of the readings that is exact")


def _dot(axes: Axes, interval: Interval, y: float, colour: str) -> None:
    low, value, high = interval
    axes.errorbar(value, y, xerr=[[value - low], [high - value]], fmt="o", markersize=4, linewidth=1, color=colour)


def _logarithmic(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


@contextmanager
def _drawn(path: Path, size: tuple[float, float], columns: int = 1) -> Iterator[Sequence[Axes]]:
    """Axes side by side; the figure is written when the block ends, the same bytes for the same data."""
    with pyplot.rc_context(_SETTINGS):
        figure, axes = pyplot.subplots(1, columns, figsize=size, layout="constrained", sharey=True, squeeze=False)
        for each in axes[0]:
            each.grid(axis="x", linewidth=0.3)
        yield list(axes[0])
        figure.savefig(path, metadata={"Date": None})
        pyplot.close(figure)
