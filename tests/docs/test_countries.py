"""The way to a new country, as docs/countries.md shows it: one file, a preview, a fine-tuning, a reading."""

import re
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
import torch

from model_builder.__main__ import main
from model_builder.candidates import torch_candidate
from model_builder.networks.reader import LPRNet
from model_builder.plates import kinds
from model_builder.publish import publish
from model_builder.render.plate import Renderer
from service import artifact as contract
from service.artifact import Origin
from service.settings import REPOSITORY
from tests.support.crops import WIDTHS
from tests.support.printed import SMALL, built, made, printed
from tests.support.processes import started


@pytest.fixture
def country(tmp_path) -> Path:
    """The file of the page, in a folder of its own."""
    page = (REPOSITORY / "docs" / "countries.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"<!-- a new country: .*?-->\n```toml\n(.*?)```", page, re.DOTALL)
    path = tmp_path / "is.toml"
    path.write_text(block, encoding="utf-8")
    return path


def test_the_file_is_short_and_its_kinds_are_drawn(country, tmp_path, capsys):
    assert len(country.read_text().splitlines()) < 26
    plates = kinds.load(country)
    assert [plate.rows for plate in plates] == [1, 2]
    sheet = tmp_path / "is.png"
    assert main(["preview", "--kind", str(country), "--count", "4", "--columns", "4", "--out", str(sheet)]) == 0
    assert f"wrote {sheet}" in capsys.readouterr().out
    assert np.asarray(cv2.imread(str(sheet))).shape[0] > 2 * 48  # a row for each kind
    grammar = kinds.grammar(plates)
    texts = [Renderer(fonts=False).sample(seed, plates[0]).text for seed in range(5)]
    assert {grammar.formats_of(text) for text in texts} == {("is",)}


@pytest.mark.slow
def test_a_network_is_trained_on_and_read_by_with_the_commands_of_the_page(country, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    artifacts = tmp_path / "artifacts"
    for name in ("baseline", "world-baseline"):
        publish(artifacts, torch_candidate(name, LPRNet(len(kinds.ALPHABET) + 1, WIDTHS), Origin(seed=0)), {})
    before = {path: path.read_bytes() for path in artifacts.rglob("*") if path.is_file()}
    *steps, serve = printed("countries.md", "train and read")
    for step in steps:
        assert main([*built(step), "--artifacts", str(artifacts)]) == 0, capsys.readouterr().err
    assert all(path.read_bytes() == content for path, content in before.items())
    tuned = contract.find(artifacts, "fine-tuned")
    assert [kind.rows for kind in tuned.reader.grammar.within(["is"]).formats[0].kinds] == [1, 2]
    setting, _, command = serve.partition(" ")
    assert setting == "LPR_VARIANT=fine-tuned-quantized"
    assert made(command)[-2:] == ["-m", "service"]
    image = cv2.imencode(".png", Renderer(fonts=False).sample(1, kinds.load(country)[0]).image)[1].tobytes()
    asked = {"region": "is", "min_confidence": 0}
    with started(artifacts, VARIANT="fine-tuned-quantized", FINDER="") as server:
        answer = httpx.post(f"{server.url}/recognize", params=asked, files={"image": image}, timeout=30)
        (plate,) = answer.json()["results"][0]["plates"]
    assert (plate["formats"][-1], plate["region"]) == ("is", {"code": "is", "probability": 1.0})


@pytest.mark.slow
def test_a_training_for_a_country_is_published_again_under_its_name(country, tmp_path, capsys):
    artifacts, out = tmp_path / "artifacts", tmp_path / "run"
    torch.manual_seed(0)
    publish(artifacts, torch_candidate("baseline", LPRNet(len(kinds.ALPHABET) + 1, WIDTHS), Origin(seed=0)), {})
    where = ["--artifacts", str(artifacts)]
    train = ["train", "--source", "baseline", "--country", str(country), "--out", str(out), *SMALL["train"], *where]
    assert main([*train, "--variant", "north"]) == 0, capsys.readouterr().err
    assert main(["publish", str(out), "--rendered", "4", *where]) == 0
    assert contract.variants(artifacts) == ["baseline", "north"]
    assert main(["publish", str(out), "--variant", "again", "--rendered", "4", *where]) == 0
    assert contract.find(artifacts, "again").reader.grammar == contract.find(artifacts, "north").reader.grammar
    (out / "variant").unlink()  # as earlier versions left it
    assert main(["publish", str(out), "--rendered", "4", *where]) == 0
    assert contract.variants(artifacts) == ["again", "baseline", "fine-tuned", "north"]


def test_a_country_with_a_kind_of_a_name_that_there_is_is_refused_before_anything_is_done(country, tmp_path, capsys):
    country.write_text(country.read_text(encoding="utf-8").replace('name = "is"', 'name = "de"'), encoding="utf-8")
    out = tmp_path / "run"
    assert main(["train", "--country", str(country), "--out", str(out), "--artifacts", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"error: {country}: two kinds are called de, with those that are there already\n"
    assert not out.exists()
