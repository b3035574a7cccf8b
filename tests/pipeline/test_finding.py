"""From a photograph to every plate in it, by the published finder and refiner."""

import asyncio
from collections.abc import Iterator
from contextlib import closing

import cv2
import numpy as np
import pytest

from service import Reader, artifact
from service.artifact import Grammar
from service.backends import Backend, load
from service.errors import ArtifactError, BadParameter, TooManyPixels
from service.finding.refine import Refined
from service.finding.warp import warped
from service.pipeline.budget import AT_ONCE, Budget
from service.pipeline.items import Empty, Item, Outcome, Request, Seen
from service.pipeline.recognizer import Recognizer
from service.pipeline.stages import Find, Found, Photograph, Prepare, Rectify, reading, through
from service.reading.decode import Decoded
from service.reading.text import Reader as TextReader
from service.settings import REPOSITORY
from service.wire import Plate
from tests.support.images import encode
from tests.support.photographs import TEXTS, overlap, street, with_plate

ARTIFACTS = REPOSITORY / "artifacts"
SIZE = (24, 94)
NEAR = [(300.0, 400.0), (520.0, 410.0), (516.0, 480.0), (298.0, 466.0)]
FAR = [(700.0, 300.0), (790.0, 296.0), (792.0, 324.0), (701.0, 329.0)]
BOTH = with_plate(with_plate(street(), "yellow", FAR), "blue", NEAR)


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    with Reader("pruned-quantized", ARTIFACTS, finder="finder") as reader:
        yield reader


def texts(plates: list[Plate]) -> list[str]:
    return [plate.text for plate in plates]


def test_every_plate_is_found_and_read_the_largest_first(reader):
    plates = reader.read(BOTH)
    assert texts(plates) == [TEXTS["blue"], TEXTS["yellow"]]
    for plate, corners in zip(plates, (NEAR, FAR), strict=True):
        assert overlap(plate.box, corners) > 0.6
        assert plate.found > 0.9
        assert (plate.rows, plate.cut) == (1, False)
        assert plate.confidence > 0.9


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_turned_photograph_is_read_in_its_own_order(reader, turns):
    plates = reader.read(np.ascontiguousarray(np.rot90(BOTH, turns)))
    assert TEXTS["blue"] in texts(plates)
    top_left, top_right, *_ = np.array(plates[0].box)
    along = (top_right - top_left) / np.hypot(*(top_right - top_left))
    assert along @ [[0, -1], [-1, 0], [0, 1]][turns - 1] > 0.9


def test_a_photograph_without_a_plate_has_a_note(reader):
    (result,) = reader.read_all([street()])
    assert (result.plates, result.note) == ([], "No plate was found.")


@pytest.mark.parametrize("name", TEXTS)
def test_a_crop_is_a_small_photograph(reader, name):
    plate = with_plate(np.full((152, 480, 3), 90, np.uint8), name, [(0, 0), (480, 0), (480, 152), (0, 152)])
    for shrinks in (1, 2, 5):
        assert texts(reader.read(plate[::shrinks, ::shrinks])) == [TEXTS[name]]


def test_the_edge_cuts_a_plate(reader):
    (plate, *_) = reader.read(np.ascontiguousarray(BOTH[:, 340:]))
    assert plate.cut


def test_a_large_jpeg_is_decoded_reduced_and_its_corners_are_the_photograph_s(reader):
    whole, reduced = reader.read(BOTH), reader.read(encode(".jpg", BOTH.repeat(4, 0).repeat(4, 1)))
    assert texts(reduced) == texts(whole)
    assert all(
        overlap(one.box, [(x / 4, y / 4) for x, y in two.box]) > 0.8 for one, two in zip(whole, reduced, strict=True)
    )


def test_a_small_plate_in_a_large_photograph_is_found_in_a_tile(reader):
    image = with_plate(street(4000, 3000), "blue", [(3000, 2000), (3110, 2000), (3110, 2035), (3000, 2035)])
    (plate,) = reader.read(encode(".png", image))
    assert overlap(plate.box, [(3000, 2000), (3110, 2035)]) > 0.6


def test_without_finding_an_image_is_a_crop(reader):
    assert [plate.found for plate in reader.read(BOTH, find=False, min_confidence=0)] == [None]


