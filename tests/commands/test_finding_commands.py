"""`train --network finder` and `refiner`, and what is made of what they leave, with small networks."""

from functools import partial

import cv2
import numpy as np
import pytest

from model_builder.__main__ import main
from model_builder.commands import finding
from model_builder.networks import finder as finders
from model_builder.train.labels import DataError
from service import artifact as contract
from tests.support.images import encode

SHORT = ("--steps", 1, "--batch-size", 2, "--development", 2, "--workers", 0, "--log-every", 1)
SMALL = {"stem": 4, "fine": 4, "middle": (4,), "coarse": (4,), "coarsest": (4,), "fuse": (4,)}


def call(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Finders have few channels."""
    monkeypatch.setattr(finders, "Widths", partial(finders.Widths, **SMALL))


@pytest.mark.slow
def test_a_finder_is_trained_and_published_then_a_refiner_on_its_answers(tmp_path, capsys):
    where = ("--artifacts", tmp_path)
    (tmp_path / "walls").mkdir()
    (tmp_path / "walls" / "wall.png").write_bytes(encode(".png"))
    walls = ("--backgrounds", tmp_path / "walls")
    runs = {kind: ("--out", tmp_path / "runs" / kind) for kind in ("finder", "refiner")}
    assert call("train", "--network", "finder", *SHORT, *where, *walls, *runs["finder"], "--rendered", 2) == 0
    assert "finder is measured without" in capsys.readouterr().out
    made = contract.find(tmp_path, "finder").manifest
    assert made.provenance.network.widths["stem"] == 4
    assert made.provenance.made.settings["steps"] == 1
    found_by = ("--finder", runs["finder"][1])
    assert call("train", "--network", "refiner", *SHORT, *where, *runs["refiner"], *found_by, "--rendered", 4) == 0
    assert contract.find(tmp_path, "refiner").manifest.measured.accuracy["rendered"].total == 4
    assert call("publish", runs["finder"][1], *where, "--rendered", 2) == 0
    assert contract.find(tmp_path, "finder").manifest.measured.false_alarms is not None
    capsys.readouterr()
    assert call("evaluate", "finder", *where, "--rendered", 2) == 0
    assert "found, " in capsys.readouterr().out
    again = ("train", "--network", "refiner", *SHORT, *where, "--out", tmp_path / "other", "--rendered", 4)
    assert call(*again, "--variant", "second") == 0
    before = contract.find(tmp_path, "refiner").manifest.version
    assert call("publish", tmp_path / "other", *where, "--rendered", 4) == 0
    assert "published" in capsys.readouterr().out
    assert contract.find(tmp_path, "refiner").manifest.version == before


@pytest.mark.parametrize(
    ("network", "option"),
    [
        ("finder", ("--drill", 0.5)),
        ("finder", ("--data", "crops")),
        ("refiner", ("--corners", 1)),
        ("reader", ("--finder", "x")),
    ],
)
def test_an_option_of_another_network_is_refused(network, option, tmp_path, capsys):
    assert call("train", "--network", network, *option, "--out", tmp_path / "run") == 1
    assert f"{option[0]} is no option of --network {network}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_weights_of_no_network_are_not_kept(tmp_path, capsys):
    assert call("train", "--kept", 0.5, "--out", tmp_path / "run") == 1
    assert "--kept is of a network to start from: give its variant as --source" in capsys.readouterr().err


def test_more_than_all_weights_are_not_kept(tmp_path, capsys):
    assert call("train", "--kept", 5, "--out", tmp_path / "run") == 1
    assert "--kept is a share from 0 to 1, not 5.0" in capsys.readouterr().err


def test_photographs_are_found_in_folders_below_in_order(tmp_path):
    (tmp_path / "b").mkdir()
    for name in ("b/2.jpg", "b/1.PNG", "a.jpeg", "notes.txt"):
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in finding.photographs_in([tmp_path])]
    assert found == ["a.jpeg", "b/1.PNG", "b/2.jpg"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds no photograph"):
        finding.photographs_in([tmp_path, tmp_path / "empty"])


def test_a_preview_shows_scenes_and_photographs_with_the_outlines_of_plates(tmp_path):
    real = tmp_path / "real"
    real.mkdir()
    cv2.imwrite(str(real / "a.png"), np.zeros((240, 320, 3), np.uint8))
    (real / "labels.csv").write_text("file,x1,y1,x2,y2,x3,y3,x4,y4\na.png,40,40,200,40,200,90,40,90\n")
    sheet = tmp_path / "sheet.png"
    assert call("preview", "--scenes", "--out", sheet, "--count", 2, "--columns", 2, "--real", real) == 0
    drawn, below = np.split(np.asarray(cv2.imread(str(sheet))), 2)
    assert drawn.std() > 10
    assert below[40, 100].argmax() == 2  # red, from the first corner on
    assert below[90, 100].argmax() == 1  # green
    assert below[60, 100].tolist() == [0, 0, 0]
