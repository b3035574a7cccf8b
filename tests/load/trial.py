"""How many requests a second a server sustains: rising rates until too slow, the edge found, held, then overload."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tests.load import generator, scrape
from tests.load.generator import Load, Outcome
from tests.load.scrape import Told
from tests.load.servers import Running

RISE = 1.5  # from one rate to the next
NARROW = 3  # halvings, as ratios, between the last rate that held and the first that did not: 1.5 ** (1 / 8), 5 %
BACK = 0.95  # from a rate that did not hold for long to the next to try
HOLD = 3  # times as long as the others: the rate that is reported
OVERLOAD = 3
WARM_UP_S = 2.0
SETTLE_S = 0.5  # between a load and the next, so that neither sees what the other left


@dataclass(frozen=True)
class Limits:
    """What counts as sustained: every answer a 200, p99 at most `p99_ms`; each rate is tried for `seconds`."""

    p99_ms: float = 25.0
    seconds: float = 5.0
    start: float = 50.0  # the first rate
    top: float = 20_000.0  # the last


@dataclass(frozen=True)
class Step:
    """One load: requests a second asked for, what came of it, and what the server used and told meanwhile."""

    rate: float
    kind: str  # rise, narrow, hold or overload
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


Watch = Callable[[Step], None]


def find(running: Running, messages: Sequence[bytes], limits: Limits, watch: Watch) -> Trial:
    """Search for the sustainable rate; `watch` is told of each load as it ends."""
    steps: list[Step] = []

    def attempt(rate: float, kind: str, seconds: float) -> Step:
        steps.append(load(running, messages, rate, seconds, kind))
        watch(steps[-1])
        return steps[-1]

    load(running, messages, limits.start, WARM_UP_S, "warm-up")
    good, bad = _rise(limits, lambda rate: _twice(lambda: attempt(rate, "rise", limits.seconds), limits))
    if bad > good:
        for _ in range(NARROW):
            middle = (good * bad) ** 0.5
            if _twice(lambda rate=middle: attempt(rate, "narrow", limits.seconds), limits):  # type: ignore[misc]
                good = middle
            else:
                bad = middle
    held = None
    for rate in _falling(good, limits.start):
        if (step := attempt(rate, "hold", HOLD * limits.seconds)).sustained(limits):
            held = step
            break
    overload = attempt(OVERLOAD * (held.rate if held else limits.start), "overload", limits.seconds)
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


def _rise(limits: Limits, holds: Callable[[float], bool]) -> tuple[float, float]:
    """The last rate that held, or the first of all if none did, and the first that did not, or 0 if all did."""
    good, rate = limits.start, limits.start
    while rate <= limits.top:
        if not holds(rate):
            return good, rate
        good, rate = rate, rate * RISE
    return good, 0.0


def _twice(attempt: Callable[[], Step], limits: Limits) -> bool:
    """Whether one of two attempts held: a pause of the machine that runs all this is not the server's."""
    return attempt().sustained(limits) or attempt().sustained(limits)


def _falling(rate: float, last: float) -> Iterator[float]:
    """From `rate` down; at most as far as the last but one rise."""
    lowest = max(last, rate / RISE**2)
    while rate >= lowest:
        yield rate
        rate *= BACK
