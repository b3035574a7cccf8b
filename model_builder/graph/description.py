"""A network as data: its operations in order, with weights and, where it is quantized, the steps of each output.

Tensors are (N, H, W, C). A tensor is uint8 in steps of its node's `scale`, or float32 where that is None:

    real = uint8 * scale

Weights are int8 with a scale per output, symmetric; activations have a zero point of 0, as all come out of a ReLU. An
integer convolution multiplies uint8 by int8, sums in int32, and puts out

    uint8 = clamp(round_half_even(float32(sum + bias) * multiplier), 0, 255)

that is, its ReLU is the clamp. The scheme is that of Jacob et al. (arXiv 1712.05877), but with the multiplier in
float32, as ONNX Runtime's and oneDNN's kernels have it. Pooling, upsampling, adding and concatenating take tensors of
the scale that they put out (`tied`), so that they are exact in integers.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_builder.graph import ops
from model_builder.graph.ops import Array, Node, Shape, Weights


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes in order of computation: the first one is the image, the last one the output.

    `squeeze` names the axes of size 1, among (N, H, W, C), that the network's output does not have.
    """

    nodes: tuple[Node, ...]
    squeeze: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        known: set[str] = set()
        for node in self.nodes:
            if missing := set(node.inputs) - known:
                raise ValueError(f"{node.name} takes {sorted(missing)[0]}, which no node before it puts out")
            known.add(node.name)
        for name, group in tied(self.nodes).items():
            steps = self[name].scale, self[group].scale
            if steps[0] != steps[1]:
                raise ValueError(f"{name} and {group} must have the same steps, not {steps[0]} and {steps[1]}")

    def __getitem__(self, name: str) -> Node:
        return self._named[name]

    @cached_property
    def _named(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes}

    @property
    def pixels(self) -> ops.Pixels:
        """The image."""
        (node,) = (node for node in self.nodes if isinstance(node, ops.Pixels))
        return node

    @property
    def output(self) -> Node:
        """The node whose output is the network's."""
        return self.nodes[-1]

    @property
    def convolutions(self) -> list[ops.Convolution]:
        """The convolutions in order of computation."""
        return [node for node in self.nodes if isinstance(node, ops.Convolution)]

    @property
    def weighted(self) -> list[ops.Weighted]:
        """All nodes with weights in order of computation: those that can be integer ones."""
        return [node for node in self.nodes if isinstance(node, ops.Convolution | ops.Linear)]

    def consumers(self, name: str) -> list[Node]:
        """The nodes that take the output of another one."""
        return [node for node in self.nodes if name in node.inputs]

    def fill(self, node: ops.Convolution) -> int:
        """The number that stands for 0 in the padding of a convolution."""
        source = self[node.inputs[0]]
        return source.fill if isinstance(source, ops.Pixels) and node.weights.integer else 0

    def steps(self, source: str, weights: Weights) -> NDArray[np.float32]:
        """Real value of one step of each output's integer sum over the tensor `source`, float32 (O)."""
        scale = self[source].scale
        assert scale is not None
        return np.float32(scale) * weights.scales

    def multiplier(self, node: ops.Convolution) -> NDArray[np.float32]:
        """From a convolution's integer sum to its output, float32 (O), in the order of ONNX Runtime's QLinearConv."""
        steps = self.steps(node.inputs[0], node.weights)
        return steps if node.scale is None else steps / np.float32(node.scale)

    def shapes(self, size: Shape | None = None) -> dict[str, Shape]:
        """Height, width and channels of every node's output, for an image of `size`, by default its own."""
        found: dict[str, Shape] = {}
        for node in self.nodes:
            found[node.name] = _shape(node, [found[name] for name in node.inputs], size)
        return found

    def multiply_adds(self) -> dict[str, int]:
        """Multiply-adds of every node with weights, for one image."""
        shapes = self.shapes()
        counts = {}
        for node in self.weighted:
            height, width, _ = shapes[node.name]
            parts = (node.weights,) if isinstance(node, ops.Convolution) else node.parts
            counts[node.name] = height * width * sum(part.values.size for part in parts)
        return counts

    def replaced(self, nodes: Mapping[str, Node]) -> "Graph":
        """The same with other nodes of the same names."""
        return replace(self, nodes=tuple(nodes.get(node.name, node) for node in self.nodes))


def tied(nodes: Iterable[Node]) -> dict[str, str]:
    """For each tensor that must have the steps of others: the first one of its group. A tensor alone is its own."""
    first: dict[str, str] = {}
    for node in nodes:
        first[node.name] = node.name
        if isinstance(node, ops.MaxPool | ops.AveragePool | ops.Upsample | ops.Add | ops.Concatenate):
            group = {first[name] for name in (node.name, *node.inputs)}
            head = next(name for name in first if name in group)
            first.update({name: head for name, other in first.items() if other in group})
    return first


