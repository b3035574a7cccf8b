"""The wide search for redaction: what it looks at, what it gives, and that its work is bounded."""

import numpy as np
import pytest

from service.finding.looks import all_tiles
from service.finding.maps import CHANNELS, STRIDE
from service.finding.refine import Form
from service.finding.search import COVERED, MOST, SUSPECTS, Search

FORM = Form()
SIZES = ((384, 640), (544, 960), (224, 224))


class Networks:
    """A finder that sees plates in every third cell, as sure as is asked for, and a refiner that is as sure."""

    def __init__(self, finder: float, refiner: float) -> None:
        self.looks = self.crops = 0
        self._finder, self._refiner = (float(np.log(sure / (1 - sure))) for sure in (finder, refiner))
        self.search = Search(self._find, self._refine, SIZES, FORM)

    def _find(self, images: np.ndarray) -> np.ndarray:
        self.looks += 1
        _, height, width, _ = images.shape
        maps = np.full((1, height // STRIDE, width // STRIDE, CHANNELS), -20, np.float32)
        maps[:, ::3, ::3, 0] = self._finder
        maps[..., 1:] = np.array([-1, -0.4, 1, -0.4, 1, 0.4, -1, 0.4])
        return maps

    def _refine(self, crops: np.ndarray) -> np.ndarray:
        self.crops += len(crops)
        maps = np.zeros((len(crops), *FORM.cells, FORM.channels), np.float32)
        maps[..., 4] = self._refiner
        return maps


@pytest.mark.parametrize(
    ("width", "height", "tiles"), [(300, 200, 0), (1000, 700, 4), (700, 1000, 4), (4000, 3000, 13)]
)
def test_tiles_cover_the_photograph(width, height, tiles):
    parts = all_tiles(width, height)
    assert len(parts) == tiles
    seen = np.zeros((height, width), bool)
    for left, top, right, bottom in parts:
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        seen[top:bottom, left:right] = True
    assert seen.all() == bool(parts)


def test_whatever_the_networks_answer_the_work_is_bounded():
    networks = Networks(0.9, 0.9)
    found = networks.search.suspects(np.zeros((1080, 1920, 3), np.uint8))
    assert networks.looks <= 2 * (1 + 13)
    assert networks.crops <= MOST * (1 + 13)
    assert len(found) == SUSPECTS


def test_a_plate_is_suspected_where_reading_would_not_give_it():
    image = np.zeros((384, 640, 3), np.uint8)
    unsure = Networks(0.1, 0.3)
    assert unsure.search(image) == []
    found = unsure.search.suspects(image)
    assert found
    assert all(one.probability >= COVERED for one in found)
    assert Networks(0.01, 0.9).search.suspects(image) == []
    assert Networks(0.3, 0.01).search.suspects(image) == []
