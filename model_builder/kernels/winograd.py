"""Winograd's minimal filtering: 3x3 convolutions with fewer multiplications (Lavin and Gray, arXiv 1509.09308).

F(m, 3) computes m outputs of a row from m + 2 inputs with m + 2 multiplications instead of 3 m. Applied to rows and
columns, it turns a convolution into one matrix product for each element of a transformed tile:

    Y = A^T [ (G g G^T) * (B^T d B) ] A        (d: a tile of the input, g: a filter, *: products, summed over inputs)

The matrices for m = 2 and 4 are the paper's (sections 4.1 and 4.3), those for m = 6 are made the same way of the points
0, 1, -1, 2, -2, 1/2 and -1/2 (as by its authors' github.com/andravin/wincnn); a larger m saves more and loses more
digits. Tensors are channels last; e counts the elements of a transformed tile and t the tiles, both row by row.
"""

import hashlib
import itertools
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from tvm import ir, relax, te, tirx
from tvm.s_tir import Schedule

from model_builder.kernels.tuning_space import behind, is_scheduled, marked, vectors

Matrix = tuple[tuple[float, ...], ...]

_INPUT: Final[dict[int, Matrix]] = {  # B^T
    2: ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
    4: (
        *((4, 0, -5, 0, 1, 0), (0, -4, -4, 1, 1, 0), (0, 4, -4, -1, 1, 0)),
        *((0, -2, -1, 2, 1, 0), (0, 2, -1, -2, 1, 0), (0, 4, 0, -5, 0, 1)),
    ),
    6: (
        *((1, 0, -21 / 4, 0, 21 / 4, 0, -1, 0), (0, 1, 1, -17 / 4, -17 / 4, 1, 1, 0)),
        *((0, -1, 1, 17 / 4, -17 / 4, -1, 1, 0), (0, 1 / 2, 1 / 4, -5 / 2, -5 / 4, 2, 1, 0)),
        *((0, -1 / 2, 1 / 4, 5 / 2, -5 / 4, -2, 1, 0), (0, 2, 4, -5 / 2, -5, 1 / 2, 1, 0)),
        *((0, -2, 4, 5 / 2, -5, -1 / 2, 1, 0), (0, -1, 0, 21 / 4, 0, -21 / 4, 0, 1)),
    ),
}
_FILTER: Final[dict[int, Matrix]] = {  # G
    2: ((1, 0, 0), (1 / 2, 1 / 2, 1 / 2), (1 / 2, -1 / 2, 1 / 2), (0, 0, 1)),
    4: (
        *((1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6)),
        *((1 / 24, 1 / 12, 1 / 6), (1 / 24, -1 / 12, 1 / 6), (0, 0, 1)),
    ),
    6: (
        *((1, 0, 0), (-2 / 9, -2 / 9, -2 / 9), (-2 / 9, 2 / 9, -2 / 9), (1 / 90, 1 / 45, 2 / 45)),
        *((1 / 90, -1 / 45, 2 / 45), (32 / 45, 16 / 45, 8 / 45), (32 / 45, -16 / 45, 8 / 45), (0, 0, 1)),
    ),
}
_OUTPUT: Final[dict[int, Matrix]] = {  # A^T
    2: ((1, 1, 1, 0), (0, 1, -1, -1)),
    4: ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1)),
    6: (
        *((1, 1, 1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 1 / 2, -1 / 2, 0), (0, 1, 1, 4, 4, 1 / 4, 1 / 4, 0)),
        *((0, 1, -1, 8, -8, 1 / 8, -1 / 8, 0), (0, 1, 1, 16, 16, 1 / 16, 1 / 16, 0)),
        (0, 1, -1, 32, -32, 1 / 32, -1 / 32, 1),
    ),
}

# The filters of all elements do not fit in the cache of a core. Loading those of one element takes as long as
# multiplying them with this many tiles: 17 GB/s and 57 billion products a second, measured on an AMD EPYC (Zen 4).
_FETCH: Final = 13

_FUSABLE: Final = {"op_pattern": 4}  # TVM's kOutEWiseFusable: bias and ReLU go into this kernel
_ROWS, _RESULT, _PADDED = "winograd_rows", "winograd_columns", "winograd_padded"  # blocks, by which kernels are known
_WEIGHTS: Final = "winograd_weights"


