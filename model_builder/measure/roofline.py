# mypy: disable-error-code="valid-type, untyped-decorator"
# TVMScript has the form of Python, not its types.
"""How near the kernels of a compiled integer network come to what the CPU's instruction can do.

The limit is measured, on sums that do not wait for each other, with all operands in registers. The share of it that a
kernel reaches is that of Williams et al.'s roofline ("Roofline: an insightful visual performance model for multicore
architectures", 2009) where memory holds nothing up.
"""

import time
from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.script import tirx as T

from model_builder.compile import compiler
from model_builder.graph.description import Graph
from model_builder.graph.ops import Context, Linear
from model_builder.kernels import vnni
from model_builder.train.data import validation_set
from service.artifact import Artifact
from service.backends.tvm import choose, cpu_flags, flush_denormals

_CHAINS = 12  # sums: more than wait for each other, and few enough for TVM to keep them in registers
_TURNS = 1 << 16
_REPEATS = 200


def profile(artifact: Artifact, source: Artifact) -> dict[str, Any] | None:
    """Microseconds and multiply-adds of every kernel of a plate, in the order of computation, and the limit.

    `artifact` was compiled from `source`, which is quantized. None where this CPU has no VNNI.
    """
    library = choose(artifact, cpu_flags())
    if "avx512_vnni" not in library.needs:
        return None
    network = compiler.network_of(source)
    assert isinstance(network, Graph)
    work = _work(network)
    machine = relax.VirtualMachine(tvm.runtime.load_module(str(artifact.file(library.file))), tvm.cpu())
    flush_denormals()
    crop = tvm.runtime.tensor(validation_set(1).images)
    times: list[list[float]] = []

    def instrument(_: Any, name: str, before: bool, *_rest: Any) -> None:
        if name.startswith("vm."):
            return
        if before:
            times[-1].append(time.perf_counter())
        else:
            times[-1][-1] = time.perf_counter() - times[-1][-1]

    for _ in range(_REPEATS // 10):
        machine["main"](crop)
    machine.set_instrument(instrument)
    for _ in range(_REPEATS):
        times.append([])
        machine["main"](crop)
    medians = np.median(times, axis=0)
    kernels = [
        {"kernel": name, "us": round(1e6 * float(seconds), 2), "multiply_adds": count}
        for (name, count), seconds in zip(work, medians, strict=True)
    ]
    return {"level": library.level, "limit": limit(compiler.level(library.level)), "kernels": kernels}


def _work(graph: Graph) -> list[tuple[str, int]]:
    """The kernels of `graph/relax.py` in the order of computation, with their integer multiply-adds."""
    counts, found = graph.multiply_adds(), []
    for node in graph.convolutions:
        found.append((node.name, counts[node.name]))
    output = graph.output
    assert isinstance(output, Linear)
    height, width, _ = graph.shapes()[output.name]
    for name, part in zip(output.inputs, output.parts, strict=True):
        if isinstance(graph[name], Context):
            found.append((name, 0))
        found.append((f"{output.name} {name}", height * width * part.values.size if part.integer else 0))
    return [*found, ("sum", 0)]


def limit(level: compiler.Level) -> float:
    """Integer multiply-adds a second of one core, by VNNI."""

    @T.prim_func(s_tir=True)
    def chains(a: T.Buffer((64,), "int8"), b: T.Buffer((64,), "int8"), sums: T.Buffer((_CHAINS, 16), "int32")) -> None:
        T.func_attr({"global_symbol": "main", "tirx.noalias": True})
        with T.sblock("root"):
            kept = T.sblock_alloc_buffer((_CHAINS, 16), "int32", scope="local")
            for i in T.unroll(_CHAINS):
                kept[i, T.ramp(T.int32(0), 1, 16)] = T.broadcast(T.int32(0), 16)
            for _ in T.serial(_TURNS):
                for i in T.unroll(_CHAINS):
                    kept[i, T.ramp(T.int32(0), 1, 16)] = T.call_llvm_pure_intrin(
                        T.llvm_lookup_intrinsic_id("llvm.x86.avx512.vpdpbusd.512"),
                        kept.vload([i, 0], dtype="int32x16"),
                        a.vload([0], dtype="int8x64"),
                        b.vload([0], dtype="int8x64"),
                        dtype="int32x16",
                    )
            for i in T.unroll(_CHAINS):
                sums[i, T.ramp(T.int32(0), 1, 16)] = kept.vload([i, 0], dtype="int32x16")

    main = tvm.compile(tvm.IRModule({"main": chains}), level.target)["main"]
    operands = [tvm.runtime.tensor(np.zeros(64, np.int8)) for _ in range(2)]
    sums = tvm.runtime.tensor(np.zeros((_CHAINS, 16), np.int32))
    times = []
    for _ in range(20):
        started = time.perf_counter()
        main(*operands, sums)
        times.append(time.perf_counter() - started)
    return _TURNS * _CHAINS * vnni.LANES * vnni.GROUP / min(times)
