"""Training the finder: targets, losses, resuming, and that it learns."""

import csv
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model_builder.networks.finder import Finder, Widths
from model_builder.render.scene import Drawn, Scene
from model_builder.train.finder import FinderConfig, RenderedScenes, overlap, score, train
from model_builder.train.finder_targets import LEARNED, as_seen, losses, targets
from service.finding.maps import CHANNELS, decode

QUAD = np.array([[100, 60], [180, 60], [180, 84], [100, 84]], float)


def moved(x: float, y: float) -> np.ndarray:
    return QUAD + np.array([x, y])


def scene(*quads: np.ndarray, unsure: tuple[np.ndarray, ...] = ()) -> Scene:
    plates = tuple(Drawn(quad, 1, "blue", "cn-blue", False) for quad in quads)
    return Scene(np.zeros((128, 256, 3), np.uint8), plates, unsure)


def perfect(drawn: Scene) -> np.ndarray:
    """Maps that answer exactly what the targets ask for."""
    wanted = targets(drawn)
    logits = np.where(wanted.heat == 1, 20, -20)
    return np.concatenate((logits[..., None], wanted.corners), 2).astype(np.float32)


def test_the_targets_of_a_plate_decode_to_that_plate():
    down = np.array([[140, 70], [140, 110], [124, 110], [124, 70]], float) - [80, 0]  # it reads downwards
    drawn = scene(QUAD, down)
    found = decode(perfect(drawn))
    assert len(found.corners) == 2
    for quad in (QUAD, down):
        assert np.abs(found.corners - quad).max((1, 2)).min() < 1e-3


@pytest.mark.parametrize("turns", range(4))
def test_a_plate_on_its_head_is_answered_as_it_lies(turns):
    lying = np.roll(QUAD, turns, axis=0)
    seen = as_seen(lying)
    assert (seen == (lying if turns in (0, 3) else np.roll(lying, 2, axis=0))).all()
    assert (as_seen(seen) == seen).all()


def test_the_heat_is_stretched_as_the_plate_is():
    heat = targets(scene(QUAD)).heat
    assert heat.max() == 1
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert (row, column) == (9, 17)
    assert heat[row, column + 1] > heat[row + 1, column]
    assert (targets(scene(QUAD)).height > 0).sum() == (heat > LEARNED).sum()


def test_a_plate_beyond_the_edge_keeps_its_corners():
    drawn = scene(moved(110, 0))  # it ends 34 pixels outside
    np.testing.assert_allclose(decode(perfect(drawn)).corners[0], moved(110, 0), atol=1e-3)


def test_what_is_unsure_counts_neither_way():
    weight = targets(scene(unsure=(QUAD,))).weight
    assert weight[9, 17] == 0
    assert weight[2, 2] == 1


def test_losses_are_least_for_the_right_answer():
    drawn = scene(QUAD)
    wanted = tuple(values[None] for values in targets(drawn))
    right = torch.from_numpy(perfect(drawn)[None])
    heat, corners = losses(right, wanted)
    assert heat < 0.1
    assert corners == 0
    shifted = right.clone()
    shifted[..., 1:] += 0.5
    missed = right.clone()
    missed[..., 0] = -20
    assert losses(shifted, wanted)[1] > 0.005
    assert losses(missed, wanted)[0] > 5
    alarmed = right.clone()
    alarmed[0, 2, 2, 0] = 20
    assert losses(alarmed, wanted)[0] > 5


def test_losses_of_scenes_without_plates_are_finite():
    wanted = tuple(values[None] for values in targets(scene()))
    heat, corners = losses(torch.zeros(1, 16, 32, CHANNELS), wanted)
    assert torch.isfinite(heat)
    assert corners == 0


def test_score_counts_plates_corners_and_false_alarms():
    class Answer(torch.nn.Module):
        def __init__(self, maps: np.ndarray) -> None:
            super().__init__()
            self.maps = torch.nn.Parameter(torch.from_numpy(maps[None]))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.maps

    answer = Answer(perfect(scene(QUAD, moved(-90, 0))))
    found, error, false = score(answer, [scene(QUAD, moved(0, 40))])
    assert (found, false) == (0.5, 1.0)
    assert error == pytest.approx(0, abs=1e-4)
    assert score(answer, [scene(QUAD, unsure=(moved(-90, 0),))])[2] == 0


def test_overlap_of_upright_boxes():
    assert overlap(QUAD, QUAD) == pytest.approx(1)
    assert overlap(QUAD, moved(40, 0)) == pytest.approx(1 / 3)
    assert overlap(QUAD, moved(400, 0)) == 0


def test_batches_follow_from_their_number():
    config = FinderConfig(batch_size=2)
    first = iter(RenderedScenes(config, [], []))
    next(first)
    images, wanted = next(first)
    again, _ = next(iter(RenderedScenes(config, [], [], first_batch=1)))
    np.testing.assert_array_equal(images, again)
    assert wanted.heat.shape == (2, images.shape[1] // 8, images.shape[2] // 8)


def test_a_training_goes_on_where_it_was(tmp_path: Path):
    config = FinderConfig(steps=4, batch_size=1, development=2, log_every=2, workers=0)
    whole = train(tmp_path / "whole", config)
    train(tmp_path / "parts", FinderConfig(steps=2, batch_size=1, development=2, log_every=2, workers=0, decay=0.0))
    with pytest.raises(ValueError, match="decay"):
        train(tmp_path / "parts", config)
    halves = train_in_halves(tmp_path / "halves", config)
    for one, other in zip(whole.state_dict().values(), halves.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other)
    with (tmp_path / "whole" / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["2", "4"]
    assert all(float(row["heat"]) > 0 for row in rows)


def test_a_training_may_start_from_another_s_weights(tmp_path: Path):
    torch.manual_seed(5)
    initial = Finder(Widths(8, 8, (8,), (8,), (8,), (8,)))
    config = FinderConfig(steps=1, batch_size=1, development=1, learning_rate=0.0, workers=0)
    trained = train(tmp_path, config, initial=initial)
    torch.testing.assert_close(trained.head.weight, initial.head.weight)


def train_in_halves(folder: Path, config: FinderConfig) -> Finder:
    """The same training, stopped after two steps; the rate must be that of the whole."""
    calls = itertools.count()

    def stopping(*arguments: Any) -> Any:
        if next(calls) == 2:
            raise RuntimeError("stopped")
        return losses(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("model_builder.train.finder.losses", stopping)
        with pytest.raises(RuntimeError, match="stopped"):
            train(folder, config)
    return train(folder, config)
