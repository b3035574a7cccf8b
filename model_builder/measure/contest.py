"""Latency of contestants side by side.

Each lives in a process of its own, so that no engine's idle threads disturb another. They take turns, a burst each, so
that a machine that slows down slows all of them. Denormals are flushed in every one.
"""

import multiprocessing
import signal
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from model_builder.measure.peers import Contestant, engine
from service.backends import Backend

_WARM_UP = 10  # calls at the start of each burst: the others have used the caches meanwhile
_WARM_UP_S, _BURST_S = 0.05, 0.25  # after which no further call is begun, for what takes long


@dataclass(frozen=True)
class Times:
    """Milliseconds an image: percentiles of `calls` calls with `batch` images on `threads`. The 10th is the time of a
    core that no other virtual machine disturbs; the median also has those of a core that is shared."""

    p10: float
    median: float
    p95: float
    p99: float
    batch: int
    threads: int
    calls: int


@dataclass(frozen=True)
class Outcome:
    """Times per batch size, and the engine, of those that ran; the reason for each that could not."""

    times: dict[str, list[Times]]
    engines: dict[str, str]
    left_out: dict[str, str]


def contest(
    contestants: Sequence[Contestant], threads: int, batches: Sequence[int], *, rounds: int = 20, burst: int = 15
) -> Outcome:
    """Let the contestants, all of one size of images, take turns. Let nothing else run meanwhile.

    One that fails is left out, which a line on the console tells; the others go on.
    """
    height, width = contestants[0].size
    with _players(contestants, threads) as players:
        for batch in batches:
            name = f"{threads} thread(s), {width}x{height}, batch {batch}"
            for _ in tqdm(range(rounds), desc=name, unit="round", dynamic_ncols=True):
                for player in players:
                    player.play(batch, burst)
    ran = [player for player in players if not player.fault]
    return Outcome(
        {player.name: [_times(player.collected[batch], batch, threads) for batch in batches] for player in ran},
        {player.name: player.engine for player in ran},
        {player.name: player.fault for player in players if player.fault},
    )


def _times(milliseconds: list[float], batch: int, threads: int) -> Times:
    p10, median, p95, p99 = (round(float(value) / batch, 4) for value in np.percentile(milliseconds, (10, 50, 95, 99)))
    return Times(p10, median, p95, p99, batch, threads, len(milliseconds))


@dataclass(frozen=True)
class _Fault:
    reason: str


class _Player:
    """A contestant's process and what it has answered; silent once it has failed."""

    def __init__(self, contestant: Contestant, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.name, self.engine, self.fault = contestant.name, "", ""
        self.collected: dict[int, list[float]] = {}
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_compete, args=(contestant, threads, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def load(self) -> None:
        """Wait until it is ready."""
        self.engine = self._answer() or ""

    def play(self, batch: int, calls: int) -> None:
        """Have it compute a burst."""
        if not self.fault:
            self.collected.setdefault(batch, []).extend(self._answer(batch, calls) or ())

    def _answer(self, *question: int) -> Any:
        try:
            if question:
                self._pipe.send(question)
            answer = self._pipe.recv()
        except (EOFError, ConnectionError):
            answer = _Fault("its process died")
        if isinstance(answer, _Fault):
            self.fault = answer.reason
            tqdm.write(f"{self.name} is left out: {self.fault}")
            return None
        return answer

    def stop(self) -> None:
        self._pipe.close()
        self._process.join(5)
        self._process.kill()


@contextmanager
def _players(contestants: Sequence[Contestant], threads: int) -> Iterator[list[_Player]]:
    players: list[_Player] = []
    try:
        for contestant in contestants:
            players.append(_Player(contestant, threads))
        for player in tqdm(players, desc=f"{threads} thread(s), loading", unit="engine", dynamic_ncols=True):
            player.load()
        yield players
    finally:
        for player in players:
            player.stop()


def _compete(contestant: Contestant, threads: int, pipe: Connection) -> None:
    """A child's life: load, then compute bursts as asked until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent closes the pipe when it is interrupted
    warnings.simplefilter("ignore")  # of deprecations inside the engines, in the middle of progress bars
    try:
        backend = engine(contestant, threads)
        pipe.send(backend.engine)
        while True:
            batch, calls = pipe.recv()
            images = np.random.default_rng(0).integers(0, 256, (batch, *contestant.size, 3), np.uint8)
            _burst(backend, images, _WARM_UP, _WARM_UP_S)
            pipe.send(_burst(backend, images, calls, _BURST_S))
    except (EOFError, ConnectionError):  # the contest is over
        return
    except Exception as error:  # whatever an engine raises
        pipe.send(_Fault(f"{type(error).__name__}: {error}"))


def _burst(backend: Backend, images: NDArray[np.uint8], calls: int, seconds: float) -> list[float]:
    """Milliseconds of so many calls, or of fewer where they take long; of one at least."""
    times: list[float] = []
    started = time.perf_counter()
    while not times or (len(times) < calls and time.perf_counter() - started < seconds):
        start = time.perf_counter()
        backend.infer(images)
        times.append((time.perf_counter() - start) * 1e3)
    return times
