"""Training the refiner: samples, resuming, figures."""

import random
from pathlib import Path

import numpy as np
import torch

from model_builder.networks.finder import Finder, Widths
from model_builder.networks.refiner import FORM, Refiner
from model_builder.render.scene import Drawn, Scene
from model_builder.train.refiner import RefinerConfig, RenderedCrops, answered, collate, losses, score, train
from model_builder.train.refiner_samples import Sample, rough, samples
from service.finding import refine
from service.finding.maps import Plates
from service.finding.refine import COLOUR, CORNERS, PLATE, ROWS, TURNS, in_crop, refined, rough_in_crop
from tests.support.finding import maps_of

QUAD = np.array([[100, 60], [180, 60], [180, 84], [100, 84]], np.float32)
SCENE = Scene(np.zeros((128, 256, 3), np.uint8), (Drawn(QUAD.astype(float), 2, "red", "x", False),), ())


def test_a_sample_leads_back_to_the_plate():
    for seed in range(40):
        quad = rough(random.Random(seed), QUAD)
        found = samples(random.Random(seed + 1), SCENE, lambda _, q=quad: Plates(np.ones(1), q[None]))
        one = next(sample for sample in found if same(sample, quad))
        answer = np.zeros(FORM.answers, np.float32)
        answer[CORNERS], answer[PLATE] = one.corners, 1
        answer[TURNS][one.turns] = 1
        np.testing.assert_allclose(refined(answer, quad, FORM).corners, QUAD, atol=0.1)
        assert (one.rows, FORM.colours[one.colour], one.cut) == (1, "red", 0)


def same(sample: Sample, quad: np.ndarray) -> bool:
    """Whether a sample is the one of this rough quad."""
    exact = np.roll(QUAD, sample.turns, 0)
    at = in_crop(exact, quad, FORM)
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


class Right(torch.nn.Module):
    """Puts out the same maps, whatever it sees."""

    def __init__(self, maps: np.ndarray) -> None:
        super().__init__()
        self.maps = torch.nn.Parameter(torch.from_numpy(maps), requires_grad=False)

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        return self.maps


def test_a_right_answer_costs_nothing_and_scores_all():
    batch = next(iter(RenderedCrops(RefinerConfig(batch_size=32), [], [])))
    right = np.zeros((32, FORM.answers), np.float32)
    right[:, PLATE] = np.where(batch.plate == 1, 20, -20)
    right[:, CORNERS] = np.clip(batch.corners, -0.1, 0.1)  # those in the crop
    batch = batch._replace(corners=right[:, CORNERS])
    rows = np.arange(32)
    right[rows, TURNS.start + batch.turns] = right[rows, COLOUR + batch.colour] = 20
    right[:, ROWS] = np.where(batch.rows == 1, 20, -20)
    right[:, ROWS + 1] = np.where(batch.cut == 1, 20, -20)
    model = Right(maps_of(right))
    corners, _, *others = losses(model, batch)  # the heat of maps_of is no normal distribution
    assert float(corners + sum(others)) < 1e-4
    error, *shares = score(model, batch)
    assert error < 1e-4
    assert shares == [1, 1, 1, 1]


def test_heat_is_best_where_it_is_normal_around_the_corner():
    batch = collate([Sample(np.zeros((*FORM.size, 3), np.uint8), np.full(8, 0.03, np.float32), 1, 0, 0, 0, 0)])
    maps = np.zeros((1, *FORM.cells, FORM.channels), np.float32)
    cells = refine.centers(FORM)[:, None] - (rough_in_crop(FORM) + np.float32(0.03))
    off = cells * np.array(FORM.cells[::-1], np.float32) / 0.8
    maps[..., :4] = (-(off**2).sum(-1) / 2).reshape(*FORM.cells, 4)
    assert abs(float(losses(Right(maps), batch)[1])) < 1e-5
    maps[..., :4] *= 0.5
    assert float(losses(Right(maps), batch)[1]) > 0.01


def test_training_and_serving_take_the_same_answers_from_maps():
    maps = np.random.default_rng(1).normal(0, 3, (3, *FORM.cells, FORM.channels)).astype(np.float32)
    found = answered(torch.from_numpy(maps)).numpy()
    np.testing.assert_allclose(found, refine.answers(maps, FORM), atol=1e-5)


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
