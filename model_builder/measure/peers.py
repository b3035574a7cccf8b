"""Contestants: the variants as the service runs them, and the engines that people would otherwise use.

Every peer runs our weights as well as its engine can: shapes fixed where that helps it, denormals flushed, and as many
threads as the contest says.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, assert_never

import numpy as np
from numpy.typing import NDArray

from model_builder import candidates, team
from model_builder.graph import onnx
from model_builder.graph.trace import trace
from model_builder.networks.reader import HEIGHT, SIZE, WIDTH
from service import artifact as contract
from service.backends import Backend
from service.backends.onnxruntime import MODEL
from service.backends.torch import MODEL as PROGRAM
from service.backends.tvm import cpu_flags

Kind = Literal["artifact", "onnxruntime", "openvino", "openvino bf16", "torch.compile", "masked", "dynamic"]

BASELINE = "baseline"
QUANTIZED = "quantized"
MASKED, DYNAMIC = "masked, 35 % zeros", "dynamic quantization"


@dataclass(frozen=True)
class Contestant:
    """What runs under `name`, an artifact's folder or an ONNX file, and how; on images of `size` (height, width)."""

    name: str
    kind: Kind
    model: Path
    size: tuple[int, int] = (HEIGHT, WIDTH)


def variants(artifacts: Path) -> list[Contestant]:
    """Every published variant that reads."""
    return [Contestant(name, "artifact", artifacts / name) for name in contract.readers(artifacts)]


def peers(artifacts: Path, work: Path) -> list[Contestant]:
    """The baseline's weights in other engines, and the int8 ones of `quantized` where that is published.

    Writes `work`/baseline.onnx for ONNX Runtime, with batch normalization folded, as it does itself when it loads a
    network. OpenVINO takes the artifact's program: on that it is 5 to 8 % faster than on our ONNX.
    """
    baseline = contract.find(artifacts, BASELINE)
    model = work / "baseline.onnx"
    work.mkdir(parents=True, exist_ok=True)
    onnx.write(trace(candidates.published_network(baseline), SIZE), model)
    found = [
        Contestant("ONNX Runtime fp32", "onnxruntime", model),
        Contestant("OpenVINO fp32", "openvino", baseline.folder),
        Contestant("OpenVINO bf16", "openvino bf16", baseline.folder),
        Contestant("torch.compile fp32", "torch.compile", baseline.folder),
    ]
    if QUANTIZED in contract.variants(artifacts):
        found += of_integers(contract.find(artifacts, QUANTIZED).file(MODEL))
    return found


def of_floats(model: Path) -> list[Contestant]:
    """Engines for an ONNX file in float32."""
    return [
        Contestant("ONNX Runtime fp32", "onnxruntime", model),
        Contestant("OpenVINO fp32", "openvino", model),
        Contestant("OpenVINO bf16", "openvino bf16", model),
    ]


def of_integers(model: Path) -> list[Contestant]:
    """Engines for an ONNX file in int8."""
    return [
        Contestant("ONNX Runtime int8", "onnxruntime", model),
        Contestant("OpenVINO int8", "openvino", model),
    ]


def attempts(artifacts: Path) -> list[Contestant]:
    """What is often tried to make LPRNet faster: the published pruning recipe, and dynamic quantization."""
    folder = artifacts / BASELINE
    return [Contestant(MASKED, "masked", folder), Contestant(DYNAMIC, "dynamic", folder)]


def engine(contestant: Contestant, threads: int) -> Backend:
    """The contestant as the service would run it: a variant through the serving code, the others like one."""
    match contestant.kind:
        case "artifact":
            return team.load(contract.read(contestant.model), threads)
        case "onnxruntime":
            return _OnnxRuntime(contestant.model, threads)
        case "openvino" | "openvino bf16":
            return _OpenVino(contestant.model, threads, "bf16" if contestant.kind == "openvino bf16" else "f32")
        case "torch.compile":
            return _Torch(_compiled(contestant.model), threads, "torch.compile")
        case "masked":
            return _Torch(_masked(contestant.model), threads, "torch")
        case "dynamic":
            return _Torch(_dynamic(contestant.model), threads, "torch")
        case _:
            assert_never(contestant.kind)


