"""An integer graph as TVM's kernels: what `reference.py` computes, its integers bit for bit.

Activations are uint8, channels last. A kernel prepares its input (pooling, upsampling, adding, concatenating, padding),
sums products in int32, and puts out uint8 again: bias, multiplier, rounding and clamp follow its sums in registers.
Weights are packed as the instruction takes them, (outputs / lanes, KH, KW, inputs / group, lanes, group). Contexts and
the products with them are float32.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from tvm import ir, relax, te, tirx
from tvm.s_tir import Schedule

from model_builder.graph import ops
from model_builder.graph.description import Graph
from model_builder.graph.ops import Array, Node, Pair, Weights
from model_builder.kernels import vnni
from model_builder.kernels.tuning_space import tiled, vectors

VECTOR: Final = vnni.LANES  # channels of a layer are made a multiple of it; as many floats fill a vector of AVX-512

_CONTEXTS, _CONTEXT_PRODUCT, _SUM = "contexts", "context_product", "sum"  # kernels without integers
_SCHEDULED: Final = "tirx.is_scheduled"

Element = Callable[[Any, Any, Any], Any]  # a tensor's element by row, column, channel
Segment = tuple[int, int]  # channels, and with those that are added to make whole vectors


def build(graph: Graph, *, traced: bool = False) -> ir.IRModule:
    """`main`: one uint8 image (1, H, W, C) to the output, float32; and `prepare`, which has nothing to do.

    With `traced`, `main` returns a tuple of the output and of every convolution's (1, H, W, channels made whole
    vectors). Raises ValueError for a graph with layers in float, or whose output is no linear map.
    """
    if floats := [node.name for node in graph.weighted if not _integer(graph, node)]:
        raise ValueError(f"{', '.join(floats)}: layers in float are not compiled; quantize all of them")
    graph = whole(graph)
    output = graph.output
    if not isinstance(output, ops.Linear):
        raise ValueError(f"{output.name}: the output must be a linear map, a 1x1 convolution without a ReLU")
    builder = relax.BlockBuilder()
    images = relax.Var("images", relax.TensorType((1, *graph.pixels.size), "uint8"))
    with builder.function("main", [images]):
        with builder.dataflow():
            made: dict[str, Any] = {graph.pixels.name: images}
            for node in graph.convolutions:
                made[node.name] = _convolved(builder, graph, node, made)
            result = _mapped(builder, graph, output, made)
            outputs = [made[node.name] for node in graph.convolutions]
            result = builder.emit_output(relax.Tuple([result, *outputs]) if traced else result)
        builder.emit_func_output(result)
    with builder.function("prepare", []):
        builder.emit_func_output(builder.emit(relax.Tuple([])))
    module = builder.get()
    for variable, function in module.functions.items():
        if variable.name_hint == _CONTEXTS:
            module[variable] = _scheduled_contexts(function)
    return module


def _integer(graph: Graph, node: Node) -> bool:
    if isinstance(node, ops.Convolution):
        return node.weights.integer and node.scale is not None
    assert isinstance(node, ops.Linear)
    parts = zip(node.inputs, node.parts, strict=True)
    return all(part.integer or isinstance(graph[name], ops.Context) for name, part in parts)


def whole(graph: Graph) -> Graph:
    """The same graph with every convolution's outputs made a multiple of VECTOR, by channels that are always 0."""
    nodes: dict[str, Node] = {}
    for node in graph.nodes:
        if isinstance(node, ops.Convolution):
            outputs = _round_up(len(node.bias))
            values = _spread(node.weights.values, _segments(graph, node.inputs[0]))
            weights = Weights(_extended(values, outputs), _extended(node.weights.scales, outputs))
            nodes[node.name] = replace(node, weights=weights, bias=_extended(node.bias, outputs))
        elif isinstance(node, ops.Linear):
            pairs = zip(node.inputs, node.parts, strict=True)
            parts = [replace(part, values=_spread(part.values, _segments(graph, name))) for name, part in pairs]
            nodes[node.name] = replace(node, parts=tuple(parts))
    return graph.replaced(nodes)


def _segments(graph: Graph, name: str) -> list[Segment]:
    """The channels of a node's output, convolution by convolution."""
    node = graph[name]
    match node:
        case ops.Pixels():
            return [(node.size[2], node.size[2])]
        case ops.Convolution():
            return [(len(node.bias), _round_up(len(node.bias)))]
        case ops.Concatenate() | ops.Context():
            return [segment for source in node.inputs for segment in _segments(graph, source)]
        case _:
            return _segments(graph, node.inputs[0])


