"""The compiler: torch.export -> Relax -> tuned kernels -> a shared library for each CPU level, by TVM ahead of time.

The compiled function `main` takes one uint8 image (1, H, W, C) and returns the output of the network, float32. The
weights are constants in the library. `Passes` switches each optimization, so that a table can show its effect.
`graph/relax.py` lowers integer graphs; the steps after that are the same, and `Passes` do not apply. For a CPU level on
which floats are faster, the weights of an integer graph become real numbers again.
"""

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import torch
import tvm
from torch import nn
from tvm import relax
from tvm.relax.frontend.torch import from_exported_program
from tvm.relax.transform import (
    AnnotateTIROpPattern,
    AttachAttrLayoutFreeBuffers,
    CanonicalizeBindings,
    ConvertLayout,
    DeadCodeElimination,
    DecomposeOpsForInference,
    EliminateCommonSubexpr,
    FoldConstant,
    FuseOps,
    FuseTIR,
    LegalizeOps,
    MetaScheduleApplyDatabase,
    SplitLayoutRewritePreproc,
)
from tvm.s_tir import Schedule
from tvm.s_tir.analysis import estimate_tir_flops
from tvm.s_tir.meta_schedule.relax_integration import extract_tasks
from tvm.support import cc
from tvm.target import Target, codegen

from model_builder import candidates
from model_builder.compile.records import RECORDS, database, tuned_on
from model_builder.graph import onnx
from model_builder.graph import relax as integers
from model_builder.graph.description import Graph, dequantized
from model_builder.graph.fake_quantized import FakeQuantized, plain
from model_builder.graph.ops import Concatenate, Convolution, Linear, Weights
from model_builder.graph.trace import trace
from model_builder.kernels import tuning_space, winograd
from model_builder.kernels.tuning_space import is_scheduled
from model_builder.networks.reader import SIZE, LPRNet
from model_builder.tasks import Task, task_of
from service.artifact import Artifact, Library, Origin, Probe, Source
from service.artifact.provenance import Compiled
from service.backends.onnxruntime import MODEL
from service.backends.tvm import cpu_flags, suffix
from service.errors import ArtifactError

Size = tuple[int, int]  # height and width
Network = nn.Module | Graph  # a module is in float and takes images of `SIZE`; a graph is of integers

_TOLERANCE = 1e-3  # of a logit, as for every engine that computes in float32
_WORTH_TUNING = 100_000  # operations: convolutions have more; the largest other kernel, a pool, takes 3 us untuned
_VECTOR = 16  # classes that fill a vector of AVX-512, and two of AVX2


@dataclass(frozen=True)
class Level:
    """A kind of CPU: what LLVM calls it, and the flags of /proc/cpuinfo that its instructions need."""

    name: str
    mcpu: str
    needs: tuple[str, ...]
    attributes: tuple[str, ...] = ()

    @property
    def lanes(self) -> int:
        """Floats of a vector."""
        return 16 if "avx512f" in self.needs else 8

    @property
    def integers(self) -> bool:
        """Whether an integer network is computed in integers: only with AVX-512 VNNI.

        Without it, the fastest exact instruction is vpmaddwd, which takes operands of 16 bits. With it (AVX2, tuned)
        the integers of `quantized` took 1.8 ms; float32 with Winograd's convolutions takes 1.2 ms (one thread, AMD
        EPYC).
        """
        return "avx512_vnni" in self.needs

    @property
    def target(self) -> Target:
        """The target of TVM. It has one core, because the service computes each plate on one thread."""
        return Target({"kind": "llvm", "mcpu": self.mcpu, "mattr": list(self.attributes), "num-cores": 1})


# The levels of the x86-64 psABI (https://gitlab.com/x86-psABIs/x86-64-ABI, table 3.1), beyond what every x86-64 has.
_V3 = (
    *("cx16", "lahf_lm", "pni", "popcnt", "sse4_1", "sse4_2", "ssse3"),  # x86-64-v2
    *("abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"),
)
_V4 = (*_V3, "avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl")
_WITH_AVX2 = Level("x86-64-v3", "x86-64-v3", _V3)
LEVELS: Final = (
    Level("x86-64-v4", "x86-64-v4", _V4, ("-prefer-256-bit",)),
    _WITH_AVX2,
)  # the fastest first
INTEGER_LEVELS: Final = (
    Level("x86-64-v4-vnni", "x86-64-v4", (*_V4, "avx512_vnni"), ("-prefer-256-bit", "+avx512vnni")),
    _WITH_AVX2,  # which computes floats: see `Level.integers`
)

