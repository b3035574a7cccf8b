"""LPRNet with batch normalization folded, computing in float what the integer network computes in integers.

Every integer is held as a float32 of the same value, so that sums are exact below 2^24 and a result differs from
`integer.py`'s only above. Rounding passes gradients straight through (Bengio et al., arXiv 1308.3432); the scales are
learned with the weights, as logarithms (Jain et al., arXiv 1903.08066).
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from model_builder import integer
from model_builder.integer import FILL, MIDDLE, SPREAD, TOP, Classifier, Layer, Linear, Network, Pair
from model_builder.model import Block, ConvUnit, LPRNet, global_context

CLASSIFY = "classify"


class Unit(nn.Module):
    """A folded convolution with its ReLU. `weight_scale` (O) and `output_scale` () are natural logarithms."""

    def __init__(self, name: str, source: ConvUnit, pool: Pair = (1, 1), context: int = 0) -> None:
        super().__init__()
        convolution, norm, _ = source
        assert isinstance(convolution, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        gain = norm.weight / (norm.running_var + norm.eps).sqrt()
        self.name, self.pool, self.context = name, pool, context
        self.stride, self.padding = _pair(convolution.stride), _pair(convolution.padding)
        self.weight = nn.Parameter((convolution.weight * gain[:, None, None, None]).detach())
        self.bias = nn.Parameter((norm.bias - norm.running_mean * gain).detach())
        self.weight_scale = nn.Parameter(torch.zeros(len(gain)))
        self.output_scale = nn.Parameter(torch.zeros(()))


class Simulation(nn.Module):
    """uint8 BGR crops (N, 24, 94, 3) -> logits (N, T, classes), float32, as LPRNet.

    `floats` names the layers that stay in float ("classify" is the classifier); weights have `bits` bits, symmetric.
    """

    def __init__(self, network: LPRNet, *, floats: Iterable[str] = (), bits: int = 8) -> None:
        super().__init__()
        if network.transformer is not None:
            raise ValueError("a network with a spatial transformer can't be quantized: train one without it")
        self.limit = 2 ** (bits - 1) - 1
        self.units = nn.ModuleList(_units(network))
        self.classify_weight = nn.Parameter(network.classify.weight.detach()[:, :, 0, 0].clone())
        assert network.classify.bias is not None
        self.classify_bias = nn.Parameter(network.classify.bias.detach().clone())
        self.classify_scales = nn.Parameter(torch.zeros(2, len(self.classify_bias)))
        self.floats = frozenset(floats)
        self.fit_weight_scales()

    @property
    def floats(self) -> frozenset[str]:
        """Names of the layers that stay in float."""
        return self._floats

    @floats.setter
    def floats(self, names: frozenset[str]) -> None:
        if unknown := names - set(self.names):
            raise ValueError(f"there is no layer {', '.join(sorted(unknown))}; there are {', '.join(self.names)}")
        self._floats = names

    @property
    def names(self) -> list[str]:
        """Every layer that can be an integer one, in order."""
        return [*(unit.name for unit in self._units()), CLASSIFY]

    @torch.no_grad()
    def fit_weight_scales(self) -> None:
        """Set the weights' scales so that each output's largest weight is just held.

        A dead channel's are a thousandth of the layer's largest, else its bias would need more than 32 bits.
        """
        for unit in self._units():
            unit.weight_scale.copy_(self._held(unit.weight.abs().amax((1, 2, 3))))
        for scale, part in zip(self.classify_scales, self._parts(), strict=True):
            scale.copy_(self._held(part.abs().amax(1)))

    def _held(self, largest: Tensor) -> Tensor:
        """Logarithm of the scales that hold each output's largest weight."""
        held: Tensor = largest.clamp_min(float(largest.max()) / 1000) / self.limit
        return held.log()

    @torch.no_grad()
    def set_ranges(self, ranges: dict[str, float]) -> None:
        """Set each layer's output scale so that uint8 ends at the given real value."""
        for unit in self._units():
            unit.output_scale.fill_(np.log(ranges[unit.name] / TOP))

    def forward(self, crops: Tensor) -> Tensor:
        return self.outputs(crops)[1]

    def outputs(self, crops: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Every layer's output (N, O, H, W), integers where the integer network has uint8, and the logits."""
        pixels = crops.permute(0, 3, 1, 2).float()
        units = self._units()
        x = (pixels - MIDDLE) / SPREAD if units[0].name in self.floats else pixels - FILL
        scale: Tensor | None = torch.tensor(1 / SPREAD, device=x.device)
        found: dict[str, Tensor] = {}
        scales: dict[str, Tensor | None] = {}
        for unit in units:
            x = functional.max_pool2d(x, unit.pool) if unit.pool != (1, 1) else x
            scale_out = unit.output_scale.exp() if unit.name in self._quantized() else None
            x = self._unit(unit, x, scale, scale_out)
            found[unit.name], scales[unit.name] = x, scale_out
            scale = scale_out
        columns = x.shape[3]
        contexts = [
            global_context(_real(found[unit.name], scales[unit.name]), columns, unit.context)
            for unit in units
            if unit.context
        ]
        column, wide = (unit.name for unit in units[-2:])
        heads = [(found[name], scales[name]) for name in (wide, column)]
        return found, self._classify(heads, torch.cat(contexts, 1))

    def describe(self) -> Network:
        """The network that this simulates, as numbers."""
        layers: list[Layer] = []
        for unit in self._units():
            layers.append(self._layer(unit, layers[-1].output_scale if layers else 1 / SPREAD, first=not layers))
        with torch.no_grad():
            wide, column = (
                self._linear(weight, scale, layer.output_scale)
                for weight, scale, layer in zip(self._parts(), self.classify_scales, layers[:-3:-1], strict=True)
            )
            context = self.classify_weight[:, sum(part.shape[1] for part in self._parts()) :]
        classifier = Classifier(wide, column, _array(context), _array(self.classify_bias))
        return Network(tuple(layers), classifier)

    def _units(self) -> list[Unit]:
        return [unit for unit in self.units if isinstance(unit, Unit)]

    def _parts(self) -> tuple[Tensor, Tensor]:
        """The classifier's weights (classes, channels) for the wide convolution's and for the column's output."""
        column, wide = (len(unit.bias) for unit in self._units()[-2:])
        return self.classify_weight[:, :wide], self.classify_weight[:, wide : wide + column]

    def _quantized(self) -> set[str]:
        """The layers whose outputs are uint8: integer ones, and those that an integer one takes."""
        names = self.names
        near = {name: {name, after} for name, after in pairwise(names)}
        near[names[-3]].add(CLASSIFY)
        return {name for name, layers in near.items() if layers - self.floats}

    def _unit(self, unit: Unit, x: Tensor, scale: Tensor | None, scale_out: Tensor | None) -> Tensor:
        """`x`, in steps of `scale` or real, to the output, in steps of `scale_out` or real."""
        if unit.name in self.floats:
            real = x if unit is self.units[0] else _real(x, scale)
            y = _convolve(unit, real, unit.weight) + unit.bias[:, None, None]
            y = y if scale_out is None else y / scale_out
        else:
            assert scale is not None
            weight, bias, steps = self._integers(unit, scale)
            y = _convolve(unit, x, weight) + bias[:, None, None]
            y = y * (steps if scale_out is None else steps / scale_out)[:, None, None]
        return functional.relu(y) if scale_out is None else _round(y).clamp(0, TOP)

    def _integers(self, unit: Unit, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weights and bias as integers, and the real value of a step of their sum (O). The first layer's input is
        pixels less FILL."""
        weight_scale = unit.weight_scale.exp()
        weight = self._whole(unit.weight, weight_scale[:, None, None, None])
        steps = scale * weight_scale
        bias = unit.bias / steps
        if unit is self.units[0]:  # its bias makes up for FILL, which is not quite MIDDLE
            bias = bias + (FILL - MIDDLE) * weight.sum((1, 2, 3))
        return weight, _round(bias), steps

    def _whole(self, weight: Tensor, scale: Tensor) -> Tensor:
        return _round(weight / scale).clamp(-self.limit, self.limit)

    def _classify(self, heads: list[tuple[Tensor, Tensor | None]], contexts: Tensor) -> Tensor:
        """Logits (N, T, classes) from the outputs of wide and column with their scales, and contexts (N, C, 1, T)."""
        logits: Tensor = self.classify_bias
        for (x, scale), weight, log_scale in zip(heads, self._parts(), self.classify_scales, strict=True):
            x = x.squeeze(2).transpose(1, 2)
            if CLASSIFY in self.floats:
                logits = logits + functional.linear(_real(x, scale), weight)
            else:
                assert scale is not None
                weight_scale = log_scale.exp()
                whole = self._whole(weight, weight_scale[:, None])
                logits = logits + functional.linear(x, whole) * (scale * weight_scale)
        rest = self.classify_weight[:, -contexts.shape[1] :]
        return (logits + functional.linear(contexts.squeeze(2).transpose(1, 2), rest)).float()

    @torch.no_grad()
    def _layer(self, unit: Unit, input_scale: float | None, *, first: bool) -> Layer:
        quantized = unit.name in self._quantized()
        fill = 0
        weights: Tensor = unit.weight
        bias: Tensor = unit.bias
        weight_scales = torch.ones_like(bias)
        if unit.name in self.floats:
            input_scale = None if first else input_scale
        else:
            assert input_scale is not None
            weights, bias, _ = self._integers(unit, torch.tensor(input_scale))
            weight_scales = unit.weight_scale.exp()
            if first:
                fill = FILL
                bias = bias - FILL * weights.sum((1, 2, 3))
        whole = unit.name not in self.floats
        return Layer(
            name=unit.name,
            weights=_array(weights, "int8" if whole else "float32"),
            weight_scales=_array(weight_scales),
            input_scale=input_scale,
            bias=_array(bias, "int32" if whole else "float32"),
            stride=unit.stride,
            padding=unit.padding,
            output_scale=float(unit.output_scale.exp()) if quantized else None,
            pool=unit.pool,
            fill=fill,
            context=unit.context,
        )

    def _linear(self, weight: Tensor, log_scale: Tensor, input_scale: float | None) -> Linear:
        if CLASSIFY in self.floats:
            return Linear(_array(weight), np.ones(len(weight), np.float32), input_scale)
        scale = log_scale.exp()
        return Linear(_array(self._whole(weight, scale[:, None]), "int8"), _array(scale), input_scale)


def fold(network: LPRNet) -> Network:
    """The float network with batch normalization folded, every layer in float32."""
    simulation = Simulation(network)
    simulation.floats = frozenset(simulation.names)
    return simulation.describe()


def dequantized(network: Network) -> LPRNet:
    """A float network of the same weights, as real numbers.

    Its activations are neither rounded nor clamped at the top of uint8; its first layer pads with MIDDLE, not FILL.
    """
    widths: dict[str, Any] = {}
    for layer in network.layers:
        name, _, index = layer.name.partition(".")
        widths[name] = [*widths.get(name, []), len(layer.weights)] if index else len(layer.weights)
    contexts = [layer.context for layer in network.layers if layer.context]
    configuration = {"widths": widths, "context_channels": contexts, "transformer": False}
    made = LPRNet.configured(len(network.classifier.bias), configuration).eval()
    units = [module for module in made.modules() if isinstance(module, ConvUnit)]
    classifier = network.classifier
    heads = np.concatenate([classifier.wide.real, classifier.column.real, classifier.context], axis=1)
    with torch.no_grad():
        for unit, layer in zip(units, network.layers, strict=True):
            convolution, norm = unit[0], unit[1]
            assert isinstance(convolution, nn.Conv2d)
            assert isinstance(norm, nn.BatchNorm2d)
            norm.eps = 0.0  # it only adds the bias
            convolution.weight.copy_(torch.tensor(layer.real))
            norm.bias.copy_(torch.tensor(_real_bias(layer, first=layer is network.layers[0])))
        made.classify.weight.copy_(torch.tensor(heads[:, :, None, None]))
        assert made.classify.bias is not None
        made.classify.bias.copy_(torch.tensor(classifier.bias))
    return made


def _real_bias(layer: Layer, *, first: bool) -> integer.Array:
    """The bias of sums of real inputs; the `first` layer's are normalized, its integers the pixels themselves."""
    if not layer.integer:
        return layer.bias
    steps = layer.bias + (MIDDLE * layer.weights.sum((1, 2, 3), dtype=np.int64) if first else 0)
    return np.asarray(steps * layer.scales)


def _units(network: LPRNet) -> list[Unit]:
    """Every convolution but the classifier, with the pool before it and the context taken from it."""
    stages = zip((network.block1, network.block2, network.block3), ((1, 1), (2, 1), (2, 2)), strict=True)
    stem_context, *contexts = network.context_channels
    units = [Unit("stem", network.stem, context=stem_context)]
    for number, ((block, pool), channels) in enumerate(zip(stages, contexts, strict=True), 1):
        assert isinstance(block, Block)
        for index, source in enumerate(block):
            assert isinstance(source, ConvUnit)
            last = index == len(block) - 1
            units.append(
                Unit(f"block{number}.{index}", source, pool if index == 0 else (1, 1), channels if last else 0)
            )
    return [*units, Unit("column", network.column), Unit("wide", network.wide)]


def _convolve(unit: Unit, x: Tensor, weight: Tensor) -> Tensor:
    return functional.conv2d(x, weight, None, unit.stride, unit.padding).float()


def _real(x: Tensor, scale: Tensor | None) -> Tensor:
    return x if scale is None else x * scale


def _round(x: Tensor) -> Tensor:
    """Nearest integer, ties to even; its gradient is that of x."""
    return x + (x.round() - x).detach()


def _pair(value: object) -> Pair:
    assert isinstance(value, tuple)
    return int(value[0]), int(value[1])


def _array(tensor: Tensor, dtype: str = "float32") -> integer.Array:
    found: integer.Array = tensor.detach().cpu().numpy().astype(dtype)
    return found
