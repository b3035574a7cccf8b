"""A graph in torch that computes in float what the integer graph computes in integers, to be trained.

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
from model_builder.graph.ops import Array, Node, Weights
from model_builder.networks.blocks import global_context


class Unit(nn.Module):
    """What is learned of a node with weights; `scales` (O) of each part are natural logarithms."""

    def __init__(self, node: ops.Weighted) -> None:
        super().__init__()
        self.name = node.name
        parts = (node.weights,) if isinstance(node, ops.Convolution) else node.parts
        self.weights = nn.ParameterList(torch.tensor(part.values) for part in parts)
        self.scales = nn.ParameterList(torch.zeros(len(node.bias)) for _ in parts)
        self.bias = nn.Parameter(torch.tensor(node.bias))


class FakeQuantized(nn.Module):
    """The float `graph` with integers simulated: uint8 images (N, H, W, C) to the network's output, float32.

    `floats` names the nodes whose weights and sums stay in float; weights have `bits` bits, symmetric.
    """

    def __init__(self, graph: Graph, *, floats: Iterable[str] = (), bits: int = 8) -> None:
        super().__init__()
        self.graph, self.limit = graph, 2 ** (bits - 1) - 1
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
    def names(self) -> list[str]:
        """Every node that can be an integer one, in order."""
        return [node.name for node in self.graph.weighted]

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
        units, quantized = self._units(), self._quantized()
        found: dict[str, Tensor] = {}
        scales: dict[str, Tensor | None] = {}
        for node in self.graph.nodes:
            group = self._tied[node.name]
            scales[node.name] = self.steps[self._groups[group]].exp() if group in quantized else None
            taken = [found[name] for name in node.inputs]
            found[node.name] = self._computed(node, units.get(node.name), taken, images, scales)
        return found, self.laid_out(found[self.graph.output.name])

    def laid_out(self, x: Tensor) -> Tensor:
        """(N, C, H, W) with channels last, without the axes that the network's output does not have."""
        for axis in reversed(self.graph.squeeze):
            x = x.squeeze(axis + 1)  # channels stand in front here
        return x.float().movedim(1, -1)

    def _computed(
        self, node: Node, unit: Unit | None, taken: list[Tensor], images: Tensor, scales: dict[str, Tensor | None]
    ) -> Tensor:
        scale = scales[node.name]
        match node:
            case ops.Pixels():
                return images.permute(0, 3, 1, 2).float()
            case ops.Convolution():
                assert unit is not None
                return self._convolution(node, unit, taken[0], scales)
            case ops.Linear():
                assert unit is not None
                return self._linear(node, unit, taken, scales)
            case ops.MaxPool():
                return functional.max_pool2d(taken[0], node.kernel)
            case ops.AveragePool():
                count = node.kernel[0] * node.kernel[1]
                mean = functional.avg_pool2d(taken[0], node.kernel, divisor_override=1) * (1 / count)
                return mean if scale is None else _round(mean)
            case ops.Upsample():
                return functional.interpolate(taken[0], scale_factor=node.factor, mode="nearest")
            case ops.Add():
                total = taken[0] + taken[1]
                return total if scale is None else total.clamp(max=ops.TOP)
            case ops.Concatenate():
                return torch.cat(taken, 1)
            case ops.Context():
                pairs = zip(taken, node.inputs, node.channels, strict=True)
                parts = [global_context(_real(x, scales[name]), node.columns, count) for x, name, count in pairs]
                return torch.cat(parts, 1)
        raise TypeError(node)

    def describe(self) -> Graph:
        """The graph that this simulates, with integers."""
        quantized, units = self._quantized(), self._units()
        steps = {group: float(self.steps[self._groups[group]].detach().exp()) for group in quantized}
        nodes: dict[str, Node] = {}
        for node in self.graph.nodes:
            if isinstance(node, ops.Pixels):
                continue
            scale = steps.get(self._tied[node.name])
            if isinstance(node, ops.Convolution):
                made = self._described(node, units[node.name], steps)
                nodes[node.name] = replace(made, scale=scale)
            elif isinstance(node, ops.Linear):
                nodes[node.name] = self._described_linear(node, units[node.name])
            else:
                nodes[node.name] = replace(node, scale=scale)
        return self.graph.replaced(nodes)

    def _units(self) -> dict[str, Unit]:
        return {unit.name: unit for unit in self.units if isinstance(unit, Unit)}

    def _quantized(self) -> set[str]:
        """The groups of tensors that are uint8: those that an integer node makes or takes."""
        integers = [node for node in self.graph.weighted if node.name not in self.floats]
        near = {name for node in integers for name in (node.name, *node.inputs)}
        return {self._tied[name] for name in near} & set(self._groups)

    def _convolution(self, node: ops.Convolution, unit: Unit, x: Tensor, scales: dict[str, Tensor | None]) -> Tensor:
        """`x`, in steps of its scale or real, to the output, in steps of its own or real."""
        source, out = self.graph[node.inputs[0]], scales[node.name]
        if node.name in self.floats:
            real = _normalized(x, source) if isinstance(source, ops.Pixels) else _real(x, scales[source.name])
            y = _convolve(node, real, unit.weights[0], unit.bias)
            y = y if out is None else y / out
        else:
            scale = _scale(source, scales)
            weight, bias, steps = self._integers(node, unit, scale)
            shifted = x - source.fill if isinstance(source, ops.Pixels) else x
            y = _convolve(node, shifted, weight) + bias[:, None, None]
            y = y * (steps if out is None else steps / out)[:, None, None]
        if out is not None:
            return _round(y).clamp(0, ops.TOP)
        return functional.relu(y) if node.relu else y

    def _integers(self, node: ops.Convolution, unit: Unit, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weights and bias as integers, and the real value of a step of their sum (O). Pixels come less their fill."""
        weight_scale = unit.scales[0].exp()
        weight = self._whole(unit.weights[0], weight_scale)
        steps = scale * weight_scale
        bias = unit.bias / steps
        source = self.graph[node.inputs[0]]
        if isinstance(source, ops.Pixels):  # its bias makes up for the fill, which is not quite the middle
            bias = bias + (source.fill - source.middle) * weight.sum((1, 2, 3))
        return weight, _round(bias), steps

    def _whole(self, weight: Tensor, scale: Tensor) -> Tensor:
        divisor = scale.reshape(-1, *[1] * (weight.ndim - 1))
        return _round(weight / divisor).clamp(-self.limit, self.limit)

    def _linear(self, node: ops.Linear, unit: Unit, taken: list[Tensor], scales: dict[str, Tensor | None]) -> Tensor:
        """(N, O, H, W): the parts in float together, as they are one product, and those in integers."""
        total: Any = 0
        reals, weights = [], []
        for name, x, weight, log in zip(node.inputs, taken, unit.weights, unit.scales, strict=True):
            scale = scales[name]
            if node.name in self.floats or scale is None:
                reals.append(_real(x, scale))
                weights.append(weight)
            else:
                weight_scale = log.exp()
                sums = functional.conv2d(x, self._whole(weight, weight_scale)[:, :, None, None])
                total = total + sums * (scale * weight_scale)[:, None, None]
        if not reals:
            return total + unit.bias[:, None, None]  # type: ignore[no-any-return]
        joined: Tensor = functional.conv2d(torch.cat(reals, 1), torch.cat(weights, 1)[:, :, None, None], unit.bias)
        return joined + total if len(reals) < len(taken) else joined

    @torch.no_grad()
    def _described(self, node: ops.Convolution, unit: Unit, steps: dict[str, float]) -> ops.Convolution:
        if node.name in self.floats:
            return replace(node, weights=_weights(unit.weights[0]), bias=_array(unit.bias))
        source = self.graph[node.inputs[0]]
        scale = 1 / source.spread if isinstance(source, ops.Pixels) else steps[self._tied[source.name]]
        weights, bias, _ = self._integers(node, unit, torch.tensor(scale))
        if isinstance(source, ops.Pixels):
            bias = bias - source.fill * weights.sum((1, 2, 3))
        return replace(node, weights=_weights(weights, unit.scales[0]), bias=_array(bias, "int32"))

    @torch.no_grad()
    def _described_linear(self, node: ops.Linear, unit: Unit) -> ops.Linear:
        parts, quantized = [], self._quantized()
        for name, weight, log in zip(node.inputs, unit.weights, unit.scales, strict=True):
            if node.name in self.floats or self._tied[name] not in quantized:
                parts.append(_weights(weight))
            else:
                parts.append(_weights(self._whole(weight, log.exp()), log))
        return replace(node, parts=tuple(parts), bias=_array(unit.bias))


def plain(graph: Graph) -> FakeQuantized:
    """A float graph as a torch module, without integers."""
    module = FakeQuantized(graph)
    module.floats = frozenset(module.names)
    return module.eval()


def _scale(source: Node, scales: dict[str, Tensor | None]) -> Tensor:
    scale = torch.tensor(1 / source.spread) if isinstance(source, ops.Pixels) else scales[source.name]
    assert scale is not None
    return scale


def _convolve(node: ops.Convolution, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return functional.conv2d(x, weight, bias, node.stride, node.padding).float()


def _normalized(x: Tensor, pixels: ops.Pixels) -> Tensor:
    return (x - pixels.middle) / pixels.spread


def _real(x: Tensor, scale: Tensor | None) -> Tensor:
    return x if scale is None else x * scale


def _round(x: Tensor) -> Tensor:
    """Nearest integer, ties to even; its gradient is that of x."""
    return x + (x.round() - x).detach()


def _weights(weight: Tensor, log_scales: Tensor | None = None) -> Weights:
    """In integers where their scales are given."""
    if log_scales is None:
        return Weights(_array(weight), np.ones(len(weight), np.float32))
    return Weights(_array(weight, "int8"), _array(log_scales.exp()))


def _array(tensor: Tensor, dtype: str = "float32") -> Array:
    found: Array = tensor.detach().cpu().numpy().astype(dtype)
    return found