# Names of LLVM that /proc/cpuinfo spells differently (arch/x86/include/asm/cpufeatures.h).
_CPUINFO = {
    **{"bmi": "bmi1", "lzcnt": "abm", "sahf": "lahf_lm", "sse3": "pni", "sse4.1": "sse4_1", "sse4.2": "sse4_2"},
    **{f"avx512{name}": f"avx512_{name}" for name in ("bf16", "bitalg", "fp16", "vbmi2", "vnni", "vpopcntdq")},
    "avxvnni": "avx_vnni",
}


@dataclass(frozen=True)
class Passes:
    """Optimizations of a network, in the order of the rows of an ablation. Each pass needs those before it."""

    fold: bool = True  # batch normalization into the weights of the convolution before it
    layout: bool = True  # channels last (NHWC, HWIO), so that vectors run along channels
    winograd: bool = True  # 3x3 convolutions with fewer multiplications, and the schedules of their transforms
    fuse: bool = True  # bias, ReLU and other element-wise work into the kernel before it
    cse: bool = True  # common subexpressions computed once
    tuned: bool = True  # the best schedules that MetaSchedule found
    prepacked: bool = True  # weights laid out ahead of time as the tuned kernels read them, not by each call


def stages() -> dict[str, Passes]:
    """The rows of an ablation: `untuned`, then one pass more in each."""
    names = [field.name for field in fields(Passes)]
    enabled = dict.fromkeys(names, False)
    rows = {"untuned": Passes(**enabled)}
    for name in names:
        enabled[name] = True
        rows[name] = Passes(**enabled)
    return rows


def stage(name: str) -> Passes:
    """The passes of one row of `stages`; ValueError if there is none of that name."""
    if found := stages().get(name):
        return found
    raise ValueError(f"no stage is called {name!r}: give {', '.join(stages())}")


def level(name: str) -> Level:
    """The level of that name, `native` being this machine's CPU as LLVM knows it; ValueError if there is none."""
    if name != "native":
        known = {level.name: level for level in (*LEVELS, *INTEGER_LEVELS)}
        if name in known:
            return known[name]
        raise ValueError(f"no CPU level is called {name!r}: give {', '.join(known)} or native")
    cpu, flags = codegen.llvm_get_system_cpu(), cpu_flags()
    with Target({"kind": "llvm", "mcpu": cpu}):
        features = {feature: _CPUINFO.get(feature, feature) for feature in codegen.llvm_get_cpu_features()}
    # A hypervisor may hide features that LLVM assumes for a CPU of this name.
    hidden = [f"-{f}" for f, flag in features.items() if flag.startswith(("avx", "fma", "f16c")) and flag not in flags]
    return Level(cpu, cpu, tuple(sorted(flags.intersection(features.values()))), tuple(sorted(hidden)))


def levels_of(network: Network) -> tuple[Level, ...]:
    """The levels that a network is published for."""
    return INTEGER_LEVELS if isinstance(network, Graph) else LEVELS


def computed(network: Network, level: Level) -> Network:
    """The network that a library of the level computes: itself, or its floats where these are faster."""
    if isinstance(network, Graph) and not level.integers:
        return plain(dequantized(network))
    return network


def network_of(source: Artifact) -> Network:
    """The network of a torch artifact, or the integer graph of an ONNX artifact. Raises ArtifactError for others."""
    match source.manifest.backend:
        case "torch":
            return candidates.load_network(source).eval()
        case "onnxruntime":
            return onnx.read(source.file(MODEL))
        case _:
            raise ArtifactError(f"{source.folder} is compiled already: name the variant that it was compiled from")


def sizes_of(source: Artifact) -> tuple[Size, ...]:
    """Heights and widths of the images that a model takes."""
    return tuple((int(height), int(width)) for height, width, _ in source.manifest.images)