def test_a_reader_without_a_finder_loads_none():
    with Reader("pruned-quantized", ARTIFACTS, finder="") as crops:
        assert [plate.box[2] for plate in crops.read(BOTH, min_confidence=0)] == [(1000, 700)]


def test_noise_and_walls_of_plates_are_bounded(reader):
    noise = np.random.default_rng(1).integers(0, 255, (1080, 1920, 3), np.uint8)
    wall = np.tile(
        with_plate(np.full((60, 130, 3), 80, np.uint8), "blue", [(10, 15), (120, 15), (120, 48), (10, 48)]), (18, 14, 1)
    )
    assert len(reader.read(noise)) <= 32
    assert 5 <= len(reader.read(wall, min_confidence=0)) <= 32


def test_requests_mix_photographs_and_crops_and_keep_their_order():
    images = [encode(".jpg", BOTH), b"x", encode(".png", street(300, 200)), encode(".png", street(2000, 1500))]

    async def task() -> list[tuple[Outcome, ...]]:
        finder = artifact.find_finder(ARTIFACTS, "finder")
        found = artifact.find(ARTIFACTS, "pruned-quantized")
        budget = Budget(99, 1, 4_000_000)
        recognizer = Recognizer(found, 1, budget, max_pixels=4_000_000, finder=finder)
        (seen, timing), (crops, _) = await asyncio.gather(
            recognizer.recognize(images, 1, find=True), recognizer.recognize(images[:1], 1)
        )
        assert timing.find > 0
        assert timing.rectify > 0
        assert [one.plate for (one,) in crops] == [None]
        too_large, _ = await recognizer.recognize([encode(".png", street(3000, 2000))], 1, find=True)
        assert isinstance(too_large[0][0], TooManyPixels)
        await recognizer.close()
        assert budget._free == AT_ONCE * 4_000_000, "the room of a photograph is left when it is freed"
        return seen

    both, undecodable, small, large = asyncio.run(task())
    assert [one.reading.text for one in both if isinstance(one, Seen)] == [TEXTS["blue"], TEXTS["yellow"]]
    assert len(undecodable) == 1
    assert (small, large) == ((Empty(),), (Empty(),))


def test_to_find_takes_a_finder(tiny):
    async def task() -> None:
        recognizer = Recognizer(tiny, 1, Budget(9, 1, 1000), max_pixels=1000)
        assert not recognizer.finding(None)
        assert not recognizer.finding(False)
        with pytest.raises(BadParameter, match="LPR_FINDER"):
            recognizer.finding(True)
        await recognizer.close()

    asyncio.run(task())


@pytest.mark.parametrize("name", ["baseline", "refiner"])
def test_another_model_is_no_finder(name):
    with pytest.raises(ArtifactError, match="one that finds is needed"):
        artifact.find_finder(ARTIFACTS, name)


@pytest.mark.parametrize(("cut", "seen"), [(False, None), (True, 0.0)])
def test_of_a_plate_that_the_edge_cuts_the_columns_beyond_it_are_told(cut, seen):
    corners = np.array([[-20, 20], [80, 20], [80, 45], [-20, 45]], np.float32)
    found = Found(street()[:200, :300], 1.0, (300, 200), False, Refined(corners, 0.99, 1, "blue", cut))
    (crop,) = Rectify((24, 94))(Item(Request([b""], print), (0,), found))
    assert crop.pixels.shape == (1, 24, 94, 3)
    (way,) = crop.ways
    assert (way.seen is None) if seen is None else (way.seen[0], way.seen[-1]) == (seen, 1.0)


def test_a_cut_plate_is_less_sure_of_its_outer_character(reader):
    whole = with_plate(street(), "blue", NEAR)
    (plate,) = reader.read(whole, min_confidence=0)
    cut = np.ascontiguousarray(whole[:, : int(NEAR[1][0]) - 12])  # half of the last character
    for less in reader.read(cut, min_confidence=0):
        if less.cut and len(less.characters) == len(plate.characters):
            assert less.characters[-1].confidence < 0.8 * less.characters[2].confidence
        assert less.confidence < plate.confidence


def straightened(image: np.ndarray, corners: list[tuple[float, float]], probability: float) -> Item:
    """A plate that was found, as a network takes it."""
    plate = Refined(np.array(corners, np.float32), probability, 1, "blue", False)
    found = Found(image, 1.0, image.shape[1::-1], False, plate)
    item = Item(Request([b""], print), (0,), found)
    return item.become(Rectify(SIZE)(item))[0]


