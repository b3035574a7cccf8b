"""From a torch module to a `Graph`: the forward pass is recorded by torch.fx, batch normalization is folded.

Understood are the modules and functions in `_Tracing.node`. The output is a convolution or linear layer without a ReLU,
behind one of `blocks.Sequence`, `Maps` and `Vector`.
"""

import operator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from model_builder.graph import ops
from model_builder.graph.description import Graph
from model_builder.graph.ops import Node, Pair, Shape, Weights
from model_builder.networks import blocks
from model_builder.networks.blocks import ConvUnit

LEAVES = (blocks.Normalize, blocks.GlobalContext, blocks.Sequence, blocks.Maps, blocks.Vector)
SQUEEZED = {blocks.Sequence: (1,), blocks.Maps: (), blocks.Vector: (1, 2)}


def trace(network: nn.Module, size: Shape) -> Graph:
    """The float32 graph of a network in evaluation mode, for images of `size`; every layer is in float32.

    Raises ValueError for an operation that a graph does not have.
    """
    training = network.training
    try:
        recorded = _Tracer().trace(network.eval())
    finally:
        network.train(training)
    tracing = _Tracing(network, size)
    for node in recorded.nodes:
        tracing.node(node)
    return tracing.graph()


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, LEAVES) or super().is_leaf_module(m, module_qualified_name)


class _Tracing:
    """Nodes as they are found. `_named` is the node that a torch.fx node's value is the output of."""

    def __init__(self, network: nn.Module, size: Shape) -> None:
        self._modules, self._size = dict(network.named_modules()), size
        self._nodes: dict[str, Node] = {}
        self._named: dict[fx.Node, str] = {}
        self._flat: dict[str, Shape] = {}  # tensors behind a `flatten`, by what they were
        self._squeeze: tuple[int, ...] = ()

    def graph(self) -> Graph:
        """What was found, as it is computed: behind the output's inputs alone."""
        graph = _contexts_joined(_concatenations_dissolved(Graph(tuple(self._nodes.values()), self._squeeze)))
        for convolution in graph.convolutions:
            if not convolution.relu and convolution is not graph.output:
                raise ValueError(f"{convolution.name} has no ReLU: only the output may be without")
        return graph

    def node(self, node: fx.Node) -> None:
        """Add what a recorded operation computes."""
        if node.op in ("placeholder", "output", "get_attr"):
            return
        module = self._modules[str(node.target)] if node.op == "call_module" else None
        inputs = [self._named[argument] for argument in node.all_input_nodes if argument in self._named]
        match module if module is not None else node.target:
            case blocks.Normalize():
                found = self._add(_pixels(self._size))
            case nn.Conv2d() as convolution:
                found = self._convolution(_name(self._modules, str(node.target)), convolution, inputs[0])
            case nn.Linear() as linear:
                found = self._linear(str(node.target), linear, inputs[0])
            case nn.BatchNorm2d() as normalization:
                found = self._folded(inputs[0], normalization)
            case nn.ReLU() | functional.relu | torch.relu:
                found = self._relu(inputs[0])
            case nn.Dropout() | functional.dropout:
                found = inputs[0]
            case nn.MaxPool2d() | functional.max_pool2d:
                found = self._add(ops.MaxPool(name=node.name, inputs=(inputs[0],), kernel=_window(node, module)))
            case nn.AvgPool2d() | functional.avg_pool2d:
                found = self._add(ops.AveragePool(name=node.name, inputs=(inputs[0],), kernel=_window(node, module)))
            case nn.Upsample() | functional.interpolate:
                found = self._add(ops.Upsample(name=node.name, inputs=(inputs[0],), factor=_factor(node, module)))
            case operator.add | torch.add | operator.iadd:
                if len(inputs) != 2:
                    raise ValueError(f"{node.name}: only two tensors can be added")
                found = self._add(ops.Add(name=node.name, inputs=tuple(inputs)))
            case torch.cat:
                found = self._add(ops.Concatenate(name=node.name, inputs=tuple(inputs)))
            case blocks.GlobalContext() as context:
                found = self._context(str(node.target), context, *inputs)
            case torch.flatten | "flatten" | nn.Flatten():
                found = inputs[0]
                self._flat[found] = self._shapes()[found]
            case blocks.Sequence() | blocks.Maps() | blocks.Vector() as layout:
                found, self._squeeze = inputs[0], SQUEEZED[type(layout)]
            case other:
                raise ValueError(f"{node.name}: a graph has no {type(other).__name__ if module else other}")
        self._named[node] = found

    def _add(self, node: Node) -> str:
        self._nodes[node.name] = node
        return node.name

    def _shapes(self) -> dict[str, Shape]:
        return Graph(tuple(self._nodes.values())).shapes()

    def _convolution(self, name: str, source: nn.Conv2d, taken: str) -> str:
        if source.groups != 1 or source.dilation != (1, 1) or source.padding_mode != "zeros":
            raise ValueError(f"{name}: convolutions in groups, dilated or with other padding than 0 are not described")
        bias = torch.zeros(source.out_channels) if source.bias is None else source.bias
        return self._add(
            ops.Convolution(
                name=name,
                inputs=(taken,),
                weights=_weights(source.weight),
                bias=_array(bias),
                stride=_pair(source.stride),
                padding=_pair(source.padding),
                relu=False,
            )
        )

    def _linear(self, name: str, source: nn.Linear, taken: str) -> str:
        """A convolution whose kernel is as large as what it takes."""
        height, width, channels = self._flat.get(taken) or self._shapes()[taken]
        weight = source.weight.reshape(len(source.weight), channels, height, width)
        bias = torch.zeros(len(weight)) if source.bias is None else source.bias
        made = ops.Convolution(
            name=name,
            inputs=(taken,),
            weights=_weights(weight),
            bias=_array(bias),
            stride=(1, 1),
            padding=(0, 0),
            relu=False,
        )
        return self._add(made)

    def _folded(self, name: str, normalization: nn.BatchNorm2d) -> str:
        node, source = self._nodes[name], self._modules.get(f"{name}.0", self._modules.get(name))
        if not isinstance(node, ops.Convolution) or not isinstance(source, nn.Conv2d) or source.bias is not None:
            raise ValueError(f"{name}: batch normalization must follow a convolution without a bias")
        weight, bias = blocks.fold(source, normalization)
        return self._add(replace(node, weights=_weights(weight), bias=_array(bias)))

    def _relu(self, name: str) -> str:
        """Into the convolution that it follows. What else there is puts out nothing below 0."""
        node = self._nodes[name]
        return self._add(replace(node, relu=True)) if isinstance(node, ops.Convolution) else name

    def _context(self, name: str, source: blocks.GlobalContext, taken: str, like: str) -> str:
        columns = self._shapes()[like][1]
        channels = (source.channels,)
        return self._add(
            ops.Context(name=name, inputs=(taken,), columns=columns, channels=channels, epsilon=blocks.EPSILON)
        )


