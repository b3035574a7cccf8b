"""The NumPy reference: exact arithmetic, the same as the simulation in torch, near the float network it is made of."""

import copy
import itertools
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from model_builder.compress.quantize import calibrate
from model_builder.graph import description, reference
from model_builder.graph.description import Graph, dequantized
from model_builder.graph.fake_quantized import FakeQuantized, plain
from model_builder.graph.ops import (
    Context,
    Convolution,
    MaxPool,
    Node,
    Pixels,
    Weights,
)
from model_builder.graph.trace import trace
from model_builder.networks.reader import SIZE, LPRNet, Widths
from model_builder.plates.kinds import ALPHABET
from model_builder.render.plate import Renderer, batch

SMALL = Widths(8, (10,), (12, 8), (12,), 10, 8)


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    """Six rendered plates, one of them dark, one inverted."""
    images = batch(Renderer(fonts=False), 0, 6)[0]
    images[0] //= 8
    images[1] = 255 - images[1]
    return images


@pytest.fixture(scope="module")
def source(crops: np.ndarray) -> LPRNet:
    """A network with statistics as if it had been trained, cut from one of more channels."""
    torch.manual_seed(0)
    network = LPRNet(len(ALPHABET) + 1, SMALL, context_channels=(8, 14, 8, 20))
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter += 0.2 * torch.randn_like(parameter)
        for _ in range(3):
            network.train()(torch.from_numpy(crops))
    return network.eval()


def simulated(source: LPRNet, crops: np.ndarray, *floats: str, bits: int = 8) -> FakeQuantized:
    simulation = FakeQuantized(trace(source, SIZE), bits=bits)
    simulation.set_ranges(calibrate(simulation, crops)["max"])
    simulation.floats = frozenset(floats)
    return simulation.eval()


@pytest.fixture(scope="module")
def network(source: LPRNet, crops: np.ndarray) -> Graph:
    return simulated(source, crops).describe()


@torch.inference_mode()
def test_folding_equals_the_unfolded_network(source, crops):
    expected = source(torch.from_numpy(crops)).numpy()
    folded = trace(source, SIZE)
    assert not any(node.weights.integer for node in folded.convolutions)
    np.testing.assert_allclose(reference.run(folded, crops), expected, atol=1e-4)
    np.testing.assert_allclose(plain(folded)(torch.from_numpy(crops)).numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("bits", [8, 7])
@torch.inference_mode()
def test_every_layer_equals_the_simulation_bit_by_bit(source, crops, bits):
    simulation = simulated(source, crops, bits=bits)
    outputs, logits = simulation.outputs(torch.from_numpy(crops))
    graph = simulation.describe()
    traced = reference.trace(graph, crops)
    for node in graph.convolutions:
        found = traced.outputs[node.name]
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, outputs[node.name].permute(0, 2, 3, 1).numpy(), err_msg=node.name)
    np.testing.assert_allclose(traced.result, logits.numpy(), atol=1e-4)


FLOATS = [("stem",), ("classify",), ("block2.0", "block2.1"), ("column", "wide", "classify"), ("wide",)]


@pytest.mark.parametrize("floats", FLOATS, ids="+".join)
@torch.inference_mode()
def test_layers_that_stay_in_float_equal_the_simulation_within_a_step(source, crops, floats):
    """A float sum in another order can round to the next integer; the layers behind it then differ too."""
    simulation = simulated(source, crops, *floats)
    outputs, logits = simulation.outputs(torch.from_numpy(crops))
    described = simulation.describe()
    traced = reference.trace(described, crops)
    for node in described.convolutions:
        assert node.weights.integer == (node.name not in floats)
        difference = np.abs(traced.outputs[node.name] - outputs[node.name].permute(0, 2, 3, 1).numpy())
        assert difference.max() <= 1
        assert (difference > 1e-3).mean() < 1e-3
    np.testing.assert_allclose(traced.result, logits.numpy(), atol=0.05)


@torch.inference_mode()
def test_integers_stay_near_the_float_network(source, network, crops):
    expected = source(torch.from_numpy(crops)).numpy()
    assert np.abs(reference.run(network, crops) - expected).max() < 0.1 * np.ptp(expected)


