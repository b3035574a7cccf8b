"""How many requests a second a server sustains: rising rates until too slow, the edge found, held, then overload.

A pause of the machine that runs all this is not the server's, so no rate is judged by one try: what the majority of
TRIES tells counts, and a rate that failed is asked again later, in case the pause was longer than its tries.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from model_builder.measure.load import generator, scrape
from model_builder.measure.load.generator import Load, Outcome
from model_builder.measure.load.scrape import Told
from model_builder.measure.load.servers import Running

RISE = 2.0  # from one rate to the next
NARROW = 4  # halvings, as ratios, between the last rate that held and the first that did not: 2 ** (1 / 16), 4 %
AGAIN = 3  # times that the search goes on from a rate that failed, and held when it was asked again
BACK = 0.95  # from a rate that did not hold for long to the next to try
TRIES = 3  # of a rate; their majority decides
HOLD = 3  # times as long as the others: the tries of the rate that is reported
OVERLOAD = 3
WARM_UP_S = 2.0
SETTLE_S = 0.5  # between a load and the next, so that neither sees what the other left


@dataclass(frozen=True)
class Limits:
    """What counts as sustained: every answer a 200, p99 at most `p99_ms`; each try of a rate lasts `seconds`."""

    p99_ms: float = 25.0
    seconds: float = 2.0
    start: float = 50.0  # the first rate
    top: float = 20_000.0  # the last


@dataclass(frozen=True)
class Step:
    """One load: requests a second asked for, what came of it, and what the server used and told meanwhile."""

    rate: float
    kind: str  # rise, narrow, again, hold or overload
    outcome: Outcome
    told: Told
    cpu: float  # cores busy
    memory_mb: float  # at its end

    def sustained(self, limits: Limits) -> bool:
        """Whether all were answered, and in time."""
        return set(self.outcome.statuses) == {200} and self.outcome.latency.p99 <= limits.p99_ms

    @property
    def counts_agree(self) -> bool | None:
        """Whether /metrics counted as many requests as were sent; None where it doesn't count them."""
        return None if self.told.requests is None else self.told.requests == sum(self.outcome.statuses.values())


@dataclass(frozen=True)
class Trial:
    """All loads of one server; `sustainable` is the one that held, None where not even the first rate did."""

    steps: tuple[Step, ...]
    sustainable: Step | None
    overload: Step

    def spread(self, limits: Limits) -> tuple[float | None, float | None]:
        """The lowest rate of which a single try failed, and the highest of which one held; None where there is none."""
        tries = [step for step in self.steps if step.kind != "overload"]
        failed = (step.rate for step in tries if not step.sustained(limits))
        held = (step.rate for step in tries if step.sustained(limits))
        return min(failed, default=None), max(held, default=None)


Watch = Callable[[Step], None]
Try = Callable[[float, str], Step]


def find(running: Running, messages: Sequence[bytes], limits: Limits, watch: Watch) -> Trial:
    """Search for the sustainable rate; `watch` is told of each load as it ends."""
    steps: list[Step] = []

    def attempt(rate: float, kind: str) -> Step:
        seconds = (HOLD if kind == "hold" else 1) * limits.seconds
        steps.append(load(running, messages, rate, seconds, kind))
        watch(steps[-1])
        return steps[-1]

    load(running, messages, limits.start, WARM_UP_S, "warm-up")
    held = _held(attempt, _edge(attempt, limits), limits)
    overload = attempt(OVERLOAD * (held.rate if held else limits.start), "overload")
    return Trial(tuple(steps), held, overload)


def load(running: Running, messages: Sequence[bytes], rate: float, seconds: float, kind: str) -> Step:
    """One load, with what the server used and told from just before it to just after."""
    before, used = scrape.scrape(running.url), running.usage()
    health = generator.message(running.server.health, method="GET")
    outcome = generator.run(Load(running.port, messages, health, rate, seconds))
    after = running.usage()
    time.sleep(SETTLE_S)
    told = scrape.between(before, scrape.scrape(running.url))
    return Step(rate, kind, outcome, told, (after.cpu_s - used.cpu_s) / outcome.seconds, after.memory / 1e6)


def _edge(attempt: Try, limits: Limits) -> float:
    """The highest rate that holds, within 2 ** (1 / 16); the first of all where none does."""
    good, bad = _rise(attempt, 0.0, limits.start, limits)
    for _ in range(AGAIN):
        if not bad:
            break
        if good:
            good, bad = _narrow(attempt, good, bad, limits)
        if not _holds(attempt, bad, "again", limits):
            break
        good, bad = _rise(attempt, bad, bad * RISE, limits)
    return good or limits.start


def _rise(attempt: Try, good: float, rate: float, limits: Limits) -> tuple[float, float]:
    """The last rate from `rate` up that held, or `good`, and the first that did not, or 0 where all did."""
    while rate <= limits.top:
        if not _holds(attempt, rate, "rise", limits):
            return good, rate
        good, rate = rate, rate * RISE
    return good, 0.0


def _narrow(attempt: Try, good: float, bad: float, limits: Limits) -> tuple[float, float]:
    """The same two rates, closer to each other."""
    for _ in range(NARROW):
        middle = (good * bad) ** 0.5
        good, bad = (middle, bad) if _holds(attempt, middle, "narrow", limits) else (good, middle)
    return good, bad


def _held(attempt: Try, rate: float, limits: Limits) -> Step | None:
    """A typical try of the highest rate that holds for long, from `rate` down to a quarter of it."""
    lowest = max(limits.start, rate / RISE**2)
    while rate >= lowest:
        if tries := _majority(attempt, rate, "hold", limits):
            return tries[len(tries) // 2]
        rate *= BACK
    return None


def _holds(attempt: Try, rate: float, kind: str, limits: Limits) -> bool:
    return bool(_majority(attempt, rate, kind, limits))


def _majority(attempt: Try, rate: float, kind: str, limits: Limits) -> list[Step]:
    """The tries that held, by p99, where they are the majority of TRIES; else none. Ends once that is decided."""
    held: list[Step] = []
    failed = 0
    while max(len(held), failed) <= TRIES // 2:
        step = attempt(rate, kind)
        if step.sustained(limits):
            held.append(step)
        else:
            failed += 1
    return sorted(held, key=lambda step: step.outcome.latency.p99) if len(held) > failed else []