def _pixels(size: Shape) -> ops.Pixels:
    return ops.Pixels(name="pixels", scale=1 / blocks.SPREAD, size=size, middle=blocks.MIDDLE, spread=blocks.SPREAD)


def _name(modules: dict[str, nn.Module], path: str) -> str:
    """What a convolution is called: as the unit that it is in, if it is in one."""
    parent = path.rpartition(".")[0]
    return parent if isinstance(modules[parent], ConvUnit) else path


def _argument(node: fx.Node, module: nn.Module | None, name: str, position: int) -> Any:
    """An argument of a function or of the module that does the same; None where it is not given."""
    if module is not None:
        return getattr(module, name, None)
    return node.kwargs.get(name, node.args[position] if len(node.args) > position else None)


def _window(node: fx.Node, module: nn.Module | None) -> Pair:
    kernel = _pair(_argument(node, module, "kernel_size", 1))
    stride = _argument(node, module, "stride", 2)
    if (stride is not None and _pair(stride) != kernel) or _argument(node, module, "padding", 3) not in (None, 0):
        raise ValueError(f"{node.name}: only windows that do not overlap, without padding, are described")
    return kernel


def _factor(node: fx.Node, module: nn.Module | None) -> Pair:
    factor, mode = _argument(node, module, "scale_factor", 2), _argument(node, module, "mode", 3)
    if factor is None or mode not in (None, "nearest"):
        raise ValueError(f"{node.name}: only upsampling to the nearest pixel by a whole factor is described")
    rows, columns = factor if isinstance(factor, tuple) else (factor, factor)
    if rows != int(rows) or columns != int(columns):
        raise ValueError(f"{node.name}: {factor} is no whole factor")
    return int(rows), int(columns)


def _concatenations_dissolved(graph: Graph) -> Graph:
    """The output, a 1x1 convolution without a ReLU, as a linear map of each tensor that is concatenated before it.

    These then need no common scale.
    """
    output = graph.output
    if not isinstance(output, ops.Convolution) or output.relu or output.weights.values.shape[2:] != (1, 1):
        return graph
    before = graph[output.inputs[0]]
    inputs, nodes = output.inputs, [*graph.nodes[:-1]]
    if isinstance(before, ops.Concatenate) and graph.consumers(before.name) == [output]:
        inputs = before.inputs
        nodes.remove(before)
    counts = [graph.shapes()[name][2] for name in inputs]
    parts = np.split(output.weights.values[:, :, 0, 0], np.cumsum(counts)[:-1], axis=1)
    ones = np.ones(len(output.bias), np.float32)
    linear = ops.Linear(
        name=output.name, inputs=inputs, parts=tuple(Weights(part.copy(), ones) for part in parts), bias=output.bias
    )
    return replace(graph, nodes=(*nodes, linear))


def _contexts_joined(graph: Graph) -> Graph:
    """All contexts that the output takes as one node, which is less work than several."""
    output = graph.output
    if not isinstance(output, ops.Linear):
        return graph
    contexts = [node for name in output.inputs if isinstance(node := graph[name], ops.Context)]
    if len(contexts) < 2 or any(graph.consumers(context.name) != [output] for context in contexts):
        return graph
    first = contexts[0]
    joined = replace(
        first,
        name="contexts",
        inputs=tuple(name for context in contexts for name in context.inputs),
        channels=tuple(count for context in contexts for count in context.channels),
    )
    places = [output.inputs.index(context.name) for context in contexts]
    if places != list(range(places[0], places[0] + len(places))):
        return graph
    values = np.concatenate([output.parts[place].values for place in places], axis=1)
    end = places[-1] + 1
    linear = replace(
        output,
        inputs=(*output.inputs[: places[0]], joined.name, *output.inputs[end:]),
        parts=(*output.parts[: places[0]], replace(output.parts[places[0]], values=values), *output.parts[end:]),
    )
    rest = [node for node in graph.nodes[:-1] if node not in contexts]
    return replace(graph, nodes=(*rest, joined, linear))


def _pair(value: Any) -> Pair:
    return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _weights(weight: Tensor) -> Weights:
    return Weights(_array(weight), np.ones(len(weight), np.float32))


def _array(tensor: Tensor) -> Any:
    return tensor.detach().cpu().numpy().astype(np.float32)
