"""Sends requests at a fixed rate whatever the answers do, from a process of its own.

Open loop: request k is due at start + k / rate, and its latency counts from then, not from when it could be sent. A
server that falls behind so makes every later request wait, and that wait is in the figures; a client that only sends
once it has been answered would leave it out ("coordinated omission").
"""

import asyncio
import ctypes
import gc
import math
import multiprocessing
import os
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import httptools
import numpy as np
import uvloop

UNANSWERED = 0  # in place of a status: the connection failed, or no answer came in time
REFUSED = (429, 503)  # ours refuses with the first, others with the second
CONNECTIONS = 900  # at most; beyond them requests wait here, and that is counted too
IDLE_NS = 2 * 10**9  # a connection unused for longer might just be closing at the other end, so it is not used again
HEALTH_INTERVAL_S = 0.1
LEAD_NS = 50 * 10**6  # between making the timer and the first request


@dataclass(frozen=True)
class Load:
    """`rate` requests a second for `seconds`: `messages`, each a whole HTTP/1.1 request, in turn.

    Beside them, on a connection of its own, `health` is sent ten times a second. `patience_s` after the last request
    what has not been answered counts as UNANSWERED.
    """

    port: int
    messages: Sequence[bytes]
    health: bytes
    rate: float
    seconds: float
    patience_s: float = 10.0


@dataclass(frozen=True)
class Quantiles:
    """Of some milliseconds; NaN where there are none."""

    count: int
    mean: float
    p50: float
    p95: float
    p99: float
    max: float

    @classmethod
    def of(cls, nanoseconds: Sequence[int]) -> "Quantiles":
        """In milliseconds."""
        if not nanoseconds:
            return cls(0, *[math.nan] * 5)
        values = np.asarray(nanoseconds, np.float64) / 1e6
        return cls(len(values), float(values.mean()), *map(float, np.percentile(values, (50, 95, 99, 100))))


@dataclass(frozen=True)
class Outcome:
    """What came of a load. `lag` is how late the generator itself sent, `cpu` the share of a core that it took.

    `seconds` passed between the first request and the last answer, or the end of the patience.
    """

    seconds: float
    statuses: dict[int, int]
    latency: Quantiles  # of the answers with status 200
    refusal: Quantiles  # of those with REFUSED
    health: Quantiles
    lag: Quantiles
    cpu: float


