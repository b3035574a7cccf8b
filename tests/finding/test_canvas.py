"""A photograph on the finder's canvas."""

import numpy as np

from service.finding.canvas import FILL, fit


def test_a_large_photograph_is_averaged_to_fit():
    image = np.zeros((400, 1000, 3), np.uint8)
    image[:, ::2] = 200  # single columns: sampled, they would be 0 or 200
    canvas, scale = fit(image, (192, 320))
    assert canvas.shape == (192, 320, 3)
    assert scale == 0.32
    assert canvas[:128].min() > 60
    assert canvas[:128].max() < 140
    assert (canvas[128:] == FILL).all()


def test_a_small_photograph_is_not_enlarged():
    image = np.full((24, 94, 3), 7, np.uint8)
    canvas, scale = fit(image, (64, 128))
    assert scale == 1.0
    assert (canvas[:24, :94] == 7).all()
    assert (canvas[24:] == FILL).all()
    assert (canvas[:, 94:] == FILL).all()


def test_the_longest_side_can_be_limited_further():
    canvas, scale = fit(np.zeros((300, 600, 3), np.uint8), (192, 320), longest=100)
    assert scale == 1 / 6
    assert (canvas[:50, :100] == 0).all()
    assert (canvas[50:] == FILL).all()


def test_a_sliver_keeps_a_pixel():
    canvas, _ = fit(np.zeros((1, 5000, 3), np.uint8), (64, 64))
    assert (canvas[0] == 0).all()
