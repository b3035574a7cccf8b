"""Views of a plate: cut from its surroundings, they show what the photograph shows a little beside the plate."""

import numpy as np
import pytest

from service.finding.refine import Refined, rectified
from service.finding.views import SHIFTS, surroundings, views
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
    assert shown.shape == (len(SHIFTS), *SIZE, 3)
    a, b, _, d = np.array(CORNERS, np.float32)
    for view, (across, down) in zip(shown, SHIFTS, strict=True):
        corners = plate().corners + across * (b - a) + down * (d - a)
        expected = rectified(PHOTOGRAPH, plate(rows)._replace(corners=np.roll(corners, 2 * turned, 0)), SIZE)
        assert np.abs(view.astype(int) - expected).mean() < 6


def test_views_differ_from_the_plate_by_their_shifts():
    straight = rectified(PHOTOGRAPH, plate(), SIZE)
    right, left, *_ = views(surroundings(PHOTOGRAPH, plate(), SIZE), 1, False, SIZE)
    for view, across in ((right, 3), (left, -3)):
        same, other = (np.abs(moved(straight, step, 0) - moved(view, -step, 0)).mean() for step in (across, -across))
        assert same < other / 3


def test_what_lies_outside_the_photograph_is_grey():
    corners = np.array([[-40, 20], [80, 20], [80, 45], [-40, 45]], np.float32)
    shown = surroundings(street(), plate()._replace(corners=corners), SIZE)
    assert (shown[:, :40] == shown[0, 0]).all()
