"""The optimiser of rl-tune: Adam with one scale for all numbers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rsgen.rl.optimizer import OneScale, make_optimizer
from rsgen.settings import RlTuneConfig


def _walk(
    optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], rows: torch.Tensor
) -> torch.Tensor:
    """Where each row of gradients leads to."""
    found = []
    for row in rows:
        for parameter, gradient in zip(parameters, row, strict=True):
            parameter.grad = gradient.reshape(parameter.shape).clone()
        optimizer.step()
        found.append(torch.cat([p.detach().flatten().clone() for p in parameters]))
    return torch.stack(found)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_of_one_number_it_is_adam(decay: float) -> None:
    """Catches a bias correction that is left out, and a decay that the rate does not scale."""
    rows = torch.randn(7, 1, generator=torch.Generator().manual_seed(0))
    ours, theirs = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    found = _walk(OneScale([ours], 0.1, weight_decay=decay), [ours], rows)
    oracle = torch.optim.AdamW([theirs], lr=0.1, betas=(0.9, 0.99), eps=0, weight_decay=decay)
    torch.testing.assert_close(found, _walk(oracle, [theirs], rows))


def test_numbers_move_as_their_gradients_and_by_the_rate_on_the_whole() -> None:
    """Catches a scale of each tensor, or of each number, and a rate that depends on the count."""
    small, large = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2, 3))
    optimizer = OneScale([small, large], 0.01)
    small.grad = torch.tensor([1e-4, 0.0])
    large.grad = torch.arange(6.0).reshape(2, 3)
    optimizer.step()
    moved = torch.cat([small.detach(), large.detach().flatten()])
    gradient = torch.cat([small.grad, large.grad.flatten()])
    assert moved[1] == 0 and moved[0] != 0
    torch.testing.assert_close(moved / moved[-1], gradient / gradient[-1])
    assert float(moved.square().mean().sqrt()) == pytest.approx(0.01)
    assert float(moved[-1]) < 0


def test_no_gradient_is_no_step() -> None:
    """Catches 0 / 0 in an epoch whose rewards are all alike."""
    weights = nn.Parameter(torch.ones(3))
    optimizer = OneScale([weights], 0.01)
    for gradient in (torch.zeros(3), torch.tensor([0.0, 1.0, 0.0]), torch.zeros(3)):
        weights.grad = gradient
        optimizer.step()
    assert torch.isfinite(weights).all() and weights.tolist()[::2] == [1.0, 1.0]


def test_settings_choose() -> None:
    weights = [nn.Parameter(torch.ones(2))]
    ours = make_optimizer(RlTuneConfig(weight_decay=0.5), weights, 0.1)
    assert isinstance(ours, OneScale) and ours.defaults["weight_decay"] == 0.5
    theirs = make_optimizer(RlTuneConfig(optimizer="adamw"), weights, 0.1)
    assert isinstance(theirs, torch.optim.AdamW) and theirs.defaults["lr"] == 0.1
