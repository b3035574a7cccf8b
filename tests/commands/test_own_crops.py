"""The way from own crops to a served variant, as docs/training.md shows it.

It runs the commands of that page, in small: a network of a few channels, three steps, twelve crops.
"""

import httpx
import pytest
import torch

from model_builder.__main__ import main
from model_builder.candidates import torch_candidate
from model_builder.networks.reader import LPRNet
from model_builder.plates.kinds import ALPHABET
from model_builder.publish import publish
from service import artifact as contract
from service.artifact import Origin
from tests.support.crops import WIDTHS, write_crops
from tests.support.images import encode
from tests.support.printed import built, made, printed
from tests.support.processes import started


@pytest.mark.slow
def test_own_crops_to_a_served_variant_with_the_commands_of_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    artifacts = tmp_path / "artifacts"
    publish(artifacts, torch_candidate("pruned", LPRNet(len(ALPHABET) + 1, WIDTHS), Origin(seed=0)), {})
    write_crops(tmp_path / "crops")
    *steps, serve = printed("training.md", "own crops")
    for step in steps:
        assert main([*built(step), "--artifacts", str(artifacts)]) == 0, capsys.readouterr().err
        assert "held-out: 0 of 2 exact" in capsys.readouterr().out
    assert "LPR_VARIANT=tvm-fine-tuned-quantized" in serve
    assert contract.variants(artifacts) == ["fine-tuned", "fine-tuned-quantized", "pruned", "tvm-fine-tuned-quantized"]
    assert made(serve.partition(" ")[2])[-2:] == ["-m", "service"]
    with started(artifacts, VARIANT="tvm-fine-tuned-quantized") as server:
        answer = httpx.post(f"{server.url}/recognize", files={"image": encode()}, timeout=30).json()
    assert answer["model"]["variant"] == "tvm-fine-tuned-quantized"
