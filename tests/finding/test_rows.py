"""Plates of two rows: where they part, and how they are set side by side."""

import cv2
import numpy as np
import pytest

from service.finding import rows


def plate(upper: tuple[int, int], lower: tuple[int, int]) -> np.ndarray:
    """A white plate 200 x 120 with black bars from top to bottom of either row."""
    image = np.full((120, 200, 3), 255, np.uint8)
    for top, bottom in (upper, lower):
        for x in range(20, 180, 16):
            cv2.rectangle(image, (x, top), (x + 6, bottom), (0, 0, 0), -1)
    return image


@pytest.mark.parametrize(("upper", "lower"), [((10, 52), (66, 112)), ((10, 38), (50, 112)), ((10, 60), (74, 112))])
def test_the_cut_is_between_the_rows(upper, lower):
    assert upper[1] - 2 <= rows.split(plate(upper, lower)) * 120 <= lower[0] + 2


def test_the_upper_row_comes_first_and_each_row_fills_the_height():
    image = plate((10, 52), (66, 112))
    image[:59, :, 2] //= 2  # the upper row is bluish
    corners = np.array([[0, 0], [200, 0], [200, 120], [0, 120]], np.float32)
    joined = rows.joined(image, corners, (24, 94))
    assert joined.shape == (24, 94, 3)
    left = round(rows.UPPER * 94)
    blue = joined[..., 0].astype(int) - joined[..., 2]
    assert blue[2:20, : left - 1].mean() > 40 > 10 > np.median(blue[4:, left + 1 :])
    assert (joined[4:20, :left].min(0) < 90).any()


def test_a_turned_plate_is_cut_along_its_own_rows():
    image = cv2.rotate(plate((10, 52), (66, 112)), cv2.ROTATE_90_CLOCKWISE)
    corners = np.array([[120, 0], [120, 200], [0, 200], [0, 0]], np.float32)
    upright = np.array([[0, 0], [200, 0], [200, 120], [0, 120]], np.float32)
    straight = rows.joined(plate((10, 52), (66, 112)), upright, (24, 94)).astype(int)
    assert np.abs(rows.joined(image, corners, (24, 94)).astype(int) - straight).mean() < 6
