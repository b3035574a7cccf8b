"""An integer network described by its numbers alone, and computed by NumPy: the reference for every engine.

::

    crops uint8 (N, 24, 94, 3) -> [pool] -> convolution -> ... -> column -> wide -\\
                                    |  some outputs also                           classifier -> logits float32
                                    \\-> global context ----------------------------/

Activations are NHWC. An integer layer multiplies uint8 by int8, sums in int32, and puts out

    uint8 = clamp(round_half_even(float32(sum + bias) * multiplier), 0, 255)

that is, its ReLU is the clamp. The scheme, with its per-channel symmetric weights and a zero point of 0, is that of
Jacob et al. (arXiv 1712.05877), but with the multiplier in float32, as ONNX Runtime's and oneDNN's kernels have it.

Any layer may stay in float32 instead: then it takes real numbers, or uint8 times their scale. A tensor is uint8 where
the layer that makes it or one that takes it is an integer one, else float32. A network of float layers alone is the
folded fp32 network.
"""

import json
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Pair = tuple[int, int]

TOP: Final = 255  # of uint8
MIDDLE, SPREAD = 127.5, 128.0  # pixels are normalized as (pixel - MIDDLE) / SPREAD
# What an integer first layer is padded with: the nearest pixel to MIDDLE, which a float one is padded with. The border
# so sees a grey that is half a level brighter.
FILL: Final = 128
EPSILON: Final = np.float32(1e-3)  # of the global context


@dataclass(frozen=True)
class Linear:
    """A linear map of channels, the last axis: weights (outputs, inputs, ...), int8 or float32.

    A weight's real value is `weights` times its output's `weight_scales` (1 in float), an input's is the tensor's
    number times `input_scale`, which is None where the tensor is float32.
    """

    weights: Array
    weight_scales: NDArray[np.float32]
    input_scale: float | None

    @property
    def integer(self) -> bool:
        """Whether this is computed in integers."""
        return self.weights.dtype == np.int8

    @property
    def real(self) -> NDArray[np.float32]:
        """The weights as real numbers, in their shape."""
        scales = self.weight_scales.reshape(-1, *[1] * (self.weights.ndim - 1))
        return np.asarray(self.weights * scales, np.float32)

    @property
    def scales(self) -> NDArray[np.float32]:
        """Real value of one step of each output's integer sum, float32 (outputs)."""
        assert self.input_scale is not None
        return np.float32(self.input_scale) * self.weight_scales


@dataclass(frozen=True)
class Layer(Linear):
    """A max-pool of `pool` (kernel and stride), a convolution (O, I, KH, KW) of stride and padding, and a ReLU.

    `bias` is int32 in steps of `scales`, or float32. `fill` is the number that stands for 0 in the padding. The output
    is uint8 in steps of `output_scale`, or float32 where that is None. `context` is 0 or, where the output enters the
    global context, the number of channels that its mean of squares is taken over.
    """

    name: str
    bias: Array
    stride: Pair
    padding: Pair
    output_scale: float | None
    pool: Pair = (1, 1)
    fill: int = 0
    context: int = 0

    @property
    def multiplier(self) -> NDArray[np.float32]:
        """From the integer sum to the output's steps, float32 (O), in the order of ONNX Runtime's QLinearConv."""
        return self.scales if self.output_scale is None else self.scales / np.float32(self.output_scale)


@dataclass(frozen=True)
class Classifier:
    """Logits: a linear map of the last two layers' outputs and, in float32, of the contexts; plus `bias`."""

    wide: Linear
    column: Linear
    context: NDArray[np.float32]  # (classes, channels of all contexts)
    bias: NDArray[np.float32]


