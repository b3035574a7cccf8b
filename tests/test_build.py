"""Building every variant: what may be taken is not trained again, what loses too much is not published."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch

from model_builder import build, candidates, evaluate, publish
from model_builder.__main__ import main
from model_builder.build import Stage
from model_builder.compress import prune, quantize
from model_builder.compress.prune import PruneConfig
from model_builder.compress.quantize import QuantizeConfig
from model_builder.graph import onnx
from model_builder.graph.ops import Linear
from model_builder.networks.reader import LPRNet, Widths
from model_builder.plates.kinds import ALPHABET
from model_builder.train.data import Crops, validation_set
from model_builder.train.loop import Interrupted
from service import artifact as contract
from service.artifact import Artifact, Origin, Source
from service.backends import load
from tests.support.artifacts import PUBLISHED

pytestmark = pytest.mark.slow

WIDTHS = Widths(16, (16,), (32,), (16,), 16, 16)
PRUNE = PruneConfig(multiply_adds=0.9, parameters=0.95, rounds=1, last_steps=1, plates=4)
QUANTIZE = QuantizeConfig(calibration=8, development=16, steps=0)
PRUNED = partial(build.pruned, config=PRUNE, batch_size=4, development=4, workers=0)
QUANTIZED = partial(build.quantized, config=QUANTIZE)
STAGES = (
    Stage("pruned", "baseline", partial(PRUNED, note="trained in two parts")),
    Stage("quantized", "baseline", QUANTIZED),
    Stage("pruned-quantized", "pruned", QUANTIZED),
)


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of artifacts with a small network as its baseline. Copy before changing anything."""
    torch.manual_seed(0)
    network = LPRNet(len(ALPHABET) + 1, WIDTHS)
    with torch.no_grad():
        for _ in range(3):
            network.train()(torch.from_numpy(validation_set(8).images))
    root = tmp_path_factory.mktemp("baseline")
    publish.publish(root, candidates.torch_candidate("baseline", network, Origin(seed=0)), {})
    return root


