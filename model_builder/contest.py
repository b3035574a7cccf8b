"""Latency of every variant and of the engines people would otherwise use, on the same weights, side by side.

Each contestant lives in a process of its own, so that no engine's idle threads disturb another. They take turns, a
burst each, so that a machine that slows down slows all of them. Denormals are flushed in every one.
"""

import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, assert_never

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from model_builder.model import HEIGHT, WIDTH
from service import artifact as contract
from service.backends import Backend, load

Kind = Literal["artifact", "onnxruntime", "openvino", "openvino bf16", "torch.compile"]

_WARM_UP = 10  # calls at the start of each burst: the others have used the caches meanwhile


@dataclass(frozen=True)
class Contestant:
    """What runs under `name`: an artifact's folder or an ONNX file, and the engine for it."""

    name: str
    kind: Kind
    model: Path


@dataclass(frozen=True)
class Times:
    """Milliseconds a plate: median, 95th and 99th percentile of `calls` calls with `batch` plates on `threads`."""

    median: float
    p95: float
    p99: float
    batch: int
    threads: int
    calls: int


def contest(
    contestants: Sequence[Contestant], threads: int, batches: Sequence[int], *, rounds: int = 20, burst: int = 15
) -> dict[str, list[Times]]:
    """Let the contestants take turns; times per batch size for each name. Let nothing else run meanwhile."""
    collected: dict[tuple[str, int], list[float]] = {(c.name, batch): [] for c in contestants for batch in batches}
    with _processes(contestants, threads) as pipes:
        for batch in batches:
            for _ in tqdm(range(rounds), desc=f"{threads} thread(s), batch {batch}", unit="round"):
                for contestant, pipe in zip(contestants, pipes, strict=True):
                    pipe.send((batch, burst))
                    collected[contestant.name, batch] += _received(pipe, contestant)
    return {
        contestant.name: [_times(collected[contestant.name, batch], batch, threads) for batch in batches]
        for contestant in contestants
    }


def _times(milliseconds: list[float], batch: int, threads: int) -> Times:
    median, p95, p99 = (float(value) / batch for value in np.percentile(milliseconds, (50, 95, 99)))
    return Times(round(median, 4), round(p95, 4), round(p99, 4), batch, threads, len(milliseconds))


@contextmanager
def _processes(contestants: Sequence[Contestant], threads: int) -> Iterator[list[Connection]]:
    context = multiprocessing.get_context("spawn")
    pipes, children = [], []
    try:
        for contestant in contestants:
            ours, theirs = context.Pipe()
            child = context.Process(target=_compete, args=(contestant, threads, theirs), daemon=True)
            child.start()
            theirs.close()
            pipes.append(ours)
            children.append(child)
            _received(ours, contestant)  # loaded; one after the other, so that none starves
        yield pipes
    finally:
        for pipe in pipes:
            pipe.close()
        for child in children:
            child.join(5)
            child.kill()


def _received(pipe: Connection, contestant: Contestant) -> Any:
    try:
        answer = pipe.recv()
    except EOFError as error:
        raise RuntimeError(f"{contestant.name} stopped: its message stands above") from error
    return answer


def _compete(contestant: Contestant, threads: int, pipe: Connection) -> None:
    """A child's life: load, then compute bursts as asked until the pipe closes."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    backend = engine(contestant, threads)
    pipe.send(None)
    crops = np.random.default_rng(0).integers(0, 256, (256, HEIGHT, WIDTH, 3), np.uint8)
    try:
        while True:
            batch, calls = pipe.recv()
            for _ in range(_WARM_UP):
                backend.infer(crops[:batch])
            pipe.send([_milliseconds(backend, crops[:batch]) for _ in range(calls)])
    except EOFError:
        backend.close()


def _milliseconds(backend: Backend, crops: NDArray[np.uint8]) -> float:
    start = time.perf_counter()
    backend.infer(crops)
    return (time.perf_counter() - start) * 1e3


def engine(contestant: Contestant, threads: int) -> Backend:
    """The contestant as the service would run it: a variant through the serving code, a peer like one."""
    match contestant.kind:
        case "artifact":
            return load(contract.read(contestant.model), threads)
        case "onnxruntime":
            return _OnnxRuntime(contestant.model, threads)
        case "openvino" | "openvino bf16":
            return _OpenVino(contestant.model, threads, "bf16" if contestant.kind == "openvino bf16" else "f32")
        case "torch.compile":
            return _TorchCompile(contestant.model, threads)
        case _:
            assert_never(contestant.kind)


class _OnnxRuntime:
    def __init__(self, model: Path, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        self._session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        self.engine = f"ONNX Runtime {onnxruntime.__version__}"

    def infer(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = self._session.run(None, {self._input: batch})[0]
        return logits

    def close(self) -> None:
        del self._session


class _OpenVino:
    def __init__(self, model: Path, threads: int, precision: str) -> None:
        import openvino

        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": precision,
            "CPU_DENORMALS_OPTIMIZATION": True,
        }
        self._request = openvino.Core().compile_model(str(model), "CPU", settings).create_infer_request()
        self.engine = f"OpenVINO {openvino.__version__.split('-')[0]} {precision}"

    def infer(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = self._request.infer([batch], share_inputs=True)[0]
        return logits

    def close(self) -> None:
        del self._request


class _TorchCompile:
    """The baseline through Inductor's C++ code; needs a compiler on the machine."""

    def __init__(self, artifact: Path, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        program = torch.export.load(contract.read(artifact).file("model.pt2")).module()
        self._run = torch.compile(program, dynamic=False)
        self.engine = f"torch.compile {torch.__version__}"

    def infer(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        import torch

        torch.set_flush_denormal(True)
        with torch.inference_mode():
            logits: NDArray[np.float32] = self._run(torch.from_numpy(batch)).numpy()
        return logits

    def close(self) -> None:
        del self._run
