"""Artifacts that tests share: the published ones, and a tiny real one."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from service.artifact import (
    Format,
    Grammar,
    Latency,
    Measured,
    Probe,
    Provenance,
    Reads,
    Score,
    Tensor,
    readers,
    write_probe,
)
from service.settings import REPOSITORY

PUBLISHED = REPOSITORY / "artifacts"
QUICK = ("quantized", "tvm-fast")  # one of each engine that starts within a second
EACH_PUBLISHED = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in readers(PUBLISHED)]
TINY_TEXT, OTHER_TEXT = "京A12345", "沪B54321"
ALPHABET = "京沪0123456789ABCDE"
FRAMES, CLASSES = 20, len(ALPHABET) + 1
MEASURED = Measured(
    accuracy={"some": Score(exact=9, total=10, low=0.6, high=0.98)},
    latency_ms=Latency(median=1, p95=2, threads=1, batch=1, repeats=1),
    size_bytes=1,
    parameters=1,
    multiply_adds=1,
    machine="x",
)


def describe(variant: str = "tiny", size: tuple[int, int] = (24, 94)) -> Reads:
    """What the builder would say about the tiny model."""
    template = ("京沪", "ABCDE", *["0123456789ABCDE"] * 5)
    return Reads(
        variant=variant,
        version="1",
        backend="onnxruntime",
        input=Tensor(dtype="uint8", shape=("N", *size, 3), description="BGR crops"),
        output=Tensor(dtype="float32", shape=("N", FRAMES, CLASSES), description="logits"),
        alphabet=ALPHABET,
        blank=len(ALPHABET),
        grammar=Grammar(formats=(Format(name="cn-standard", templates=(template,)),)),
        max_batch=8,
        probe=Probe(tolerance=1e-4),
        provenance=Provenance(commit="none", created=datetime.now(UTC), seed=0, libraries={}),
    )


def save_tiny_model(folder: Path, text: str = TINY_TEXT, size: tuple[int, int] = (24, 94)) -> None:
    """Write a real, small ONNX model that reads `text` on whatever it sees, and its probe."""
    draw = np.random.default_rng(0)
    weights = draw.normal(0, 0.1, (3, FRAMES * CLASSES)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "rows and columns"], ["colours"], keepdims=0),
        helper.make_node("Div", ["colours", "most"], ["scaled"]),
        helper.make_node("MatMul", ["scaled", "weights"], ["flat"]),
        helper.make_node("Reshape", ["flat", "frames"], ["features"]),
        helper.make_node("Add", ["features", "text"], ["logits"]),
    ]
    constants = {
        "rows and columns": np.array([1, 2]),
        "most": np.float32(255),
        "weights": weights,
        "frames": np.array([-1, FRAMES, CLASSES]),
        "text": path_of(text),
    }
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", *size, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", FRAMES, CLASSES])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    images = draw.integers(0, 256, (4, *size, 3), np.uint8)
    features = (images.mean((1, 2), np.float32) / 255 @ weights).reshape(-1, FRAMES, CLASSES)
    write_probe(folder, images, features + path_of(text))


def path_of(text: str) -> NDArray[np.float32]:
    """Logits that are read as `text`: each character in a frame, and a blank behind it."""
    path = np.full(FRAMES, len(ALPHABET))
    path[1 : 2 * len(text) : 2] = [ALPHABET.index(char) for char in text]
    return 12 * np.eye(CLASSES, dtype=np.float32)[path]


def save_torch_model(folder: Path) -> None:
    """Export a convolutional network of torch that reads `TINY_TEXT` on whatever it sees, and its probe."""
    import torch

    class Tiny(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, CLASSES, 3, padding=1)
            self.register_buffer("text", torch.from_numpy(path_of(TINY_TEXT)))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            planes = (images.permute(0, 3, 1, 2).float() - 127.5) / 128
            features = torch.nn.functional.adaptive_avg_pool2d(self.conv(planes), (1, FRAMES))
            return features.squeeze(2).permute(0, 2, 1) + self.text

    torch.manual_seed(0)
    model = Tiny().eval()
    batch = torch.export.Dim("N", min=1, max=8)
    images = np.random.default_rng(0).integers(0, 256, (4, 24, 94, 3), np.uint8)
    with torch.no_grad():
        program = torch.export.export(model, (torch.from_numpy(images),), dynamic_shapes=({0: batch},))
        write_probe(folder, images, model(torch.from_numpy(images)).numpy())
    torch.export.save(program, folder / "model.pt2")
