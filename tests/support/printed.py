"""The commands that a page of the documents prints, and what `make` runs for them."""

import re
import shlex
import subprocess

from service.settings import REPOSITORY

_FEW = ("--rendered", "4")
SMALL = {  # options that make the builder's commands short
    "train": ("--steps", "3", "--batch-size", "4", "--development", "8", "--workers", "0", *_FEW),
    "evaluate": _FEW,
    "quantize": ("--calibration", "8", "--development", "8", "--steps", "0", *_FEW),
    "compile": ("--target", "x86-64-v3", *_FEW),
}


def printed(page: str, mark: str) -> list[str]:
    """The commands below a comment that begins with `mark`, in a page of docs/, one a line."""
    text = (REPOSITORY / "docs" / page).read_text(encoding="utf-8")
    (block,) = re.findall(rf"<!-- {mark}: .*?-->\n```sh\n(.*?)```", text, re.DOTALL)
    return str(block).splitlines()


def made(command: str) -> list[str]:
    """What make would run in a new environment, at last, as words."""
    words = [*shlex.split(command), "--dry-run", "--no-print-directory", "VENV=none"]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return shlex.split(done.stdout.splitlines()[-1])


def built(command: str) -> list[str]:
    """The arguments of `python -m model_builder` that a command of make comes to, made short."""
    words = made(command)
    name, *arguments = words[words.index("model_builder") + 1 :]
    return [name, *arguments, *SMALL[name]]
