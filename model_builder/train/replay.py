"""Replays: a GPU learns from more plates than a CPU draws, so earlier ones are trained on again, slightly changed."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional

from model_builder.plates import MAX_CHARACTERS
from model_builder.train.data import Batch

_KEPT = 1 << 21  # crops: 14 GB, and 7 GB of logits
_BLURRED = 0.3  # how often a crop is blurred


def replayed(
    batches: Iterator[Batch],
    replays: int,
    device: torch.device,
    seed: int,
    steps: int,
    teacher: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[Batch]:
    """Each batch with `replays` earlier crops, changed, for each of its own; the crops lie on `device`.

    Of the crops of `steps` batches, the last 2 million are kept. A resumed training begins with none. With a `teacher`,
    its logits of each new crop are computed once, and kept; the crop is then not moved, so that they stay true.
    """
    generator = torch.Generator(device).manual_seed(seed)
    change = relit if teacher else changed
    kept: Tensor | None = None
    for number, batch in enumerate(batches):
        count = len(batch.lengths)
        if kept is None:
            size = min(_KEPT // count, steps) * count
            kept = torch.empty((size, *batch.crops.shape[1:]), dtype=torch.uint8, device=device)
            targets = torch.zeros((size, MAX_CHARACTERS), dtype=torch.long)
            lengths = torch.zeros(size, dtype=torch.long)
            logits: Tensor | None = None
        start = number * count % len(kept)
        kept[start : start + count] = batch.crops.to(device, non_blocking=True)
        lengths[start : start + count] = batch.lengths
        targets[start : start + count][_inside(batch.lengths)] = batch.targets
        full = min((number + 1) * count, len(kept))
        chosen = torch.randint(full, (replays * count,), generator=generator, device=device)
        again, there = change(kept[chosen], generator), chosen.cpu()
        if teacher:
            taught = _taught(teacher, kept[start : start + count])
            if logits is None:
                logits = taught.new_empty((size, *taught.shape[1:]))
            logits[start : start + count] = taught
        yield Batch(
            torch.cat([kept[start : start + count], again]),
            torch.cat([batch.targets, targets[there][_inside(lengths[there])]]),
            torch.cat([batch.lengths, lengths[there]]),
            torch.cat([taught, logits[chosen]]) if logits is not None else None,
        )


@torch.no_grad()
def _taught(teacher: Callable[[Tensor], Tensor], crops: Tensor) -> Tensor:
    """The teacher's logits in half precision, which takes half the room."""
    return teacher(crops).half()


def _inside(lengths: Tensor) -> Tensor:
    """Which of MAX_CHARACTERS places a text of each length has, bool (n, MAX_CHARACTERS)."""
    return torch.arange(MAX_CHARACTERS) < lengths[:, None]


def changed(crops: Tensor, generator: torch.Generator) -> Tensor:
    """Crops uint8 (n, H, W, 3), each a little shifted, scaled and slanted, blurred at times, in other light."""
    return _as_pixels(_relit(_moved(_as_floats(crops), generator), generator))


def relit(crops: Tensor, generator: torch.Generator) -> Tensor:
    """Crops uint8 (n, H, W, 3), each blurred at times, in other light."""
    return _as_pixels(_relit(_as_floats(crops), generator))


def _moved(images: Tensor, generator: torch.Generator) -> Tensor:
    count, _, height, width = images.shape
    random = _Random(count, generator)
    # positions run from -1 to 1 on both axes
    across = [random.uniform(0.95, 1.05), random.normal(0.05) * height / width, random.normal(2 / width)]
    down = [random.normal(0.01) * width / height, random.uniform(0.9, 1.1), random.normal(1.4 / height)]
    matrices = torch.stack([torch.stack(across, 1), torch.stack(down, 1)], 1)
    grid = functional.affine_grid(matrices, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _relit(images: Tensor, generator: torch.Generator) -> Tensor:
    count, channels, height, width = images.shape
    random = _Random(count, generator)
    soft = functional.avg_pool2d(images, 3, 1, 1, count_include_pad=False)
    images = images + random.uniform(0, 1, 1, 1, 1) * (random.uniform(0, 1, 1, 1, 1) < _BLURRED) * (soft - images)
    light = random.uniform(0.75, 1.25, 1, 1, 1) * random.normal(0.06, channels, 1, 1).exp()
    images = images * light + random.normal(12, 1, 1, 1)
    return images + random.uniform(0, 1, 1, 1, 1).square() * random.normal(8, channels, height, width)


class _Random:
    """Random numbers for each of `count` images."""

    def __init__(self, count: int, generator: torch.Generator) -> None:
        self._count, self._generator = count, generator

    def normal(self, spread: float, *shape: int) -> Tensor:
        return spread * torch.randn((self._count, *shape), generator=self._generator, device=self._generator.device)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        drawn = torch.rand((self._count, *shape), generator=self._generator, device=self._generator.device)
        return low + (high - low) * drawn


def _as_floats(crops: Tensor) -> Tensor:
    return crops.permute(0, 3, 1, 2).float()


def _as_pixels(images: Tensor) -> Tensor:
    return images.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
