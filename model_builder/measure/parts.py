"""Store of measurements: each part that is finished is kept, so that a command goes on where it was stopped."""

import datetime
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

from model_builder import evaluate
from service import artifact as contract

_ENGINES = ("torch", "onnxruntime", "apache-tvm", "openvino")


class Parts:
    """Store of finished parts, a file each. One is reused if its subject, the machine and the engines are the same."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._here = {"machine": evaluate.machine(), "engines": installed_engines()}
        self.measured: dict[str, str] = {}  # when each part was, UTC

    def get(self, name: str, subject: Mapping[str, Any], measure: Callable[[], Any]) -> Any:
        """The part as JSON holds it, reused or measured now; it depends on `subject`, the machine and the engines."""
        path = self._folder / f"{re.sub(r'[^a-z0-9-]+', '-', name.lower())}.json"
        key = json.loads(json.dumps({**self._here, **subject}))
        saved = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        if saved and saved["key"] == key:
            print(f"{name}: measured {saved['measured']}, kept in {path}", flush=True)
        else:
            print(f"{name}: measuring", flush=True)
            value = json.loads(json.dumps(measure()))
            saved = {"key": key, "measured": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M}", "value": value}
            aside = path.with_suffix(".new")
            aside.write_text(json.dumps(saved, indent=1) + "\n", encoding="utf-8")
            aside.rename(path)
        self.measured[name] = saved["measured"]
        return saved["value"]


def installed_engines() -> dict[str, str]:
    """Versions of the engines that are installed."""
    return {name: version(name) for name in _ENGINES if any(distributions(name=name))}


def identity(artifacts: Path, name: str) -> str | None:
    """Digest of the files of a variant, None where there is none. A version names the weights alone, not the compiled
    library."""
    if name not in contract.variants(artifacts):
        return None
    files = json.dumps(contract.find(artifacts, name).manifest.files, sort_keys=True)
    return hashlib.sha256(files.encode()).hexdigest()[:16]
