"""Our own characters: the data is complete and inside its cell, and paths are parsed as SVG says."""

import itertools

import numpy as np
import pytest

from model_builder.plates import glyphs
from model_builder.plates.kinds import ALPHABET


def mask(character: str) -> np.ndarray:
    """Coverage 0..1 of the standard form, float64 (90, 45)."""
    form = glyphs.load()[character][0]
    return glyphs.rasterize(form.strokes, form.width, 1) / 255


FACES = ("plain", "fe", "wright", "din", "us")


def test_every_character_of_the_alphabet_has_a_form():
    assert set(glyphs.load()) == set(ALPHABET) | set("ÄÖÜ")
    assert all(forms for forms in glyphs.load().values())


def leaves_its_cell(form: glyphs.Glyph) -> bool:
    """Whether a stroke does, or the pen by more than 3 mm, where the next character could begin."""
    points, pen = np.concatenate(form.strokes), form.width / 2
    size = np.array((glyphs.CELL_WIDTH, glyphs.CELL_HEIGHT))
    inside = (points >= max(0, pen - 3)) & (points <= np.minimum(size, size + 3 - pen))
    return not inside.all()


def test_strokes_lie_inside_the_cell():
    forms = [(character, form) for character, forms in sorted(glyphs.load().items()) for form in forms]
    assert len(forms) > 200
    assert [character for character, form in forms if leaves_its_cell(form)] == []
    assert [character for character, form in forms if not 2 <= form.width <= 14] == []


def fills_its_cell(character: str) -> bool:
    painted = mask(character) > 0.5
    rows, columns = np.flatnonzero(painted.any(axis=1)), np.flatnonzero(painted.any(axis=0))
    wide = np.ptp(columns) > (5 if character in "1I" else 25)
    return bool(np.ptp(rows) > 60 and wide and 0.15 < painted.mean() < 0.75)


def test_characters_fill_their_cells_like_those_of_a_plate():
    assert [character for character in ALPHABET if not fills_its_cell(character)] == []


def test_no_two_characters_look_the_same():
    masks = {character: mask(character) for character in ALPHABET}
    alike = {
        first + second
        for first, second in itertools.combinations(sorted(ALPHABET), 2)
        if np.minimum(masks[first], masks[second]).sum() > 0.93 * np.maximum(masks[first], masks[second]).sum()
    }
    assert alike <= {"0O", "1I"}  # real plates hardly tell these apart


@pytest.mark.parametrize("name", FACES)
def test_a_face_has_every_character_inside_its_cell(name):
    face = glyphs.face(name)
    assert set(face.forms) >= set(ALPHABET)
    points = np.concatenate([stroke for forms in face.forms.values() for form in forms for stroke in form])
    assert points.min() >= 0
    assert (points <= (45, 90)).all()


def test_an_unknown_face_is_refused():
    with pytest.raises(ValueError, match="no lettering is called 'gothic'"):
        glyphs.face("gothic")


@pytest.mark.parametrize(
    ("path", "strokes"),
    [
        ("M5 10L20,30", [[(5, 10), (20, 30)]]),
        ("M5 10 20 30 -2.5 7", [[(5, 10), (20, 30), (-2.5, 7)]]),
        ("M5 10H40V80", [[(5, 10), (40, 10), (40, 80)]]),
        ("M1 2H8V9Z", [[(1, 2), (8, 2), (8, 9), (1, 2)]]),
        ("M1 2H8M3 4V9", [[(1, 2), (8, 2)], [(3, 4), (3, 9)]]),
        ("M0 0Q10 0 10 10", [[(0, 0), (7.5, 2.5), (10, 10)]]),
        ("M0 0C0 8 8 8 8 0", [[(0, 0), (4, 6), (8, 0)]]),
        ("M0 0Q4 0 4 4 4 8 8 8", [[(0, 0), (3, 1), (4, 4), (5, 7), (8, 8)]]),
    ],
)
def test_a_path_becomes_polylines(path, strokes):
    outline = glyphs.outline(path, segments=2)
    assert len(outline) == len(strokes)
    for found, expected in zip(outline, strokes, strict=True):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize("segments", [1, 4, 9])
@pytest.mark.parametrize("curve", ["Q30 -4 41 77", "C1 90 30 -4 41 77"])
def test_a_curve_has_as_many_chords_as_asked_for_and_ends_where_it_says(curve, segments):
    (stroke,) = glyphs.outline(f"M3 8{curve}", segments)
    assert len(stroke) == segments + 1
    assert stroke[0].tolist() == [3, 8]
    assert stroke[-1].tolist() == [41, 77]


@pytest.mark.parametrize(
    "path",
    [
        "m5 10",
        "M5 10l20 30",
        "M5 10h20",
        "M5 10z",
        "M5 10A3 3 0 0 1 9 9",
        "M5 10S1 1 2 2",
        "M5 1e3",
        "M5 10L20",
        "M5 10C1 2 3 4 5",
        "M5",
        "L5 10",
        "H5",
        "Z",
        "5 10",
        "M5 10H20Z5",
        "M5 10Z5 10",
        "straight on",
    ],
)
def test_anything_but_complete_absolute_commands_is_refused(path):
    with pytest.raises(ValueError, match="path"):
        glyphs.outline(path)


def test_rasterize_paints_strokes_at_scale_and_margin():
    vertical = glyphs.outline("M22.5 10V80")
    painted = glyphs.rasterize(vertical, width=10, scale=2, margin=4)
    assert painted.dtype == np.uint8
    assert painted.shape == (196, 106)
    assert painted[100, 53] == 255
    assert painted[:16].max() == painted[-16:].max() == 0
    assert painted[:, :40].max() == painted[:, -40:].max() == 0
    assert (painted > 127).sum() == pytest.approx(20 * (140 + 20), rel=0.1)  # 10 x 70 mm and round ends of 5 mm


def test_a_wider_pen_covers_more():
    form = glyphs.load()["皖"][0]
    coverage = [glyphs.rasterize(form.strokes, width, 2).mean() for width in (2, 4, 6, 8)]
    assert coverage == sorted(set(coverage))
