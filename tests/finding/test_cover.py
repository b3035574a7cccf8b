"""Covering of plates: nothing of the characters is left, and nothing else is changed."""

import cv2
import numpy as np
import pytest

from service.finding.cover import CELLS, cover, polygon

QUAD = np.array([[40, 30], [160, 40], [158, 76], [38, 66]], np.float32)


def stripes() -> np.ndarray:
    """An image of strokes one pixel wide."""
    image = np.zeros((120, 200, 3), np.uint8)
    image[:, ::2] = 255
    return image


def inside(corners: np.ndarray) -> np.ndarray:
    return cv2.fillConvexPoly(np.zeros((120, 200), np.uint8), np.rint(corners).astype(np.int32), 1).astype(bool)


@pytest.mark.parametrize("how", ["blur", "pixelate", "fill"])
def test_no_stroke_of_a_plate_is_left_and_nothing_far_from_it_changes(how):
    before, image = stripes(), stripes()
    cover(image, [QUAD], how)
    assert image[inside(QUAD)].std() < 4
    assert before[inside(QUAD)].std() > 100
    grown = cv2.fillConvexPoly(np.zeros((120, 200), np.uint8), polygon(QUAD), 1).astype(bool)
    assert np.array_equal(image[~grown], before[~grown])


def test_the_polygon_is_larger_than_the_plate_on_every_side():
    hull = polygon(QUAD).astype(np.float32)
    assert all(cv2.pointPolygonTest(hull, corner, True) > 4 for corner in QUAD.tolist())


def test_a_pixelated_plate_keeps_a_few_means_and_fill_keeps_nothing():
    image = np.random.default_rng(0).integers(0, 255, (120, 200, 3)).astype(np.uint8)
    filled = image.copy()
    cover(image, [QUAD], "pixelate")
    assert len(np.unique(image[inside(QUAD)], axis=0)) <= CELLS[0] * CELLS[1] < 12
    cover(filled, [QUAD], "fill")
    assert len(np.unique(filled[inside(QUAD)], axis=0)) == 1


@pytest.mark.parametrize("corners", [QUAD - 1000, QUAD + 100, QUAD * 0, QUAD * 1e9, QUAD[[0, 2, 1, 3]]])
def test_any_corners_are_taken(corners):
    image = stripes()
    cover(image, [corners], "blur")
    assert image.shape == (120, 200, 3)
