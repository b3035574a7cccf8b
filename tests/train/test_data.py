"""Training data: rendered batches that don't depend on who draws them, and a user's own crops."""

import itertools

import numpy as np
import pytest
import torch

from model_builder.plates import MAX_CHARACTERS
from model_builder.plates.kinds import ALPHABET
from model_builder.render.plate import Renderer, batch
from model_builder.train import data
from model_builder.train.data import Batch, Crops


def assert_same(a: Batch, b: Batch) -> None:
    assert torch.equal(a.crops, b.crops)
    assert torch.equal(a.targets, b.targets)
    assert torch.equal(a.lengths, b.lengths)


def test_encode_gives_each_character_its_place_in_the_alphabet():
    assert data.encode(ALPHABET) == list(range(len(ALPHABET)))
    assert data.encode("") == []
    with pytest.raises(KeyError):
        data.encode("京Ä")


def test_collate_puts_texts_one_after_the_other():
    images = np.arange(2 * 24 * 94 * 3).reshape(2, 24, 94, 3).astype(np.uint8)
    collated = data.collate(images, ["京A1", "沪"])
    assert collated.crops.dtype == torch.uint8
    np.testing.assert_array_equal(collated.crops.numpy(), images)
    assert collated.targets.tolist() == [ALPHABET.index(character) for character in "京A1沪"]
    assert collated.lengths.tolist() == [3, 1]


@pytest.fixture(scope="module")
def batches() -> list[Batch]:
    """The first six batches of seed 3."""
    return list(itertools.islice(data.rendered_batches(3, batch_size=4, first_batch=0, workers=0), 6))


def test_rendered_batches_are_rendered_plates(batches):
    images, texts = batch(Renderer(), (3 << 36) + 4, 4)
    assert_same(batches[1], data.collate(images, texts))


def test_a_batch_is_the_same_whichever_was_the_first(batches):
    later = data.rendered_batches(3, batch_size=4, first_batch=4, workers=0)
    for expected in batches[4:]:
        assert_same(next(later), expected)


@pytest.mark.slow
def test_a_batch_is_the_same_whatever_worker_draws_it_and_leaves_other_randomness_alone(batches):
    before = torch.get_rng_state()
    drawn = data.rendered_batches(3, batch_size=4, first_batch=1, workers=2)
    for expected in batches[1:5]:
        assert_same(next(drawn), expected)
    assert torch.equal(torch.get_rng_state(), before)  # else dropout would differ after resuming


def test_another_seed_gives_other_batches(batches):
    other = next(data.rendered_batches(4, batch_size=4, first_batch=0, workers=0))
    assert not torch.equal(other.crops, batches[0].crops)


def test_the_validation_set_is_always_the_same_and_no_plate_of_a_training():
    few, more = data.validation_set(3), data.validation_set(5)
    assert few.texts == more.texts[:3]
    np.testing.assert_array_equal(few.images, more.images[:3])
    a_long_training = 100_000_000
    for seed in range(100):
        assert data.VALIDATION_SEED not in range(seed << 36, (seed << 36) + a_long_training)


def test_own_crops_come_in_batches_that_depend_on_seed_and_number_alone():
    images, texts = batch(Renderer(fonts=False), 0, 5)
    crops = Crops(images, texts)
    first = list(itertools.islice(crops.batches(seed=1, batch_size=8, first_batch=0), 3))
    assert_same(next(crops.batches(seed=1, batch_size=8, first_batch=2)), first[2])
    assert not torch.equal(first[0].crops, first[1].crops)
    assert not torch.equal(next(crops.batches(seed=2, batch_size=8, first_batch=0)).crops, first[0].crops)


def test_own_crops_are_altered_a_little_and_keep_their_texts():
    images, texts = batch(Renderer(fonts=False), 0, 5)
    drawn = next(Crops(images, texts).batches(seed=1, batch_size=16, first_batch=0))
    assert drawn.crops.shape == (16, 24, 94, 3)
    read = ["".join(ALPHABET[i] for i in part) for part in torch.split(drawn.targets, drawn.lengths.tolist())]
    assert len(set(read)) > 1
    for crop, text in zip(drawn.crops.numpy(), read, strict=True):
        differences = crop.astype(float) - images
        distances = np.abs(differences - differences.mean((1, 2, 3), keepdims=True)).mean((1, 2, 3))
        assert distances.min() > 0
        assert distances.argmin() == texts.index(text)  # it still resembles its own image more than any other


def test_the_longest_text_fits_into_the_network_s_steps():
    repeated = "1" * MAX_CHARACTERS  # CTC needs a blank between equal characters
    assert len(repeated) + len(repeated) - 1 <= 23
