"""Views of a plate: cut from its surroundings, they show what the photograph shows a little beside the plate."""

import cv2
import numpy as np
import pytest

from service.finding.refine import Refined, rectified
from service.finding.views import FURTHER, ROWS, alone, surroundings, views
from tests.support.photographs import street, with_plate

SIZE = (24, 94)
CORNERS = [(300.0, 400.0), (520.0, 410.0), (516.0, 480.0), (298.0, 466.0)]
PHOTOGRAPH = with_plate(street(), "blue", CORNERS)


def plate(rows: int = 1) -> Refined:
    return Refined(np.array(CORNERS, np.float32), 0.99, rows, "blue", False)


def moved(image: np.ndarray, across: int, down: int) -> np.ndarray:
    """The image shifted by whole pixels, without what has no counterpart."""
    height, width = image.shape[:2]
    return image[max(0, down) : height + min(0, down), max(0, across) : width + min(0, across)].astype(int)


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("turned", [False, True])
def test_a_view_is_the_plate_cut_out_a_little_beside(rows, turned):
    shown = views(surroundings(PHOTOGRAPH, plate(), SIZE), rows, turned, SIZE)
    assert shown.shape == (len(FURTHER), *SIZE, 3)
    a, b, _, d = np.array(CORNERS, np.float32)
    for view, (across, down, upper) in zip(shown, FURTHER, strict=True):
        corners = plate().corners + across * (b - a) + down * (d - a)
        expected = rectified(PHOTOGRAPH, plate(rows)._replace(corners=np.roll(corners, 2 * turned, 0)), SIZE, upper)
        assert np.abs(view.astype(int) - expected).mean() < 6


@pytest.mark.parametrize("turned", [False, True])
def test_each_of_two_rows_is_seen_alone_and_as_wide_as_the_plate(turned):
    upper, lower = views(surroundings(PHOTOGRAPH, plate(), SIZE), 2, turned, SIZE, ROWS)
    corners = np.roll(plate(2).corners, 2 * turned, 0)
    both = rectified(PHOTOGRAPH, plate(2)._replace(corners=corners), (24, 188), 0.5)
    for row, expected in ((upper, both[:, :94]), (lower, both[:, 94:])):
        assert np.abs(row.astype(int) - expected).mean() < 8


def test_views_differ_from_the_plate_by_their_shifts():
    straight = rectified(PHOTOGRAPH, plate(), SIZE)
    right, left, *_ = views(surroundings(PHOTOGRAPH, plate(), SIZE), 1, False, SIZE)
    for view, across in ((right, 3), (left, -3)):
        same, other = (np.abs(moved(straight, step, 0) - moved(view, -step, 0)).mean() for step in (across, -across))
        assert same < other / 3


def test_what_lies_outside_the_photograph_is_grey():
    corners = np.array([[-40, 20], [80, 20], [80, 45], [-40, 45]], np.float32)
    shown = surroundings(street(), plate()._replace(corners=corners), SIZE)
    assert (shown.pixels[:, :40] == shown.pixels[0, 0]).all()


@pytest.mark.parametrize("size", [(24, 94), (60, 200), (150, 470), (9, 500), (1, 1)])
def test_an_image_that_is_one_plate_ends_in_what_its_edges_show(size):
    crop = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8), (0, 0), 2)
    shown = views(alone(crop, SIZE), 1, False, SIZE)
    bordered = cv2.copyMakeBorder(crop, 200, 200, 200, 200, cv2.BORDER_REPLICATE)
    height, width = size
    for view, (across, down, _) in zip(shown, FURTHER, strict=True):
        corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
        corners += np.float32([200 + across * width, 200 + down * height])
        expected = rectified(bordered, plate()._replace(corners=corners), SIZE)
        assert np.abs(view.astype(int) - expected).mean() < 6
