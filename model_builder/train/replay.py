"""Replays: a GPU learns from more plates than a CPU draws, so earlier ones are trained on again, slightly changed."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from model_builder.train.data import MAX_CHARACTERS, Batch

_KEPT = 1 << 21  # crops: 14 GB
_BLURRED = 0.3  # how often a crop is blurred


def replayed(batches: Iterator[Batch], replays: int, device: torch.device, seed: int, steps: int) -> Iterator[Batch]:
    """Each batch with `replays` earlier crops, changed, for each of its own; the crops lie on `device`.

    Of the crops of `steps` batches, the last 2 million are kept. A resumed training begins with none.
    """
    generator = torch.Generator(device).manual_seed(seed)
    kept: Tensor | None = None
    for number, batch in enumerate(batches):
        count = len(batch.lengths)
        if kept is None:
            size = min(_KEPT // count, steps) * count
            kept = torch.empty((size, *batch.crops.shape[1:]), dtype=torch.uint8, device=device)
            targets = torch.zeros((size, MAX_CHARACTERS), dtype=torch.long)
            lengths = torch.zeros(size, dtype=torch.long)
        start = number * count % len(kept)
        kept[start : start + count] = batch.crops.to(device, non_blocking=True)
        lengths[start : start + count] = batch.lengths
        targets[start : start + count][_inside(batch.lengths)] = batch.targets
        full = min((number + 1) * count, len(kept))
        chosen = torch.randint(full, (replays * count,), generator=generator, device=device)
        again, there = changed(kept[chosen], generator), chosen.cpu()
        yield Batch(
            torch.cat([kept[start : start + count], again]),
            torch.cat([batch.targets, targets[there][_inside(lengths[there])]]),
            torch.cat([batch.lengths, lengths[there]]),
        )


def _inside(lengths: Tensor) -> Tensor:
    """Which of MAX_CHARACTERS places a text of each length has, bool (n, MAX_CHARACTERS)."""
    return torch.arange(MAX_CHARACTERS) < lengths[:, None]


def changed(crops: Tensor, generator: torch.Generator) -> Tensor:
    """Crops uint8 (n, H, W, 3), each a little shifted, scaled and slanted, blurred at times, in other light."""
    count, height, width, _ = crops.shape

    def normal(spread: float, *shape: int) -> Tensor:
        return spread * torch.randn((count, *shape), generator=generator, device=crops.device)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand((count, *shape), generator=generator, device=crops.device)

    # positions run from -1 to 1 on both axes
    across = torch.stack([uniform(0.95, 1.05), normal(0.05) * height / width, normal(2 / width)], 1)
    down = torch.stack([normal(0.01) * width / height, uniform(0.9, 1.1), normal(1.4 / height)], 1)
    images = crops.permute(0, 3, 1, 2).float()
    grid = functional.affine_grid(torch.stack([across, down], 1), list(images.shape), align_corners=False)
    images = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    soft = functional.avg_pool2d(images, 3, 1, 1, count_include_pad=False)
    images = images + uniform(0, 1, 1, 1, 1) * (uniform(0, 1, 1, 1, 1) < _BLURRED) * (soft - images)
    images = images * uniform(0.75, 1.25, 1, 1, 1) * normal(0.06, 3, 1, 1).exp() + normal(12, 1, 1, 1)
    images = images + uniform(0, 1, 1, 1, 1).square() * normal(8, 3, height, width)
    return images.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
