"""Training of LPRNet with CTC: configuration, loop, optimizers, losses, checkpoints."""

import copy
import csv
import itertools
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from model_builder.networks.reader import LPRNet, Widths
from model_builder.plates.kinds import ALPHABET, PLATES, Plate
from model_builder.train.data import Batch, Crops, development_set, encode, rendered_batches
from model_builder.train.muon import Muon
from model_builder.train.replay import replayed

BLANK = len(ALPHABET)
TUTOR = "tutor.pt"  # in the folder of a training that had one

Item = TypeVar("Item")
Tensors = tuple[Tensor, ...] | list[Tensor]


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a training, with the reason for each default."""

    steps: int = 11000  # 1.4 M plates: two hours on two cores; the loss still falls after that
    batch_size: int = 128  # larger ones learn less a plate seen, smaller ones leave the cores idle
    learning_rate: float = 6e-3  # Muon's, for convolutions; a third of it is AdamW's, for the rest
    warmup: int = 300  # without it CTC falls into blanks only
    decay: float = (
        0.3  # share of steps, the last ones, in which the rate falls to 0 (warmup-stable-decay, arXiv 2405.18392)
    )
    weight_decay: float = 0.02  # endless data needs little regularization
    clip: float = 5.0  # gradient norm: a few unreadable plates must not throw the network
    average: float = 0.999  # exponential moving average of the weights, worth up to 25 points in mid-training
    dropout: float = 0.1  # little: the degradations of the renderer regularize already
    drill: float = (
        0.2  # share of plates with Chinese characters only; a real plate has one, and it is the hardest to read
    )
    hidden: float = 0.05  # share of plates of which a part is not seen: so the network learns not to be sure there
    replays: int = (
        0  # earlier plates trained on again beside each new one: where a GPU learns faster than the CPU draws
    )
    tutor: float = (
        0.0  # widths, in those of the network, of one that learns beside it and is distilled into it; 0: none
    )
    kept: float = 0.0  # share in the result of the weights that it started from (Wortsman et al., arXiv 2109.01903)
    seed: int = 1
    development: int = 2000  # rendered plates for the logged accuracy; others than those that the publisher measures
    log_every: int = 500  # steps between accuracies and checkpoints
    workers: int = 1  # rendering processes


def option(default: Any, reason: str) -> Any:
    """A field of a configuration; --help tells the reason."""
    return field(default=default, metadata={"help": reason})


class Interrupted(Exception):
    """The user stopped the training. The last checkpoint is in its folder."""


class CtrlC:
    """Context in which Ctrl-C takes effect at the end of a step, because a training cannot resume within a step.

    A second Ctrl-C takes effect at once. Signals reach only the main thread; in others this does nothing.
    """

    def __init__(self, state: "Checkpoint") -> None:
        self._state = state
        self._pressed = False
        self._before: dict[int, Any] = {}  # handlers

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            both = (signal.SIGINT, signal.SIGTERM)  # the builder's commands take either for Ctrl-C
            self._before = {number: handler for number in both if callable(handler := signal.getsignal(number))}
        for number in self._before:
            signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if kind is KeyboardInterrupt:
            raise Interrupted(f"stopped within a step; the same command goes on from {self._state.path}") from error

    def check(self, step: int) -> None:
        """Call after `step` steps. Where Ctrl-C was pressed: save a checkpoint and raise Interrupted."""
        if self._pressed:
            self._state.save(step)
            raise Interrupted(f"stopped at step {step}; the same command goes on from {self._state.path}")

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._pressed:
            raise KeyboardInterrupt
        self._pressed = True


def train(
    folder: Path,
    config: TrainConfig,
    *,
    own: Crops | None = None,
    initial: LPRNet | None = None,
    teacher: LPRNet | None = None,
    hold: Callable[[LPRNet], None] | None = None,
    fonts: Sequence[Path] = (),
    plates: Sequence[Plate] = PLATES,
) -> LPRNet:
    """Train, or resume from the checkpoint in `folder`, and return the averaged network.

    `own` crops make half of every batch; the other half is rendered, so that the network still reads plates that `own`
    lacks. `initial` gives the weights and widths to start from. `teacher` is distilled from, frame by frame. `hold` is
    called after each update, to keep pruned weights at 0. `fonts` are folders of typefaces beside those installed;
    `plates` are the kinds that are drawn. Writes `folder`/checkpoint.pt and log.csv. Raises ValueError when the
    checkpoint in `folder` was made with another configuration or other crops.
    """
    folder.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(config.seed)
    torch.set_flush_denormal(True)
    learner = _Learner(_begun(initial, config.dropout), config, device)
    tutor = _tutor(learner.network.widths, config, device) if config.tutor else None
    teacher = copy.deepcopy(teacher).to(device).eval() if teacher else tutor.average if tutor else None
    identity = asdict(config) | {"crops": own.digest() if own else ""}
    state = Checkpoint(folder / "checkpoint.pt", identity, *learner.parts, *(tutor.parts if tutor else ()))
    first = state.restore(device)
    log = Log(folder / "log.csv", first)
    development = development_set(config.development)
    draw = partial(rendered_batches, hidden=config.hidden, fonts=fonts, plates=plates)
    batches = _batches(config, first, own, draw)
    if config.replays:
        fixed = None if tutor or not teacher else partial(_logits, teacher)  # a tutor changes with each step
        batches = replayed(batches, config.replays, device, config.seed + first, config.steps - first, fixed)
    started = time.monotonic()

    def update(batch: Batch) -> Tensor:
        batch = replace(batch, crops=batch.crops.to(device), targets=batch.targets.to(device))
        if tutor:
            tutor.learn(batch)
            tutor.end_step()
        if teacher and batch.taught is None:
            batch = replace(batch, taught=_logits(teacher, batch.crops))
        loss = learner.learn(batch)
        if hold is not None:
            hold(learner.network)
        learner.end_step()
        return loss

    def record(step: int, loss: Tensor) -> str:
        accuracy, lr = exact_match(learner.average, development), learner.optimizers[0].param_groups[0]["lr"]
        log.write(step, float(loss), accuracy, lr, time.monotonic() - started)
        return f"loss {float(loss):.3f}, rendered {100 * accuracy:.1f} %"

    run(state, range(first, config.steps), config.log_every, batches, update, record)
    if tutor:
        save_network(folder / TUTOR, tutor.finished())
    return _mean(learner.finished(), initial, config.kept) if initial and config.kept else learner.finished()


@torch.no_grad()
def _mean(network: LPRNet, other: LPRNet, share: float) -> LPRNet:
    """`network` with weights of which the other's are this share."""
    state = other.state_dict()
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            tensor.lerp_(state[name], share)
    flush_denormals(network)
    return network


