"""Quantization: ranges, the layers that stay in float, training with simulated integers, integers in the engine."""

import csv
import itertools
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from model_builder import candidates, publish
from model_builder.__main__ import main
from model_builder.compress import quantize as quantization
from model_builder.compress.quantize import (
    QuantizeConfig,
    calibrate,
    choose,
    compare,
    dynamic,
    kernels,
    logits_of,
    quantize,
    train,
)
from model_builder.graph import description
from model_builder.graph import onnx as exported
from model_builder.graph.description import Graph
from model_builder.graph.fake_quantized import FakeQuantized
from model_builder.graph.reference import run
from model_builder.graph.trace import trace
from model_builder.networks.reader import SIZE, LPRNet, Widths
from model_builder.plates.kinds import ALPHABET
from model_builder.train.data import Crops, development_set, rendered_batches, validation_set
from model_builder.train.loop import Interrupted
from service import artifact as contract
from service import host
from service.artifact import Origin
from service.artifact.provenance import Fidelity
from service.backends import load
from service.reading import text

SMALL = Widths(8, (10,), (12, 8), (12,), 10, 8)
# Without VNNI, ONNX Runtime is told to turn int8 to uint8 as it loads (service.backends.onnxruntime).
INTEGER = f"QLinearConv uint8 x {'int8' if host.flags() & {'avx512_vnni', 'avx_vnni'} else 'uint8'}"
SHORT = QuantizeConfig(
    calibration=8, development=16, steps=4, batch_size=4, warmup=1, learning_rate=1e-3, log_every=2, workers=0
)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def development() -> Crops:
    return development_set(16)


@pytest.fixture(scope="module")
def source(development: Crops) -> LPRNet:
    torch.manual_seed(0)
    network = LPRNet(len(ALPHABET) + 1, SMALL)
    with torch.no_grad():
        for _ in range(3):
            network.train()(torch.from_numpy(development.images))
    return network.eval()


@pytest.fixture
def simulation(source: LPRNet, development: Crops) -> FakeQuantized:
    simulation = FakeQuantized(trace(source, SIZE))
    simulation.set_ranges(calibrate(simulation, development.images)["max"])
    return simulation


def test_development_plates_are_no_validation_plates(development):
    assert not np.array_equal(development.images, validation_set(16).images)
    np.testing.assert_array_equal(development.images[:3], development_set(3).images)


def test_ranges_are_of_the_real_outputs(source, development):
    simulation = FakeQuantized(trace(source, SIZE))
    found = calibrate(simulation, development.images)
    assert simulation.floats == frozenset()
    simulation.floats = frozenset(simulation.names)
    with torch.inference_mode():
        outputs, _ = simulation.outputs(torch.from_numpy(development.images))
    assert list(found["max"]) == simulation.ranged
    for name in simulation.ranged:
        largest = float(outputs[name].max())
        assert found["max"][name] == pytest.approx(largest)
        assert 0 < found["99.9 %"][name] <= found["99.99 %"][name] <= found["99.999 %"][name] <= largest + 1e-6
        assert 0.3 * largest <= found["mse"][name] <= largest + 1e-6


def test_the_squared_error_is_of_rounding_and_of_clipping():
    values = torch.linspace(0, 1, 4001, dtype=torch.double)
    assert quantization._squared_error(values, 1.0) == pytest.approx((1 / 255) ** 2 / 12, rel=0.02)
    assert quantization._squared_error(values, 1.5) > 2 * quantization._squared_error(values, 1.0)
    assert quantization._squared_error(values, 0.5) == pytest.approx(0.5**3 / 3, rel=0.01)


def test_fidelity_counts_readings_and_measures_divergence(source, simulation, development):
    reference = logits_of(source, development)
    same = compare(source, development, reference)
    assert same.divergence == pytest.approx(0, abs=1e-6)
    read = text.greedy(reference.numpy(), ALPHABET, len(ALPHABET))
    assert compare(source, Crops(development.images, [*read[:5], *["京"] * 11]), reference).exact == 5
    assert same.total == 16
    assert compare(simulation, development, reference).divergence > 0


def test_the_choice_is_by_measurement(source, development):
    choice = choose(FakeQuantized(trace(source, SIZE)), source, development, SHORT)
    assert choice.methods[choice.method].divergence == min(found.divergence for found in choice.methods.values())
    assert choice.floats == ()
    names = FakeQuantized(trace(source, SIZE)).names
    assert list(choice.alone_integer) == list(choice.alone_float) == names
    assert max(found.divergence for found in choice.alone_integer.values()) > 0
    assert choice.calibrated == choice.methods[choice.method]


