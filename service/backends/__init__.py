"""From an artifact to a running engine: the manifest names it, and only that one is imported."""

import threading
from importlib.util import find_spec
from typing import Final, assert_never

from service.artifact import Artifact, BackendName
from service.backends.base import Backend
from service.errors import ArtifactError

__all__ = ["Backend", "lacking", "load"]

_importing: Final = threading.Lock()  # TVM's module hides torch while it imports, also from other threads


def load(artifact: Artifact) -> Backend:
    """Load the model with the engine that its manifest names; the engine belongs to the calling thread.

    Raises ArtifactError if the engine is not installed or refuses the model; there is no falling back to another one.
    """
    name = artifact.manifest.backend
    try:
        match name:
            case "torch":
                with _importing:
                    from service.backends.torch import TorchBackend
                return TorchBackend(artifact)
            case "onnxruntime":
                with _importing:
                    from service.backends.onnxruntime import OnnxRuntimeBackend
                return OnnxRuntimeBackend(artifact)
            case "tvm":
                with _importing:
                    from service.backends.tvm import TvmBackend
                return TvmBackend(artifact)
            case _:
                assert_never(name)
    except ImportError as error:
        raise ArtifactError(f"{artifact.folder} needs {_named(name)} ({error})") from error


def lacking(name: BackendName) -> str | None:
    """The sentence about an engine that is not installed, or None; imports nothing."""
    return None if find_spec(name) else f"It needs {_named(name)}."


def _named(name: BackendName) -> str:
    return f"the {name} engine: pip install '.[{name}]' in the repository, or 'WHEEL[{name}]' with the wheel's path"
