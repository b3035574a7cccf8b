"""The reference: a graph computed by NumPy. Every engine has to compute the same, its integers bit by bit."""

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from model_builder.graph import ops
from model_builder.graph.description import Graph
from model_builder.graph.ops import Array, Node, Pair, Weights


@dataclass(frozen=True)
class Trace:
    """Every node's output (N, H, W, C), uint8 or float32, by name; and the network's output."""

    outputs: dict[str, Array]
    result: NDArray[np.float32]


def run(graph: Graph, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Images uint8 (N, H, W, C) to the network's output, float32. Integers are exact, whatever the batch."""
    return trace(graph, images).result


def trace(graph: Graph, images: NDArray[np.uint8]) -> Trace:
    """As `run`, with every node's output."""
    outputs: dict[str, Array] = {}
    for node in graph.nodes:
        taken = [outputs[name] for name in node.inputs]
        outputs[node.name] = _computed(graph, node, taken) if taken else images
    return Trace(outputs, np.squeeze(outputs[graph.output.name], graph.squeeze))


def _computed(graph: Graph, node: Node, taken: list[Array]) -> Array:
    match node:
        case ops.Convolution():
            return convolution(graph, node, taken[0])
        case ops.Linear():
            products = [_product(graph, *part) for part in zip(node.inputs, node.parts, taken, strict=True)]
            return np.asarray(sum(products) + node.bias, np.float32)
        case ops.MaxPool():
            return np.asarray(_windows(taken[0], node.kernel).max(axis=(2, 4)))
        case ops.AveragePool():
            sums = _windows(taken[0], node.kernel).sum(axis=(2, 4), dtype=np.float32)  # exact below 2^24
            means = np.asarray(sums * np.float32(1 / (node.kernel[0] * node.kernel[1])))
            return means if node.scale is None else np.rint(means).astype(np.uint8)
        case ops.Upsample():
            return taken[0].repeat(node.factor[0], axis=1).repeat(node.factor[1], axis=2)
        case ops.Add():
            total = np.add(*taken, dtype=np.float32)
            return np.asarray(total if node.scale is None else np.minimum(total, ops.TOP).astype(np.uint8))
        case ops.Concatenate():
            return np.concatenate(taken, axis=3)
        case ops.Context():
            parts = zip(taken, node.inputs, node.channels, strict=True)
            contexts = [context(node, x, graph[name].scale, count) for x, name, count in parts]
            return np.concatenate(contexts, axis=3)
    raise TypeError(node)


def context(node: ops.Context, x: Array, scale: float | None, channels: int) -> NDArray[np.float32]:
    """One input's global context, as `blocks.global_context` has it: (N, H, W, C) -> float32 (N, 1, columns, C).

    Columns' sums are integers where `x` is; the mean, its square, the sum of squares and the division are float32.
    """
    stride = x.shape[2] // node.columns
    windows = _windows(x[:, :, : node.columns * stride], (x.shape[1], stride))
    sums = windows.sum(axis=(2, 4), dtype=np.float32 if scale is None else np.int32)
    means = sums.astype(np.float32) * np.float32((1 if scale is None else scale) / (x.shape[1] * stride))
    squares = np.square(means).sum(axis=(1, 2, 3), keepdims=True, dtype=np.float32)
    return np.asarray(means / (squares / np.float32(node.columns * channels) + np.float32(node.epsilon)), np.float32)


def _windows(x: Array, kernel: Pair) -> Array:
    """(N, H, W, C) -> (N, rows, kernel[0], columns, kernel[1], C), without what does not fill a window."""
    height, width = x.shape[1] // kernel[0], x.shape[2] // kernel[1]
    whole = x[:, : height * kernel[0], : width * kernel[1]]
    return whole.reshape(len(x), height, kernel[0], width, kernel[1], x.shape[3])


def convolution(graph: Graph, node: ops.Convolution, x: Array) -> Array:
    """A convolution's output (N, H', W', O) for the output `x` of the node that it takes."""
    if node.weights.integer:
        sums = _convolve(node, x, graph.fill(node)).astype(np.int32) + node.bias
        y = sums.astype(np.float32) * graph.multiplier(node)
    else:
        y = _convolve(node, _real(x, graph[node.inputs[0]])).astype(np.float32) + node.bias
        y = y if node.scale is None else y / np.float32(node.scale)
    if node.scale is None:
        return np.asarray(np.maximum(y, 0) if node.relu else y, np.float32)
    return np.asarray(np.clip(np.rint(y), 0, ops.TOP), np.uint8)


def _real(x: Array, source: Node) -> Array:
    if isinstance(source, ops.Pixels):
        return np.asarray((x - np.float32(source.middle)) / np.float32(source.spread))
    return x if source.scale is None else np.asarray(x * np.float32(source.scale))


def _convolve(node: ops.Convolution, x: Array, fill: int = 0) -> NDArray[np.float64]:
    """Sums (N, H', W', O). float64 holds integers up to 2^53, so that they are exact in any order, and BLAS is fast."""
    (top, left), (down, right), weights = node.padding, node.stride, node.weights.values.astype(np.float64)
    padded = np.pad(x.astype(np.float64), ((0, 0), (top, top), (left, left), (0, 0)), constant_values=fill)
    windows = sliding_window_view(padded, weights.shape[2:], axis=(1, 2))[:, ::down, ::right]
    return np.tensordot(windows, weights, axes=((3, 4, 5), (1, 2, 3)))


def _product(graph: Graph, source: str, part: Weights, x: Array) -> NDArray[np.float32]:
    if part.integer:
        sums = x.astype(np.int32) @ part.values.T.astype(np.int32)
        return np.asarray(sums.astype(np.float32) * graph.steps(source, part), np.float32)
    return np.asarray(_real(x, graph[source]) @ part.values.T, np.float32)
