"""An integer network as TVM's kernels: what `integer.py` describes, its integers bit for bit.

Activations are uint8, channels last. A kernel pools and pads its input, sums products in int32, and puts out uint8
again: bias, multiplier, rounding and clamp follow its sums in registers. Weights are packed as the instruction takes
them, (outputs / lanes, KH, KW, inputs / group, lanes, group). The contexts and the products with them are float32.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from tvm import ir, relax, te, tirx
from tvm.s_tir import Schedule

from model_builder import dot, integer
from model_builder.integer import Array, Layer
from model_builder.model import HEIGHT, WIDTH
from model_builder.space import tiled, vectors

VECTOR: Final = dot.LANES  # channels of a layer are made a multiple of it; as many floats fill a vector of AVX-512

_CONTEXTS, _CONTEXT_PRODUCT, _SUM = "contexts", "context_product", "sum"  # kernels without integers
_SCHEDULED: Final = "tirx.is_scheduled"


def build(network: integer.Network, *, traced: bool = False) -> ir.IRModule:
    """`main`: one uint8 crop (1, 24, 94, 3) to float32 logits (1, T, classes); and `prepare`, which has nothing to do.

    With `traced`, `main` returns a tuple of the logits and every layer's output (1, H, W, channels made whole vectors).
    Raises ValueError for a network with layers in float.
    """
    if floats := [layer.name for layer in network.layers if not layer.integer or layer.output_scale is None]:
        raise ValueError(f"{', '.join(floats)}: layers in float are not compiled; quantize all of them")
    network = whole(network)
    builder = relax.BlockBuilder()
    crop = relax.Var("crop", relax.TensorType((1, HEIGHT, WIDTH, 3), "uint8"))
    with builder.function("main", [crop]):
        with builder.dataflow():
            outputs = _layers(builder, network, crop)
            logits = _classified(builder, network, outputs)
            result = builder.emit_output(relax.Tuple([logits, *outputs.values()]) if traced else logits)
        builder.emit_func_output(result)
    with builder.function("prepare", []):
        builder.emit_func_output(builder.emit(relax.Tuple([])))
    module = builder.get()
    for variable, function in module.functions.items():
        if variable.name_hint == _CONTEXTS:
            module[variable] = _scheduled_contexts(function)
    return module


def whole(network: integer.Network) -> integer.Network:
    """The same network with every layer's outputs made a multiple of VECTOR, by channels that are always 0."""
    layers: list[Layer] = []
    inputs = network.layers[0].weights.shape[1]
    for layer in network.layers:
        outputs = _round_up(len(layer.weights))
        layers.append(
            replace(
                layer,
                weights=_extended(layer.weights, outputs, inputs),
                weight_scales=_extended(layer.weight_scales, outputs),
                bias=_extended(layer.bias, outputs),
            )
        )
        inputs = outputs
    classifier = network.classifier
    wide, column = (
        replace(part, weights=_extended(part.weights, len(part.weights), len(layer.weights)))
        for part, layer in ((classifier.wide, layers[-1]), (classifier.column, layers[-2]))
    )
    sizes = [len(layer.weights) for layer in network.layers if layer.context]
    parts = np.split(classifier.context, np.cumsum(sizes)[:-1], axis=1)
    context = np.concatenate([_extended(part, len(part), _round_up(part.shape[1])) for part in parts], axis=1)
    return integer.Network(tuple(layers), replace(classifier, wide=wide, column=column, context=context))


def _round_up(channels: int) -> int:
    return channels + -channels % VECTOR


def _extended(array: Array, *shape: int) -> Array:
    """The array with zeros behind, up to `shape` in its first dimensions."""
    return np.pad(
        array,
        [(0, new - old) for new, old in zip(shape, array.shape, strict=False)] + [(0, 0)] * (array.ndim - len(shape)),
    )