class _WholeVectors(nn.Module):
    """A float graph whose linear map computes whole vectors of outputs: 80 for 74 classes. The rest is cut off.

    The bias of maps is added after the cut. Where a kernel reads a part of a bias, TVM's RewriteLayout writes the
    whole of it into a buffer of that part's size, and 0 over its values. (Not so in the tuned kernel of LPRNet.)
    """

    bias: torch.Tensor

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        output = graph.weighted[-1]
        self.outputs, self.later = len(output.bias), graph.shapes()[output.name][0] > 1
        self.register_buffer("bias", torch.tensor(output.bias)[:, None, None])
        if self.later:
            graph = replace(graph, nodes=(*graph.nodes[:-1], replace(output, bias=np.zeros_like(output.bias))))
        self.network = plain(_one_product(graph, -self.outputs % _VECTOR))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found, _ = self.network.outputs(images)
        outputs = found[self.network.graph.output.name][:, : self.outputs]
        return self.network.laid_out(outputs + self.bias if self.later else outputs)


def _one_product(graph: Graph, more: int) -> Graph:
    """A float graph whose output is a convolution of all that its linear map takes, with `more` outputs of 0."""
    output = graph.output
    if not isinstance(output, Linear):
        return graph
    values = np.concatenate([part.values for part in output.parts], axis=1)[:, :, None, None]
    values = np.pad(values, [(0, more), (0, 0), (0, 0), (0, 0)])
    features = Concatenate(name=f"{output.name}.features", inputs=output.inputs)
    several = len(output.inputs) > 1
    product = Convolution(
        name=output.name,
        inputs=(features.name,) if several else output.inputs,
        parts=(Weights(values),),
        bias=np.pad(output.bias, (0, more)),
    )
    return replace(graph, nodes=(*graph.nodes[:-1], *[features] * several, product))


def lowered(network: Network, level: Level, passes: Passes, sizes: Sequence[Size] = ()) -> tvm.IRModule:
    """The network as kernels in TVM's loop language, with a schedule where nothing is to be found by tuning.

    There is a function for each of `sizes`, by default for the size of images that it is described for. ValueError if
    TVM cannot import it.
    """
    network = computed(network, level)
    names = _names(sizes or (_size(network),))
    if isinstance(network, Graph):
        return integers.build(network, names)
    floats = _floats(network, passes)
    functions = {f"main{name}": _imported(floats, size) for name, size in names.items()}
    module = tvm.IRModule({name: made.with_attr("global_symbol", name) for name, made in functions.items()})
    sequence = [DecomposeOpsForInference(), CanonicalizeBindings()]
    if passes.layout:
        sequence.append(ConvertLayout({"relax.nn.conv2d": ["NHWC", "HWIO"]}))
    sequence += [FoldConstant(), CanonicalizeBindings()]
    if passes.cse:
        sequence.append(EliminateCommonSubexpr())
    convolutions = winograd.Legalizer()
    sequence += [
        DeadCodeElimination(),
        LegalizeOps({"relax.nn.conv2d": convolutions} if passes.winograd else None),
        AnnotateTIROpPattern(),
        FoldConstant(),
    ]
    if passes.fuse:
        sequence += [FuseOps(), FuseTIR()]
    if passes.tuned:
        sequence.append(AttachAttrLayoutFreeBuffers())  # a schedule may read the weights in an order of its own
    with level.target:
        module = tvm.transform.Sequential(sequence)(module)
    for variable, function in module.functions.items():
        if isinstance(function, tvm.tirx.PrimFunc):
            made = winograd.scheduled(function, level.lanes)
            if made is None and passes.fuse and worth_tuning(function):
                made = tuning_space.elementwise(function, level.lanes)
            module[variable] = made or function
    return convolutions.remember(module)


def _size(network: Network) -> Size:
    """Height and width of the images that a network is described for."""
    graph = network if isinstance(network, Graph) else getattr(network, "graph", None)
    return SIZE[:2] if graph is None else graph.pixels.size[:2]


def _names(sizes: Sequence[Size]) -> dict[str, Size]:
    """The sizes by what stands behind the names of their functions."""
    shapes = [(*size, 3) for size in sizes]
    return {suffix(shape, shapes): size for shape, size in zip(shapes, sizes, strict=True)}


def _imported(network: nn.Module, size: Size) -> relax.Function:
    """The network as TVM's function of one image."""
    example = torch.zeros(1, *size, 3, dtype=torch.uint8)
    with torch.no_grad():
        module = from_exported_program(torch.export.export(network, (example,)), unwrap_unit_return_tuple=True)
    return module["main"]


