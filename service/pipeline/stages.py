"""Stages: the steps from the file of an image to what is read on it, each from items to items.

=========== ============================================== ======================================
stage       value of an item before                        after
=========== ============================================== ======================================
`refused`   `Source`                                       a file or pixels
`Check`     a file, or pixels                              `Contained` of a small file
`Decode`    a file, `Contained`, pixels                    `Decoded`
`Prepare`   `Decoded`                                      `Decoded` of the size the network takes
`Infer`     `Decoded` of that size                         `Computed`
`Read`      `Computed`                                     `Seen`
=========== ============================================== ======================================

Stages are lazy where they can be: an image is decoded and reduced before the next one is decoded, so that the pixels of
a batch are never in memory together.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.artifact import Reads
from service.backends import Backend
from service.errors import InputError
from service.pipeline.budget import Budget
from service.pipeline.items import Item, Seen
from service.reading import decode, geometry
from service.reading.containers import Contained
from service.reading.decode import Decoded
from service.reading.text import Reader

LARGE: Final = 500_000  # pixels, beyond which decoding takes longer than some networks do
LARGE_BYTES: Final = 128 * 1024  # of a file; to look through a larger one takes too long for the event loop
TURN_S: Final = 0.001  # of work on images, before a thread lets others have Python's lock
PAUSE_S: Final = 20e-6  # for which it does: enough for the kernel to wake one of them

T = TypeVar("T")
Stage = Callable[[Iterable[Item]], Iterable[Item]]


class Computed(NamedTuple):
    """What a network made of an image: logits (T, C)."""

    image: Decoded
    logits: NDArray[np.float32]


def through(stages: Sequence[Stage], items: Iterable[Item]) -> Iterable[Item]:
    """What becomes of items in one stage after the other."""
    for stage in stages:
        items = stage(items)
    return items


def line(stages: Sequence[Stage]) -> Callable[[Sequence[Item]], None]:
    """Work of an inference thread: items go through all stages, and their last value is their outcome."""

    def work(items: Sequence[Item]) -> None:
        for item in through(stages, items):
            item.finish(item.value)

    return work


def decoding(max_pixels: int, size: tuple[int, int]) -> list[Stage]:
    """The stages from what `Check` gives to the input of a network of this height and width."""
    return [Each("decode", Decode(max_pixels, size)), Each("preprocess", Prepare(size))]


def reading(manifest: Reads) -> list[Stage]:
    """The stages from logits to what is read."""
    return [Each("postprocess", Read(manifest))]


def refused(items: Iterable[Item]) -> Iterator[Item]:
    """The items that hold an image; a refusal is the outcome of its item already."""
    for item in items:
        if isinstance(item.value, InputError):
            item.finish(item.value)
        else:
            yield item


def wanted(items: Iterable[Item]) -> Iterator[Item]:
    """The items of requests that somebody still waits for."""
    return (item for item in items if item.request.wanted())


def within(budget: Budget) -> Stage:
    """A stage that lets an image through once the budget has room for its pixels, until the next one is asked for."""

    def stage(items: Iterable[Item]) -> Iterator[Item]:
        for item in items:
            with budget.pixels(item.value.width * item.value.height):
                yield item

    return stage


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


@dataclass(frozen=True)
class Each:
    """A stage that works on one item at a time: `work` returns the values that take its place.

    An InputError is the outcome of the item; any other error fails its request, unless that was dropped meanwhile and
    its items emptied.
    """

    name: str  # of the time that it takes
    work: Callable[[Item], Sequence[Any]]

    def __call__(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items in the place of those given."""
        work, name = self.work, self.name
        for item in items:
            start = time.perf_counter()
            try:
                values = work(item)
            except Exception as error:
                item.spend(name, time.perf_counter() - start)
                _end(item, error)
                continue
            item.spend(name, time.perf_counter() - start)
            yield from item.become(values)


def _end(item: Item, error: Exception) -> None:
    if isinstance(error, InputError):
        item.finish(error.with_traceback(None))  # whose frames hold the image
    elif not item.request.dropped:
        item.request.fail(error)


@dataclass(frozen=True)
class Check:
    """Looks at the header of a file of up to `most_bytes`; raises as `decode.check` does."""

    max_pixels: int
    most_bytes: float = float("inf")

    def __call__(self, item: Item) -> Sequence[Any]:
        """The file reduced to what decoding needs, or the value as it is."""
        value = item.value
        if isinstance(value, bytes | bytearray) and len(value) <= self.most_bytes:
            return (decode.check(value, self.max_pixels),)
        return (value,)


def is_large(item: Item) -> bool:
    """Whether an image that went through `Check` is to be decoded where small ones need not wait for it."""
    match item.value:
        case Contained(width=width, height=height):
            return width * height > LARGE or not width * height  # nobody knows how large
        case bytes() | bytearray():
            return True
    return False


@dataclass(frozen=True)
class Decode:
    """Makes pixels of what `Check` gives; raises as `decode.decode` does."""

    max_pixels: int
    size: tuple[int, int]  # height and width that the network takes

    def __call__(self, item: Item) -> Sequence[Decoded]:
        """The image, perhaps reduced; one that is decoded already as it is."""
        match item.value:
            case Contained() as file:
                return (decode.decode_plate(file, self.max_pixels, self.size),)
            case np.ndarray() as pixels:
                return (Decoded(pixels, (pixels.shape[1], pixels.shape[0])),)
        return (item.value,)


@dataclass(frozen=True)
class Prepare:
    """Makes the input of a network: uint8 (H, W, 3) of this size."""

    size: tuple[int, int]

    def __call__(self, item: Item) -> Sequence[Decoded]:
        """The image in the size that the network takes."""
        image = item.value
        if image.pixels.shape[:2] == self.size:
            return (image,)
        return (Decoded(geometry.prepare(image.pixels, self.size), image.size, image.truncated),)


class Infer:
    """Computes the items of all requests together, in one batch. Belongs to the thread that owns the engine."""

    def __init__(self, engine: Backend, told: Callable[[int, float], None]) -> None:
        """`told` is told of each batch: how many images, and the CPU time in seconds."""
        self._engine = engine
        self._told = told

    def __call__(self, items: Iterable[Item]) -> Sequence[Item]:
        """The items with their logits; an error of the engine fails all their requests."""
        ready = [item for item in items if item.request.begin(item)]
        if not ready:
            return ready
        started, cpu_s = time.perf_counter(), -time.thread_time()
        try:
            logits = self._engine.infer(np.array([item.value.pixels for item in ready]))  # half of what `stack` takes
        except Exception as error:  # belongs to those who wait; the thread goes on
            for item in ready:
                item.request.fail(error)
            return ()
        cpu_s += time.thread_time()
        seconds = time.perf_counter() - started
        self._told(len(ready), cpu_s)
        for item in {item.request: item for item in ready}.values():  # the time of a batch counts once for a request
            item.spend("inference", seconds)
        return [
            part for item, row in zip(ready, logits, strict=True) for part in item.become((Computed(item.value, row),))
        ]


class Read:
    """Reads the text in the logits of a model."""

    def __init__(self, manifest: Reads) -> None:
        self._reader = Reader.of(manifest)

    def __call__(self, item: Item) -> Sequence[Seen]:
        """What is seen on the image."""
        image, logits = item.value
        width, height = image.size
        reading = self._reader.read(logits, item.request.top_k, item.request.only)
        return (Seen(width, height, logits, reading, image.truncated),)