@pytest.fixture(scope="module")
def built(baseline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of artifacts with what STAGES makes of the baseline. Copy before changing anything."""
    root = tmp_path_factory.mktemp("built")
    shutil.copytree(baseline, root / "artifacts")
    assert build.build(STAGES, root / "artifacts", root / "work", {"rendered": validation_set(8)}, 100) == []
    return root / "artifacts"


@pytest.fixture
def root(built: Path, tmp_path: Path) -> Path:
    """A copy of the folder with all variants."""
    return Path(shutil.copytree(built, tmp_path / "artifacts"))


@pytest.fixture
def alone(built: Path, tmp_path: Path) -> Path:
    """A folder with a baseline alone; one in integers, because that is published in no time."""
    root = tmp_path / "artifacts"
    network = onnx.read(contract.find(built, "quantized").file("model.onnx"))
    publish.publish(root, candidates.onnx_candidate("baseline", network, Origin(seed=0)), {})
    return root


@pytest.fixture
def sets(alone: Path) -> dict[str, Crops]:
    """Eight plates with the texts that this baseline reads, so that there is something to lose."""
    source, images = contract.find(alone, "baseline"), validation_set(8).images
    read = evaluate.readings(source, load(source), Crops(images, [""] * 8))
    return {"rendered": Crops(images, [reading.text for reading in read])}


@pytest.fixture
def untrainable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training and calibrating are errors."""
    monkeypatch.delattr(prune, "prune_network")
    monkeypatch.delattr(quantize, "quantize")


def content(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_every_variant_is_published_with_its_source(built):
    found = {name: contract.find(built, name).manifest for name in contract.variants(built)}
    assert {name: manifest.backend for name, manifest in found.items()} == {
        "baseline": "torch",
        "pruned": "torch",
        "quantized": "onnxruntime",
        "pruned-quantized": "onnxruntime",
    }
    for stage in STAGES:
        assert found[stage.variant].provenance.source == Source.of(found[stage.source])
    assert found["pruned-quantized"].measured.parameters < found["quantized"].measured.parameters


@pytest.mark.usefixtures("untrainable")
def test_what_did_not_change_is_not_trained_again_and_keeps_every_byte(root, tmp_path, capsys):
    before = content(root)
    assert build.build(STAGES, root, tmp_path / "work", {"rendered": validation_set(8)}, 100) == []
    assert content(root) == before
    assert capsys.readouterr().out.count(": unchanged, after ") == len(STAGES)


@pytest.mark.usefixtures("untrainable")
@pytest.mark.parametrize("variant", ["pruned", "quantized"])
def test_weights_are_taken_of_the_same_source_and_settings_only(root, tmp_path, variant):
    source, published = (contract.find(root, name) for name in ("baseline", variant))
    make, other = {
        "pruned": (PRUNED, {"config": replace(PRUNE, learning_rate=1e-3)}),
        "quantized": (QUANTIZED, {"config": replace(QUANTIZE, calibration=9)}),
    }[variant]
    taken = make(source, variant, tmp_path, published)
    assert taken.digest == published.manifest.version.rpartition("+")[2]
    assert taken.origin == Origin.model_validate(
        published.manifest.provenance.model_dump(include=set(Origin.model_fields))
    )
    newer = source.manifest.model_copy(update={"version": source.manifest.version.replace("0.", "7.", 1)})
    make(replace(source, manifest=newer), variant, tmp_path, published)  # a package's version tells nothing of weights
    another = source.manifest.model_copy(update={"version": "0.1.0+01234567"})
    for refused in (
        lambda: make(source, variant, tmp_path, published, **other),
        lambda: make(replace(source, manifest=another), variant, tmp_path, published),
        lambda: make(source, variant, tmp_path, None),
    ):
        with pytest.raises(AttributeError, match="has no attribute"):
            refused()


@pytest.mark.usefixtures("untrainable")
@pytest.mark.parametrize("variant", [stage.variant for stage in build.every_stage()])
def test_what_the_repository_holds_need_not_be_trained_to_build_it(variant, tmp_path):
    (stage,) = (stage for stage in build.every_stage() if stage.variant == variant)
    source, published = (contract.find(PUBLISHED, name) for name in (stage.source, stage.variant))
    assert published.manifest.provenance.source == Source.of(source.manifest)
    if published.manifest.backend != "tvm":  # which is compiled each time
        stage.make(source, stage.variant, tmp_path, published)


Make = Callable[..., candidates.Candidate]


def again(
    source: Artifact, variant: str, _folder: Path, _published: Artifact | None, bias: float = 0.0
) -> candidates.Candidate:
    """The source as it is or, with a bias, a network that reads one character throughout."""
    network = onnx.read(source.file("model.onnx"))
    output = cast(Linear, network.output)
    biases = output.bias + bias * (np.arange(len(ALPHABET) + 1) == 3).astype(np.float32)
    network = replace(network, nodes=(*network.nodes[:-1], replace(output, bias=biases)))
    return candidates.onnx_candidate(variant, network, Origin(seed=0))


def test_a_variant_that_loses_too_much_is_refused_and_those_that_need_it_are_left_out(alone, sets, tmp_path):
    stages = (
        Stage("worse", "baseline", partial(again, bias=1e3)),
        Stage("of-worse", "worse", again),
        Stage("good", "baseline", again),
    )
    worse, of_worse = build.build(stages, alone, tmp_path / "work", sets, 0.3)
    assert worse == "worse: reads 0 of 8 rendered plates, baseline 8: 100.00 points lost, 0.30 allowed (--max-loss)"
    assert of_worse == "of-worse: there is no artifact of worse, which it is made of"
    assert contract.variants(alone) == ["baseline", "good"]


def test_a_refused_variant_leaves_the_older_one_and_what_is_made_of_it(alone, sets, tmp_path):
    good = (Stage("a", "baseline", again), Stage("b", "a", again))
    assert build.build(good, alone, tmp_path / "work", sets, 0.3) == []
    before = content(alone / "a")
    worse = (Stage("a", "baseline", partial(again, bias=1e3)), Stage("b", "a", again))
    assert len(build.build(worse, alone, tmp_path / "work", sets, 0.3)) == 1
    assert content(alone / "a") == before


def test_a_model_that_changed_replaces_the_older_one(alone, sets, tmp_path):
    for bias in (0.0, 1e-3):
        stage = Stage("a", "baseline", partial(again, bias=bias))
        assert build.build([stage], alone, tmp_path / "work", sets, 100) == []
        networks = (onnx.read(contract.find(alone, name).file("model.onnx")) for name in ("a", "baseline"))
        found, original = (cast(Linear, network.output).bias[3] for network in networks)
        assert found - original == pytest.approx(bias, abs=1e-6)


def test_other_plates_are_measured_and_told_anew(alone, sets, tmp_path):
    stage, fewer = Stage("a", "baseline", again), Crops(sets["rendered"].images[:5], sets["rendered"].texts[:5])
    for crops in (sets["rendered"], fewer):
        assert build.build([stage], alone, tmp_path / "work", {"rendered": crops}, 100) == []
        measured = contract.find(alone, "a").manifest.measured
        assert measured.accuracy["rendered"].total == len(crops.texts)


def interrupted_once(calls: list[str]) -> Make:
    """Makes the source again, but for the second variant it is asked for: there Ctrl-C comes."""

    def make(source: Artifact, variant: str, folder: Path, published: Artifact | None):
        calls.append(f"{variant} {'taken' if published else 'new'} {len(list(folder.glob('*')))}")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "checkpoint").touch()
        if len(calls) == 2:
            raise KeyboardInterrupt
        return again(source, variant, folder, published)

    return make


@pytest.mark.parametrize("retrain", [False, True])
def test_an_interrupted_build_goes_on_where_it_was(alone, sets, tmp_path, retrain, capsys):
    calls: list[str] = []
    stages = [Stage(name, "baseline", interrupted_once(calls)) for name in "abc"]
    run = partial(build.build, stages, alone, tmp_path / "work", sets, 0.3, retrain=retrain)
    with pytest.raises(Interrupted, match="stopped in b; the same command goes on there"):
        run()
    assert contract.variants(alone) == ["a", "baseline"]
    assert run() == []
    assert calls == ["a new 0", "b new 0", "b new 1", "c new 0"]  # with the checkpoint that was there
    assert "[1/3] a: done before the interruption" in capsys.readouterr().out
    assert run() == []  # a build of its own: from scratch, checkpoints too, or with all that is published
    fresh = "new 0" if retrain else "taken 1"
    assert calls[4:] == [f"a {fresh}", f"b {fresh}", f"c {fresh}"]


def test_what_changed_since_the_interruption_is_done_again(alone, sets, tmp_path):
    calls: list[str] = []
    stages = [Stage(name, "baseline", interrupted_once(calls)) for name in "ab"]
    with pytest.raises(Interrupted):
        build.build(stages, alone, tmp_path / "work", sets, 0.3)
    shutil.rmtree(alone / "a")
    assert build.build(stages, alone, tmp_path / "work", sets, 0.3) == []
    assert [call[0] for call in calls] == ["a", "b", "a", "b"]


def test_the_command_ends_with_the_figures_of_what_it_refused(alone, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(build, "STAGES", (Stage("a", "baseline", again), Stage("b", "a", again)))
    monkeypatch.chdir(tmp_path)
    options = ["build", "--artifacts", str(alone), "--rendered", "5"]
    assert main([*options, "--max-loss", "-1"]) == 1
    assert capsys.readouterr().err.splitlines()[-3:] == [
        "error: 2 of 2 not published",
        "a: reads 0 of 5 rendered plates, baseline 0: 0.00 points lost, -1.00 allowed (--max-loss)",
        "b: there is no artifact of a, which it is made of",
    ]
    assert contract.variants(alone) == ["baseline"]
    assert main(options) == 0
    assert contract.variants(alone) == ["a", "b", "baseline"]
