"""A training from its first step, or from its checkpoint, to the averaged network; for networks on drawn batches."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from model_builder.train.loop import Checkpoint, flush_denormals, moving_average, muon_and_adamw, rate, run

Item = TypeVar("Item")
Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class FitConfig:
    """What all trainings on drawn scenes have in common, with the reason for each default."""

    steps: int
    batch_size: int
    learning_rate: float = 5e-3  # Muon's, for convolutions; a third of it is AdamW's, for the rest
    warmup: int = 200  # steps; the first gradients are large
    decay: float = 0.3  # last share of steps in which the rate falls to 0
    weight_decay: float = 0.02
    clip: float = 10.0  # gradient norm
    average: float = 0.999  # exponential moving average of the weights
    seed: int = 1
    log_every: int = 250  # steps between figures and checkpoints
    workers: int = 1  # rendering processes


def fit(
    folder: Path,
    config: FitConfig,
    model: Network,
    batches: Callable[[int], Iterator[Item]],
    losses: Callable[[nn.Module, Item], Sequence[Tensor]],
    record: Callable[[nn.Module, int, list[float]], str],
) -> Network:
    """Train `model`, or resume from `folder`/checkpoint.pt, and return the averaged network on the CPU.

    `model` has its last layer as `head`. `batches` takes the number of the first batch; `losses` gives what is summed
    and minimized; `record` takes the averaged network, the steps done and the mean of each loss, and returns a text for
    the progress bar. Raises ValueError when the checkpoint was made with another configuration.
    """
    folder.mkdir(parents=True, exist_ok=True)
    device = next(model.parameters()).device
    averaged = AveragedModel(model, multi_avg_fn=moving_average(config.average), use_buffers=True)
    head: Any = model.head
    optimizers = muon_and_adamw(model, head, config.learning_rate, config.weight_decay)
    schedule = partial(rate, steps=config.steps, warmup=config.warmup, decay=config.decay)
    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, schedule) for optimizer in optimizers]
    state = Checkpoint(folder / "checkpoint.pt", asdict(config), model, averaged, *optimizers, *schedules)
    first = state.restore(device)

    def update(batch: Item) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):  # slower on CPUs without AMX
            found = torch.stack(list(losses(model.train(), batch)))
        model.zero_grad()
        found.sum().backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        for optimizer, each in zip(optimizers, schedules, strict=True):
            optimizer.step()
            each.step()
        averaged.update_parameters(model)
        return found.detach()

    def recorded(step: int, means: Tensor) -> str:
        return record(averaged.module, step, means.tolist())

    run(state, range(first, config.steps), config.log_every, batches(first), update, recorded)
    network: Any = averaged.module
    flush_denormals(network)
    return network.cpu().eval()  # type: ignore[no-any-return]


def begun(made: Callable[[], Network], seed: int) -> Network:
    """A new network, on the GPU where there is one; its weights and all random numbers follow from the seed."""
    torch.manual_seed(seed)
    torch.set_flush_denormal(True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return made().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
