"""The report's figures, drawn from its data: accuracy against latency, sensitivity, stages, ablation."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot
from matplotlib.axes import Axes

_STAGES = ("decode_ms", "preprocess_ms", "queue_ms", "inference_ms", "postprocess_ms")
_SETTINGS: Any = {"svg.hashsalt": "lpr", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}


Points = Mapping[str, tuple[float, float, float]]  # name -> milliseconds, % exact, bytes


def pareto(path: Path, variants: Points, peers: Points, machine: str, accuracy: str) -> None:
    """Accuracy against latency, area by size, and the front of those that none beats in both; peers as empty rings."""
    with _axes(path, (8, 4.5)) as axes:
        for name, (latency, exact, size) in (*variants.items(), *peers.items()):
            look: Any = {"facecolors": "none", "edgecolors": "gray"} if name in peers else {"alpha": 0.5}
            axes.scatter(latency, exact, s=size / 1e4, **look)
            # Slanted, because many lie side by side; peers below, because a variant may lie on its peer.
            place: Any = {"xytext": (2, 8), "rotation": 40, "color": "black"}
            if name in peers:
                place = {"xytext": (2, -8), "rotation": -40, "color": "gray", "va": "top"}
            axes.annotate(name, (latency, exact), textcoords="offset points", fontsize=8, **place)
        front = _front([(latency, exact) for latency, exact, _ in (*variants.values(), *peers.values())])
        axes.margins(0.1, 0.3)
        axes.set(xscale="log", xlabel=f"milliseconds a plate, one thread, {machine}; area: size of the file")
        axes.set(ylabel=accuracy)
        # The front goes on to the right, where slower ones would have to read more, and down, where faster ones may.
        right, bottom = axes.get_xlim()[1], axes.get_ylim()[0]
        line = [(front[0][0], bottom), *front, (right, front[-1][1])]
        axes.step([x for x, _ in line], [y for _, y in line], where="post", linewidth=0.8, color="gray")
        axes.set(xlim=(None, right), ylim=(bottom, None))
        for kind in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
            kind("{x:g}")


def _front(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    best, front = float("-inf"), []
    for latency, exact in sorted(points, key=lambda point: (point[0], -point[1])):
        if exact > best:
            best = exact
            front.append((latency, exact))
    return front


def sensitivity(path: Path, study: Mapping[str, Any]) -> None:
    """Accuracy of each layer pruned alone."""
    with _axes(path, (7, 4)) as axes:
        for name, accuracies in study["sensitivity"].items():
            shares = [0, *(100 * ratio for ratio in study["ratios"])]
            axes.plot(shares, [100 * a for a in (study["unpruned"], *accuracies)], marker=".", label=name)
        axes.legend(fontsize=7)
        axes.set(xlabel="weights of that layer set to 0 (L1), %", ylabel="rendered plates read, % exact")


def stages(path: Path, variants: Mapping[str, Mapping[str, Any]], machine: str) -> None:
    """Where a request's time goes in the server, per variant."""
    with _axes(path, (7, 1.2 + 0.3 * len(variants))) as axes:
        names = [*variants]
        start = [0.0] * len(names)
        for stage in _STAGES:
            times = [variants[name]["serving"][stage] for name in names]
            axes.barh(names, times, left=start, label=stage.removesuffix("_ms"))
            start = [a + b for a, b in zip(start, times, strict=True)]
        axes.legend(fontsize=7, ncols=len(_STAGES), loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)
        axes.invert_yaxis()
        axes.set(xlabel=f"milliseconds in the server, median, one thread, {machine}")


def ablation(path: Path, rows: Mapping[str, float], machine: str) -> None:
    """Milliseconds a plate after each pass of the compiler."""
    with _axes(path, (7, 0.8 + 0.3 * len(rows))) as axes:
        bars = axes.barh([*rows], [*rows.values()])
        axes.bar_label(bars, fmt=" %.2f")
        axes.invert_yaxis()
        axes.set(xscale="log", xlabel=f"milliseconds a plate, one thread, {machine}")


@contextmanager
def _axes(path: Path, size: tuple[float, float]) -> Iterator[Axes]:
    """Axes whose figure is written when the block ends, the same bytes for the same data."""
    with pyplot.rc_context(_SETTINGS):
        figure, axes = pyplot.subplots(figsize=size, layout="constrained")
        yield axes
        figure.savefig(path, metadata={"Date": None})
        pyplot.close(figure)
