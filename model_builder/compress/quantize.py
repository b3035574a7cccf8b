"""Quantization: calibrate, choose the layers that stay in float, train, describe the integer graph, export it.

The artifact has to compute what `graph/reference.py` computes; `graph/fake_quantized.py` is the same in torch. The
engine is ONNX Runtime. OpenVINO was as fast on the same file, but started more slowly and used twice the memory. The
integers of ONNX Runtime equal those of the reference. OpenVINO rounds some to the neighbouring integer. Without VNNI
its sums of two products saturate at 16 bits, unless weights have 7 bits: logits were then off by up to 7. The integer
kernels of torch were slower.
"""

import copy
import json
import tempfile
import time
import warnings
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from model_builder import candidates
from model_builder.graph import description, onnx
from model_builder.graph.description import Graph
from model_builder.graph.fake_quantized import FakeQuantized
from model_builder.graph.ops import TOP
from model_builder.graph.trace import trace
from model_builder.networks.reader import SIZE
from model_builder.plates.kinds import ALPHABET
from model_builder.train.data import Batch, Crops, development_set, rendered_batches
from model_builder.train.loop import BLANK, Checkpoint, Log, ctc_loss, option, rate, run
from service.artifact import Artifact, provenance
from service.artifact.provenance import Choice, Fidelity
from service.backends.onnxruntime import MODEL, open_session, options
from service.reading import text

_SAMPLES = 1 << 15  # activations that a layer's range is chosen from, a batch
_METHODS = ("max", "99.999 %", "99.99 %", "99.9 %", "mse")


@dataclass(frozen=True)
class QuantizeConfig:
    """Everything that decides a quantization, with the reason for each default."""

    calibration: int = option(512, "rendered plates that activations' ranges are taken from")
    development: int = option(2000, "rendered plates to choose on, none of which are in the validation set")
    bits: int = option(8, "bits of a weight; 7 keep the sum of two products in 16 bits, for engines without VNNI")
    floats: str = option("", "layers to keep in float in any case, comma-separated")
    layer_loss: float = option(0.3, "points that a layer alone in integers may lose before it is kept in float")
    calibrated_loss: float = option(0.1, "points that calibration may lose before the network is trained")
    steps: int = option(1000, "steps of training with simulated integers; 0 for none")
    batch_size: int = option(128, "plates a step, as in training")
    learning_rate: float = option(1e-4, "AdamW's; small, because the weights are good")
    warmup: int = option(50, "steps in which the rate rises, while AdamW's moments settle")
    distillation: float = option(1.0, "weight of the divergence from the float network; CTC's is 1")
    drill: float = option(0.3, "share of plates with Chinese characters only, as in training")
    seed: int = option(3, "of the plates to train on; others than the network was trained on")
    log_every: int = option(250, "steps between accuracies and checkpoints")
    workers: int = option(1, "rendering processes")


@dataclass(frozen=True)
class Quantized:
    """An integer network with its provenance.

    `trained` is None where calibration was enough. The trained network is kept only if it reads more plates.
    """

    network: Graph
    choice: Choice
    trained: Fidelity | None
    config: QuantizeConfig

    def record(self) -> provenance.Quantized:
        """For an artifact's provenance."""
        return provenance.Quantized(settings=asdict(self.config), choice=self.choice, trained=self.trained)


