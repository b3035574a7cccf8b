"""What the service asks of an inference engine, and nothing else."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Backend(Protocol):
    """A loaded model. One thread loads it, calls it and closes it; row i of a batch equals that row alone."""

    @property
    def engine(self) -> str:
        """Engine and version, such as "torch 2.13.0"."""

    def infer(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Crops uint8 (N, H, W, 3), N >= 1 and without an upper bound, to logits float32 (N, T, C)."""

    def close(self) -> None:
        """Free what the engine holds; `infer` must not be called afterwards."""
