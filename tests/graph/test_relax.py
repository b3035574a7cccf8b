"""The integer network in TVM: its integers are those of the reference, and are summed by the instruction.

Where a CPU lacks that instruction, floats of the same weights are served.
"""

import shutil
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from tvm import relax, runtime
from tvm.s_tir import Schedule

from model_builder import candidates, publish
from model_builder.__main__ import main
from model_builder.compile import compiler
from model_builder.compress.quantize import calibrate
from model_builder.graph import reference
from model_builder.graph import relax as integers
from model_builder.graph.description import Graph, dequantized
from model_builder.graph.fake_quantized import FakeQuantized, plain
from model_builder.graph.ops import Linear
from model_builder.graph.trace import trace
from model_builder.kernels import tuning_space, vnni
from model_builder.measure import roofline
from model_builder.networks.reader import SIZE, LPRNet, Widths
from model_builder.plates.kinds import ALPHABET
from model_builder.team import Team
from model_builder.train.data import development_set
from service import artifact as contract
from service import host
from service.artifact import Artifact, Origin, Probe
from service.backends import load
from service.backends.tvm import choose
from service.errors import ArtifactError

SMALL = Widths(8, (10,), (12, 24), (12,), 10, 8)  # no whole vectors
VNNI, FLOATS = compiler.INTEGER_LEVELS


def needs(level: compiler.Level) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not host.flags().issuperset(level.needs), reason=f"this CPU lacks {level.name}")


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    """Plates and noise, uint8 (6, 24, 94, 3)."""
    noise = np.random.default_rng(1).integers(0, 256, (2, 24, 94, 3), np.uint8)
    return np.concatenate([development_set(4).images, noise])


@pytest.fixture(scope="module")
def simulation(crops: np.ndarray) -> FakeQuantized:
    torch.manual_seed(0)
    simulation = FakeQuantized(trace(LPRNet(len(ALPHABET) + 1, SMALL, context_channels=(8, 14, 24, 20)), SIZE))
    simulation.set_ranges(calibrate(simulation, crops)["99.9 %"])  # some outputs reach the end of uint8
    return simulation


@pytest.fixture(scope="module")
def network(simulation: FakeQuantized) -> Graph:
    return simulation.describe()


@pytest.mark.slow
@pytest.mark.parametrize(
    "level", [pytest.param(VNNI, marks=needs(VNNI), id="vnni"), pytest.param(FLOATS, marks=needs(FLOATS), id="loops")]
)
def test_every_layer_equals_the_reference_bit_by_bit(level, network, crops):
    """By the instruction and, on any CPU, by the loops that it stands for."""
    module = integers.build(network, traced=True)
    executable = relax.build(integers.completed(module) if level.integers else module, level.target)
    if level.integers:
        assert executable.mod.imports[0].inspect_source("asm").count("vpdpbusd") > 100
    machine = relax.VirtualMachine(executable, runtime.cpu())
    expected = reference.trace(network, crops)
    for number, crop in enumerate(crops):
        logits, *outputs = machine["main"](runtime.tensor(crop[None]))
        for name, found in zip([node.name for node in network.convolutions], outputs, strict=True):
            output = expected.outputs[name]
            np.testing.assert_array_equal(found.numpy()[0, ..., : output.shape[-1]], output[number], err_msg=name)
        np.testing.assert_allclose(logits.numpy()[0], expected.result[number], atol=1e-4)


def test_layers_in_float_are_refused(simulation):
    simulation.floats = frozenset({"block1.0"})
    mixed = simulation.describe()
    simulation.floats = frozenset()
    with pytest.raises(ValueError, match=r"^stem, block1\.0|^block1\.0"):
        compiler.lowered(mixed, VNNI, compiler.Passes())


def test_a_schedule_without_the_instruction_is_refused(network):
    module = integers.build(network)
    variable = module.get_global_var("convolution_wide")
    module[variable] = Schedule(module[variable]).mod["main"].with_attr("tirx.is_scheduled", True)
    with pytest.raises(ValueError, match=r"the schedule of convolution_wide lacks llvm\.x86\.avx512\.vpdpbusd\.512"):
        integers.completed(module)