def _layers(builder: Any, network: integer.Network, crop: Any) -> dict[str, Any]:
    outputs: dict[str, Any] = {}
    x = crop
    for layer in network.layers:
        constants = [relax.const(array) for array in (_packed(layer.weights), layer.bias, layer.multiplier)]
        hint = f"convolution_{layer.name.replace('.', '_')}"
        x = outputs[layer.name] = builder.emit_te(partial(_convolution, layer), x, *constants, primfunc_name_hint=hint)
    return outputs


def _classified(builder: Any, network: integer.Network, outputs: dict[str, Any]) -> Any:
    """The logits of the last two layers' outputs and of all contexts."""
    classifier, (column, wide) = network.classifier, network.layers[-2:]
    columns = int(outputs[wide.name].ty.shape[2])
    sources = [layer for layer in network.layers if layer.context]
    contexts = builder.emit_te(
        partial(_contexts, sources, columns),
        *(outputs[layer.name] for layer in sources),
        primfunc_name_hint=_CONTEXTS,
    )
    classes = len(classifier.bias)
    padded = _round_up(classes)
    parts = [
        builder.emit_te(
            _product,
            outputs[layer.name],
            relax.const(_packed(_extended(part.weights, padded)[..., None, None])),
            relax.const(_extended(part.scales, padded)),
            primfunc_name_hint="product",
        )
        for part, layer in ((classifier.wide, wide), (classifier.column, column))
    ]
    weights = relax.const(np.ascontiguousarray(_extended(classifier.context, padded).T))
    parts.append(builder.emit_te(_context_product, contexts, weights, primfunc_name_hint=_CONTEXT_PRODUCT))
    bias = relax.const(_extended(classifier.bias, padded))
    return builder.emit_te(_sum, *parts, bias, classes, primfunc_name_hint=_SUM)