def _spread(weights: Array, segments: list[Segment]) -> Array:
    """Weights (O, I, ...) with zeros for the inputs that are added to each segment."""
    parts = np.split(weights, np.cumsum([count for count, _ in segments])[:-1], axis=1)
    padded = [_extended(part, len(part), size) for part, (_, size) in zip(parts, segments, strict=True)]
    return np.concatenate(padded, axis=1)


def _round_up(channels: int) -> int:
    return channels + -channels % VECTOR


def _extended(array: Array, *shape: int) -> Array:
    """The array with zeros behind, up to `shape` in its first dimensions."""
    return np.pad(
        array,
        [(0, new - old) for new, old in zip(shape, array.shape, strict=False)] + [(0, 0)] * (array.ndim - len(shape)),
    )


def _sources(graph: Graph, name: str) -> list[str]:
    """The tensors in memory that a node's output is made of: those of convolutions, and the image."""
    node = graph[name]
    if isinstance(node, ops.Pixels | ops.Convolution):
        return [name]
    return list(dict.fromkeys(source for each in node.inputs for source in _sources(graph, each)))


def _element(graph: Graph, name: str, tensors: dict[str, te.Tensor]) -> Element:
    """A node's output as a function of the tensors that it is made of; what computes is inlined where it is read."""
    node = graph[name]
    if isinstance(node, ops.Pixels | ops.Convolution):
        tensor = tensors[name]
        return lambda h, w, i: tensor[0, h, w, i]
    taken = [_element(graph, source, tensors) for source in node.inputs]
    match node:
        case ops.MaxPool():
            return lambda h, w, i: _reduced(tirx.max, _window(taken[0], node.kernel, h, w, i))
        case ops.AveragePool():
            factor = tirx.const(np.float32(1 / (node.kernel[0] * node.kernel[1])), "float32")

            def mean(h: Any, w: Any, i: Any) -> Any:
                values = [value.astype("int32") for value in _window(taken[0], node.kernel, h, w, i)]
                total = _reduced(lambda a, b: a + b, values)
                return tirx.nearbyint(total.astype("float32") * factor).astype("uint8")

            return mean
        case ops.Upsample():
            rows, columns = node.factor
            return lambda h, w, i: taken[0](h // rows, w // columns, i)
        case ops.Add():
            top = tirx.const(ops.TOP, "int32")
            return lambda h, w, i: tirx.min(
                taken[0](h, w, i).astype("int32") + taken[1](h, w, i).astype("int32"), top
            ).astype("uint8")
        case ops.Concatenate():
            counts = [graph.shapes()[source][2] for source in node.inputs]
            return lambda h, w, i: _chosen(taken, counts, h, w, i)
    raise TypeError(node)


def _window(x: Element, kernel: Pair, h: Any, w: Any, i: Any) -> list[Any]:
    rows, across = kernel
    return [x(h * rows + a, w * across + b, i) for a in range(rows) for b in range(across)]


def _reduced(function: Callable[[Any, Any], Any], values: list[Any]) -> Any:
    result = values[0]
    for value in values[1:]:
        result = function(result, value)
    return result


def _chosen(parts: list[Element], counts: list[int], h: Any, w: Any, i: Any) -> Any:
    """Channel `i` of concatenated parts."""
    ends = np.cumsum(counts).tolist()
    result = parts[-1](h, w, i - (ends[-1] - counts[-1]))
    for part, count, end in reversed([*zip(parts[:-1], counts[:-1], ends[:-1], strict=True)]):
        result = tirx.if_then_else(i < end, part(h, w, i - (end - count)), result)
    return result


def _convolved(builder: Any, graph: Graph, node: ops.Convolution, made: dict[str, Any]) -> Any:
    names = _sources(graph, node.inputs[0])
    constants = [relax.const(array) for array in (_packed(node.weights.values), node.bias, graph.multiplier(node))]
    hint = f"convolution_{node.name.replace('.', '_')}"
    sources = [made[name] for name in names]
    return builder.emit_te(partial(_convolution, graph, node, names), *sources, *constants, primfunc_name_hint=hint)


def _mapped(builder: Any, graph: Graph, node: ops.Linear, made: dict[str, Any]) -> Any:
    """The linear map of all its inputs, added up."""
    classes = len(node.bias)
    padded = _round_up(classes)
    parts = []
    for name, part in zip(node.inputs, node.parts, strict=True):
        names = _sources(graph, name)
        sources = [made[source] for source in names]
        source = graph[name]
        if isinstance(source, ops.Context):
            contexts = builder.emit_te(partial(_contexts, graph, source, names), *sources, primfunc_name_hint=_CONTEXTS)
            weights = relax.const(np.ascontiguousarray(_extended(part.values, padded).T))
            product = builder.emit_te(_context_product, contexts, weights, primfunc_name_hint=_CONTEXT_PRODUCT)
        else:
            weights = relax.const(_packed(_extended(part.values, padded)[..., None, None]))
            scales = relax.const(_extended(graph.steps(name, part), padded))
            made_by = partial(_product, graph, name, names)
            product = builder.emit_te(made_by, *sources, weights, scales, primfunc_name_hint="product")
        parts.append(product)
    bias = relax.const(_extended(node.bias, padded))
    shape = (1, *graph.shapes()[node.name])
    return builder.emit_te(partial(_sum, shape, graph.squeeze), *parts, bias, primfunc_name_hint=_SUM)


def _packed(weights: NDArray[np.int8]) -> Array:
    """(O, I, KH, KW) as (O / lanes, KH, KW, I / group, lanes, group), with zeros behind the inputs."""
    outputs, inputs, height, width = weights.shape
    extended = _extended(weights, outputs, inputs + -inputs % vnni.GROUP)
    split = extended.reshape(outputs // vnni.LANES, vnni.LANES, -1, vnni.GROUP, height, width)
    return np.ascontiguousarray(split.transpose(0, 4, 5, 2, 1, 3))


def _sums(prepared: te.Tensor, weights: te.Tensor, high: int, wide: int, stride: Pair) -> te.Tensor:
    """Sums (1, high, wide, O / lanes, lanes) of a convolution of (H, W, I), which is padded already."""
    _, rows, across, groups, _, _ = (int(size) for size in weights.shape)
    ry, rx = te.reduce_axis((0, rows), "ry"), te.reduce_axis((0, across), "rx")
    rg, rk = te.reduce_axis((0, groups), "rg"), te.reduce_axis((0, vnni.GROUP), "rk")

    def term(n: Any, h: Any, w: Any, o: Any, lane: Any) -> Any:
        activation = prepared[h * stride[0] + ry, w * stride[1] + rx, rg * vnni.GROUP + rk].astype("int32")
        return te.sum(activation * weights[o, ry, rx, rg, lane, rk].astype("int32"), axis=[ry, rx, rg, rk])

    return te.compute((1, high, wide, weights.shape[0], vnni.LANES), term, name="sums")


def _convolution(graph: Graph, node: ops.Convolution, names: list[str], *tensors: te.Tensor) -> te.Tensor:
    *sources, weights, bias, multiplier = tensors
    element = _element(graph, node.inputs[0], dict(zip(names, sources, strict=True)))
    height, width, inputs = graph.shapes()[node.inputs[0]]
    (top, left), (_, right) = node.padding, node.stride
    high, wide, _ = graph.shapes()[node.name]
    padded = int(weights.shape[3]) * vnni.GROUP
    more = _more_columns(high, wide)
    zero, fill = tirx.const(0, "uint8"), tirx.const(graph.fill(node), "uint8")

    def prepare(h: Any, w: Any, i: Any) -> Any:
        value = element(h - top, w - left, i)
        if top or left or more:
            inside = tirx.all(h >= top, h < height + top, w >= left, w < width + left)
            value = tirx.if_then_else(inside, value, fill)
        if padded > inputs:
            value = tirx.if_then_else(i < inputs, value, zero)
        return value

    prepared = te.compute((height + 2 * top, width + 2 * left + more * right, padded), prepare, name="prepared")
    sums = _sums(prepared, weights, high, wide + more, node.stride)

    def requantize(n: Any, h: Any, w: Any, o: Any) -> Any:
        real = (sums[n, h, w, o // vnni.LANES, o % vnni.LANES] + bias[o]).astype("float32") * multiplier[o]
        bounded = tirx.max(tirx.min(real, tirx.const(ops.TOP, "float32")), tirx.const(0, "float32"))
        return tirx.nearbyint(bounded).astype("uint8")

    return te.compute((1, high, wide, bias.shape[0]), requantize, name="requantized")


def _more_columns(high: int, wide: int) -> int:
    """Columns added to a single row so that it divides into tiles of registers: 23, a prime, becomes 24."""
    return -wide % 4 if high == 1 else 0


def _product(graph: Graph, name: str, names: list[str], *tensors: te.Tensor) -> te.Tensor:
    """A linear map's part of one input: real values (1, H, W, O)."""
    *sources, weights, scales = tensors
    element = _element(graph, name, dict(zip(names, sources, strict=True)))
    height, width, channels = graph.shapes()[name]
    prepared = te.compute((height, width, channels), lambda h, t, i: element(h, t, i), name="prepared")
    sums = _sums(prepared, weights, height, width, (1, 1))
    return te.compute(
        (1, height, width, scales.shape[0]),
        lambda n, h, t, o: sums[n, h, t, o // vnni.LANES, o % vnni.LANES].astype("float32") * scales[o],
        name="scaled",
    )


def _contexts(graph: Graph, node: ops.Context, names: list[str], *tensors: te.Tensor) -> te.Tensor:
    """The global contexts of `reference.context`, behind each other: (channels / VECTOR, columns, VECTOR)."""
    known = dict(zip(names, tensors, strict=True))
    parts = [
        _context(graph, node, source, channels, _element(graph, source, known))
        for source, channels in zip(node.inputs, node.channels, strict=True)
    ]
    counts = [int(means.shape[1]) // VECTOR for means, _ in parts]

    def join(v: Any, t: Any, lane: Any) -> Any:
        """Once the loop over `v` is unrolled, one of the terms is left."""
        result, offset = None, 0
        for (means, divisor), count in zip(parts, counts, strict=True):
            value = means[t, tirx.max(tirx.min(v - offset, count - 1), 0) * VECTOR + lane] / divisor[0]
            result = value if result is None else tirx.Select(v >= offset, value, result)
            offset += count
        return result

    return te.compute((sum(counts), node.columns, VECTOR), join, name="joined")


def _context(
    graph: Graph, node: ops.Context, source: str, counted: int, element: Element
) -> tuple[te.Tensor, te.Tensor]:
    """Means (columns, channels) of an input, and what they are divided by (1)."""
    scale, columns = graph[source].scale, node.columns
    assert scale is not None
    height, width, channels = graph.shapes()[source]
    stride = width // columns
    factor = tirx.const(np.float32(scale / (height * stride)), "float32")
    count, epsilon = (tirx.const(np.float32(c), "float32") for c in (columns * counted, node.epsilon))
    used, t, v, r = (te.reduce_axis((0, n), "r") for n in (height * stride, columns, channels // VECTOR, VECTOR))
    sums = te.compute(
        (columns, channels),
        lambda t, i: te.sum(element(used // stride, t * stride + used % stride, i).astype("int32"), axis=used),
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
    """A linear map's part of all contexts: (1, T, O)."""
    v, lane = te.reduce_axis((0, x.shape[0]), "v"), te.reduce_axis((0, VECTOR), "lane")
    columns = int(x.shape[1])
    return te.compute(
        (1, columns + _more_columns(1, columns), weights.shape[1]),
        lambda n, t, o: te.sum(x[v, tirx.min(t, columns - 1), lane] * weights[v * VECTOR + lane, o], axis=[v, lane]),
        name="product",
    )


def _sum(shape: tuple[int, ...], squeeze: tuple[int, ...], *tensors: te.Tensor) -> te.Tensor:
    """The parts and the bias added up, without the axes that the output does not have."""
    *parts, bias = tensors
    kept = [axis for axis in range(4) if axis not in squeeze]

    def total(*given: Any) -> Any:
        places = dict(zip(kept, given, strict=True))
        n, h, w, o = (places.get(axis, 0) for axis in range(4))
        values = [part[n, h, w, o] if len(part.shape) == 4 else part[n, w, o] for part in parts]
        return _reduced(lambda a, b: a + b, [*values, bias[o]])

    return te.compute(tuple(shape[axis] for axis in kept), total, name="output")


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
        if variable.name_hint != _CONTEXT_PRODUCT and not vnni.uses(function):
            raise ValueError(f"the schedule of {variable.name_hint} lacks {vnni.LLVM}: tune it again")
    return module
