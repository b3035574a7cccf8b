"""The tuning space of convolutions and matrix products: the size of the tile of sums that is kept in registers.

MetaSchedule's own rules for CPUs tile each loop on four levels. They rarely find the few tilings whose sums all stay in
registers while vectors run along the channels. This space has only those. As in the libraries for matrix products (Goto
and van de Geijn, "Anatomy of High-Performance Matrix Multiplication", 2008) the innermost loops are unrolled into rows
x vectors sums: each input that is loaded is used for a row of them, each vector of weights for a column.
"""

import math
from typing import Any, Final

from tvm import tirx
from tvm.s_tir import Schedule
from tvm.s_tir import meta_schedule as ms

from model_builder.kernels import vnni

# Vectors of sums at most in a tile: AVX-512 has 32 registers, and compiling takes a minute where they spill.
_SUMS: Final = 28
_VECTORS: Final = 8  # at most along the channels of a tile
_UNROLLED: Final = 8  # products at most that are added to a sum in one iteration
_BYTES: Final = 64  # of a vector that copies uint8
_REDUCTION: Final = 2  # tirx.IterVar.CommReduce
_SCHEDULED: Final = "tirx.is_scheduled"  # TVM's attribute of a kernel that has its schedule


def generator(lanes: int) -> ms.space_generator.ScheduleFn:
    """The space for vectors of `lanes` floats."""
    return ms.space_generator.ScheduleFn(
        lambda sch: tiled(sch, lanes),
        sch_rules=[],
        postprocs=[ms.postproc.RewriteLayout()],
        mutator_probs={ms.mutator.MutateTileSize(): 1.0},
    )


def search() -> ms.search_strategy.EvolutionarySearch:
    """MetaSchedule's search among fewer candidates at a time: most kernels have 30 to 160 schedules in this space."""
    return ms.search_strategy.EvolutionarySearch(population_size=64, init_min_unmeasured=16, genetic_num_iters=2)


def tiled(sch: Schedule, lanes: int) -> None:
    """Schedule a kernel with random tile sizes. The tuner varies these sizes and no other step of the schedule."""
    sums = next(block for block in sch.get_child_blocks(sch.get_sblock("root")) if _REDUCTION in _kinds(sch, block))
    integers = _integers(sch, sums)
    for block in sch.get_producers(sums):
        _prepare(sch, block, _BYTES if integers else lanes)
    result = _result(sch, sums)
    loops, kinds = sch.get_loops(sums), _kinds(sch, sums)
    summed = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == _REDUCTION]
    first, *rows = (loop for loop, kind in zip(loops, kinds, strict=True) if kind != _REDUCTION)
    group = []
    if integers:  # the instruction's sums and the products of each are loops of their own
        *rows, channels, lane = rows
        group = [summed.pop()]
    else:
        channels, lane = vectors(sch, rows.pop(), lanes)

    channels, tile_channels = _split(sch, channels, _VECTORS)
    kept = int(sch.get(tile_channels).extent)
    tiles = []
    for loop in rows:
        tiles.append(_split(sch, loop, _SUMS // kept))
        kept *= int(sch.get(tiles[-1][1]).extent)
    last, tile_last = _split(sch, summed.pop(), _UNROLLED)
    summed.append(last)
    outer = (first, channels, *(loop for loop, _ in tiles))
    inner = (tile_last, *(loop for _, loop in tiles), tile_channels)
    sch.reorder(*outer, *summed, *inner, lane, *group)
    sch.reverse_compute_at(result, outer[-1], preserve_unit_loops=True)
    _unroll(sch, *inner)
    if not integers:
        sch.vectorize(lane)
    _unroll_vectors(sch, result, len(outer), lanes)
    start = sch.decompose_reduction(sums, summed[0])
    _unroll_vectors(sch, start, len(outer), lanes)
    if integers:
        sch.tensorize(lane, vnni.NAME)


def marked(sch: Schedule) -> tirx.PrimFunc:
    """The kernel with its schedule, for `is_scheduled`."""
    return sch.mod["main"].with_attr(_SCHEDULED, True)


def is_scheduled(kernel: tirx.PrimFunc) -> bool:
    """Whether a kernel has a schedule already."""
    return bool(kernel.attrs and kernel.attrs.get(_SCHEDULED))


def elementwise(kernel: tirx.PrimFunc, lanes: int) -> tirx.PrimFunc | None:
    """A kernel that sums nothing, such as the one that makes real numbers of pixels, as one loop of vectors; None for
    any other. There is nothing for a tuner to find."""
    sch = Schedule(kernel)
    *blocks, last = sch.get_child_blocks(sch.get_sblock("root"))
    if any(_REDUCTION in _kinds(sch, block) for block in (*blocks, last)):
        return None
    for block in blocks:
        sch.compute_inline(block)
    sch.vectorize(vectors(sch, sch.fuse(*sch.get_loops(last)), lanes)[1])
    return marked(sch)


def _integers(sch: Schedule, block: Any) -> bool:
    (written,) = sch.get(block).writes
    return str(written.source.dtype) == "int32"


def _kinds(sch: Schedule, block: Any) -> list[int]:
    return [int(axis.iter_type) for axis in sch.get(block).iter_vars]


def _prepare(sch: Schedule, block: Any, lanes: int) -> None:
    """Write the padded input before the sums, in vectors; where nothing is padded, read the input itself."""
    reads, (written,) = sch.get(block).reads, sch.get(block).writes
    shapes = [[int(size) for size in read.source.shape] for read in reads]
    if shapes == [[int(size) for size in written.source.shape]]:
        sch.compute_inline(block)
    else:
        sch.vectorize(vectors(sch, sch.get_loops(block)[-1], lanes)[1])


def _result(sch: Schedule, sums: Any) -> Any:
    """The block that stores a finished tile: bias and ReLU, if the kernel has them."""
    *inlined, last = behind(sch, sums) or [None]
    for block in inlined:
        sch.compute_inline(block)
    if last is None:
        return sch.cache_write(sums, 0, "local")
    sch.set_scope(sums, 0, "local")
    return last


def _split(sch: Schedule, loop: Any, largest: int) -> Any:
    """Two loops, the inner one as long as the tuner chooses."""
    return sch.split(loop, sch.sample_perfect_tile(loop, n=2, max_innermost_factor=largest))


def _unroll(sch: Schedule, *loops: Any) -> None:
    for loop in loops:
        sch.unroll(loop)


def _unroll_vectors(sch: Schedule, block: Any, outer: int, lanes: int) -> None:
    """Unroll what a block does in a tile, in vectors."""
    lane = vectors(sch, sch.get_loops(block)[-1], lanes)[1]
    _unroll(sch, *sch.get_loops(block)[outer:-1])
    sch.vectorize(lane)


def behind(sch: Schedule, block: Any) -> list[Any]:
    """The blocks that consume the output of `block`, one after the other."""
    found: list[Any] = []
    while consumers := sch.get_consumers(found[-1] if found else block):
        found.append(consumers[0])
    return found


def vectors(sch: Schedule, loop: Any, lanes: int) -> Any:
    """A loop over channels split in two: over vectors, and inside of one."""
    return sch.split(loop, [None, math.gcd(int(sch.get(loop).extent), lanes)])
