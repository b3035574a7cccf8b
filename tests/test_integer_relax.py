"""The integer network in TVM: its integers are those of the reference, and are summed by the instruction."""

import numpy as np
import pytest
import torch  # noqa: TID253 (that rule is for the service)
from tvm import relax, runtime  # noqa: TID253 (as above)
from tvm.s_tir import Schedule  # noqa: TID253 (as above)

from model_builder import compile, dot, integer, integer_relax, publish, roofline, space
from model_builder.__main__ import main
from model_builder.data import development_set
from model_builder.model import LPRNet, Widths
from model_builder.plates import ALPHABET
from model_builder.quantize import calibrate, candidate
from model_builder.simulate import Simulation
from service import artifact as contract
from service.backends import load
from service.cpu import flags

SMALL = Widths(8, (10,), (12, 24), (12,), 10, 8)  # no whole vectors
VNNI, AVX2 = compile.INTEGER_LEVELS


def needs(level: compile.Level) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not flags().issuperset(level.needs), reason=f"this CPU lacks {level.name}")


LEVELS = [pytest.param(level, marks=needs(level), id=level.name) for level in compile.INTEGER_LEVELS]


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    """Plates and noise, uint8 (6, 24, 94, 3)."""
    noise = np.random.default_rng(1).integers(0, 256, (2, 24, 94, 3), np.uint8)
    return np.concatenate([development_set(4).images, noise])


@pytest.fixture(scope="module")
def simulation(crops: np.ndarray) -> Simulation:
    torch.manual_seed(0)
    simulation = Simulation(LPRNet(len(ALPHABET) + 1, SMALL, context_channels=(8, 14, 24, 20)).eval())
    simulation.set_ranges(calibrate(simulation, crops)["99.9 %"])  # some outputs reach the end of uint8
    return simulation


@pytest.fixture(scope="module")
def network(simulation: Simulation) -> integer.Network:
    return simulation.describe()


def test_whole_vectors_compute_what_the_network_does(network, crops):
    made = integer_relax.whole(network)
    assert all(len(layer.weights) % integer_relax.VECTOR == 0 for layer in made.layers)
    expected, found = integer.trace(network, crops), integer.trace(made, crops)
    for name, output in expected.outputs.items():
        np.testing.assert_array_equal(found.outputs[name][..., : output.shape[-1]], output)
        assert not found.outputs[name][..., output.shape[-1] :].any()
    np.testing.assert_allclose(found.logits, expected.logits, atol=1e-5)


@pytest.mark.parametrize("level", LEVELS)
def test_every_layer_equals_the_reference_bit_by_bit(level, network, crops):
    module = integer_relax.build(network, level.instruction, level.lanes, traced=True)
    module = integer_relax.completed(module, level.instruction, level.lanes)
    executable = relax.build(module, level.target)
    assert executable.mod.imports[0].inspect_source("asm").count(instruction_name(level)) > 100
    machine = relax.VirtualMachine(executable, runtime.cpu())
    expected = integer.trace(network, crops)
    for number, crop in enumerate(crops):
        logits, *outputs = machine["main"](runtime.tensor(crop[None]))
        for (name, output), found in zip(expected.outputs.items(), outputs, strict=True):
            np.testing.assert_array_equal(found.numpy()[0, ..., : output.shape[-1]], output[number], err_msg=name)
        np.testing.assert_allclose(logits.numpy()[0], expected.logits[number], atol=1e-4)


def instruction_name(level: compile.Level) -> str:
    return "vpdpbusd" if level.instruction == dot.VNNI else "vpmaddwd"


def test_layers_in_float_are_refused(simulation):
    simulation.floats = frozenset({"block1.0"})
    mixed = simulation.describe()
    simulation.floats = frozenset()
    with pytest.raises(ValueError, match=r"^stem, block1\.0|^block1\.0"):
        compile.lowered(mixed, AVX2, compile.Passes())


def test_a_schedule_without_the_instruction_is_refused(network):
    module = integer_relax.build(network, VNNI.instruction, VNNI.lanes)
    variable = module.get_global_var("convolution_wide")
    module[variable] = Schedule(module[variable]).mod["main"].with_attr("tirx.is_scheduled", True)
    with pytest.raises(ValueError, match=r"the schedule of convolution_wide lacks llvm\.x86\.avx512\.vpdpbusd\.512"):
        integer_relax.completed(module, VNNI.instruction, VNNI.lanes)


@pytest.mark.parametrize("level", compile.INTEGER_LEVELS, ids=lambda level: level.name)
def test_every_schedule_of_the_space_has_the_instruction(level, network):
    """What the tuner chooses from; `completed` checks it in the end."""
    module = compile.lowered(network, level, compile.Passes())
    kernel = module["convolution_block2_1"]
    for seed in range(1, 6):
        schedule = Schedule(kernel, seed=seed)
        space.tiled(schedule, level.lanes)
        assert dot.uses(schedule.mod["main"], level.instruction)


@needs(AVX2)
def test_an_integer_artifact_is_compiled_and_published(network, crops, tmp_path, capsys):
    publish.publish(tmp_path, candidate("quantized", network, seed=3, arguments={}), {})
    options = ["--artifacts", str(tmp_path), "--target", AVX2.name, "--rendered", "2"]
    assert main(["compile", "quantized", *options]) == 0
    made = contract.find(tmp_path, "tvm-int8")
    assert [library.level for library in made.manifest.libraries] == [AVX2.name]
    assert made.manifest.version == contract.find(tmp_path, "quantized").manifest.version
    np.testing.assert_allclose(load(made, threads=1).infer(crops), integer.run(network, crops), atol=1e-3)
    assert "no tuning record for" in capsys.readouterr().out
    assert main(["compile", "tvm-int8", *options]) == 1
    assert "name the variant that it was compiled from" in capsys.readouterr().err


@needs(VNNI)
def test_kernels_are_timed_in_the_order_of_computation(network, tmp_path):
    publish.publish(tmp_path, candidate("quantized", network, seed=3, arguments={}), {})
    source = contract.find(tmp_path, "quantized")
    made = publish.publish(tmp_path, compile.candidate(source, "tvm-int8", (VNNI,)), {})
    found = roofline.profile(made, source)
    assert [kernel["kernel"] for kernel in found["kernels"][:2]] == ["stem", "block1.0"]
    assert sum(kernel["multiply_adds"] for kernel in found["kernels"]) == integer.multiply_adds(network, (24, 94))[0]
    assert all(kernel["us"] > 0 for kernel in found["kernels"])
    assert found["limit"] > 10e9
