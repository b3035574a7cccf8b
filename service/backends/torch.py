"""Runs a `torch.export` program on the CPU. The only file of the service that imports torch."""

import io
import logging
import os
import threading
import zipfile

import numpy as np
import torch
from numpy.typing import NDArray

from service.artifact import Artifact
from service.errors import ArtifactError, brief

MODEL = "model.pt2"

# torch.export.load would unpickle what it cannot read otherwise; with this (torch.serialization), it fails instead.
WEIGHTS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
# torch.export.pt2_archive.constants: files of objects, which it unpickles whatever that variable says.
OBJECTS = ("/custom_obj_", "/opaque_obj_")
_LOADING = threading.Lock()  # torch.export.load keeps what it reads in a global: two at once fail


class TorchBackend:
    """A self-contained exported program: it needs neither the builder's classes nor a pickle."""

    def __init__(self, artifact: Artifact) -> None:
        self.engine = f"torch {torch.__version__}"
        self._max_batch = artifact.manifest.max_batch
        torch.set_num_threads(1)
        path, program = artifact.file(MODEL), artifact.content(MODEL)
        os.environ[WEIGHTS_ONLY] = "1"
        logging.getLogger("torch.export").setLevel(logging.ERROR)  # its warnings hold tracebacks; the error says enough
        try:
            _check(program)
            with _LOADING:
                self._model = torch.export.load(io.BytesIO(program)).module()
        except Exception as error:  # torch raises whatever it met: zip, JSON, schema and operator errors alike
            raise ArtifactError(f"{path} cannot be loaded by {self.engine}: {brief(error)}") from error

    def infer(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Crops uint8 (N, H, W, 3) to logits float32 (N, T, C), in slices of at most the artifact's max_batch."""
        # Denormals cost a factor of ten on x86. The flag belongs to the calling thread, hence here; it costs nothing.
        torch.set_flush_denormal(True)
        with torch.inference_mode():
            images = torch.from_numpy(np.ascontiguousarray(batch))
            starts = range(0, len(images), self._max_batch)
            logits = [self._model(images[start : start + self._max_batch]).numpy() for start in starts]
        return logits[0] if len(logits) == 1 else np.concatenate(logits)

    def close(self) -> None:
        """Drop the program, so that its memory can be reused."""
        del self._model


def _check(program: bytes) -> None:
    """Raise ValueError for an archive that holds pickled objects, or would grow when unpacked, as torch's never do."""
    with zipfile.ZipFile(io.BytesIO(program)) as archive:
        members = archive.infolist()
    if any(mark in member.filename for member in members for mark in OBJECTS):
        raise ValueError("it holds pickled objects, which are not loaded: export tensors alone")
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ValueError("it is compressed: write it with torch.export.save")
