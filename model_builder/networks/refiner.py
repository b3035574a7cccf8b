"""The refiner: 3x3 convolutions on the crop around one found plate, to a heat map for each of its corners.

Strides 2 to 16; the deeper levels are added to the one of stride 4, whose cells tell where the corners are. Corners are
expectations over a heat map (Nibali et al., arXiv 1801.07372): after 500 steps they were off by 3.6 % of the width of
development crops, as those of linear layers on all features after 2,400. What the plate is, is the mean of all cells.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_builder.networks.blocks import ConvUnit, Maps, Normalize, restored_widths, saved_widths
from model_builder.networks.finder import Level
from service.finding.refine import Form

FORM = Form()


@dataclass(frozen=True)
class Widths:
    """Channels that each convolution puts out, by the stride that it works at."""

    fine: tuple[int, ...] = (16, 24)  # stride 2
    middle: tuple[int, ...] = (32, 32)  # 4
    coarse: tuple[int, ...] = (48, 64)  # 8
    coarsest: tuple[int, ...] = (96, 96)  # 16
    fuse: tuple[int, ...] = (32, 32)  # 4 again


class Refiner(nn.Module):
    """uint8 BGR crops (N, 48, 96, 3) -> maps (N, 12, 24, channels), float32, as `service.finding.refine` has them."""

    def __init__(self, widths: Widths | None = None) -> None:
        super().__init__()
        self.widths = w = widths or Widths()
        self.normalize, self.maps = Normalize(), Maps()
        self.fine = Level(3, w.fine)
        self.middle = Level(w.fine[-1], w.middle)
        self.coarse = Level(w.middle[-1], w.coarse)
        self.coarsest = Level(w.coarse[-1], w.coarsest)
        self.from_middle = ConvUnit(w.middle[-1], w.fuse[0], (1, 1))
        self.from_coarse = ConvUnit(w.coarse[-1], w.fuse[0], (1, 1))
        self.from_coarsest = ConvUnit(w.coarsest[-1], w.fuse[0], (1, 1))
        pairs = zip((w.fuse[0], *w.fuse), w.fuse, strict=False)
        self.fuse = nn.Sequential(*(ConvUnit(before, after, (3, 3)) for before, after in pairs))
        self.head = nn.Conv2d(w.fuse[-1] + w.coarsest[-1], FORM.channels, 1)

    def configuration(self) -> dict[str, object]:
        """Arguments that build this network again, as JSON holds them."""
        return {"widths": saved_widths(self.widths)}

    @classmethod
    def configured(cls, saved: Any) -> "Refiner":
        """The network, with fresh weights, that `configuration` described."""
        return cls(restored_widths(Widths, saved["widths"]))

    def forward(self, crops: Tensor) -> Tensor:
        middle = self.middle(self.fine(self.normalize(crops)))
        coarse = self.coarse(middle)
        coarsest = self.coarsest(coarse)
        joined = self.from_coarse(coarse) + functional.interpolate(self.from_coarsest(coarsest), scale_factor=2)
        joined = self.from_middle(middle) + functional.interpolate(joined, scale_factor=2)
        cells = torch.cat([self.fuse(joined), functional.interpolate(coarsest, scale_factor=4)], 1)
        maps: Tensor = self.maps(self.head(cells))
        return maps
