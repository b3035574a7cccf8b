"""An integer graph as kernels of TVM. Its integers equal those of `reference.py` bit by bit.

Activations are uint8, channels last, with channels of 0 added to make whole vectors. A kernel prepares its input
(pooling, upsampling, adding, concatenating, padding), sums products in int32, and puts out uint8 again: bias,
multiplier, rounding and clamp follow its sums in registers. Weights are packed as the instruction takes them,
(outputs / lanes, KH, KW, inputs / group, lanes, group). Contexts and the products with them are float32.
"""

import functools
import operator
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import ir, relax, te, tirx
from tvm.s_tir import Schedule

from model_builder.graph import ops
from model_builder.graph.description import Graph, resized
from model_builder.graph.ops import Array, Pair
from model_builder.kernels import context, vnni
from model_builder.kernels.context import VECTOR, Element
from model_builder.kernels.tuning_space import is_scheduled, marked, tiled

Size = tuple[int, int]

_CONTEXTS, _CONTEXT_PRODUCT, _SUM = "contexts", "context_product", "sum"  # kernels without integers


def build(graph: Graph, sizes: Mapping[str, Size] | None = None, *, traced: bool = False) -> ir.IRModule:
    """`main`: one uint8 image (1, H, W, C) to the output, float32; and `prepare`, which has nothing to do.

    With `sizes` (height, width), both are made for each of them, with its name behind theirs. With `traced`, `main`
    returns a tuple of the output and of every convolution's (1, H, W, channels made whole vectors). Raises ValueError
    for a graph with layers in float.
    """
    if floats := [node.name for node in graph.weighted if not _integer(graph, node)]:
        raise ValueError(f"{', '.join(floats)}: layers in float are not compiled; quantize all of them")
    builder = relax.BlockBuilder()
    for name, (height, width) in (sizes or {"": graph.pixels.size[:2]}).items():
        _emit(_Lowering(resized(graph, height, width), builder), name, traced)
    module = builder.get()
    for variable, function in module.functions.items():
        if _kind(variable) == _CONTEXTS:
            module[variable] = context.scheduled(function)
    return module


def _emit(lowering: "_Lowering", name: str, traced: bool) -> None:
    graph, builder = lowering.graph, lowering.builder
    with builder.function(f"main{name}", [lowering.made[graph.pixels.name]]):
        with builder.dataflow():
            outputs = [lowering.convolution(node) for node in graph.convolutions]
            result = lowering.output()
            result = builder.emit_output(relax.Tuple([result, *outputs]) if traced else result)
        builder.emit_func_output(result)
    with builder.function(f"prepare{name}", []):
        builder.emit_func_output(builder.emit(relax.Tuple([])))


def _kind(variable: ir.GlobalVar) -> str:
    """What a kernel was called before a number was put behind its name, because there are several."""
    return str(variable.name_hint.rstrip("0123456789"))


def completed(module: ir.IRModule) -> ir.IRModule:
    """Give every product that has no schedule yet the first one of its space, so that all have the instruction.

    Raises ValueError for a kernel of integers that has a schedule without it.
    """
    for variable, function in module.functions.items():
        if not isinstance(function, tirx.PrimFunc) or _kind(variable) in (_CONTEXTS, _SUM):
            continue
        if not is_scheduled(function):
            schedule = Schedule(function, seed=1)
            tiled(schedule, VECTOR)
            function = module[variable] = marked(schedule)
        if _kind(variable) != _CONTEXT_PRODUCT and not vnni.uses(function):
            raise ValueError(f"the schedule of {variable.name_hint} lacks {vnni.LLVM}: tune it again")
    return module


def _integer(graph: Graph, node: ops.Weighted) -> bool:
    if isinstance(node, ops.Convolution):
        return node.weights.integer and node.scale is not None
    parts = zip(node.inputs, node.parts, strict=True)
    return all(part.integer or isinstance(graph[name], ops.Context) for name, part in parts)


