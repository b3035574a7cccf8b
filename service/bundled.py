"""Artifacts that come with an installation. The module imports nothing of the package: setup.py runs it, too."""

from pathlib import Path
from typing import Final

VARIANT: Final = "tvm-fast"  # what reads by default
FINDER: Final = "finder-quantized"  # what finds plates by default
VARIANTS: Final = (VARIANT, FINDER, "refiner-quantized")  # those of a wheel
PACKAGED: Final = Path(__file__).resolve().parent / "models"  # a wheel has it; setup.py writes it there
REPOSITORY: Final = Path(__file__).resolve().parents[1] / "artifacts"


def artifacts() -> Path:
    """Folder of the variants: that of the wheel, or, in a checkout, that of the repository."""
    return PACKAGED if PACKAGED.is_dir() else REPOSITORY


def finder(artifacts: Path) -> str | None:
    """The default finder, where the folder holds it."""
    return FINDER if (artifacts / FINDER).is_dir() else None
