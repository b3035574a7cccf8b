"""Refining as a task: figures through a backend."""

import numpy as np
import pytest

from model_builder.networks.refiner import FORM
from model_builder.tasks import REFINING
from model_builder.train.labels import DataError
from service.finding.refine import CORNERS, PLATE
from tests.support.finding import maps_of


class Answers:
    """A backend that gives the same answers, whatever it sees."""

    engine = "answers 1"

    def __init__(self, answers: np.ndarray) -> None:
        self.answers = answers

    def infer(self, crops: np.ndarray) -> np.ndarray:
        assert len(crops) == len(self.answers)
        return maps_of(self.answers)


def test_it_is_measured_by_plates_that_are_told_and_by_their_corners():
    (batch,) = REFINING.sets([], 12).values()
    answers = np.zeros((12, FORM.answers), np.float32)
    answers[:, CORNERS] = batch.corners
    answers[:, PLATE] = np.where(batch.plate == 1, 5, -5)
    figures = REFINING.measure(None, Answers(answers), batch)
    assert (figures.score.exact, figures.score.total) == (12, 12)
    assert (figures.corner_error, figures.false_alarms) == (0, None)
    answers[:, CORNERS.start] += 0.2 / FORM.around[0]  # a fifth of the plate
    answers[0, PLATE] *= -1
    figures = REFINING.measure(None, Answers(answers), batch)
    assert figures.score.exact == 11
    assert figures.corner_error == pytest.approx(0.2, abs=1e-3)


def test_photographs_are_for_its_finder(tmp_path):
    with pytest.raises(DataError, match="give --real to its finder"):
        REFINING.sets([tmp_path], 1)
