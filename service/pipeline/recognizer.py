"""From encoded images to readings, with the time of each stage. Knows neither HTTP nor Prometheus.

The event loop hands the images of a request to a thread that owns an engine, and waits; that thread does all the rest,
from decoding to reading, for the images that waited together, and hands the readings back. So a request changes threads
twice and no more. Only large images are decoded elsewhere, so that small ones need not wait for them. What is admitted
is bounded by one budget of the process, so no queue behind it can grow without limit.
"""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.artifact import Artifact, Grammar
from service.backends import Backend
from service.errors import ClientGone, InputError, Stopping, TooLate
from service.pipeline.budget import Budget
from service.pipeline.inference_threads import Crew
from service.reading import decode, geometry
from service.reading.containers import Contained, Encoded
from service.reading.geometry import Pixels
from service.reading.text import Reader, Reading

LARGE: Final = 500_000  # pixels, beyond which decoding takes longer than some networks do
TURN_S: Final = 0.001  # of work on images, before a thread lets others have Python's lock
PAUSE_S: Final = 20e-6  # for which it does: enough for the kernel to wake one of them
ENDING_S: Final = 0.01  # between looks whether the threads have ended
PATIENCE_S: Final = 0.05  # of a request, before it is watched whether somebody still wants it: most are done by then

T = TypeVar("T")
Gone = Callable[[], Awaitable[object]]


@dataclass(frozen=True)
class Seen:
    """One image: its size in pixels, orientation applied, what the network computed (T, C), and what was read in it."""

    width: int
    height: int
    logits: NDArray[np.float32]
    reading: Reading
    truncated: bool = False  # whether its file ended early, and only a part of it was seen


Outcome = Seen | InputError  # of one image


@dataclass(frozen=True)
class Timing:
    """Seconds per stage of a request. Where several threads shared its images: of the one that was done last.

    `queue` is all the waiting: for a thread, for the images computed together with its own, for hand-overs.
    """

    decode: float
    preprocess: float
    queue: float
    inference: float
    postprocess: float
    total: float


