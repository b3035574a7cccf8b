"""Plates that may be read in several ways: which one counts."""

import numpy as np

from model_builder.measure import by_way
from model_builder.render.scene import Drawn, Scene
from service.finding.refine import Refined
from tests.support.artifacts import TINY_TEXT, path_of

CORNERS = np.array([[40, 60], [140, 60], [140, 110], [40, 110]], np.float32)


class Surer:
    """A backend that is the surer of a text, the later the crop stands in its batch."""

    def infer(self, images: np.ndarray) -> np.ndarray:
        return np.stack([path_of(TINY_TEXT) * (0.5 + 0.02 * number) for number in range(len(images))]).astype(
            np.float32
        )


def test_the_probabilities_of_the_refiner_outweigh_a_text_that_is_a_little_surer(tiny):
    scene = Scene(np.zeros((200, 300, 3), np.uint8), (Drawn(CORNERS, 2, "yellow", "x", False),), ())
    empty = Scene(scene.image, (), ())
    found = Refined(CORNERS, 0.9, 2, "yellow", False, upright=0.9, rows_sure=0.99)
    small = found._replace(corners=CORNERS * np.float32(0.1))
    rows, turned = by_way.measured(lambda image: [found, small], tiny, Surer(), [scene, empty])
    assert (rows.total, rows.surest, rows.odds) == (1, 1, 0)
    assert (turned.total, turned.surest, turned.odds) == (1, 1, 0)
    assert by_way.table([rows, turned]).splitlines()[2] == "| rows | 1 | 1 | 0 |"
