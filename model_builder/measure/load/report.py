"""The load test's result: kept as JSON, and shown as one table and one figure."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

from pydantic import TypeAdapter

from model_builder.measure import blocks, figures
from model_builder.measure.load.generator import REFUSED
from model_builder.measure.load.trial import HOLD, OVERLOAD, TRIES, Limits, Step, Trial
from service.settings import REPOSITORY

RAW: Final = REPOSITORY / "runs" / "load"  # raw data, which is not committed
OURS: Final = "lpr"
FIGURE: Final = "load.svg"


Kind = Literal["crops", "photographs"]
COMMANDS: Final = {"crops": "loadtest", "photographs": "loadtest ARGS='--only photographs'"}
_TITLES: Final = {
    "crops": "## How much does a server sustain?",
    "photographs": "## How many photographs does a server sustain?",
}
_REQUESTS: Final = {
    "crops": "A request is one image of 94x24 pixels in a form.",
    "photographs": "A request is one rendered photograph of 1280x720 pixels in a form, with none to four plates, which "
    "`{finder}` finds. LitServe has the same three networks, and calls them by the same code.",
}


@dataclass(frozen=True)
class Result:
    """What was measured: variant -> server -> trial; `ceiling` is the generator against a server that only answers."""

    machine: str
    commit: str
    limits: Limits
    ceiling: Trial | None
    trials: dict[str, dict[str, Trial]]
    finder: str = ""  # of photographs

    @property
    def kind(self) -> Kind:
        """What was sent."""
        return "photographs" if self.finder else "crops"


def raw(folder: Path, kind: Kind) -> Path:
    """The file of raw data."""
    return folder / ("load.json" if kind == "crops" else f"{kind}.json")


_ADAPTER = TypeAdapter(Result)


def keep(path: Path, result: Result) -> None:
    """Write the raw data."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(result), indent=1) + "\n", encoding="utf-8")  # NaN as Python writes it


def kept(path: Path) -> Result:
    """Read what `keep` wrote."""
    return _ADAPTER.validate_python(json.loads(path.read_text(encoding="utf-8")))


def write(folder: Path, result: Result) -> None:
    """Write the figure, and the load test's block of the report's page; of photographs the block alone."""
    folder.mkdir(parents=True, exist_ok=True)
    text = markdown(result)
    if result.kind == "crops":
        figures.sustained(folder / FIGURE, intervals(result), result.machine)
        text += f"\n\n![Requests a second of each variant, with spread]({FIGURE})"
    blocks.put(folder / blocks.PAGE, COMMANDS[result.kind], text)


def intervals(result: Result) -> dict[str, dict[str, figures.Interval]]:
    """Sustained rates with their spread, of the servers that sustained any."""
    return {
        variant: {
            server: _interval(trial.sustainable.rate, *trial.spread(result.limits))
            for server, trial in servers.items()
            if trial.sustainable
        }
        for variant, servers in _fastest_first(result)
    }


def _fastest_first(result: Result) -> list[tuple[str, dict[str, Trial]]]:
    def rate(item: tuple[str, dict[str, Trial]]) -> float:
        step = item[1][OURS].sustainable
        return step.rate if step else 0.0

    return sorted(result.trials.items(), key=rate, reverse=True)


def _interval(rate: float, failed: float | None, held: float | None) -> figures.Interval:
    return figures.Interval(min(rate, failed or rate), rate, max(rate, held or rate))


def markdown(result: Result) -> str:
    """How it was measured, and the table."""
    limits = result.limits
    peers = [*dict.fromkeys(name for servers in result.trials.values() for name in servers if name != OURS)]
    head = ["", "requests/s", "spread", "p50 ms", "p99 ms", "memory, MB", *peers, "times the better peer"]
    head += [f"answered/s at {OVERLOAD} times the rate", "p99 ms of these", "p99 ms of a health probe"]
    rows = [_row(variant, servers, peers, limits) for variant, servers in _fastest_first(result)]
    return "\n\n".join(
        [
            _TITLES[result.kind],
            f"`make {COMMANDS[result.kind]}` on {result.machine}, commit {result.commit}. Server and generator share "
            "the CPUs, and every server has as many workers, each a process that computes on one thread. "
            f"{_REQUESTS[result.kind].format(finder=result.finder)} Requests are sent at a fixed rate whatever the "
            "answers do; each latency counts from when the request was due.",
            f"{_method(limits)} The spread runs from the lowest rate at which a single try failed to the highest at "
            f"which one held.{_ceiling(result)}",
            blocks.table(head, rows),
            " ".join(_faults(result)),
        ]
    )


def _ceiling(result: Result) -> str:
    if result.ceiling is None:
        return ""
    rate = _rate(result.ceiling.sustainable)
    return f" The generator alone, against a server that only answers, sustains {rate} requests a second."


def _method(limits: Limits) -> str:
    return (
        f"Sustained is the highest rate at which most of {TRIES} tries of {HOLD * limits.seconds:g} s had only answers "
        f"200 and a p99 of at most {limits.p99_ms:g} ms."
    )


def _row(variant: str, servers: dict[str, Trial], peers: Sequence[str], limits: Limits) -> list[str]:
    ours = servers[OURS]
    rates = {name: servers[name].sustainable for name in peers if name in servers}
    best = max((step.rate for step in rates.values() if step), default=None)
    step, over = ours.sustainable, ours.overload
    cells = [
        f"`{variant}`",
        _rate(step),
        " to ".join(f"{rate:,.0f}" if rate else "none" for rate in ours.spread(limits)),
    ]
    cells += (
        [f"{step.outcome.latency.p50:.1f}", f"{step.outcome.latency.p99:.1f}", f"{step.memory_mb:.0f}"]
        if step
        else 3 * [""]
    )
    cells += [_rate(rates[name]) if name in rates else "" for name in peers]
    cells += [f"{step.rate / best:.2f}" if step and best else ""]
    answered = over.outcome.statuses.get(200, 0) / over.outcome.seconds
    return [*cells, f"{answered:,.0f}", f"{over.outcome.latency.p99:,.0f}", f"{over.outcome.health.p99:.0f}"]


def _faults(result: Result) -> Iterator[str]:
    """What should not have happened: answers that are neither 200 nor a refusal, and requests that were not counted."""
    steps = {OURS: list[Step](), "others": list[Step]()}
    for trials in result.trials.values():
        for name, trial in trials.items():
            steps[OURS if name == OURS else "others"] += trial.steps
    errors = ", ".join(f"{sum(map(_errors, found)):,} of {name}" for name, found in steps.items())
    uncounted = sum(step.counts_agree is False for found in steps.values() for step in found)
    yield f"Answers other than 200, {' and '.join(map(str, REFUSED))}: {errors}."
    over = {status for trials in result.trials.values() for status in trials[OURS].overload.outcome.statuses}
    yield f"At {OVERLOAD} times the rate, {OURS} answered with {', '.join(map(str, sorted(over)))}."
    yield f"Loads of which /metrics counted another number of requests than were sent: {uncounted:,}."


def _errors(step: Step) -> int:
    return sum(count for status, count in step.outcome.statuses.items() if status not in (200, *REFUSED))


def _rate(step: Step | None) -> str:
    return f"{step.rate:,.0f}" if step else "less than the first rate"
