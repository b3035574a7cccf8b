"""Where frames differ."""

import numpy as np

from service.video.engines import Box
from service.video.motion import LEAST, Motion, joined, touches
from tests.support.video import HEIGHT, WIDTH, plate


def luma(rng: np.random.Generator, level: float = 90) -> np.ndarray:
    return np.clip(rng.normal(level, 8, (HEIGHT, WIDTH)), 0, 255).astype(np.uint8)


def test_the_first_frame_is_searched_as_a_whole_and_noise_is_no_motion():
    rng, motion = np.random.default_rng(1), Motion()
    assert motion.moved(luma(rng)) == Box(0, 0, WIDTH, HEIGHT)
    assert motion.moved(luma(rng)) is None


def test_a_change_of_exposure_is_no_motion():
    rng, motion = np.random.default_rng(1), Motion()
    motion.moved(luma(rng, 90))
    assert motion.moved(luma(rng, 120)) is None


def test_the_part_that_moved_is_searched_with_a_margin():
    rng, motion = np.random.default_rng(1), Motion()
    motion.moved(luma(rng))
    frame = luma(rng)
    frame[300:340, 1000:1100] = 200
    box = motion.moved(frame)
    assert box.left <= 936 < 1164 <= box.right
    assert box.top <= 236 < 404 <= box.bottom
    assert (box.right - box.left, box.bottom - box.top) == LEAST


def test_what_creeps_moves_at_last():
    rng, motion = np.random.default_rng(1), Motion()
    frame = luma(rng)
    motion.moved(frame)
    moved = []
    for step in range(10):
        slow = frame.copy()
        slow[100:200, 100:200] += np.uint8(2 * step)
        moved.append(motion.moved(slow) is not None)
    assert moved[1] is False
    assert sum(moved) == 2


def test_a_box_grows_to_hold_the_plate_that_it_touches():
    box = Box(0, 0, 640, 384)
    assert joined(box, plate(620, 100).corners, (HEIGHT, WIDTH)).right > 720
    far = plate(900, 500).corners
    assert not touches(box, far)
    assert joined(box, far, (HEIGHT, WIDTH)) == box