@dataclass(frozen=True)
class Network:
    """The whole: layers in order, each taking its predecessor's output, the last two named column and wide."""

    layers: tuple[Layer, ...]
    classifier: Classifier

    def __post_init__(self) -> None:
        for before, after in pairwise(self.layers):
            if before.output_scale != after.input_scale:
                raise ValueError(f"{before.name} puts out steps of {before.output_scale}, {after.name} takes others")
        column, wide = self.layers[-2:]
        for part, layer in ((self.classifier.wide, wide), (self.classifier.column, column)):
            if part.input_scale != layer.output_scale:
                raise ValueError(f"the classifier takes other steps than {layer.name} puts out")


@dataclass(frozen=True)
class Trace:
    """What a network computed: every layer's output (N, H, W, O), uint8 or float32, by name; logits (N, T, C)."""

    outputs: dict[str, Array]
    logits: NDArray[np.float32]


def run(network: Network, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Crops uint8 (N, 24, 94, 3) BGR to logits float32 (N, T, C). Integers are exact, whatever the batch."""
    return trace(network, crops).logits


def trace(network: Network, crops: NDArray[np.uint8]) -> Trace:
    """As `run`, with every layer's output."""
    x: Array = crops if network.layers[0].integer else ((crops - np.float32(MIDDLE)) / np.float32(SPREAD))
    outputs: dict[str, Array] = {}
    for layer in network.layers:
        x = outputs[layer.name] = _layer(layer, x)
    column, wide = (outputs[layer.name][:, 0] for layer in network.layers[-2:])
    contexts = [
        context(outputs[layer.name], wide.shape[1], layer.output_scale, layer.context)
        for layer in network.layers
        if layer.context
    ]
    classifier = network.classifier
    logits = _linear(classifier.wide, wide) + _linear(classifier.column, column)
    logits = logits + np.concatenate(contexts, axis=2) @ classifier.context.T + classifier.bias
    return Trace(outputs, logits)


def context(x: Array, columns: int, scale: float | None, channels: int) -> NDArray[np.float32]:
    """Global context as `model.py` has it: (N, H, W, C) -> float32 (N, columns, C).

    Columns' sums are integers where `x` is; the mean, its square, the sum of squares and the division are float32.
    """
    stride = x.shape[2] // columns
    used = x[:, :, : columns * stride]
    sums = used.reshape(*x.shape[:2], columns, stride, x.shape[3]).sum(
        axis=(1, 3), dtype=np.float32 if scale is None else np.int32
    )
    means = sums.astype(np.float32) * np.float32((1 if scale is None else scale) / (x.shape[1] * stride))
    squares = np.square(means).sum(axis=(1, 2), keepdims=True, dtype=np.float32) / np.float32(columns * channels)
    return np.asarray(means / (squares + EPSILON), np.float32)


def max_pool(x: Array, kernel: Pair) -> Array:
    """(N, H, W, C) -> (N, H / kernel[0], W / kernel[1], C), without what does not fill a window."""
    height, width = x.shape[1] // kernel[0], x.shape[2] // kernel[1]
    windows = x[:, : height * kernel[0], : width * kernel[1]]
    return np.asarray(windows.reshape(len(x), height, kernel[0], width, kernel[1], x.shape[3]).max(axis=(2, 4)))


def _layer(layer: Layer, x: Array) -> Array:
    x = max_pool(x, layer.pool)
    if layer.integer:
        sums = _convolve(layer, x, np.float64).astype(np.int32) + layer.bias
        y = sums.astype(np.float32) * layer.multiplier
    else:
        real = x if layer.input_scale is None else x * np.float32(layer.input_scale)
        y = _convolve(layer, real, np.float32) + layer.bias
        if layer.output_scale is not None:
            y = y / np.float32(layer.output_scale)
    if layer.output_scale is None:
        return np.asarray(np.maximum(y, 0), np.float32)
    return np.asarray(np.clip(np.rint(y), 0, TOP), np.uint8)


def _convolve(layer: Layer, x: Array, dtype: type[np.floating[Any]]) -> Array:
    """Sums (N, H', W', O) of `dtype`: one matrix product per position in the kernel.

    float64 holds every integer up to 2^53, so that integers are exact in it, in any order, and BLAS is fast.
    """
    (top, left), (down, right) = layer.padding, layer.stride
    padded = np.pad(x.astype(dtype), ((0, 0), (top, top), (left, left), (0, 0)), constant_values=layer.fill)
    kernel = layer.weights.shape[2:]
    height, width = ((padded.shape[1 + i] - kernel[i]) // layer.stride[i] + 1 for i in (0, 1))
    sums = np.zeros((len(x), height, width, len(layer.weights)), dtype)
    for row in range(kernel[0]):
        for at in range(kernel[1]):
            window = padded[:, row : row + (height - 1) * down + 1 : down, at : at + (width - 1) * right + 1 : right]
            sums += window @ layer.weights[:, :, row, at].T.astype(dtype)
    return sums


def _linear(part: Linear, x: Array) -> NDArray[np.float32]:
    if part.integer:
        sums = x.astype(np.int32) @ part.weights.T.astype(np.int32)
        return np.asarray(sums.astype(np.float32) * part.scales, np.float32)
    real = x if part.input_scale is None else x * np.float32(part.input_scale)
    return np.asarray(real @ part.weights.T, np.float32)


def multiply_adds(network: Network, shape: Pair) -> tuple[int, int]:
    """Multiply-adds of one crop of `shape` (height, width): those in integers, and all of them."""
    crops = np.zeros((1, *shape, 3), np.uint8)
    outputs = trace(network, crops).outputs
    columns = outputs[network.layers[-1].name].shape[2]
    counts = [(layer.integer, outputs[layer.name][0].size * layer.weights[0].size) for layer in network.layers] + [
        (part.integer, columns * part.weights.size) for part in (network.classifier.wide, network.classifier.column)
    ]
    total = sum(count for _, count in counts) + columns * network.classifier.context.size
    return sum(count for integer, count in counts if integer), total


def arrays(network: Network) -> dict[str, Array]:
    """Every array of the network by name, such as "block1.0.weights"."""
    classifier = network.classifier
    parts: dict[str, Linear] = {layer.name: layer for layer in network.layers}
    parts |= {"classify.wide": classifier.wide, "classify.column": classifier.column}
    found: dict[str, Array] = {f"{name}.weights": part.weights for name, part in parts.items()}
    found |= {f"{name}.weight_scales": part.weight_scales for name, part in parts.items()}
    found |= {f"{layer.name}.bias": layer.bias for layer in network.layers}
    return found | {"classify.context": classifier.context, "classify.bias": classifier.bias}


def structure(network: Network) -> str:
    """All of the network that is no array, as JSON."""
    rest = [
        {key: value for key, value in asdict(layer).items() if not isinstance(value, np.ndarray)}
        for layer in network.layers
    ]
    return json.dumps({"layers": rest})


def assemble(structure: str, arrays: dict[str, Array]) -> Network:
    """The network that `structure` and `arrays` were taken from."""
    layers = []
    for saved in json.loads(structure)["layers"]:
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in saved.items()
        }
        fields |= {name: arrays[f"{saved['name']}.{name}"] for name in ("weights", "weight_scales", "bias")}
        layers.append(Layer(**fields))
    wide, column = (
        Linear(arrays[f"classify.{name}.weights"], arrays[f"classify.{name}.weight_scales"], layer.output_scale)
        for name, layer in (("wide", layers[-1]), ("column", layers[-2]))
    )
    return Network(tuple(layers), Classifier(wide, column, arrays["classify.context"], arrays["classify.bias"]))


def save(network: Network, path: Path) -> None:
    """Write the network as .npz, without pickles."""
    contents: dict[str, Any] = {"structure": np.array(structure(network)), **arrays(network)}
    np.savez_compressed(path, **contents)


def load(path: Path) -> Network:
    """Read what `save` wrote."""
    with np.load(path, allow_pickle=False) as contents:
        found = dict(contents)
    return assemble(str(found.pop("structure")), found)
