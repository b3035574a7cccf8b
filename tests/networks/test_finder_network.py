"""The finder: its shapes, its cost, and that a graph describes it."""

import numpy as np
import pytest
import torch

from model_builder.graph import reference
from model_builder.graph.trace import trace
from model_builder.networks.finder import Finder, Widths


@pytest.fixture(scope="module")
def finder() -> Finder:
    torch.manual_seed(0)
    return Finder().eval()


@torch.inference_mode()
def test_maps_have_a_cell_for_eight_pixels(finder):
    assert finder(torch.zeros(2, 96, 160, 3, dtype=torch.uint8)).shape == (2, 12, 20, 9)


@torch.inference_mode()
def test_nothing_is_found_before_anything_is_learned(finder):
    images = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8)
    assert finder(images)[..., 0].sigmoid().max() < 0.1


@torch.inference_mode()
def test_the_graph_computes_what_the_network_does(finder):
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), np.uint8)
    graph = trace(finder, (64, 96, 3))
    np.testing.assert_allclose(reference.run(graph, images), finder(torch.from_numpy(images)).numpy(), atol=1e-3)


def test_its_cost_is_what_the_server_can_afford(finder):
    assert sum(p.numel() for p in finder.parameters()) < 360_000
    assert sum(trace(finder, (384, 640, 3)).multiply_adds().values()) < 0.6e9


def test_it_is_built_again_from_its_configuration():
    small = Finder(Widths(8, 8, (16,), (16, 16), (24,), (16,)))
    again = Finder.configured(small.configuration())
    again.load_state_dict(small.state_dict())
    assert again.widths == small.widths
