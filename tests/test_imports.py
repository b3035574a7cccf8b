"""Who may import whom: lint sees direct imports, a table holds the layers, a subprocess sees the rest."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.settings import REPOSITORY

FOREIGN = ("torch", "tvm", "onnxruntime", "model_builder")
LAYERS = {  # a file or folder of a package: what else of its package it may import
    "service": {
        "errors": set(),
        "host": set(),
        "decoders": set(),
        "logs": {"decoders", "errors"},
        "allocator": set(),
        "metrics": set(),
        "bundled": set(),
        "internet": set(),
        "validators": {"host", "internet"},
        "settings": {"bundled", "host", "validators"},
        "artifact": {"errors", "host"},
        "wire": {"artifact"},
        "backends": {"artifact", "errors", "host"},
        "reading": {"artifact", "errors", "finding"},
        "finding": set(),
        "pipeline": {"backends", "reading", "finding", "artifact", "errors", "allocator", "wire"},
        "http": {"pipeline", "reading", "finding", "artifact", "errors", "metrics", "logs", "wire", "internet"},
        "app": {"http", "pipeline", "artifact", "metrics", "settings"},
        "process": {"app", "http", "pipeline", "artifact", "errors", "metrics", "settings", "logs", "allocator"},
        "__main__": {"process", "settings", "errors", "logs"},
        "reader": {"pipeline", "backends", "reading", "finding", "artifact", "errors", "settings", "wire"},
        "video": {"pipeline", "backends", "reading", "finding", "artifact", "errors", "settings"},
        "bulk": {"reader", "reading", "artifact", "settings", "errors", "wire"},
        "client": {"wire", "reader", "video", "bulk", "settings", "decoders", "errors", "__main__"},
    },
    "model_builder": {
        "plates": set(),
        "networks": {"plates"},
        "kernels": set(),
        "render": {"plates"},
        "graph": {"networks", "kernels"},
        "team": set(),
        "train": {"render", "plates", "networks"},
        "evaluate": {"train", "plates"},
        "calibrate": {"train"},
        "tasks": {"evaluate", "calibrate", "train", "render", "networks", "plates"},
        "candidates": {"tasks", "graph", "networks", "plates"},
        "compress": {"train", "candidates", "graph", "networks", "plates"},
        "compile": {"compress", "candidates", "tasks", "evaluate", "graph", "kernels", "networks"},
        "publish": {"candidates", "tasks", "evaluate"},
        "build": {"publish", "compile", "compress", "candidates", "tasks", "train", "graph"},
        "measure": {
            "tasks",
            "compile",
            "compress",
            "candidates",
            "evaluate",
            "team",
            "train",
            "graph",
            "kernels",
            "networks",
        }
        | {"render", "plates"},
        "commands": {"measure", "build", "publish", "compile", "compress", "candidates", "evaluate", "team", "train"}
        | {"tasks", "graph", "networks", "render", "plates"},
        "__main__": {"commands"},
    },
}


def imported(path: Path) -> Iterator[str]:
    """Names of what a file imports from where it runs, modules of packages included; not what only types need."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing = {id(part) for node in ast.walk(tree) if _is_typing(node) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in typing:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def _is_typing(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def files(package: str) -> list[Path]:
    return sorted((REPOSITORY / package).rglob("*.py"))


@pytest.mark.parametrize("package", LAYERS)
def test_each_layer_imports_only_those_below(package):
    for path in files(package):
        layer = path.relative_to(REPOSITORY / package).parts[0].removesuffix(".py")
        ours = {name.split(".")[1] for name in imported(path) if name.startswith(f"{package}.")}
        assert layer == "__init__" or ours - {layer} <= LAYERS[package][layer], path


def test_the_layers_form_no_cycle():
    for layers in LAYERS.values():
        below: set[str] = set()
        while remaining := set(layers) - below:
            free = {layer for layer in remaining if layers[layer] <= below}
            assert free, f"these import each other: {remaining}"
            below |= free


def test_the_server_imports_neither_engine_nor_builder():
    program = f"import sys, service.__main__; print([m for m in {FOREIGN} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_only_its_own_file_imports_an_engine():
    for path in files("service"):
        for name in imported(path):
            assert name.split(".")[0] not in FOREIGN or path.name == f"{name.split('.')[0]}.py", (path, name)


def test_the_builder_imports_only_the_contract_of_the_service():
    contract = {"artifact", "backends", "reading", "finding", "errors"}
    for path in files("model_builder"):
        starts_servers = path.parent.is_relative_to(REPOSITORY / "model_builder" / "measure" / "load")
        allowed = contract | {"settings", "host"} if starts_servers else contract
        if path.parent.name == "measure" or path.name == "video.py":
            allowed = allowed | {"video"}  # rendered videos are watched as real ones are
        ours = {name.split(".")[1] for name in imported(path) if name.startswith("service.")}
        assert ours <= allowed, path