class Recognizer:
    """A loaded, proven artifact that reads plates. Its methods belong to the event loop."""

    def __init__(
        self,
        artifact: Artifact,
        threads: int,
        budget: Budget,
        max_pixels: int,
        deadline_s: float = 5.0,
        batch_wait_s: float = 0.0,
    ) -> None:
        """Load and prove the artifact; raises ArtifactError. All recognizers of a process share one `budget`."""
        self.manifest = artifact.manifest
        # Told of what was computed together, on any thread: how many images, and the CPU time in seconds.
        self.on_batch: Callable[[int, float], None] = lambda images, seconds: None
        self._reader = Reader.of(artifact.manifest)
        self._budget = budget
        self._max_pixels = max_pixels
        self._deadline_s = deadline_s
        self._admitted = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._retired = self._closed = False
        self._crew: Crew[_Image] = Crew(artifact, threads, self._work, _fail, artifact.manifest.max_batch, batch_wait_s)
        self.engine = self._crew.engine

    @property
    def ready(self) -> bool:
        """Whether requests should be sent here: the probe has passed, and nobody asked to stop."""
        return self.alive and not self._retired

    @property
    def alive(self) -> bool:
        """Whether every thread still takes work."""
        return self._crew.alive

    async def idle(self) -> None:
        """Wait until nothing is admitted."""
        await self._idle.wait()

    def retire(self) -> None:
        """Stop being ready; requests that come nevertheless are still served until `close`."""
        self._retired = True

    async def close(self) -> None:
        """Finish what was admitted, then free the engine; cancelled, it leaves the threads to themselves."""
        self.retire()
        self._closed = True
        await self._idle.wait()
        self._crew.end()
        while self._crew.working:  # noqa: ASYNC110 - threads of an engine end without telling the loop
            await asyncio.sleep(ENDING_S)

    def check_room(self, count: int = 1) -> None:
        """Raise Busy or Stopping where no `count` images would be admitted now."""
        if self._closed:
            raise Stopping("The server is shutting down: send the request to another one.")
        self._budget.check_room(count)

    async def recognize(
        self, images: Sequence[Encoded | Pixels], top_k: int, only: Grammar | None = None, gone: Gone | None = None
    ) -> tuple[list[Outcome], Timing]:
        """Read one plate per image, an encoded one or BGR uint8 (H, W, 3); with `only`, as one of its formats and
        nothing else. `gone` returns when nobody wants the answer any more.

        An image that cannot be read has its error in its place. Raises Busy or Stopping where nothing more is admitted,
        TooLate where no thread took all the images in time, ClientGone where `gone` returned before one did.
        """
        with self._admit(len(images)):
            start = time.perf_counter()
            request = _Request(images, top_k, only, expires=start + self._deadline_s)
            self._crew.put(request.images)
            await self._finished(request, gone)
            total = time.perf_counter() - start
            return request.outcomes(), request.timing(total)

    @contextmanager
    def _admit(self, count: int) -> Iterator[None]:
        self.check_room(count)
        self._budget.admit(count)
        self._admitted += count
        self._idle.clear()
        try:
            yield
        finally:
            self._budget.release(count)
            self._admitted -= count
            if self._admitted == 0:
                self._idle.set()

    async def _finished(self, request: "_Request", gone: Gone | None) -> None:
        loop = asyncio.get_running_loop()
        watching: list[asyncio.Task[None]] = []
        watch = loop.call_later(
            min(PATIENCE_S, self._deadline_s), lambda: watching.append(loop.create_task(self._watch(request, gone)))
        )
        try:
            await request.future
        finally:
            watch.cancel()
            for task in watching:
                task.cancel()
            request.drop()  # where this very task was cancelled

    async def _watch(self, request: "_Request", gone: Gone | None) -> None:
        """End a request that makes no sense any more, unless the engine has begun with all of it: that is finished."""
        leaving = asyncio.ensure_future(gone()) if gone else asyncio.get_running_loop().create_future()
        remaining = max(0.0, request.expires - time.perf_counter())
        try:
            left, _ = await asyncio.wait([leaving], timeout=remaining)
        finally:
            leaving.cancel()
        if request.drop():
            request.fail(ClientGone("The connection closed before the images were read.") if left else _too_late())

    def _work(self, engine: Backend, images: "list[_Image]") -> None:
        """Read what waited together, on a thread of the crew."""
        ready = [image for image in taking_turns(images) if self._prepare(image)]
        if not ready:
            return
        started, cpu_s = time.perf_counter(), -time.thread_time()
        try:
            logits = engine.infer(np.array([image.crop for image in ready]))  # half of what `stack` takes
        except Exception as error:  # belongs to those who wait; the thread goes on
            for image in ready:
                image.request.fail(error)
            return
        cpu_s += time.thread_time()
        inference = time.perf_counter() - started
        self.on_batch(len(ready), cpu_s)
        for request in {image.request: None for image in ready}:
            request.spend(inference=inference)
        for image, row in taking_turns(zip(ready, logits, strict=True)):
            self._read(image, row)

    def _prepare(self, image: "_Image") -> bool:
        """Make an image ready for the network; False if it has no place there: unwanted, unreadable, or not yet."""
        request = image.request
        if request.dropped:
            return False
        if time.perf_counter() > request.expires:
            request.fail(_too_late())
            return False
        if image.crop is None:
            start = time.perf_counter()
            try:
                if isinstance(image.data, np.ndarray):
                    self._shrink(image, image.data)
                    return request.begin()
                file = decode.check(image.data, self._max_pixels)
                pixels = file.width * file.height
                if pixels > LARGE or not pixels:  # or nobody knows how large
                    self._budget.decode(pixels, partial(self._decode_large, image))
                    return False
                self._decode(image, file, start)
            except InputError as error:
                request.refuse(image, error)
                return False
            except Exception as error:
                request.fail(error)
                return False
        return request.begin()

    def _decode(self, image: "_Image", file: Contained, start: float) -> None:
        decoded = decode.decode_plate(file, self._max_pixels, self.manifest.size)
        image.decode = time.perf_counter() - start
        self._shrink(image, decoded.pixels)
        image.width, image.height = decoded.size
        image.truncated = decoded.truncated

    def _shrink(self, image: "_Image", pixels: Pixels) -> None:
        start = time.perf_counter()
        image.crop = geometry.prepare(pixels, self.manifest.size)
        image.width, image.height = pixels.shape[1], pixels.shape[0]
        image.preprocess = time.perf_counter() - start

    def _decode_large(self, image: "_Image") -> None:
        try:
            data, start = image.data, time.perf_counter()  # which is emptied where nobody wants it any more
            if not image.request.dropped and not isinstance(data, np.ndarray):
                # Checked again, because what is left of all the files that wait would take as much memory as they do.
                self._decode(image, decode.check(data, self._max_pixels), start)
                self._crew.put([image])
        except InputError as error:
            image.request.refuse(image, error)
        except Exception as error:
            image.request.fail(error)

    def _read(self, image: "_Image", logits: NDArray[np.float32]) -> None:
        request = image.request
        started = time.perf_counter()
        try:
            reading = self._reader.read(logits, request.top_k, request.only)
        except Exception as error:
            request.fail(error)
            return
        request.spend(image.decode, image.preprocess, postprocess=time.perf_counter() - started)
        request.finish(image, Seen(image.width, image.height, logits, reading, image.truncated))


