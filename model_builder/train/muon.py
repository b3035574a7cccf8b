"""Muon (Keller Jordan, kellerjordan.github.io/posts/muon): momentum whose update is orthogonalized.

torch.optim.Muon takes matrices only; this one takes convolutions, each seen as a matrix (outputs, inputs * H * W).
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of Jordan's quintic, which is steep at 0: five steps are enough
_STEPS = 5


class Muon(torch.optim.Optimizer):
    """Orthogonalized Nesterov momentum. `lr` and `weight_decay` mean what they mean in AdamW.

    The update is scaled by 0.2 * sqrt(max(rows, columns)), about the size of a step of AdamW (Liu et al., arXiv
    2502.16982).
    """

    def __init__(self, weights: Iterable[Tensor], lr: float, weight_decay: float, momentum: float = 0.95) -> None:
        super().__init__(weights, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]  # no closure is taken
        """Update every weight that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                momentum = state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
                update = orthogonalize(weight.grad.lerp(momentum, group["momentum"]).flatten(1))
                scale = 0.2 * max(update.shape) ** 0.5
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.sub_(update.view(weight.shape), alpha=group["lr"] * scale)


def orthogonalize(matrix: Tensor) -> Tensor:
    """Approximately the nearest matrix with orthogonal rows or columns: its singular values are 0.7 to 1.2.

    Newton-Schulz iteration, X <- (a + b G + c G^2) X with G = X X^T. The factors of all steps commute, so they are
    multiplied first, on the smaller side. X is then multiplied twice instead of ten times.
    """
    rows, columns = matrix.shape
    x = matrix if rows <= columns else matrix.T
    x = x / (torch.linalg.matrix_norm(x) + 1e-7)
    a, b, c = _COEFFICIENTS
    gram = x @ x.T
    identity = torch.eye(len(gram), dtype=x.dtype, device=x.device)
    total = identity
    for _ in range(_STEPS):
        factor = a * identity + b * gram + c * gram @ gram
        total = factor @ total
        gram = factor @ gram @ factor
    orthogonal: Tensor = total @ x
    return orthogonal if rows <= columns else orthogonal.T.contiguous()
