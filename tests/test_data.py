"""Training data: rendered batches that don't depend on who draws them, and folders of a user's own crops."""

import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch  # noqa: TID253 (that rule is for the service)

from model_builder import data
from model_builder.data import Batch, Crops, DataError
from model_builder.plates import ALPHABET
from model_builder.render import Renderer, batch
from service.plate import prepare


def write_list(folder: Path, *lines: str, encoding: str = "utf-8") -> Path:
    (folder / "labels.csv").write_text("\n".join(lines) + "\n", encoding=encoding)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two good crops, one beside the list and one in images/."""
    (tmp_path / "images").mkdir()
    for name, level in (("a.png", 60), ("images/b.jpg", 200)):
        cv2.imwrite(str(tmp_path / name), np.full((40, 120, 3), level, np.uint8))
    return write_list(tmp_path, "file,text", "a.png,京A12345", "b.jpg,沪AD12345")


def assert_same(a: Batch, b: Batch) -> None:
    assert torch.equal(a.crops, b.crops)
    assert torch.equal(a.targets, b.targets)
    assert torch.equal(a.lengths, b.lengths)


def test_encode_gives_each_character_its_place_in_the_alphabet():
    assert data.encode(ALPHABET) == list(range(len(ALPHABET)))
    assert data.encode("") == []
    with pytest.raises(KeyError):
        data.encode("京I")


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


def test_a_folder_is_read_with_its_texts(folder):
    crops = data.read_folder(folder)
    assert crops.texts == ["京A12345", "沪AD12345"]
    assert crops.images.shape == (2, 24, 94, 3)
    expected = prepare(np.asarray(cv2.imread(str(folder / "images" / "b.jpg")), np.uint8))
    np.testing.assert_array_equal(crops.images[1], expected)


def test_further_columns_another_order_and_a_byte_order_mark_do_no_harm(folder):
    write_list(folder, "text,camera,file", "京A12345,3,a.png", encoding="utf-8-sig")
    assert data.read_folder(folder).texts == ["京A12345"]


def test_a_missing_list_is_named(tmp_path):
    with pytest.raises(DataError, match=r"labels\.csv does not exist"):
        data.read_folder(tmp_path)
    with pytest.raises(DataError, match=r"nowhere.labels\.csv does not exist"):
        data.read_folder(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ((), r"labels\.csv needs the columns file and text"),
        (("name,text", "a.png,京A12345"), r"labels\.csv needs the columns file and text.*'name'"),
        (("a.png,京A12345",), r"labels\.csv needs the columns file and text"),
        (("file,text",), r"labels\.csv lists no crops"),
        (("file,text", "a.png,京A12345", "missing.png,京A12345"), r"missing\.png is listed in .*labels\.csv but"),
        (("file,text", "a.png,京A1234I"), r"a\.png: .*'I'"),
        (("file,text", "a.png,京a12345"), r"a\.png: .*'a'"),
        (("file,text", "a.png,京A 12345"), r"a\.png: .*' '"),
        (("file,text", "a.png,"), r"a\.png: .*0 characters"),
        (("file,text", "a.png"), r"a\.png: .*0 characters"),
        (("file,text", f"a.png,京A{'1' * 10}"), r"a\.png: .*12 characters; 1 to 11"),
    ],
)
def test_a_mistake_in_the_list_is_told_with_the_file(folder, lines, message):
    write_list(folder, *lines)
    with pytest.raises(DataError, match=message):
        data.read_folder(folder)


@pytest.mark.parametrize(
    "content", [b"", b"not an image", cv2.imencode(".png", np.zeros((24, 94, 3)))[1].tobytes()[:60]]
)
def test_an_unreadable_image_is_named(folder, content):
    (folder / "images" / "b.jpg").write_bytes(content)
    with pytest.raises(DataError, match=r"images.b\.jpg can't be read as an image"):
        data.read_folder(folder)


def test_a_list_in_another_encoding_is_told_as_such(folder):
    write_list(folder, "file,text", "a.png,京A12345", encoding="gbk")  # as a Chinese spreadsheet program saves it
    with pytest.raises(DataError, match=r"labels\.csv can't be read as a CSV file in UTF-8"):
        data.read_folder(folder)


def test_the_longest_text_fits_into_the_network_s_steps():
    repeated = "1" * data.MAX_CHARACTERS  # CTC needs a blank between equal characters
    assert len(repeated) + len(repeated) - 1 <= 23
