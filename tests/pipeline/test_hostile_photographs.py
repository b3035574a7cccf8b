"""Photographs that are made to cost much, through the published finder and refiner: their work is bounded.

Work is counted in looks of the finder, crops of the refiner and plates, because a clock tells of the machine.
"""

import asyncio
import io
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from service import Reader, artifact, backends
from service.artifact import Artifact
from service.errors import TooManyPixels
from service.finding.refine import HEATS, Form
from service.finding.search import MOST, Search
from service.pipeline.budget import AT_ONCE, Budget
from service.pipeline.items import Empty, Seen
from service.pipeline.recognizer import Recognizer
from service.reading import decode
from tests.pipeline.test_finding import ARTIFACTS, BOTH
from tests.support.images import encode
from tests.support.photographs import TEXTS, overlap, street, with_plate

LOOKS = 2 + 4 * 2  # two at the whole, and where these find nothing, two at each of four tiles
CROPS = (1 + 4) * 2 * MOST  # two passes over the plates of the whole and of each tile
SIZES = ((384, 640), (224, 224))  # of the finders that are made up here
FORM = Form()

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]


class Counting:
    """A search that counts what its networks are given."""

    def __init__(self, find: Callable[[Pixels], Floats], refine: Callable[[Pixels], Floats], sizes: Any) -> None:
        self._find, self._refine = find, refine
        self._search = Search(self._look, self._crop, sizes, FORM)

    def __call__(self, image: Pixels) -> tuple[int, int, list[Any]]:
        """Looks, crops and plates of an image."""
        self.looks = self.crops = 0
        plates = self._search(image)
        return self.looks, self.crops, plates

    def _look(self, images: Pixels) -> Floats:
        self.looks += len(images)
        return self._find(images)

    def _crop(self, images: Pixels) -> Floats:
        self.crops += len(images)
        return self._refine(images)


@pytest.fixture(scope="module")
def search() -> Iterator[Counting]:
    """The published finder and refiner, in float32."""
    pair = artifact.find_finder(ARTIFACTS, "finder")
    finds, refines = engines = [backends.load(one) for one in pair]
    yield Counting(finds.infer, refines.infer, pair[0].finder.sizes)
    for engine in engines:
        engine.close()


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    with Reader("pruned-quantized", ARTIFACTS, finder="finder") as reader:
        yield reader


def checks(width: int, height: int, size: int) -> Pixels:
    """Black and white squares."""
    y, x = np.mgrid[:height, :width] // size
    return np.repeat((255 * ((x + y) % 2)).astype(np.uint8)[..., None], 3, 2)