class _Learner:
    """A network in training, with its optimizers, their schedules and the moving average of its weights."""

    def __init__(self, network: LPRNet, config: TrainConfig, device: torch.device) -> None:
        self._clip = config.clip
        self.network: LPRNet = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._averaged = AveragedModel(network, multi_avg_fn=moving_average(config.average), use_buffers=True)
        self._averaged.eval()
        self.optimizers = muon_and_adamw(network, network.classify, config.learning_rate, config.weight_decay)
        schedule = partial(rate, steps=config.steps, warmup=config.warmup, decay=config.decay)
        self._schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, schedule) for optimizer in self.optimizers]

    @property
    def parts(self) -> tuple[Any, ...]:
        """What a checkpoint has to hold."""
        return self.network, self._averaged, *self.optimizers, *self._schedules

    @property
    def average(self) -> LPRNet:
        """The averaged network."""
        network = self._averaged.module
        assert isinstance(network, LPRNet)
        return network

    def learn(self, batch: Batch) -> Tensor:
        """Update the weights by a batch whose crops are on the network's device; returns the loss."""
        device, network = batch.crops.device, self.network
        with torch.autocast(device.type, torch.bfloat16, enabled=_quick_in_bfloat16(device)):
            logits = network.train()(batch.crops)
        loss = ctc_loss(logits, batch)
        if batch.taught is not None:
            loss = loss + distillation_loss(logits, batch.taught, batch)
        network.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), self._clip)
        for optimizer in self.optimizers:
            optimizer.step()
        return loss.detach()

    def end_step(self) -> None:
        """After the weights were updated: the next learning rate, and the average."""
        for each in self._schedules:
            each.step()
        self._averaged.update_parameters(self.network)

    def finished(self) -> LPRNet:
        """The averaged network, on the CPU, without denormals."""
        flush_denormals(self.average)
        return self.average.cpu().eval()


def _tutor(widths: Widths, config: TrainConfig, device: torch.device) -> _Learner:
    """A larger network that learns from the same batches (Anil et al., arXiv 1804.03235, with one side distilled)."""
    return _Learner(LPRNet(BLANK + 1, widths.scaled(config.tutor), dropout=config.dropout), config, device)


