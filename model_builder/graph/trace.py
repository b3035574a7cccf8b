"""From a torch module to a `Graph`: torch.fx records the forward pass, batch normalization and ReLU are folded.

A network may have the operations of `_FUNCTIONS` and `_Tracing._module`. Its output is a 1x1 convolution without a ReLU
that `blocks.Sequence`, `blocks.Maps` or `blocks.Vector` follows.
"""

import operator
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from model_builder.graph import ops
from model_builder.graph.description import Graph
from model_builder.graph.ops import Array, Node, Pair, Shape, Weights
from model_builder.networks import blocks

_LEAVES = (blocks.Normalize, blocks.GlobalContext, blocks.Sequence, blocks.Maps, blocks.Vector)


def trace(network: nn.Module, size: Shape) -> Graph:
    """The float32 graph of a network in evaluation mode, for images of `size`; every layer is in float32.

    Raises ValueError for an operation that a graph does not have.
    """
    tracing = _Tracing(network, size)
    tracing.run(None)
    return _with_linear_output(Graph(tuple(tracing.nodes.values()), tracing.squeeze))


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, _LEAVES) or super().is_leaf_module(m, module_qualified_name)


class _Tracing(fx.Interpreter):
    """Runs a recorded network on names: the value of an operation is the name of the node that computes it."""

    def __init__(self, network: nn.Module, size: Shape) -> None:
        super().__init__(network, graph=_Tracer().trace(network))
        self.extra_traceback = False
        self._size = size
        self.nodes: dict[str, Node] = {}
        self.squeeze: tuple[int, ...] = ()

    def run_node(self, n: fx.Node) -> Any:
        if n.op not in ("call_module", "call_function"):
            return super().run_node(n)
        inputs, options = self.fetch_args_kwargs_from_env(n)
        if n.op == "call_module":
            return self._module(str(n.target), self.fetch_attr(str(n.target)), *inputs)
        if n.target is functional.relu:
            return self._relu(inputs[0])
        if n.target not in _FUNCTIONS:
            raise ValueError(f"{n.name}: a graph has no {n.target}")
        try:
            return self._add(_FUNCTIONS[n.target](n.name, *inputs, **options))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{n.name}: {error}") from error

    def _module(self, path: str, module: nn.Module, *inputs: str) -> str:
        """Add what a module computes; its output's name."""
        match module:
            case blocks.Normalize():
                middle, spread = blocks.MIDDLE, blocks.SPREAD
                pixels = ops.Pixels(name="pixels", scale=1 / spread, size=self._size, middle=middle, spread=spread)
                return self._add(pixels)
            case nn.Conv2d():
                unit = path.rpartition(".")[0]
                within = isinstance(self.fetch_attr(unit) if unit else None, blocks.ConvUnit)
                return self._add(_convolution(unit if within else path, module, inputs[0]))
            case nn.BatchNorm2d():
                return self._add(_folded(self.nodes[inputs[0]], module))
            case nn.ReLU():
                return self._relu(inputs[0])
            case nn.Dropout():
                return inputs[0]
            case blocks.GlobalContext():
                like, *tensors = inputs
                columns = Graph(tuple(self.nodes.values())).shapes()[like][1]
                options: dict[str, Any] = {"columns": columns, "channels": module.channels, "epsilon": blocks.EPSILON}
                return self._add(ops.Context(name=path, inputs=tuple(tensors), **options))
            case blocks.Sequence() | blocks.Maps() | blocks.Vector():
                self.squeeze = module.squeeze
                return inputs[0]
        raise ValueError(f"{path}: a graph has no {type(module).__name__}")

    def _add(self, node: Node) -> str:
        self.nodes[node.name] = node
        return node.name

    def _relu(self, name: str) -> str:
        """Into the convolution that it follows. What else there is puts out nothing below 0."""
        node = self.nodes[name]
        return self._add(replace(node, relu=True)) if isinstance(node, ops.Convolution) else name


