"""Modules that the networks are made of. Those without weights are leaves of `graph/trace.py`."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

Pair = tuple[int, int]

Widths = TypeVar("Widths")

MIDDLE, SPREAD = 127.5, 128.0
EPSILON = 1e-3


class Normalize(nn.Module):
    """uint8 images (N, H, W, 3) -> float32 (N, 3, H, W): (pixel - MIDDLE) / SPREAD."""

    def forward(self, images: Tensor) -> Tensor:
        return (images.permute(0, 3, 1, 2).float() - MIDDLE) / SPREAD


class ConvUnit(nn.Sequential):
    """Convolution, batch normalization, ReLU: (N, inputs, H, W) -> (N, outputs, H', W')."""

    def __init__(self, inputs: int, outputs: int, kernel: Pair, *, stride: Pair = (1, 1), pad: bool = True) -> None:
        padding = (kernel[0] // 2, kernel[1] // 2) if pad else (0, 0)
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class GlobalContext(nn.Module):
    """`global_context` of several tensors, concatenated: (N, sum of C, 1, columns of `like`).

    `channels` is, for each tensor, how many channels its mean of squares is taken over: a pruned network counts those
    that were cut.
    """

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, like: Tensor, *tensors: Tensor) -> Tensor:
        pairs = zip(tensors, self.channels, strict=True)
        return torch.cat([global_context(x, like.shape[3], channels) for x, channels in pairs], 1)


def global_context(x: Tensor, columns: int, channels: int) -> Tensor:
    """(N, C, H, W) -> (N, C, 1, columns): means of columns over the mean of their squares, for each sample.

    The division is in float32: a mean of squares loses too much in bfloat16.
    """
    stride = x.shape[3] // columns
    pooled = functional.avg_pool2d(x, (x.shape[2], stride), stride).float()
    squares = pooled.square().mean((2, 3), keepdim=True).sum(1, keepdim=True) / channels
    return pooled / (squares + EPSILON)


class Sequence(nn.Module):
    """(N, C, 1, T) -> (N, T, C), float32."""

    squeeze = (1,)  # axes of (N, H, W, C) that the output does not have

    def forward(self, x: Tensor) -> Tensor:
        return x.float().squeeze(2).transpose(1, 2)


class Maps(nn.Module):
    """(N, C, H, W) -> (N, H, W, C), float32."""

    squeeze = ()

    def forward(self, x: Tensor) -> Tensor:
        return x.float().permute(0, 2, 3, 1)


class Vector(nn.Module):
    """(N, C, 1, 1) -> (N, C), float32."""

    squeeze = (1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return x.float().flatten(1)


def saved_widths(widths: Any) -> dict[str, object]:
    """A dataclass of widths as JSON holds it."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(widths).items()}


def restored_widths(kind: type[Widths], saved: Mapping[str, Any]) -> Widths:
    """The widths that `saved_widths` took."""
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in saved.items()})
