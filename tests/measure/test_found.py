"""The table of what a least probability of a plate keeps."""

import cv2
import numpy as np

from model_builder.measure import found
from model_builder.render.scene import Drawn, Scene
from service.finding.refine import Refined

QUAD = np.array([[40, 60], [120, 60], [120, 84], [40, 84]], np.float32)
ELSEWHERE = QUAD + np.float32(90)


def test_a_row_tells_what_a_probability_keeps(tmp_path):
    cv2.imwrite(str(tmp_path / "street.png"), np.zeros((20, 30, 3), np.uint8))
    (tmp_path / "no-image.txt").touch()
    plates = (Drawn(QUAD.astype(float), 1, "blue", "x", False),) * 2
    scene = Scene(np.zeros((200, 300, 3), np.uint8), plates, ())
    answers = [Refined(QUAD, 0.92, 1, "blue", False), Refined(ELSEWHERE, 0.85, 1, "blue", False)]
    table = found.table(lambda image: answers, [scene], sorted(tmp_path.iterdir()))
    assert table.splitlines()[0].endswith("| false alarms a photograph without plates, of 1 |")
    assert table.splitlines()[2:] == [
        "| 0.5 | 100.0 % | 1.000 | 2.000 |",
        "| 0.8 | 100.0 % | 1.000 | 2.000 |",
        "| 0.9 | 100.0 % | 0.000 | 1.000 |",
        "| 0.95 | 0.0 % | 0.000 | 0.000 |",
        "| 0.99 | 0.0 % | 0.000 | 0.000 |",
    ]
