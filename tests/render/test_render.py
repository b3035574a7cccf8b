"""The renderer: a seed decides every pixel, and what it draws can be read."""

import collections
import hashlib
import random
import subprocess
import sys

import numpy as np
import pytest

from model_builder.plates import patterns
from model_builder.plates.kinds import GRAMMAR, PLATES, Plate, shares
from model_builder.render import plate, plate_hidden, plate_photo
from model_builder.render.plate import Renderer
from model_builder.render.plate_art import Art, Drawing
from model_builder.render.plate_seals import SEALS
from service.finding import rows
from service.finding.views import View
from service.settings import REPOSITORY

SEEDS = range(1000, 1400)


def digest(images: np.ndarray, texts: list[str]) -> str:
    return hashlib.sha256(images.tobytes() + "".join(texts).encode()).hexdigest()


@pytest.fixture(scope="module")
def samples() -> list[plate.Sample]:
    """Some hundreds of plates in strokes alone."""
    renderer = Renderer(fonts=False)
    return [renderer.sample(seed) for seed in SEEDS]


@pytest.mark.parametrize("fonts", [True, False])
def test_a_seed_decides_every_pixel_whatever_was_drawn_before(fonts):
    first, second = Renderer(fonts=fonts), Renderer(fonts=fonts)
    forward = [first.sample(seed) for seed in range(30)]
    backward = [second.sample(seed) for seed in reversed(range(30))]
    for a, b in zip(forward, reversed(backward), strict=True):
        assert a[1:] == b[1:]
        np.testing.assert_array_equal(a.image, b.image)


def test_another_process_draws_the_same():
    program = (
        "import hashlib; from model_builder.render import plate;"
        "images, texts = plate.batch(plate.Renderer(), 7, 20);"
        "print(hashlib.sha256(images.tobytes() + ''.join(texts).encode()).hexdigest())"
    )
    process = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert process.stdout.strip() == digest(*plate.batch(Renderer(), 7, 20))


def test_a_view_shows_the_same_plate_a_little_beside():
    renderer = Renderer(fonts=False)
    nearer = 0
    for seed in range(30):
        there, beside = renderer.sample(seed), renderer.sample(seed, view=View(across=0.1))
        assert there[1:] == beside[1:]
        a, b = there.image.astype(int), beside.image.astype(int)
        nearer += np.abs(a[:, 9:] - b[:, :-9]).mean() < np.abs(a[:, :-9] - b[:, 9:]).mean()
    assert nearer >= 27  # noise and shadows are not shifted


def test_other_seeds_draw_other_plates(samples):
    assert len({sample.image.tobytes() for sample in samples}) == len(samples)
    assert len({sample.text for sample in samples}) == len(samples)


def test_an_image_is_what_the_network_takes(samples):
    for sample in samples:
        assert sample.image.shape == (24, 94, 3)
        assert sample.image.dtype == np.uint8


def test_every_kind_is_drawn_with_texts_of_its_format(samples):
    formats = {entry.name: entry for entry in GRAMMAR.formats}
    families = {plate.name: plate.family or plate.name for plate in PLATES}
    assert len({sample.kind for sample in samples}) > 40
    assert all(formats[families[sample.kind]].fits(sample.text) for sample in samples)


def test_common_kinds_are_drawn_more_often(samples):
    counts = collections.Counter(sample.kind for sample in samples)
    expected = dict(zip([plate.name for plate in PLATES], np.array(shares(PLATES)) / sum(shares(PLATES)), strict=True))
    common = max(expected, key=expected.__getitem__)
    assert counts.most_common(1)[0][0] == common
    assert counts[common] / len(samples) == pytest.approx(expected[common], abs=0.1)


@pytest.mark.parametrize("plate", PLATES, ids=lambda plate: plate.name)
def test_a_kind_can_be_asked_for(plate):
    renderer = Renderer(fonts=False)
    drawn = [renderer.sample(seed, plate) for seed in range(5)]
    assert {sample.kind for sample in drawn} == {plate.name}
    assert len({sample.text for sample in drawn}) >= 4


def test_no_plate_vanishes_in_darkness_glare_or_haze(samples):
    assert min(sample.image.std() for sample in samples) > 3
    assert np.median([sample.image.std() for sample in samples]) > 25


def test_exposure_keeps_a_floor_of_contrast():
    pale = np.full((36, 141, 3), 120, np.float32)
    pale[::2] += 6
    assert min(plate_photo._exposure(random.Random(seed), pale).std() for seed in range(100)) > 4 > pale.std()


