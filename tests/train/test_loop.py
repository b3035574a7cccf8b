"""Training: it learns, goes on exactly where it stopped, and leaves nothing that slows the CPU."""

import csv
import itertools
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model_builder.networks.reader import LPRNet, Widths
from model_builder.train import data
from model_builder.train import loop as training
from model_builder.train.data import Batch, Crops, collate, validation_set
from model_builder.train.loop import (
    BLANK,
    TUTOR,
    Interrupted,
    TrainConfig,
    ctc_loss,
    exact_match,
    flush_denormals,
    load_network,
    train,
)
from model_builder.train.muon import Muon

TINY = Widths(8, (8,), (8, 8), (8,), 8, 8)
SHORT = TrainConfig(steps=6, batch_size=4, warmup=2, average=0.5, development=8, log_every=2, workers=0)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums in the same order each time; the flag for denormals as it was."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)


@pytest.fixture(scope="module")
def crops() -> Crops:
    """200 rendered plates."""
    return validation_set(200)


def tiny() -> LPRNet:
    torch.manual_seed(5)
    return LPRNet(BLANK + 1, TINY)


def loss_of(network: LPRNet, crops: Crops) -> float:
    with torch.inference_mode():
        batch = collate(crops.images, crops.texts)
        return float(ctc_loss(network.eval()(batch.crops), batch))


def log_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open(newline="") as lines:
        return list(csv.DictReader(lines))


def assert_same(a: LPRNet, b: LPRNet) -> None:
    for (name, expected), found in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(expected, found), name


def stopping(batches: Iterator[Batch], after: int) -> Iterator[Batch]:
    """The user presses Ctrl-C when so many batches were drawn."""
    yield from itertools.islice(batches, after)
    signal.raise_signal(signal.SIGINT)
    yield from batches


class StoppingCrops(Crops):
    """Crops during whose fourth batch the user presses Ctrl-C."""

    def batches(self, seed: int, batch_size: int, first_batch: int) -> Iterator[Batch]:
        return stopping(super().batches(seed, batch_size, first_batch), after=3)


@pytest.mark.slow
def test_training_on_200_rendered_plates_lowers_their_loss(crops, tmp_path):
    config = replace(SHORT, steps=20, batch_size=16, warmup=4, development=20, log_every=5)
    before = loss_of(tiny(), crops)
    network = train(tmp_path, config, own=crops, initial=tiny())
    assert loss_of(network, crops) < 0.6 * before
    assert not network.training
    log = log_of(tmp_path)
    assert [int(line["step"]) for line in log] == [5, 10, 15, 20]
    assert float(log[-1]["loss"]) < float(log[0]["loss"])
    assert all(0 <= float(line["rendered_accuracy"]) <= 1 for line in log)


def test_accuracy_is_logged_on_plates_that_no_gate_looks_at(crops, tmp_path, monkeypatch):
    asked: list[int] = []

    def remembered(count: int) -> Crops:
        asked.append(count)
        return data.development_set(count)

    monkeypatch.setattr(training, "development_set", remembered)
    monkeypatch.setattr(data, "VALIDATION_SEED", None)  # drawing from it would fail
    train(tmp_path, SHORT, own=crops, initial=tiny())
    assert asked == [SHORT.development]


def test_training_goes_on_exactly_where_ctrl_c_stopped_it(crops, tmp_path):
    at_once = train(tmp_path / "at once", SHORT, own=crops, initial=tiny())
    with pytest.raises(Interrupted, match=r"stopped at step 3; .*checkpoint\.pt"):
        train(tmp_path / "in two", SHORT, own=StoppingCrops(crops.images, crops.texts), initial=tiny())
    assert (tmp_path / "in two" / "checkpoint.pt").is_file()
    torch.manual_seed(99)  # another process would not have this one's state
    assert_same(at_once, train(tmp_path / "in two", SHORT, own=crops, initial=tiny()))
    steps = [[line["step"] for line in log_of(tmp_path / name)] for name in ("at once", "in two")]
    assert steps == [["2", "4", "6"], ["2", "4", "6"]]
    losses = [[float(line["loss"]) for line in log_of(tmp_path / name)] for name in ("at once", "in two")]
    assert losses[1] == pytest.approx(losses[0], rel=0.3)  # the mean at step 4 is of one step only, after resuming


