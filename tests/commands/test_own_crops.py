"""The way from own crops to a served variant, as docs/training.md shows it.

It runs the commands of that page, in small: a network of a few channels, three steps, twelve crops.
"""

import re
import shlex
import subprocess

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
from service.settings import REPOSITORY
from tests.support.crops import WIDTHS, write_crops
from tests.support.images import encode
from tests.support.processes import started

FEW = ("--rendered", "4")
SMALL = {
    "train": ("--steps", "3", "--batch-size", "4", "--development", "8", "--workers", "0", *FEW),
    "evaluate": FEW,
    "quantize": ("--calibration", "8", "--development", "8", "--steps", "0", *FEW),
    "compile": ("--target", "x86-64-v3", *FEW),
}


def printed() -> list[str]:
    """The commands, one a line."""
    page = (REPOSITORY / "docs" / "training.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"<!-- own crops: .*?-->\n```sh\n(.*?)```", page, re.DOTALL)
    return str(block).splitlines()


def made(command: str) -> list[str]:
    """What make would run in a new environment, at last, as words."""
    words = [*shlex.split(command), "--dry-run", "--no-print-directory", "VENV=none"]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return shlex.split(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_own_crops_to_a_served_variant_with_the_commands_of_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    artifacts = tmp_path / "artifacts"
    publish(artifacts, torch_candidate("pruned", LPRNet(len(ALPHABET) + 1, WIDTHS), Origin(seed=0)), {})
    write_crops(tmp_path / "crops")
    *steps, serve = printed()
    for step in steps:
        words = made(step)
        name, *arguments = words[words.index("model_builder") + 1 :]
        assert main([name, *arguments, "--artifacts", str(artifacts), *SMALL[name]]) == 0, capsys.readouterr().err
        assert "held-out: 0 of 2 exact" in capsys.readouterr().out
    assert "LPR_VARIANT=tvm-fine-tuned-quantized" in serve
    assert contract.variants(artifacts) == ["fine-tuned", "fine-tuned-quantized", "pruned", "tvm-fine-tuned-quantized"]
    assert made(serve.partition(" ")[2])[-2:] == ["-m", "service"]
    with started(artifacts, VARIANT="tvm-fine-tuned-quantized") as server:
        answer = httpx.post(f"{server.url}/recognize", files={"image": encode()}, timeout=30).json()
    assert answer["model"]["variant"] == "tvm-fine-tuned-quantized"