def prepared(crop: np.ndarray) -> Item:
    """An image that is one plate, as a network takes it."""
    item = Item(Request([b""], print), (0,), Decoded(crop, crop.shape[1::-1]))
    return item.become(Prepare(SIZE)(item))[0]


class Faded:
    """An engine that is less sure of everything."""

    def __init__(self, engine: Backend, fade: float) -> None:
        self._engine, self._fade = engine, np.float32(fade)

    def infer(self, batch: np.ndarray) -> np.ndarray:
        return self._engine.infer(batch) * self._fade


@pytest.mark.parametrize(("fade", "again"), [(1, 0), (0.3, 1), (0.02, 0)])
def test_an_image_of_one_plate_is_looked_at_again_where_it_is_read_unsurely(read, fade, again):
    texts, engine, batches = read
    item = prepared(warped(with_plate(street(), "blue", NEAR), np.array(NEAR, np.float32), (60, 200)))
    (done,) = through(reading(texts, SIZE, Faded(engine, fade), lambda images, cpu_s: batches.append(images)), [item])
    assert batches == [1, 4][: 1 + again]
    assert (done.value.reading.confidence < 0.1) == (fade == 0.02)
    if fade > 0.1:
        assert done.value.reading.text == TEXTS["blue"]


@pytest.mark.parametrize(("fade", "probability", "again"), [(1, 0.99, 0), (0.3, 0.99, 1), (0.3, 0.1, 0)])
def test_only_a_plate_that_is_one_and_read_unsurely_is_looked_at_again(read, fade, probability, again):
    texts, engine, batches = read
    item = straightened(with_plate(street(), "blue", NEAR), NEAR, probability)
    (done,) = through(reading(texts, SIZE, Faded(engine, fade), lambda images, cpu_s: batches.append(images)), [item])
    assert batches == [1, 4][: 1 + again]
    assert isinstance(done.value, Seen)
    assert done.value.reading.text == TEXTS["blue"]
    assert done.value.logits.shape == (23, 74)


@pytest.mark.parametrize(
    ("size", "corners", "count", "tight"),
    [
        ((60, 200), (0.05, 0.1, 0.95, 0.9), 1, True),
        ((60, 200), (0.05, 0.1, 0.5, 0.9), 1, False),
        ((60, 200), (0.05, 0.1, 0.95, 0.9), 2, False),
        ((90, 300), (0.05, 0.1, 0.95, 0.9), 1, False),
        ((200, 60), (0.05, 0.1, 0.95, 0.9), 1, False),
    ],
)
def test_a_small_image_that_one_plate_fills_may_be_a_crop_of_it(size, corners, count, tight):
    height, width = size
    left, top, right, bottom = np.array(corners) * (width, height, width, height)
    plate = Refined(np.array([[left, top], [right, top], [right, bottom], [left, bottom]]), 1.0, 1, "blue", False)
    image = Decoded(np.zeros((*size, 3), np.uint8), (width, height))
    item = Item(Request([b""], print), (0,), Photograph(image, None))
    found = Find(lambda pixels: [plate] * count, SIZE, 10**6)(item)
    assert [one.tight for one in found] == [tight] * count