class _OnnxRuntime:
    def __init__(self, model: Path, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        self._session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        self.engine = f"ONNX Runtime {onnxruntime.__version__}"

    def infer(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = self._session.run(None, {self._input: batch})[0]
        return logits

    def close(self) -> None:
        del self._session


@cache
def _openvino() -> tuple[Any, Any]:
    """OpenVINO and its core, one for the process. Each gives the thread another stack for signals, and of two, the one
    that goes last restores what the first has freed: the next signal, such as that of a child's end, would be fatal."""
    import openvino

    return openvino, openvino.Core()


_SHARE = 16  # plates a stream from which on streams side by side are faster; ONNX Runtime gained nothing by sessions


class _OpenVino:
    """An ONNX file or a torch artifact, compiled anew for each shape of a batch: a free dimension would make it slower.

    A large batch on several threads is shared by as many streams, its setting for throughput.
    """

    def __init__(self, model: Path, threads: int, precision: str) -> None:
        import torch

        if precision == "bf16" and not cpu_flags() & {"avx512_bf16", "amx_bf16"}:
            raise RuntimeError("this CPU has no bfloat16 instructions, and OpenVINO would compute in float32 unasked")
        self._threads = threads
        self._settings = {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": precision,
            "CPU_DENORMALS_OPTIMIZATION": True,
        }
        self._openvino, self._core = _openvino()
        source = torch.export.load(contract.read(model).file(PROGRAM)) if model.is_dir() else model
        self._model = self._openvino.convert_model(source)
        self._requests: dict[tuple[int, ...], Any] = {}
        self._queues: dict[tuple[int, ...], Any] = {}
        self.engine = f"OpenVINO {self._openvino.__version__.split('-')[0]} {precision}"

    def infer(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        share, rest = divmod(len(batch), self._threads)
        if self._threads > 1 and share >= _SHARE and rest == 0:
            return self._side_by_side(batch, share)
        logits: NDArray[np.float32] = self._request(batch.shape).infer([batch], share_inputs=True)[0]
        return logits

    def _request(self, shape: tuple[int, ...]) -> Any:
        if shape not in self._requests:
            self._requests[shape] = self._compiled(shape, "LATENCY", 1).create_infer_request()
        return self._requests[shape]

    def _side_by_side(self, batch: NDArray[np.uint8], share: int) -> NDArray[np.float32]:
        shape = (share, *batch.shape[1:])
        if shape not in self._queues:
            compiled = self._compiled(shape, "THROUGHPUT", self._threads)
            self._queues[shape] = self._openvino.AsyncInferQueue(compiled, self._threads)
        queue, parts = self._queues[shape], dict[int, NDArray[np.float32]]()
        queue.set_callback(lambda request, first: parts.update({first: request.get_output_tensor(0).data.copy()}))
        for first in range(0, len(batch), share):
            queue.start_async([batch[first : first + share]], first, share_inputs=True)
        queue.wait_all()
        return np.concatenate([parts[first] for first in sorted(parts)])

    def _compiled(self, shape: tuple[int, ...], hint: str, streams: int) -> Any:
        model = self._model.clone()
        model.reshape([*shape])
        settings = self._settings | {"PERFORMANCE_HINT": hint, "NUM_STREAMS": streams}
        return self._core.compile_model(model, "CPU", settings)

    def close(self) -> None:
        self._requests.clear()
        self._queues.clear()


class _Torch:
    """A network that torch runs, called as the service calls one."""

    def __init__(self, run: Callable[..., Any], threads: int, name: str) -> None:
        import torch

        torch.set_num_threads(threads)
        self._run = run
        self.engine = f"{name} {torch.__version__}"

    def infer(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        import torch

        torch.set_flush_denormal(True)
        with torch.inference_mode():
            logits: NDArray[np.float32] = self._run(torch.from_numpy(batch)).numpy()
        return logits

    def close(self) -> None:
        del self._run


def _compiled(folder: Path) -> Callable[..., Any]:
    """The program through Inductor's C++ code; needs a compiler on the machine."""
    import torch

    program = torch.export.load(contract.read(folder).file(PROGRAM)).module()
    # Freezing lets it lay weights out ahead of time. Compilers in processes of their own would outlive a contest that
    # is interrupted.
    run: Callable[..., Any] = torch.compile(program, dynamic=False, options={"freezing": True, "compile_threads": 1})
    return run


def _masked(folder: Path) -> Callable[..., Any]:
    """The published recipe's network: its zeros are multiplied like any other number."""
    from model_builder.compress import prune

    network = prune.magnitude(candidates.published_network(contract.read(folder)), prune.RECIPE, "layer").eval()
    return candidates.exported(network).module()


def _dynamic(folder: Path) -> Callable[..., Any]:
    from model_builder.compress import quantize

    return quantize.dynamic(candidates.published_network(contract.read(folder)))[1]