def quantize(folder: Path, source: nn.Module, config: QuantizeConfig) -> Quantized:
    """Quantize `source`, or resume from the files in `folder`: choice.json, checkpoint.pt and log.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_flush_denormal(True)
    source = source.cpu().eval()
    development = development_set(config.development)
    simulation = FakeQuantized(trace(source, SIZE), bits=config.bits)
    choice = _kept_choice(folder / "choice.json", simulation, source, development, config)
    simulation.floats = frozenset(choice.floats)
    simulation.set_ranges(choice.ranges)
    network, trained = simulation.describe(), None
    lost = 100 * (choice.float32.exact - choice.calibrated.exact) / choice.calibrated.total
    print(f"calibrated by {choice.method}: {lost:.2f} points lost; float: {', '.join(choice.floats) or 'none'}")
    if lost > config.calibrated_loss and config.steps > 0:
        simulation = train(folder, simulation, source, config, development)
        trained = compare(simulation, development, logits_of(source, development))
        better = trained.exact > choice.calibrated.exact
        network = simulation.describe() if better else network
        lost = 100 * (choice.float32.exact - trained.exact) / trained.total
        print(f"trained: {lost:.2f} points lost; {'kept' if better else 'no better than calibrated, so not kept'}")
    return Quantized(network, choice, trained, config)


def calibrated(network: Graph, images: NDArray[np.uint8]) -> tuple[Graph, dict[str, float]]:
    """A float graph in integers, and the largest value of each layer's output on `images`, where its uint8 ends.

    For networks whose answers are numbers, not classes: a clipped value would be a wrong answer. On rendered scenes,
    the finder's corners were off by 0.164 cells so, as in float, and by 0.192 with ranges that hold 99.9 %. Sums of the
    last layer are real numbers: of 8 bits over 60 cells, a step is two pixels.
    """
    simulation = FakeQuantized(network)
    ranges = calibrate(simulation, images)["max"]
    simulation.set_ranges(ranges)
    return simulation.describe(), ranges


def _kept_choice(
    path: Path, simulation: FakeQuantized, source: nn.Module, development: Crops, config: QuantizeConfig
) -> Choice:
    """The choice that `path` holds, if it was made for the same network and configuration, else a new one."""
    weights = {name: tensor.numpy() for name, tensor in source.state_dict().items()}
    decisive = ("calibration", "development", "bits", "floats", "layer_loss")
    identity = {"network": candidates.digest(weights)} | {name: getattr(config, name) for name in decisive}
    with suppress(OSError, ValueError, KeyError, TypeError):  # none, or one that was not written to its end
        saved = json.loads(path.read_text())
        if saved["identity"] == identity:
            return Choice.model_validate(saved["choice"])
    choice = choose(simulation, source, development, config)
    path.write_text(json.dumps({"identity": identity, "choice": choice.model_dump()}, indent=1))
    return choice


def choose(simulation: FakeQuantized, source: nn.Module, development: Crops, config: QuantizeConfig) -> Choice:
    """Choose ranges and the layers that stay in float, by the readings of the development set."""
    reference = logits_of(source, development)
    float32 = Fidelity(exact=_exact(reference, development), total=len(development.texts), divergence=0.0)
    given = frozenset(name for name in config.floats.split(",") if name)
    simulation.floats = given  # refuses unknown names before anything is computed
    methods: dict[str, Fidelity] = {}
    candidates = calibrate(simulation, development.images[: config.calibration])
    for name in tqdm(_METHODS, desc="ranges", dynamic_ncols=True):
        simulation.set_ranges(candidates[name])
        methods[name] = compare(simulation, development, reference)
    method = min(methods, key=lambda name: methods[name].divergence)
    simulation.set_ranges(candidates[method])
    alone_integer, alone_float = {}, {}
    every = frozenset(simulation.names)
    for name in tqdm(simulation.names, desc="sensitivity", dynamic_ncols=True):
        simulation.floats = every - {name}
        alone_integer[name] = compare(simulation, development, reference)
        simulation.floats = frozenset({name})
        alone_float[name] = compare(simulation, development, reference)
    limit = float32.exact - config.layer_loss * float32.total / 100
    floats = given | {name for name, found in alone_integer.items() if found.exact < limit}
    simulation.floats = frozenset(floats)
    calibrated = compare(simulation, development, reference)
    return Choice(
        float32=float32,
        methods=methods,
        method=method,
        ranges=candidates[method],
        alone_integer=alone_integer,
        alone_float=alone_float,
        floats=tuple(name for name in simulation.names if name in floats),
        calibrated=calibrated,
    )


@torch.inference_mode()
def calibrate(simulation: FakeQuantized, images: NDArray[np.uint8]) -> dict[str, dict[str, float]]:
    """For each method, the largest real value that uint8 should hold of each layer's output, from a sample of them.

    The maximum, percentiles, and the end that makes the squared error of rounding and clipping least.
    """
    floats, simulation.floats = simulation.floats, frozenset(simulation.names)
    generator = torch.Generator().manual_seed(0)
    samples: dict[str, list[Tensor]] = {name: [] for name in simulation.ranged}
    largest = dict.fromkeys(samples, 0.0)
    for start in tqdm(range(0, len(images), 32), desc="calibration", dynamic_ncols=True):
        outputs, _ = simulation.outputs(torch.from_numpy(images[start : start + 32]))
        for name in samples:
            output = outputs[name]
            chosen = torch.randint(output.numel(), (_SAMPLES,), generator=generator)
            samples[name].append(output.flatten()[chosen])
            largest[name] = max(largest[name], float(output.max()))
    simulation.floats = floats
    found: dict[str, dict[str, float]] = {method: {} for method in _METHODS}
    for name, parts in samples.items():
        values = torch.cat(parts).double()
        ordered = values.sort().values
        top = max(largest[name], 1e-6)  # a layer that never fires
        for method in _METHODS:
            if method.endswith("%"):
                share = float(method.removesuffix(" %")) / 100
                found[method][name] = max(float(ordered[round(share * (len(ordered) - 1))]), 1e-6)
        found["max"][name] = top
        ends = [top * share for share in np.linspace(0.3, 1, 36)]
        found["mse"][name] = min(ends, key=lambda end: _squared_error(values, end))
    return found


def _squared_error(values: Tensor, end: float) -> float:
    step = end / TOP
    return float(((values / step).round().clamp(0, TOP) * step - values).square().mean())


def compare(model: nn.Module, crops: Crops, reference: Tensor) -> Fidelity:
    """The readings of `model` compared with the logits (n, T, classes) of the float network."""
    logits = logits_of(model, crops)
    target = reference.log_softmax(2)
    divergence = (target.exp() * (target - logits.log_softmax(2))).sum(2).mean(dtype=torch.float64)
    return Fidelity(exact=_exact(logits, crops), total=len(crops.texts), divergence=round(float(divergence), 9))


@torch.inference_mode()
def logits_of(model: nn.Module, crops: Crops) -> Tensor:
    """Logits float32 (n, T, classes) of all crops."""
    model.eval()
    device = next(model.parameters()).device
    starts = range(0, len(crops.texts), 125)
    return torch.cat([model(torch.from_numpy(crops.images[at : at + 125]).to(device)).cpu() for at in starts])


def _exact(logits: Tensor, crops: Crops) -> int:
    read = text.greedy(logits.numpy(), ALPHABET, BLANK)
    return sum(text == expected for text, expected in zip(read, crops.texts, strict=True))


def train(
    folder: Path, simulation: FakeQuantized, source: nn.Module, config: QuantizeConfig, development: Crops
) -> FakeQuantized:
    """Train the simulated integers, or resume from the checkpoint in `folder`.

    Weights, biases and scales are trained on new rendered plates, with the losses of CTC and of distillation (Hinton et
    al., arXiv 1503.02531) from the float network. Writes checkpoint.pt and log.csv.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(config.seed)
    simulation = simulation.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # as in train
    teacher = copy.deepcopy(source).to(device).eval()
    optimizer = torch.optim.AdamW(simulation.parameters(), config.learning_rate, weight_decay=0.0)
    decay = partial(rate, steps=config.steps, warmup=config.warmup, decay=1 - config.warmup / config.steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, decay)
    identity = asdict(config) | {"start": candidates.digest(description.arrays(simulation.describe()))}
    state = Checkpoint(folder / "checkpoint.pt", identity, simulation, optimizer, schedule)
    first = state.restore(device)
    log = Log(folder / "log.csv", first)
    reference = logits_of(source, development)
    batches = rendered_batches(config.seed, config.batch_size, first, config.workers, config.drill)
    started = time.monotonic()

    def update(batch: Batch) -> Tensor:
        loss = _loss(simulation.train(), teacher, batch, config.distillation)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        return loss.detach()

    def record(step: int, loss: Tensor) -> str:
        found = compare(simulation, development, reference)
        accuracy, lr = found.exact / found.total, optimizer.param_groups[0]["lr"]
        log.write(step, float(loss), accuracy, lr, time.monotonic() - started)
        return f"loss {float(loss):.3f}, rendered {100 * accuracy:.2f} %"

    run(state, range(first, config.steps), config.log_every, batches, update, record)
    return simulation.cpu().eval()