def save_network(path: Path, network: LPRNet) -> None:
    """Write what `load_network` reads."""
    torch.save({"network": network.configuration(), "weights": network.state_dict()}, path)


def load_network(path: Path) -> LPRNet:
    """A network that `save_network` wrote, in evaluation mode. Raises ValueError where the file holds none."""
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        network = LPRNet.configured(BLANK + 1, saved["network"])
        network.load_state_dict(saved["weights"])
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no network that a training saved: give its {TUTOR}") from error
    return network.eval()


def run(
    state: "Checkpoint",
    steps: range,
    log_every: int,
    batches: Iterator[Item],
    update: Callable[[Item], Tensor],
    record: Callable[[int, Tensor], str],
) -> None:
    """Call `update` with a batch a step; each `log_every` steps and after the last one, save a checkpoint and `record`.

    `record` takes the number of steps and the mean of what `update` returned since the last record. It returns a text
    for the progress bar. Raises Interrupted at Ctrl-C.
    """
    progress = tqdm(steps, initial=steps.start, total=steps.stop, unit="step", dynamic_ncols=True)
    losses: list[Tensor] = []
    with CtrlC(state) as ctrl_c:
        for step in progress:
            batch = next(batches)
            ctrl_c.check(step)
            losses.append(update(batch))
            if (step + 1) % log_every == 0 or step + 1 == steps.stop:
                state.save(step + 1)
                progress.set_postfix_str(record(step + 1, torch.stack(losses).mean(0)))
                losses.clear()
        ctrl_c.check(steps.stop)


def _begun(initial: LPRNet | None, dropout: float) -> LPRNet:
    """A network with the weights and widths of `initial`, or a fresh one."""
    if initial is None:
        return LPRNet(BLANK + 1, dropout=dropout)
    context_channels = initial.contexts.channels
    model = LPRNet(BLANK + 1, initial.widths, context_channels=context_channels, dropout=dropout)
    model.load_state_dict(initial.state_dict())
    return model


def muon_and_adamw(
    model: nn.Module, last: nn.Module, learning_rate: float, weight_decay: float
) -> list[torch.optim.Optimizer]:
    """Muon for the convolutions; AdamW, at a third of the rate, for all other parameters and for the last layer.

    On the same 350 batches Muon reached a loss of 0.59. AdamW alone, at its best rate, reached 1.11.
    """
    inner = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d) and m is not last]
    known = {id(weight) for weight in inner}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in known]
    return [
        Muon(inner, learning_rate, weight_decay),
        torch.optim.AdamW(rest, learning_rate / 3, weight_decay=weight_decay, fused=True),
    ]


def rate(step: int, steps: int, warmup: int, decay: float) -> float:
    """Share of the learning rate at `step`: linear warm-up, level, linear decay to 0."""
    falling = max(1, round(steps * decay))
    return min(1.0, (step + 1) / max(1, warmup), max(0.0, (steps - step) / falling))


def moving_average(decay: float) -> Callable[[Tensors, Tensors, Tensor | int], None]:
    """Exponential moving average with a smaller decay at first, so that the random initial weights soon vanish."""

    def update(averages: Tensors, current: Tensors, count: Tensor | int) -> None:
        share = 1 - min(decay, (1 + int(count)) / (10 + int(count)))
        for average, value in zip(averages, current, strict=True):
            if average.is_floating_point():
                average.lerp_(value, share)
            else:  # batch normalization's counters
                average.copy_(value)

    return update


@torch.no_grad()
def _logits(network: LPRNet, crops: Tensor) -> Tensor:
    """Logits of crops on the network's device."""
    with torch.autocast(crops.device.type, torch.bfloat16, enabled=_quick_in_bfloat16(crops.device)):
        logits: Tensor = network(crops)
    return logits