@torch.inference_mode()
def test_a_dequantized_layer_computes_what_the_integer_one_rounds(network, crops):
    """The first layer's border apart, which is padded with another grey."""
    expected, floats = reference.trace(network, crops).outputs, dequantized(network)
    for node in network.convolutions:
        source = network[node.inputs[0]]
        x = expected[source.name] if isinstance(source, Pixels) else expected[source.name] * np.float32(source.scale)
        steps = reference.convolution(floats, floats[node.name], x) / node.scale
        difference = np.abs(np.rint(steps).clip(0, 255) - expected[node.name])
        if isinstance(source, Pixels):
            difference = difference[:, 1:-1, 1:-1]
        assert difference.max() <= 1
        assert (difference > 0).mean() < 1e-3  # ties


@torch.inference_mode()
def test_a_dequantized_network_stays_near_the_integers(network, crops):
    expected = reference.run(network, crops)
    floats = plain(dequantized(network))
    assert np.abs(floats(torch.from_numpy(crops)).numpy() - expected).max() < 0.1 * np.ptp(expected)


def test_rows_do_not_depend_on_each_other(network, crops):
    together = reference.trace(network, crops)
    for row in range(len(crops)):
        alone = reference.trace(network, crops[row : row + 1])
        for node in network.convolutions:
            np.testing.assert_array_equal(alone.outputs[node.name][0], together.outputs[node.name][row])
        np.testing.assert_allclose(alone.result[0], together.result[row], atol=1e-4)


def test_a_network_of_whole_numbers_is_told_from_its_limits(source, crops):
    eight, seven = (simulated(source, crops, bits=bits).describe() for bits in (8, 7))
    for node in eight.convolutions:
        assert node.weights.values.dtype == np.int8
        assert node.bias.dtype == np.int32
        assert np.abs(node.weights.values.astype(int)).max() == 127
    for node in seven.convolutions:
        assert 2 * 255 * np.abs(node.weights.values.astype(int)).max() < 1 << 15  # vpmaddubsw's sums of two


@torch.inference_mode()
def test_a_dead_channel_keeps_its_bias(source, crops):
    dead = copy.deepcopy(source)
    dead.block1[0][1].weight[3], dead.block1[0][1].bias[3] = 0, 2.5
    simulation = simulated(dead, crops)
    described = simulation.describe()
    node = described.convolutions[1]
    assert not node.weights.values[3].any()
    assert node.bias[3] * described.steps(node.inputs[0], node.weights)[3] == pytest.approx(2.5, rel=1e-5)
    outputs, _ = simulation.outputs(torch.from_numpy(crops))
    found = reference.trace(described, crops).outputs[node.name]
    np.testing.assert_array_equal(found, outputs[node.name].permute(0, 2, 3, 1).numpy())
    assert np.all(found[..., 3] == round(2.5 / node.scale))


def layer_of(rng: np.random.Generator, fill: float = 128, scale: float = 0.5, **changes: object) -> Graph:
    """A graph of one integer convolution of an image."""
    pixels = Pixels(name="pixels", scale=scale, size=(4, 6, 3), middle=fill, spread=1 / scale)
    fields: dict[str, object] = {
        "name": "layer",
        "inputs": ("pixels",),
        "parts": (Weights(rng.integers(-127, 128, (5, 3, 3, 2), np.int8), rng.uniform(0.01, 0.02, 5).astype("f4")),),
        "bias": rng.integers(-20000, 20000, 5, np.int32),
        "stride": (1, 2),
        "padding": (1, 0),
        "scale": 1.5,
        "relu": True,
    }
    return Graph((pixels, Convolution(**fields | changes)))


def by_hand(graph: Graph, x: np.ndarray) -> np.ndarray:
    """The formula of description.py in Python's integers, one output at a time."""
    (layer,) = graph.convolutions
    weights, multiplier = layer.weights.values, graph.multiplier(layer)
    (top, left), (down, right), (height, width) = layer.padding, layer.stride, weights.shape[2:]
    padded = np.pad(x, ((0, 0), (top, top), (left, left), (0, 0)), constant_values=graph.fill(layer))
    rows, columns = (padded.shape[1] - height) // down + 1, (padded.shape[2] - width) // right + 1
    found = np.zeros((len(x), rows, columns, len(weights)), np.uint8)
    for n, i, j, o in itertools.product(*map(range, found.shape)):
        window = padded[n, i * down : i * down + height, j * right : j * right + width].astype(object)
        total = int((window * weights[o].transpose(1, 2, 0).astype(object)).sum()) + int(layer.bias[o])
        product = np.float32(np.float32(total) * multiplier[o])
        found[n, i, j, o] = min(255, max(0, round(Fraction(float(product)))))  # Fraction rounds halves to even
    return found


