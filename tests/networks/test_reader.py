"""The reader: shapes, cost, independence of the rows of a batch."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from model_builder.graph.trace import trace
from model_builder.networks.reader import SIZE, LPRNet, Widths
from model_builder.plates.kinds import ALPHABET
from model_builder.render.plate import Renderer, batch

CLASSES = len(ALPHABET) + 1
SMALL = Widths(8, (8,), (8, 8), (8,), 8, 8)


@pytest.fixture(scope="module")
def crops() -> torch.Tensor:
    """Six rendered plates of very different brightness, uint8 (6, 24, 94, 3)."""
    images = torch.from_numpy(batch(Renderer(fonts=False), 0, 6)[0])
    images[0] //= 8
    images[1] = 255 - images[1] // 8
    return images


@pytest.fixture(scope="module")
def network(crops: torch.Tensor) -> LPRNet:
    """The network of the shipped widths, with statistics of a few batches as if it had been trained."""
    return settled(LPRNet(CLASSES), crops)


def settled(network: LPRNet, crops: torch.Tensor) -> LPRNet:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter += 0.2 * torch.randn_like(parameter)
        for _ in range(2):
            network.train()(crops)
    return network.eval()


def parameters(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@torch.inference_mode()
def test_logits_have_a_row_of_steps_for_each_crop(network, crops):
    logits = network(crops)
    assert logits.shape == (6, 23, CLASSES)
    assert logits.dtype == torch.float32
    assert torch.isfinite(logits).all()


@pytest.mark.slow
@torch.inference_mode()
def test_a_row_of_a_batch_equals_that_row_alone(crops):
    network = settled(LPRNet(CLASSES, SMALL), crops)
    together = network(crops)
    for index in range(len(crops)):
        alone = network(crops[index : index + 1])
        torch.testing.assert_close(alone[0], together[index], atol=1e-5, rtol=0)


@torch.inference_mode()
def test_a_row_does_not_depend_on_its_neighbours(network, crops):
    neighbours = torch.zeros_like(crops)
    neighbours[2] = crops[2]
    torch.testing.assert_close(network(neighbours)[2], network(crops)[2], atol=1e-5, rtol=0)


@torch.inference_mode()
def test_logits_depend_on_the_crop(network, crops):
    logits = network(crops)
    assert (logits[2] - logits[3]).abs().max() > 0.1


def multiply_adds(network: LPRNet) -> int:
    return sum(trace(network, SIZE).multiply_adds().values())


def test_the_cost_is_below_the_original_network_s():
    assert 1e6 < multiply_adds(LPRNet(CLASSES)) <= 149e6


def test_tracing_leaves_the_network_as_it_was():
    network = LPRNet(CLASSES, SMALL).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert multiply_adds(network) == multiply_adds(network)
    assert network.training
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("stage", [*Widths.__dataclass_fields__])
def test_each_width_is_an_argument(stage, crops):
    width = (8, 12) if isinstance(getattr(SMALL, stage), tuple) else 12
    wider = LPRNet(CLASSES, replace(SMALL, **{stage: width}))
    assert parameters(wider) > parameters(LPRNet(CLASSES, SMALL))
    assert wider.eval()(crops).shape == (6, 23, CLASSES)


def test_the_configuration_builds_the_network_again(crops):
    network = LPRNet(CLASSES, SMALL).eval()
    saved = json.loads(json.dumps(network.configuration()))
    assert saved == network.configuration()
    again = LPRNet.configured(CLASSES, saved).eval()
    assert again.widths == SMALL
    again.load_state_dict(network.state_dict())
    torch.testing.assert_close(again(crops), network(crops))


@torch.inference_mode()
def test_a_uniform_crop_gives_finite_logits(network):
    for level in (0, 128, 255):
        assert torch.isfinite(network(torch.full((1, 24, 94, 3), level, dtype=torch.uint8))).all()


def test_crops_are_normalized_inside(network, crops):
    seen = []
    hook = network.stem.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        network(crops)
    hook.remove()
    expected = (crops.numpy().transpose(0, 3, 1, 2).astype(np.float32) - 127.5) / 128
    np.testing.assert_allclose(seen[0].numpy(), expected, atol=1e-6)
