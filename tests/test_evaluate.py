"""Measuring: intervals, sets of real photographs, and readings through the serving code."""

import random
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import TINY_TEXT, encode, picture

from model_builder import evaluate
from model_builder.data import VALIDATION_SEED, Crops, validation_set
from model_builder.plates import GRAMMAR, PLATES
from model_builder.render import draw_text
from service.backends import load
from service.plate import prepare


@pytest.mark.parametrize(
    ("exact", "total", "low", "high"),
    [  # after Newcombe 1998, Statistics in Medicine 17, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (20, 20, 0.8389, 1.0),
    ],
)
def test_wilson(exact, total, low, high):
    score = evaluate.wilson(exact, total)
    assert (score.exact, score.total) == (exact, total)
    assert score.low == pytest.approx(low, abs=1e-4)
    assert score.high == pytest.approx(high, abs=1e-4)


HEADER = "file,text,x1,y1,x2,y2,x3,y3,x4,y4"


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A folder for photographs, with one of 200 x 150 in which every pixel differs from its neighbours."""
    folder = tmp_path / "street"
    (folder / "images").mkdir(parents=True)
    cv2.imwrite(str(folder / "images" / "a.png"), photograph())
    return folder


def photograph() -> np.ndarray:
    y, x = np.mgrid[:150, :200]
    return np.stack((x, y, (x * 7 + y * 13) % 256), 2).astype(np.uint8)


def listed(folder: Path, *lines: str) -> Path:
    (folder / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_a_photograph_is_cut_to_the_box_of_its_corners(photographs):
    listed(photographs, HEADER, "a.png,京A12345,30,52.5,128.2,40,130.7,70.1,28.4,80")
    crops = evaluate.real_set(photographs)
    assert crops.texts == ["京A12345"]
    np.testing.assert_array_equal(crops.images, prepare(photograph()[40:80, 28:131])[None])


def test_corners_outside_the_photograph_are_cut_at_its_edge(photographs):
    listed(photographs, HEADER, "a.png,京A12345,-6.5,-3,250,-3,250,30,-6.5,30")
    np.testing.assert_array_equal(evaluate.real_set(photographs).images, prepare(photograph()[:30])[None])


def test_without_corners_the_whole_image_is_the_crop(photographs):
    listed(photographs, HEADER, "a.png,京A12345,,,,,,,,", "a.png,沪A12345,0,0,10,0,10,10,0,10")
    crops = evaluate.real_set(photographs)
    assert crops.texts == ["京A12345", "沪A12345"]
    np.testing.assert_array_equal(crops.images[0], prepare(photograph()))
    listed(photographs, "file,text", "a.png,京A12345")
    np.testing.assert_array_equal(evaluate.real_set(photographs).images[0], prepare(photograph()))


def test_images_that_cannot_be_decoded_are_left_out_with_a_line(photographs, capsys):
    (photographs / "images" / "b.jpg").write_bytes(b"not an image")
    (photographs / "images" / "c.jpg").write_bytes(encode(".jpg")[:200])
    listed(photographs, "file,text", "b.jpg,京A11111", "a.png,京A12345", "c.jpg,京A22222")
    crops = evaluate.real_set(photographs)
    assert crops.texts == ["京A12345"]
    assert len(crops.images) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert "b.jpg left out" in lines[0]
    assert "c.jpg left out" in lines[1]


def test_sets_are_the_rendered_one_and_each_folder_with_a_list(photographs):
    listed(photographs, "file,text", "a.png,京A12345")
    (photographs.parent / "notes").mkdir()
    found = evaluate.sets(photographs.parent, rendered=4)
    assert {name: len(crops.texts) for name, crops in found.items()} == {"rendered": 4, "street": 1}
    assert list(evaluate.sets(None, rendered=2)) == ["rendered"]
    assert list(evaluate.sets(photographs.parent / "nowhere", rendered=2)) == ["rendered"]


def test_accuracy_counts_the_readings_of_the_serving_code(tiny):
    backend = load(tiny, threads=1)
    images = np.stack([prepare(picture(120 + 10 * i, 40)) for i in range(4)])
    crops = Crops(images, [TINY_TEXT, "沪A12345", TINY_TEXT, TINY_TEXT[:-1]])
    assert [reading.text for reading in evaluate.readings(tiny, backend, crops)] == [TINY_TEXT] * 4
    assert evaluate.accuracy(tiny, backend, crops) == evaluate.wilson(2, 4)


def test_latency_is_of_so_many_calls_on_so_many_plates(tiny):
    class Counting:
        """The tiny backend, and the shapes it was called with."""

        def __init__(self) -> None:
            self.backend, self.shapes = load(tiny, threads=1), []
            self.engine = self.backend.engine

        def infer(self, batch: np.ndarray) -> np.ndarray:
            self.shapes.append(batch.shape)
            return self.backend.infer(batch)

        def close(self) -> None:
            self.backend.close()

    backend = Counting()
    times = evaluate.latency(backend, threads=1, batch=3, repeats=20)
    assert (times.threads, times.batch, times.repeats) == (1, 3, 20)
    assert len(backend.shapes) > 20  # some to warm up
    assert set(backend.shapes) == {(3, 24, 94, 3)}
    assert 0 < times.median <= times.p95


def test_the_machine_has_a_name():
    assert evaluate.machine().strip()


def test_the_shipped_set_is_read_whole_and_is_not_the_validation_set(capsys):
    crops = evaluate.real_set(evaluate.SHIPPED)
    assert crops.images.shape == (500, 24, 94, 3)
    assert capsys.readouterr().out == ""  # none was left out
    assert all(GRAMMAR.format_of(text) for text in crops.texts)
    validated = {text_of(VALIDATION_SEED + number) for number in range(2000)}
    assert text_of(VALIDATION_SEED) == validation_set(1).texts[0]
    assert not validated & set(crops.texts)


def text_of(seed: int) -> str:
    """What the renderer writes on the plate of a seed, without drawing it."""
    rng = random.Random(seed)
    return draw_text(rng, rng.choices(PLATES, [plate.share for plate in PLATES])[0])
