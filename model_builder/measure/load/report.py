"""The load test's result: kept as JSON, and shown as one table and one figure."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from model_builder.measure import blocks, figures
from model_builder.measure.load.generator import REFUSED
from model_builder.measure.load.trial import HOLD, OVERLOAD, TRIES, Limits, Step, Trial
from service.settings import REPOSITORY

KEPT: Final = REPOSITORY / "runs" / "load" / "load.json"  # raw data, which is not committed
OURS: Final = "lpr"


@dataclass(frozen=True)
class Result:
    """What was measured: variant -> server -> trial; `ceiling` is the generator against a server that only answers."""

    machine: str
    commit: str
    limits: Limits
    ceiling: Trial
    trials: dict[str, dict[str, Trial]]


_ADAPTER = TypeAdapter(Result)


def keep(path: Path, result: Result) -> None:
    """Write the raw data."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(result), indent=1) + "\n", encoding="utf-8")  # NaN as Python writes it


def kept(path: Path) -> Result:
    """Read what `keep` wrote."""
    return _ADAPTER.validate_python(json.loads(path.read_text(encoding="utf-8")))


def write(folder: Path, result: Result) -> None:
    """Write the figure, and the load test's block of the report's page."""
    folder.mkdir(parents=True, exist_ok=True)
    figures.sustained(folder / "load.svg", intervals(result), result.machine)
    blocks.put(folder / blocks.PAGE, "loadtest", markdown(result))


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
    """How it was measured, the table and the figure."""
    limits = result.limits
    peers = [*dict.fromkeys(name for servers in result.trials.values() for name in servers if name != OURS)]
    head = ["", "requests/s", "spread", "p50 ms", "p99 ms", "memory, MB", *peers, "times the better peer"]
    head += [f"answered/s at {OVERLOAD} times the rate", "p99 ms of these", "p99 ms of a health probe"]
    rows = [_row(variant, servers, peers, limits) for variant, servers in _fastest_first(result)]
    return "\n\n".join(
        [
            "## How much does a server sustain?",
            f"`make loadtest` on {result.machine}, commit {result.commit}. Server and generator share the CPUs, and "
            "every server has as many workers, each a process that computes on one thread. A request is one image of "
            "94x24 pixels in a form. Requests are sent at a fixed rate whatever the answers do; each latency counts "
            "from when the request was due.",
            f"{_method(limits)} The spread runs from the lowest rate at which a single try failed to the highest at "
            "which one held. The generator alone, against a server that only answers, sustains "
            f"{_rate(result.ceiling.sustainable)} requests a second.",
            "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)),
            " ".join(_faults(result)),
            "![Requests a second of each variant, with spread](load.svg)",
        ]
    )


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
    steps = [step for servers in result.trials.values() for trial in servers.values() for step in trial.steps]
    errors = sum(
        count for step in steps for status, count in step.outcome.statuses.items() if status not in (200, *REFUSED)
    )
    uncounted = sum(step.counts_agree is False for step in steps)
    yield f"Answers other than 200, {' and '.join(map(str, REFUSED))}: {errors:,}."
    yield f"Loads of which /metrics counted another number of requests than were sent: {uncounted:,}."


def _rate(step: Step | None) -> str:
    return f"{step.rate:,.0f}" if step else "less than the first rate"