BLUE = next(plate for plate in PLATES if plate.name == "cn-blue")


def fixed(text: str) -> Plate:
    """A blue plate with no other text than this one; the same seed paints two of them under the same conditions."""
    return BLUE._replace(texts=(patterns.parse(text, {}),))


@pytest.mark.parametrize("position", range(7))
def test_each_character_is_painted_in_its_place(position):
    renderer, text, other = Renderer(fonts=False), "京A12345", "皖K76980"
    changed = text[:position] + other[position] + text[position + 1 :]
    difference = np.zeros(94)
    for seed in range(20):
        a, b = renderer.sample(seed, fixed(text)), renderer.sample(seed, fixed(changed))
        assert (a.text, b.text) == (text, changed)
        difference += np.abs(a.image.astype(float) - b.image).mean(axis=(0, 2))
    slot = BLUE.slots[position]
    assert np.argmax(difference) / 94 == pytest.approx((slot.x + slot.width / 2) / BLUE.width, abs=0.08)
    assert difference.max() > 5 * np.median(difference)


def test_a_batch_is_its_samples_with_consecutive_seeds():
    renderer = Renderer(fonts=False)
    images, texts = plate.batch(renderer, 50, 4)
    assert images.shape == (4, 24, 94, 3)
    samples = [renderer.sample(seed) for seed in range(50, 54)]
    assert texts == [sample.text for sample in samples]
    np.testing.assert_array_equal(images, np.stack([sample.image for sample in samples]))


@pytest.mark.parametrize(("text", "other", "left"), [("AB12/CDE", "AX12/CDE", True), ("AB12/CDE", "AB12/CXE", False)])
def test_the_rows_of_a_plate_with_two_stand_side_by_side(text, other, left):
    renderer = Renderer(fonts=False)
    two = next(plate for plate in PLATES if plate.name == "gb-two-rows")
    difference = np.zeros(94)
    for seed in range(20):
        a, b = (renderer.sample(seed, two._replace(texts=(patterns.parse(each, {}),))) for each in (text, other))
        difference += np.abs(a.image.astype(float) - b.image).mean(axis=(0, 2))
    assert bool(np.argmax(difference) < rows.UPPER * 94) is left


@pytest.mark.parametrize("seal", SEALS)
def test_every_seal_is_drawn_beside_the_number_and_not_read(seal, monkeypatch):
    us = next(plate for plate in PLATES if plate.name == "us")
    sealed = us._replace(texts=(patterns.parse("@1234", {}),), seals=(seal,), words=(), stickers=0, pictures=0)

    def drawn() -> Art:
        rng = random.Random(4)
        return Drawing(rng, sealed, sealed.draw(rng), None).art()

    with_seal = drawn()
    monkeypatch.setitem(SEALS, seal, lambda *_: None)
    without = drawn()
    assert (with_seal.paper != without.paper).any() or (with_seal.ink != without.ink).any()
    assert Renderer(fonts=False).sample(3, sealed).text.isdigit()


def test_a_seal_in_the_gap_is_drawn_and_not_read():
    sealed = next(plate for plate in PLATES if plate.name == "sk")._replace(texts=(patterns.parse("BA@123CD", {}),))
    sample = Renderer(fonts=False).sample(3, sealed)
    assert sample.text == "BA123CD"


def test_some_plates_lie_partly_outside_of_the_image(monkeypatch):
    monkeypatch.setattr(plate, "_CUT", 1.0)
    renderer = Renderer(fonts=False)
    grey = [(renderer.sample(seed, BLUE, hidden=True).image == 128).all(2).mean() for seed in range(20)]
    assert min(grey) > 0.02
    assert len(renderer.sample(0, BLUE, hidden=True).text) == 7


def test_a_share_of_a_batch_is_hidden_and_has_its_texts():
    renderer = Renderer(fonts=False)
    (plain, texts), (hidden, same) = plate.batch(renderer, 50, 40), plate.batch(renderer, 50, 40, hidden=0.5)
    assert same == texts
    assert 5 < (plain != hidden).any((1, 2, 3)).sum() < 35


def test_something_hides_about_one_character():
    for seed in range(20):
        planes = np.zeros((3, 36, 141), np.float32)
        plate_hidden.hide(random.Random(seed), planes)
        covered = (planes.sum(0) > 0).any(0).mean()
        assert 0.03 < covered < 0.3


@pytest.mark.parametrize("plate", PLATES, ids=lambda plate: plate.name)
def test_letters_of_bands_can_be_parsed(plate):
    for band in plate.bands:
        assert all(patterns.parse(letters, {}) for letters in band.letters)
