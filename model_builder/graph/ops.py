"""The kinds of nodes of a graph. A node's output is uint8 in steps of `scale`, or float32 where that is None."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Pair = tuple[int, int]
Shape = tuple[int, int, int]  # height, width, channels

TOP: Final = 255  # of uint8


@dataclass(frozen=True, eq=False)
class Weights:
    """A linear map of channels: `values` (outputs, inputs, ...), int8 with `scales`, or float32.

    A real weight is value * scale of its output.
    """

    values: Array
    scales: NDArray[np.float32] | None = None  # (outputs)

    @property
    def integer(self) -> bool:
        """Whether this is computed in integers."""
        return self.scales is not None

    @property
    def real(self) -> NDArray[np.float32]:
        """The weights as real numbers."""
        scales = 1 if self.scales is None else self.scales.reshape(-1, *[1] * (self.values.ndim - 1))
        return np.asarray(self.values * scales, np.float32)


@dataclass(frozen=True, eq=False, kw_only=True)
class Node:
    """An operation on the outputs of the nodes in `inputs`."""

    name: str
    inputs: tuple[str, ...] = ()
    scale: float | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Pixels(Node):
    """The image, uint8. Only convolutions take it.

    A pixel's real value is (pixel - middle) / spread; `scale` is 1 / spread.
    """

    size: Shape
    middle: float
    spread: float

    @property
    def fill(self) -> int:
        """The pixel that stands for 0 in the padding of an integer convolution: the nearest one to `middle`."""
        return int(np.rint(self.middle))


@dataclass(frozen=True, eq=False, kw_only=True)
class Weighted(Node):
    """The products of each input with its part of the weights, added up, and `bias` (outputs)."""

    parts: tuple[Weights, ...]
    bias: Array


@dataclass(frozen=True, eq=False, kw_only=True)
class Convolution(Weighted):
    """A convolution of one input, weights (O, I, KH, KW), and a ReLU, if `relu`.

    The bias is int32 in steps of the integer sum, or float32.
    """

    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    relu: bool = False

    @property
    def weights(self) -> Weights:
        """The weights of its only input."""
        return self.parts[0]


class Linear(Weighted):
    """A linear map (O, I) of the channels of every input, added up. The output and the bias are float32."""


class Tied(Node):
    """A node whose inputs and output have one scale, so that it is exact in integers."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Pool(Tied):
    """Windows of `kernel` that do not overlap; what fills no window is left out."""

    kernel: Pair


class MaxPool(Pool):
    """The largest of each window."""


class AveragePool(Pool):
    """The mean of each window, rounded half to even."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Upsample(Tied):
    """Each pixel `factor` times along each axis (nearest neighbour)."""

    factor: Pair


class Add(Tied):
    """The sum of two tensors; integers end at 255."""


class Concatenate(Tied):
    """Tensors concatenated along the channels."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Context(Node):
    """LPRNet's global context of each input, float32, concatenated: (1, columns, channels of all).

    Means of columns over the mean of their squares. `channels` counts, for each input, those that this is taken over.
    """

    columns: int
    channels: tuple[int, ...]
    epsilon: float


KINDS: Final[dict[str, Any]] = {
    kind.__name__: kind
    for kind in (Pixels, Convolution, Linear, MaxPool, AveragePool, Upsample, Add, Concatenate, Context)
}
