"""Rendered videos."""

import itertools

import numpy as np
import pytest

from model_builder.render.video import KINDS, SIZE, VideoRenderer

RENDERER = VideoRenderer()


def test_a_seed_gives_the_same_video():
    (one, frames), (other, again) = (RENDERER.clip(11, 5) for _ in range(2))
    assert one == other
    for first, second in itertools.islice(zip(frames, again, strict=True), 8, 10):
        assert (first == second).all()
        assert first.shape == (SIZE[1], SIZE[0], 3)


@pytest.mark.parametrize("seed", range(len(KINDS)))
def test_each_kind_has_two_passages_within_the_video(seed):
    clip, _ = RENDERER.clip(seed, 5)
    assert clip.kind == KINDS[seed]
    assert len(clip.passages) == 2
    for passage in clip.passages:
        assert 0 <= passage.first < passage.last < clip.seconds
        assert passage.widest > 60


def test_the_night_is_dark():
    means = {kind: float(np.mean(next(RENDERER.clip(KINDS.index(kind), 5)[1]))) for kind in ("day", "night")}
    assert means["night"] < 0.6 * means["day"]
