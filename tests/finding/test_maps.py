"""The finder's maps to plates: peaks, corners, what lies in a stronger plate, bounded noise."""

import numpy as np

from service.finding import maps
from service.finding.maps import Plates, decode, distinct, merged

SQUARE = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float32)


def blank(rows: int = 12, columns: int = 20) -> np.ndarray:
    """Maps in which no cell is a plate, and each would be one of two by two cells."""
    found = np.zeros((rows, columns, maps.CHANNELS), np.float32)
    found[..., 0] = -9
    found[..., 1:] = SQUARE.reshape(-1)
    return found


def plates(*entries: tuple[float, float, float, float]) -> Plates:
    """Upright plates: probability, centre, half a side."""
    corners = [SQUARE * half + (x, y) for _, x, y, half in entries]
    return Plates(
        np.array([entry[0] for entry in entries], np.float32), np.array(corners, np.float32).reshape(-1, 4, 2)
    )


def test_corners_are_counted_from_the_middle_of_the_peak_s_cell():
    found = blank()
    found[3, 5, 0] = 2.0
    found[3, 4, 0] = 1.0  # the same plate's shoulder
    result = decode(found)
    np.testing.assert_allclose(result.probabilities, [1 / (1 + np.exp(-2.0))], rtol=1e-6)
    np.testing.assert_allclose(result.corners, [[[36, 20], [52, 20], [52, 36], [36, 36]]])


def test_a_turned_plate_keeps_its_reading_order():
    found = blank()
    found[3, 5, 0] = 2.0
    found[3, 5, 1:] = np.roll(SQUARE, 2, axis=0).reshape(-1)  # upside down
    np.testing.assert_allclose(decode(found).corners[0, 0], [52, 36])


def test_the_threshold_is_a_probability():
    found = blank()
    found[3, 5, 0] = np.log(0.4 / 0.6)
    assert len(decode(found, 0.41).probabilities) == 0
    assert len(decode(found, 0.39).probabilities) == 1


def test_no_plate_makes_empty_arrays():
    result = decode(blank())
    assert result.probabilities.shape == (0,)
    assert result.corners.shape == (0, 4, 2)


def test_a_plate_whose_centre_lies_in_a_stronger_one_is_dropped():
    result = distinct(plates((0.5, 10, 10, 4), (0.9, 12, 10, 4), (0.4, 30, 10, 4)))
    np.testing.assert_allclose(result.probabilities, [0.9, 0.4])


def test_plates_are_limited_to_the_most_probable():
    result = distinct(plates(*((0.1 + 0.01 * i, 20.0 * i, 10, 4) for i in range(50))), limit=3)
    np.testing.assert_allclose(result.probabilities, [0.59, 0.58, 0.57], rtol=1e-6)


def test_noise_everywhere_looks_at_few_candidates(monkeypatch):
    seen: list[int] = []

    def counted(plates: maps.Plates, limit: int) -> maps.Plates:
        seen.append(len(plates.probabilities))
        return plates

    monkeypatch.setattr(maps, "distinct", counted)
    found = blank(200, 300)
    found[..., 0] = np.random.default_rng(0).uniform(0, 5, (200, 300))
    decode(found)
    assert seen == [maps.CANDIDATES]


def test_several_looks_are_joined_in_pixels_of_the_image():
    fine, coarse = plates((0.6, 40, 20, 8), (0.7, 90, 20, 8)), plates((0.9, 10, 5, 2))
    result = merged([(fine, 1.0), (coarse, 0.25)])
    np.testing.assert_allclose(result.probabilities, [0.9, 0.7])  # the first of the fine ones is the coarse one
    np.testing.assert_allclose(result.corners[0].mean(0), [40, 20])