def test_a_part_of_the_weights_that_it_started_from_may_be_kept(crops, tmp_path):
    at_once = train(tmp_path, SHORT, own=crops, initial=tiny())
    half = train(tmp_path, replace(SHORT, kept=0.25), own=crops, initial=tiny())  # resumed at its end
    begun = tiny().state_dict()
    for (name, expected), found in zip(at_once.state_dict().items(), half.state_dict().values(), strict=True):
        if expected.is_floating_point():
            torch.testing.assert_close(found, 0.75 * expected + 0.25 * begun[name])


def test_training_from_rendered_plates_alone_goes_on_exactly(tmp_path, monkeypatch):
    config = replace(SHORT, log_every=100)  # no checkpoint but that of the interruption
    at_once = train(tmp_path / "at once", config, initial=tiny())

    def interrupted(*args, **options):
        return stopping(data.rendered_batches(*args, **options), after=3)

    monkeypatch.setattr(training, "rendered_batches", interrupted)
    with pytest.raises(Interrupted):
        train(tmp_path / "in two", config, initial=tiny())
    monkeypatch.undo()
    assert (tmp_path / "in two" / "checkpoint.pt").is_file()
    assert_same(at_once, train(tmp_path / "in two", config, initial=tiny()))


@pytest.mark.parametrize("count", [1, 6])
def test_a_step_during_which_ctrl_c_is_pressed_is_taken_whole_and_once(crops, tmp_path, monkeypatch, count):
    """One that was taken in part, such as by one optimizer of two, would be taken again."""
    at_once = train(tmp_path / "at once", SHORT, own=crops, initial=tiny())
    step, taken = Muon.step, itertools.count(1)

    def pressed(*args: object) -> object:
        if next(taken) == count:
            signal.raise_signal(signal.SIGINT)
        return step(*args)

    monkeypatch.setattr(Muon, "step", pressed)
    with pytest.raises(Interrupted, match=f"stopped at step {count}"):
        train(tmp_path / "in two", SHORT, own=crops, initial=tiny())
    assert_same(at_once, train(tmp_path / "in two", SHORT, own=crops, initial=tiny()))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_ctrl_c_does_not_wait_and_what_was_saved_stays(crops, tmp_path, monkeypatch):
    def hang(*_: object) -> object:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("the second one interrupts")

    train(tmp_path, replace(SHORT, steps=2), own=crops, initial=tiny())
    saved = (tmp_path / "checkpoint.pt").read_bytes()
    monkeypatch.setattr(Muon, "step", hang)
    with pytest.raises(Interrupted, match="stopped within a step"):
        train(tmp_path, SHORT, own=crops, initial=tiny())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert (tmp_path / "checkpoint.pt").read_bytes() == saved


def test_a_training_can_be_made_longer(crops, tmp_path):
    train(tmp_path, SHORT, own=crops, initial=tiny())
    train(tmp_path, replace(SHORT, steps=8, log_every=1), own=crops, initial=tiny())
    assert [line["step"] for line in log_of(tmp_path)] == ["2", "4", "6", "7", "8"]


def test_the_same_configuration_gives_the_same_network_and_another_seed_another(crops, tmp_path):
    config = replace(SHORT, steps=2)
    first = train(tmp_path / "1", config, own=crops, initial=tiny())
    assert_same(first, train(tmp_path / "2", config, own=crops, initial=tiny()))
    other = train(tmp_path / "3", replace(config, seed=2), own=crops, initial=tiny())
    assert not torch.equal(first.classify.weight, other.classify.weight)


def test_a_finished_training_is_not_repeated(crops, tmp_path):
    finished = train(tmp_path, SHORT, own=crops, initial=tiny())
    log = log_of(tmp_path)
    assert_same(finished, train(tmp_path, SHORT, own=crops, initial=tiny()))
    assert log_of(tmp_path) == log


def test_another_configuration_in_the_same_folder_is_refused(crops, tmp_path):
    train(tmp_path, replace(SHORT, steps=1), own=crops, initial=tiny())
    with pytest.raises(ValueError, match=r"checkpoint\.pt was made with another learning_rate, seed"):
        train(tmp_path, replace(SHORT, learning_rate=1e-4, seed=9), own=crops, initial=tiny())


def test_other_crops_in_the_same_folder_are_refused(crops, tmp_path):
    train(tmp_path, replace(SHORT, steps=1), own=crops, initial=tiny())
    with pytest.raises(ValueError, match=r"checkpoint\.pt was made with another crops"):
        train(tmp_path, SHORT, own=Crops(crops.images[1:], crops.texts[1:]), initial=tiny())


