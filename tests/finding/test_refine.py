"""The refiner's crop and answer: exact corners come back whatever the rough ones are, in reading order."""

import cv2
import numpy as np
import pytest

from service.finding import rows
from service.finding.refine import (
    COLOUR,
    CORNERS,
    CUT,
    PLATE,
    ROWS,
    TURNS,
    Form,
    Refined,
    answers,
    crop,
    in_crop,
    inside,
    refined,
    rough_in_crop,
)
from service.finding.warp import warped as straightened

FORM = Form()
PLATE_QUAD = np.array([[100, 60], [220, 70], [216, 104], [98, 92]], np.float32)


def answer(exact: np.ndarray, rough: np.ndarray, turns: int = 0) -> np.ndarray:
    """What a refiner that is always right answers."""
    found = np.zeros(FORM.answers, np.float32)
    found[CORNERS] = (in_crop(np.roll(exact, turns, 0), rough, FORM) - rough_in_crop(FORM)).ravel()
    found[PLATE], found[ROWS], found[CUT] = 5, -1, 2
    found[TURNS][turns] = 3
    found[COLOUR + 1] = 4
    return found


@pytest.mark.parametrize("turns", range(4))
def test_exact_corners_come_back_in_reading_order(turns):
    shifts = np.array([[-4, 3], [6, -2], [5, 4], [-7, -3]], np.float32)
    rough = np.roll(PLATE_QUAD + shifts, turns, 0)
    found = refined(answer(PLATE_QUAD, rough, turns), rough, FORM)
    np.testing.assert_allclose(found.corners, PLATE_QUAD, atol=0.05)
    assert found.probability > 0.99
    assert (found.rows, found.colour, found.cut) == (1, "yellow", True)


def test_the_rough_corners_lie_where_they_are_said_to_lie():
    for rough in (PLATE_QUAD, np.array([[0, 0], [9, 0], [9, 4], [0, 4]], np.float32)):
        np.testing.assert_allclose(in_crop(rough, rough, FORM)[0], rough_in_crop(FORM)[0], atol=0.08)


def test_a_crop_shows_the_plate_straight_in_its_middle():
    image = np.zeros((160, 320, 3), np.uint8)
    cv2.fillConvexPoly(image, PLATE_QUAD.astype(np.int32), (255, 255, 255))
    seen = crop(image, PLATE_QUAD, FORM)
    assert seen.shape == (48, 96, 3)
    assert seen[16:32, 16:80].min() > 200
    assert seen[:8].max() < 60


def test_what_is_beyond_the_image_is_grey():
    seen = straightened(
        np.zeros((40, 40, 3), np.uint8), np.array([[-40, 0], [40, 0], [40, 40], [-40, 40]], np.float32), (20, 40)
    )
    assert (seen[:, :19] == 128).all()
    assert (seen[:, 21:] == 0).all()


def test_a_large_plate_is_averaged():
    image = np.zeros((200, 400, 3), np.uint8)
    image[::2] = 255
    whole = np.array([[0, 0], [400, 0], [400, 200], [0, 200]], np.float32)
    assert np.abs(straightened(image, whole, (20, 40)).astype(int) - 127).max() <= 2


def test_corners_on_one_spot_or_far_away_give_a_crop():
    for quad in (np.zeros((4, 2)), np.full((4, 2), 1e6), np.array([[0, 0], [1e5, 0], [0, 1e5], [1e5, 1e5]])):
        assert crop(np.zeros((30, 30, 3), np.uint8), quad.astype(np.float32), FORM).shape == (48, 96, 3)


def test_a_corner_is_where_its_heat_has_its_mean_and_the_rest_are_means():
    maps = np.zeros((2, *FORM.cells, FORM.channels), np.float32)
    maps[1, 3, 7, 0] = maps[1, 3, 8, 0] = 50  # two cells side by side
    maps[1, ..., 4] = np.arange(np.prod(FORM.cells)).reshape(FORM.cells)
    even, sure = answers(maps, FORM)
    np.testing.assert_allclose(even[CORNERS].reshape(4, 2) + rough_in_crop(FORM), 0.5, atol=1e-6)
    np.testing.assert_allclose(sure[:2] + rough_in_crop(FORM)[0], [8 / 24, 3.5 / 12], atol=1e-6)
    assert sure[PLATE] == maps[1, ..., 4].mean()
    assert len(sure) == FORM.answers


