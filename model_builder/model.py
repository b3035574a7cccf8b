"""LPRNet after Zherzdev and Gruzdev (arXiv 1806.10447), with channel widths as arguments.

Kept from the paper: a convolutional backbone without recurrence, the wide 1x13 convolution, the global context joined
before the classifier, CTC with the blank last, and the optional spatial transformer in front. Changed: a block is plain
3x3 convolutions where the paper factorizes them (1x1, 3x1, 1x3, 1x1), which on a CPU costs more time than the
multiply-adds that it saves; the context is normalized per sample, so that row i of a batch equals that row alone;
pooling keeps every channel instead of dropping half or three quarters of those computed; the first convolution halves
the columns and the pools halve the rows twice.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

HEIGHT, WIDTH = 24, 94


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


class ConvUnit(nn.Sequential):
    """Convolution, batch normalization, ReLU: (N, inputs, H, W) -> (N, outputs, H', W')."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, int],
        *,
        stride: tuple[int, int] = (1, 1),
        pad: bool = True,
    ) -> None:
        padding = (kernel[0] // 2, kernel[1] // 2) if pad else (0, 0)
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class Block(nn.Sequential):
    """3x3 convolutions, one per width: (N, inputs, H, W) -> (N, widths[-1], H, W)."""

    def __init__(self, inputs: int, widths: tuple[int, ...]) -> None:
        pairs = zip((inputs, *widths), widths, strict=False)
        super().__init__(*(ConvUnit(before, after, (3, 3)) for before, after in pairs))


class SpatialTransformer(nn.Module):
    """The paper's spatial transformer (Jaderberg et al., arXiv 1506.02025): straightens the plate before it is read.

    (N, 3, 24, 94) -> (N, 3, 24, 94), by an affine map that a small localization network predicts; it starts as the
    identity.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.AvgPool2d(3, stride=2),
            nn.Conv2d(3, 32, 5, stride=2),
            nn.ReLU(inplace=True),
            nn.Conv2d(32, 32, (3, 5), stride=(1, 3)),
            nn.ReLU(inplace=True),
        )
        self.regress = nn.Sequential(nn.Linear(32 * 2 * 6, 32), nn.Tanh(), nn.Linear(32, 6))
        last = self.regress[2]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        with torch.no_grad():
            last.bias.copy_(torch.tensor([1.0, 0, 0, 0, 1, 0]))

    def forward(self, x: Tensor) -> Tensor:
        theta = self.regress(self.features(x).flatten(1)).view(-1, 2, 3)
        grid = functional.affine_grid(theta, list(x.shape), align_corners=False)
        return functional.grid_sample(x, grid, padding_mode="border", align_corners=False)


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
        context_channels: tuple[int, int, int, int] | None = None,
        transformer: bool = False,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        w = self.widths = widths or Widths()
        self.transformer = SpatialTransformer() if transformer else None
        self.stem = ConvUnit(3, w.stem, (3, 5), stride=(1, 2))  # 24x47
        self.block1 = Block(w.stem, w.block1)
        self.block2 = Block(w.block1[-1], w.block2)  # 12x47
        self.block3 = Block(w.block2[-1], w.block3)  # 6x23
        self.column = ConvUnit(w.block3[-1], w.column, (HEIGHT // 4, 1), pad=False)  # 1x23
        self.wide = ConvUnit(w.column, w.wide, (1, 13))
        self.dropout = nn.Dropout(dropout)
        self.context_channels = context_channels or w.stages
        self.classify = nn.Conv2d(sum((w.wide, w.column, *w.stages)), classes, 1)

    def configuration(self) -> dict[str, object]:
        """Arguments that build this network again, as JSON holds them."""
        return {
            "widths": {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self.widths).items()},
            "context_channels": list(self.context_channels),
            "transformer": self.transformer is not None,
        }

    @classmethod
    def configured(cls, classes: int, saved: Any) -> "LPRNet":
        """The network, with fresh weights, that `configuration` described."""
        widths: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in saved["widths"].items()}
        return cls(
            classes,
            Widths(**widths),
            context_channels=tuple(saved["context_channels"]),
            transformer=saved["transformer"],
        )

    def forward(self, crops: Tensor) -> Tensor:
        x = (crops.permute(0, 3, 1, 2).float() - 127.5) / 128
        if self.transformer is not None:
            x = self.transformer(x)
        stem = self.stem(x)
        block1 = self.block1(stem)
        block2 = self.block2(functional.max_pool2d(block1, (2, 1)))
        block3 = self.block3(functional.max_pool2d(block2, 2))
        column = self.column(block3)
        wide = self.wide(self.dropout(column))
        stages = zip((stem, block1, block2, block3), self.context_channels, strict=True)
        context = [global_context(features, wide.shape[3], channels) for features, channels in stages]
        logits: Tensor = self.classify(torch.cat([wide, column, *context], 1))
        return logits.float().squeeze(2).transpose(1, 2)


def global_context(x: Tensor, columns: int, channels: int) -> Tensor:
    """Global context: (N, C, H, W) -> (N, C, 1, columns), column means over the mean of their squares per sample.

    The division is in float32: a mean of squares loses too much in bfloat16.
    """
    stride = x.shape[3] // columns
    pooled = functional.avg_pool2d(x, (x.shape[2], stride), stride).float()
    squares = pooled.square().mean((2, 3), keepdim=True).sum(1, keepdim=True) / channels
    return pooled / (squares + 1e-3)


def multiply_adds(model: nn.Module, crops: Tensor) -> int:
    """Multiply-adds of convolutions and linear layers for one row of `crops`, counted by running them."""
    total = 0

    def count(module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        weight = module.weight
        assert isinstance(weight, Tensor)
        total += output[0].numel() * weight[0].numel()

    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(crops[:1])
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return total