def _convolution(name: str, source: nn.Conv2d, taken: str) -> Node:
    if source.groups != 1 or source.dilation != (1, 1) or source.padding_mode != "zeros":
        raise ValueError(f"{name}: convolutions in groups, dilated or with other padding than 0 are not described")
    bias = _array(torch.zeros(source.out_channels) if source.bias is None else source.bias)
    parts, stride, padding = (Weights(_array(source.weight)),), _pair(source.stride), _pair(source.padding)
    return ops.Convolution(name=name, inputs=(taken,), parts=parts, bias=bias, stride=stride, padding=padding)


def _folded(node: Node, norm: nn.BatchNorm2d) -> Node:
    """The convolution with the batch normalization that follows it."""
    if not isinstance(node, ops.Convolution) or node.relu:
        raise ValueError(f"{node.name}: batch normalization must follow a convolution")
    assert norm.running_mean is not None
    assert norm.running_var is not None
    gain = _array(norm.weight / (norm.running_var + norm.eps).sqrt())
    bias = (node.bias - _array(norm.running_mean)) * gain + _array(norm.bias)
    return replace(node, parts=(Weights(node.weights.values * gain[:, None, None, None]),), bias=bias)


def _pool(
    kind: type[ops.Pool], name: str, x: str, kernel_size: Any, stride: Any = None, padding: Any = 0, **options: Any
) -> Node:
    kernel = _pair(kernel_size)
    if any((padding, options.get("ceil_mode"), _pair(stride or kernel) != kernel, options.get("dilation", 1) != 1)):
        raise ValueError("only windows that do not overlap, without padding, are described")
    return kind(name=name, inputs=(x,), kernel=kernel)


def _upsample(name: str, x: str, size: Any = None, scale_factor: Any = None, mode: str = "nearest", **_: Any) -> Node:
    if mode != "nearest" or size is not None or _pair(scale_factor) not in (scale_factor, (scale_factor,) * 2):
        raise ValueError("only upsampling to the nearest pixel by a whole factor is described")
    return ops.Upsample(name=name, inputs=(x,), factor=_pair(scale_factor))


def _concatenate(name: str, tensors: list[str], dim: int = 0) -> Node:
    if dim != 1:
        raise ValueError("only channels, dimension 1, can be concatenated")
    return ops.Concatenate(name=name, inputs=tuple(tensors))


_FUNCTIONS: dict[Any, Callable[..., Node]] = {
    functional.max_pool2d: partial(_pool, ops.MaxPool),
    functional.avg_pool2d: partial(_pool, ops.AveragePool),
    functional.interpolate: _upsample,
    operator.add: lambda name, a, b: ops.Add(name=name, inputs=(a, b)),
    torch.cat: _concatenate,
}


def _with_linear_output(graph: Graph) -> Graph:
    """The output, a 1x1 convolution without a ReLU, as a linear map of each tensor that is concatenated before it.

    These then need no common scale.
    """
    *nodes, output = graph.nodes
    for node in graph.convolutions:
        if node.relu == (node is output) or (node is output and node.weights.values.shape[2:] != (1, 1)):
            raise ValueError(f"{node.name}: only the output is without a ReLU, and it must be a 1x1 convolution")
    assert isinstance(output, ops.Convolution)
    inputs = output.inputs
    if isinstance(nodes[-1], ops.Concatenate) and inputs == (nodes[-1].name,):
        inputs = nodes.pop().inputs
    counts = [graph.shapes()[name][2] for name in inputs]
    parts = np.split(output.weights.values[:, :, 0, 0], np.cumsum(counts)[:-1], axis=1)
    weights = tuple(Weights(part.copy()) for part in parts)
    return replace(graph, nodes=(*nodes, ops.Linear(name=output.name, inputs=inputs, parts=weights, bias=output.bias)))


def _pair(value: Any) -> Pair:
    return (int(value[0]), int(value[1])) if isinstance(value, tuple) else (int(value), int(value))


def _array(tensor: Tensor) -> Array:
    found: Array = tensor.detach().cpu().numpy().astype(np.float32)
    return found