def _quick_in_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is faster than float32: on a CPU without instructions for it, it takes ten times as long."""
    return device.type == "cuda" or bool(torch.cpu.get_capabilities().get("avx512_bf16"))


def ctc_loss(logits: Tensor, batch: Batch) -> Tensor:
    """CTC loss (Graves et al. 2006) in float32 of logits (n, steps, classes), a mean over texts and characters."""
    likelihoods = functional.log_softmax(logits.float(), 2).transpose(0, 1)
    steps = torch.full_like(batch.lengths, logits.shape[1])
    return functional.ctc_loss(
        likelihoods, batch.targets.to(logits.device), steps, batch.lengths, blank=BLANK, zero_infinity=True
    )


def distillation_loss(logits: Tensor, taught: Tensor, batch: Batch) -> Tensor:
    """Kullback-Leibler divergence of each frame from the teacher's (Hinton et al., arXiv 1503.02531).

    A pruned network starts with its teacher's alignments, so frames can be compared. Summed over frames and divided by
    characters, as CTC's loss is.
    """
    student, teacher = (functional.log_softmax(rows.float(), 2) for rows in (logits, taught))
    return functional.kl_div(student, teacher, reduction="sum", log_target=True) / batch.lengths.sum()


def _batches(
    config: TrainConfig, first: int, own: Crops | None, draw: Callable[..., Iterator[Batch]]
) -> Iterator[Batch]:
    if own is None:
        return draw(config.seed, config.batch_size, first, config.workers, config.drill)
    half = config.batch_size // 2
    pairs = zip(
        draw(config.seed, config.batch_size - half, first, config.workers, config.drill),
        own.batches(config.seed, half, first),
        strict=True,
    )
    return (Batch(*(torch.cat(parts) for parts in zip(_parts(a), _parts(b), strict=True))) for a, b in pairs)


def _parts(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    return batch.crops, batch.targets, batch.lengths


@torch.inference_mode()
def exact_match(model: nn.Module, crops: Crops) -> float:
    """Share of crops whose greedy reading is their text."""
    device = next(model.parameters()).device
    right = 0
    model.eval()
    for start in range(0, len(crops.texts), 250):
        images = torch.from_numpy(crops.images[start : start + 250]).to(device)
        paths = model(images).argmax(2).tolist()
        for path, text in zip(paths, crops.texts[start : start + 250], strict=True):
            right += [key for key, _ in itertools.groupby(path) if key != BLANK] == encode(text)
    return right / len(crops.texts)


def flush_denormals(model: nn.Module) -> None:
    """Set denormal weights to 0: a CPU computes with them ten times slower, and they change no result."""
    with torch.no_grad():
        for tensor in itertools.chain(model.parameters(), model.buffers()):
            if tensor.is_floating_point():
                tensor[tensor.abs() < torch.finfo(torch.float32).tiny] = 0


class Checkpoint:
    """State from which a training resumes exactly."""

    def __init__(self, path: Path, identity: dict[str, Any], *parts: Any) -> None:
        self.path, self.identity, self.parts = path, identity, parts

    def save(self, step: int) -> None:
        state = {
            "step": step,
            "identity": self.identity,
            "random": torch.get_rng_state(),
            "parts": [part.state_dict() for part in self.parts],
        }
        aside = self.path.with_suffix(".new")
        torch.save(state, aside)
        aside.replace(self.path)

    def restore(self, device: torch.device) -> int:
        """Load the file, if it exists, and return the step to resume at; 0 if it does not.

        `steps` may differ from that of the checkpoint: a training can be made longer or shorter.
        """
        if not self.path.exists():
            return 0
        try:
            state = torch.load(self.path, map_location=device, weights_only=True)
        except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
            raise ValueError(f"{self.path} is damaged: remove it to begin again") from error
        same = ("steps", "workers", "log_every", "development", "kept")
        changed = [k for k, v in self.identity.items() if k not in same and state["identity"].get(k) != v]
        if changed:
            raise ValueError(f"{self.path} was made with another {', '.join(changed)}: give the same, or another --out")
        for part, saved in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(saved)
        torch.set_rng_state(state["random"].cpu())
        return int(state["step"])


class Log:
    """A line of loss and accuracy each `log_every` steps, as CSV."""

    columns: tuple[str, ...] = ("step", "loss", "rendered_accuracy", "learning_rate", "seconds")

    def __init__(self, path: Path, first: int) -> None:
        self.path = path
        if first == 0 or not path.exists():
            self._append(self.columns, "w")

    def _append(self, row: tuple[object, ...], mode: str = "a") -> None:
        with self.path.open(mode, newline="") as file:
            csv.writer(file).writerow(row)

    def write(self, step: int, loss: float, accuracy: float, rate: float, seconds: float) -> None:
        self._append((step, f"{loss:.4f}", f"{accuracy:.4f}", f"{rate:.6f}", f"{seconds:.0f}"))
