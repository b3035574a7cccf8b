"""Stages: the steps from the file of an image to what is read on it, each from items to items.

=========== ============================================== ======================================
stage       value of an item before                        after
=========== ============================================== ======================================
`refused`   `Source`                                       a file or pixels
`Check`     a file, or pixels                              `Contained` of a small file
`Decode`    a file, `Contained`, pixels                    `Photograph` to search, else `Decoded`
`Redact`    `Photograph`, if its plates are to be covered  `Redacted`
`Find`      `Photograph`                                   `Found`, one for each plate
`Rectify`   `Found`                                        `Crop`
`Prepare`   `Decoded`                                      `Crop`
`Infer`     `Crop`                                         `Computed`
`Read`      `Computed`                                     `Seen`, or `Unsure` of its text
`Infer`     `Unsure`                                       `Computed`
`Reread`    `Computed`                                     `Seen`
=========== ============================================== ======================================

Stages are lazy where they can be: an image is decoded and reduced before the next one is decoded, so that the pixels of
a batch are never in memory together.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.artifact import Artifact, Grammar, Looks
from service.backends import Backend
from service.errors import InputError
from service.finding.cover import cover
from service.finding.refine import SQUARE, Form, Refined, inside, rectified
from service.finding.rows import joined
from service.finding.search import Search, distinct
from service.finding.views import FOUND, FURTHER, ROWS, SURE, Around, alone, surroundings, views
from service.finding.warp import frame
from service.pipeline.budget import Budget
from service.pipeline.items import Empty, Item, Redacted, Seen
from service.reading import decode, encode, geometry
from service.reading.containers import WALKED, Contained, announced, sniff
from service.reading.decode import Decoded
from service.reading.geometry import Pixels
from service.reading.plates import doubt, likeliest
from service.reading.text import Reader, Reading

LARGE: Final = 500_000  # pixels, beyond which decoding takes longer than some networks do
LARGE_BYTES: Final = 128 * 1024  # of a file; to look through a larger one takes too long for the event loop
CROP: Final = 224  # pixels of the longer side up to which an image without a plate is read as a crop of one
TIGHT: Final = 0.5  # share of such an image's width: an image of which one plate has more may be a crop of it
FINE: Final = 1.3  # times the columns that a network takes: a plate of less is cut out of the unreduced photograph
TURN_S: Final = 0.001  # of work on images, before a thread lets others have Python's lock
PAUSE_S: Final = 20e-6  # for which it does: enough for the kernel to wake one of them

T = TypeVar("T")
Stage = Callable[[Iterable[Item]], Iterable[Item]]
Told = Callable[[int, float], None]  # of what was computed together: how many images, and the CPU time in seconds


class Photograph(NamedTuple):
    """An image in which plates are to be found."""

    image: Decoded
    file: Contained | None  # that it was decoded from


class Found(NamedTuple):
    """A plate in an image, with corners in pixels of `pixels`, of which the image has `reduced` for one. The image may
    be a `tight` crop of the plate."""

    pixels: Pixels
    reduced: float
    size: tuple[int, int]
    truncated: bool
    plate: Refined
    tight: bool = False


class Way(NamedTuple):
    """A way to read a plate: as what it was found, None for an image that is one plate. `seen` (W,) are the shares of
    the crop's columns that lie in the image, where its edge cuts the plate. `turned` is a plate that is read upside
    down, against how it was found. It has so many `rows`."""

    plate: Refined | None = None
    seen: NDArray[np.float32] | None = None
    turned: bool = False
    rows: int = 1


class Crop(NamedTuple):
    """What a network takes of a plate, (N, H, W, 3), one for each way to read it, and of which image it is: width,
    height, whether it was cut off. Further views are cut from `around` and, of a tight crop, from the `whole` image."""

    pixels: Pixels
    size: tuple[int, int]
    truncated: bool
    around: Around
    ways: tuple[Way, ...] = (Way(),)
    whole: Around | None = None


class Unsure(NamedTuple):
    """Further views (N, H, W, 3) of a plate, those of its two rows alone first, and what is seen on it so far."""

    pixels: Pixels
    way: Way
    seen: Seen


class Computed(NamedTuple):
    """What a network made of crops or views: logits (N, T, C)."""

    of: Crop | Unsure
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


def decoding(max_pixels: int, size: tuple[int, int], search: Search | None = None) -> list[Stage]:
    """The stages from what `Check` gives to the input of a network of this height and width.

    Without a search, photographs stay photographs.
    """
    find = (
        [Each("find", Redact(search)), Each("find", Find(search, size, max_pixels)), Each("rectify", Rectify(size))]
        if search
        else []
    )
    return [Each("decode", Decode(max_pixels, size)), *find, Each("preprocess", Prepare(size))]


def search_with(finder: tuple[Artifact, Artifact] | None, engines: Sequence[Backend]) -> Search | None:
    """The search by the engines of the artifacts that find and refine."""
    if finder is None:
        return None
    (find, refine), (finds, refines) = engines, (finder[0].finder, finder[1].refiner)
    return Search(find.infer, refine.infer, finds.sizes, Form(refines.size, refines.around, refines.colours))


def reading(texts: Reader, size: tuple[int, int], engine: Backend, told: Told) -> list[Stage]:
    """The stages from the input of a network, of this height and width, to what is read."""
    infer = Infer(engine, told)
    return [infer, Each("postprocess", Read(texts, size)), infer, Each("postprocess", Reread(texts))]


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


def begun(items: Iterable[Item]) -> Iterator[Item]:
    """The items, with whose requests an inference thread begins: no deadline holds for them from here on."""
    for item in items:
        item.request.begun = True
        yield item


def within(budget: Budget, stages: Sequence[Stage]) -> Stage:
    """A stage that takes an image through `stages` once the budget has room for its pixels.

    The room is left when the next one is asked for; where a photograph came out, when that is freed.
    """

    def stage(items: Iterable[Item]) -> Iterator[Item]:
        for item in items:
            with budget.pixels(item.value.width * item.value.height) as room:
                for decoded in through(stages, [item]):
                    if isinstance(decoded.value, Photograph):
                        room.kept_for = decoded.value.image.pixels
                    yield decoded

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
            if len(values) == 1 and isinstance(values[0], Empty | Redacted):
                item.finish(values[0])
            else:
                yield from item.become(values)


def _end(item: Item, error: Exception) -> None:
    if isinstance(error, InputError):
        item.finish(error.with_traceback(None))  # whose frames hold the image
    elif not item.request.dropped:
        item.request.fail(error)


@dataclass(frozen=True)
class Check:
    """Looks through a file of up to `most_bytes`, or one of which that takes no time; raises as `decode.check` does."""

    max_pixels: int
    most_bytes: float = float("inf")

    def __call__(self, item: Item) -> Sequence[Any]:
        """The file reduced to what decoding needs, or the value as it is."""
        value = item.value
        if isinstance(value, bytes | bytearray) and (len(value) <= self.most_bytes or sniff(value) not in WALKED):
            return (decode.check(value, self.max_pixels),)
        return (value,)


def pixels(item: Item) -> int | None:
    """Of an image that went through `Check`, the pixels that its header announces; None where it does not tell."""
    match item.value:
        case Contained(width=width, height=height):
            return width * height or None
        case bytes() | bytearray() as data:
            return announced(data)
        case np.ndarray(shape=(height, width, _)):
            return int(width * height)
    return None


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

    def __call__(self, item: Item) -> Sequence[Photograph | Decoded | Crop]:
        """The image, perhaps reduced; what is decoded already as it is."""
        search = item.request.find
        match item.value:
            case Contained() as file if item.request.cover:
                return (Photograph(decode.decode(file, self.max_pixels), file),)
            case Contained() as file if search:
                return (Photograph(decode.decode_photograph(file, self.max_pixels), file),)
            case Contained() as file:
                return (decode.decode_plate(file, self.max_pixels, self.size),)
            case np.ndarray() as pixels:
                image = Decoded(pixels, (pixels.shape[1], pixels.shape[0]))
                return (Photograph(image, None) if search else image,)
        return (item.value,)


@dataclass(frozen=True)
class Redact:
    """Covers the plates of photographs of requests that ask for it; lets everything else pass."""

    search: Search

    def __call__(self, item: Item) -> Sequence[Any]:
        """The image encoded again, in its format; raises UndecodableImage where that cannot hold it."""
        how = item.request.cover
        if how is None or not isinstance(item.value, Photograph) or not item.request.begin(item):
            return (item.value,)
        image, file = item.value
        suspects = self.search.suspects(image.pixels)
        covered = image.pixels.copy()
        cover(covered, [one.corners for one in suspects], how)
        kind = encode.kind_of(file.format if file else None)
        data = encode.encode(covered, kind)
        return (Redacted(data, kind, len(distinct(suspects)), image.truncated),)


@dataclass(frozen=True)
class Find:
    """Finds the plates of photographs; lets everything else pass."""

    search: Search
    size: tuple[int, int]  # height and width of what is to be cut out
    max_pixels: int

    def __call__(self, item: Item) -> Sequence[Any]:
        """`Found` plates, the largest first, or `Empty`; a small image as it is, because it may be a tight crop."""
        if not isinstance(item.value, Photograph) or not item.request.begin(item):
            return (item.value,)
        image, file = item.value
        plates = self.search(image.pixels)
        crop = max(image.size) <= CROP and image.size[0] > image.size[1]
        if not plates:
            return (image if crop else Empty(image.truncated),)
        whole = image
        if file and image.reduced > 1 and any(plate.width < FINE * self.size[1] for plate in plates):
            whole = decode.decode(file, self.max_pixels)
        scale = np.float32(image.reduced / whole.reduced)
        found = (plate._replace(corners=plate.corners * scale) for plate in plates)
        tight = crop and len(plates) == 1 and np.ptp(plates[0].corners[:, 0]) >= TIGHT * image.pixels.shape[1]
        return [Found(whole.pixels, whole.reduced, image.size, image.truncated, plate, tight) for plate in found]


@dataclass(frozen=True)
class Rectify:
    """Straightens found plates to the input of a network; lets everything else pass."""

    size: tuple[int, int]

    def __call__(self, item: Item) -> Sequence[Any]:
        """A `Crop` of the plate, with its corners in pixels of the image."""
        if not isinstance(item.value, Found):
            return (item.value,)
        pixels, reduced, size, truncated, plate, tight = item.value
        crops, ways = [], []
        for way in plate.ways:
            seen = inside(way, pixels.shape[:2], self.size[1]) if plate.cut else None
            crops.append(rectified(pixels, way, self.size))
            turned = not np.array_equal(way.corners, plate.corners)
            ways.append(Way(way._replace(corners=way.corners * np.float32(reduced)), seen, turned, way.rows))
        around = surroundings(pixels, plate, self.size)
        whole = alone(pixels, self.size) if tight else None
        return (Crop(np.array(crops), size, truncated, around, tuple(ways), whole),)


@dataclass(frozen=True)
class Prepare:
    """Makes the input of a network of this size, uint8 (N, H, W, 3), of an image that is one plate."""

    size: tuple[int, int]

    def __call__(self, item: Item) -> Sequence[Any]:
        """The image in the size that the network takes, as a plate of one row. An image that may show two rows comes
        with them side by side, too. What is no `Decoded` stays as it is."""
        image = item.value
        if not isinstance(image, Decoded):
            return (image,)
        pixels, (width, height) = image.pixels, image.size
        crops, ways = [geometry.prepare(pixels, self.size)], [Way()]
        if width < SQUARE * height:
            crops.append(joined(pixels, frame(pixels.shape[:2]), self.size))
            ways.append(Way(rows=2))
        return (Crop(np.stack(crops), image.size, image.truncated, alone(pixels, self.size), tuple(ways)),)


class Infer:
    """Computes the crops of all requests together, in one batch; lets everything else pass. Belongs to the thread that
    owns the engine."""

    def __init__(self, engine: Backend, told: Told) -> None:
        """`told` is told of each batch."""
        self._engine = engine
        self._told = told

    def __call__(self, items: Iterable[Item]) -> Sequence[Item]:
        """The items with their logits; an error of the engine fails all their requests."""
        passing, ready = [], []
        for item in items:
            if not isinstance(item.value, Crop | Unsure):
                passing.append(item)
            elif item.request.begin(item):
                ready.append(item)
        if not ready:
            return passing
        counts = [len(item.value.pixels) for item in ready]
        started, cpu_s = time.perf_counter(), -time.thread_time()
        try:
            logits = self._engine.infer(np.concatenate([item.value.pixels for item in ready]))
        except Exception as error:  # belongs to those who wait; the thread goes on
            for item in ready:
                item.request.fail(error)
            return passing
        cpu_s += time.thread_time()
        seconds = time.perf_counter() - started
        self._told(sum(counts), cpu_s)
        for item in {item.request: item for item in ready}.values():  # the time of a batch counts once for a request
            item.spend("inference", seconds)
        first = 0
        for item, count in zip(ready, counts, strict=True):
            passing += item.become((Computed(item.value, logits[first : first + count]),))
            first += count
        return passing


class Read:
    """Reads the text in the logits of a model, in the best of the ways.

    Which way is right, and whether the text is sure, is the same for all requests: what a request wants read does not
    change what the plate is. So that is told before its formats and regions are considered.
    """

    def __init__(self, texts: Reader, size: tuple[int, int]) -> None:
        self._texts = texts
        self._size = size

    def __call__(self, item: Item) -> Sequence[Seen | Unsure]:
        """What is seen on the image; of a plate that is given but read unsurely, further views."""
        crop, logits = item.value
        top_k, only = item.request.top_k, item.request.only
        readings = [_text(self._texts, top_k, None, one, way) for one, way in zip(logits, crop.ways, strict=True)]
        best = likeliest(readings, [way.plate for way in crop.ways])
        reading, way = readings[best], crop.ways[best]
        unsure = reading.confidence < SURE and not doubt(reading, None, way.plate)
        if only is not None and not unsure:
            reading = _text(self._texts, top_k, only, logits[best], way)
        width, height = crop.size
        seen = Seen(width, height, logits[best], reading, crop.truncated, way.plate)
        return (Unsure(self._further(crop, way), way, seen) if unsure else seen,)

    def _further(self, crop: Crop, way: Way) -> Pixels:
        """Further views of what was read in this way."""
        wanted = (*ROWS, *FURTHER) if way.rows == 2 else FURTHER
        further = views(crop.around, way.rows, way.turned, self._size, wanted)
        if way.plate is None or crop.whole is None:
            return further
        # The corners of a plate that fills its image may be wrong, so all of the image is looked at as well.
        width, height = crop.size
        rows = way.rows if width < SQUARE * height else 1
        (left, _), (right, _), *_ = way.plate.corners
        whole = views(crop.whole, rows, bool(right < left), self._size, (FOUND, *FURTHER))
        return np.concatenate([further, whole])


class Reread:
    """Reads the text of unsure plates in all their views; lets everything else pass."""

    def __init__(self, texts: Reader) -> None:
        self._texts = texts

    def __call__(self, item: Item) -> Sequence[Seen]:
        """What is seen on the image."""
        match item.value:
            case Computed(Unsure(_, way, seen), logits):
                rows, further = np.split(logits, [len(ROWS)]) if way.rows == 2 else (None, logits)
                request, all_views = item.request, np.concatenate([seen.logits[None], further])
                reading = _text(self._texts, request.top_k, request.only, all_views, way, rows)
                return (replace(seen, reading=reading),)
        return (item.value,)


def _text(
    texts: Reader,
    top_k: int,
    only: Grammar | None,
    logits: NDArray[np.float32],
    way: Way,
    rows: NDArray[np.float32] | None = None,
) -> Reading:
    """What is read in the logits of one crop, or of several views and of two rows alone."""
    looks = Looks(way.plate.rows, way.plate.colour, way.plate.aspect) if way.plate else None
    return texts.read(logits, top_k, only, looks, way.seen, rows)