def _floats(network: nn.Module, passes: Passes) -> nn.Module:
    """The module to export for a float network: its graph, or the network itself where nothing is folded."""
    if not passes.fold:
        return copy.deepcopy(network).eval()
    graph = network.graph if isinstance(network, FakeQuantized) else trace(network, SIZE)
    return _WholeVectors(graph) if passes.layout else plain(_one_product(graph, 0))


def scheduled(
    network: Network,
    level: Level,
    passes: Passes | None = None,
    records: Path = RECORDS,
    sizes: Sequence[Size] = (),
) -> tuple[tvm.IRModule, tuple[str, ...]]:
    """The network's kernels with the schedules in `records`: those of the level, else those of another level.

    The second value names the kernels that are worth tuning and have no record. They get a random schedule of the
    tuning space, which is far better than plain loops; in an integer network, all must use the instruction anyway.
    """
    passes = passes or Passes()
    network = computed(network, level)
    module, untuned = lowered(network, level, passes, sizes), []
    with level.target:
        if passes.tuned:
            with database(extract_tasks(module, level.target), level.name, records):
                module = MetaScheduleApplyDatabase()(module)
            for variable, function in module.functions.items():
                if isinstance(function, tvm.tirx.PrimFunc) and worth_tuning(function):
                    untuned.append(variable.name_hint)
                    schedule = Schedule(function, seed=1)
                    tuning_space.tiled(schedule, level.lanes)
                    module[variable] = tuning_space.marked(schedule)
        if isinstance(network, Graph):
            return integers.completed(module), tuple(sorted(untuned))
        if passes.prepacked:
            module = SplitLayoutRewritePreproc()(module)
        module = winograd.deferred(module, level.lanes)
        module = tvm.transform.Sequential([FoldConstant(), DeadCodeElimination()])(module)
    return module, tuple(sorted(untuned))


def export(module: tvm.IRModule, level: Level, path: Path) -> None:
    """Compile scheduled kernels into a shared library, without debugging information."""
    if cc.get_cc() is None:
        raise ValueError("linking a library takes a C++ compiler: install g++, or set CXX to yours")
    relax.build(module, level.target).export_library(str(path), options=["-s"])


def candidate(
    source: Artifact,
    variant: str,
    levels: tuple[Level, ...] = (),
    passes: Passes | None = None,
    records: Path = RECORDS,
    task: Task | None = None,
) -> candidates.Candidate:
    """The network of an artifact, compiled for each of `levels`, by default those that it is published for.

    The libraries have to reproduce the logits of torch, or those of `graph/reference.py` for an integer network. A
    library that computes an integer network in floats has a probe of its own, with the logits of torch.
    """
    passes = passes or Passes()
    network, sizes = network_of(source), sizes_of(source)
    levels = levels or levels_of(network)
    tuned = {level.name: tuned_on(records / f"{level.name}.json") for level in levels}
    origin = Origin(
        seed=source.manifest.provenance.seed,
        source=Source.of(source.manifest),
        made=Compiled(passes=asdict(passes), tuned_on=tuned),
    )
    if isinstance(network, Graph):
        made = candidates.onnx_candidate(variant, network, origin, task or task_of(source.manifest))
    else:
        assert isinstance(network, LPRNet)
        made = candidates.torch_candidate(variant, network, origin, task or task_of(source.manifest))

    def write(folder: Path) -> None:
        for level in levels:
            module, untuned = scheduled(network, level, passes, records, sizes)
            if untuned:
                print(f"{level.name}: no tuning record for {', '.join(untuned)}; --tune makes them")
            export(module, level, folder / f"{level.name}.so")

    libraries, others = [], {}
    for level in levels:
        probe = None
        if (floats := computed(network, level)) is not network:
            assert isinstance(floats, nn.Module)
            probe = Probe(file=f"{level.name}.npz", tolerance=_TOLERANCE)
            others[probe.file] = partial(candidates.torch_logits, floats)
        libraries.append(Library(file=f"{level.name}.so", level=level.name, needs=level.needs, probe=probe))
    return replace(made, backend="tvm", write=write, tolerance=_TOLERANCE, libraries=tuple(libraries), others=others)


def worth_tuning(kernel: tvm.tirx.PrimFunc) -> bool:
    """Whether a kernel computes much, and has no schedule yet."""
    return not is_scheduled(kernel) and bool(estimate_tir_flops(tvm.IRModule({"main": kernel})) >= _WORTH_TUNING)
