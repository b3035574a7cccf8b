"""A graph in torch that simulates integers in float, for training.

Every integer is held as a float32 of the same value, so that sums are exact below 2^24 and a result differs from that
of `reference.py` only above. Rounding passes gradients straight through (Bengio et al., arXiv 1308.3432); the scales
are learned with the weights, as logarithms (Jain et al., arXiv 1903.08066).
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from model_builder.graph import description, ops
from model_builder.graph.description import Graph
from model_builder.graph.ops import Array, Weights
from model_builder.networks.blocks import global_context

_Node = Any  # a node with tensors in place of arrays and of its scale


class Unit(nn.Module):
    """What is learned of a node with weights; `scales` (O) of each part are natural logarithms."""

    def __init__(self, node: ops.Weighted) -> None:
        super().__init__()
        self.weights = nn.ParameterList(torch.tensor(part.values) for part in node.parts)
        self.scales = nn.ParameterList(torch.zeros(len(node.bias)) for _ in node.parts)
        self.bias = nn.Parameter(torch.tensor(node.bias))


class FakeQuantized(nn.Module):
    """The float `graph` with integers simulated: uint8 images (N, H, W, C) to the network's output, float32.

    `floats` names the nodes whose weights and sums stay in float; weights have `bits` bits, symmetric.
    """

    def __init__(self, graph: Graph, *, floats: Iterable[str] = (), bits: int = 8) -> None:
        super().__init__()
        self.graph, self.limit = graph, 2 ** (bits - 1) - 1
        self.names = [node.name for node in graph.weighted]  # of all nodes that can be integer ones, in order
        self.units = nn.ModuleList(map(Unit, graph.weighted))
        self._tied = description.tied(graph.nodes)
        groups = dict.fromkeys(self._tied[node.name] for node in graph.convolutions if node.relu)
        self._groups = {name: number for number, name in enumerate(groups)}
        self.steps = nn.ParameterList(torch.zeros(()) for _ in groups)  # logarithms of the scales of outputs
        self.floats = frozenset(floats)
        self.fit_weight_scales()

    @property
    def floats(self) -> frozenset[str]:
        """Names of the nodes that stay in float."""
        return self._floats

    @floats.setter
    def floats(self, names: frozenset[str]) -> None:
        if unknown := names - set(self.names):
            raise ValueError(f"there is no layer {', '.join(sorted(unknown))}; there are {', '.join(self.names)}")
        self._floats = names

    @property
    def ranged(self) -> list[str]:
        """The nodes whose outputs `set_ranges` needs the largest value of; the others' follow."""
        makers = [node for node in self.graph.nodes if isinstance(node, ops.Convolution | ops.Add)]
        return [node.name for node in makers if self._tied[node.name] in self._groups]

    @torch.no_grad()
    def fit_weight_scales(self) -> None:
        """Set the weights' scales so that each output's largest weight is just held.

        A dead channel's are a thousandth of the layer's largest, else its bias would need more than 32 bits.
        """
        for unit in self._units().values():
            for weight, scale in zip(unit.weights, unit.scales, strict=True):
                largest = weight.abs().flatten(1).amax(1)
                scale.copy_((largest.clamp_min(float(largest.max()) / 1000) / self.limit).log())

    @torch.no_grad()
    def set_ranges(self, ranges: dict[str, float]) -> None:
        """Set the scales of outputs so that uint8 ends at the given real values, tied ones at their largest."""
        for group, number in self._groups.items():
            ends = [end for name, end in ranges.items() if self._tied[name] == group]
            self.steps[number].fill_(np.log(max(ends) / ops.TOP))

    def forward(self, images: Tensor) -> Tensor:
        return self.outputs(images)[1]

    def outputs(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Every node's output (N, C, H, W), integers where the integer graph has uint8; and the network's output."""
        nodes = self._learned()
        found = {self.graph.pixels.name: images.permute(0, 3, 1, 2).float()}
        for node in list(nodes.values())[1:]:
            found[node.name] = _computed(node, [nodes[name] for name in node.inputs], [found[n] for n in node.inputs])
        return found, self.laid_out(found[self.graph.output.name])

    def laid_out(self, x: Tensor) -> Tensor:
        """(N, C, H, W) with channels last, without the axes that the network's output does not have."""
        for axis in reversed(self.graph.squeeze):
            x = x.squeeze(axis + 1)  # channels stand in front here
        return x.float().movedim(1, -1)

    @torch.no_grad()
    def describe(self) -> Graph:
        """The graph that this simulates, with integers."""
        return replace(self.graph, nodes=tuple(map(_described, self._learned().values())))

    def _units(self) -> dict[str, Unit]:
        return dict(zip(self.names, self.units, strict=True))  # type: ignore[arg-type]

    def _learned(self) -> dict[str, _Node]:
        """The nodes as they are now, by name."""
        integers = [node for node in self.graph.weighted if node.name not in self.floats]
        near = {self._tied[name] for node in integers for name in (node.name, *node.inputs)}
        scales = {group: self.steps[number].exp() for group, number in self._groups.items() if group in near}
        units = self._units()
        found: dict[str, _Node] = {self.graph.pixels.name: self.graph.pixels}
        for node in self.graph.nodes[1:]:
            if isinstance(node, ops.Weighted):
                node = self._with_weights(node, units[node.name], [found[name] for name in node.inputs])
            found[node.name] = replace(node, scale=scales.get(self._tied[node.name]))
        return found

    def _with_weights(self, node: _Node, unit: Unit, sources: list[_Node]) -> _Node:
        """The node with its weights and bias, as integers unless they stay in float."""
        bias: Tensor = unit.bias
        parts = []
        for part, source, weight, log_scale in zip(node.parts, sources, unit.weights, unit.scales, strict=True):
            if node.name in self.floats or source.scale is None:
                parts.append(replace(part, values=weight))
                continue
            scale = log_scale.exp()
            whole = _round(weight / scale.reshape(-1, *[1] * (weight.ndim - 1))).clamp(-self.limit, self.limit)
            parts.append(replace(part, values=whole, scales=scale))
            if isinstance(node, ops.Convolution):
                bias = _whole_bias(bias, parts[0], source)
        return replace(node, parts=tuple(parts), bias=bias)


def plain(graph: Graph) -> FakeQuantized:
    """A float graph as a torch module, without integers."""
    return FakeQuantized(graph, floats=[node.name for node in graph.weighted]).eval()


def _whole_bias(bias: Tensor, weights: Any, source: _Node) -> Tensor:
    """The bias in steps of the integer sum. For pixels it makes up for their fill, which is not quite the middle."""
    bias = bias / (source.scale * weights.scales)
    if not isinstance(source, ops.Pixels):
        return _round(bias)
    totals: Tensor = weights.values.sum((1, 2, 3))
    return _round(bias + (source.fill - source.middle) * totals) - source.fill * totals


def _described(node: _Node) -> _Node:
    """The node with arrays and numbers in place of tensors."""
    if isinstance(node, ops.Pixels):
        return node
    changes: dict[str, Any] = {"scale": None if node.scale is None else float(node.scale)}
    if isinstance(node, ops.Weighted):
        whole_bias = isinstance(node, ops.Convolution) and node.weights.integer
        changes["bias"] = _array(node.bias, "int32" if whole_bias else "float32")
        changes["parts"] = tuple(
            Weights(_array(part.values, "int8"), _array(part.scales)) if part.integer else Weights(_array(part.values))
            for part in node.parts
        )
    return replace(node, **changes)


def _computed(node: _Node, sources: list[_Node], taken: list[Tensor]) -> Any:
    match node:
        case ops.Convolution():
            return _convolution(node, sources[0], taken[0])
        case ops.Linear():
            return sum(map(_product, node.parts, sources, taken), node.bias[:, None, None])
        case ops.MaxPool():
            return functional.max_pool2d(taken[0], node.kernel)
        case ops.AveragePool():
            count = node.kernel[0] * node.kernel[1]
            mean = functional.avg_pool2d(taken[0], node.kernel, divisor_override=1) * (1 / count)
            return mean if node.scale is None else _round(mean)
        case ops.Upsample():
            return functional.interpolate(taken[0], scale_factor=node.factor, mode="nearest")
        case ops.Add():
            total = taken[0] + taken[1]
            return total if node.scale is None else total.clamp(max=ops.TOP)
        case ops.Concatenate():
            return torch.cat(taken, 1)
        case ops.Context():
            parts = zip(map(_real, taken, sources), node.channels, strict=True)
            return torch.cat([global_context(x, node.columns, channels) for x, channels in parts], 1)
    raise TypeError(node)


def _convolution(node: _Node, source: _Node, x: Tensor) -> Tensor:
    """`x`, in steps of its scale or real, to the output, in steps of its own or real."""
    weights = node.weights
    if weights.integer:
        bias = node.bias
        if isinstance(source, ops.Pixels):  # sums of pixels less the fill, so that a padding of 0 stands for it
            x, bias = x - source.fill, bias + source.fill * weights.values.sum((1, 2, 3))
        sums = functional.conv2d(x, weights.values, None, node.stride, node.padding).float() + bias[:, None, None]
        steps = source.scale * weights.scales
        y = sums * (steps if node.scale is None else steps / node.scale)[:, None, None]
    else:
        y = functional.conv2d(_real(x, source), weights.values, node.bias, node.stride, node.padding).float()
        y = y if node.scale is None else y / node.scale
    if node.scale is not None:
        return _round(y).clamp(0, ops.TOP)
    return functional.relu(y) if node.relu else y


def _product(weights: Any, source: _Node, x: Tensor) -> Any:
    """The real products (N, O, H, W) of one input of a linear map."""
    if weights.integer:
        sums = functional.conv2d(x, weights.values[:, :, None, None])
        return sums * (source.scale * weights.scales)[:, None, None]
    return functional.conv2d(_real(x, source), weights.values[:, :, None, None]).float()


def _real(x: Tensor, source: _Node) -> Any:
    if isinstance(source, ops.Pixels):
        return (x - source.middle) / source.spread
    return x if source.scale is None else x * source.scale


def _round(x: Tensor) -> Tensor:
    """Nearest integer, ties to even; its gradient is that of x."""
    return x + (x.round() - x).detach()


def _array(tensor: Any, dtype: str = "float32") -> Array:
    found: Array = tensor.detach().cpu().numpy().astype(dtype)
    return found