def test_columns_that_lie_outside_of_the_image_are_told():
    corners = np.array([[-20, 10], [80, 10], [80, 40], [-20, 40]], np.float32)
    one = Refined(corners, 1.0, 1, "blue", True)
    seen = inside(one, (60, 100), 94)
    assert seen.shape == (94,)
    assert (seen[:18] == 0).all()
    assert (seen[20:] == 1).all()
    two = inside(one._replace(rows=2), (60, 100), 94)  # both rows lack their left end
    left = round(rows.UPPER * 94)
    assert two[0] == two[left] == 0
    assert two[left - 1] == two[-1] == 1


@pytest.mark.parametrize(("width", "rows"), [(520, [1]), (305, [1, 2])])
def test_a_plate_as_high_as_those_of_two_rows_is_read_both_ways(width, rows):
    corners = np.array([[0, 0], [width, 0], [width, 150], [0, 150]], np.float32)
    plate = Refined(corners, 0.9, 1, "white", False, rows_sure=0.8)
    assert [way.rows for way in plate.ways] == rows
    assert [way.rows_sure for way in plate.ways] == pytest.approx([0.8, 0.2][: len(rows)])
    assert all((way.corners == corners).all() for way in plate.ways)


def test_two_rows_of_a_plate_that_is_too_wide_for_them_are_read_as_one_too():
    corners = np.array([[0, 0], [400, 0], [400, 130], [0, 130]], np.float32)
    two, one = Refined(corners, 0.9, 2, "white", False, rows_sure=0.99).ways
    assert (two.rows, one.rows) == (2, 1)
    assert one.odds(0.5) == two.odds(0.5)  # the surer text counts


@pytest.mark.parametrize(("logit", "rows"), [(-3.0, 1), (3.0, 2)])
def test_the_number_of_rows_is_as_sure_as_the_refiner_says(logit, rows):
    answer = np.zeros(FORM.answers, np.float32)
    answer[ROWS] = logit
    plate = refined(answer, np.array([[0, 0], [300, 0], [300, 150], [0, 150]], np.float32), FORM)
    assert plate.rows == rows
    assert plate.rows_sure == pytest.approx(1 / (1 + np.exp(-3.0)))


def test_a_plate_that_may_be_upside_down_is_read_turned_as_well():
    answer = np.zeros(FORM.answers, np.float32)
    answer[TURNS] = (2.0, 0.0, 1.5, 0.0)
    quad = np.array([[0, 0], [520, 0], [520, 110], [0, 110]], np.float32)
    unsure = refined(answer, quad, FORM)
    assert unsure.upright == pytest.approx(1 / (1 + np.exp(-0.5)))
    first, turned = unsure.ways
    np.testing.assert_array_equal(first.corners, unsure.corners)
    np.testing.assert_array_equal(turned.corners, np.roll(unsure.corners, 2, 0))
    answer[TURNS] = (9.0, 0.0, 0.0, 0.0)
    assert len(refined(answer, quad, FORM).ways) == 1
    assert len(refined(answer, np.roll(quad, 2, 0), FORM).ways) == 2  # text from right to left is rare


def test_the_shape_is_known_unless_the_edge_of_the_image_cuts_the_plate():
    plate = Refined(np.array([[0, 0], [120, 0], [120, 40], [0, 40]], np.float32), 1.0, 1, "white", False)
    assert plate.aspect == pytest.approx(3.0)
    assert plate._replace(corners=np.roll(plate.corners, 2, 0)).aspect == pytest.approx(3.0)
    assert plate._replace(cut=True).aspect is None
    on_one_spot = plate._replace(corners=np.zeros((4, 2), np.float32)).aspect
    assert on_one_spot is not None
    assert on_one_spot > 0