def run(load: Load) -> Outcome:
    """Carry out the load in a new process, so that nothing that the caller does delays a request."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_run, load).result()


def message(path: str, body: bytes = b"", content_type: str = "", method: str = "POST") -> bytes:
    """A whole HTTP/1.1 request."""
    head = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1"]
    if body:
        head += [f"Content-Type: {content_type}", f"Content-Length: {len(body)}"]
    return "\r\n".join([*head, "", ""]).encode() + body


def form(image: bytes, name: str = "image") -> tuple[bytes, str]:
    """A multipart body with one JPEG, and its content type."""
    head = f'--x\r\nContent-Disposition: form-data; name="{name}"; filename="plate.jpg"\r\nContent-Type: image/jpeg'
    return head.encode() + b"\r\n\r\n" + image + b"\r\n--x--\r\n", "multipart/form-data; boundary=x"


def _run(load: Load) -> Outcome:
    gc.freeze()
    gc.disable()  # a collection would be a pause; a load leaves no cycles that matter
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_Generator(load).run())


class _Exchange(asyncio.Protocol):
    """A connection that carries one request at a time; `done` is told of each answer and when it came."""

    def __init__(self, done: Callable[["_Exchange", int, int], None]) -> None:
        self.due = 0
        self.used_ns = time.monotonic_ns()
        self.reusable = True
        self._busy = False
        self._done = done
        self._parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport

    def send(self, due: int, data: bytes) -> None:
        self.due, self._busy = due, True
        self._transport.write(data)

    def close(self) -> None:
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.abort()

    def on_message_complete(self) -> None:
        self.reusable = self._parser.should_keep_alive()
        if not self.reusable:
            self._transport.close()
        self._finish(self._parser.get_status_code())

    def connection_lost(self, error: Exception | None) -> None:
        self.reusable = False
        self._finish(UNANSWERED)

    def _finish(self, status: int) -> None:
        if self._busy:
            self._busy, self.used_ns = False, time.monotonic_ns()
            self._done(self, status, self.used_ns - self.due)


class _Generator:
    """One load under way."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._period = round(1e9 / load.rate)
        self._count = max(1, round(load.rate * load.seconds))
        self._sent = self._answered = self._open = 0
        self._idle: list[_Exchange] = []
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._latencies: dict[int, list[int]] = defaultdict(list)
        self._lags: list[int] = []
        self._health: list[int] = []
        self._connecting: set[asyncio.Task[None]] = set()
        self._complete = asyncio.Event()

    async def run(self) -> Outcome:
        loop = asyncio.get_running_loop()
        before, self._start = time.process_time_ns(), time.monotonic_ns() + LEAD_NS
        timer = _timer(self._start, self._period)
        loop.add_reader(timer, self._tick, timer)
        health = asyncio.create_task(self._watch_health())
        with suppress(TimeoutError):
            await asyncio.wait_for(self._complete.wait(), LEAD_NS / 1e9 + self._load.seconds + self._load.patience_s)
        seconds = (time.monotonic_ns() - self._start) / 1e9
        cpu = (time.process_time_ns() - before) / 1e9 / seconds
        health.cancel()
        await asyncio.wait([health])
        loop.remove_reader(timer)
        os.close(timer)
        return self._outcome(seconds, cpu)

    def _outcome(self, seconds: float, cpu: float) -> Outcome:
        statuses = Counter({status: len(latencies) for status, latencies in self._latencies.items()})
        statuses[UNANSWERED] += self._count - self._answered
        return Outcome(
            seconds=seconds,
            statuses={status: count for status, count in sorted(statuses.items()) if count},
            latency=Quantiles.of(self._latencies[200]),
            refusal=Quantiles.of([latency for status in REFUSED for latency in self._latencies[status]]),
            health=Quantiles.of(self._health),
            lag=Quantiles.of(self._lags),
            cpu=cpu,
        )

    def _tick(self, timer: int) -> None:
        """Send all that has become due."""
        expirations = int.from_bytes(os.read(timer, 8), "little")
        for _ in range(min(expirations, self._count - self._sent)):
            due = self._start + self._sent * self._period
            data = self._load.messages[self._sent % len(self._load.messages)]
            self._sent += 1
            self._dispatch(due, data)

    def _dispatch(self, due: int, data: bytes) -> None:
        now = time.monotonic_ns()
        while self._idle:
            exchange = self._idle.pop()  # the one used last
            if exchange.reusable and now - exchange.used_ns < IDLE_NS:
                self._send(exchange, due, data)
                return
            self._drop(exchange)
        if self._open < CONNECTIONS:
            self._open += 1
            task = asyncio.create_task(self._connect(due, data))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)
        else:
            self._waiting.append((due, data))

    async def _connect(self, due: int, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, exchange = await loop.create_connection(lambda: _Exchange(self._done), "127.0.0.1", self._load.port)
        except OSError:
            self._open -= 1
            self._record(UNANSWERED, time.monotonic_ns() - due)
        else:
            self._send(exchange, due, data)

    def _send(self, exchange: _Exchange, due: int, data: bytes) -> None:
        self._lags.append(time.monotonic_ns() - due)
        exchange.send(due, data)

    def _done(self, exchange: _Exchange, status: int, latency: int) -> None:
        self._record(status, latency)
        if not exchange.reusable:
            self._open -= 1
            if self._waiting:
                self._dispatch(*self._waiting.popleft())
        elif self._waiting:
            self._send(exchange, *self._waiting.popleft())
        else:
            self._idle.append(exchange)

    def _drop(self, exchange: _Exchange) -> None:
        exchange.close()
        self._open -= 1

    def _record(self, status: int, latency: int) -> None:
        self._latencies[status].append(latency)
        self._answered += 1
        if self._answered == self._count:
            self._complete.set()

    async def _watch_health(self) -> None:
        """Ask for the health ten times a second, each question after the answer to the one before."""
        loop = asyncio.get_running_loop()
        answered = asyncio.Event()

        def done(exchange: _Exchange, status: int, latency: int) -> None:
            if status == 200:
                self._health.append(latency)
            answered.set()

        exchange: _Exchange | None = None
        while True:
            due = time.monotonic_ns()
            answered.clear()
            try:
                if exchange is None or not exchange.reusable:
                    _, exchange = await loop.create_connection(lambda: _Exchange(done), "127.0.0.1", self._load.port)
                exchange.send(due, self._load.health)
                await answered.wait()
            except OSError:
                pass
            except asyncio.CancelledError:  # a question still open at the end took at least as long as until now
                self._health.append(time.monotonic_ns() - due)
                raise
            await asyncio.sleep(HEALTH_INTERVAL_S)


def _timer(start_ns: int, period_ns: int) -> int:
    """A file descriptor that can be read from `start_ns` (of CLOCK_MONOTONIC) on, once each period.

    timerfd_create(2), which Python has from 3.13 on. The timers of event loops are rounded to milliseconds.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    timer: int = libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
    parts = (*divmod(period_ns, 10**9), *divmod(start_ns, 10**9))
    absolute = 1
    if timer < 0 or libc.timerfd_settime(timer, absolute, (ctypes.c_long * 4)(*parts), None) < 0:
        raise OSError(ctypes.get_errno(), "timerfd")
    return timer
