"""A graph in torch that simulates integers in float, for training.

Every integer is held as a float32 of the same value, so that sums are exact below 2^24 and a result differs from that
of `reference.py` only above. Rounding passes gradients straight through (Bengio et al., arXiv 1308.3432); the scales
are learned with the weights, as logarithms (Jain et al., arXiv 1903.08066).
"""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from model_builder.graph import description, ops
from model_builder.graph.description import Graph
from model_builder.graph.ops import Array, Node, Weights
from model_builder.networks.blocks import global_context

_Scales = dict[str, Tensor | None]  # by the name of a node; None where its output is real


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
        scales, found = self._scales(), {self.graph.pixels.name: images.permute(0, 3, 1, 2).float()}
        for node in self.graph.nodes[1:]:
            found[node.name] = self._computed(node, [found[name] for name in node.inputs], scales)
        return found, self.laid_out(found[self.graph.output.name])

    def laid_out(self, x: Tensor) -> Tensor:
        """(N, C, H, W) with channels last, without the axes that the network's output does not have."""
        for axis in reversed(self.graph.squeeze):
            x = x.squeeze(axis + 1)  # channels stand in front here
        return x.float().movedim(1, -1)

    @torch.no_grad()
    def describe(self) -> Graph:
        """The graph that this simulates, with integers."""
        scales = self._scales()

        def described(node: Node) -> Node:
            if isinstance(node, ops.Pixels):
                return node
            if isinstance(node, ops.Weighted):
                node = self._described(node, scales)
            scale = scales[node.name]
            return replace(node, scale=None if scale is None else float(scale))

        return replace(self.graph, nodes=tuple(map(described, self.graph.nodes)))

    def _units(self) -> dict[str, Unit]:
        return dict(zip(self.names, self.units, strict=True))  # type: ignore[arg-type]

    def _scales(self) -> dict[str, Tensor | None]:
        """The scale of every node's output: of the pixels, and of what an integer node makes or takes."""
        integers = [node for node in self.graph.weighted if node.name not in self.floats]
        near = {self._tied[name] for node in integers for name in (node.name, *node.inputs)}
        scales = {group: self.steps[number].exp() for group, number in self._groups.items() if group in near}
        pixels = self.graph.pixels
        scales[pixels.name] = torch.tensor(1 / pixels.spread)
        return {name: scales.get(group) for name, group in self._tied.items()}

    def _computed(self, node: Node, taken: list[Tensor], scales: _Scales) -> Tensor:
        scale = scales[node.name]
        match node:
            case ops.Convolution():
                return self._convolution(node, taken[0], scales)
            case ops.Linear():
                return self._products(node, taken, scales)
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
                reals = [_real(x, scales[name]) for name, x in zip(node.inputs, taken, strict=True)]
                pairs = zip(reals, node.channels, strict=True)
                return torch.cat([global_context(x, node.columns, channels) for x, channels in pairs], 1)
        raise TypeError(node)

    def _convolution(self, node: ops.Convolution, x: Tensor, scales: _Scales) -> Tensor:
        """`x`, in steps of its scale or real, to the output, in steps of its own or real."""
        source, unit, out = self.graph[node.inputs[0]], self._units()[node.name], scales[node.name]
        if node.name in self.floats:
            real = _normalized(x, source) if isinstance(source, ops.Pixels) else _real(x, scales[source.name])
            y = functional.conv2d(real, unit.weights[0], unit.bias, node.stride, node.padding).float()
            y = y if out is None else y / out
        else:
            weight, bias, steps = self._integers(node, unit, scales)
            shifted = x - source.fill if isinstance(source, ops.Pixels) else x
            y = functional.conv2d(shifted, weight, None, node.stride, node.padding).float() + bias[:, None, None]
            y = y * (steps if out is None else steps / out)[:, None, None]
        if out is not None:
            return _round(y).clamp(0, ops.TOP)
        return functional.relu(y) if node.relu else y

    def _integers(self, node: ops.Convolution, unit: Unit, scales: _Scales) -> tuple[Tensor, Tensor, Tensor]:
        """Weights and bias as integers, and the real value of a step of their sum (O). Pixels come less their fill."""
        source = self.graph[node.inputs[0]]
        scale, weight = scales[source.name], self._whole(unit.weights[0], unit.scales[0])
        assert scale is not None
        steps = scale * unit.scales[0].exp()
        bias = unit.bias / steps
        if isinstance(source, ops.Pixels):  # its bias makes up for the fill, which is not quite the middle
            bias = bias + (source.fill - source.middle) * weight.sum((1, 2, 3))
        return weight, _round(bias), steps

    def _whole(self, weight: Tensor, log_scale: Tensor) -> Tensor:
        """The weights as integers."""
        scale = log_scale.exp().reshape(-1, *[1] * (weight.ndim - 1))
        return _round(weight / scale).clamp(-self.limit, self.limit)

    def _products(self, node: ops.Linear, taken: list[Tensor], scales: _Scales) -> Tensor:
        """The real products (N, O, H, W) of all inputs and the bias, added up."""
        unit = self._units()[node.name]
        total = unit.bias[:, None, None]
        for name, x, weight, log_scale in zip(node.inputs, taken, unit.weights, unit.scales, strict=True):
            scale = scales[name]
            if node.name in self.floats or scale is None:
                total = total + functional.conv2d(_real(x, scale), weight[:, :, None, None]).float()
            else:
                sums = functional.conv2d(x, self._whole(weight, log_scale)[:, :, None, None])
                total = total + sums * (scale * log_scale.exp())[:, None, None]
        return total

    def _described(self, node: ops.Weighted, scales: _Scales) -> Node:
        """The node with the weights and the bias that it has now."""
        unit, parts = self._units()[node.name], []
        for name, weight, log_scale in zip(node.inputs, unit.weights, unit.scales, strict=True):
            if node.name in self.floats or scales[name] is None:
                parts.append(Weights(_array(weight)))
            else:
                parts.append(Weights(_array(self._whole(weight, log_scale), "int8"), _array(log_scale.exp())))
        made = replace(node, parts=tuple(parts), bias=_array(unit.bias))
        if isinstance(made, ops.Convolution) and made.weights.integer:
            weight, bias, _ = self._integers(made, unit, scales)
            made = replace(made, bias=_array(bias - self.graph.fill(made) * weight.sum((1, 2, 3)), "int32"))
        return made


def plain(graph: Graph) -> FakeQuantized:
    """A float graph as a torch module, without integers."""
    module = FakeQuantized(graph)
    module.floats = frozenset(module.names)
    return module.eval()


def _normalized(x: Tensor, pixels: ops.Pixels) -> Tensor:
    return (x - pixels.middle) / pixels.spread


def _real(x: Tensor, scale: Tensor | None) -> Tensor:
    return x if scale is None else x * scale


def _round(x: Tensor) -> Tensor:
    """Nearest integer, ties to even; its gradient is that of x."""
    return x + (x.round() - x).detach()


def _array(tensor: Tensor, dtype: str = "float32") -> Array:
    found: Array = tensor.detach().cpu().numpy().astype(dtype)
    return found
