"""The load test tests itself: its loop is open, its waiting counted, its counts those of the server."""

import asyncio
import math
import random
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from model_builder.measure.load import __main__ as load
from model_builder.measure.load import (
    generator,
    profile,
    report,
    scrape,
    servers,
    soak,
    trial,
)
from model_builder.measure.load.generator import Load, Outcome, Quantiles
from model_builder.measure.load.report import Result
from model_builder.measure.load.scrape import Told
from model_builder.measure.load.trial import Limits, Step, Trial
from tests.support.images import encode
from tests.support.processes import started

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
HEALTH = generator.message("/healthz", method="GET")
POST = generator.message("/recognize", *generator.form(encode()))

Answer = Callable[[int], Awaitable[bytes]]


@contextmanager
def answering(answer: Answer) -> Iterator[int]:
    """A server that answers its k-th POST with `answer(k)`, and every other request at once; yields its port."""
    posts = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal posts
        while head := await reader.readuntil(b"\r\n\r\n") if not reader.at_eof() else b"":
            if head.startswith(b"GET"):
                writer.write(OK)
                continue
            length = next(line for line in head.split(b"\r\n") if line.startswith(b"Content-Length"))
            await reader.readexactly(int(length.split(b":")[1]))
            posts += 1
            if not (data := await answer(posts)):
                break
            writer.write(data)
        writer.close()

    async def start() -> asyncio.Server:
        return await asyncio.start_server(lambda *streams: _quietly(serve(*streams)), "127.0.0.1", 0)

    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        for task in asyncio.all_tasks(loop):
            task.cancel()
            loop.run_until_complete(asyncio.wait([task]))
        server.close()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


async def _quietly(served: Awaitable[None]) -> None:
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        await served


def run(port: int, count: int = 20, patience_s: float = 20.0) -> Outcome:
    return generator.run(Load(port, [POST], HEALTH, rate=100, seconds=count / 100, patience_s=patience_s))


def test_it_sends_whatever_the_answers_do_and_counts_the_waiting():
    complete = asyncio.Event()

    async def once_all_have_come(number: int) -> bytes:
        if number == 20:
            complete.set()
        await complete.wait()  # a client that waited for an answer before it sends on would wait for ever
        return OK

    with answering(once_all_have_come) as port:
        outcome = run(port)
    assert outcome.statuses == {200: 20}
    assert outcome.latency.max >= 190  # of the first, which was due 19 periods of 10 ms before the last
    assert outcome.latency.mean >= 90


