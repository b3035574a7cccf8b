"""The trace folds batch normalization and ReLU, and refuses what a graph cannot describe."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from model_builder.graph import reference
from model_builder.graph.trace import trace
from model_builder.networks.blocks import ConvUnit, Maps, Normalize

SIZE = (8, 12, 3)


class Net(nn.Module):
    """A convolution, an operation of a test, and a 1x1 convolution."""

    def __init__(self, operation: Callable[[Tensor], Tensor], head: nn.Module | None = None) -> None:
        super().__init__()
        self.normalize, self.maps, self.unit = Normalize(), Maps(), ConvUnit(3, 4, (3, 3))
        self.operation, self.head = operation, head or nn.Conv2d(4, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.maps(self.head(self.operation(self.unit(self.normalize(images)))))
        return maps


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (lambda x: functional.max_pool2d(x, 3, 1), "max_pool2d: only windows that do not overlap"),
        (lambda x: functional.avg_pool2d(x, 2, padding=1), "avg_pool2d: only windows that do not overlap"),
        (lambda x: functional.max_pool2d(x, 2, ceil_mode=True), "max_pool2d: only windows that do not overlap"),
        (lambda x: functional.interpolate(x, (4, 4)), "interpolate: only upsampling to the nearest pixel"),
        (lambda x: functional.interpolate(x, scale_factor=1.5), "interpolate: only upsampling to the nearest pixel"),
        (lambda x: functional.interpolate(x, scale_factor=2, mode="bilinear"), "interpolate: only upsampling to the"),
        (lambda x: torch.cat([x, x], 2), "cat: only channels, dimension 1"),
        (functional.silu, "silu: a graph has no"),
    ],
)
def test_what_a_graph_cannot_describe_is_refused(operation: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trace(Net(operation), SIZE)


@pytest.mark.parametrize("head", [nn.Conv2d(4, 2, 3), nn.Sequential(nn.Conv2d(4, 2, 1), nn.ReLU())])
def test_another_output_than_a_1x1_convolution_without_relu_is_refused(head: nn.Module) -> None:
    with pytest.raises(ValueError, match="only the output is without a ReLU, and it must be a 1x1 convolution"):
        trace(Net(functional.relu, head), SIZE)


@torch.inference_mode()
def test_a_convolution_with_a_bias_is_folded_too() -> None:
    torch.manual_seed(0)
    network = Net(functional.relu)
    network.unit[0] = nn.Conv2d(3, 4, 3, padding=1)
    network.unit[1].bias.uniform_()
    network.unit[1].running_mean.uniform_()
    images = np.random.default_rng(0).integers(0, 256, (2, *SIZE), np.uint8)
    expected = network.eval()(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(reference.run(trace(network, SIZE), images), expected, atol=1e-5)
