"""Training the refiner: samples, resuming, figures."""

import random
from pathlib import Path

import numpy as np
import torch

from model_builder.networks.finder import Finder, Widths
from model_builder.networks.refiner import FORM, Refiner
from model_builder.render.scene import Drawn, Scene
from model_builder.train.refiner import RefinerConfig, RenderedCrops, collate, losses, score, train
from model_builder.train.refiner_samples import Sample, rough, samples
from service.finding.maps import Plates
from service.finding.refine import COLOUR, CORNERS, PLATE, ROWS, TURNS, in_crop, refined

QUAD = np.array([[100, 60], [180, 60], [180, 84], [100, 84]], np.float32)
SCENE = Scene(np.zeros((128, 256, 3), np.uint8), (Drawn(QUAD.astype(float), 2, "red", "x", False),), ())


def test_a_sample_leads_back_to_the_plate():
    for seed in range(40):
        quad = rough(random.Random(seed), QUAD)
        found = samples(random.Random(seed + 1), SCENE, lambda _, q=quad: Plates(np.ones(1), q[None]))
        one = next(sample for sample in found if same(sample, quad))
        answer = np.zeros(FORM.outputs, np.float32)
        answer[CORNERS], answer[PLATE] = one.corners, 1
        answer[TURNS][one.turns] = 1
        np.testing.assert_allclose(refined(answer, quad, FORM).corners, QUAD, atol=0.1)
        assert (one.rows, FORM.colours[one.colour], one.cut) == (1, "red", 0)


def same(sample: Sample, quad: np.ndarray) -> bool:
    """Whether a sample is the one of this rough quad."""
    exact = np.roll(QUAD, sample.turns, 0)
    at = in_crop(exact, quad, FORM)
    from service.finding.refine import rough_in_crop

    return bool(sample.plate) and np.allclose(sample.corners.reshape(4, 2), at - rough_in_crop(FORM))


def test_what_is_found_on_nothing_is_no_plate():
    far = QUAD - np.float32(50)
    found = [
        s.plate for s in samples(random.Random(1), SCENE, lambda _: Plates(np.ones(1), far[None].astype(np.float32)))
    ]
    assert found[-1] == 0
    assert sum(found) == 4


def test_batches_follow_from_their_number():
    config = RefinerConfig(batch_size=8)
    first = iter(RenderedCrops(config, [], []))
    next(first)
    np.testing.assert_array_equal(next(first).crops, next(iter(RenderedCrops(config, [], [], first_batch=1))).crops)


def test_a_right_answer_costs_nothing_and_scores_all():
    batch = next(iter(RenderedCrops(RefinerConfig(batch_size=32), [], [])))
    answers = np.zeros((32, FORM.outputs), np.float32)
    answers[:, CORNERS], answers[:, PLATE] = batch.corners, np.where(batch.plate == 1, 20, -20)
    rows = np.arange(32)
    answers[rows, TURNS.start + batch.turns] = answers[rows, COLOUR + batch.colour] = 20
    answers[:, ROWS] = np.where(batch.rows == 1, 20, -20)
    answers[:, ROWS + 1] = np.where(batch.cut == 1, 20, -20)

    class Right(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.answers = torch.nn.Parameter(torch.from_numpy(answers))

        def forward(self, crops: torch.Tensor) -> torch.Tensor:
            return self.answers

    assert sum(float(loss) for loss in losses(Right(), batch)) < 1e-5
    assert score(Right(), batch) == (0, 1, 1, 1, 1)


def test_a_training_goes_on_where_it_was_and_takes_a_finder(tmp_path: Path):
    torch.manual_seed(1)
    finder = Finder(Widths(8, 8, (8,), (8,), (8,), (8,)))
    config = RefinerConfig(steps=2, batch_size=4, development=8, log_every=1, workers=0)
    whole = train(tmp_path / "whole", config, finder=finder)
    assert len((tmp_path / "whole" / "log.csv").read_text().splitlines()) == 3
    again = train(tmp_path / "whole", config, finder=finder)  # it is complete: nothing is left to do
    for one, other in zip(whole.state_dict().values(), again.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other)


def test_losses_without_any_plate_are_finite():
    sample = Sample(np.zeros((*FORM.size, 3), np.uint8), np.zeros(8, np.float32), 0, 0, 0, 0, 0)
    assert all(torch.isfinite(loss) for loss in losses(Refiner(), collate([sample, sample])))
