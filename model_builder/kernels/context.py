"""LPRNet's global context in TVM: float32, in vectors of `VECTOR` channels, with a schedule of its own.

An `Element` gives an input's number at a row, column and channel, and 0 behind its channels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from tvm import te, tirx
from tvm.s_tir import Schedule

from model_builder.kernels import vnni
from model_builder.kernels.tuning_space import marked, vectors

VECTOR: Final = vnni.LANES  # as many floats fill a vector of AVX-512

Element = Callable[[Any, Any, Any], Any]


@dataclass(frozen=True)
class Input:
    """One input: uint8 of `scale`, its size, and how many channels its mean of squares is taken over."""

    element: Element
    scale: float
    height: int
    width: int
    channels: int  # whole vectors
    counted: int


def contexts(inputs: list[Input], columns: int, epsilon: float) -> te.Tensor:
    """The contexts of `graph/reference.py`, concatenated: (channels / VECTOR, columns, VECTOR)."""
    parts = [_context(each, columns, epsilon) for each in inputs]
    counts = [each.channels // VECTOR for each in inputs]

    def join(v: Any, t: Any, lane: Any) -> Any:
        """Once the loop over `v` is unrolled, one of the terms is left."""
        result, offset = None, 0
        for (means, divisor), count in zip(parts, counts, strict=True):
            value = means[t, tirx.max(tirx.min(v - offset, count - 1), 0) * VECTOR + lane] / divisor[0]
            result = value if result is None else tirx.Select(v >= offset, value, result)
            offset += count
        return result

    return te.compute((sum(counts), columns, VECTOR), join, name="joined")


def _context(x: Input, columns: int, epsilon: float) -> tuple[te.Tensor, te.Tensor]:
    """Means (columns, channels) of an input, and what they are divided by (1)."""
    stride = x.width // columns
    factor, count, offset = (
        tirx.const(np.float32(value), "float32")
        for value in (x.scale / (x.height * stride), columns * x.counted, epsilon)
    )
    lengths = (x.height * stride, columns, x.channels // VECTOR, VECTOR)
    used, t, v, r = (te.reduce_axis((0, length), "r") for length in lengths)
    sums = te.compute(
        (columns, x.channels),
        lambda t, i: te.sum(x.element(used // stride, t * stride + used % stride, i).astype("int32"), axis=used),
        name="column_sums",
    )
    means = te.compute((columns, x.channels), lambda t, i: sums[t, i].astype("float32") * factor, name="means")
    partial_sums = te.compute(
        (VECTOR,),
        lambda i: te.sum(means[t, v * VECTOR + i] * means[t, v * VECTOR + i], axis=[t, v]),
        name="partial_squares",
    )
    squares = te.compute((1,), lambda _: te.sum(partial_sums[r], axis=r), name="squares")
    return means, te.compute((1,), lambda i: squares[i] / count + offset, name="divisor")


def product(x: te.Tensor, weights: te.Tensor, columns: int) -> te.Tensor:
    """Of all contexts and weights (channels, O): (1, columns, O). Further columns repeat the last one."""
    v, lane = te.reduce_axis((0, x.shape[0]), "v"), te.reduce_axis((0, VECTOR), "lane")
    last = int(x.shape[1]) - 1
    return te.compute(
        (1, columns, weights.shape[1]),
        lambda n, t, o: te.sum(x[v, tirx.min(t, last), lane] * weights[v * VECTOR + lane, o], axis=[v, lane]),
        name="product",
    )


def scheduled(kernel: tirx.PrimFunc) -> tirx.PrimFunc:
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
    return marked(schedule)
