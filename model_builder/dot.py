# mypy: disable-error-code="valid-type, untyped-decorator"
# TVMScript has the form of Python, not its types.
"""Instructions that add products of neighbouring inputs to a vector of integer sums, as TVM's tensor intrinsics.

TVM 0.27 brings AVX-512's under another name, but passes integers of another width than its LLVM declares, which then
refuses the function: the operands of `llvm.x86.avx512.vpdpbusd.512` are <16 x i32>, <64 x i8> and <64 x i8>.
"""

from dataclasses import dataclass
from typing import Final

from tvm import tirx
from tvm.s_tir import TensorIntrin
from tvm.script import tirx as T


@dataclass(frozen=True)
class Dot:
    """An instruction: `lanes` int32 sums, each of `group` products of an activation and an int8 weight."""

    name: str
    llvm: str
    lanes: int
    group: int
    activations: str  # type that they are widened to
    weights: str


def _description(dot: Dot) -> tirx.PrimFunc:
    """What the instruction computes, for TVM to recognize."""
    lanes, group = dot.lanes, dot.group

    @T.prim_func(s_tir=True)
    def multiply_add(
        a: T.Buffer((group,), dot.activations, offset_factor=1),
        b: T.Buffer((lanes, group), dot.weights, offset_factor=1),
        c: T.Buffer((lanes,), "int32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(c[0:lanes], a[0:group], b[0:lanes, 0:group])
            T.writes(c[0:lanes])
            for i in T.serial(0, lanes):
                for k in T.serial(0, group):
                    with T.sblock("update"):
                        vi, vk = T.axis.remap("SR", [i, k])
                        c[vi] = c[vi] + T.cast(a[vk], "int32") * T.cast(b[vi, vk], "int32")

    return multiply_add


@T.prim_func(s_tir=True)
def _vpdpbusd(
    a: T.Buffer((4,), "uint8", offset_factor=1),
    b: T.Buffer((16, 4), "int8", offset_factor=1),
    c: T.Buffer((16,), "int32", offset_factor=1, scope="local"),
) -> None:
    with T.sblock("root"):
        T.reads(c[0:16], a[0:4], b[0:16, 0:4])
        T.writes(c[0:16])
        four = T.reinterpret(a.vload([0], "uint8x4"), dtype="int32")
        c[T.ramp(T.int32(0), 1, 16)] = T.call_llvm_pure_intrin(
            T.llvm_lookup_intrinsic_id("llvm.x86.avx512.vpdpbusd.512"),
            c.vload([0], dtype="int32x16"),
            T.reinterpret(T.broadcast(four, 16), dtype="int8x64"),
            b.vload([0, 0], dtype="int8x64"),
            dtype="int32x16",
        )


@T.prim_func(s_tir=True)
def _vpmaddwd(
    a: T.Buffer((2,), "int16", offset_factor=1),
    b: T.Buffer((8, 2), "int16", offset_factor=1),
    c: T.Buffer((8,), "int32", offset_factor=1, scope="local"),
) -> None:
    with T.sblock("root"):
        T.reads(c[0:8], a[0:2], b[0:8, 0:2])
        T.writes(c[0:8])
        two = T.reinterpret(a.vload([0], "int16x2"), dtype="int32")
        c[T.ramp(T.int32(0), 1, 8)] = c.vload([0], dtype="int32x8") + T.call_llvm_pure_intrin(
            T.llvm_lookup_intrinsic_id("llvm.x86.avx2.pmadd.wd"),
            T.reinterpret(T.broadcast(two, 8), dtype="int16x16"),
            b.vload([0, 0], dtype="int16x16"),
            dtype="int32x8",
        )


VNNI: Final = Dot("lpr.vpdpbusd", "llvm.x86.avx512.vpdpbusd.512", 16, 4, activations="uint8", weights="int8")
AVX2: Final = Dot("lpr.vpmaddwd", "llvm.x86.avx2.pmadd.wd", 8, 2, activations="int16", weights="int16")  # widened
INSTRUCTIONS: Final = (VNNI, AVX2)
TensorIntrin.register(VNNI.name, _description(VNNI), _vpdpbusd, override=True)
TensorIntrin.register(AVX2.name, _description(AVX2), _vpmaddwd, override=True)


def uses(kernel: tirx.PrimFunc, instruction: Dot) -> bool:
    """Whether a scheduled kernel calls the instruction."""
    return instruction.llvm in kernel.script()
