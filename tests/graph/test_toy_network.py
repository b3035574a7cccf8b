"""A network that the builder has never seen passes every interpreter, its integers bit by bit.

It has what finders have and LPRNet has not: strides both ways, upsampling, adding, concatenating, mean pooling, maps.
"""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional
from tvm import relax as tvm_relax
from tvm import runtime

from model_builder.compile import compiler
from model_builder.graph import onnx, reference, relax
from model_builder.graph.description import Graph, dequantized
from model_builder.graph.fake_quantized import FakeQuantized, plain
from model_builder.graph.trace import trace
from model_builder.networks.blocks import ConvUnit, Maps, Normalize
from service.backends.onnxruntime import options

SIZE = (16, 24, 3)


class Toy(nn.Module):
    """uint8 (N, 16, 24, 3) -> maps (N, 4, 6, 5): a pyramid of three levels, joined on the middle one."""

    def __init__(self) -> None:
        super().__init__()
        self.normalize, self.maps = Normalize(), Maps()
        self.stem = ConvUnit(3, 8, (3, 3), stride=(2, 2))
        self.middle = ConvUnit(8, 12, (3, 3), stride=(2, 2))
        self.coarse = nn.Conv2d(12, 20, 3, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(20)
        self.lateral = ConvUnit(12, 10, (1, 1))
        self.top = ConvUnit(20, 10, (1, 1))
        self.fuse = ConvUnit(30, 16, (3, 3))
        self.head = nn.Conv2d(16, 5, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        stem = self.stem(self.normalize(images))
        middle = self.middle(stem)
        coarse = functional.relu(self.norm(self.coarse(middle)))
        up = functional.interpolate(self.top(coarse), scale_factor=2, mode="nearest")
        added = self.lateral(middle) + up
        pooled = functional.avg_pool2d(stem, 2)
        largest = functional.max_pool2d(middle, (1, 1))
        return self.maps(self.head(self.fuse(torch.cat([added, pooled, largest], 1))))


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, *SIZE), np.uint8)


@pytest.fixture(scope="module")
def network(images: np.ndarray) -> Toy:
    torch.manual_seed(0)
    network = Toy()
    with torch.no_grad():
        for _ in range(4):
            network.train()(torch.from_numpy(images))
    return network.eval()


@pytest.fixture(scope="module")
def simulated(network: Toy, images: np.ndarray) -> FakeQuantized:
    graph = trace(network, SIZE)
    outputs, _ = plain(graph).outputs(torch.from_numpy(images))
    simulated = FakeQuantized(graph)
    simulated.set_ranges({name: 0.8 * float(outputs[name].max()) for name in simulated.ranged})  # some clip
    return simulated


@pytest.fixture(scope="module")
def graph(simulated: FakeQuantized) -> Graph:
    return simulated.describe()


@torch.inference_mode()
def test_the_graph_computes_what_the_network_does(network, images):
    expected = network(torch.from_numpy(images)).numpy()
    assert expected.shape == (3, 4, 6, 5)
    np.testing.assert_allclose(reference.run(trace(network, SIZE), images), expected, atol=1e-4)


@torch.inference_mode()
def test_the_simulation_equals_the_reference_bit_by_bit(simulated, graph, images):
    outputs, result = simulated.outputs(torch.from_numpy(images))
    traced = reference.trace(graph, images)
    for name, found in traced.outputs.items():
        if graph[name].scale is not None:
            np.testing.assert_array_equal(found, outputs[name].permute(0, 2, 3, 1).numpy(), err_msg=name)
    np.testing.assert_allclose(traced.result, result.numpy(), atol=1e-4)
    integers = [name for name, found in traced.outputs.items() if found.dtype == np.uint8]
    assert len(integers) == len(graph.nodes) - 1  # all but the head
    assert any((traced.outputs[name] == 255).any() for name in integers if name != "pixels")


def test_integers_stay_near_the_network(network, graph, images):
    expected = reference.run(trace(network, SIZE), images)
    assert np.abs(reference.run(graph, images) - expected).max() < 0.25 * np.ptp(expected)


@torch.inference_mode()
def test_onnx_runtime_equals_the_reference(graph, network, images, tmp_path: Path):
    for each in (graph, trace(network, SIZE)):
        onnx.write(each, tmp_path / "model.onnx")
        session = onnxruntime.InferenceSession(tmp_path / "model.onnx", options(1))
        (found,) = session.run(None, {onnx.INPUT: images})
        np.testing.assert_allclose(found, reference.run(each, images), atol=1e-4)
        np.testing.assert_array_equal(
            reference.run(onnx.read(tmp_path / "model.onnx"), images), reference.run(each, images)
        )


def test_tvm_equals_the_reference_bit_by_bit(graph, images):
    executable = tvm_relax.build(relax.build(graph, traced=True), compiler.INTEGER_LEVELS[-1].target)
    machine = tvm_relax.VirtualMachine(executable, runtime.cpu())
    expected = reference.trace(graph, images)
    for number, image in enumerate(images):
        result, *outputs = machine["main"](runtime.tensor(image[None]))
        for node, found in zip(graph.convolutions, outputs, strict=True):
            output = expected.outputs[node.name]
            np.testing.assert_array_equal(found.numpy()[0, ..., : output.shape[-1]], output[number], err_msg=node.name)
        np.testing.assert_allclose(result.numpy()[0], expected.result[number], atol=1e-4)


def test_every_kernel_takes_a_schedule_with_the_instruction(graph):
    """It is compiled, not run: that takes a CPU with VNNI."""
    module = relax.completed(compiler.lowered(graph, compiler.INTEGER_LEVELS[0], compiler.Passes()))
    executable = tvm_relax.build(module, compiler.INTEGER_LEVELS[0].target)
    assert executable.mod.imports[0].inspect_source("asm").count("vpdpbusd") > 50


def test_floats_of_the_integers_stay_near_them(graph, images):
    expected = reference.run(graph, images)
    assert np.abs(reference.run(dequantized(graph), images) - expected).max() < 0.25 * np.ptp(expected)


def test_multiply_adds_and_shapes_follow_from_the_graph(graph):
    assert graph.shapes()["fuse"] == (4, 6, 16)
    assert graph.multiply_adds()["fuse"] == 4 * 6 * 16 * 30 * 9
    assert graph.multiply_adds()["coarse"] == 2 * 3 * 20 * 12 * 9


def test_what_is_added_shares_its_steps(graph):
    assert graph["lateral"].scale == graph["top"].scale == graph["add"].scale == graph["cat"].scale
    assert graph["coarse"].scale != graph["top"].scale
