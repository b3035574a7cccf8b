"""Variants of the finder and the refiner: in integers, made by `build` with the refiner that belongs to each finder."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from model_builder import build
from model_builder.build import Stage
from model_builder.compress import quantize
from model_builder.graph import onnx
from model_builder.tasks import REFINING
from service import artifact as contract
from service.backends import load
from service.backends.onnxruntime import MODEL
from tests.support.finding import QUAD, TASK, moved, publish_small, scene


class Scenes(list):
    def digest(self) -> str:
        return "two"


SCENES = {"rendered": Scenes([scene(QUAD), scene(moved(20, 20))])}
CALIBRATED = partial(build.calibrated, calibration=4)
REFINERS, FINDERS = (
    (Stage("refiner-quantized", "refiner", CALIBRATED),),
    (Stage("finder-quantized", "finder", CALIBRATED),),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both networks, and both in integers. Change nothing in it."""
    root = publish_small(tmp_path_factory.mktemp("finding"))
    sets = REFINING.sets([], 8)
    assert build.build(REFINERS, root, root / ".work", sets, 100, reference="refiner") == []
    assert build.build(FINDERS, root, root / ".work", SCENES, 100, reference="finder") == []
    return root


@pytest.mark.parametrize("variant", ["refiner-quantized", "finder-quantized"])
def test_all_layers_are_integers_but_the_sums_of_the_last(root, variant):
    made = contract.find(root, variant)
    network = onnx.read(made.file(MODEL))
    assert all(node.weights.integer and node.scale for node in network.convolutions)
    assert network.output.scale is None
    *layers, last = quantize.kernels(made).values()
    assert all(layer.startswith("QLinearConv") for layer in layers)
    assert "float" in last
    assert made.manifest.probe.tolerance == 1e-3  # of the reference's integers
    backend = load(made)
    contract.check_probe(backend, made)
    backend.close()


def test_the_manifest_tells_the_ranges_and_the_source(root):
    provenance = contract.find(root, "finder-quantized").manifest.provenance
    assert provenance.source.variant == "finder"
    assert provenance.network == contract.find(root, "finder").manifest.provenance.network
    assert provenance.made.settings == {"calibration": 4}
    assert all(end > 0 for end in provenance.made.ranges.values())


def test_a_finder_belongs_to_the_refiner_that_is_made_as_it_is(root):
    assert contract.find(root, "finder-quantized").manifest.refiner == "refiner-quantized"
    assert build._task(contract.find(root, "finder-quantized"), build.compiled) == replace(TASK, refiner="refiner-fast")


def test_what_is_made_already_is_not_calibrated_again(root, monkeypatch, capsys):
    monkeypatch.delattr(quantize, "calibrated")
    assert build.build(FINDERS, root, root / ".again", SCENES, 100, reference="finder") == []
    assert "finder-quantized: unchanged" in capsys.readouterr().out


def test_a_variant_that_finds_too_little_is_refused(root, tmp_path):
    worse = Stage("worse", "finder", CALIBRATED)
    (refusal,) = build.build((worse,), root, tmp_path, SCENES, -1, reference="finder")
    assert "worse: finds 0 of 2 rendered plates, finder 0: 0.00 points lost, -1.00 allowed" in refusal
    assert "worse" not in contract.variants(root)
