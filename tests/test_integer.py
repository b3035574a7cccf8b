"""The integer network: exact arithmetic, the same as its simulation in torch, near the float network it is made of."""

import copy
import itertools
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch  # noqa: TID253 (that rule is for the service)

from model_builder import integer
from model_builder.integer import Layer, Network
from model_builder.model import ConvUnit, LPRNet, Widths, multiply_adds
from model_builder.plates import ALPHABET
from model_builder.quantize import calibrate
from model_builder.render import Renderer, batch
from model_builder.simulate import Simulation, dequantized, fold

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


def simulated(source: LPRNet, crops: np.ndarray, *floats: str, bits: int = 8) -> Simulation:
    simulation = Simulation(source, bits=bits)
    simulation.set_ranges(calibrate(simulation, crops)["max"])
    simulation.floats = frozenset(floats)
    return simulation.eval()


@pytest.fixture(scope="module")
def network(source: LPRNet, crops: np.ndarray) -> Network:
    return simulated(source, crops).describe()


@torch.inference_mode()
def test_folding_equals_the_unfolded_network(source, crops):
    expected = source(torch.from_numpy(crops)).numpy()
    folded = fold(source)
    assert not any(layer.integer for layer in folded.layers)
    np.testing.assert_allclose(integer.run(folded, crops), expected, atol=1e-4)


@pytest.mark.parametrize("bits", [8, 7])
@torch.inference_mode()
def test_every_layer_equals_the_simulation_bit_by_bit(source, crops, bits):
    simulation = simulated(source, crops, bits=bits)
    outputs, logits = simulation.outputs(torch.from_numpy(crops))
    trace = integer.trace(simulation.describe(), crops)
    assert list(trace.outputs) == simulation.names[:-1]
    for name, found in trace.outputs.items():
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, outputs[name].permute(0, 2, 3, 1).numpy(), err_msg=name)
    np.testing.assert_allclose(trace.logits, logits.numpy(), atol=1e-4)


FLOATS = [("stem",), ("classify",), ("block2.0", "block2.1"), ("column", "wide", "classify"), ("wide",)]


@pytest.mark.parametrize("floats", FLOATS, ids="+".join)
@torch.inference_mode()
def test_layers_that_stay_in_float_equal_the_simulation_within_a_step(source, crops, floats):
    """A float sum in another order can round to the next integer; the layers behind it then differ too."""
    simulation = simulated(source, crops, *floats)
    outputs, logits = simulation.outputs(torch.from_numpy(crops))
    described = simulation.describe()
    trace = integer.trace(described, crops)
    for layer in described.layers:
        assert layer.integer == (layer.name not in floats)
        difference = np.abs(trace.outputs[layer.name] - outputs[layer.name].permute(0, 2, 3, 1).numpy())
        assert difference.max() <= 1
        assert (difference > 1e-3).mean() < 1e-3
    np.testing.assert_allclose(trace.logits, logits.numpy(), atol=0.05)


@torch.inference_mode()
def test_integers_stay_near_the_float_network(source, network, crops):
    expected = source(torch.from_numpy(crops)).numpy()
    assert np.abs(integer.run(network, crops) - expected).max() < 0.1 * np.ptp(expected)


@torch.inference_mode()
def test_a_dequantized_layer_computes_what_the_integer_one_rounds(network, crops):
    """The first layer's border apart, which is padded with another grey."""
    expected = integer.trace(network, crops).outputs
    units = [module for module in dequantized(network).modules() if isinstance(module, ConvUnit)]
    x = ((crops - integer.MIDDLE) / integer.SPREAD).astype(np.float32)
    for unit, layer in zip(units, network.layers, strict=True):
        planes = torch.from_numpy(integer.max_pool(x, layer.pool).transpose(0, 3, 1, 2))
        steps = unit(planes).numpy().transpose(0, 2, 3, 1) / layer.output_scale
        difference = np.abs(np.rint(steps).clip(0, 255) - expected[layer.name])
        if layer.name == "stem":
            difference = difference[:, 1:-1, 1:-1]
        assert difference.max() <= 1
        assert (difference > 0).mean() < 1e-3  # ties
        x = expected[layer.name] * np.float32(layer.output_scale)


@torch.inference_mode()
def test_a_dequantized_network_stays_near_the_integers(source, network, crops):
    expected = integer.run(network, crops)
    floats = dequantized(network)
    assert floats.configuration() == source.configuration()
    assert np.abs(floats(torch.from_numpy(crops)).numpy() - expected).max() < 0.1 * np.ptp(expected)


def test_rows_do_not_depend_on_each_other(network, crops):
    together = integer.trace(network, crops)
    for row in range(len(crops)):
        alone = integer.trace(network, crops[row : row + 1])
        for name, output in alone.outputs.items():
            np.testing.assert_array_equal(output[0], together.outputs[name][row])
        np.testing.assert_allclose(alone.logits[0], together.logits[row], atol=1e-4)


def test_a_network_of_whole_numbers_is_told_from_its_limits(source, crops):
    eight, seven = (simulated(source, crops, bits=bits).describe() for bits in (8, 7))
    for layer in eight.layers:
        assert layer.weights.dtype == np.int8
        assert layer.bias.dtype == np.int32
        assert np.abs(layer.weights.astype(int)).max() == 127
    for layer in seven.layers:
        assert 2 * 255 * np.abs(layer.weights.astype(int)).max() < 1 << 15  # vpmaddubsw's sums of two


