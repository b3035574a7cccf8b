"""The deployment's manifests as Helm renders them, and what packages know of their schemas."""

import ast
import re
import subprocess
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import yaml

from tests.support.processes import program
from tests.support.prometheus import DOCKER

CHART = DOCKER / "helm" / "lpr"
INFERENCE_SERVICE = DOCKER / "kserve" / "inference-service.yaml"
ALL = "autoscaling.enabled=true,monitoring.enabled=true,monitoring.labels.release=prometheus,secret=keys"

Manifest = dict[str, Any]


def helm(*arguments: str | Path) -> str:
    """What Helm prints for a command that must succeed."""
    done = subprocess.run([program("helm"), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rendered(values: str = "") -> dict[str, Manifest]:
    """The chart's manifests by their kinds, with some values set."""
    manifests = yaml.safe_load_all(helm("template", "site", CHART, "--set", values))
    return {manifest["kind"]: manifest for manifest in manifests}


def inference_service() -> Manifest:
    """The manifest for KServe."""
    found: Manifest = yaml.safe_load(INFERENCE_SERVICE.read_text(encoding="utf-8"))
    return found


def predicting_pod() -> Manifest:
    """Of its predictor, the fields of a pod; the others are KServe's."""
    kserve = fields("V1beta1ComponentExtensionSpec") or {}
    predictor = inference_service()["spec"]["predictor"]
    return {name: value for name, value in predictor.items() if name not in kserve}


def fields(kind: str) -> dict[str, str] | None:
    """Types of the fields of a class of the package kserve, by their names in a manifest; None for other classes.

    The package is not imported: that needs what it is installed without.
    """
    module = re.sub(r"(?<!^)(?=[A-Z])", "_", kind).lower()
    file = Path(str(distribution("kserve").locate_file(f"kserve/models/{module}.py")))
    if not file.exists():
        return None
    types, names = (
        ast.literal_eval(re.findall(rf"^    {table} = (\{{.*?\n    }})", file.read_text(), re.M | re.S)[0])
        for table in ("openapi_types", "attribute_map")
    )
    return {names[field]: types[field] for field in names}


def faults(value: Any, kind: str, path: str = "") -> list[str]:
    """Where a value is not what KServe's class has; what is of Kubernetes' own classes is not looked at."""
    plain = {"str": str, "int": int, "bool": bool}
    if kind in plain:
        return [] if type(value) is plain[kind] else [f"{path}: no {kind}"]
    known = fields(kind)
    if known is None:
        return []
    wrong = [f"{path}.{name}: no such field" for name in value.keys() - known]
    return wrong + [
        fault for name in value.keys() & known for fault in faults(value[name], known[name], f"{path}.{name}")
    ]
