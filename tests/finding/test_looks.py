"""The rule of the finder's looks."""

import pytest

from service.finding.looks import COARSE, looks, tiles

SIZES = ((384, 640), (640, 384), (544, 960), (960, 544), (224, 224))


@pytest.mark.parametrize(
    ("width", "height", "canvas"),
    [
        (640, 480, (384, 640)),
        (720, 1160, (640, 384)),
        (1280, 720, (544, 960)),
        (3000, 4000, (960, 544)),
        (225, 60, (384, 640)),
    ],
)
def test_a_photograph_is_looked_at_in_its_own_direction_and_coarsely(width, height, canvas):
    fine, coarse = looks(width, height, SIZES)
    assert fine == (canvas, max(canvas))
    assert coarse == ((224, 224), COARSE)


@pytest.mark.parametrize("size", [(94, 24), (224, 224), (1, 1)])
def test_a_crop_is_looked_at_once(size):
    width, height = size
    assert list(looks(width, height, SIZES)) == [((224, 224), COARSE)]


def test_one_size_is_enough():
    assert list(looks(4000, 3000, ((384, 640),))) == [((384, 640), COARSE)]


def test_tiles_cover_a_large_photograph_and_overlap():
    assert tiles(1500, 900) == []
    assert tiles(2000, 1500) == [(0, 0, 1200, 900), (800, 0, 2000, 900), (0, 600, 1200, 1500), (800, 600, 2000, 1500)]
    assert len(tiles(1, 4000)) == 4