def test_a_convolution_is_the_formula():
    rng = np.random.default_rng(0)
    graph = layer_of(rng)
    x = rng.integers(0, 256, (2, 4, 6, 3), np.uint8)
    found = reference.trace(graph, x).outputs["layer"]
    assert 0 < (found == 0).mean() < 0.9
    assert found.max() == 255
    np.testing.assert_array_equal(found, by_hand(graph, x))


def test_halves_round_to_even_and_results_are_clamped():
    graph = layer_of(
        np.random.default_rng(0),
        scale=1.0,
        parts=(Weights(np.ones((1, 1, 1, 1), np.int8), np.array([0.5], np.float32)),),
        bias=np.array([-4], np.int32),
        stride=(1, 1),
        padding=(0, 0),
    )
    (layer,) = graph.convolutions
    x = np.array([0, 3, 4, 5, 6, 7, 8, 9, 11, 255], np.uint8).reshape(1, 1, -1, 1)

    def computed(steps: float) -> list[int]:
        changed = replace(graph, nodes=(graph.pixels, replace(layer, scale=steps)))
        return reference.trace(changed, x).outputs["layer"].ravel().tolist()

    assert computed(1.0) == [0, 0, 0, 0, 1, 2, 2, 2, 4, 126]
    assert computed(0.25)[-1] == 255


def test_the_context_is_in_float():
    """uint8 sums, then square, mean and division without a rounding to integers."""
    x = np.random.default_rng(0).integers(0, 256, (2, 4, 7, 3), np.uint8)
    node = Context(name="context", inputs=("x",), columns=3, channels=(5,), epsilon=1e-3)
    found = reference.context(node, x, 0.25, channels=5)
    means = 0.25 * x[:, :, :6].reshape(2, 4, 3, 2, 3).astype(float).mean(axis=(1, 3))
    expected = means / (np.square(means).sum(axis=(1, 2), keepdims=True) / (3 * 5) + 1e-3)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-5)


def test_max_pooling_takes_the_largest_of_whole_windows():
    x = np.arange(2 * 4 * 5, dtype=np.uint8).reshape(1, 4, 5, 2)
    pixels = Pixels(name="pixels", size=(4, 5, 2), middle=0, spread=1)
    graph = Graph((pixels, MaxPool(name="pool", inputs=("pixels",), kernel=(2, 2))))
    found = reference.trace(graph, x).outputs["pool"]
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, x[:, 1::2, 1::2][:, :, :2])


def test_a_network_is_assembled_of_its_structure_and_arrays(network, crops):
    again = description.assemble(description.structure(network), description.arrays(network))
    assert description.structure(again) == description.structure(network)
    for name, array in description.arrays(network).items():
        assert description.arrays(again)[name].dtype == array.dtype
        np.testing.assert_array_equal(description.arrays(again)[name], array)
    np.testing.assert_array_equal(reference.run(again, crops[:2]), reference.run(network, crops[:2]))


def test_steps_that_do_not_fit_together_are_refused(network):
    pool = next(node for node in network.nodes if isinstance(node, MaxPool))
    with pytest.raises(ValueError, match=rf"{pool.name} and {pool.inputs[0]} must have the same steps, not 0\.5 and"):
        replace(network, nodes=tuple(replace(pool, scale=0.5) if node is pool else node for node in network.nodes))


def test_a_node_that_takes_what_is_not_there_is_refused():
    with pytest.raises(ValueError, match="a takes b, which no node before it puts out"):
        Graph((Node(name="a", inputs=("b",)),))


def test_multiply_adds_are_those_of_the_float_network(source, network):
    counts = network.multiply_adds()
    assert counts == trace(source, SIZE).multiply_adds()
    assert counts["stem"] == 24 * 47 * 8 * 3 * 3 * 5


def test_an_unknown_layer_is_refused(source):
    with pytest.raises(ValueError, match=r"no layer block9; there are stem, block1\.0"):
        FakeQuantized(trace(source, SIZE), floats=["block9"])


def test_what_a_graph_has_not_is_refused():
    class Strange(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Tanh()

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.inner(images)

    with pytest.raises(ValueError, match="inner: a graph has no Tanh"):
        trace(Strange(), SIZE)