def stripes(width: int, height: int, size: int) -> Pixels:
    """Bars, as of a barcode."""
    bars = (np.arange(width) // size % 2 * 255).astype(np.uint8)
    return np.broadcast_to(bars[None, :, None], (height, width, 3)).copy()


def noise(width: int, height: int, size: int = 1) -> Pixels:
    """Squares of random colours."""
    cells = np.random.default_rng(1).integers(0, 256, (-(-height // size), -(-width // size), 3), np.uint8)
    return cells.repeat(size, 0).repeat(size, 1)[:height, :width].copy()


def codes(width: int, height: int) -> Pixels:
    """QR-like codes everywhere."""
    bits = np.random.default_rng(2).integers(0, 2, (21, 21), np.uint8) * 255
    tile = cv2.copyMakeBorder(bits.repeat(4, 0).repeat(4, 1), 8, 8, 8, 8, cv2.BORDER_CONSTANT, value=255)
    return np.repeat(np.tile(tile, (-(-height // 100), -(-width // 100)))[:height, :width, None], 3, 2)


def wall(columns: int, rows: int) -> Pixels:
    """So many plates."""
    quad = [(10.0, 15.0), (120.0, 15.0), (120.0, 48.0), (10.0, 48.0)]
    return np.tile(with_plate(np.full((60, 130, 3), 80, np.uint8), "blue", quad), (rows, columns, 1))


def plain(value: int, width: int = 800, height: int = 600) -> Pixels:
    return np.full((height, width, 3), value, np.uint8)


PATTERNS: dict[str, Callable[[], Pixels]] = {
    "noise": lambda: noise(1920, 1080),
    "coarse noise": lambda: noise(1920, 1080, 6),
    "checks": lambda: checks(1600, 1200, 16),
    "small checks": lambda: checks(1600, 1200, 3),
    "stripes": lambda: stripes(1600, 900, 7),
    "codes": lambda: codes(1600, 1200),
    "black": lambda: plain(0, 2000, 1500),
    "white": lambda: plain(255),
    "a colour": lambda: np.full((600, 800, 3), (180, 60, 20), np.uint8),
    "one pixel": lambda: plain(9, 1, 1),
    "a row": lambda: noise(decode.MAX_SIDE, 1),
    "a column": lambda: noise(1, decode.MAX_SIDE),
    "a ribbon": lambda: stripes(20_000, 30, 5),
    "a tower": lambda: noise(30, 20_000),
    "huge": lambda: noise(5000, 5000, 40),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns_cost_no_more_than_the_bounds_and_hold_no_plate(search, name):
    looks, crops, plates = search(PATTERNS[name]())
    assert (looks <= LOOKS, crops <= CROPS, plates) == (True, True, [])


def test_a_wall_of_two_hundred_plates_gives_as_many_as_are_given(search):
    looks, crops, plates = search(wall(10, 20))
    assert 20 <= len(plates) <= MOST
    assert (looks, crops <= 2 * MOST) == (2, True)


def lit(images: Pixels, channels: Callable[[tuple[int, ...]], Floats]) -> Floats:
    """Maps of a finder that is sure of a plate in every cell."""
    shape = (len(images), images.shape[1] // 8, images.shape[2] // 8)
    return np.concatenate([np.full((*shape, 1), 9, np.float32), channels((*shape, 8))], 3)


def surely(images: Pixels, heat: float = 0) -> Floats:
    """Maps of a refiner that is sure of every plate, and of corners in cells at random, by that much heat."""
    maps = np.zeros((len(images), *FORM.cells, FORM.channels), np.float32)
    maps[..., :HEATS] = heat * np.random.default_rng(len(images)).random(maps[..., :HEATS].shape)
    maps[..., HEATS] = 9
    return maps


QUADS: dict[str, Callable[[tuple[int, ...]], Floats]] = {
    "points": lambda shape: np.zeros(shape, np.float32),
    "lines": lambda shape: np.broadcast_to(np.float32([-2, 0, 2, 0, 2, 0, -2, 0]), shape),
    "crossed": lambda shape: np.broadcast_to(np.float32([-2, -1, 2, 1, 2, -1, -2, 1]), shape),
    "backwards": lambda shape: np.broadcast_to(np.float32([-2, 1, 2, 1, 2, -1, -2, -1]), shape),
    "elsewhere": lambda shape: np.broadcast_to(np.float32([-2, -1, 2, -1, 2, 1, -2, 1]) + 1e4, shape),
    "huge": lambda shape: np.broadcast_to(np.float32([-2, -1, 2, -1, 2, 1, -2, 1]) * 1e6, shape),
    "random": lambda shape: np.random.default_rng(3).normal(0, 30, shape).astype(np.float32),
    "no numbers": lambda shape: np.full(shape, np.nan, np.float32),
    "infinite": lambda shape: np.full(shape, np.inf, np.float32),
}


@pytest.mark.parametrize("heat", [0.0, 1e4, np.inf, np.nan])
@pytest.mark.parametrize("name", QUADS)
def test_whatever_corners_the_networks_answer_the_work_is_bounded_and_plates_are_finite(name, heat):
    made_up = Counting(lambda images: lit(images, QUADS[name]), lambda images: surely(images, heat), SIZES)
    image = street(1600, 1200)
    looks, crops, plates = made_up(image)
    assert (looks <= LOOKS, crops <= CROPS, len(plates) <= MOST) == (True, True, True)
    assert all(np.isfinite(plate.corners).all() and np.isfinite(plate.probability) for plate in plates)


@pytest.mark.parametrize("maps", [np.nan, np.inf, -np.inf])
def test_maps_of_a_broken_engine_show_no_plate_or_as_many_as_are_given(maps):
    broken = Counting(lambda images: np.full_like(lit(images, QUADS["points"]), maps), surely, SIZES)
    looks, crops, plates = broken(street(1600, 1200))
    assert (looks <= LOOKS, crops <= CROPS, len(plates) <= MOST) == (True, True, True)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    target = io.BytesIO()
    image.save(target, kind, **options)
    return target.getvalue()


def turned(image: Image.Image, orientation: int, transpose: Image.Transpose) -> bytes:
    """A JPEG that is stored turned or mirrored, and tells so."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(image.transpose(transpose), "JPEG", quality=95, exif=exif)


PHOTOGRAPH = Image.fromarray(np.ascontiguousarray(BOTH[:, :, ::-1]))
SIXTEEN = BOTH.astype(np.uint16) * 257
KINDS: dict[str, Callable[[], bytes]] = {
    "CMYK": lambda: saved(PHOTOGRAPH.convert("CMYK"), "JPEG", quality=95),
    "progressive": lambda: saved(PHOTOGRAPH, "JPEG", quality=95, progressive=True),
    "16 bits": lambda: encode(".png", SIXTEEN),
    "16 bits, transparent": lambda: encode(".png", np.dstack([SIXTEEN, np.full(BOTH.shape[:2], 65535, np.uint16)])),
    "transparent": lambda: saved(PHOTOGRAPH.convert("RGBA"), "PNG", compress_level=1),
    "animated": lambda: saved(PHOTOGRAPH, "WEBP", save_all=True, append_images=[PHOTOGRAPH.convert("L")], quality=90),
    "TIFF": lambda: saved(PHOTOGRAPH, "TIFF"),
    "mirrored": lambda: turned(PHOTOGRAPH, 2, Image.Transpose.FLIP_LEFT_RIGHT),
    "half turn": lambda: turned(PHOTOGRAPH, 3, Image.Transpose.ROTATE_180),
    "quarter turn": lambda: turned(PHOTOGRAPH, 6, Image.Transpose.ROTATE_90),
    "mirrored quarter turn": lambda: turned(PHOTOGRAPH, 7, Image.Transpose.TRANSVERSE),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_photograph_of_any_kind_is_read_as_it_is_seen(reader, name):
    expected, plates = reader.read(BOTH), reader.read(KINDS[name]())
    assert [plate.text for plate in plates] == [TEXTS["blue"], TEXTS["yellow"]]
    assert all(overlap(one.box, other.box) > 0.8 for one, other in zip(plates, expected, strict=True))


def recognized(tiny: Artifact, images: list[bytes], max_pixels: int) -> list[Any]:
    """The outcomes of a request of photographs."""

    async def task() -> list[Any]:
        finder = artifact.find_finder(ARTIFACTS, "finder-quantized")
        recognizer = Recognizer(tiny, 2, Budget(256, 2, max_pixels), max_pixels, deadline_s=0.1, finder=finder)
        outcomes, _ = await recognizer.recognize(images, 1, find=True)
        await recognizer.close()
        return outcomes

    return asyncio.run(task())


def test_the_photographs_of_a_request_are_in_memory_a_few_at_a_time(tiny, monkeypatch):
    """And all are read, though that takes longer than a request may wait."""
    alive = most = 0
    decode_photograph = decode.decode_photograph

    def gone() -> None:
        nonlocal alive
        alive -= 1

    def counted(*given: Any) -> decode.Decoded:
        nonlocal alive, most
        image = decode_photograph(*given)
        alive += 1
        most = max(most, alive)
        weakref.finalize(image.pixels, gone)
        return image

    monkeypatch.setattr(decode, "decode_photograph", counted)
    outcomes = recognized(tiny, [encode(".jpg", street(1500, 1000))] * 20, max_pixels=1_500_000)
    assert outcomes == [(Empty(),)] * 20
    assert most <= AT_ONCE


def test_a_request_holds_photographs_up_to_a_bound(tiny):
    with pytest.raises(TooManyPixels, match=r"120,000,000 pixels together.*in several requests"):
        recognized(tiny, [encode(".png", plain(9, 6000, 4000))] * 5, max_pixels=25_000_000)


def test_every_plate_of_a_wall_is_one_of_a_bounded_batch_for_the_reader(tiny):
    ((*seen,),) = recognized(tiny, [encode(".jpg", wall(10, 20))], max_pixels=2_000_000)
    assert 20 <= len(seen) <= MOST
    assert {type(one) for one in seen} == {Seen}
