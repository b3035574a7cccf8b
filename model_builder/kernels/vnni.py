# mypy: disable-error-code="valid-type, untyped-decorator"
# TVMScript has the form of Python, not its types.
"""A tensor intrinsic of TVM for AVX-512 VNNI: it adds four products of uint8 and int8 to each of 16 int32 sums.

TVM 0.27 has this intrinsic under another name, but its operands have another width than LLVM declares, and LLVM refuses
to compile it. The operands of `llvm.x86.avx512.vpdpbusd.512` are <16 x i32>, <64 x i8> and <64 x i8>.
"""

from typing import Final

from tvm import tirx
from tvm.s_tir import TensorIntrin
from tvm.script import tirx as T

NAME: Final = "lpr.vpdpbusd"
LLVM: Final = "llvm.x86.avx512.vpdpbusd.512"
LANES: Final = 16  # sums
GROUP: Final = 4  # products that are added to each


@T.prim_func(s_tir=True)
def _multiply_add(
    a: T.Buffer((4,), "uint8", offset_factor=1),
    b: T.Buffer((16, 4), "int8", offset_factor=1),
    c: T.Buffer((16,), "int32", offset_factor=1, scope="local"),
) -> None:
    """What the instruction computes, for TVM to recognize."""
    with T.sblock("root"):
        T.reads(c[0:16], a[0:4], b[0:16, 0:4])
        T.writes(c[0:16])
        for i in T.serial(0, 16):
            for k in T.serial(0, 4):
                with T.sblock("update"):
                    vi, vk = T.axis.remap("SR", [i, k])
                    c[vi] = c[vi] + T.cast(a[vk], "int32") * T.cast(b[vi, vk], "int32")


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


TensorIntrin.register(NAME, _multiply_add, _vpdpbusd, override=True)


def uses(kernel: tirx.PrimFunc) -> bool:
    """Whether a scheduled kernel calls the instruction."""
    return LLVM in kernel.script()