def _packed(weights: NDArray[np.int8]) -> Array:
    """(O, I, KH, KW) as (O / lanes, KH, KW, I / group, lanes, group), with zeros behind the inputs."""
    outputs, inputs, height, width = weights.shape
    extended = _extended(weights, outputs, inputs + -inputs % dot.GROUP)
    split = extended.reshape(outputs // dot.LANES, dot.LANES, -1, dot.GROUP, height, width)
    return np.ascontiguousarray(split.transpose(0, 4, 5, 2, 1, 3))


def _sums(prepared: te.Tensor, weights: te.Tensor, high: int, wide: int, stride: integer.Pair) -> te.Tensor:
    """Sums (1, high, wide, O / lanes, lanes) of a convolution of (H, W, I), which is padded already."""
    _, rows, across, groups, _, _ = (int(size) for size in weights.shape)
    ry, rx = te.reduce_axis((0, rows), "ry"), te.reduce_axis((0, across), "rx")
    rg, rk = te.reduce_axis((0, groups), "rg"), te.reduce_axis((0, dot.GROUP), "rk")

    def term(n: Any, h: Any, w: Any, o: Any, lane: Any) -> Any:
        activation = prepared[h * stride[0] + ry, w * stride[1] + rx, rg * dot.GROUP + rk].astype("int32")
        return te.sum(activation * weights[o, ry, rx, rg, lane, rk].astype("int32"), axis=[ry, rx, rg, rk])

    return te.compute((1, high, wide, weights.shape[0], dot.LANES), term, name="sums")


def _convolution(layer: Layer, x: te.Tensor, weights: te.Tensor, bias: te.Tensor, multiplier: te.Tensor) -> te.Tensor:
    _, height, width, inputs = (int(size) for size in x.shape)
    height, width = height // layer.pool[0], width // layer.pool[1]
    (top, left), (down, right) = layer.padding, layer.stride
    kernel = int(weights.shape[1]), int(weights.shape[2])
    padded = int(weights.shape[3]) * dot.GROUP
    high, wide = (height + 2 * top - kernel[0]) // down + 1, (width + 2 * left - kernel[1]) // right + 1
    more = _more_columns(high, wide)
    zero, fill = tirx.const(0, "uint8"), tirx.const(layer.fill, "uint8")

    def prepare(h: Any, w: Any, i: Any) -> Any:
        value = _pooled(x, layer.pool, h - top, w - left, i)
        if top or left or more:
            inside = tirx.all(h >= top, h < height + top, w >= left, w < width + left)
            value = tirx.if_then_else(inside, value, fill)
        if padded > inputs:
            value = tirx.if_then_else(i < inputs, value, zero)
        return value

    prepared = te.compute((height + 2 * top, width + 2 * left + more * right, padded), prepare, name="prepared")
    sums = _sums(prepared, weights, high, wide + more, layer.stride)

    def requantize(n: Any, h: Any, w: Any, o: Any) -> Any:
        real = (sums[n, h, w, o // dot.LANES, o % dot.LANES] + bias[o]).astype("float32") * multiplier[o]
        bounded = tirx.max(tirx.min(real, tirx.const(integer.TOP, "float32")), tirx.const(0, "float32"))
        return tirx.nearbyint(bounded).astype("uint8")

    return te.compute((1, high, wide, bias.shape[0]), requantize, name="requantized")


def _more_columns(high: int, wide: int) -> int:
    """Columns that are computed in vain: 23 in a single row, a prime, divide into no tiles for the registers, 24 do."""
    return -wide % 4 if high == 1 else 0


def _pooled(x: te.Tensor, pool: integer.Pair, h: Any, w: Any, i: Any) -> Any:
    rows, across = pool
    values = [x[0, h * rows + a, w * across + b, i] for a in range(rows) for b in range(across)]
    result = values[0]
    for value in values[1:]:
        result = tirx.max(result, value)
    return result


def _product(x: te.Tensor, weights: te.Tensor, scales: te.Tensor) -> te.Tensor:
    """The classifier's part of one layer's output: real values (1, 1, T, classes)."""
    _, _, columns, channels = (int(size) for size in x.shape)
    prepared = te.compute((1, columns, channels), lambda h, t, i: x[0, h, t, i], name="prepared")
    sums = _sums(prepared, weights, 1, columns, (1, 1))
    return te.compute(
        (1, 1, columns, scales.shape[0]),
        lambda n, h, t, o: sums[n, h, t, o // dot.LANES, o % dot.LANES].astype("float32") * scales[o],
        name="scaled",
    )


def _contexts(layers: Sequence[Layer], columns: int, *outputs: te.Tensor) -> te.Tensor:
    """The global contexts of `integer.context`, behind each other: (channels / VECTOR, columns, VECTOR)."""
    parts = [_context(layer, x, columns) for layer, x in zip(layers, outputs, strict=True)]
    counts = [int(means.shape[1]) // VECTOR for means, _ in parts]

    def join(v: Any, t: Any, lane: Any) -> Any:
        """Once the loop over `v` is unrolled, one of the terms is left."""
        result, offset = None, 0
        for (means, divisor), count in zip(parts, counts, strict=True):
            value = means[t, tirx.max(tirx.min(v - offset, count - 1), 0) * VECTOR + lane] / divisor[0]
            result = value if result is None else tirx.Select(v >= offset, value, result)
            offset += count
        return result

    return te.compute((sum(counts), columns, VECTOR), join, name="joined")


def _context(layer: Layer, x: te.Tensor, columns: int) -> tuple[te.Tensor, te.Tensor]:
    """Means (columns, channels) of an output, and what they are divided by (1)."""
    assert layer.output_scale is not None
    _, height, width, channels = (int(size) for size in x.shape)
    stride = width // columns
    factor = tirx.const(np.float32(layer.output_scale / (height * stride)), "float32")
    count, epsilon = (tirx.const(np.float32(c), "float32") for c in (columns * layer.context, integer.EPSILON))
    used, t, v, r = (te.reduce_axis((0, n), "r") for n in (height * stride, columns, channels // VECTOR, VECTOR))
    sums = te.compute(
        (columns, channels),
        lambda t, i: te.sum(x[0, used // stride, t * stride + used % stride, i].astype("int32"), axis=used),
        name="column_sums",
    )
    means = te.compute((columns, channels), lambda t, i: sums[t, i].astype("float32") * factor, name="means")
    partial_sums = te.compute(
        (VECTOR,),
        lambda i: te.sum(means[t, v * VECTOR + i] * means[t, v * VECTOR + i], axis=[t, v]),
        name="partial_squares",
    )
    squares = te.compute((1,), lambda _: te.sum(partial_sums[r], axis=r), name="squares")
    return means, te.compute((1,), lambda i: squares[i] / count + epsilon, name="divisor")


def _context_product(x: te.Tensor, weights: te.Tensor) -> te.Tensor:
    """The classifier's part of all contexts: (1, T, classes)."""
    v, lane = te.reduce_axis((0, x.shape[0]), "v"), te.reduce_axis((0, VECTOR), "lane")
    columns = int(x.shape[1])
    return te.compute(
        (1, columns + _more_columns(1, columns), weights.shape[1]),
        lambda n, t, o: te.sum(x[v, tirx.min(t, columns - 1), lane] * weights[v * VECTOR + lane, o], axis=[v, lane]),
        name="product",
    )


def _sum(wide: te.Tensor, column: te.Tensor, context: te.Tensor, bias: te.Tensor, classes: int) -> te.Tensor:
    return te.compute(
        (1, wide.shape[2], classes),
        lambda n, t, o: wide[0, 0, t, o] + column[0, 0, t, o] + context[0, t, o] + bias[o],
        name="logits",
    )


def _scheduled_contexts(kernel: tirx.PrimFunc) -> tirx.PrimFunc:
    """The kernel of all contexts in vectors: a few additions, with nothing for a tuner to find."""
    schedule = Schedule(kernel)
    for block in schedule.get_child_blocks(schedule.get_sblock("root")):
        name = str(schedule.get(block).name_hint)
        if name.startswith("column_sums"):
            (means,) = schedule.get_consumers(block)
            column, channels, used = schedule.get_loops(block)
            channels, lane = vectors(schedule, channels, VECTOR)
            schedule.reorder(column, channels, used, lane)
            schedule.reverse_compute_at(means, channels, preserve_unit_loops=True)
            schedule.set_scope(block, 0, "local")
            schedule.vectorize(lane)
            start = schedule.decompose_reduction(block, used)
            for each in (start, means):
                schedule.vectorize(schedule.get_loops(each)[-1])
        elif name.startswith("partial_squares"):
            lane, column, vector = schedule.get_loops(block)
            schedule.reorder(column, vector, lane)
            schedule.vectorize(vectors(schedule, lane, VECTOR)[1])
            start = schedule.decompose_reduction(block, column)
            schedule.vectorize(vectors(schedule, schedule.get_loops(start)[-1], VECTOR)[1])
        elif name == "joined":
            vector, _, lane = schedule.get_loops(block)
            schedule.unroll(vector)
            schedule.vectorize(vectors(schedule, lane, VECTOR)[1])
    return schedule.mod["main"].with_attr(_SCHEDULED, True)


def completed(module: ir.IRModule) -> ir.IRModule:
    """Give every product that has no schedule yet the first one of its space, so that all have the instruction.

    Raises ValueError for a kernel of integers that has a schedule without it.
    """
    for variable, function in module.functions.items():
        if not isinstance(function, tirx.PrimFunc) or variable.name_hint in (_CONTEXTS, _SUM):
            continue
        if not (function.attrs and function.attrs.get(_SCHEDULED)):
            schedule = Schedule(function, seed=1)
            tiled(schedule, VECTOR)
            function = module[variable] = schedule.mod["main"].with_attr(_SCHEDULED, True)
        if variable.name_hint != _CONTEXT_PRODUCT and not dot.uses(function):
            raise ValueError(f"the schedule of {variable.name_hint} lacks {dot.LLVM}: tune it again")
    return module