def test_every_schedule_of_the_space_has_the_instruction(network):
    """What the tuner chooses from; `completed` checks it in the end."""
    module = compiler.lowered(network, VNNI, compiler.Passes())
    kernel = module["convolution_block2_1"]
    for seed in range(1, 6):
        schedule = Schedule(kernel, seed=seed)
        tuning_space.tiled(schedule, VNNI.lanes)
        assert vnni.uses(schedule.mod["main"])


@pytest.fixture(scope="module")
def root(network: Graph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the network as `quantized`, and what the command line compiles of it. Change nothing in it."""
    root = tmp_path_factory.mktemp("artifacts")
    publish.publish(root, candidates.onnx_candidate("quantized", network, Origin(seed=3)), {})
    with redirect_stdout(StringIO()) as said:
        assert main(["compile", "quantized", "--artifacts", str(root), "--rendered", "2"]) == 0
    assert f"{VNNI.name}: no tuning record for" in said.getvalue()
    return root


@pytest.fixture
def made(root: Path, tmp_path: Path) -> Artifact:
    """A copy of the compiled artifact."""
    return contract.read(Path(shutil.copytree(root / "tvm-quantized", tmp_path / "tvm-quantized")))


@pytest.mark.slow
@needs(FLOATS)
def test_an_integer_artifact_is_compiled_and_published(root, capsys):
    manifest = contract.find(root, "tvm-quantized").manifest
    own = Probe(file=f"{FLOATS.name}.npz", tolerance=1e-3)
    assert [(library.level, library.probe) for library in manifest.libraries] == [(VNNI.name, None), (FLOATS.name, own)]
    assert manifest.version == contract.find(root, "quantized").manifest.version
    assert main(["compile", "tvm-quantized", "--artifacts", str(root)]) == 1
    assert "name the variant that it was compiled from" in capsys.readouterr().err


@pytest.mark.slow
@needs(VNNI)
def test_with_vnni_integers_are_served(made, network, crops):
    backend = load(made)
    assert backend.engine.endswith(f" {VNNI.name}")
    np.testing.assert_allclose(backend.infer(crops), reference.run(network, crops), atol=1e-3)
    backend.close()


@pytest.fixture
def without_vnni(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this CPU be one of the level that floats are for."""
    monkeypatch.setattr(host, "flags", lambda: frozenset(FLOATS.needs))


@pytest.mark.slow
@needs(FLOATS)
@pytest.mark.usefixtures("without_vnni")
def test_without_vnni_floats_of_the_same_weights_are_served(made, network, crops):
    assert choose(made, host.flags()).level == FLOATS.name
    team = Team(made, 2)  # each thread computes the library's own probe
    assert team.engine.endswith(f" {FLOATS.name}")
    expected = candidates.torch_logits(plain(dequantized(network)), crops)
    np.testing.assert_allclose(team.infer(crops), expected, atol=1e-3)
    assert np.abs(reference.run(network, crops) - expected).max() > 10 * contract.probe_here(made).tolerance
    team.close()


@pytest.mark.slow
@needs(FLOATS)
@pytest.mark.usefixtures("without_vnni")
def test_floats_that_are_off_are_refused(made):
    ((images, logits),) = contract.read_probe(made)
    contract.write_probe(made.folder, images, logits + np.float32(0.01), f"{FLOATS.name}.npz")
    with pytest.raises(ArtifactError, match=r"x86-64-v3\.npz: tvm .* is off by 0\.01, more than the 0\.001 allowed"):
        Team(contract.write(made.folder, made.manifest), 1)


def integer_multiply_adds(graph: Graph) -> int:
    columns = graph.shapes()[graph.output.name][1]
    floats = sum(part.values.size for part in cast(Linear, graph.output).parts if not part.integer)
    return sum(graph.multiply_adds().values()) - columns * floats


@pytest.mark.slow
@needs(VNNI)
def test_kernels_are_timed_in_the_order_of_computation(root, network):
    found = roofline.profile(contract.find(root, "tvm-quantized"), contract.find(root, "quantized"))
    assert [kernel["kernel"] for kernel in found["kernels"][:2]] == ["stem", "block1.0"]
    assert sum(kernel["multiply_adds"] for kernel in found["kernels"]) == integer_multiply_adds(network)
    assert all(kernel["us"] > 0 for kernel in found["kernels"])
    assert found["limit"] > 10e9