@pytest.mark.parametrize("turn", [0, 2])
def test_of_a_plate_that_fills_its_image_all_of_the_image_is_looked_at_too(read, turn):
    texts, engine, batches = read
    crop = np.rot90(warped(with_plate(street(), "blue", NEAR), np.array(NEAR, np.float32), (60, 200)), turn)
    corners = [[[0, 0], [160, 0], [160, 40], [0, 40]], [[200, 60], [40, 60], [40, 20], [200, 20]]]
    part = np.array(corners[turn // 2], np.float32)
    found = Found(np.ascontiguousarray(crop), 1.0, (200, 60), False, Refined(part, 0.99, 1, "blue", False), True)
    item = Item(Request([b""], print), (0,), found)
    (item,) = item.become(Rectify(SIZE)(item))
    (done,) = through(reading(texts, SIZE, engine, lambda images, cpu_s: batches.append(images)), [item])
    assert batches[1:] == [9]
    assert TEXTS["blue"] in [one.text for one in done.value.reading.candidates]


def test_an_unsure_plate_of_two_rows_costs_a_crop_and_six_views(read):
    texts, engine, batches = read
    square = np.array([[300, 300], [420, 300], [420, 360], [300, 360]], np.float32)
    pixels = np.random.default_rng(0).integers(0, 255, (700, 1000, 3), np.uint8)
    found = Found(pixels, 1.0, (1000, 700), False, Refined(square, 0.99, 2, "yellow", False))
    item = Item(Request([b""], print), (0,), found)
    (item,) = item.become(Rectify(SIZE)(item))
    item.value = item.value._replace(ways=item.value.ways[:1], pixels=item.value.pixels[:1])  # in two rows alone
    (done,) = through(reading(texts, SIZE, engine, lambda images, cpu_s: batches.append(images)), [item])
    assert batches == [1, 6]
    assert done.value.reading.confidence < 0.9


def test_a_plate_that_may_lie_in_any_way_costs_four_crops_and_four_views(read):
    texts, engine, batches = read
    square = np.array([[300, 300], [420, 300], [420, 360], [300, 360]], np.float32)
    plate = Refined(square, 0.99, 1, "blue", False, upright=0.5)
    item = Item(Request([b""], print), (0,), Found(street(), 1.0, (1000, 700), False, plate))
    (item,) = item.become(Rectify(SIZE)(item))
    (done,) = through(reading(texts, SIZE, engine, lambda images, cpu_s: batches.append(images)), [item])
    assert batches == [4, 4]
    assert done.value.reading.confidence < 0.9


@pytest.mark.parametrize(("fade", "top_k"), [(1.0, 3), (0.3, 10)])
def test_what_a_request_wants_read_decides_neither_the_way_nor_a_confidence(read, fade, top_k):
    """Upside down, a foreign plate may fit the wanted formats better than as it is."""
    texts, engine, batches = read
    plate = Refined(np.array(NEAR, np.float32), 0.99, 1, "blue", False, upright=0.5)
    formats = artifact.find(ARTIFACTS, "pruned-quantized").reader.grammar.formats
    seen, counts = [], []
    for only in (None, *(Grammar(formats=(one,)) for one in formats)):
        request = Request([b""], print, top_k, only)
        item = Item(request, (0,), Found(with_plate(street(), "blue", NEAR), 1.0, (1000, 700), False, plate))
        (item,) = item.become(Rectify(SIZE)(item))
        batches.clear()
        faded = Faded(engine, fade)
        (done,) = through(reading(texts, SIZE, faded, lambda images, cpu_s: batches.append(images)), [item])
        seen.append(done.value)
        counts.append([*batches])
    free, *held = seen
    assert free.reading.text == TEXTS["blue"]
    assert {str(one.plate.corners) for one in held} == {str(free.plate.corners)}
    assert counts == counts[:1] * len(counts)
    known = dict(free.reading.candidates)
    assert any(one.reading.text == free.reading.text for one in held)
    for one in held:
        for text, confidence in one.reading.candidates:
            assert confidence == pytest.approx(known.get(text, confidence), rel=1e-6)


def two_rows(upper: str, lower: str) -> np.ndarray:
    """A plate of two rows, and nothing around it."""
    plate = np.full((200, 280, 3), 230, np.uint8)
    cv2.rectangle(plate, (4, 4), (275, 195), (20, 20, 20), 4)
    for text, bottom in ((upper, 90), (lower, 180)):
        (width, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 2.4, 9)
        cv2.putText(plate, text, ((280 - width) // 2, bottom), cv2.FONT_HERSHEY_SIMPLEX, 2.4, (20, 20, 20), 9)
    return plate


@pytest.mark.parametrize(("upper", "lower"), [("KLA", "0011"), ("AB12", "XYZ"), ("ABC", "1234")])
def test_a_crop_of_a_plate_of_two_rows_is_read_without_being_looked_for(upper, lower):
    with Reader("world-quantized", ARTIFACTS, finder="") as reader:
        (plate,) = reader.read(two_rows(upper, lower))
    assert plate.text == upper + lower


@pytest.fixture
def read() -> Iterator[tuple[TextReader, Backend, list[int]]]:
    found = artifact.find(ARTIFACTS, "pruned-quantized")
    with closing(load(found)) as engine:
        yield TextReader.of(found.reader), engine, []
