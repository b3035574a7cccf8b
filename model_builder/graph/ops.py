"""The operations of a graph. A node's output is uint8 in steps of `scale`, or float32 where that is None."""

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
    """A linear map of channels: `values` (outputs, inputs, ...), int8 or float32; a real weight is value * scale."""

    values: Array
    scales: NDArray[np.float32]  # (outputs), 1 in float

    @property
    def integer(self) -> bool:
        """Whether this is computed in integers."""
        return self.values.dtype == np.int8

    @property
    def real(self) -> NDArray[np.float32]:
        """The weights as real numbers."""
        return np.asarray(self.values * self.scales.reshape(-1, *[1] * (self.values.ndim - 1)), np.float32)


@dataclass(frozen=True, eq=False, kw_only=True)
class Node:
    """An operation on the outputs of the nodes in `inputs`."""

    name: str
    inputs: tuple[str, ...] = ()
    scale: float | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Pixels(Node):
    """The image, uint8 (H, W, C). Only convolutions take it.

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
class Convolution(Node):
    """A convolution (O, I, KH, KW), its bias int32 in steps of the sum, or float32; and a ReLU, if `relu`."""

    weights: Weights
    bias: Array
    stride: Pair
    padding: Pair
    relu: bool


@dataclass(frozen=True, eq=False, kw_only=True)
class MaxPool(Node):
    """The largest of each window of `kernel`, without what fills none; windows do not overlap."""

    kernel: Pair


@dataclass(frozen=True, eq=False, kw_only=True)
class AveragePool(Node):
    """The mean of each window of `kernel`, rounded half to even; windows do not overlap."""

    kernel: Pair


@dataclass(frozen=True, eq=False, kw_only=True)
class Upsample(Node):
    """Each pixel `factor` times along each axis (nearest neighbour)."""

    factor: Pair


@dataclass(frozen=True, eq=False, kw_only=True)
class Add(Node):
    """The sum of two tensors; integers end at 255."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Concatenate(Node):
    """Tensors behind each other along the channels."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Context(Node):
    """LPRNet's global context of each input, float32, behind each other: (1, columns, channels of all).

    Means of columns over the mean of their squares. `channels` counts, for each input, those that this is taken over.
    """

    columns: int
    channels: tuple[int, ...]
    epsilon: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Linear(Node):
    """float32 (H, W, O): a linear map of the channels of each input, added up, and a float32 `bias` (O)."""

    parts: tuple[Weights, ...]
    bias: NDArray[np.float32]


Weighted = Convolution | Linear
TYPES: Final = {kind.__name__: kind for kind in (Pixels, MaxPool, AveragePool, Upsample, Add, Concatenate, Context)}