def test_training_starts_from_the_weights_and_the_widths_that_are_given(crops, tmp_path):
    initial = tiny()
    network = train(tmp_path, replace(SHORT, steps=1, learning_rate=1e-7), own=crops, initial=initial)
    assert network.widths == TINY
    torch.testing.assert_close(network.classify.weight, initial.classify.weight, atol=1e-5, rtol=0)


def test_a_tutor_learns_beside_the_network_and_goes_on_exactly(crops, tmp_path):
    config = replace(SHORT, tutor=2.0)
    at_once = train(tmp_path / "at once", config, own=crops, initial=tiny())
    with pytest.raises(Interrupted):
        train(tmp_path / "in two", config, own=StoppingCrops(crops.images, crops.texts), initial=tiny())
    assert_same(at_once, train(tmp_path / "in two", config, own=crops, initial=tiny()))
    tutor = load_network(tmp_path / "at once" / TUTOR)
    assert tutor.widths == Widths(16, (16,), (16, 16), (16,), 16, 16)
    alone = train(tmp_path / "alone", SHORT, own=crops, initial=tiny())
    assert not torch.equal(alone.classify.weight, at_once.classify.weight)


def test_what_is_no_saved_network_is_refused(tmp_path):
    (tmp_path / TUTOR).write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"is no network that a training saved"):
        load_network(tmp_path / TUTOR)


def test_replays_make_batches_larger(crops, tmp_path, monkeypatch):
    sizes: list[int] = []

    def counted(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        sizes.append(len(batch.lengths))
        assert len(logits) == len(batch.crops) == len(batch.lengths)
        return ctc_loss(logits, batch)

    monkeypatch.setattr(training, "ctc_loss", counted)
    train(tmp_path, replace(SHORT, steps=2, replays=3), own=crops, initial=tiny())
    assert sizes == [16, 16]


def test_the_loss_is_ctc_with_the_blank_last(crops):
    """On two steps and one character, the paths are enumerated: xx, x-blank and blank-x."""
    torch.manual_seed(0)
    logits = torch.randn(1, 2, BLANK + 1)
    batch = collate(crops.images[:1], ["京"])
    first, second = torch.nn.functional.softmax(logits.double()[0], 1)
    total = first[0] * second[0] + first[0] * second[BLANK] + first[BLANK] * second[0]
    assert float(ctc_loss(logits, batch)) == pytest.approx(-float(total.log()), rel=1e-5)


def test_exact_match_counts_whole_texts(crops):
    few = Crops(crops.images[:4], ["京A1", "京A1", "京AA1", "京A"])

    class Reader(torch.nn.Module):
        """Reads 京A1 whatever it sees."""

        def __init__(self) -> None:
            super().__init__()
            path = collate(crops.images[:1], ["京A1"]).targets.tolist()
            steps = [BLANK, path[0], path[0], BLANK, path[1], path[2], path[2], BLANK]
            self.logits = torch.nn.Parameter(torch.nn.functional.one_hot(torch.tensor(steps), BLANK + 1).float())

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.logits.expand(len(images), -1, -1)

    assert exact_match(Reader(), few) == 0.5


def denormals(network: torch.nn.Module) -> int:
    """Counted in the bits, because a CPU that flushes denormals sees none."""
    tensors = [tensor for tensor in network.state_dict().values() if tensor.is_floating_point()]
    bits = torch.cat([tensor.flatten().view(torch.int32) for tensor in tensors])
    return int(((bits & 0x7F800000 == 0) & (bits & 0x007FFFFF != 0)).sum())


def test_denormals_are_set_to_zero_and_nothing_else_is():
    network = tiny()
    smallest = torch.finfo(torch.float32).tiny
    odd = torch.tensor([1, 5000, -2147483647], dtype=torch.int32).view(torch.float32)  # by bits, past any flushing
    with torch.no_grad():
        network.classify.bias[:3] = odd
        network.stem[1].running_mean[:3] = odd
        network.classify.bias[3:5] = torch.tensor([smallest, -smallest])
    before = network.classify.weight.clone()
    assert denormals(network) == 6
    flush_denormals(network)
    assert denormals(network) == 0
    assert network.classify.bias[:5].tolist() == [0, 0, 0, smallest, -smallest]
    assert torch.equal(network.classify.weight, before)


def test_no_denormal_leaves_training(crops, tmp_path):
    initial = tiny()
    with torch.no_grad():
        initial.stem[1].running_mean.view(torch.int32).fill_(77)
        initial.classify.bias.view(torch.int32).fill_(77)
    assert denormals(initial) > 0
    assert denormals(train(tmp_path, replace(SHORT, steps=0), own=crops, initial=initial)) == 0