def _loss(simulation: FakeQuantized, teacher: nn.Module, batch: Batch, distillation: float) -> Tensor:
    """CTC's loss and, `distillation` times, the divergence from the float network."""
    crops = batch.crops.to(simulation.steps[0].device)
    with torch.autocast(crops.device.type, torch.bfloat16):
        logits = simulation(crops)
        with torch.no_grad():
            target = teacher(crops).log_softmax(2)
    divergence = functional.kl_div(
        logits.log_softmax(2).flatten(0, 1), target.flatten(0, 1), reduction="batchmean", log_target=True
    )
    return ctc_loss(logits, batch) + distillation * divergence


def kernels(artifact: Artifact) -> dict[str, str]:
    """The kernel of each layer of an artifact and the types it multiplied, from the profile of ONNX Runtime.

    Such as {"stem": "QLinearConv uint8 x int8", "classify": "MatMul float"}; QLinearConv sums in integers. Without
    VNNI, weights that are stored as int8 are multiplied as uint8.
    """
    with tempfile.TemporaryDirectory() as folder:
        settings = options(threads=1)
        settings.enable_profiling = True
        settings.profile_file_prefix = str(Path(folder) / "profile")
        session = open_session(artifact.content(MODEL), settings)
        session.run(None, {onnx.INPUT: np.zeros((1, *map(int, artifact.manifest.images[0])), np.uint8)})
        events = json.loads(Path(session.end_profiling()).read_text())
    ran = [event for event in events if event["name"].endswith("_kernel_time")]
    found = {}
    for event in ran:
        name, _, part = event["name"].partition("/")
        if ("Conv" in event["args"]["op_name"] and not part.startswith("sums")) or part.startswith(onnx.PRODUCT):
            found[name] = event["args"]
    return {name: _kernel(arguments) for name, arguments in found.items()}


def _kernel(arguments: dict[str, Any]) -> str:
    """The kernel of one event's arguments. Weights that it packed are no inputs, but QLinearConv's zero points are."""
    kinds = [next(iter(tensor)) for tensor in arguments["input_type_shape"]]
    if arguments["op_name"] == "QLinearConv":  # x, its scale and zero point, then the weights with theirs
        return f"QLinearConv {kinds[0]} x {next(kind for kind in kinds[3:] if 'int8' in kind)}"
    return f"{arguments['op_name']} {kinds[0]}"


def dynamic(network: nn.Module) -> tuple[int, nn.Module]:
    """The network after torch's dynamic quantization, and how many of its modules changed.

    In LPRNet no module changes: it has no linear layer, and Conv2d has no dynamic kernel.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is deprecated, in several ways
        changed = torch.ao.quantization.quantize_dynamic(  # type: ignore[no-untyped-call]
            copy.deepcopy(network).eval(), {nn.Conv2d, nn.Linear}, dtype=torch.qint8
        )
    after = dict(changed.named_modules())
    return sum(type(module) is not type(after[name]) for name, module in network.named_modules()), changed
