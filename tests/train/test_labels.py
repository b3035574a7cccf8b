"""Labelled folders: crops to train on, photographs to measure with, and every way in which they can be wrong."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from model_builder import evaluate
from model_builder.plates import CROP
from model_builder.train import labels
from model_builder.train.labels import DataError
from service.reading.geometry import prepare
from tests.support.images import encode


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


def test_a_folder_is_read_with_its_texts(folder):
    crops = labels.read_folder(folder)
    assert crops.texts == ["京A12345", "沪AD12345"]
    assert crops.images.shape == (2, 24, 94, 3)
    expected = prepare(np.asarray(cv2.imread(str(folder / "images" / "b.jpg")), np.uint8), CROP)
    np.testing.assert_array_equal(crops.images[1], expected)


def test_further_columns_another_order_and_a_byte_order_mark_do_no_harm(folder):
    write_list(folder, "text,camera,file", "京A12345,3,a.png", encoding="utf-8-sig")
    assert labels.read_folder(folder).texts == ["京A12345"]


def test_a_missing_list_is_named(tmp_path):
    with pytest.raises(DataError, match=r"labels\.csv does not exist"):
        labels.read_folder(tmp_path)
    with pytest.raises(DataError, match=r"nowhere.labels\.csv does not exist"):
        labels.read_folder(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ((), r"labels\.csv needs the columns file and text"),
        (("name,text", "a.png,京A12345"), r"labels\.csv needs the columns file and text.*'name'"),
        (("a.png,京A12345",), r"labels\.csv needs the columns file and text"),
        (("file,text",), r"labels\.csv lists no crops"),
        (
            ("file,text", "a.png,京A12345", "missing.png,京A12345"),
            r"1 of 2 files are listed in .*labels\.csv but .*: missing\.png\.",
        ),
        (("file,text", "a.png,京A1234Ä"), r"a\.png: .*'Ä'"),
        (("file,text", "a.png,京a12345"), r"a\.png: .*'a'"),
        (("file,text", "a.png,京A 12345"), r"a\.png: .*' '"),
        (("file,text", "a.png,"), r"line 2: the text of a\.png has 0 characters"),
        (("file,text", "a.png"), r"line 2: the text of a\.png has 0 characters"),
        (("file,text", ",京A12345"), r"line 2 names no file"),
        (("file;text", "a.png;京A12345"), r"labels\.csv needs the columns file and text.* it has 'file;text'"),
        (("file,text,text", "a.png,京A12345,京A12345"), r"names a column twice"),
        (("file,text", '"a.png,京A12345'), r"labels\.csv can't be read as a CSV file"),
        (("file,text", f"a.png,京A{'1' * 10}"), r"a\.png: .*12 characters; 1 to 11"),
    ],
)
def test_a_mistake_in_the_list_is_told_with_the_file(folder, lines, message):
    write_list(folder, *lines)
    with pytest.raises(DataError, match=message):
        labels.read_folder(folder)


@pytest.mark.parametrize(
    "content", [b"", b"not an image", cv2.imencode(".png", np.zeros((24, 94, 3)))[1].tobytes()[:60]]
)
def test_an_unreadable_image_is_named(folder, content):
    (folder / "images" / "b.jpg").write_bytes(content)
    with pytest.raises(DataError, match=r"images.b\.jpg can't be read as an image"):
        labels.read_folder(folder)


def test_a_list_in_another_encoding_is_told_as_such(folder):
    write_list(folder, "file,text", "a.png,京A12345", encoding="gbk")  # as a Chinese spreadsheet program saves it
    with pytest.raises(DataError, match=r"labels\.csv can't be read as a CSV file in UTF-8"):
        labels.read_folder(folder)


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
    crops = labels.read_set(photographs)
    assert crops.texts == ["京A12345"]
    np.testing.assert_array_equal(crops.images, prepare(photograph()[40:80, 28:131], CROP)[None])


def test_corners_outside_the_photograph_are_cut_at_its_edge(photographs):
    listed(photographs, HEADER, "a.png,京A12345,-6.5,-3,250,-3,250,30,-6.5,30")
    np.testing.assert_array_equal(labels.read_set(photographs).images, prepare(photograph()[:30], CROP)[None])


def test_without_corners_the_whole_image_is_the_crop(photographs):
    listed(photographs, HEADER, "a.png,京A12345,,,,,,,,", "a.png,沪A12345,0,0,10,0,10,10,0,10")
    crops = labels.read_set(photographs)
    assert crops.texts == ["京A12345", "沪A12345"]
    np.testing.assert_array_equal(crops.images[0], prepare(photograph(), CROP))
    listed(photographs, "file,text", "a.png,京A12345")
    np.testing.assert_array_equal(labels.read_set(photographs).images[0], prepare(photograph(), CROP))


def test_images_that_cannot_be_decoded_are_left_out_with_a_line(photographs, capsys):
    (photographs / "images" / "b.jpg").write_bytes(b"not an image")
    (photographs / "images" / "c.jpg").write_bytes(encode(".jpg")[:200])
    listed(photographs, "file,text", "b.jpg,京A11111", "a.png,京A12345", "c.jpg,京A22222")
    crops = labels.read_set(photographs)
    assert crops.texts == ["京A12345"]
    assert len(crops.images) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert "b.jpg left out" in lines[0]
    assert "c.jpg left out" in lines[1]
    assert lines[2] == "street: 2 of 3 images left out, because they can't be read"


def test_of_many_unreadable_images_a_few_are_named_and_all_counted(photographs, capsys):
    (photographs / "images" / "b.jpg").write_bytes(b"not an image")
    listed(photographs, "file,text", "a.png,京A12345", *["b.jpg,京A11111"] * 40)
    labels.read_set(photographs)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 11
    assert "40 of 41 images left out" in lines[-1]


def test_texts_that_the_alphabet_lacks_are_counted_as_such(photographs, capsys):
    listed(photographs, "file,text", "a.png,京A12345", "a.png,ÄO·123")
    assert labels.read_set(photographs).texts == ["京A12345", "ÄO·123"]
    assert "street: 1 of 2 texts can't be read: the alphabet has none of ·Ä" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("file,text,x1", "a.png,京A12345,3"), r"some columns of corners; it needs all of x1, y1, x2"),
        ((HEADER, "a.png,京A12345,3,4,,,,,,"), r"line 2: x1,y1,.* must be eight numbers"),
        ((HEADER, "a.png,京A12345,a,b,c,d,e,f,g,h"), r"line 2: .* must be eight numbers"),
        ((HEADER, "a.png,京A12345,nan,0,10,0,10,10,0,inf"), r"line 2: .* must be eight numbers"),
        ((HEADER, "a.png,京A12345,900,0,910,0,910,10,900,10"), r"box of its corners holds no pixel"),
        ((HEADER, "a.png,京A12345,3,3,3,3,3,3,3,3"), r"box of its corners holds no pixel"),
    ],
)
def test_wrong_corners_are_told_with_the_line(photographs, lines, message):
    listed(photographs, *lines)
    for read in (labels.read_set, labels.read_folder):
        with pytest.raises(DataError, match=message):
            read(photographs)


def test_a_folder_is_a_set_or_holds_sets(photographs, capsys):
    listed(photographs, "file,text", "a.png,京A12345")
    (photographs.parent / "notes").mkdir()
    expected = {"rendered": 4, "street": 1}
    for folder in (photographs, photographs.parent):
        found = evaluate.sets([folder], rendered=4)
        assert {name: len(crops.texts) for name, crops in found.items()} == expected
    assert "for want of a labels.csv: notes" in capsys.readouterr().out
    assert list(evaluate.sets([], rendered=2)) == ["rendered"]


def test_what_is_neither_is_refused_and_so_is_a_name_that_is_taken(photographs, tmp_path):
    listed(photographs, "file,text", "a.png,京A12345")
    with pytest.raises(DataError, match="nowhere is no folder: give a set"):
        labels.read_sets([tmp_path / "nowhere"])
    with pytest.raises(DataError, match=r"labels\.csv is no folder"):
        labels.read_sets([photographs / "labels.csv"])
    with pytest.raises(DataError, match=r"images has no labels\.csv, nor has a folder in it: write one"):
        labels.read_sets([photographs / "images"])
    for folders, taken in (([photographs, photographs], ()), ([photographs], ("street",))):
        with pytest.raises(DataError, match="another set called 'street'; rename"):
            labels.read_sets(folders, *taken)
    with pytest.raises(DataError, match="another set called 'rendered'"):  # else the gate would compare on it
        evaluate.sets([photographs.rename(tmp_path / "rendered")], rendered=1)


def test_a_set_of_unreadable_images_alone_is_refused(photographs):
    (photographs / "images" / "a.png").write_bytes(b"x")
    listed(photographs, "file,text", "a.png,京A12345")
    with pytest.raises(DataError, match="lists no image that can be read"):
        labels.read_set(photographs)


def test_what_is_written_is_read_again_in_png_pixel_by_pixel(folder, tmp_path):
    crops = labels.read_folder(folder)
    labels.write_folder(tmp_path / "copy", crops, suffix=".png")
    again = labels.read_folder(tmp_path / "copy")
    np.testing.assert_array_equal(again.images, crops.images)
    with pytest.raises(DataError, match=r"labels\.csv exists"):
        labels.write_folder(tmp_path / "copy", crops)
    labels.write_folder(tmp_path / "copy", crops, replace=True)
