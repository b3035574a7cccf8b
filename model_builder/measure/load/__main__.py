"""`make loadtest`: what a server sustains beside LitServe and BentoML: crops by each variant, then photographs;
ARGS="--help" for options."""

import argparse
import csv
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Final

from model_builder import evaluate
from model_builder.measure.load import generator, report, scenes, servers, trial
from model_builder.measure.load.report import Kind, Result
from model_builder.measure.load.servers import Running, Server
from model_builder.measure.load.trial import Limits, Step, Trial
from service import artifact, host
from service.settings import REPOSITORY, Settings

PEERS: dict[str, Callable[..., Server]] = {"litserve": servers.litserve, "bentoml": servers.bentoml}
PLATES = REPOSITORY / "model_builder" / "plates-500"
CHECKED = 8  # read by every server before the load: all must read the same
PEERS_OF: Final[dict[Kind, Sequence[str]]] = {"crops": ("litserve", "bentoml"), "photographs": ("litserve",)}
LIMITS: Final[dict[Kind, Limits]] = {"crops": Limits(), "photographs": Limits(p99_ms=100, seconds=4, start=10)}


IMAGES: Final[dict[Kind, Callable[[], list[bytes]]]] = {  # sent in turn
    "crops": lambda: plates(64),
    "photographs": lambda: scenes.photographs(1280, 720, 32),
}


def main() -> int:
    """Measure, write the report's blocks and print them."""
    options = _parser().parse_args()
    for kind in [options.only] if options.only else IMAGES:
        result = report.kept(report.raw(options.raw, kind)) if options.redraw else _measured(options, kind)
        report.write(options.out, result)
        print(report.markdown(result))
    return 0


def _measured(options: argparse.Namespace, kind: Kind) -> Result:
    limits, images, settings = _limits(options, LIMITS[kind]), IMAGES[kind](), Settings()
    finder = (settings.finder or "") if kind == "photographs" else ""
    if kind == "photographs" and not finder:
        raise SystemExit(f"There is no finder in {settings.artifacts}: photographs are left out.")
    machine = f"{evaluate.machine()} ({host.available()} CPUs)"
    fast = replace(limits, start=max(500.0, limits.start))
    ceiling = measure(servers.trivial(), images, fast) if kind == "crops" else None
    result = Result(machine, evaluate.commit(), limits, ceiling, {}, finder)
    every = artifact.readers(settings.artifacts) if kind == "crops" else [settings.variant]
    chosen = {"workers": str(options.workers), "threads": "1", "finder": finder}
    for variant in options.variants or every:
        trials, expected = result.trials.setdefault(variant, {}), None
        peers = [PEERS[name](variant, **chosen) for name in PEERS_OF[kind] if name in options.peers]
        for server in (servers.ours(variant, **chosen), *peers):
            with _started(server, variant) as running:
                texts = [running.texts(image) for image in images[:CHECKED]]
                if texts != (expected := expected or texts):
                    raise SystemExit(f"{server.name} reads {texts}, but {expected} was expected: not the same model.")
                trials[server.name] = find(running, images, limits)
            report.keep(report.raw(options.raw, kind), result)  # so that an interruption loses little
    return result


def _limits(options: argparse.Namespace, default: Limits) -> Limits:
    names = (field.name for field in fields(Limits))
    return replace(default, **{name: value for name in names if (value := getattr(options, name)) is not None})


def measure(server: Server, images: list[bytes], limits: Limits) -> Trial:
    """Start a server and search for what it sustains."""
    with _started(server, "") as running:
        return find(running, images, limits)


def find(running: Running, images: list[bytes], limits: Limits) -> Trial:
    """Search for what a server sustains, telling of each load on stderr."""
    return trial.find(running, messages(images), limits, _tell)


def messages(images: list[bytes]) -> list[bytes]:
    """Each image as a request that all servers here understand."""
    return [generator.message("/recognize", *generator.form(image)) for image in images]


def plates(count: int) -> list[bytes]:
    """The first rendered plates of the repository: JPEGs of 94x24 pixels."""
    with (PLATES / "labels.csv").open(encoding="utf-8") as table:
        files = [row["file"] for row in csv.DictReader(table)][:count]
    return [(PLATES / "images" / file).read_bytes() for file in files]


@contextmanager
def _started(server: Server, variant: str) -> Iterator[Running]:
    print(f"{server.name} {variant}", file=sys.stderr)
    with servers.running(server) as running:
        yield running


def _tell(step: Step) -> None:
    outcome = step.outcome
    print(
        f"  {step.kind:8} {step.rate:9,.1f}/s  p50 {outcome.latency.p50:7.2f}  p95 {outcome.latency.p95:7.2f}  "
        f"p99 {outcome.latency.p99:7.2f} ms  {outcome.statuses}  generator {outcome.cpu:.2f} CPUs, "
        f"{outcome.lag.p99:.2f} ms late; server {step.cpu:.2f} CPUs, {step.memory_mb:.0f} MB",
        file=sys.stderr,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model_builder.measure.load", description=__doc__)
    parser.add_argument("--only", choices=IMAGES, help="what to send (default: both, one after the other)")
    parser.add_argument(
        "--variants", nargs="*", default=[], help="those to measure (default: all; for photographs the default variant)"
    )
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS), help="default: all; none: no peers")
    _add_limit(parser, "--seconds", "seconds", "of each try of a rate")
    _add_limit(parser, "--start", "start", "first requests a second")
    _add_limit(parser, "--top", "top", "last requests a second")
    _add_limit(parser, "--p99", "p99_ms", "limit in milliseconds")
    parser.add_argument(
        "--workers", type=int, default=host.available(), help="processes of a thread each, the peers' too (%(default)s)"
    )
    parser.add_argument("--out", type=Path, default=REPOSITORY / "report", help="folder of the page (default: report)")
    parser.add_argument("--raw", type=Path, default=report.RAW, help="folder of raw data (default: runs/load)")
    parser.add_argument("--redraw", action="store_true", help="measure nothing: write again what --raw holds")
    return parser


def _add_limit(parser: argparse.ArgumentParser, flag: str, field: str, purpose: str) -> None:
    usual = "; ".join(f"{kind}: {getattr(limits, field):g}" for kind, limits in LIMITS.items())
    parser.add_argument(flag, dest=field, type=float, metavar="N", help=f"{purpose} ({usual})")


if __name__ == "__main__":
    sys.exit(main())