class _Lowering:
    """Kernels as they are emitted. `made` holds the tensors in memory: the image, and convolutions' outputs."""

    def __init__(self, graph: Graph, builder: relax.BlockBuilder) -> None:
        self.graph, self.shapes, self.builder = graph, graph.shapes(), builder
        pixels = graph.pixels
        self.made = {pixels.name: relax.Var("images", relax.TensorType((1, *pixels.size), "uint8"))}

    def convolution(self, node: ops.Convolution) -> Any:
        """Emit a convolution's kernel; its output."""
        weights, bias = relax.const(_packed(node.weights.values)), _whole_vectors(node.bias)
        constants = weights, bias, _whole_vectors(self.graph.multiplier(node))
        hint = f"convolution_{node.name.replace('.', '_')}"
        self.made[node.name] = self._emit(partial(self._convolution, node), node.inputs, *constants, hint=hint)
        return self.made[node.name]

    def output(self) -> Any:
        """Emit the linear map of all its inputs, added up."""
        node = self.graph.output
        assert isinstance(node, ops.Linear)
        parts = []
        for name, part in zip(node.inputs, node.parts, strict=True):
            source, (_, columns, _) = self.graph[name], self.shapes[name]
            if isinstance(source, ops.Context):
                made = self._emit(partial(self._contexts, source), source.inputs, hint=_CONTEXTS)
                weights = relax.const(self._of_whole_vectors(part.values, source.inputs))
                width = columns + _more_columns(1, columns)
                hint = {"primfunc_name_hint": _CONTEXT_PRODUCT}
                parts.append(self.builder.emit_te(context.product, made, weights, width, **hint))
            else:
                steps = self.graph.steps(name, part)
                constants = relax.const(_packed(part.values[..., None, None])), _whole_vectors(steps)
                product = partial(self._product, node, name)
                parts.append(self._emit(product, (name,), *constants, hint="product"))
        return self.builder.emit_te(self._sum, *parts, _whole_vectors(node.bias), primfunc_name_hint=_SUM)

    def _emit(self, function: Any, inputs: tuple[str, ...], *constants: Any, hint: str) -> Any:
        """Emit the kernel `function(elements of the inputs, *constants)`."""
        names = list(dict.fromkeys(source for name in inputs for source in self._sources(name)))

        def kernel(*tensors: te.Tensor) -> te.Tensor:
            known = dict(zip(names, tensors, strict=False))
            return function([self._element(name, known) for name in inputs], *tensors[len(names) :])

        return self.builder.emit_te(kernel, *(self.made[name] for name in names), *constants, primfunc_name_hint=hint)

    def _sources(self, name: str) -> list[str]:
        """The tensors in memory that a node's output is made of."""
        node = self.graph[name]
        if isinstance(node, ops.Pixels | ops.Convolution):
            return [name]
        return [source for each in node.inputs for source in self._sources(each)]

    def _element(self, name: str, tensors: dict[str, te.Tensor]) -> Element:
        """A node's output as a function of the tensors that it is made of; it is computed where it is read."""
        node = self.graph[name]
        if isinstance(node, ops.Pixels | ops.Convolution):
            return lambda h, w, i: tensors[name][0, h, w, i]
        taken = [self._element(source, tensors) for source in node.inputs]
        match node:
            case ops.MaxPool():
                return lambda h, w, i: functools.reduce(tirx.max, _window(taken[0], node.kernel, h, w, i))
            case ops.AveragePool():
                return lambda h, w, i: _mean(_window(taken[0], node.kernel, h, w, i))
            case ops.Upsample():
                return lambda h, w, i: taken[0](h // node.factor[0], w // node.factor[1], i)
            case ops.Add():
                return lambda h, w, i: tirx.min(_total([x(h, w, i) for x in taken]), ops.TOP).astype("uint8")
            case ops.Concatenate():
                ends = np.cumsum([self.shapes[source][2] for source in node.inputs]).tolist()
                return partial(_chosen, taken, [0, *ends])
        raise TypeError(node)

    def _convolution(
        self, node: ops.Convolution, taken: list[Element], weights: te.Tensor, bias: te.Tensor, multiplier: te.Tensor
    ) -> te.Tensor:
        def requantized(total: Any, o: Any) -> Any:
            real = (total + bias[o]).astype("float32") * multiplier[o]
            bounded = tirx.max(tirx.min(real, tirx.const(ops.TOP, "float32")), tirx.const(0, "float32"))
            return tirx.nearbyint(bounded).astype("uint8")

        return self._of_sums(requantized, node, node.inputs[0], taken[0], weights)

    def _product(
        self, node: ops.Linear, name: str, taken: list[Element], weights: te.Tensor, scales: te.Tensor
    ) -> te.Tensor:
        """A linear map's part of one input, real."""

        def scaled(total: Any, o: Any) -> Any:
            return total.astype("float32") * scales[o]

        return self._of_sums(scaled, node, name, taken[0], weights)

    def _of_sums(
        self, result: Callable[[Any, Any], Any], node: ops.Weighted, source: str, element: Element, weights: te.Tensor
    ) -> te.Tensor:
        """`result(sum, output)` (1, H, W, O) of the sums of products with one input, which is padded first."""
        (height, width, inputs), (high, wide, _) = self.shapes[source], self.shapes[node.name]
        (top, left), (down, right), fill, more = (0, 0), (1, 1), 0, 0
        if isinstance(node, ops.Convolution):
            (top, left), (down, right), fill = node.padding, node.stride, self.graph.fill(node)
            more = _more_columns(high, wide)
        vectors, rows, across, groups, _, _ = (int(size) for size in weights.shape)

        def padded(h: Any, w: Any, i: Any) -> Any:
            value = element(h - top, w - left, i)
            if not (top or left or more):
                return value
            inside = tirx.all(h >= top, h < height + top, w >= left, w < width + left)
            return tirx.if_then_else(inside, value, tirx.const(fill, "uint8"))

        shape = (height + 2 * top, width + 2 * left + more * right, groups * vnni.GROUP)
        prepared = te.compute(shape, _bounded(padded, inputs, groups * vnni.GROUP), name="prepared")
        ry, rx = te.reduce_axis((0, rows), "ry"), te.reduce_axis((0, across), "rx")
        rg, rk = te.reduce_axis((0, groups), "rg"), te.reduce_axis((0, vnni.GROUP), "rk")

        def term(n: Any, h: Any, w: Any, o: Any, lane: Any) -> Any:
            activation = prepared[h * down + ry, w * right + rx, rg * vnni.GROUP + rk].astype("int32")
            return te.sum(activation * weights[o, ry, rx, rg, lane, rk].astype("int32"), axis=[ry, rx, rg, rk])

        sums = te.compute((1, high, wide + more, vectors, vnni.LANES), term, name="sums")
        return te.compute(
            (1, high, wide, vectors * vnni.LANES),
            lambda n, h, w, o: result(sums[n, h, w, o // vnni.LANES, o % vnni.LANES], o),
            name=result.__name__,  # "requantized" or "scaled", by which tuning records know the block
        )

    def _contexts(self, node: ops.Context, taken: list[Element]) -> te.Tensor:
        inputs = []
        for name, counted, element in zip(node.inputs, node.channels, taken, strict=True):
            (height, width, channels), scale = self.shapes[name], self.graph[name].scale
            assert scale is not None
            whole = _round_up(channels)
            inputs.append(context.Input(_bounded(element, channels, whole), scale, height, width, whole, counted))
        return context.contexts(inputs, node.columns, node.epsilon)

    def _of_whole_vectors(self, weights: Array, names: tuple[str, ...]) -> Array:
        """Weights (O, channels of all inputs) as (all inputs' made whole vectors, O made whole vectors)."""
        counts = [self.shapes[name][2] for name in names]
        parts = np.split(weights.T, np.cumsum(counts)[:-1])
        return np.concatenate([_extended(part, _round_up(len(part)), _round_up(len(weights))) for part in parts])

    def _sum(self, *tensors: te.Tensor) -> te.Tensor:
        """The parts and the bias added up, without the axes that the output does not have."""
        *parts, bias = tensors
        kept = [axis for axis in range(4) if axis not in self.graph.squeeze]
        shape = (1, *self.shapes[self.graph.output.name])

        def total(*given: Any) -> Any:
            places = dict(zip(kept, given, strict=True))
            n, h, w, o = (places.get(axis, 0) for axis in range(4))
            values = [part[n, h, w, o] if len(part.shape) == 4 else part[n, w, o] for part in parts]
            return functools.reduce(operator.add, [*values, bias[o]])

        return te.compute(tuple(shape[axis] for axis in kept), total, name="output")


def _bounded(element: Element, channels: int, whole: int) -> Element:
    """The element, and 0 from `channels` to `whole`."""
    if channels == whole:
        return element
    return lambda h, w, i: tirx.if_then_else(i < channels, element(h, w, i), tirx.const(0, "uint8"))


def _window(x: Element, kernel: Pair, h: Any, w: Any, i: Any) -> list[Any]:
    rows, across = kernel
    return [x(h * rows + a, w * across + b, i) for a in range(rows) for b in range(across)]


def _total(values: list[Any]) -> Any:
    return functools.reduce(operator.add, [value.astype("int32") for value in values])


def _mean(values: list[Any]) -> Any:
    factor = tirx.const(np.float32(1 / len(values)), "float32")
    return tirx.nearbyint(_total(values).astype("float32") * factor).astype("uint8")


def _chosen(parts: list[Element], starts: list[int], h: Any, w: Any, i: Any) -> Any:
    """Channel `i` of concatenated parts, the first channels of which are `starts`."""
    result = parts[-1](h, w, i - starts[-2])
    for part, start, end in reversed([*zip(parts[:-1], starts[:-2], starts[1:-1], strict=True)]):
        result = tirx.if_then_else(i < end, part(h, w, i - start), result)
    return result


def _more_columns(high: int, wide: int) -> int:
    """Columns added to a single row so that it divides into tiles of registers: 23, a prime, becomes 24."""
    return -wide % 4 if high == 1 < wide else 0


def _packed(weights: NDArray[np.int8]) -> Array:
    """(O, I, KH, KW) as (O / lanes, KH, KW, I / group, lanes, group), with zeros behind inputs and outputs."""
    outputs, inputs, height, width = weights.shape
    extended = _extended(weights, _round_up(outputs), inputs + -inputs % vnni.GROUP)
    split = extended.reshape(-1, vnni.LANES, extended.shape[1] // vnni.GROUP, vnni.GROUP, height, width)
    return np.ascontiguousarray(split.transpose(0, 4, 5, 2, 1, 3))


def _whole_vectors(array: Array) -> Any:
    return relax.const(_extended(array, _round_up(len(array))))


def _round_up(channels: int) -> int:
    return channels + -channels % VECTOR


def _extended(array: Array, *shape: int) -> Array:
    """The array with zeros behind, up to `shape` in its first dimensions."""
    more = [new - old for new, old in zip(shape, array.shape, strict=False)]
    return np.pad(array, [(0, count) for count in more] + [(0, 0)] * (array.ndim - len(more)))
