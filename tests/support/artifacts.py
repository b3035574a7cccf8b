"""Artifacts that tests share: the published ones, and a tiny real one."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from service.artifact import (
    Description,
    Format,
    Grammar,
    Latency,
    Measured,
    Probe,
    Provenance,
    Score,
    Tensor,
    write_probe,
)
from service.settings import REPOSITORY

PUBLISHED = REPOSITORY / "artifacts"
TINY_TEXT, OTHER_TEXT = "京A12345", "沪B54321"
ALPHABET = "京沪0123456789ABCDE"
FRAMES = 20
MEASURED = Measured(
    accuracy={"some": Score(exact=9, total=10, low=0.6, high=0.98)},
    latency_ms=Latency(median=1, p95=2, threads=1, batch=1, repeats=1),
    size_bytes=1,
    parameters=1,
    multiply_adds=1,
    machine="x",
)


def describe(variant: str = "tiny", size: tuple[int, int] = (24, 94)) -> Description:
    """What the builder would say about the tiny model."""
    template = ("京沪", "ABCDE", *["0123456789ABCDE"] * 5)
    return Description(
        variant=variant,
        version="1",
        backend="torch",
        input=Tensor(dtype="uint8", shape=("N", *size, 3), description="BGR crops"),
        output=Tensor(dtype="float32", shape=("N", FRAMES, len(ALPHABET) + 1), description="logits"),
        alphabet=ALPHABET,
        blank=len(ALPHABET),
        grammar=Grammar(formats=(Format(name="cn-standard", templates=(template,)),)),
        max_batch=8,
        probe=Probe(tolerance=1e-4),
        provenance=Provenance(commit="none", created=datetime.now(UTC), seed=0, arguments={}, libraries={}),
    )


def save_tiny_model(folder: Path, text: str = TINY_TEXT, size: tuple[int, int] = (24, 94)) -> None:
    """Export a real, small convolutional network that reads `text` on whatever it sees, and its probe."""
    import torch

    class Tiny(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, len(ALPHABET) + 1, 3, padding=1)
            path = torch.full((FRAMES,), len(ALPHABET))
            path[1 : 2 * len(text) : 2] = torch.tensor([ALPHABET.index(char) for char in text])
            self.register_buffer("text", 12.0 * torch.nn.functional.one_hot(path))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            planes = (images.permute(0, 3, 1, 2).float() - 127.5) / 128
            features = torch.nn.functional.adaptive_avg_pool2d(self.conv(planes), (1, FRAMES))
            return features.squeeze(2).permute(0, 2, 1) + self.text

    torch.manual_seed(0)
    model = Tiny().eval()
    batch = torch.export.Dim("N", min=1, max=8)
    images = np.random.default_rng(0).integers(0, 256, (4, *size, 3), np.uint8)
    with torch.no_grad():
        program = torch.export.export(model, (torch.from_numpy(images),), dynamic_shapes=({0: batch},))
        write_probe(folder, images, model(torch.from_numpy(images)).numpy())
    torch.export.save(program, folder / "model.pt2")
