"""The recognizer: a loaded variant, and the line that a request takes through its stages. No HTTP, no Prometheus.

::

    event loop        recognize: refused -> Check -> take places -> one queue for each image: small or large
    decode thread     (large images) Check -> room for its pixels -> Decode -> the queue of small ones
    inference thread  a batch of items of any requests: Decode -> Find -> Rectify -> Infer -> Read -> outcome
                      (crops: Prepare in place of Find and Rectify)
    event loop        the last outcome completes the request

So a request changes threads twice; only one with large images does so once more, so that small ones need not wait for
them. What is admitted is bounded by one budget of the process, so no queue behind it can grow without limit.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from service.artifact import Artifact, Grammar
from service.backends import Backend
from service.errors import BadParameter, ClientGone, Stopping
from service.finding.cover import How
from service.pipeline.budget import Budget
from service.pipeline.inference_threads import Crew
from service.pipeline.items import Item, Outcome, Request, Source, Timing, fail, too_late
from service.pipeline.stages import (
    LARGE_BYTES,
    TURN_S,
    Check,
    Each,
    Stage,
    begun,
    decoding,
    is_large,
    line,
    pixels,
    reading,
    refused,
    search_with,
    taking_turns,
    through,
    wanted,
    within,
)
from service.reading.text import Reader

ENDING_S: Final = 0.01  # between looks whether the threads have ended
PHOTOGRAPHS: Final = 4  # that a thread takes at a time: the last one waits for the plates of the first to be found
PATIENCE_S: Final = 0.05  # of a request, before it is watched whether somebody still wants it: most are done by then

Gone = Callable[[], Awaitable[object]]


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
        finder: tuple[Artifact, Artifact] | None = None,
    ) -> None:
        """Load and prove the artifact; raises ArtifactError. All recognizers of a process share one `budget`.

        With `finder`, the artifacts that find plates and refine them, images are photographs.
        """
        self.manifest = artifact.reader
        self._finder, self._max_pixels = finder, max_pixels
        # Told of what was computed together, on any thread: how many images, and the CPU time in seconds.
        self.on_batch: Callable[[int, float], None] = lambda images, seconds: None
        self._budget = budget
        self._deadline_s = deadline_s
        self.users = Count()  # requests that will come or have come here: it is not closed meanwhile
        self._admitted = Count()
        self._retired = self._closed = False
        front = decoding(max_pixels, self.manifest.size)
        self._entry: list[Stage] = [refused, Each("decode", Check(max_pixels, LARGE_BYTES))]
        self._large: list[Stage] = [wanted, Each("decode", Check(max_pixels)), within(budget, front)]
        self._texts = Reader.of(self.manifest)
        most = min(PHOTOGRAPHS, artifact.manifest.max_batch) if finder else artifact.manifest.max_batch
        self._crew: Crew[Item] = Crew((artifact, *(finder or ())), threads, self._work, fail, most, batch_wait_s)
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
        await self._admitted.none()

    def retire(self) -> None:
        """Stop being ready; requests that come nevertheless are still served until `close`."""
        self._retired = True

    async def close(self) -> None:
        """Finish what its users ask for, then free the engine; cancelled, it leaves the threads alone."""
        self.retire()
        await self.users.none()
        self._closed = True
        await self._admitted.none()
        self._crew.end()
        while self._crew.working:  # noqa: ASYNC110 - threads of an engine end without telling the loop
            await asyncio.sleep(ENDING_S)

    def finding(self, asked: bool | None) -> bool:
        """Whether plates are to be found where a request asked for it, or said nothing; raises BadParameter."""
        if asked and self._finder is None:
            raise BadParameter("Parameter find: this server has no finder and reads crops only; LPR_FINDER names one.")
        return self._finder is not None and asked is not False

    async def recognize(
        self,
        images: Sequence[Source],
        top_k: int,
        only: Grammar | None = None,
        gone: Gone | None = None,
        find: bool = False,
        cover: How | None = None,
    ) -> tuple[list[tuple[Outcome, ...]], Timing]:
        """Read the plates of each image, an encoded one or BGR uint8 (H, W, 3); with `only`, as one of its formats and
        nothing else. With `find`, an image is a photograph; else a crop of one plate. With `cover` besides, its plates
        are covered, and nothing is read. `gone` returns when nobody wants the answer any more.

        An image that is an error, or that cannot be read, has its error in its place. Raises Busy or Stopping where
        nothing more is admitted, TooManyPixels where the images have too many together, TooLate where no thread began
        with them in time, ClientGone where `gone` returned before all were computed.
        """
        if self._closed:
            raise Stopping("The server is shutting down: send the request to another one.")
        self._admitted.add(1)
        start = time.perf_counter()
        complete = asyncio.get_running_loop().create_future()
        request = Request(images, partial(_settle, complete), top_k, only, start + self._deadline_s, find, cover)
        try:
            request.items, sizes = await self._checked(request)
            places = self._budget.places(sizes, find, cover is not None)
            with self._budget.taken(places) as leave:
                if share := (places - 1) // max(1, len(sizes)):  # so that one request of many keeps nobody out for long
                    request.on_begin = partial(_soon, complete.get_loop(), partial(leave, share))
                self._enter(request.items)
                await self._finished(request, complete, gone)
        finally:
            request.drop()  # where this very task was cancelled
            request.free()
            self._admitted.add(-1)
        return request.outcomes(), request.timing(time.perf_counter() - start)

    async def _checked(self, request: Request) -> tuple[list[Item], list[int | None]]:
        """The images that are to be read, and of each the pixels, None where its header does not tell."""
        items: list[Item] = []
        sizes: list[int | None] = []
        since = time.perf_counter()
        for item in through(self._entry, request.items):
            items.append(item)
            sizes.append(pixels(item))
            if time.perf_counter() - since > TURN_S:
                await asyncio.sleep(0)  # others have their turn
                since = time.perf_counter()
        return items, sizes

    def _enter(self, items: Sequence[Item]) -> None:
        """Put each image into the queue that its header asks for."""
        for item in items:
            if is_large(item):
                self._budget.decode(partial(self._decode_large, item))
            else:
                self._crew.put([item])

    async def _finished(self, request: Request, complete: asyncio.Future[None], gone: Gone | None) -> None:
        loop = asyncio.get_running_loop()
        watching: list[asyncio.Task[None]] = []
        watch = loop.call_later(
            min(PATIENCE_S, self._deadline_s), lambda: watching.append(loop.create_task(self._watch(request, gone)))
        )
        try:
            await complete
        finally:
            watch.cancel()
            for task in watching:
                task.cancel()

    async def _watch(self, request: Request, gone: Gone | None) -> None:
        """End a request that waits for too long, or that nobody waits for, unless all of it is computed already.

        What has begun in time is finished, however long it takes: a smaller request would have been read too.
        """
        leaving = asyncio.ensure_future(gone()) if gone else asyncio.get_running_loop().create_future()
        remaining = max(0.0, request.expires - time.perf_counter())
        try:
            left, _ = await asyncio.wait([leaving], timeout=remaining)
            if request.begun and not left:
                left, _ = await asyncio.wait([leaving])
        finally:
            leaving.cancel()
        if request.drop():
            request.fail(ClientGone("The connection closed before the images were read.") if left else too_late())

    def stages(self, engine: Backend, *finder: Backend) -> list[Stage]:
        """The stages of an inference thread, which owns the engines."""
        front = decoding(self._max_pixels, self.manifest.size, search_with(self._finder, finder))
        infer, read, infer_views, reread = reading(self._texts, self.manifest.size, engine, self._told)
        return [taking_turns, wanted, begun, *front, infer, taking_turns, read, infer_views, taking_turns, reread]

    def _work(self, engine: Backend, *finder: Backend) -> Callable[[Sequence[Item]], None]:
        return line(self.stages(engine, *finder))

    def _told(self, images: int, cpu_s: float) -> None:
        self.on_batch(images, cpu_s)

    def _decode_large(self, item: Item) -> None:
        """On a decode thread."""
        try:
            for decoded in through(self._large, [item]):
                self._crew.put([decoded])
        except Exception as error:
            item.request.fail(error)


class Count:
    """How many of something there are, for the event loop."""

    def __init__(self) -> None:
        self._number = 0
        self._none = asyncio.Event()
        self._none.set()

    def add(self, number: int) -> None:
        """There are so many more, or fewer."""
        self._number += number
        if self._number:
            self._none.clear()
        else:
            self._none.set()

    async def none(self) -> None:
        """Wait until there are none."""
        await self._none.wait()


def _settle(complete: asyncio.Future[None], error: Exception | None) -> None:
    """Tell the event loop, from any thread, that a request is complete or has failed."""

    def settle() -> None:
        if complete.done():
            return
        if error:
            complete.set_exception(error)
        else:
            complete.set_result(None)

    _soon(complete.get_loop(), settle)


def _soon(loop: asyncio.AbstractEventLoop, act: Callable[[], None]) -> None:
    """Have the event loop act, from any thread."""
    with suppress(RuntimeError):  # a forced end closed the event loop, and nobody waits any more
        loop.call_soon_threadsafe(act)
