"""LPRNet after Zherzdev and Gruzdev (arXiv 1806.10447), with channel widths as arguments.

Kept from the paper: a convolutional backbone without recurrence, the wide 1x13 convolution, the global context joined
before the classifier, CTC with the blank last. Changed: a block is plain 3x3 convolutions where the paper factorizes
them (1x1, 3x1, 1x3, 1x1), which on a CPU costs more time than the multiply-adds that it saves; the context is
normalized per sample, so that row i of a batch equals that row alone; pooling keeps every channel instead of dropping
half or three quarters of those computed; the first convolution halves the columns and the pools halve the rows twice;
the spatial transformer is left out, because it did not pay (docs/training.md).
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_builder.networks.blocks import ConvUnit, GlobalContext, Normalize, Sequence, restored_widths, saved_widths
from model_builder.plates import CROP

HEIGHT, WIDTH = CROP
SIZE = (HEIGHT, WIDTH, 3)


@dataclass(frozen=True)
class Widths:
    """Channels that each convolution puts out; a block has as many convolutions as it has widths."""

    stem: int = 32
    block1: tuple[int, ...] = (48,)
    block2: tuple[int, ...] = (80, 80)
    block3: tuple[int, ...] = (128, 128, 128)
    column: int = 160
    wide: int = 128

    @property
    def stages(self) -> tuple[int, int, int, int]:
        """Channels of the four feature maps that the global context is taken from."""
        return self.stem, self.block1[-1], self.block2[-1], self.block3[-1]

    def scaled(self, share: float) -> "Widths":
        """Each width times `share`, rounded."""
        scaled: dict[str, Any] = {
            name: tuple(round(share * each) for each in value) if isinstance(value, tuple) else round(share * value)
            for name, value in asdict(self).items()
        }
        return Widths(**scaled)


class Block(nn.Sequential):
    """3x3 convolutions, one per width: (N, inputs, H, W) -> (N, widths[-1], H, W)."""

    def __init__(self, inputs: int, widths: tuple[int, ...]) -> None:
        pairs = zip((inputs, *widths), widths, strict=False)
        super().__init__(*(ConvUnit(before, after, (3, 3)) for before, after in pairs))


class LPRNet(nn.Module):
    """uint8 BGR crops (N, 24, 94, 3) -> logits (N, 23, classes), float32; the CTC blank is the last class.

    `context_channels` is how many channels the context of each stage takes its mean of squares over. Left out, it is
    those of the stage; a pruned network counts the channels it was cut from as well, and so computes the same.
    """

    def __init__(
        self,
        classes: int,
        widths: Widths | None = None,
        *,
        context_channels: tuple[int, ...] | None = None,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        w = widths or Widths()
        self.normalize = Normalize()
        self.stem = ConvUnit(3, w.stem, (3, 5), stride=(1, 2))  # 24x47
        self.block1 = Block(w.stem, w.block1)
        self.block2 = Block(w.block1[-1], w.block2)  # 12x47
        self.block3 = Block(w.block2[-1], w.block3)  # 6x23
        self.column = ConvUnit(w.block3[-1], w.column, (HEIGHT // 4, 1), pad=False)  # 1x23
        self.wide = ConvUnit(w.column, w.wide, (1, 13))
        self.dropout = nn.Dropout(dropout)
        self.contexts = GlobalContext(context_channels or w.stages)
        self.classify = nn.Conv2d(sum((w.wide, w.column, *w.stages)), classes, 1)
        self.sequence = Sequence()

    @property
    def widths(self) -> Widths:
        """Channels that each convolution puts out now."""

        def of(unit: nn.Module) -> int:
            assert isinstance(unit, ConvUnit)
            return unit[0].out_channels  # type: ignore[return-value]

        block1, block2, block3 = (tuple(map(of, block)) for block in (self.block1, self.block2, self.block3))
        return Widths(of(self.stem), block1, block2, block3, of(self.column), of(self.wide))

    def configuration(self) -> dict[str, object]:
        """Arguments that build this network again, as JSON holds them."""
        return {
            "widths": saved_widths(self.widths),
            "context_channels": list(self.contexts.channels),
        }

    @classmethod
    def configured(cls, classes: int, saved: Any) -> "LPRNet":
        """The network, with fresh weights, that `configuration` described."""
        widths = restored_widths(Widths, saved["widths"])
        return cls(classes, widths, context_channels=tuple(saved["context_channels"]))

    def forward(self, crops: Tensor) -> Tensor:
        stem = self.stem(self.normalize(crops))
        block1 = self.block1(stem)
        block2 = self.block2(functional.max_pool2d(block1, (2, 1)))
        block3 = self.block3(functional.max_pool2d(block2, 2))
        column = self.column(block3)
        wide = self.wide(self.dropout(column))
        contexts = self.contexts(wide, stem, block1, block2, block3)
        logits: Tensor = self.sequence(self.classify(torch.cat([wide, column, contexts], 1)))
        return logits
