"""Compiling a finder: a function for each size in one library, integers as the reference has them, floats elsewhere."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import tvm
from tvm import relax, runtime

from model_builder import build
from model_builder.build import Stage
from model_builder.compile import compiler
from model_builder.compress import quantize
from model_builder.graph import reference
from model_builder.graph import relax as integers
from model_builder.graph.description import Graph, resized
from model_builder.graph.trace import trace
from model_builder.kernels import tuning_space
from model_builder.networks.finder import Finder
from service import artifact as contract
from service.backends import load
from service.backends.tvm import suffix
from tests.support.finding import QUAD, SMALL, TASK, publish_small, scene

VNNI, FLOATS = compiler.INTEGER_LEVELS
SIZES = {suffix((*size, 3), TASK.sizes): size for size in ((64, 96), (96, 64))}


@pytest.fixture(scope="module")
def network() -> Graph:
    """A small finder in integers."""
    torch.manual_seed(0)
    images = np.random.default_rng(0).integers(0, 256, (4, 64, 96, 3), np.uint8)
    return quantize.calibrated(trace(Finder(SMALL).eval(), (64, 96, 3)), images)[0]


def test_every_layer_equals_the_reference_bit_by_bit_at_every_size(network):
    """By the loops that the instruction stands for; with it, where the CPU has it, the probe of an artifact."""
    module = integers.build(network, SIZES, traced=True)
    machine = relax.VirtualMachine(relax.build(module, FLOATS.target), runtime.cpu())
    for name, size in SIZES.items():
        image = np.random.default_rng(1).integers(0, 256, (1, *size, 3), np.uint8)
        expected = reference.trace(network, image)
        maps, *outputs = machine[f"main{name}"](runtime.tensor(image))
        for node, found in zip([node.name for node in network.convolutions], outputs, strict=True):
            output = expected.outputs[node]
            np.testing.assert_array_equal(found.numpy()[..., : output.shape[-1]], output, err_msg=node)
        np.testing.assert_allclose(maps.numpy(), expected.result, atol=1e-5)


def test_kernels_of_all_sizes_have_the_instruction(network):
    module, untuned = compiler.scheduled(network, VNNI, sizes=tuple(SIZES.values()))
    integers.completed(module)  # raises where one lacks it
    assert sum(variable.name_hint.startswith("main") for variable in module.get_global_vars()) == 2
    assert untuned


def test_a_graph_of_another_size_computes_the_same_layers(network):
    other = resized(network, 96, 64)
    assert other.shapes()["middle.0"] == (12, 8, 4)
    image = np.zeros((1, 96, 64, 3), np.uint8)
    np.testing.assert_array_equal(reference.run(other, image), reference.run(network, image))


def test_pixels_become_real_numbers_in_one_loop_of_vectors():
    """Of a small network the kernel is too small to be worth it; here it is scheduled by itself."""
    x = relax.Var("x", relax.TensorType((1, 8, 8, 3), "uint8"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            real = builder.emit(relax.op.astype(relax.op.permute_dims(x, (0, 3, 1, 2)), "float32"))
            halved = builder.emit(relax.op.multiply(real, relax.const(0.5)))
            back = builder.emit_output(relax.op.permute_dims(halved, (0, 2, 3, 1)))
        builder.emit_func_output(back)
    fused = [relax.transform.LegalizeOps(), relax.transform.AnnotateTIROpPattern()]
    fused += [relax.transform.FuseOps(), relax.transform.FuseTIR()]
    with FLOATS.target:
        module = tvm.transform.Sequential(fused)(builder.get())
    ((variable, kernel),) = ((v, f) for v, f in module.functions.items() if isinstance(f, tvm.tirx.PrimFunc))
    module[variable] = tuning_space.elementwise(kernel, 8)
    assert "T.vectorized(" in module[variable].script()
    image = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), np.uint8)
    machine = relax.VirtualMachine(relax.build(module, FLOATS.target), runtime.cpu())
    np.testing.assert_array_equal(machine["main"](runtime.tensor(image)).numpy(), image * np.float32(0.5))


@pytest.mark.slow
def test_a_finder_is_compiled_for_every_size_and_published(tmp_path: Path):
    root = publish_small(tmp_path)
    sets = {"rendered": Examples([scene(QUAD)])}
    stages = (
        Stage("finder-quantized", "finder", partial(build.calibrated, calibration=4)),
        Stage("finder-fast", "finder-quantized", build.compiled),
    )
    assert build.build(stages, root, root / ".work", sets, 100, reference="finder") == []
    made = contract.find(root, "finder-fast")
    assert [library.level for library in made.manifest.libraries] == [VNNI.name, FLOATS.name]
    assert made.manifest.refiner == "refiner-fast"
    backend = load(made)
    contract.check_probe(backend, made)
    for height, width in TASK.sizes:
        images = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8)
        assert backend.infer(images).shape == (2, height // 8, width // 8, 9)
    with pytest.raises(ValueError, match=r"compiled for images of \[\(128, 256, 3\), \(64, 96, 3\)\]"):
        backend.infer(np.zeros((1, 32, 32, 3), np.uint8))
    backend.close()


class Examples(list):
    def digest(self) -> str:
        return "one"


def test_the_bias_of_maps_is_added_after_the_cut(network):
    """Of a tuned kernel that read nine of the sixteen values of a bias, TVM's RewriteLayout wrote zeros over these."""
    real = compiler.computed(network, FLOATS).eval()
    compiled = compiler._floats(real, compiler.Passes())
    assert not compiled.network.graph.output.bias.any()
    images = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (1, 64, 96, 3), np.uint8))
    torch.testing.assert_close(compiled(images), real(images))
