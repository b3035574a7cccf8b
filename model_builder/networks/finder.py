"""The finder: CenterNet (Zhou et al., arXiv 1904.07850) of plain 3x3 convolutions, for plates and their four corners.

Strides 2 to 32; the deeper levels are added to the one of stride 8, whose receptive field then spans some 280 pixels.
Plates that are larger are found in a smaller copy of the image. Depthwise convolutions gain nothing on a CPU.
"""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_builder.networks.blocks import ConvUnit, Maps, Normalize, restored_widths, saved_widths
from service.finding.maps import CHANNELS

PRIOR = 0.01  # probability of a plate in a cell before anything is learned


@dataclass(frozen=True)
class Widths:
    """Channels that each convolution puts out, by the stride that it works at."""

    stem: int = 16  # stride 2
    fine: int = 24  # 4
    middle: tuple[int, ...] = (48, 48, 48)  # 8
    coarse: tuple[int, ...] = (64, 64, 64)  # 16
    coarsest: tuple[int, ...] = (96, 96)  # 32
    fuse: tuple[int, ...] = (48, 48)  # 8 again


class Level(nn.Sequential):
    """3x3 convolutions, one per width, the first with stride 2: (N, inputs, H, W) -> (N, widths[-1], H/2, W/2)."""

    def __init__(self, inputs: int, widths: tuple[int, ...]) -> None:
        first = ConvUnit(inputs, widths[0], (3, 3), stride=(2, 2))
        rest = (ConvUnit(before, after, (3, 3)) for before, after in itertools.pairwise(widths))
        super().__init__(first, *rest)


class Finder(nn.Module):
    """uint8 BGR images (N, H, W, 3), H and W multiples of 32 -> maps (N, H/8, W/8, CHANNELS), float32.

    A cell's maps: the logit of a plate's centre lying in it, and the corners from the cell's centre, in cells.
    """

    def __init__(self, widths: Widths | None = None) -> None:
        super().__init__()
        self.widths = w = widths or Widths()
        self.normalize, self.maps = Normalize(), Maps()
        self.stem = ConvUnit(3, w.stem, (3, 3), stride=(2, 2))
        self.fine = ConvUnit(w.stem, w.fine, (3, 3), stride=(2, 2))
        self.middle = Level(w.fine, w.middle)
        self.coarse = Level(w.middle[-1], w.coarse)
        self.coarsest = Level(w.coarse[-1], w.coarsest)
        self.from_middle = ConvUnit(w.middle[-1], w.fuse[0], (1, 1))
        self.from_coarse = ConvUnit(w.coarse[-1], w.fuse[0], (1, 1))
        self.from_coarsest = ConvUnit(w.coarsest[-1], w.fuse[0], (1, 1))
        pairs = zip((w.fuse[0], *w.fuse), w.fuse, strict=False)
        self.fuse = nn.Sequential(*(ConvUnit(before, after, (3, 3)) for before, after in pairs))
        self.head = nn.Conv2d(w.fuse[-1], CHANNELS, 1)
        with torch.no_grad():
            self.head.weight.mul_(0.1)
            self.head.bias[0] = math.log(PRIOR / (1 - PRIOR))  # type: ignore[index]

    def configuration(self) -> dict[str, object]:
        """Arguments that build this network again, as JSON holds them."""
        return {"widths": saved_widths(self.widths)}

    @classmethod
    def configured(cls, saved: Any) -> "Finder":
        """The network, with fresh weights, that `configuration` described."""
        return cls(restored_widths(Widths, saved["widths"]))

    def forward(self, images: Tensor) -> Tensor:
        middle = self.middle(self.fine(self.stem(self.normalize(images))))
        coarse = self.coarse(middle)
        coarsest = self.coarsest(coarse)
        joined = self.from_coarse(coarse) + functional.interpolate(self.from_coarsest(coarsest), scale_factor=2)
        joined = self.from_middle(middle) + functional.interpolate(joined, scale_factor=2)
        maps: Tensor = self.maps(self.head(self.fuse(joined)))
        return maps
