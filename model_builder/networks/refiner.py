"""The refiner: a few 3x3 convolutions and two linear layers, on the crop around one found plate."""

from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from model_builder.networks.blocks import ConvUnit, Normalize, Vector
from service.finding.refine import Form

FORM = Form()


@dataclass(frozen=True)
class Widths:
    """Channels that each convolution puts out, by the stride that it works at, and of the hidden linear layer."""

    fine: tuple[int, ...] = (16, 24)  # stride 2
    middle: tuple[int, ...] = (32, 32)  # 4
    coarse: tuple[int, ...] = (48, 64)  # 8
    hidden: int = 128


class Refiner(nn.Module):
    """uint8 BGR crops (N, 48, 96, 3) -> answers (N, outputs), float32, as `service.finding.refine` describes them."""

    def __init__(self, widths: Widths | None = None) -> None:
        super().__init__()
        self.widths = w = widths or Widths()
        self.normalize, self.vector = Normalize(), Vector()
        self.fine = _level(3, w.fine)
        self.middle = _level(w.fine[-1], w.middle)
        self.coarse = _level(w.middle[-1], w.coarse)
        rows, columns = FORM.size
        self.hidden = ConvUnit(w.coarse[-1], w.hidden, (rows // 8, columns // 8), pad=False)
        self.head = nn.Conv2d(w.hidden, FORM.outputs, 1)

    def configuration(self) -> dict[str, object]:
        """Arguments that build this network again, as JSON holds them."""
        saved = asdict(self.widths).items()
        return {"widths": {name: list(v) if isinstance(v, tuple) else v for name, v in saved}}

    @classmethod
    def configured(cls, saved: Any) -> "Refiner":
        """The network, with fresh weights, that `configuration` described."""
        widths: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in saved["widths"].items()}
        return cls(Widths(**widths))

    def forward(self, crops: Tensor) -> Tensor:
        features = self.coarse(self.middle(self.fine(self.normalize(crops))))
        answers: Tensor = self.vector(self.head(self.hidden(features)))
        return answers


def _level(inputs: int, widths: tuple[int, ...]) -> nn.Sequential:
    """3x3 convolutions, one per width, the first with stride 2."""
    pairs = zip((inputs, *widths), widths, strict=False)
    return nn.Sequential(*(ConvUnit(a, b, (3, 3), stride=(1, 1) if i else (2, 2)) for i, (a, b) in enumerate(pairs)))
