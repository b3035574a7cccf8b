"""Least squares after a cut: each layer that read the cut channels is fitted to what it computed with them.

As in He et al. (arXiv 1707.06168), but from second moments that are measured once, on the network before the cut. A fit
is then one linear system, so that a search can fit each network that it tries.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_builder.train.data import Crops

Moments = Mapping[str, Tensor]  # by layer

_POSITIONS = 64  # measured of each crop: the others are much like these
_RIDGE = 1e-4  # of the mean moment: a channel that hardly varies must not get a large weight
_CROPS = 50  # at once: what a kernel reads at each position is copied


@torch.inference_mode()
def moments(network: nn.Module, layers: Mapping[str, nn.Conv2d], crops: Crops) -> dict[str, Tensor]:
    """For each of the network's `layers`, the second moments of what its kernel reads and of a 1 behind it.

    float64 (d + 1, d + 1), d being inputs x height x width of the kernel: a sum over positions of the crops.
    """
    found: dict[str, Tensor] = {}
    generator = torch.Generator().manual_seed(0)
    hooks = [layer.register_forward_pre_hook(_adding(found, name, generator)) for name, layer in layers.items()]
    for start in range(0, len(crops.texts), _CROPS):
        network(torch.from_numpy(crops.images[start : start + _CROPS]))
    for hook in hooks:
        hook.remove()
    return found


def _adding(found: dict[str, Tensor], name: str, generator: torch.Generator) -> Callable[[Any, Any], None]:
    """A hook that adds what a layer reads to the moments in `found`."""

    def add(layer: nn.Conv2d, inputs: tuple[Tensor, ...]) -> None:
        assert not isinstance(layer.padding, str)
        read = functional.unfold(inputs[0], layer.kernel_size, padding=layer.padding, stride=layer.stride)
        chosen = torch.randperm(read.shape[2], generator=generator)[:_POSITIONS]
        rows = functional.pad(read[:, :, chosen].transpose(1, 2).flatten(0, 1), (0, 1), value=1.0).double()
        found[name] = found.get(name, 0) + rows.T @ rows

    return add


@torch.no_grad()
def fitted(layer: nn.Conv2d, kept: Tensor, moments: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (outputs, len(kept), H, W) and constants (outputs,) that replace a layer's where inputs are `kept`.

    Their sum is nearest, in squares over what `moments` was measured on, to what the layer computes of all inputs.
    """
    height, width = layer.kernel_size
    area = height * width
    rows = (kept[:, None] * area + torch.arange(area)).flatten()
    rows = torch.cat([rows, torch.tensor([len(moments) - 1])])
    weights = functional.pad(layer.weight.flatten(1), (0, 1)).double()
    known = moments[rows][:, rows]
    ridge = _RIDGE * known.diagonal().mean()
    wanted = weights @ moments[:, rows] + ridge * weights[:, rows]
    solved = torch.cholesky_solve(wanted.T, torch.linalg.cholesky(known + ridge * torch.eye(len(rows)))).T.float()
    return solved[:, :-1].reshape(-1, len(kept), height, width), solved[:, -1]
