"""Artifacts that come with an installation. The module imports nothing of the package: setup.py runs it, too."""

from importlib.util import find_spec
from pathlib import Path
from typing import Final

VARIANT: Final = "world"  # what reads by default
FINDER: Final = "finder-fast"  # what finds plates by default
PORTABLE: Final = "finder-quantized"  # and where TVM is not installed
VARIANTS: Final = (VARIANT, FINDER, "refiner-fast")  # those of a wheel
PACKAGED: Final = Path(__file__).resolve().parent / "models"  # a wheel has it; setup.py writes it there
REPOSITORY: Final = Path(__file__).resolve().parents[1] / "artifacts"


def artifacts() -> Path:
    """Folder of the variants: that of the wheel, or, in a checkout, that of the repository."""
    return PACKAGED if PACKAGED.is_dir() else REPOSITORY


def finder(artifacts: Path) -> str | None:
    """The default finder, where the folder holds one: FINDER, or PORTABLE where its engine alone is installed."""
    engines = {FINDER: "tvm", PORTABLE: "onnxruntime"}
    held = [name for name in engines if (artifacts / name).is_dir()]
    return next((name for name in held if find_spec(engines[name])), held[0] if held else None)