def test_a_layer_that_loses_too_much_alone_stays_in_float(source, development, monkeypatch):
    simulation = FakeQuantized(trace(source, SIZE))
    measured = quantization.compare

    def harmful(model: FakeQuantized, crops: Crops, reference: torch.Tensor) -> Fidelity:
        found = measured(model, crops, reference)
        return (
            found.model_copy(update={"exact": -1})
            if model.floats == frozenset(simulation.names) - {"block2.0"}
            else found
        )

    monkeypatch.setattr(quantization, "compare", harmful)
    choice = choose(simulation, source, development, replace(SHORT, layer_loss=0.0))
    assert choice.floats == ("block2.0",)
    (layer,) = (layer for layer in simulation.describe().convolutions if layer.name == "block2.0")
    assert not layer.weights.integer


def test_gradients_reach_weights_biases_and_scales(simulation, development):
    simulation(torch.from_numpy(development.images[:4])).square().sum().backward()
    contexts = f"units.{len(simulation.units) - 1}.scales.{len(simulation.graph.output.inputs) - 1}"
    for name, parameter in simulation.named_parameters():
        if name != contexts:  # which are in float
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name


def test_training_brings_the_integers_nearer_to_the_float_network(source, development, tmp_path, monkeypatch):
    """By distillation alone: what an untrained network learns from CTC leads away from it."""
    monkeypatch.setattr(quantization, "ctc_loss", lambda logits, _batch: 0 * logits.sum())
    coarse = FakeQuantized(trace(source, SIZE), bits=3)
    coarse.set_ranges(calibrate(coarse, development.images)["max"])
    reference = logits_of(source, development)
    before = compare(coarse, development, reference)
    trained = train(tmp_path, coarse, source, replace(SHORT, steps=8, log_every=8), development)
    assert compare(trained, development, reference).divergence < 0.8 * before.divergence


def test_training_goes_on_exactly_where_ctrl_c_stopped_it(source, development, tmp_path, monkeypatch):
    def fresh() -> FakeQuantized:
        made = FakeQuantized(trace(source, SIZE))
        made.set_ranges(calibrate(made, development.images)["max"])
        return made

    for name in ("at once", "in two"):
        (tmp_path / name).mkdir()
    at_once = train(tmp_path / "at once", fresh(), source, SHORT, development)
    drawn = rendered_batches

    def interrupted(*arguments):
        batches = drawn(*arguments)
        yield from itertools.islice(batches, 3)
        signal.raise_signal(signal.SIGINT)
        yield from batches

    monkeypatch.setattr(quantization, "rendered_batches", interrupted)
    with pytest.raises(Interrupted, match="stopped at step 3"):
        train(tmp_path / "in two", fresh(), source, SHORT, development)
    monkeypatch.setattr(quantization, "rendered_batches", drawn)
    resumed = train(tmp_path / "in two", fresh(), source, SHORT, development)
    for name, tensor in at_once.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    with (tmp_path / "in two" / "log.csv").open(newline="") as lines:
        assert [line["step"] for line in csv.DictReader(lines)] == ["2", "4"]


def test_what_was_chosen_is_kept_for_the_next_run(source, tmp_path, monkeypatch):
    config = replace(SHORT, steps=0)
    first = quantize(tmp_path, source, config)
    monkeypatch.delattr(quantization, "choose")  # would be an error if it were needed again
    again = quantize(tmp_path, source, config)
    assert again.choice == first.choice
    assert again.record() == first.record()
    for name, array in description.arrays(first.network).items():
        np.testing.assert_array_equal(description.arrays(again.network)[name], array)
    with pytest.raises(NameError):
        quantize(tmp_path, source, replace(config, bits=7))


def test_the_network_is_trained_where_calibration_loses_too_much(source, tmp_path):
    assert quantize(tmp_path / "kept", source, replace(SHORT, calibrated_loss=0.1)).trained is None
    assert quantize(tmp_path / "not", source, replace(SHORT, calibrated_loss=-1.0, steps=0)).trained is None
    trained = quantize(tmp_path / "trained", source, replace(SHORT, calibrated_loss=-1.0))
    assert trained.trained is not None
    assert trained.trained.total == 16
    assert (tmp_path / "trained" / "log.csv").is_file()


@pytest.mark.parametrize("better", [True, False])
def test_a_trained_network_is_kept_if_it_reads_more(source, tmp_path, monkeypatch, better):
    calibrated = quantize(tmp_path, source, replace(SHORT, steps=0))
    measured = quantization.compare
    reads = calibrated.choice.calibrated.exact + better
    monkeypatch.setattr(quantization, "compare", lambda *given: measured(*given).model_copy(update={"exact": reads}))
    found = quantize(tmp_path, source, replace(SHORT, calibrated_loss=-1.0, steps=1))
    assert found.trained.exact == reads
    same = np.array_equal(found.network.convolutions[0].bias, calibrated.network.convolutions[0].bias)
    assert same != better


def test_an_onnx_file_gives_its_network_back(simulation, development, tmp_path):
    network = simulation.describe()
    exported.write(network, tmp_path / "model.onnx")
    again = exported.read(tmp_path / "model.onnx")
    assert description.structure(again) == description.structure(network)
    expected = run(network, development.images[:2])
    np.testing.assert_array_equal(run(again, development.images[:2]), expected)