def dequantized(graph: Graph) -> Graph:
    """The float32 graph of the same weights, as real numbers.

    Its activations are neither rounded nor clamped at the top of uint8; where an integer convolution pads an image with
    `Pixels.fill`, it pads with `Pixels.middle`.
    """

    def real(weights: Weights) -> Weights:
        return Weights(weights.real, np.ones_like(weights.scales))

    nodes: dict[str, Node] = {}
    for node in graph.nodes:
        match node:
            case ops.Pixels():
                continue
            case ops.Convolution():
                bias = node.bias
                if node.weights.integer:
                    source, values = graph[node.inputs[0]], node.weights.values
                    middle = source.middle if isinstance(source, ops.Pixels) else 0
                    sums = bias + middle * values.sum((1, 2, 3), dtype=np.int64)
                    bias = np.asarray(sums * graph.steps(source.name, node.weights), np.float32)
                nodes[node.name] = replace(node, weights=real(node.weights), bias=bias, scale=None)
            case ops.Linear():
                nodes[node.name] = replace(node, parts=tuple(map(real, node.parts)))
            case _:
                nodes[node.name] = replace(node, scale=None)
    return graph.replaced(nodes)


def _shape(node: Node, inputs: list[Shape], size: Shape | None) -> Shape:
    match node:
        case ops.Pixels():
            return size or node.size
        case ops.Convolution():
            sizes = zip(inputs[0], node.padding, node.weights.values.shape[2:], node.stride, strict=False)
            height, width = ((length + 2 * pad - kernel) // stride + 1 for length, pad, kernel, stride in sizes)
            return height, width, len(node.bias)
        case ops.MaxPool() | ops.AveragePool():
            return inputs[0][0] // node.kernel[0], inputs[0][1] // node.kernel[1], inputs[0][2]
        case ops.Upsample():
            return inputs[0][0] * node.factor[0], inputs[0][1] * node.factor[1], inputs[0][2]
        case ops.Concatenate():
            return *inputs[0][:2], sum(shape[2] for shape in inputs)
        case ops.Context():
            return 1, node.columns, sum(shape[2] for shape in inputs)
        case ops.Linear():
            return *inputs[0][:2], len(node.bias)
        case _:
            return inputs[0]


def arrays(graph: Graph) -> dict[str, Array]:
    """Every array by name, such as "block1.0.weights", or "classify.wide.weights" for the part of an input."""
    found: dict[str, Array] = {}
    for node in graph.weighted:
        for name, part in _parts(node).items():
            found[f"{name}.weights"] = part.values
            if part.integer:
                found[f"{name}.weight_scales"] = part.scales
        found[f"{node.name}.bias"] = node.bias
    return found


def _parts(node: ops.Weighted) -> dict[str, Weights]:
    if isinstance(node, ops.Convolution):
        return {node.name: node.weights}
    return {f"{node.name}.{source}": part for source, part in zip(node.inputs, node.parts, strict=True)}


def structure(graph: Graph) -> str:
    """All of the graph that is no array, as JSON."""
    nodes = []
    for node in graph.nodes:
        plain = {f.name: getattr(node, f.name) for f in fields(node) if f.name not in ("weights", "parts", "bias")}
        nodes.append({"type": type(node).__name__, **plain})
    return json.dumps({"nodes": nodes, "squeeze": graph.squeeze})


def assemble(structure: str, arrays: Mapping[str, Array]) -> Graph:
    """The graph that `structure` and `arrays` were taken from."""

    def weights(name: str) -> Weights:
        values = arrays[f"{name}.weights"]
        return Weights(values, arrays.get(f"{name}.weight_scales", np.ones(len(values), np.float32)))

    nodes: list[Node] = []
    saved = json.loads(structure)
    for kind, plain in ((entry.pop("type"), entry) for entry in saved["nodes"]):
        values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in plain.items()}
        name = values["name"]
        if kind == "Convolution":
            nodes.append(ops.Convolution(**values, weights=weights(name), bias=arrays[f"{name}.bias"]))
        elif kind == "Linear":
            parts = tuple(weights(f"{name}.{source}") for source in values["inputs"])
            nodes.append(ops.Linear(**values, parts=parts, bias=arrays[f"{name}.bias"]))
        else:
            nodes.append(ops.TYPES[kind](**values))
    return Graph(tuple(nodes), tuple(saved["squeeze"]))


def save(graph: Graph, path: Path) -> None:
    """Write the graph as .npz, without pickles."""
    contents: dict[str, Any] = {"structure": np.array(structure(graph)), **arrays(graph)}
    np.savez_compressed(path, **contents)


def load(path: Path) -> Graph:
    """Read what `save` wrote."""
    with np.load(path, allow_pickle=False) as contents:
        found = dict(contents)
    return assemble(str(found.pop("structure")), found)
