"""Pruning: what is cut is really gone, and what is left computes what it computed."""

import copy

import pytest
import torch

from model_builder.compress import prune, refit
from model_builder.networks.reader import LPRNet, Widths
from model_builder.plates.kinds import ALPHABET
from model_builder.train.data import Crops, validation_set
from model_builder.train.loop import TrainConfig, train
from service.artifact.provenance import Size

CLASSES = len(ALPHABET) + 1
WIDTHS = Widths(32, (32,), (48, 32), (48, 32, 32), 32, 48)


@pytest.fixture(scope="module")
def crops() -> Crops:
    return validation_set(40)


@pytest.fixture(scope="module")
def network(crops: Crops) -> LPRNet:
    """A network whose batch normalization has seen plates, so that no two channels are alike."""
    torch.manual_seed(0)
    result = LPRNet(CLASSES, WIDTHS)
    with torch.no_grad():
        for module in result.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.5, 0.5)
                module.momentum = None
        result.train()(torch.from_numpy(crops.images))
    return result.eval()


def size(multiply_adds: float, parameters: float) -> Size:
    return Size(multiply_adds=multiply_adds, parameters=parameters)


def zeros(network: LPRNet) -> dict[str, float]:
    return {name: float((layer.weight == 0).float().mean()) for name, layer in prune.weighted(network).items()}


def test_layer_wise_magnitude_pruning_takes_its_share_of_each_layer(network):
    before = copy.deepcopy(network.state_dict())
    pruned = prune.magnitude(network, 0.35, "layer")
    assert zeros(pruned) == pytest.approx(dict.fromkeys(prune.weighted(network), 0.35), abs=0.01)
    assert pruned.state_dict().keys() == before.keys()  # permanent: no mask is left
    for name, layer in prune.weighted(pruned).items():
        kept, old = layer.weight[layer.weight != 0], prune.weighted(network)[name].weight
        assert kept.abs().min() >= old[layer.weight == 0].abs().max()
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_global_magnitude_pruning_takes_its_share_of_all(network):
    pruned = prune.magnitude(network, 0.35, "global")
    weights = torch.cat([layer.weight.flatten() for layer in prune.weighted(pruned).values()])
    assert float((weights == 0).float().mean()) == pytest.approx(0.35, abs=0.001)
    shares = zeros(pruned).values()
    assert max(shares) - min(shares) > 0.05


@pytest.mark.slow
def test_sensitivity_covers_every_layer_and_ratio(network, crops):
    curves = dict(prune.sensitivity(network, Crops(crops.images[:2], crops.texts[:2])))
    assert curves.keys() == prune.weighted(network).keys()
    assert all(len(curve) == 9 and all(0 <= accuracy <= 1 for accuracy in curve) for curve in curves.values())


