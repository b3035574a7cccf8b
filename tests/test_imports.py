"""Who may import whom: lint sees direct imports, a subprocess sees the rest."""

import ast
import subprocess
import sys

import pytest

from service.settings import REPOSITORY

FOREIGN = ("torch", "tvm", "onnxruntime", "model_builder")
LEAVES = {  # module: what of the service it may import
    "errors": set(),
    "backends.base": set(),
    "ctc": {"prior"},
    "prior": {"artifact"},
    "text": {"artifact", "ctc", "prior"},
    "cpu": set(),
    "metrics": set(),
    "artifact": {"backends.base", "cpu", "errors"},
    "plate": {"containers", "errors", "guarded"},
    "containers": {"errors"},
    "guarded": set(),
    "budget": {"errors"},
    "access": {"logs"},
    "logs": set(),
    "body": {"bounded_json", "containers", "errors", "schema"},
    "bounded_json": {"errors"},
    "keys": {"errors"},
    "schema": {"artifact"},
    "settings": {"cpu"},
}


def test_the_server_imports_neither_engine_nor_builder():
    program = f"import sys, service.__main__; print([m for m in {FOREIGN} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("module", LEAVES)
def test_leaves_import_little(module):
    tree = ast.parse((REPOSITORY / "service" / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "service":
            path = (node.module or "").removeprefix("service").lstrip(".")
            imported |= {path} if path else {alias.name for alias in node.names}
    assert imported <= LEAVES[module]


def test_only_its_own_file_imports_an_engine():
    for path in (REPOSITORY / "service").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.split(".")[0] not in FOREIGN or path.name == f"{name.split('.')[0]}.py", (path, name)


def test_the_builder_imports_only_the_contract_of_the_service():
    allowed = {"artifact", "plate", "text", "backends", "errors"}
    for path in (REPOSITORY / "model_builder").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "service":
                parts = (node.module or "").split(".")[1:2] or [alias.name for alias in node.names]
                assert set(parts) <= allowed, path
