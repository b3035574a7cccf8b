"""`python -m model_builder`: what a user types, with a small network in place of the shipped one."""

import itertools
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from model_builder import build, evaluate
from model_builder.__main__ import main
from model_builder.candidates import load_network
from model_builder.commands import own_crops
from model_builder.networks.reader import LPRNet
from model_builder.plates.kinds import ALPHABET
from model_builder.render.plate import Renderer, batch
from model_builder.train import labels
from model_builder.train.data import Batch, Crops
from service import artifact as contract
from service.artifact import Network, Origin, Source
from service.artifact.provenance import OwnCrops
from service.backends import load
from service.settings import REPOSITORY
from tests.support.crops import WIDTHS, write_crops

COMMANDS = (
    *("train", "prune", "publish", "quantize", "compile", "build"),
    *("evaluate", "preview", "render", "bench", "report"),
)
SHORT = ("--steps", "3", "--batch-size", "4", "--development", "8", "--workers", "0", "--rendered", "5")

HELD_OUT = ("--hold-out", "0.3")


@pytest.fixture(scope="module")
def baseline(small_baseline: Path) -> Path:
    """A folder of artifacts with a small network as its baseline. Copy before changing anything."""
    return small_baseline


@pytest.fixture
def artifacts(baseline: Path, tmp_path: Path) -> Path:
    """A copy of the folder of artifacts."""
    return Path(shutil.copytree(baseline, tmp_path / "artifacts"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's folder of twelve labelled crops."""
    return write_crops(tmp_path / "crops")


@pytest.fixture(scope="module")
def tuned(baseline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a fine-tuned baseline: crops/, run/, artifacts/ and printed.txt. Change nothing in it."""
    root = tmp_path_factory.mktemp("tuned")
    shutil.copytree(baseline, root / "artifacts")
    with redirect_stdout(StringIO()) as said:
        assert fine_tune(root, write_crops(root / "crops"), *HELD_OUT) == 0
    (root / "printed.txt").write_text(said.getvalue(), encoding="utf-8")
    return root


def fine_tune(root: Path, crops: Path, *options: object) -> int:
    return call("train", "--data", crops, "--artifacts", root / "artifacts", "--out", root / "run", *SHORT, *options)


def call(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


@pytest.mark.slow
def test_help_lists_the_commands():
    process = subprocess.run(
        [sys.executable, "-m", "model_builder", "--help"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    for command in COMMANDS:
        assert command in process.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as exit:
        main([command, "--help"])
    assert exit.value.code == 0
    assert f"python -m model_builder {command}" in capsys.readouterr().out


def test_no_command_is_a_usage_error(capsys):
    with pytest.raises(SystemExit) as exit:
        main([])
    assert exit.value.code == 2
    assert "COMMAND" in capsys.readouterr().err


@pytest.mark.slow
def test_training_publishes_a_baseline(tmp_path, capsys):
    options = ("--out", tmp_path / "run", "--artifacts", tmp_path, *SHORT, "--steps", 1)
    assert call("train", *options) == 0
    artifact = contract.find(tmp_path, "baseline")
    assert artifact.manifest.provenance.network == Network.model_validate(LPRNet(len(ALPHABET) + 1).configuration())
    assert "million multiply-adds" in capsys.readouterr().out


@pytest.mark.slow
def test_fine_tuning_on_a_folder_publishes_a_network_of_its_own(tuned, baseline):
    artifacts = tuned / "artifacts"
    assert contract.variants(artifacts) == ["baseline", "fine-tuned"]
    old, new = (contract.find(artifacts, name) for name in ("baseline", "fine-tuned"))
    assert old.manifest == contract.find(baseline, "baseline").manifest
    assert new.manifest.version != old.manifest.version
    contract.check_probe(load(new), new)
    assert new.manifest.measured.accuracy["rendered"].total == 5
    provenance = new.manifest.provenance
    assert provenance.source == Source.of(contract.find(new.folder.parent, "baseline").manifest)
    assert provenance.made.settings["steps"] == 3
    assert provenance.made.own_crops == OwnCrops(trained=8, held_out=4)
    assert new.manifest.measured.accuracy["held-out"].total == 4


@pytest.mark.slow
def test_some_crops_are_held_out_and_read_before_and_after(tuned):
    lines = (tuned / "printed.txt").read_text(encoding="utf-8").splitlines()
    held = labels.read_folder(tuned / "run" / "held-out")
    assert lines[0] == f"8 crops to train on; 4 held out, in {tuned / 'run' / 'held-out'}"
    assert lines[1].startswith("held-out before, read by baseline: 0 of 4 exact")
    assert any(line.startswith("held-out: 0 of 4 exact, ") for line in lines)
    assert lines[-1] == "held-out: 0 of 4 exact before, 0 after"
    everything = labels.read_folder(tuned / "crops")
    assert len(set(held.texts) & set(everything.texts)) == 4


def test_crops_are_split_by_the_seed_and_no_text_is_on_both_sides():
    texts = [f"京A{number:05}" for number in range(40) for _ in range(3)]
    crops = Crops(np.arange(120, dtype=np.uint8)[:, None, None, None], texts)
    own, held = own_crops.split(crops, 0.1, seed=1)
    assert (len(own.texts), len(held.texts)) == (108, 12)
    assert set(own.texts).isdisjoint(held.texts)
    assert [texts[int(number)] for number in held.images.ravel()] == held.texts
    assert own_crops.split(crops, 0.1, seed=1)[1].texts == held.texts
    assert own_crops.split(crops, 0.1, seed=2)[1].texts != held.texts
    few = Crops(crops.images[:10], ["京A00001"] * 9 + ["京A00002"])  # most of them must stay to be trained on
    assert own_crops.split(few, 0.5, seed=1)[1].texts == ["京A00002"]


def test_too_few_crops_are_refused_with_a_sentence(artifacts, folder, capsys):
    listing = folder / "labels.csv"
    lines = listing.read_text(encoding="utf-8").splitlines()
    listing.write_text("\n".join(lines[:8]), encoding="utf-8")
    assert fine_tune(artifacts.parent, folder) == 1
    assert "there are 7 crops, too few" in capsys.readouterr().err
    listing.write_text("\n".join(["file,text", *[f"{number}.png,京A12345" for number in range(12)]]), encoding="utf-8")
    assert fine_tune(artifacts.parent, folder) == 1
    assert "show the same text" in capsys.readouterr().err
    assert not (artifacts.parent / "run").exists()


@pytest.mark.slow
def test_fine_tuning_starts_from_its_source(tuned):
    old, new = (load_network(contract.find(tuned / "artifacts", name)) for name in ("baseline", "fine-tuned"))
    assert new.widths == old.widths == WIDTHS
    assert 0 < (new.classify.weight - old.classify.weight).abs().max() < 0.01


@pytest.mark.slow
def test_a_training_can_start_from_an_artifact(artifacts, tmp_path):
    options = (
        "--out",
        tmp_path / "run",
        "--variant",
        "straight",
        "--steps",
        "1",
        "--learning-rate",
        "1e-9",
        "--note",
        "x",
    )
    rest = ("--batch-size", "4", "--development", "8", "--workers", "0", "--rendered", "5")
    assert call("train", "--artifacts", artifacts, "--source", "baseline", *options, *rest) == 0
    published = contract.find(artifacts, "straight")
    assert published.manifest.provenance.source.variant == "baseline"
    assert published.manifest.provenance.note == "x"
    network, source = load_network(published), load_network(contract.find(artifacts, "baseline"))
    torch.testing.assert_close(network.classify.weight, source.classify.weight, atol=1e-6, rtol=0)


@pytest.mark.slow
def test_what_was_trained_can_be_published_under_another_name(tuned, tmp_path, capsys):
    assert call("publish", tuned / "run", "--variant", "second", "--artifacts", tmp_path, "--rendered", 3) == 0
    first = contract.find(tuned / "artifacts", "fine-tuned").manifest
    second = contract.find(tmp_path, "second").manifest
    assert second.version == first.version
    origins = [manifest.provenance.model_dump(include=set(Origin.model_fields)) for manifest in (first, second)]
    assert origins[0] == origins[1]
    out = capsys.readouterr().out
    assert f"published {tmp_path / 'second'} {second.version}" in out
    assert "rendered: 0 of 3 exact" in out
    assert "held-out: 0 of 4 exact" in out


@pytest.mark.slow
def test_another_configuration_in_the_same_folder_is_an_error(tuned, capsys):
    assert fine_tune(tuned, tuned / "crops", *HELD_OUT, "--learning-rate", "0.1") == 1
    assert "another learning_rate" in capsys.readouterr().err


@pytest.mark.slow
def test_ctrl_c_tells_how_to_go_on(artifacts, folder, monkeypatch, capsys):
    def interrupted(*_: object) -> Iterator[Batch]:
        drawn = batches(*_)
        yield from itertools.islice(drawn, 2)
        signal.raise_signal(signal.SIGINT)
        yield from drawn

    batches = Crops.batches
    monkeypatch.setattr(Crops, "batches", interrupted)
    assert fine_tune(artifacts.parent, folder) == 130
    assert "stopped at step 2; the same command goes on" in capsys.readouterr().err
    assert (artifacts.parent / "run" / "checkpoint.pt").is_file()
    assert contract.variants(artifacts) == ["baseline"]


def test_a_mistake_in_the_data_is_told_before_anything_is_done(artifacts, folder, capsys):
    with (folder / "labels.csv").open("a", encoding="utf-8") as file:
        file.write("5.png,京Ä12345\n")
    assert fine_tune(artifacts.parent, folder) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: 5.png: its text '京Ä12345' has 'Ä'")
    assert captured.out == ""
    assert not (artifacts.parent / "run").exists()
    assert contract.variants(artifacts) == ["baseline"]


def test_an_empty_folder_is_an_error(artifacts, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert fine_tune(tmp_path, tmp_path / "empty") == 1
    assert "labels.csv does not exist" in capsys.readouterr().err


def test_fine_tuning_needs_its_source(artifacts, folder, capsys):
    assert fine_tune(artifacts.parent, folder, "--source", "pruned") == 1
    assert "no variant 'pruned'" in capsys.readouterr().err


def test_publishing_a_folder_without_a_training_is_an_error(tmp_path, capsys):
    assert call("publish", tmp_path, "--artifacts", tmp_path / "artifacts") == 1
    assert "network.pt" in capsys.readouterr().err
    (tmp_path / "network.pt").write_bytes(b"x")
    assert call("publish", tmp_path, "--artifacts", tmp_path / "artifacts") == 1
    assert "network.pt is not what a training saves" in capsys.readouterr().err
    assert not (tmp_path / "artifacts").exists()


def test_a_damaged_checkpoint_is_told(artifacts, folder, capsys):
    (artifacts.parent / "run").mkdir()
    (artifacts.parent / "run" / "checkpoint.pt").write_bytes(b"x")
    assert fine_tune(artifacts.parent, folder) == 1
    assert "checkpoint.pt is damaged: remove it" in capsys.readouterr().err


def test_evaluate_prints_accuracy_and_latency(baseline, tmp_path, folder, capsys):
    (tmp_path / "real").mkdir()
    real = folder.rename(tmp_path / "real" / "own")
    (real / "images").mkdir()
    for image in real.glob("*.png"):
        image.rename(real / "images" / image.name)
    options = ("--artifacts", baseline, "--rendered", 4, "--real", tmp_path / "real", "--errors")
    assert call("evaluate", *options) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("baseline ")
    assert any(line.startswith("rendered: 0 of 4 exact, 0.0 % (0.0 to 49.0)") for line in lines)
    assert any(line.startswith("own: 0 of 12 exact") for line in lines)
    assert sum(" read as " in line for line in lines) == 16
    assert lines[-1].startswith("latency: median ")


@pytest.mark.parametrize(
    ("listing", "sentence"),
    [
        (None, "has no labels.csv"),
        ("", "needs the columns file and text"),
        ("name,plate\n0.png,京A12345\n", "it has 'name', 'plate'"),
        ("file,text\n", "lists no crops"),
        ("file,text\nmissing.png,京A12345\n", "1 of 1 files are listed"),
        ("file,text\n0.png\n", "has 0 characters"),
        ("file,text\nlabels.csv,京A12345\n", "lists no image that can be read"),
        ("file,text\n0.png,京A12345\n".encode("utf-16"), "CSV file in UTF-8"),
    ],
)
def test_evaluating_a_wrong_folder_says_what_to_do_and_fails(baseline, folder, capsys, listing, sentence):
    if listing is None:
        (folder / "labels.csv").unlink()
    else:
        (folder / "labels.csv").write_bytes(listing if isinstance(listing, bytes) else listing.encode())
    assert call("evaluate", "--artifacts", baseline, "--rendered", 4, "--real", folder) == 1
    said = capsys.readouterr()
    assert said.err.startswith("error: ")
    assert sentence in said.err
    assert "exact" not in said.out


def test_evaluating_a_set_itself_with_a_byte_order_mark(baseline, folder, capsys):
    listing = folder / "labels.csv"
    listing.write_bytes(b"\xef\xbb\xbf" + listing.read_bytes())
    assert call("evaluate", "--artifacts", baseline, "--rendered", 4, "--real", folder) == 0
    assert "crops: 0 of 12 exact" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ("evaluate", "--rendered", 0),
        ("evaluate", "--rendered", "x"),
        ("evaluate", "--threads", -1),
        ("train", "--batch-size", 0),
        ("train", "--learning-rate", "nan"),
        ("train", "--drill", 2),
        ("train", "--hold-out", 0),
        ("train", "--variant", "../x"),
        ("quantize", "--bits", 16),
        ("compile", "--max-loss", "nan"),
        ("preview", "--columns", 0),
    ],
)
def test_a_value_out_of_range_is_a_usage_error(arguments, capsys):
    with pytest.raises(SystemExit) as exit:
        call(*arguments)
    assert exit.value.code == 2
    assert "error: argument --" in capsys.readouterr().err


def test_ctrl_c_outside_a_training_is_no_traceback(baseline, monkeypatch, capsys):
    monkeypatch.setattr(evaluate, "latency", lambda *_, **__: signal.raise_signal(signal.SIGINT))
    assert call("evaluate", "--artifacts", baseline, "--rendered", 2) == 130
    assert capsys.readouterr().err.endswith("the same command goes on where it can\n")


def test_ctrl_c_that_comes_out_as_another_error_is_no_traceback(baseline, monkeypatch, capsys):
    def as_tvm_does(*_: object, **__: object) -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as error:
            raise RuntimeError from error

    monkeypatch.setattr(evaluate, "latency", as_tvm_does)
    assert call("evaluate", "--artifacts", baseline, "--rendered", 2) == 130
    assert "the same command goes on" in capsys.readouterr().err


def test_a_variant_is_called_after_what_it_is_made_of():
    names = {
        (build.quantized, "baseline"): "quantized",
        (build.quantized, "fine-tuned"): "fine-tuned-quantized",
        (build.pruned, "baseline"): "pruned",
        (build.pruned, "fine-tuned"): "fine-tuned-pruned",
        (build.compiled, "pruned-quantized"): "tvm-fast",
        (build.compiled, "fine-tuned"): "tvm-fine-tuned",
    }
    assert {key: build.name_of(*key) for key in names} == names
    for stage in build.every_stage():
        assert build.name_of(getattr(stage.make, "func", stage.make), stage.source) == stage.variant


def test_a_variant_does_not_replace_what_it_is_made_of(baseline, capsys):
    assert call("quantize", "--artifacts", baseline, "--variant", "baseline", "--rendered", 2) == 1
    assert "baseline would be replaced by what is made of it" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("command", [("quantize", "--source"), ("compile",)])
def test_ctrl_c_while_a_variant_is_made_tells_where_it_goes_on(artifacts, tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    (artifacts / "baseline").rename(artifacts / "fine-tuned")
    manifest = artifacts / "fine-tuned" / "manifest.json"
    manifest.write_text(manifest.read_text(encoding="utf-8").replace('"baseline"', '"fine-tuned"', 1), encoding="utf-8")
    monkeypatch.setattr("model_builder.publish.publish", lambda *_: signal.raise_signal(signal.SIGINT))
    monkeypatch.setattr("model_builder.compress.quantize.choose", lambda *_: signal.raise_signal(signal.SIGINT))
    assert call(*command, "fine-tuned", "--artifacts", artifacts, "--rendered", 2) == 130
    said = capsys.readouterr()
    variant = "fine-tuned-quantized" if command[0] == "quantize" else "tvm-fine-tuned"
    assert said.out.startswith(f"[1/1] {variant}: of fine-tuned 0.1.0+")
    assert said.err.endswith(f"stopped in {variant}; the same command goes on there\n")
    assert contract.variants(artifacts) == ["fine-tuned"]


def test_without_the_builders_packages_a_sentence_says_how_to_get_them(tmp_path):
    code = "import sys; sys.modules['torch'] = None; from model_builder.__main__ import main; sys.exit(main(['build']))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "pip install '.[build]'" in done.stderr


def test_evaluating_an_unknown_variant_lists_those_there_are(baseline, capsys):
    assert call("evaluate", "nothing", "--artifacts", baseline) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert "baseline" in captured.err
    assert captured.out == ""


def test_preview_writes_a_sheet_that_its_seed_decides(tmp_path, capsys):
    sheets = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        path = tmp_path / f"{name}.png"
        assert call("preview", "--out", path, "--seed", seed, "--count", 7, "--columns", 3) == 0
        assert f"wrote {path}" in capsys.readouterr().out
        sheets.append(np.asarray(cv2.imread(str(path))))
    assert sheets[0].shape[0] % 3 == sheets[0].shape[1] % 3 == 0  # three rows of three
    assert sheets[0].shape[1] >= 3 * 94
    np.testing.assert_array_equal(sheets[0], sheets[1])
    assert not np.array_equal(sheets[0], sheets[2])
    cell = sheets[0][: sheets[0].shape[0] // 3, : sheets[0].shape[1] // 3]
    assert cell[:48].std() > 5  # the plate
    assert cell[49:].min() < 100  # its text below


def test_render_writes_a_folder_that_can_be_read_and_trained_on(tmp_path, capsys):
    folder = tmp_path / "plates"
    assert call("render", folder, "--count", 3, "--seed", 5) == 0
    assert f"wrote 3 plates to {folder}" in capsys.readouterr().out
    images, texts = batch(Renderer(), 5, 3)
    crops = labels.read_set(folder)
    assert crops.texts == labels.read_folder(folder).texts == texts
    assert np.abs(crops.images.astype(float) - images).mean() < 8  # JPEG
    assert call("render", folder, "--count", 3) == 1
    assert "labels.csv exists" in capsys.readouterr().err


def test_preview_shows_real_crops_in_every_other_row(folder, tmp_path):
    (folder / "images").mkdir()
    for image in folder.glob("*.png"):
        image.unlink()
        cv2.imwrite(str(folder / "images" / image.name), np.full((24, 94, 3), (0, 0, 255), np.uint8))
    path = tmp_path / "sheet.png"
    assert call("preview", "--out", path, "--count", 6, "--columns", 3, "--real", folder) == 0
    rows = np.split(np.asarray(cv2.imread(str(path))), 4)
    assert [bool((row[:40, :180] == (0, 0, 255)).all()) for row in rows] == [False, True, False, True]


@pytest.mark.parametrize("name", ["nowhere/sheet.png", "sheet.unknown", "sheet"])
def test_a_preview_that_cannot_be_written_is_an_error(tmp_path, capsys, name):
    assert call("preview", "--out", tmp_path / name, "--count", 2) == 1
    assert "could not be written" in capsys.readouterr().err
