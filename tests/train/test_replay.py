"""Replays: earlier crops come again, slightly changed, with their own texts."""

import itertools

import numpy as np
import torch

from model_builder.train.data import Crops, collate, encode, validation_set
from model_builder.train.replay import changed, relit, replayed

CPU = torch.device("cpu")


def texts_of(targets: torch.Tensor, lengths: torch.Tensor) -> list[list[int]]:
    return [part.tolist() for part in targets.split(lengths.tolist())]


def test_a_batch_has_earlier_crops_beside_its_own_each_with_its_text():
    crops = validation_set(12)
    shades = np.arange(12, dtype=np.uint8)[:, None, None, None] * 20  # a crop tells which it is, whatever its light
    known = Crops(np.broadcast_to(shades, crops.images.shape).copy(), crops.texts)
    parts = [slice(0, 4), slice(4, 8), slice(8, 12)]
    drawn = [collate(known.images[part], known.texts[part]) for part in parts]
    found = list(replayed(iter(drawn), 5, CPU, seed=1, steps=2))  # room for two batches: the third replaces the first
    for number, (batch, own) in enumerate(zip(found, drawn, strict=True)):
        assert len(batch.crops) == len(batch.lengths) == 24
        assert torch.equal(batch.crops[:4], own.crops)
        texts = texts_of(batch.targets, batch.lengths)
        earlier = known.texts[max(0, 4 * (number - 1)) : 4 * (number + 1)]
        assert texts[:4] == [encode(text) for text in known.texts[parts[number]]]
        assert all(text in [encode(one) for one in earlier] for text in texts[4:])
    assert len({tuple(text) for text in texts_of(found[1].targets, found[1].lengths)}) > 4


def test_changed_crops_are_like_the_crops_and_none_is_the_same():
    images = torch.from_numpy(validation_set(128).images)
    again = changed(images, torch.Generator().manual_seed(0))
    assert again.shape == images.shape
    assert again.dtype == torch.uint8
    assert (again != images).flatten(1).any(1).all()
    both = [x.float().flatten(1) for x in (images, again)]
    alike = torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(*both, strict=True)])
    assert alike.median() > 0.75


def test_the_same_seed_changes_alike():
    batches = [collate(validation_set(4).images, validation_set(4).texts)] * 2
    first, second = (list(replayed(iter(batches), 2, CPU, seed=3, steps=2)) for _ in range(2))
    for one, other in itertools.zip_longest(first, second):
        assert torch.equal(one.crops, other.crops)


def test_a_teacher_sees_each_crop_once_and_its_logits_stay_with_the_crop():
    images = np.repeat(np.arange(0, 240, 20, dtype=np.uint8), 24 * 94 * 3).reshape(12, 24, 94, 3)
    texts = [f"A{number:02}" for number in range(12)]
    drawn = [collate(images[start : start + 4], texts[start : start + 4]) for start in (0, 4, 8)]
    seen: list[torch.Tensor] = []

    def teacher(crops: torch.Tensor) -> torch.Tensor:
        seen.append(crops)
        return crops[:, 0, :5, :2].float()

    found = list(replayed(iter(drawn), 3, CPU, seed=1, steps=3, teacher=teacher))
    assert torch.equal(torch.cat(seen), torch.from_numpy(images))
    for batch in found:
        assert batch.taught is not None
        assert batch.taught.shape == (16, 5, 2)
        shades = batch.taught[:, 0, 0].tolist()
        assert texts_of(batch.targets, batch.lengths) == [encode(texts[int(shade) // 20]) for shade in shades]


def test_crops_in_other_light_are_not_moved():
    images = torch.zeros((32, 24, 94, 3), dtype=torch.uint8)
    images[:, 8:16, 40:50] = 200
    again = relit(images, torch.Generator().manual_seed(0)).float().mean(3)
    inner, outer = again[:, 9:15, 41:49].flatten(1).mean(1), again[:, :7, :38].flatten(1).mean(1)
    assert (inner - outer > 100).all()
    assert not torch.equal(again[0], again[1])
