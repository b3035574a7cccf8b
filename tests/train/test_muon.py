"""The optimizer: its updates are orthogonal, of AdamW's size, and it goes on from a saved state."""

import copy

import pytest
import torch

from model_builder.train.muon import Muon, orthogonalize


@pytest.mark.parametrize("shape", [(32, 45), (128, 1152), (96, 24), (1, 7)])
def test_orthogonalized_singular_values_are_near_one(shape):
    torch.manual_seed(1)
    skewed = torch.randn(shape) * torch.linspace(0.05, 1, shape[1])
    values = torch.linalg.svdvals(orthogonalize(skewed))
    assert values.min() > 0.6
    assert values.max() < 1.25


def test_orthogonalizing_keeps_the_singular_vectors():
    torch.manual_seed(2)
    left, right = torch.linalg.qr(torch.randn(8, 8))[0], torch.linalg.qr(torch.randn(20, 8))[0]
    matrix = left @ torch.diag(torch.linspace(1, 3, 8)) @ right.T
    turned = left.T @ orthogonalize(matrix) @ right
    torch.testing.assert_close(turned, torch.diag(turned.diag()), atol=1e-4, rtol=0)


def test_a_gradient_of_zeros_moves_nothing_but_the_decay():
    weight = torch.nn.Parameter(torch.ones(4, 3, 3, 3))
    weight.grad = torch.zeros_like(weight)
    Muon([weight], lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(weight.data, torch.full_like(weight, 0.95))


def test_a_step_has_the_size_of_adamws():
    torch.manual_seed(3)
    weight = torch.nn.Parameter(torch.zeros(64, 32, 3, 3))
    weight.grad = torch.randn_like(weight)
    Muon([weight], lr=0.01, weight_decay=0).step()
    # sqrt(mean square) of an orthogonal 64x288 is 1 / sqrt(288); times 0.2 * sqrt(288) that is 0.2;
    # the singular values are 0.85 on average
    assert float(weight.detach().square().mean().sqrt()) == pytest.approx(0.17 * 0.01, rel=0.1)


def test_a_saved_state_goes_on_exactly():
    torch.manual_seed(4)
    weights = [torch.nn.Parameter(torch.randn(8, 4, 3, 3)) for _ in range(2)]
    weights[1].data.copy_(weights[0].data)
    first, second = (Muon([w], lr=0.01, weight_decay=0.1) for w in weights)
    for number in range(4):
        gradient = torch.randn(8, 4, 3, 3)
        for weight, optimizer in zip(weights, (first, second), strict=True):
            weight.grad = gradient.clone()
            optimizer.step()
        if number == 1:
            saved = copy.deepcopy(first.state_dict())
            second = Muon([weights[1]], lr=0.01, weight_decay=0.1)
            second.load_state_dict(saved)
    assert torch.equal(weights[0], weights[1])


def test_a_weight_without_gradient_is_left_alone():
    weight = torch.nn.Parameter(torch.ones(4, 3, 3, 3))
    Muon([weight], lr=0.1, weight_decay=0.5).step()
    assert torch.equal(weight, torch.ones(4, 3, 3, 3))
