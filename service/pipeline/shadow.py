"""Shadow: a second variant that reads a share of what the active one has answered, to count how often they disagree.

No answer waits for it: it reads one image at a time, and only while the active variant has nothing to do. Images that
it has no time for are skipped.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from typing import Literal

from service.errors import InputError
from service.pipeline.items import Outcome, Seen, Source
from service.pipeline.registry import Variants
from service.reading.containers import Encoded
from service.reading.plates import restrict

Compared = Literal["agreed", "disagreed", "failed", "skipped"]  # of an image
WAITING, WAITING_BYTES = 64, 32 * 1024**2  # most images that wait for their turn, and most bytes of them

log = logging.getLogger(__name__)


class Shadow:
    """Compares the variant `name` with the active one. Its methods belong to the event loop."""

    def __init__(
        self,
        variants: Variants,
        name: str,
        share: float,
        count: Callable[[Compared, int], None],
        regions: Sequence[str] = (),
    ) -> None:
        """Of the requests offered, a random `share` is taken; `count` is told of what came of how many images.

        `regions` are those that the active one reads, all where there are none.
        """
        self.name = name
        self._variants = variants
        self._share = share
        self._count = count
        self._regions = regions
        self._waiting: asyncio.Queue[tuple[Encoded, list[str], bool]] = asyncio.Queue()
        self._bytes = 0

    def offer(self, images: Sequence[Source], outcomes: Sequence[Sequence[Outcome]], find: bool) -> None:
        """What the active variant has read on images, photographs if `find`; returns at once."""
        if self._variants.name == self.name or random.random() >= self._share:  # noqa: S311
            return
        read = [
            (data, _texts(seen), find)
            for data, seen in zip(images, outcomes, strict=True)
            if isinstance(data, bytes | bytearray) and not any(isinstance(outcome, InputError) for outcome in seen)
        ]
        size = sum(len(data) for data, *_ in read)
        if self._waiting.qsize() + len(read) > WAITING or self._bytes + size > WAITING_BYTES:
            self._count("skipped", len(read))
            return
        self._bytes += size
        for sample in read:
            self._waiting.put_nowait(sample)

    async def run(self) -> None:
        """Compare what was taken, until cancelled."""
        while True:
            image, texts, find = await self._waiting.get()
            await self._variants.active.idle()
            self._bytes -= len(image)
            self._count(await self._compare(image, texts, find), 1)

    async def _compare(self, image: Encoded, texts: list[str], find: bool) -> Compared:
        try:
            recognizer = await self._variants.get(self.name)
            only = restrict(recognizer.manifest.grammar, None, None, self._regions)
            (seen,), _ = await recognizer.recognize([image], 1, only, find=find)
        except Exception as error:  # whatever it is, it must not end the comparing
            log.warning("The shadow %s failed: %s", self.name, error)
            return "failed"
        return "agreed" if _texts(seen) == texts else "disagreed"


def _texts(outcomes: Sequence[Outcome]) -> list[str]:
    """The texts on one image."""
    return [outcome.reading.text for outcome in outcomes if isinstance(outcome, Seen)]
