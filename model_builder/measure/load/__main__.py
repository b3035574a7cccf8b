"""`make loadtest`: what each variant sustains behind our server, LitServe and BentoML; ARGS="--help" for options."""

import argparse
import csv
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from model_builder import evaluate
from model_builder.measure.load import generator, report, servers, trial
from model_builder.measure.load.report import Result
from model_builder.measure.load.servers import Running, Server
from model_builder.measure.load.trial import Limits, Step, Trial
from service import artifact, host
from service.settings import REPOSITORY, Settings

PEERS: dict[str, Callable[..., Server]] = {"litserve": servers.litserve, "bentoml": servers.bentoml}
PLATES = REPOSITORY / "model_builder" / "plates-500"
IMAGES = 64  # of plates-500, sent in turn
CHECKED = 8  # read by every server before the load: all must read the same


def main() -> int:
    """Measure, write the report's block and print it."""
    options = _parser().parse_args()
    result = report.kept(options.raw) if options.redraw else _measured(options)
    report.write(options.out, result)
    print(report.markdown(result))
    return 0


def _measured(options: argparse.Namespace) -> Result:
    limits = Limits(options.p99, options.seconds, options.start, options.top)
    images = plates(IMAGES)
    machine = f"{evaluate.machine()} ({host.available()} CPUs)"
    ceiling = measure(servers.trivial(), images, replace(limits, start=max(500.0, limits.start)))
    result = Result(machine, evaluate.commit(), limits, ceiling, {})
    for variant in options.variants or artifact.readers(Settings().artifacts):
        settings = {"workers": str(options.workers), "threads": "1"}
        trials, expected = result.trials.setdefault(variant, {}), None
        for server in (
            servers.ours(variant, **settings),
            *(PEERS[name](variant, **settings) for name in options.peers),
        ):
            with _started(server, variant) as running:
                texts = [running.text(image) for image in images[:CHECKED]]
                if texts != (expected := expected or texts):
                    raise SystemExit(f"{server.name} reads {texts}, but {expected} was expected: not the same model.")
                trials[server.name] = find(running, images, limits)
            report.keep(options.raw, result)  # so that an interruption loses little
    return result


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
    default = Limits()
    parser.add_argument("--variants", nargs="*", default=[], help="those to measure (default: all)")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS), help="default: all; none: no peers")
    parser.add_argument(
        "--seconds", type=float, default=default.seconds, help="of each try of a rate (default: %(default)s)"
    )
    parser.add_argument("--start", type=float, default=default.start, help="first requests a second (%(default)s)")
    parser.add_argument("--top", type=float, default=default.top, help="last requests a second (%(default)s)")
    parser.add_argument("--p99", type=float, default=default.p99_ms, help="limit in milliseconds (%(default)s)")
    parser.add_argument(
        "--workers", type=int, default=host.available(), help="processes of a thread each, the peers' too (%(default)s)"
    )
    parser.add_argument("--out", type=Path, default=REPOSITORY / "report", help="folder of the page (default: report)")
    parser.add_argument("--raw", type=Path, default=report.KEPT, help="file of raw data (default: runs/load/load.json)")
    parser.add_argument("--redraw", action="store_true", help="measure nothing: write again what --raw holds")
    return parser


if __name__ == "__main__":
    sys.exit(main())