def test_refusals_and_broken_connections_are_counted_apart():
    async def in_turn(number: int) -> bytes:
        return (OK, b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n", b"", b"rubbish\r\n\r\n")[number % 4]

    with answering(in_turn) as port:
        outcome = run(port)
    assert outcome.statuses == {generator.UNANSWERED: 10, 200: 5, 429: 5}
    assert (outcome.latency.count, outcome.refusal.count) == (5, 5)
    assert outcome.health.count >= 1
    assert outcome.lag.count == 20


def test_what_is_not_answered_in_time_is_an_error():
    async def some(number: int) -> bytes:
        await asyncio.sleep(0 if number % 2 else 3600)
        return OK

    with answering(some) as port:
        outcome = run(port, patience_s=0.5)
    assert outcome.statuses[generator.UNANSWERED] >= 10
    assert sum(outcome.statuses.values()) == 20


def test_where_nothing_listens_all_are_errors():
    with answering(lambda _: asyncio.sleep(0, OK)) as port:
        pass
    assert run(port, count=3).statuses == {generator.UNANSWERED: 3}


def test_a_real_servers_metrics_agree_with_what_was_sent(artifacts):
    with started(artifacts) as server:
        before = scrape.scrape(server.url)
        outcome = run(int(server.url.rsplit(":", 1)[1]))
        told = scrape.between(before, scrape.scrape(server.url))
    assert outcome.statuses == {200: 20}
    assert told.requests == 20
    assert 1 <= told.batch <= told.batch_max <= 8
    assert told.queue_p99 > 0
    assert 0 < told.mean <= outcome.latency.mean  # the server cannot have taken longer than its client waited


@given(st.lists(st.floats(1e-4, 10), min_size=1, max_size=50), st.lists(st.floats(1e-4, 10), max_size=50))
def test_quantiles_of_the_time_between_two_scrapes(values, earlier):
    registry = CollectorRegistry()
    histogram = Histogram("lpr_request_seconds", "x", registry=registry, buckets=(0.001, 0.01, 0.1, 1, 10))
    scrapes: list[scrape.Samples] = []
    for observed in (earlier, values):
        for value in observed:
            histogram.observe(value)
        families = text_string_to_metric_families(generate_latest(registry).decode())
        samples = [sample for family in families for sample in family.samples]
        scrapes.append({(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in samples})
    found = scrape.distribution(scrapes[0], scrapes[1], "lpr_request_seconds")
    assert found.count == len(values)
    assert found.mean == pytest.approx(sum(values) / len(values), rel=1e-6, abs=1e-9)
    bounds = (0, 0.001, 0.01, 0.1, 1, 10)
    for share in (0.5, 0.99, 1):
        exact = sorted(values)[math.ceil(share * len(values)) - 1]
        upper = next(bound for bound in bounds if exact <= bound)
        assert bounds[bounds.index(upper) - 1] <= found.quantile(share) <= upper * (1 + 1e-9)
    assert scrape.distribution(scrapes[0], scrapes[1], "lpr_batch_images") is None
    assert scrape.distribution(scrapes[0], scrapes[1], "lpr_request_seconds", stage="queue") is None


class Machine:
    """A server that sustains so many requests a second, without the server and without the time.

    A share `noise` of its tries fails for no reason, and all tries numbered `paused` do.
    """

    def __init__(
        self,
        sustains: float,
        monkeypatch: pytest.MonkeyPatch,
        noise: float = 0.0,
        seed: int = 0,
        paused: range = range(0),
    ) -> None:
        self.sustains, self.noise, self.random, self.paused = sustains, noise, random.Random(seed), paused
        self.loads: list[tuple[str, float]] = []
        monkeypatch.setattr(trial, "load", self._load)

    def _load(self, running: object, messages: object, rate: float, seconds: float, kind: str) -> Step:
        self.loads.append((kind, rate))
        well = rate <= self.sustains and self.random.random() >= self.noise and len(self.loads) not in self.paused
        return step(rate, kind, p99=10 if well else 100)

    def find(self, top: float = 1000) -> Trial:
        return trial.find(None, [], Limits(start=50, top=top), lambda step: None)


def step(rate: float, kind: str, p99: float, statuses: dict[int, int] | None = None, memory: float = 100) -> Step:
    some, none = Quantiles(9, 5, 4, 8, p99, p99), Quantiles.of([])
    told = Told(requests=9, mean=4, p50=4, p99=9, queue_p99=None, batch=1.5, batch_max=8)
    outcome = Outcome(0.5, statuses or {200: 9}, some, none, some, some, 0.1)
    return Step(rate, kind, outcome, told, cpu=1.5, memory_mb=memory)


@pytest.mark.parametrize("sustains", [50, 51, 123, 400])
def test_the_search_finds_what_is_sustained(sustains, monkeypatch):
    machine = Machine(sustains, monkeypatch)
    found = machine.find()
    assert sustains / 1.05 <= found.sustainable.rate <= sustains
    assert found.overload.rate == pytest.approx(3 * found.sustainable.rate)
    rises = [rate for kind, rate in machine.loads if kind == "rise"]
    assert rises == sorted(rises)
    assert rises[-1] == rises[-2] > sustains  # one failed try decides nothing
    failed, held = found.spread(Limits())
    assert held == found.sustainable.rate < failed <= held * 1.05


@pytest.mark.parametrize("sustains", [420, 1540, 1720])
def test_the_search_is_not_led_astray_by_tries_that_fail_for_no_reason(sustains, monkeypatch):
    found = [Machine(sustains, monkeypatch, noise=0.15, seed=seed).find(5000).sustainable.rate for seed in range(100)]
    assert all(rate <= sustains for rate in found)
    assert sum(rate >= 0.9 * sustains for rate in found) >= 90


@pytest.mark.parametrize("begins", [2, 5, 12, 18, 22])
def test_the_search_goes_on_after_a_pause_that_all_tries_of_a_rate_fall_into(begins, monkeypatch):
    machine = Machine(1600, monkeypatch, paused=range(begins, begins + 3))
    assert machine.find(5000).sustainable.rate >= 1600 / 1.05 / 1.05
    assert len(machine.loads) < 60  # of some 3 seconds each


def test_a_few_pauses_and_an_edge_that_is_not_sharp_are_told_as_the_spread(monkeypatch):
    found = Machine(400, monkeypatch, paused=range(4, 5)).find()
    assert found.spread(Limits())[0] < found.sustainable.rate


def test_the_search_ends_where_nothing_or_everything_is_sustained(monkeypatch):
    nothing = Machine(1, monkeypatch).find()
    assert (nothing.sustainable, nothing.overload.rate) == (None, 150)
    assert nothing.spread(Limits()) == (50, None)
    everything = Machine(1e9, monkeypatch).find()
    assert 1000 / trial.RISE < everything.sustainable.rate <= 1000
    assert everything.spread(Limits()) == (None, everything.sustainable.rate)


def test_a_rate_is_sustained_only_if_all_are_answered_in_time():
    limits = Limits(p99_ms=25)
    assert step(1, "rise", 25).sustained(limits)
    assert not step(1, "rise", 25.1).sustained(limits)
    assert not step(1, "rise", 1, {200: 99, 429: 1}).sustained(limits)
    assert not step(1, "rise", math.nan, {200: 1}).sustained(limits)


def result(trials: dict[str, dict[str, Trial]]) -> Result:
    good = step(400, "hold", 20)
    return Result("a machine", "abcdef0", Limits(), Trial((good,), good, good), trials)


def test_the_load_test_is_one_table_and_one_figure(tmp_path):
    good, over = step(400, "hold", 20), step(1200, "overload", 90, {200: 5, 429: 3, 0: 1})
    ours, peer = Trial((good, over), good, over), Trial((step(100, "hold", 20), over), step(100, "hold", 20), over)
    weak = Trial((over,), None, over)
    trials = {"quantized": {"lpr": weak}, "tvm": {"lpr": ours, "LitServe 0.2": peer, "BentoML": weak}}
    report.write(tmp_path, result(trials))
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    head, _, *rows = [line for line in text.splitlines() if line.startswith("|")]
    assert head.startswith("|  | requests/s | spread | p50 ms | p99 ms | memory, MB | LitServe 0.2 | BentoML |")
    assert rows == [
        "| `tvm` | 400 | none to 400 | 4.0 | 20.0 | 100 | 100 | less than the first rate | 4.00 | 10 | 90 | 90 |",
        "| `quantized` | less than the first rate | none to none |  |  |  |  |  |  | 10 | 90 | 90 |",
    ]
    assert "Answers other than 200, 429 and 503: 2 of lpr, 2 of others." in text  # one in each of the overloads
    assert "commit abcdef0" in text
    assert {path.name for path in tmp_path.iterdir()} == {"README.md", "load.svg"}


def test_photographs_are_a_block_of_their_own(tmp_path):
    good, over = step(40, "hold", 20), step(120, "overload", 90, {200: 5, 429: 3})
    trials = {"tvm-fast": {"lpr": Trial((good, over), good, over), "LitServe 0.2": Trial((over,), None, over)}}
    report.write(tmp_path, result({"tvm": {"lpr": Trial((good,), good, good)}}))
    report.write(tmp_path, replace(result(trials), finder="finder-fast", ceiling=None))
    crops, photographs = (tmp_path / "README.md").read_text(encoding="utf-8").split("## How many photographs")
    assert "| `tvm` |" in crops
    assert "The generator alone" in crops
    assert "| `tvm-fast` | 40 |" in photographs
    assert "`finder-fast` finds" in photographs
    assert "The generator alone" not in photographs
    assert "load.svg" not in photographs


@pytest.mark.parametrize("kind", load.IMAGES)
def test_limits_that_are_given_take_the_place_of_the_usual_ones(kind):
    options = load._parser().parse_args(["--p99", "7"])
    limits = load._limits(options, load.LIMITS[kind])
    assert limits == replace(load.LIMITS[kind], p99_ms=7)


def test_raw_data_is_read_as_it_was_kept(tmp_path):
    good = step(400, "hold", 20)
    raw = tmp_path / "raw" / "load.json"
    report.keep(raw, result({"tvm": {"lpr": Trial((good,), good, good)}}))
    read = report.kept(raw)
    assert math.isnan(read.trials["tvm"]["lpr"].sustainable.outcome.refusal.p99)
    assert read.trials["tvm"]["lpr"].sustainable.outcome.statuses == {200: 9}


def test_the_spread_that_is_drawn_holds_the_rate():
    good, failed = step(400, "hold", 20), step(430, "rise", 99)
    trial = Trial((good, failed, step(420, "rise", 20)), good, good)
    assert report.intervals(result({"tvm": {"lpr": trial}})) == {"tvm": {"lpr": (400, 400, 420)}}


def minutes(p99: list[float], memory: list[float], statuses: dict[int, int] | None = None) -> list[Step]:
    return [step(100, "soak", *each, statuses=statuses, memory=mb) for *each, mb in zip(p99, memory, strict=True)]


def test_a_soak_is_good_if_nothing_grows_or_drifts():
    assert soak.verdict(minutes([10, 14, 9, 10, 30, 10, 11, 9, 12], [100, *[102.9] * 8])) == []


@pytest.mark.parametrize(
    ("steps", "fault"),
    [
        (minutes([10] * 9, [100, *[90] * 7, 103.1]), "memory grew from 100.0 to 103.1 MB"),
        (minutes([10, 10, 10, 11, 12, 13, 13, 14, 13], [100] * 9), "p99 drifted from 10.00 to 13.00 ms"),
        (minutes([math.nan] * 9, [100] * 9), "p99 drifted from nan to nan ms"),
        (minutes([10] * 9, [100] * 9, {0: 1, 200: 9, 429: 2}), "answers other than 200: [0, 429] (0: none)"),
    ],
)
def test_a_soak_tells_what_is_wrong(steps, fault):
    assert soak.verdict(steps) == [fault]


@pytest.mark.slow
def test_the_profile_has_a_line_for_each_kind_of_body_and_number_of_connections(artifacts, monkeypatch):
    monkeypatch.setattr(profile, "WARM_UP", 8)
    with servers.running(servers.ours("tiny", artifacts=str(artifacts), threads="1")) as running:
        lines = list(profile.measure(running, 16))
    assert [(line.body, line.connections) for line in lines] == [("raw", 1), ("raw", 8), ("form", 1), ("form", 8)]
    for line in lines:
        assert 1 <= line.batch <= line.connections
        assert all((name in ("find", "rectify")) == (spent == 0) for name, spent in line.spent.items())  # of crops
        assert line.spent["threads"] > line.spent["engine"]  # which is one of them
    rows = [
        line
        for line in profile.markdown("a machine", "abcdef0", "tiny", 16, lines).splitlines()
        if line.startswith("|")
    ]
    assert {row.count("|") for row in rows} == {len(profile.COLUMNS) + 1}
    assert len(rows) == 2 + 4


def test_a_soak_takes_its_rate_from_the_report_of_the_load_test(tmp_path):
    good = step(400, "hold", 20)
    raw = tmp_path / "load.json"
    report.keep(raw, result({"tvm": {"lpr": Trial((good,), good, good)}, "slow": {"lpr": Trial((good,), None, good)}}))
    assert soak._known(raw, "tvm") == 400
    assert soak._known(raw, "slow") is soak._known(raw, "other") is None
    assert soak._known(tmp_path / "none", "tvm") is None