@torch.inference_mode()
def test_a_dead_channel_keeps_its_bias(source, crops):
    dead = copy.deepcopy(source)
    dead.block1[0][1].weight[3], dead.block1[0][1].bias[3] = 0, 2.5
    simulation = simulated(dead, crops)
    described = simulation.describe()
    layer = described.layers[1]
    assert not layer.weights[3].any()
    assert layer.bias[3] * layer.scales[3] == pytest.approx(2.5, rel=1e-5)
    outputs, _ = simulation.outputs(torch.from_numpy(crops))
    found = integer.trace(described, crops).outputs[layer.name]
    np.testing.assert_array_equal(found, outputs[layer.name].permute(0, 2, 3, 1).numpy())
    assert (found[..., 3] == round(2.5 / layer.output_scale)).all()


def layer_of(rng: np.random.Generator, **changes: object) -> Layer:
    fields: dict[str, object] = {
        "name": "layer",
        "weights": rng.integers(-127, 128, (5, 3, 3, 2), np.int8),
        "weight_scales": rng.uniform(0.01, 0.02, 5).astype(np.float32),
        "input_scale": 0.5,
        "bias": rng.integers(-20000, 20000, 5, np.int32),
        "stride": (1, 2),
        "padding": (1, 0),
        "output_scale": 1.5,
        "fill": 128,
    }
    return Layer(**fields | changes)


def by_hand(layer: Layer, x: np.ndarray) -> np.ndarray:
    """The docstring's formula in Python's integers, one output at a time."""
    (top, left), (down, right), (height, width) = layer.padding, layer.stride, layer.weights.shape[2:]
    padded = np.pad(x, ((0, 0), (top, top), (left, left), (0, 0)), constant_values=layer.fill)
    rows, columns = (padded.shape[1] - height) // down + 1, (padded.shape[2] - width) // right + 1
    found = np.zeros((len(x), rows, columns, len(layer.weights)), np.uint8)
    for n, i, j, o in itertools.product(*map(range, found.shape)):
        window = padded[n, i * down : i * down + height, j * right : j * right + width].astype(object)
        total = int((window * layer.weights[o].transpose(1, 2, 0).astype(object)).sum()) + int(layer.bias[o])
        product = np.float32(np.float32(total) * layer.multiplier[o])
        found[n, i, j, o] = min(255, max(0, round(Fraction(float(product)))))  # Fraction rounds halves to even
    return found


def test_a_layer_is_the_formula():
    rng = np.random.default_rng(0)
    layer = layer_of(rng)
    x = rng.integers(0, 256, (2, 4, 6, 3), np.uint8)
    found = integer._layer(layer, x)
    assert 0 < (found == 0).mean() < 0.9
    assert found.max() == 255
    np.testing.assert_array_equal(found, by_hand(layer, x))


def test_halves_round_to_even_and_results_are_clamped():
    layer = layer_of(
        np.random.default_rng(0),
        weights=np.ones((1, 1, 1, 1), np.int8),
        weight_scales=np.array([0.5], np.float32),
        input_scale=1.0,
        bias=np.array([-4], np.int32),
        output_scale=1.0,
        stride=(1, 1),
        padding=(0, 0),
    )
    x = np.array([0, 3, 4, 5, 6, 7, 8, 9, 11, 255], np.uint8).reshape(1, 1, -1, 1)
    assert integer._layer(layer, x).ravel().tolist() == [0, 0, 0, 0, 1, 2, 2, 2, 4, 126]
    steep = replace(layer, output_scale=0.25)
    assert integer._layer(steep, x).ravel().tolist()[-1] == 255


def test_the_context_is_in_float(crops):
    """uint8 sums, then square, mean and division without a rounding to integers."""
    x = np.random.default_rng(0).integers(0, 256, (2, 4, 7, 3), np.uint8)
    found = integer.context(x, 3, 0.25, channels=5)
    means = 0.25 * x[:, :, :6].reshape(2, 4, 3, 2, 3).astype(float).mean(axis=(1, 3))
    expected = means / (np.square(means).sum(axis=(1, 2), keepdims=True) / (3 * 5) + 1e-3)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_max_pooling_takes_the_largest_of_whole_windows():
    x = np.arange(2 * 4 * 5, dtype=np.uint8).reshape(1, 4, 5, 2)
    found = integer.max_pool(x, (2, 2))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, x[:, 1::2, 1::2][:, :, :2])


def test_a_saved_network_is_the_same_network(network, crops, tmp_path: Path):
    integer.save(network, tmp_path / "network.npz")
    again = integer.load(tmp_path / "network.npz")
    assert integer.structure(again) == integer.structure(network)
    for name, array in integer.arrays(network).items():
        assert integer.arrays(again)[name].dtype == array.dtype
        np.testing.assert_array_equal(integer.arrays(again)[name], array)
    np.testing.assert_array_equal(integer.run(again, crops[:2]), integer.run(network, crops[:2]))


def test_steps_that_do_not_fit_together_are_refused(network):
    first, *rest = network.layers
    with pytest.raises(ValueError, match=r"stem puts out steps of 0\.5, block1\.0 takes others"):
        replace(network, layers=(replace(first, output_scale=0.5), *rest))
    with pytest.raises(ValueError, match="the classifier takes other steps than wide puts out"):
        replace(network, layers=(*network.layers[:-1], replace(network.layers[-1], output_scale=0.5)))


def test_multiply_adds_are_those_of_the_float_network(source, network, crops):
    integers, total = integer.multiply_adds(network, crops.shape[1:3])
    assert total == multiply_adds(source, torch.from_numpy(crops))
    assert 0.9 * total < integers < total


def test_a_spatial_transformer_is_refused():
    with pytest.raises(ValueError, match="spatial transformer can't be quantized"):
        Simulation(LPRNet(len(ALPHABET) + 1, SMALL, transformer=True))


def test_an_unknown_layer_is_refused(source):
    with pytest.raises(ValueError, match=r"no layer block9; there are stem, block1\.0"):
        Simulation(source, floats=["block9"])
