"""The table of what redaction leaves: a plate counts as left unless most of it is covered."""

import numpy as np

from model_builder.measure import covered
from model_builder.render.scene import Drawn, Scene
from service.finding.refine import Refined
from tests.support.finding import QUAD, moved


class Fixed:
    """A search that suspects these plates."""

    def __init__(self, *found: tuple[np.ndarray, float]) -> None:
        self._found = [Refined(np.float32(quad), probability, 1, "blue", False) for quad, probability in found]

    def suspects(self, image: np.ndarray, least: float) -> list[Refined]:
        return [one for one in self._found if one.probability >= least]


def scene(*quads: np.ndarray) -> Scene:
    return Scene(np.zeros((128, 256, 3), np.uint8), tuple(Drawn(quad, 1, "blue", "", False) for quad in quads), ())


def rows(search: Fixed, *scenes: Scene) -> dict[str, list[str]]:
    lines = covered.table(search, "set", scenes).splitlines()[2:]
    return {cells[1]: cells[2:] for cells in ([cell.strip() for cell in line.strip("| ").split("|")] for line in lines)}


def test_plates_that_are_not_covered_are_left_by_threshold():
    found = rows(Fixed((QUAD, 0.9), (moved(100, 0), 0.07)), scene(QUAD, moved(100, 0), moved(100, 40)))
    assert found["0.05"][:3] == ["3", "1", "33.3 %"]
    assert found["0.5"][:3] == ["3", "2", "66.7 %"]


def test_what_is_covered_in_vain_is_told():
    found = rows(Fixed((moved(100, 40), 0.9)), scene(QUAD))
    assert found["0.5"][1] == "1"
    assert float(found["0.5"][3].removesuffix(" %")) > 5


def test_tiny_plates_do_not_count():
    assert rows(Fixed(), scene(QUAD * 0.2))["0.5"][0] == "0"