def test_another_onnx_file_is_refused(simulation, tmp_path):
    exported.write(simulation.describe(), tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(ValueError, match=r"model\.onnx was not written by this builder"):
        exported.read(tmp_path / "model.onnx")


def publish_network(root: Path, network: Graph) -> contract.Artifact:
    return publish.publish(root, candidates.onnx_candidate("small", network, Origin(seed=0)), {})


def test_weights_are_stored_and_multiplied_as_int8(simulation, tmp_path):
    artifact = publish_network(tmp_path, simulation.describe())
    stored = {t.name: t.data_type for t in onnx.load(artifact.file("model.onnx")).graph.initializer}
    found = kernels(artifact)
    assert list(found) == simulation.names
    for name in simulation.names[:-1]:
        assert stored[f"{name}.weights"] == onnx.TensorProto.INT8
        assert found[name] == INTEGER
    assert found["classify"] == "MatMul float"
    assert stored["classify.wide.weights"] == stored["classify.column.weights"] == onnx.TensorProto.INT8


def test_a_layer_in_float_is_computed_in_float(simulation, tmp_path):
    simulation.floats = frozenset({"block2.0", "classify"})
    found = kernels(publish_network(tmp_path, simulation.describe()))
    assert [name for name, kernel in found.items() if "float" in kernel] == ["block2.0", "classify"]


def test_the_folded_network_is_computed_in_float(source, tmp_path):
    found = kernels(publish_network(tmp_path, trace(source, SIZE)))
    assert len(found) == 8
    assert not any("int8" in kernel for kernel in found.values())


def test_dynamic_quantization_changes_no_module_of_lprnet(source, development):
    count, changed = dynamic(source)
    assert count == 0
    images = torch.from_numpy(development.images)
    with torch.inference_mode():
        assert torch.equal(changed(images), source(images))


def test_dynamic_quantization_is_counted_where_it_changes_something():
    assert dynamic(torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)))[0] == 2


@pytest.fixture(scope="module")
def baseline(source: LPRNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of artifacts with the source as its baseline. Copy before changing anything."""
    root = tmp_path_factory.mktemp("baseline")
    publish.publish(root, candidates.torch_candidate("baseline", source, Origin(seed=0)), {})
    return root


@pytest.fixture
def artifacts(baseline: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(baseline, tmp_path / "artifacts"))


def call(artifacts: Path, *options: object) -> int:
    short = ("--calibration", 8, "--development", 16, "--rendered", 8, "--workers", 0)
    given = ("quantize", "--artifacts", artifacts, "--out", artifacts.parent / "run", *short, *options)
    return main([str(argument) for argument in given])


@pytest.mark.slow
def test_the_command_publishes_an_integer_network(artifacts, capsys):
    assert call(artifacts, "--steps", 0) == 0
    out = capsys.readouterr().out
    assert "points lost" in out
    assert f"block1.0: {INTEGER}" in out
    published = contract.find(artifacts, "quantized")
    contract.check_probe(load(published), published)
    provenance = published.manifest.provenance
    assert provenance.source.variant == "baseline"
    assert provenance.made.choice.floats == ()
    assert set(provenance.made.choice.alone_integer) >= {"stem", "column", "classify"}
    baseline = contract.find(artifacts, "baseline").manifest.measured
    assert published.manifest.measured.multiply_adds == baseline.multiply_adds
    assert set(kernels(published).values()) == {INTEGER, "MatMul float"}


@pytest.mark.slow
def test_the_command_composes(artifacts):
    shutil.copytree(artifacts / "baseline", artifacts / "pruned")
    manifest = contract.read(artifacts / "baseline").manifest
    contract.write(artifacts / "pruned", manifest.model_copy(update={"variant": "pruned"}))
    assert call(artifacts, "--source", "pruned", "--variant", "pruned-quantized", "--steps", 0) == 0
    assert contract.find(artifacts, "pruned-quantized").manifest.provenance.source.variant == "pruned"


@pytest.mark.slow
def test_the_command_refuses_to_publish_what_loses_too_much(artifacts, capsys):
    assert call(artifacts, "--steps", 0, "--max-loss", -1) == 1
    assert "-1.00 allowed (--max-loss)" in capsys.readouterr().err
    assert contract.variants(artifacts) == ["baseline"]


@pytest.mark.slow
def test_the_command_keeps_layers_in_float(artifacts):
    assert call(artifacts, "--steps", 0, "--floats", "stem,classify") == 0
    published = contract.find(artifacts, "quantized")
    assert published.manifest.provenance.made.choice.floats == ("stem", "classify")
    layers = exported.read(published.file("model.onnx")).convolutions
    assert [layer.weights.integer for layer in layers] == [False, *[True] * (len(layers) - 1)]


@pytest.mark.slow
def test_the_command_names_layers_that_there_are(artifacts, capsys):
    assert call(artifacts, "--floats", "classify,head") == 1
    assert "there is no layer head; there are stem, block1.0" in capsys.readouterr().err
