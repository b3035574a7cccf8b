"""The load test's table (Markdown), data (JSON) and a figure per variant."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

from model_builder.measure.load.generator import REFUSED
from model_builder.measure.load.trial import HOLD, TRIES, Limits, Step, Trial

Trials = Mapping[str, Mapping[str, Trial]]  # variant -> server -> trial

COLUMNS = (
    *("variant", "server", "load", "requests/s", "p50 ms", "p95 ms", "p99 ms", "answered/s", "429 or 503", "errors"),
    *("health p99 ms", "refusal p99 ms", "batch", "batch max", "queue p99 ms", "CPUs", "MB"),
    *("server p50 ms", "server p99 ms", "counts agree", "generator p99 ms"),
)
SETTINGS: Any = {"svg.hashsalt": "lpr", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
COLOURS = {"lpr": "tab:blue", "LitServe": "tab:orange", "BentoML": "tab:green"}


def write(folder: Path, machine: str, limits: Limits, ceiling: Trial, trials: Trials) -> str:
    """Write load.md, load.json and load-<variant>.svg to `folder`; returns the Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    text = markdown(machine, limits, ceiling, trials)
    (folder / "load.md").write_text(text, encoding="utf-8")
    data = {"machine": machine, "limits": limits, "ceiling": ceiling, "trials": trials}
    (folder / "load.json").write_text(json.dumps(_plain(data), indent=1) + "\n", encoding="utf-8")
    for variant, servers in trials.items():
        figure(folder / f"load-{variant}.svg", variant, machine, limits, servers)
    return text


def _plain(data: Any) -> Any:
    """Dataclasses as objects, and null in place of NaN, which JSON does not have."""
    match data:
        case float():
            return None if math.isnan(data) else data
        case dict():
            return {str(key): _plain(value) for key, value in data.items()}
        case list() | tuple():
            return [_plain(value) for value in data]
        case _ if is_dataclass(data):
            return _plain({part.name: getattr(data, part.name) for part in fields(data)})
    return data


def markdown(machine: str, limits: Limits, ceiling: Trial, trials: Trials) -> str:
    """What was measured how, what it comes to, and a row per variant, server and load."""
    lines = [
        "# Load",
        "",
        f"Measured by `make loadtest` on {machine}; server and generator share its CPUs, and every server has as many",
        "workers, processes that compute on one thread. One image of 94x24 pixels a request, as a form, at a fixed",
        "rate whatever the answers do, each latency counted from when it was due.",
        f"Sustainable: the highest rate at which most of {TRIES} tries of {HOLD * limits.seconds:g} s had every answer",
        f"200 and p99 at most {limits.p99_ms:g} ms; the search tries each rate as often, for {limits.seconds:g} s. In",
        "brackets is the spread: the lowest rate of which a single try failed, and the highest of which one held.",
        "Overload: three times the sustainable rate. The generator alone, against a server that only answers,",
        f"sustains {_rate(ceiling.sustainable)} requests a second.",
        "",
        *_summary(trials, limits),
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"|{' --- |' * len(COLUMNS)}",
    ]
    for variant, servers in trials.items():
        for server, trial in servers.items():
            for step in filter(None, (trial.sustainable, trial.overload)):
                lines.append(f"| {' | '.join(_row(variant, server, step))} |")
    lines += ["", *(f"![{variant}](load-{variant}.svg)" for variant in trials), "", *LEGEND]
    return "\n".join(lines) + "\n"


LEGEND = (
    "`health p99` is that of a health probe sent beside the load, `refusal p99` that of those answers, `CPUs` the",
    "cores that the server kept busy, `MB` its memory with all processes, what they share counted once. `server p50`,",
    "`server p99` and `queue p99` are what /metrics tells of the same seconds (within a bucket, interpolated), `counts",
    "agree` whether it counted as many requests as were sent, `generator p99` how late the generator itself sent.",
)


def _summary(trials: Trials, limits: Limits) -> Iterator[str]:
    for variant, servers in trials.items():
        rates = {name: trial.sustainable.rate if trial.sustainable else 0 for name, trial in servers.items()}
        peers = {name: rate for name, rate in rates.items() if name != "lpr"}
        told = f"- `{variant}`: {_rate(servers['lpr'].sustainable)} requests a second{_spread(servers['lpr'], limits)}"
        if any(peers.values()):
            best = max(peers, key=lambda name: peers[name])
            told += (
                f", {rates['lpr'] / peers[best]:.2f} times the better peer ({best}: {_rate(servers[best].sustainable)})"
            )
        yield told


def _spread(trial: Trial, limits: Limits) -> str:
    failed, held = (f"{rate:,.0f}" if rate else "none" for rate in trial.spread(limits))
    return f" ({failed} to {held})"


def _row(variant: str, server: str, step: Step) -> list[str]:
    outcome, told = step.outcome, step.told
    answered = outcome.statuses.get(200, 0)
    refused = sum(outcome.statuses.get(status, 0) for status in REFUSED)
    load = "overload" if step.kind == "overload" else "sustainable"
    return [
        *(f"`{variant}`", server, load, f"{step.rate:,.0f}"),
        *(_number(value) for value in (outcome.latency.p50, outcome.latency.p95, outcome.latency.p99)),
        f"{answered / outcome.seconds:,.0f}",
        *(f"{count:,}" for count in (refused, sum(outcome.statuses.values()) - answered - refused)),
        *(_number(value) for value in (outcome.health.p99, outcome.refusal.p99, told.batch, told.batch_max)),
        *(_number(value) for value in (told.queue_p99, step.cpu, step.memory_mb, told.p50, told.p99)),
        {True: "yes", False: f"no: {told.requests:,}" if told.requests else "no", None: ""}[step.counts_agree],
        _number(outcome.lag.p99),
    ]


def _number(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def _rate(step: Step | None) -> str:
    return f"{step.rate:,.0f}" if step else "less than the first rate"


def figure(path: Path, variant: str, machine: str, limits: Limits, servers: Mapping[str, Trial]) -> None:
    """p50 and p99 against the rate, for each server, with its sustainable rate."""
    with pyplot.rc_context(SETTINGS):
        drawing, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
        for server, trial in servers.items():
            colour = COLOURS.get(server.split()[0], "tab:gray")
            steps = sorted(trial.steps, key=lambda step: step.rate)
            for name, style in (("p50", "--"), ("p99", "-")):
                points = _typical([(step.rate, getattr(step.outcome.latency, name)) for step in steps])
                axes.plot(*points, style, marker=".", color=colour, label=f"{server} {name}", linewidth=1)
            if trial.sustainable:
                axes.axvline(trial.sustainable.rate, color=colour, linewidth=0.6)
        axes.axhline(limits.p99_ms, color="gray", linewidth=0.6, linestyle=":")
        axes.set(xscale="log", yscale="log", ylabel="milliseconds from when it was due to its answer")
        axes.set(xlabel=f"requests a second, one plate each; {variant}, {machine}; uprights: sustainable rates")
        for kind in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter, axes.yaxis.set_major_formatter):
            kind("{x:g}")
        axes.tick_params(axis="x", which="minor", labelsize=6)
        axes.legend(fontsize=7, frameon=False)
        drawing.savefig(path, metadata={"Date": None})
        pyplot.close(drawing)


def _typical(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """For each rate the median of its tries, as the search takes their majority."""
    tries: dict[float, list[float]] = {}
    for rate, value in points:
        if not math.isnan(value):
            tries.setdefault(rate, []).append(value)
    return list(tries), [median(values) for values in tries.values()]
