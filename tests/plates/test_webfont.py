"""The web font: every Chinese character of plates, drawn as its strokes are, and committed as the command makes it."""

import io

import cv2
import numpy as np
import pytest
from fontTools.ttLib import TTFont
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from model_builder.commands.main import main
from model_builder.plates import glyphs, webfont
from model_builder.plates.kinds import ALPHABET

SIZE = 200  # pixels of a character


def outlines(file: bytes) -> dict[int, list]:
    """The points of each character, and how many there are in each contour."""
    font = TTFont(io.BytesIO(file))
    shapes = {code: font["glyf"][name] for code, name in font.getBestCmap().items()}
    return {code: [list(shape.coordinates), shape.endPtsOfContours] for code, shape in shapes.items()}


def test_it_has_all_chinese_characters_of_plates_and_is_small():
    assert outlines(webfont.FILE.read_bytes()).keys() == {ord(char) for char in ALPHABET if not char.isascii()}
    assert webfont.FILE.stat().st_size < 16_000


def test_the_committed_file_is_what_the_command_makes(tmp_path):
    assert main(["font", "--out", str(tmp_path / "font.woff")]) == 0
    assert outlines((tmp_path / "font.woff").read_bytes()) == outlines(webfont.FILE.read_bytes())


def painted(character: str) -> NDArray[np.uint8]:
    """The strokes of a character on a square, painted with a round pen."""
    form = glyphs.load()[character][0]
    square = np.array((SIZE / glyphs.CELL_WIDTH, SIZE / glyphs.CELL_HEIGHT))
    points = [np.round(16 * stroke * square - 8).astype(np.int32) for stroke in form.strokes]
    mask = np.zeros((SIZE, SIZE), np.uint8)
    cv2.polylines(mask, points, False, 255, round(form.width * 0.013 * SIZE), cv2.LINE_AA, shift=4)
    return mask


@pytest.mark.parametrize("character", webfont.CHARACTERS)
def test_a_character_looks_as_its_strokes(character):
    font = ImageFont.truetype(io.BytesIO(webfont.FILE.read_bytes()), SIZE)
    image = Image.new("L", (SIZE, SIZE))
    ImageDraw.Draw(image).text((0, 0), character, 255, font)
    shown, drawn = np.array(image), painted(character)
    near = np.ones((5, 5), np.uint8)  # two pixels around
    assert not (shown > 127)[cv2.dilate(drawn, near) < 127].any()
    assert not (drawn > 127)[cv2.dilate(shown, near) < 127].any()
