"""`make soak`: ten minutes at 70 % of the sustainable rate; ARGS="--help" for options.

The verdict is bad, and the exit status 1, if an answer was not 200, if memory at the end is over 3 % more than after
the first minute, or if latency has drifted: the last third of the minutes beside the first one.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from model_builder.measure.load import report, servers, trial
from model_builder.measure.load.__main__ import find, messages, plates
from model_builder.measure.load.trial import Limits, Step
from service import host
from service.settings import Settings

SHARE = 0.7
GROWTH = 0.03
DRIFT = {"p50": 0.10, "p99": 0.25}  # of the earlier median; less than a fifth of a millisecond is none
LEAST_DRIFT_MS = 0.2
IMAGES = 64


def main() -> int:
    """Start a server, load it, print each minute and the verdict."""
    options = _parser().parse_args()
    images = plates(IMAGES)
    steps: list[Step] = []
    with servers.running(servers.ours(options.variant, workers=str(options.workers), threads="1")) as running:
        rate = options.rate or SHARE * (_known(options.raw, options.variant) or _found(running, images))
        print(f"{options.variant}: {rate:,.0f} requests a second, {options.minutes} times {options.seconds:g} s")
        for minute in range(1, options.minutes + 1):
            step = trial.load(running, messages(images), rate, options.seconds, "soak")
            steps.append(step)
            latency = step.outcome.latency
            print(
                f"{minute:3}: p50 {latency.p50:.2f}, p95 {latency.p95:.2f}, p99 {latency.p99:.2f} ms, "
                f"{step.memory_mb:.1f} MB, {step.cpu:.2f} CPUs, {step.outcome.statuses}",
                flush=True,
            )
    faults = verdict(steps)
    grown = steps[-1].memory_mb / steps[0].memory_mb - 1
    print(f"Memory {grown:+.1%} since the end of the first minute. Verdict: {'; '.join(faults) or 'good'}.")
    return 1 if faults else 0


def verdict(steps: Sequence[Step]) -> list[str]:
    """Faults of a soak of at least three loads, each as part of a sentence; empty if there are none."""
    faults = []
    statuses = {status for step in steps for status in step.outcome.statuses}
    if statuses != {200}:
        faults.append(f"answers other than 200: {sorted(statuses - {200})} (0: none)")
    first, last = steps[0].memory_mb, steps[-1].memory_mb
    if last > first * (1 + GROWTH):
        faults.append(f"memory grew from {first:.1f} to {last:.1f} MB")
    third = max(1, len(steps) // 3)
    for name, allowed in DRIFT.items():
        values = [float(getattr(step.outcome.latency, name)) for step in steps]
        early, late = statistics.median(values[:third]), statistics.median(values[-third:])
        if not late - early <= max(LEAST_DRIFT_MS, allowed * early):  # written so that NaN is a fault too
            faults.append(f"{name} drifted from {early:.2f} to {late:.2f} ms")
    return faults


def _known(raw: Path, variant: str) -> float | None:
    """The sustainable rate as `make loadtest` found it, if it did."""
    if not raw.exists():
        return None
    trial = report.kept(raw).trials.get(variant, {}).get(report.OURS)
    return trial.sustainable.rate if trial and trial.sustainable else None


def _found(running: servers.Running, images: list[bytes]) -> float:
    sustainable = find(running, images, Limits()).sustainable
    if sustainable is None:
        raise SystemExit("Not even the first rate is sustained: choose one with --rate.")
    return sustainable.rate


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model_builder.measure.load.soak", description=__doc__)
    parser.add_argument("--variant", default=Settings.model_fields["variant"].default, help="(default: %(default)s)")
    parser.add_argument("--rate", type=float, help="requests a second (default: 70 %% of what is sustainable)")
    parser.add_argument("--minutes", type=int, default=10, help="loads, one after the other (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=60, help="of each (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=host.available(), help="LPR_WORKERS (default: %(default)s)")
    known = report.raw(report.RAW, "crops")
    parser.add_argument("--raw", type=Path, default=known, help="of make loadtest")
    return parser


if __name__ == "__main__":
    sys.exit(main())