class _Image:
    """One image of a request, first as it came, then as the network's input uint8 (H, W, 3)."""

    def __init__(self, request: "_Request", number: int, data: Encoded | Pixels) -> None:
        self.request = request
        self.number = number
        self.data = data
        self.crop: NDArray[np.uint8] | None = None
        self.width = self.height = 0
        self.truncated = False
        self.decode = self.preprocess = 0.0


class _Request:
    """The images of one request and what became of them. Threads write it; `future` tells the event loop of the end."""

    def __init__(self, images: Sequence[Encoded | Pixels], top_k: int, only: Grammar | None, expires: float) -> None:
        self.images = [_Image(self, number, data) for number, data in enumerate(images)]
        self.top_k = top_k
        self.only = only
        self.expires = expires  # by time.perf_counter
        self.dropped = False
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lock = threading.Lock()
        self._waiting = self._unread = len(images)
        self._outcomes: list[Outcome | None] = [None] * len(images)
        self._spent: dict[int, list[float]] = {}
        self._last: list[float] = [0.0] * 4
        if not images:
            self.future.set_result(None)

    def drop(self) -> bool:
        """Have no more of its images computed, and free them; False if all of them are computed already."""
        with self._lock:
            self.dropped = self._waiting > 0
        if self.dropped:
            for image in self.images:  # which a queue may hold for a while yet
                image.data = b""
        return self.dropped

    def begin(self) -> bool:
        """Let one image be computed, unless the request was dropped."""
        with self._lock:
            self._waiting -= not self.dropped
            return not self.dropped

    def spend(self, decode: float = 0, preprocess: float = 0, inference: float = 0, postprocess: float = 0) -> None:
        """Add seconds that the calling thread worked for this request."""
        spent = self._spent.setdefault(threading.get_ident(), [0.0] * 4)
        for stage, seconds in enumerate((decode, preprocess, inference, postprocess)):
            spent[stage] += seconds

    def finish(self, image: _Image, outcome: Outcome) -> None:
        """Tell what became of one image."""
        with self._lock:
            self._outcomes[image.number] = outcome
            self._unread -= 1
            done = self._unread == 0
        if done:
            self._last = self._spent.get(threading.get_ident(), self._last)
            self._settle(None)

    def refuse(self, image: _Image, error: InputError) -> None:
        """Tell that an image cannot be read, and why."""
        with self._lock:
            self._waiting -= 1
        self.finish(image, error)

    def fail(self, error: Exception) -> None:
        """End the request without its readings."""
        self.dropped = True
        self._settle(error)

    def outcomes(self) -> list[Outcome]:
        """What became of each image, once the request is done."""
        return [outcome for outcome in self._outcomes if outcome is not None]

    def timing(self, total: float) -> Timing:
        """Where the `total` seconds went."""
        decode, preprocess, inference, postprocess = self._last
        return Timing(decode, preprocess, max(0.0, total - sum(self._last)), inference, postprocess, total)

    def _settle(self, error: Exception | None) -> None:
        def settle() -> None:
            if self.future.done():
                return
            if error:
                self.future.set_exception(error)
            else:
                self.future.set_result(None)

        with suppress(RuntimeError):  # a forced end closed the event loop, and nobody waits any more
            self.future.get_loop().call_soon_threadsafe(settle)


def taking_turns(items: Iterable[T]) -> Iterator[T]:
    """Items to work on, with a pause between two of them after each TURN_S.

    Python takes its lock away only after 5 ms, each time that the event loop wants it, which is several times a
    request; and a shorter interval (sys.setswitchinterval) would take it from the event loop as well.
    """
    since = time.perf_counter()
    for item in items:
        if time.perf_counter() - since > TURN_S:
            time.sleep(PAUSE_S)
            since = time.perf_counter()
        yield item


def _fail(images: Sequence[_Image], error: Exception) -> None:
    for image in images:
        image.request.fail(error)


def _too_late() -> TooLate:
    return TooLate("The server is too busy to read this in time: try again in a moment, or send less at a time.")
