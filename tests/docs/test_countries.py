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
from service.settings import REPOSITORY, Settings
from tests.support.crops import WIDTHS
from tests.support.servers import running


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
def test_a_network_is_trained_on_and_reads(country, tmp_path, capsys):
    torch.manual_seed(0)
    artifacts, out = tmp_path / "artifacts", tmp_path / "run"
    publish(artifacts, torch_candidate("baseline", LPRNet(len(kinds.ALPHABET) + 1, WIDTHS), Origin(seed=0)), {})
    words = ["train", "--source", "baseline", "--variant", "tuned", "--country", country, "--out", out, "--rendered", 4]
    words += ["--artifacts", artifacts, "--steps", 2, "--batch-size", 4, "--development", 4, "--workers", 0]
    assert main([str(word) for word in words]) == 0, capsys.readouterr().err
    tuned = contract.find(artifacts, "tuned")
    assert [kind.rows for kind in tuned.reader.grammar.within(["is"]).formats[0].kinds] == [1, 2]
    assert main(["publish", str(out), "--variant", "again", "--artifacts", str(artifacts), "--rendered", "4"]) == 0
    assert contract.find(artifacts, "again").reader.grammar == tuned.reader.grammar
    image = cv2.imencode(".png", Renderer(fonts=False).sample(1, kinds.load(country)[0]).image)[1].tobytes()
    asked = {"region": "is", "min_confidence": 0}
    with (
        running(Settings(variant="tuned", finder=None, artifacts=artifacts, threads=1)) as url,
        httpx.Client(base_url=url) as client,
    ):
        (result,) = client.post("/recognize", params=asked, files={"image": image}).json()["results"]
    (plate,) = result["plates"]
    assert (plate["formats"][-1], plate["region"]) == ("is", {"code": "is", "probability": 1.0})
