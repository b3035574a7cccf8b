"""Runs an ONNX model on the CPU with ONNX Runtime. The only file of the service that imports onnxruntime."""

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from service import host
from service.artifact import Artifact
from service.errors import ArtifactError, brief

MODEL = "model.onnx"


class OnnxRuntimeBackend:
    """A model.onnx with one input uint8 (N, H, W, 3), N free, and one output of logits."""

    def __init__(self, artifact: Artifact) -> None:
        self.engine = f"onnxruntime {onnxruntime.__version__}"
        self._max_batch = artifact.manifest.max_batch
        path, model = artifact.file(MODEL), artifact.content(MODEL)
        try:
            self._session = open_session(model, options(threads=1))
            (self._input,) = (node.name for node in self._session.get_inputs())
        except Exception as error:  # its errors share no base class but this
            raise ArtifactError(f"{path} cannot be loaded by {self.engine}: {brief(error)}") from error

    def infer(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Crops uint8 (N, H, W, 3) to logits float32 (N, T, C), in slices of at most the artifact's max_batch."""
        starts = range(0, len(batch), self._max_batch)
        logits = [self._session.run(None, {self._input: batch[at : at + self._max_batch]})[0] for at in starts]
        return logits[0] if len(logits) == 1 else np.concatenate(logits)

    def close(self) -> None:
        """Drop the session, so that its memory can be reused."""
        del self._session


def open_session(model: bytes, settings: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    """The `model`, the content of an .onnx file, with its layers in the precision in which they are written.

    ONNX Runtime would quantize the weights of a float layer between integer ones, by itself and per tensor.
    """
    providers, disabled = ["CPUExecutionProvider"], ["WeightBiasQuantization"]
    return onnxruntime.InferenceSession(model, settings, providers=providers, disabled_optimizers=disabled)


def options(threads: int) -> onnxruntime.SessionOptions:
    """How the server runs a model."""
    found = onnxruntime.SessionOptions()
    found.intra_op_num_threads = threads
    found.inter_op_num_threads = 1
    found.log_severity_level = 3  # errors
    found.add_session_config_entry("session.set_denormal_as_zero", "1")
    if not host.flags() & {"avx512_vnni", "avx_vnni"}:
        # There the sum of two uint8 x int8 products saturates at 16 bits (vpmaddubsw). This has them computed exactly,
        # as uint8 x uint8; with VNNI, whose sums are exact anyway, that would take twice the time.
        found.add_session_config_entry("session.x64quantprecision", "1")
    return found
