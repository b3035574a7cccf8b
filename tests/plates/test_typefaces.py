"""Typefaces: which of those that a machine has letters of plates are drawn in."""

from pathlib import Path

import pytest
from PIL import ImageFont

from model_builder.plates import typefaces
from model_builder.plates.typefaces import Typefaces


def hangs(path: Path, index: int) -> bool:
    """Whether J ends below the base line, on which H stands."""
    font = ImageFont.truetype(str(path), 96, index=index)
    return font.getbbox("J", anchor="ls")[3] > 0.1 * -font.getbbox("H", anchor="ls")[1]


def test_letters_of_plates_stand_on_the_base_line():
    assert not [path.name for path, index in Typefaces().world if hangs(path, index)]


def test_dejavu_draws_words_and_no_letters_of_plates():
    faces = [(path, index) for path, index in Typefaces().words if path.name.startswith("DejaVuSans")]
    if not faces:
        pytest.skip("DejaVu is not installed: make extras")
    assert all(hangs(path, index) for path, index in faces)
    assert not {path.name for path, _ in faces} & {name for name, _ in typefaces.WORLD}
