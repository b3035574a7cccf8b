"""`make fuzz`: thousands of damaged and hostile images to a real server; ARGS="--help" for options.

The verdict is bad, and the exit status 1, if an answer was a fault of the server's (5xx) or none at all, if the server
has gone, or if its memory has grown.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from model_builder.measure.load import images, servers
from model_builder.measure.load.images import Case
from service.settings import REPOSITORY, Settings

GONE = "no answer"
READ = "read"
REFUSALS = {400, 413, 415, 422}
GROWTH = 0.05  # of the memory after the warm-up
WARM_UP = 0.2  # of the cases, after which allocators have what they keep


@dataclass
class Tally:
    """What came of each case, by what it was made of and by what was done to it; `bad` ones with their outcome."""

    by_seed: Counter[tuple[str, str]] = field(default_factory=Counter)
    by_mutation: Counter[tuple[str, str]] = field(default_factory=Counter)
    bad: list[tuple[Case, str]] = field(default_factory=list)

    def add(self, case: Case, outcome: str, fine: bool) -> None:
        """Count one."""
        self.by_seed[case.seed.split("-")[0], outcome] += 1
        self.by_mutation[case.mutation, outcome] += 1
        if not fine:
            self.bad.append((case, outcome))

    def table(self) -> str:
        """Both counts, a row for each seed's type and each mutation, a column for each outcome."""
        outcomes = sorted({outcome for _, outcome in self.by_seed}, key=lambda outcome: (outcome != READ, outcome))
        lines = [f"{'':20}" + "".join(f"{outcome:>24}" for outcome in outcomes)]
        for counts in (self.by_seed, self.by_mutation):
            for name in sorted({name for name, _ in counts}):
                lines.append(f"{name:20}" + "".join(f"{counts[name, outcome]:24,}" for outcome in outcomes))
            lines.append("")
        return "\n".join(lines)


def attack(client: httpx.Client, cases: Iterable[Case], tally: Tally) -> None:
    """Send each case, in turn as a body and as a part of a form, and count what comes of it."""
    for case in cases:
        tally.add(case, *_send(client, case))


def _send(client: httpx.Client, case: Case) -> tuple[str, bool]:
    try:
        if case.number % 2:
            answer = client.post("/recognize", content=case.data, headers={"Content-Type": case.media_type})
        else:
            answer = client.post("/recognize", files={"image": ("plate", case.data, case.media_type)})
    except httpx.TransportError:
        return GONE, False
    if answer.status_code == 200:
        return READ, True
    cause = answer.json()["type"].removeprefix("urn:lpr:")
    return f"{answer.status_code} {cause}", answer.status_code in REFUSALS


def main() -> int:
    """Start a server, attack it, tell what came of it."""
    options = _parser().parse_args()
    with servers.running(servers.ours(options.variant)) as running, httpx.Client(base_url=running.url) as client:
        client.timeout = httpx.Timeout(options.patience)
        tally, cases = Tally(), images.cases(options.count, options.seed)
        attack(client, _some(cases, round(WARM_UP * options.count)), tally)
        before = running.usage().memory
        attack(client, cases, tally)
        after, alive = running.usage().memory, running.process.is_running()
    print(tally.table())
    grown = after / before - 1
    print(
        f"memory: {before / 1e6:.0f} MB after the first {WARM_UP:.0%}, {after / 1e6:.0f} MB at the end ({grown:+.1%})"
    )
    for case, outcome in tally.bad:
        options.keep.mkdir(parents=True, exist_ok=True)
        path = options.keep / f"{options.seed}-{case.number}"
        path.write_bytes(case.data)
        print(f"{outcome}: {case.seed}, {case.mutation}, sent as {case.media_type}: {path}")
    good = alive and not tally.bad and grown <= GROWTH
    print(f"{options.count:,} images, {len(tally.bad)} bad answers, server {'alive' if alive else 'gone'}: ", end="")
    print("good" if good else "BAD")
    return 0 if good else 1


def _some(cases: Iterator[Case], count: int) -> Iterator[Case]:
    for _, case in zip(range(count), cases, strict=False):
        yield case


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model_builder.measure.load.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=20_000, help="images (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations (default: %(default)s)")
    parser.add_argument("--variant", default=Settings.model_fields["variant"].default, help="(default: %(default)s)")
    parser.add_argument("--patience", type=float, default=10, help="seconds for each answer (default: %(default)s)")
    parser.add_argument("--keep", type=Path, default=REPOSITORY / "runs" / "fuzz", help="where bad ones are kept")
    return parser


if __name__ == "__main__":
    sys.exit(main())
