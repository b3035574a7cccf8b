"""A network as data: its operations in order, with weights and, where it is quantized, the steps of each output.

Tensors are (N, H, W, C). A tensor is uint8 in steps of its node's `scale`, or float32 where that is None:

    real = uint8 * scale

Weights are int8 with a scale per output, symmetric; activations have a zero point of 0, as all come out of a ReLU. An
integer convolution multiplies uint8 by int8, sums in int32, and puts out

    uint8 = clamp(round_half_even(float32(sum + bias) * multiplier), 0, 255)

that is, its ReLU is the clamp. The scheme is that of Jacob et al. (arXiv 1712.05877), but with the multiplier in
float32, as ONNX Runtime's and oneDNN's kernels have it.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import cast

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
            if (found := self[name].scale) != (expected := self[group].scale):
                raise ValueError(f"{name} and {group} must have the same steps, not {found} and {expected}")

    def __getitem__(self, name: str) -> Node:
        return self._named[name]

    @cached_property
    def _named(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes}

    @property
    def pixels(self) -> ops.Pixels:
        """The image."""
        return cast(ops.Pixels, self.nodes[0])

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
        return [node for node in self.nodes if isinstance(node, ops.Weighted)]

    def fill(self, node: ops.Convolution) -> int:
        """The number that stands for 0 in the padding of a convolution."""
        source = self[node.inputs[0]]
        return source.fill if isinstance(source, ops.Pixels) and node.weights.integer else 0

    def steps(self, source: str, weights: Weights) -> NDArray[np.float32]:
        """Real value of one step of each output's integer sum over the tensor `source`, float32 (O)."""
        scale = self[source].scale
        assert scale is not None
        assert weights.scales is not None
        return np.float32(scale) * weights.scales

    def multiplier(self, node: ops.Convolution) -> NDArray[np.float32]:
        """From a convolution's integer sum to its output, float32 (O), in the order of ONNX Runtime's QLinearConv."""
        steps = self.steps(node.inputs[0], node.weights)
        return steps if node.scale is None else steps / np.float32(node.scale)

    def shapes(self) -> dict[str, Shape]:
        """Height, width and channels of every node's output."""
        found: dict[str, Shape] = {}
        for node in self.nodes:
            found[node.name] = _shape(node, [found[name] for name in node.inputs])
        return found

    def multiply_adds(self) -> dict[str, int]:
        """Multiply-adds of every node with weights, for one image."""
        shapes = self.shapes()
        weights = {node.name: sum(part.values.size for part in node.parts) for node in self.weighted}
        return {name: math.prod(shapes[name][:2]) * count for name, count in weights.items()}


def _shape(node: Node, inputs: list[Shape]) -> Shape:
    if isinstance(node, ops.Pixels):
        return node.size
    height, width, channels = inputs[0]
    match node:
        case ops.Convolution():
            (top, left), (down, right), kernel = node.padding, node.stride, node.weights.values.shape[2:]
            rows, columns = height + 2 * top - kernel[0], width + 2 * left - kernel[1]
            return rows // down + 1, columns // right + 1, len(node.bias)
        case ops.Linear():
            return height, width, len(node.bias)
        case ops.Pool():
            return height // node.kernel[0], width // node.kernel[1], channels
        case ops.Upsample():
            return height * node.factor[0], width * node.factor[1], channels
        case ops.Concatenate():
            return height, width, sum(shape[2] for shape in inputs)
        case ops.Context():
            return 1, node.columns, sum(shape[2] for shape in inputs)
    return height, width, channels


def resized(graph: Graph, height: int, width: int) -> Graph:
    """The graph for images of another size."""
    pixels = replace(graph.pixels, size=(height, width, graph.pixels.size[2]))
    return replace(graph, nodes=tuple(pixels if node is graph.pixels else node for node in graph.nodes))


def tied(nodes: Iterable[Node]) -> dict[str, str]:
    """For each tensor that must have the steps of others: the first one of its group. A tensor alone is its own."""
    first: dict[str, str] = {}
    for node in nodes:
        first[node.name] = node.name
        if isinstance(node, ops.Tied):
            group = {first[name] for name in (node.name, *node.inputs)}
            head = next(name for name in first if name in group)
            first.update({name: head for name, other in first.items() if other in group})
    return first


def dequantized(graph: Graph) -> Graph:
    """The float32 graph of the same weights, as real numbers.

    Its activations are neither rounded nor clamped at the top of uint8; where an integer convolution pads an image with
    `Pixels.fill`, it pads with `Pixels.middle`.
    """

    def real(node: Node) -> Node:
        if isinstance(node, ops.Pixels):
            return node
        if isinstance(node, ops.Convolution) and node.weights.integer:
            source = graph[node.inputs[0]]
            middle = source.middle if isinstance(source, ops.Pixels) else 0
            sums = node.bias + middle * node.weights.values.sum((1, 2, 3), dtype=np.int64)
            node = replace(node, bias=np.asarray(sums * graph.steps(source.name, node.weights), np.float32))
        if isinstance(node, ops.Weighted):
            node = replace(node, parts=tuple(Weights(part.real) for part in node.parts))
        return replace(node, scale=None)

    return replace(graph, nodes=tuple(map(real, graph.nodes)))


def part_names(node: Node) -> list[str]:
    """What the weights of each input are called, such as "block1.0", or "classify.wide" for one input of several."""
    return [f"{node.name}.{source}" for source in node.inputs] if isinstance(node, ops.Linear) else [node.name]


def arrays(graph: Graph) -> dict[str, Array]:
    """Every array by name, such as "block1.0.weights"."""
    found: dict[str, Array] = {}
    for node in graph.weighted:
        for name, part in zip(part_names(node), node.parts, strict=True):
            found[f"{name}.weights"] = part.values
            if part.scales is not None:
                found[f"{name}.weight_scales"] = part.scales
        found[f"{node.name}.bias"] = node.bias
    return found


def structure(graph: Graph) -> str:
    """All of the graph that is no array, as JSON."""
    nodes = [
        {"type": type(node).__name__}
        | {field.name: getattr(node, field.name) for field in fields(node) if field.name not in ("parts", "bias")}
        for node in graph.nodes
    ]
    return json.dumps({"nodes": nodes, "squeeze": graph.squeeze})


def assemble(structure: str, arrays: Mapping[str, Array]) -> Graph:
    """The graph that `structure` and `arrays` were taken from."""
    saved, nodes = json.loads(structure), []
    for entry in saved["nodes"]:
        kind = ops.KINDS[entry.pop("type")]
        values = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
        if issubclass(kind, ops.Weighted):
            node = kind(**values, parts=(), bias=arrays[f"{values['name']}.bias"])
            parts = (Weights(arrays[f"{n}.weights"], arrays.get(f"{n}.weight_scales")) for n in part_names(node))
            nodes.append(replace(node, parts=tuple(parts)))
        else:
            nodes.append(kind(**values))
    return Graph(tuple(nodes), tuple(saved["squeeze"]))