def tiling(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of a tile of outputs, so that an image of `height` x `width` costs the least."""

    def cost(size: tuple[int, int]) -> int:
        rows, columns = size
        return (rows + 2) * (columns + 2) * (_FETCH + -(-height // rows) * -(-width // columns))

    return min(itertools.product(_OUTPUT, _OUTPUT), key=cost)


def filters(weights: te.Tensor, rows: int, columns: int) -> te.Tensor:
    """G g G^T of weights (3, 3, inputs, outputs): (e, inputs, outputs), for tiles of `rows` x `columns` outputs."""
    _, _, inputs, outputs = weights.shape
    half = te.compute(
        (inputs, rows + 2, 3, outputs),
        lambda i, a, s, o: _row(_FILTER[rows], a, lambda k: weights[k, s, i, o]),
        name=_ROWS,
    )
    return te.compute(
        ((rows + 2) * (columns + 2), inputs, outputs),
        lambda e, i, o: _row(_FILTER[columns], e % (columns + 2), lambda k: half[i, e // (columns + 2), k, o]),
        name=_RESULT,
    )


def input_tiles(x: te.Tensor, rows: int, columns: int) -> te.Tensor:
    """B^T d B of each tile of x (1, height, width, inputs), which is padded with 0: (e, t, inputs)."""
    _, height, width, inputs = (int(size) for size in x.shape)
    down, across = -(-height // rows), -(-width // columns)

    def inside(h: Any, w: Any) -> Any:
        return tirx.all(h >= 1, h <= height, w >= 1, w <= width)

    padded = te.compute(
        (down * rows + 2, across * columns + 2, inputs),
        lambda h, w, i: tirx.if_then_else(inside(h, w), x[0, h - 1, w - 1, i], tirx.const(0, x.dtype)),
        name=_PADDED,
    )
    half = te.compute(
        (down * across, rows + 2, columns + 2, inputs),
        lambda t, a, b, i: _row(_INPUT[rows], a, lambda k: padded[t // across * rows + k, t % across * columns + b, i]),
        name=_ROWS,
    )
    return te.compute(
        ((rows + 2) * (columns + 2), down * across, inputs),
        lambda e, t, i: _row(_INPUT[columns], e % (columns + 2), lambda k: half[t, e // (columns + 2), k, i]),
        name=_RESULT,
    )


def products(tiles: te.Tensor, weights: te.Tensor) -> te.Tensor:
    """The matrix product of each element: tiles (e, t, inputs) and weights (e, inputs, outputs) to (e, t, outputs)."""
    k = te.reduce_axis((0, tiles.shape[2]), name="k")
    return te.compute(
        (*tiles.shape[:2], weights.shape[2]),
        lambda e, t, o: te.sum(tiles[e, t, k] * weights[e, k, o], axis=k),
        name="winograd_products",
    )


def output(tiles: te.Tensor, height: int, width: int, rows: int, columns: int) -> te.Tensor:
    """A^T m A of each tile of (e, t, outputs), put together: (1, height, width, outputs)."""
    down, across = -(-height // rows), -(-width // columns)
    half = te.compute(
        (down, across, rows, columns + 2, tiles.shape[2]),
        lambda p, q, a, b, o: _row(_OUTPUT[rows], a, lambda k: tiles[k * (columns + 2) + b, p * across + q, o]),
        name=_ROWS,
    )
    return te.compute(
        (1, height, width, tiles.shape[2]),
        lambda n, h, w, o: _row(_OUTPUT[columns], w % columns, lambda k: half[h // rows, w // columns, h % rows, k, o]),
        name=_RESULT,
    )


def _row(matrix: Matrix, index: Any, element: Callable[[int], Any]) -> Any:
    """Row `index` of the matrix times a vector. Once the loop over `index` is unrolled, only that row's sum is left."""
    sums = []
    for row in matrix:
        terms = [
            element(k) if factor == 1 else element(k) * tirx.const(factor, "float32")
            for k, factor in enumerate(row)
            if factor
        ]
        sums.append(sum(terms[1:], terms[0]))
    result = sums[-1]
    for number, value in reversed([*enumerate(sums[:-1])]):
        result = tirx.Select(index == number, value, result)
    return result


class Legalizer:
    """For LegalizeOps: 3x3 convolutions with constant weights become three kernels. TVM lowers the others."""

    def __init__(self) -> None:
        self._weights: dict[str, Any] = {}  # by the digest of the filters made of them

    def __call__(self, builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        """The kernels of a convolution."""
        attributes = call.attrs
        geometry = (attributes.strides, attributes.padding, attributes.dilation)
        suits = (
            attributes.data_layout == "NHWC"
            and attributes.groups == 1
            and all(int(value) == 1 for values in geometry for value in values)
            and isinstance(call.args[1], ir.GenericConst)
            and tuple(call.args[1].value.shape[:2]) == (3, 3)
        )
        if not suits:
            return ir.Op.get("relax.nn.conv2d").get_attr("FLegalize")(builder, call)
        x, weights = call.args[0], call.args[1].value
        height, width = int(x.ty.shape[1]), int(x.ty.shape[2])
        rows, columns = tiling(height, width)
        transformed = _transformed(weights.numpy(), rows, columns)
        self._weights[_digest(transformed)] = (weights, rows, columns)
        tiles = builder.emit_te(input_tiles, x, rows, columns, primfunc_name_hint="winograd_input")
        multiplied = builder.emit_te(products, tiles, relax.const(transformed), primfunc_name_hint="winograd_products")
        name = {"primfunc_name_hint": "winograd_output", "primfunc_attrs": _FUSABLE}
        return builder.call_te(output, multiplied, height, width, rows, columns, **name)

    def remember(self, module: ir.IRModule) -> ir.IRModule:
        """The module with an attribute that `deferred` needs."""
        return module.with_attr(_WEIGHTS, self._weights)


def _digest(array: NDArray[np.float32]) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


def _transformed(weights: NDArray[np.float32], rows: int, columns: int) -> NDArray[np.float32]:
    result = np.einsum("ar,bs,rsio->abio", np.array(_FILTER[rows]), np.array(_FILTER[columns]), weights)
    flat: NDArray[np.float32] = result.reshape(-1, *weights.shape[2:]).astype(np.float32)
    return flat


def deferred(module: ir.IRModule, lanes: int) -> ir.IRModule:
    """Add, for each `main`, a `prepare`, which returns the transformed filters. `main` takes them after the image.

    The filters are up to seven times as large as the weights. So the library holds the weights, and computes the
    filters when it is loaded.
    """
    weights = {}
    for name in sorted(v.name_hint for v, function in module.functions.items() if isinstance(function, relax.Function)):
        main = _Main(module, name)
        module, weights[name] = main.with_parameters(), main.weights
    if any(weights.values()):
        module = relax.transform.LiftTransformParams()(module)
    builder = relax.BlockBuilder(module)
    for name, tensors in weights.items():
        with builder.function(name.replace("main", "prepare"), []):
            filters: relax.Expr = relax.Tuple([relax.const(tensor) for tensor in tensors])
            if any(weights.values()):
                filters = relax.Call(module.get_global_var(f"{name}_transform_params"), [filters])
            builder.emit_func_output(builder.emit(filters))
    module = builder.get()
    for variable, function in module.functions.items():
        if isinstance(function, tirx.PrimFunc) and (made := scheduled(function, lanes)):
            module[variable] = made
    return module


@relax.expr_functor.mutator
class _Main(relax.PyExprMutator):  # type: ignore[misc]  # TVM has no type hints
    """Replaces known filters, which are constants, by their computation from a parameter."""

    def __init__(self, module: ir.IRModule, name: str) -> None:
        super().__init__(module)
        self._module, self._name, self._known = module, name, module.attrs[_WEIGHTS]
        self._parameters: list[relax.Var] = []
        self.weights: list[Any] = []

    def visit_generic_const_(self, constant: ir.GenericConst) -> relax.Expr:
        found = self._known.get(_digest(constant.value.numpy())) if hasattr(constant.value, "numpy") else None
        if found is None:
            return constant
        weights, rows, columns = found
        parameter = relax.Var(f"weights{len(self.weights)}", relax.TensorType(weights.shape, "float32"))
        self._parameters.append(parameter)
        self.weights.append(weights)
        return self.builder_.emit_te(filters, parameter, int(rows), int(columns), primfunc_name_hint="winograd_filters")

    def with_parameters(self) -> ir.IRModule:
        """The module whose function has a parameter for each of `weights`."""
        variable = self._module.get_global_var(self._name)
        main = self.visit_expr(self._module[variable])
        attributes = {**main.attrs, "num_input": len(main.params)}
        with_parameters = relax.Function(
            [*main.params, *self._parameters], main.body, main.ret_ty, attrs=ir.make_node("ir.DictAttrs", **attributes)
        )
        self.builder_.update_func(variable, with_parameters)
        return self.builder_.get()


def scheduled(kernel: tirx.PrimFunc, lanes: int) -> tirx.PrimFunc | None:
    """A transform of tiles with its schedule, or None for any other kernel.

    For a tile and a vector of channels at a time, both halves of the transform are unrolled: they are a few additions
    of vectors, with nothing for a tuner to find.
    """
    if is_scheduled(kernel):
        return None
    schedule = Schedule(kernel)
    blocks = {schedule.get(b).name_hint: b for b in schedule.get_child_blocks(schedule.get_sblock("root"))}
    if _ROWS not in blocks:
        return None
    rows, result = blocks[_ROWS], blocks[_RESULT]
    for block in reversed(behind(schedule, result)):
        schedule.reverse_compute_inline(block)
    if _PADDED in blocks:
        schedule.vectorize(vectors(schedule, schedule.get_loops(blocks[_PADDED])[-1], lanes)[1])
    if len(schedule.get_loops(result)) == 3:  # elements, tiles or inputs, channels
        channels, lane = vectors(schedule, schedule.get_loops(result)[-1], lanes)
        elements, tiles = schedule.get_loops(result)[:2]
        schedule.reorder(tiles, channels, elements, lane)
        unrolled = [elements]
    else:
        height, width = (int(schedule.get(loop).extent) for loop in schedule.get_loops(rows)[2:4])
        channels, lane = vectors(schedule, schedule.get_loops(result)[-1], lanes)
        h, w = schedule.get_loops(result)[1:3]
        (down, row), (across, column) = schedule.split(h, [None, height]), schedule.split(w, [None, width - 2])
        schedule.reorder(down, across, channels, row, column, lane)
        unrolled = [row, column]
    schedule.compute_at(rows, channels)
    unrolled += schedule.get_loops(rows)[-3:-1]
    for loop in unrolled:
        schedule.unroll(loop)
    for loop in (lane, schedule.get_loops(rows)[-1]):
        schedule.vectorize(loop)
    schedule.set_scope(rows, 0, "local")
    return marked(schedule)
