"""Winograd's convolutions, and the schedules the tuner draws from: they compute what plain loops do."""

import numpy as np
import pytest
import tvm
from torch import from_numpy
from torch.nn import functional
from tvm import te

from model_builder.kernels import tuning_space, winograd

LANES = 4


def run(kernel: tvm.tirx.PrimFunc, *inputs: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    arguments = [tvm.runtime.tensor(array) for array in (*inputs, np.zeros(shape, np.float32))]
    tvm.compile(tvm.IRModule({"main": kernel}), target="llvm")["main"](*arguments)
    return arguments[-1].numpy()


def scheduled(result: te.Tensor, *inputs: te.Tensor) -> tvm.tirx.PrimFunc:
    made = winograd.scheduled(te.create_prim_func([*inputs, result]), LANES)
    assert made is not None
    return made


@pytest.mark.parametrize(("rows", "columns"), [(2, 4), (4, 6), (6, 2)])
def test_the_three_kernels_are_a_convolution(rows, columns):
    height, width, inputs, outputs = 7, 9, 8, 4
    random = np.random.default_rng(rows * columns)
    x = random.standard_normal((1, height, width, inputs)).astype(np.float32)
    weights = random.standard_normal((3, 3, inputs, outputs)).astype(np.float32)
    elements, tiles = (rows + 2) * (columns + 2), -(-height // rows) * -(-width // columns)

    source = te.placeholder(x.shape, name="x")
    tiled = run(scheduled(winograd.input_tiles(source, rows, columns), source), x, shape=(elements, tiles, inputs))
    source = te.placeholder(weights.shape, name="weights")
    made = run(scheduled(winograd.filters(source, rows, columns), source), weights, shape=(elements, inputs, outputs))
    np.testing.assert_allclose(made, winograd._transformed(weights, rows, columns), atol=1e-5)
    source = te.placeholder((elements, tiles, outputs), name="products")
    back = scheduled(winograd.output(source, height, width, rows, columns), source)
    computed = run(back, np.matmul(tiled, made), shape=(1, height, width, outputs))

    nchw = functional.conv2d(
        from_numpy(x).double().permute(0, 3, 1, 2), from_numpy(weights).double().permute(3, 2, 0, 1), padding=1
    )
    np.testing.assert_allclose(computed, nchw.permute(0, 2, 3, 1).numpy(), atol=2e-4)


def test_a_tiling_is_the_cheapest():
    def multiplications(height: int, width: int) -> int:
        rows, columns = winograd.tiling(height, width)
        return (rows + 2) * (columns + 2) * -(-height // rows) * -(-width // columns)

    assert winograd.tiling(2, 2) == (2, 2)  # one tile: the filters are what costs
    assert winograd.tiling(240, 480) == (6, 6)
    assert multiplications(24, 47) < 24 * 47 * 9 / 4.4


def test_other_kernels_are_left_alone():
    x = te.placeholder((4, 4), name="x")
    assert winograd.scheduled(te.create_prim_func([x, te.compute((4, 4), lambda i, j: x[i, j] + 1)]), LANES) is None


def test_every_schedule_of_the_space_computes_the_same():
    random = np.random.default_rng(0)
    tiles, filters = (random.standard_normal(shape).astype(np.float32) for shape in ((3, 12, 16), (3, 16, 24)))
    inputs = [te.placeholder(array.shape, name="input") for array in (tiles, filters)]
    plain = tvm.IRModule({"main": te.create_prim_func([*inputs, winograd.products(*inputs)])})
    instructions = set()
    for seed in range(1, 9):
        schedule = tvm.s_tir.Schedule(plain, seed=seed)
        tuning_space.tiled(schedule, LANES)
        instructions.add(tuple((step.kind.name, len(step.outputs)) for step in schedule.trace.insts))
        computed = run(schedule.mod["main"], tiles, filters, shape=(3, 12, 24))
        np.testing.assert_allclose(computed, np.matmul(tiles, filters), rtol=1e-4, atol=1e-5)
    assert len(instructions) == 1  # else the tuner could not give one schedule the tile sizes of another
