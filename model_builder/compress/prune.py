"""Pruning: the sensitivity of each layer, the published L1 recipe, and the removal of channels.

The widths of `pruned` are chosen as by NetAdapt (Yang et al., arXiv 1804.03230). Each step of the search cuts the
weakest channels of one convolution: that which increases the loss least for the multiply-adds saved. The layers that
read a cut channel are fitted to do without it (`refit`). After each round of cuts the network is trained, distilled
from its source.
"""

import copy
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from tqdm import tqdm

from model_builder.compress import refit
from model_builder.graph.description import Graph
from model_builder.graph.ops import Concatenate, Context, Convolution, Pixels
from model_builder.graph.trace import trace
from model_builder.networks.blocks import ConvUnit
from model_builder.networks.reader import SIZE, LPRNet
from model_builder.train.data import Crops, collate
from model_builder.train.loop import TrainConfig, ctc_loss, exact_match, option, train
from service.artifact.provenance import Cut, Size

RATIOS = tuple(tenth / 10 for tenth in range(1, 10))
GRAIN = 16  # channels of a cut: what a vector of integers or floats holds

Keep = Mapping[str, Tensor]  # name of a convolution -> indices of the channels that it keeps, ascending


def weighted(network: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
    """Every convolution and linear layer by its name."""
    return {name: m for name, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}


def magnitude(network: LPRNet, ratio: float, scope: Literal["layer", "global"]) -> LPRNet:
    """The published recipe, made permanent: a copy whose smallest weights (L1) are 0.

    `ratio` is their share, of each layer or of all layers together. Shapes and computing time do not change.
    """
    pruned = copy.deepcopy(network)
    layers = [(layer, "weight") for layer in weighted(pruned).values()]
    if scope == "global":
        prune.global_unstructured(layers, prune.L1Unstructured, amount=ratio)
    else:
        for layer, _ in layers:
            _cut_weights(layer, ratio)
    for layer, name in layers:
        prune.remove(layer, name)  # type: ignore[no-untyped-call]
    return pruned


def holder(pruned: LPRNet) -> Callable[[LPRNet], None]:
    """A function for `train` that keeps the weights at 0 that are 0 in `pruned`."""
    masks = {name: layer.weight != 0 for name, layer in weighted(pruned).items()}

    @torch.no_grad()
    def hold(network: LPRNet) -> None:
        for name, layer in weighted(network).items():
            layer.weight.mul_(masks[name].to(layer.weight.device))

    return hold


def _cut_weights(layer: nn.Module, ratio: float) -> None:
    prune.l1_unstructured(layer, "weight", ratio)  # type: ignore[no-untyped-call]


def sensitivity(network: LPRNet, crops: Crops) -> Iterator[tuple[str, list[float]]]:
    """For each layer the exact match on `crops` when that layer alone loses 10, 20, ... 90 % of its weights (L1)."""
    for name in weighted(network):
        accuracies = []
        for ratio in RATIOS:
            pruned = copy.deepcopy(network)
            _cut_weights(weighted(pruned)[name], ratio)
            accuracies.append(exact_match(pruned, crops))
        yield name, accuracies


def units(network: LPRNet) -> dict[str, ConvUnit]:
    """The convolutions whose channels can be cut, by name, in the order of computation."""
    return {name: module for name, module in network.named_modules() if isinstance(module, ConvUnit)}


def importance(unit: ConvUnit) -> Tensor:
    """Importance of each channel of a unit: the L1 norm of its filter times the scale of its batch normalization."""
    convolution, normalization = unit[0], unit[1]
    assert isinstance(convolution, nn.Conv2d)
    assert isinstance(normalization, nn.BatchNorm2d)
    assert normalization.running_var is not None
    scale = normalization.weight.abs() / (normalization.running_var + normalization.eps).sqrt()
    return (convolution.weight.abs().sum((1, 2, 3)) * scale).detach()


def strongest(network: LPRNet, counts: Mapping[str, int]) -> dict[str, Tensor]:
    """The `counts` most important channels of each unit; all of a unit that `counts` leaves out."""
    kept = {}
    for name, unit in units(network).items():
        weights = importance(unit)
        kept[name] = weights.topk(counts.get(name, len(weights))).indices.sort().values
    return kept


def masked(network: LPRNet, keep: Keep) -> LPRNet:
    """A copy in which all channels but those in `keep` are 0. It computes what `slim` has to compute, at full cost."""
    result = copy.deepcopy(network)
    with torch.no_grad():
        for name, unit in units(result).items():
            gone = torch.ones(len(unit[1].weight), dtype=torch.bool)  # type: ignore[arg-type]
            gone[keep[name]] = False
            for parameter in unit[1].parameters():
                parameter[gone] = 0
    return result


def slim(network: LPRNet, keep: Keep, moments: refit.Moments | None = None) -> LPRNet:
    """A smaller network that has only the channels in `keep`. It computes what `masked` does.

    With the network's `moments`, the layers that read cut channels are fitted to what they computed before.
    """
    graph, result = trace(network, SIZE), copy.deepcopy(network)
    for name, layer in _layers(result).items():
        kept = _kept_of_joined(graph, graph[name].inputs, keep)
        if moments and len(kept) < layer.in_channels:
            _replace(result.get_submodule(name), layer, *refit.fitted(layer, kept, moments[name]))
        else:
            layer.weight = nn.Parameter(layer.weight.detach()[:, kept])
        layer.in_channels = len(kept)
        if name in keep:
            _cut_outputs(units(result)[name], keep[name])
    return result


def _layers(network: LPRNet) -> dict[str, nn.Conv2d]:
    """The convolutions by the names of their units, in the order of computation."""
    found = {}
    for node in trace(network, SIZE).weighted:
        unit = network.get_submodule(node.name)
        layer = unit[0] if isinstance(unit, ConvUnit) else unit
        assert isinstance(layer, nn.Conv2d)
        found[node.name] = layer
    return found


def _kept_of_joined(graph: Graph, names: tuple[str, ...], keep: Keep) -> Tensor:
    """Indices of the channels that are left of concatenated outputs."""
    found, offset = [], 0
    for name in names:
        found.append(_kept(graph, name, keep) + offset)
        offset += graph.shapes()[name][2]
    return torch.cat(found)


def _kept(graph: Graph, name: str, keep: Keep) -> Tensor:
    """Indices of the channels that are left of a node's output.

    Raises ValueError where the inputs of a sum keep different channels.
    """
    node = graph[name]
    if isinstance(node, Convolution):
        return keep[name]
    if isinstance(node, Pixels):
        return torch.arange(node.size[2])
    if isinstance(node, Concatenate | Context):
        return _kept_of_joined(graph, node.inputs, keep)
    kept = [_kept(graph, source, keep) for source in node.inputs]
    if any(not torch.equal(kept[0], other) for other in kept[1:]):
        raise ValueError(f"{name} adds {', '.join(node.inputs)}: the same channels of them must be kept")
    return kept[0]


@torch.no_grad()
def _replace(unit: nn.Module, layer: nn.Conv2d, weights: Tensor, constants: Tensor) -> None:
    """Give a layer other weights, and add constants to what it puts out."""
    layer.weight = nn.Parameter(weights)
    if isinstance(unit, ConvUnit):
        unit[1].running_mean -= constants  # type: ignore[operator]
    else:
        layer.bias += constants  # type: ignore[operator]


def _cut_outputs(unit: ConvUnit, kept: Tensor) -> None:
    convolution, normalization = unit[0], unit[1]
    assert isinstance(convolution, nn.Conv2d)
    assert isinstance(normalization, nn.BatchNorm2d)
    convolution.weight = nn.Parameter(convolution.weight.detach()[kept])
    convolution.out_channels = normalization.num_features = len(kept)
    for name, parameter in [*normalization.named_parameters()]:
        setattr(normalization, name, nn.Parameter(parameter.detach()[kept]))
    for name, buffer in [*normalization.named_buffers()]:
        if buffer.ndim:
            setattr(normalization, name, buffer[kept])


def left(network: LPRNet, source: LPRNet) -> Size:
    """What is left of `source` in `network`."""
    counts = [sum(trace(n, SIZE).multiply_adds().values()) for n in (network, source)]
    weights = [sum(parameter.numel() for parameter in n.parameters()) for n in (network, source)]
    return Size(multiply_adds=counts[0] / counts[1], parameters=weights[0] / weights[1])


def _within(size: Size, target: Size) -> bool:
    """Whether no more is left than `target` allows."""
    return size.multiply_adds <= target.multiply_adds and size.parameters <= target.parameters


def adapt(start: LPRNet, crops: Crops, source: LPRNet, target: Size) -> Iterator[tuple[Cut, LPRNet]]:
    """Cut channels of `start`, GRAIN at a time, until no more of `source` is left than `target` allows.

    The last cut may overshoot the target; then channels are restored where the target allows it and the loss falls.
    Yields each step with the network after it. The loss is that of CTC on `crops`: rendered plates that are used for
    neither training nor validation. Raises ValueError when nothing is left to cut.
    """
    moments = refit.moments(start, _layers(start), crops)

    def measured(unit: str, keep: Keep) -> tuple[Cut, Keep]:
        network = slim(start, keep, moments)
        return Cut(unit=unit, channels=len(keep[unit]), size=left(network, source), loss=_loss(network, crops)), keep

    keep: Keep = strongest(start, {})
    size, loss = left(start, source), _loss(start, crops)
    while not _within(size, target):
        possible = [measured(name, fewer) for name in keep if (fewer := _fewer(start, keep, name))]
        if not possible:
            raise ValueError(f"nothing is left to cut at {size}, and {target} was asked for")
        cut, keep = min(possible, key=lambda step: (step[0].loss - loss) / _saving(size, step[0].size, target))
        size, loss = cut.size, cut.loss
        yield cut, slim(start, keep, moments)
    while True:
        larger = [measured(name, more) for name in keep if (more := _more(start, keep, name))]
        helpful = [step for step in larger if _within(step[0].size, target) and step[0].loss < loss]
        if not helpful:
            return
        cut, keep = min(helpful, key=lambda step: step[0].loss)
        loss = cut.loss
        yield cut, slim(start, keep, moments)


def _fewer(start: LPRNet, keep: Keep, name: str) -> Keep | None:
    """`keep` without the weakest GRAIN channels of a unit; None where too few would be left."""
    weights = importance(units(slim(start, keep))[name])
    if len(weights) < 2 * GRAIN:
        return None
    return {**keep, name: keep[name][weights.topk(len(weights) - GRAIN).indices.sort().values]}


def _more(start: LPRNet, keep: Keep, name: str) -> Keep | None:
    """`keep` with the strongest GRAIN channels of a unit that were cut; None where all are left."""
    weights = importance(units(start)[name])
    weights[keep[name]] = -1.0
    if int((weights >= 0).sum()) < GRAIN:
        return None
    return {**keep, name: torch.cat([keep[name], weights.topk(GRAIN).indices]).sort().values}


def _saving(before: Size, after: Size, target: Size) -> float:
    """Share of multiply-adds that a cut saves above the target; once the target is met, share of weights.

    At least 1e-3. Counting both at once cut too much of the last layers, which have many weights and few multiply-adds,
    before the weights were above their target.
    """
    if before.multiply_adds > target.multiply_adds:
        return max(1e-3, before.multiply_adds - max(after.multiply_adds, target.multiply_adds))
    return max(1e-3, before.parameters - max(after.parameters, target.parameters))


@torch.inference_mode()
def _loss(network: LPRNet, crops: Crops) -> float:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = copy.deepcopy(network).to(device).eval()
    starts = range(0, len(crops.texts), 250)
    batches = [collate(crops.images[i : i + 250], crops.texts[i : i + 250]) for i in starts]
    losses = [float(ctc_loss(network(batch.crops.to(device)), batch)) * len(batch.lengths) for batch in batches]
    return sum(losses) / len(crops.texts)


@dataclass(frozen=True)
class PruneConfig:
    """Everything that decides a pruning, with the reason for each default."""

    multiply_adds: float = option(
        0.40, "share of multiply-adds that is left; TVM then takes half of the time, torch at batch 1 a little more"
    )
    parameters: float = option(0.45, "share of weights that is left; the file, graph included, is then less than half")
    rounds: int = option(2, "rounds of cutting and training; one alone loses more than training brings back")
    steps: int = option(600, "steps of training after each round but the last")
    last_steps: int = option(33000, "steps of training after the last round; a smaller network learns more slowly")
    learning_rate: float = option(6e-3, "Muon's, the baseline's own: half of it was slower")
    drill: float = option(
        0.0, "share of plates with Chinese characters only; without any, a network of 36 countries forgets provinces"
    )
    replays: int = option(0, "earlier plates trained on again beside each new one, as in train")
    batch_size: int = option(128, "new plates of a batch; replays come on top")
    plates: int = option(600, "rendered plates that the search measures its loss on; its time is in proportion")


def prune_network(
    folder: Path, source: LPRNet, config: PruneConfig, crops: Crops, teacher: LPRNet | None = None, **training: Any
) -> tuple[LPRNet, list[Cut]]:
    """Cut and train in rounds, or resume the pruning in `folder`; returns the network and all cuts.

    It is distilled from `teacher`, else from `source`. `training` are more fields of TrainConfig. Writes
    `folder`/round-N/cut.pt (the network as cut) beside the training's own files. Raises ValueError when the folder
    holds a pruning of another configuration.
    """
    network, cuts = source, []
    for number in range(1, config.rounds + 1):
        place = folder / f"round-{number}"
        share = number / config.rounds
        target = Size(multiply_adds=config.multiply_adds**share, parameters=config.parameters**share)
        made = _cut_round(place / "cut.pt", network, crops, source, target)
        cuts += made[1]
        steps = config.last_steps if number == config.rounds else config.steps
        settings = TrainConfig(
            steps=steps,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            warmup=100,
            decay=0.9,  # long: a network that starts with good weights gains most while the rate falls
            dropout=0.0,  # few channels are left; training 300 steps without dropout gained half a point
            drill=config.drill,
            replays=config.replays,
            seed=10 + number,
        )
        network = train(place, replace(settings, **training), initial=made[0], teacher=teacher or source)
    return network, cuts


def _cut_round(path: Path, network: LPRNet, crops: Crops, source: LPRNet, target: Size) -> tuple[LPRNet, list[Cut]]:
    """Cut to `target`. The result of an earlier run at `path` is used if it had the same aim."""
    aim = target.model_dump()
    if path.exists():
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if saved["target"] != aim:
            raise ValueError(f"{path} was cut to {saved['target']}, not to {aim}: give another --out")
        network = LPRNet.configured(network.classify.out_channels, saved["network"])
        network.load_state_dict(saved["weights"])
        return network, [Cut.model_validate(cut) for cut in saved["cuts"]]
    cuts = []
    progress = tqdm(adapt(network, crops, source, target), desc=f"cut to {target.multiply_adds:.0%}", unit="cut")
    for cut, smaller in progress:
        network = smaller
        cuts.append(cut)
        progress.set_postfix_str(f"{cut.unit} {cut.channels}, loss {cut.loss:.3f}")
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(
        {
            "target": aim,
            "network": network.configuration(),
            "weights": network.state_dict(),
            "cuts": [cut.model_dump() for cut in cuts],
        },
        path,
    )
    return network, cuts


RECIPE = 0.35  # the share of weights that the published recipe cuts


def study(folder: Path, network: LPRNet, crops: Crops, steps: int, **training: Any) -> dict[str, Any]:
    """Measure pruning by magnitude alone: the sensitivity of every layer, and the four rows of the published recipe.

    The recipe is trained on for `steps` with its zeros held, in `folder`. Accuracies are exact matches on `crops`.
    """
    layers = len(weighted(network))
    curves = dict(tqdm(sensitivity(network, crops), total=layers, desc="sensitivity", unit="layer"))
    rows = []
    scopes: tuple[Literal["layer", "global"], ...] = ("layer", "global")
    for scope in scopes:
        pruned = magnitude(network, RECIPE, scope)
        settings = TrainConfig(steps=steps, learning_rate=1e-3, warmup=50, decay=0.5, seed=20)
        trained = train(folder / scope, replace(settings, **training), initial=pruned, hold=holder(pruned))
        rows += [_row(pruned, scope, 0, crops), _row(trained, scope, steps, crops)]
    return {
        "plates": len(crops.texts),
        "unpruned": exact_match(network, crops),
        "ratios": list(RATIOS),
        "sensitivity": curves,
        "recipe": rows,
    }


def stored(network: LPRNet) -> dict[str, int]:
    """Bytes of the network's weights in float32, as they are and compressed by zlib."""
    weights = torch.cat([tensor.flatten() for tensor in network.state_dict().values() if tensor.is_floating_point()])
    return {"bytes": weights.numel() * 4, "compressed_bytes": len(zlib.compress(weights.numpy().tobytes(), 9))}


def _row(network: LPRNet, scope: str, steps: int, crops: Crops) -> dict[str, Any]:
    return {
        "scope": scope,
        "ratio": RECIPE,
        "fine_tuning_steps": steps,
        "accuracy": exact_match(network, crops),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "nonzero": sum(int((parameter != 0).sum()) for parameter in network.parameters()),
        **stored(network),
    }