@torch.inference_mode()
def test_surgery_equals_the_masked_network(network, crops):
    torch.manual_seed(1)
    images = torch.from_numpy(crops.images[:12])
    for _ in range(2):
        keep = {
            name: torch.randperm(len(unit[1].weight))[: torch.randint(3, len(unit[1].weight), ())].sort().values
            for name, unit in prune.units(network).items()
        }
        smaller = prune.slim(network, keep)
        assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in network.parameters())
        torch.testing.assert_close(smaller(images), prune.masked(network, keep)(images), atol=1e-5, rtol=1e-5)
        again = prune.slim(smaller, prune.strongest(smaller, {"block2.1": 2}))  # a pruned network can be cut again
        both = prune.masked(smaller, prune.strongest(smaller, {"block2.1": 2}))
        torch.testing.assert_close(again(images), both(images), atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_layers_that_read_cut_channels_are_fitted_to_what_they_computed(network, crops):
    images = torch.from_numpy(crops.images)
    moments = refit.moments(network, prune._layers(network), crops)
    keep = prune.strongest(network, {"stem": 24, "block2.0": 32, "block3.1": 16, "column": 16})
    cut = prune.slim(network, keep), prune.slim(network, keep, moments)
    wanted, plain, fitted = (each(images) for each in (network, *cut))
    assert (fitted - wanted).square().mean() < 0.5 * (plain - wanted).square().mean()


@torch.inference_mode()
def test_a_channel_that_others_tell_is_cut_without_a_loss(network, crops):
    images = torch.from_numpy(crops.images)
    copied = copy.deepcopy(network)
    for tensor in (copied.block2[0][0].weight, *copied.block2[0][1].state_dict().values()):
        if tensor.ndim:
            tensor[7] = tensor[3]
    moments = refit.moments(copied, prune._layers(copied), crops)
    keep = prune.strongest(copied, {}) | {"block2.0": torch.tensor([index for index in range(48) if index != 7])}
    cut = prune.slim(copied, keep), prune.slim(copied, keep, moments)
    wanted, plain, fitted = (each(images) for each in (copied, *cut))
    assert (fitted - wanted).square().mean() < 1e-3 * (plain - wanted).square().mean()


@torch.inference_mode()
def test_keeping_every_channel_changes_nothing(network, crops):
    images = torch.from_numpy(crops.images[:4])
    torch.testing.assert_close(prune.slim(network, prune.strongest(network, {}))(images), network(images))


def test_the_weakest_channels_go_first(network):
    unit = prune.units(network)["block1.0"]
    unit = copy.deepcopy(unit)
    changed = copy.deepcopy(network)
    with torch.no_grad():
        changed.block1[0][0].weight[5] = 0  # no filter
        changed.block1[0][1].weight[7] = 0  # no scale
    kept = prune.strongest(changed, {"block1.0": 30})["block1.0"].tolist()
    assert kept == [index for index in range(32) if index not in (5, 7)]


@pytest.mark.slow
def test_the_search_reaches_its_target_and_tells_each_cut(network, crops):
    target = size(0.5, 0.7)
    cuts = list(prune.adapt(network, crops, network, target))
    last, smallest = cuts[-1]
    assert prune._within(last.size, target)
    assert last.size == prune.left(smallest, network)
    for cut, result in cuts:
        assert cut.channels % prune.GRAIN == 0
        assert len(prune.importance(prune.units(result)[cut.unit])) == cut.channels
    reached = [prune._within(cut.size, target) for cut, _ in cuts].index(True)
    given_back = [cut for cut, _ in cuts[reached + 1 :]]
    assert all(prune._within(cut.size, target) for cut in given_back)
    losses = [cut.loss for cut, _ in cuts[reached:]]
    assert losses == sorted(losses, reverse=True)


def test_what_is_given_back_is_the_strongest_that_was_cut(network):
    everything = prune.strongest(network, {})
    assert prune._more(network, everything, "wide") is None
    fewer = prune._fewer(network, everything, "block3.1")
    assert len(everything["block3.1"]) - len(fewer["block3.1"]) == prune.GRAIN
    more = prune._more(network, fewer, "block3.1")
    assert all(torch.equal(more[name], everything[name]) for name in everything)


def test_a_saving_counts_only_what_is_too_much():
    before, target = size(0.8, 0.7), size(0.6, 0.65)
    assert prune._saving(before, size(0.7, 0.7), target) == pytest.approx(0.1)
    assert prune._saving(before, size(0.5, 0.6), target) == pytest.approx(0.2)
    assert prune._saving(before, size(0.8, 0.6), target) == 1e-3
    assert prune._saving(size(0.6, 0.7), size(0.5, 0.5), target) == pytest.approx(0.05)


def test_a_search_that_cannot_reach_its_target_says_so(crops):
    small = LPRNet(CLASSES, Widths(16, (16,), (16,), (16,), 16, 16))
    with pytest.raises(ValueError, match="nothing is left to cut"):
        list(prune.adapt(small, crops, small, size(0.1, 0.1)))


@pytest.mark.slow
def test_distillation_draws_the_student_to_its_teacher(network, crops, tmp_path):
    student = prune.slim(network, prune.strongest(network, {"block3.1": 16, "wide": 16}))
    config = TrainConfig(steps=12, batch_size=8, warmup=2, average=0.5, development=4, log_every=6, workers=0)
    images = torch.from_numpy(crops.images)

    def distance(candidate: LPRNet) -> float:
        with torch.inference_mode():
            logs = [torch.log_softmax(n.eval()(images), 2) for n in (candidate, network)]
            return float(torch.nn.functional.kl_div(*logs, log_target=True, reduction="batchmean"))

    taught = train(tmp_path / "taught", config, initial=student, teacher=network)
    alone = train(tmp_path / "alone", config, initial=student)
    assert distance(taught) < distance(alone)


def test_what_was_pruned_stays_zero_in_training(network, tmp_path):
    pruned = prune.magnitude(network, 0.35, "layer")
    config = TrainConfig(steps=2, batch_size=4, warmup=1, average=0.5, development=4, log_every=2, workers=0)
    trained = train(tmp_path, config, initial=pruned, hold=prune.holder(pruned))
    assert zeros(trained) == zeros(pruned)
    assert not torch.equal(trained.classify.weight, pruned.classify.weight)


def test_a_pruned_network_is_distilled_from_the_teacher_that_is_given(network, crops, tmp_path, monkeypatch):
    teachers: list[LPRNet] = []

    def trained(*_: object, initial: LPRNet, teacher: LPRNet) -> LPRNet:
        teachers.append(teacher)
        return initial

    monkeypatch.setattr(prune, "train", trained)
    config, other = prune.PruneConfig(0.9, 0.95, rounds=1), LPRNet(CLASSES)
    prune.prune_network(tmp_path, network, config, crops, other)
    prune.prune_network(tmp_path, network, config, crops)
    assert teachers == [other, network]


@pytest.mark.slow
def test_a_pruning_goes_on_where_it_was(network, crops, tmp_path):
    config = prune.PruneConfig(0.6, 0.7, rounds=2, steps=2, last_steps=2, batch_size=4)
    short = {"development": 4, "workers": 0}
    first, cuts = prune.prune_network(tmp_path, network, config, crops, **short)
    assert prune.left(first, network).multiply_adds <= 0.6
    again, same = prune.prune_network(tmp_path, network, config, crops, **short)
    assert same == cuts
    trained = torch.load(tmp_path / "round-2" / "checkpoint.pt", weights_only=True)
    assert trained["identity"]["batch_size"] == 4
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))
    with pytest.raises(ValueError, match=r"cut\.pt was cut to"):
        prune.prune_network(tmp_path, network, prune.PruneConfig(0.5, 0.7, rounds=2), crops, **short)
