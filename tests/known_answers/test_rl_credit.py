"""Credit by place: tables by hand, the image's objective out of its places, and its variance."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from rsgen.errors import DataError, UsageError
from rsgen.models.process import Gaussian
from rsgen.rl.advantages import Baseline, flat_groups, group_advantages
from rsgen.rl.objective import (
    Ratio,
    clip_range,
    clipped,
    place_clip,
    place_ratios,
    ratio_of,
    surrogate,
)

MODES: tuple[Ratio, ...] = ("center", "plain", "norm")
SHAPE = (3, 4, 2, 5)  # N C h w: no two alike


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


# ---------------------------------------------------------------- advantages

# five images of two layouts, in no order; 1 x 2 places, of which one layout's second is flat
GROUPS = np.array([7, 2, 7, 2, 7])
TABLE = np.array([[6.0, 1.0], [1.0, 3.0], [2.0, 1.0], [5.0, -1.0], [1.0, 1.0]])[:, None]
BY_HAND: dict[Baseline, npt.NDArray[np.float64]] = {
    "group": np.array([[3, 0], [-2, 2], [-1, 0], [2, -2], [-2, 0]], dtype=np.float64),
    # 6 less (2 + 1) / 2, 1 less (6 + 2) / 2 and so on
    "leave-one-out": np.array([[4.5, 0], [-4, 4], [-1.5, 0], [4, -4], [-3, 0]], dtype=np.float64),
}


@pytest.mark.parametrize("baseline", ["group", "leave-one-out"])
def test_each_place_is_compared_with_the_same_place_of_the_others(baseline: Baseline) -> None:
    """Catches a baseline over places, over other layouts, or a deviation of each place."""
    expected = BY_HAND[baseline][:, None]
    found = group_advantages(TABLE, GROUPS, baseline, clip=math.inf)
    assert found.shape == TABLE.shape
    # no mean is left in it, so the deviation is the root of the mean square of all ten
    np.testing.assert_allclose(found, expected / math.sqrt((expected**2).mean()), atol=1e-12)
    assert flat_groups(TABLE, GROUPS).tolist() == [[[False, False]], [[False, True]]]


@pytest.mark.parametrize("baseline", ["group", "leave-one-out"])
def test_places_by_a_loop(baseline: Baseline) -> None:
    """Catches places that are mixed up on a grid with unlike sides."""
    rng = np.random.default_rng(0)
    groups = rng.permutation(np.repeat([0, 1, 2], [2, 3, 4]))
    rewards = rng.normal(size=(9, 3, 2))
    differences = np.zeros_like(rewards)
    for n, y, x in np.ndindex(*rewards.shape):
        others = [m for m in range(9) if groups[m] == groups[n]]
        if baseline == "leave-one-out":
            others.remove(n)
        differences[n, y, x] = rewards[n, y, x] - np.mean([rewards[m, y, x] for m in others])
    expected = np.clip(differences / differences.std(), -1.5, 1.5)
    found = group_advantages(rewards, groups, baseline, clip=1.5)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert np.abs(found).max() == 1.5


def test_a_single_place_is_the_image() -> None:
    """Catches another rule for places than for images."""
    image = np.random.default_rng(1).normal(size=12)
    groups = np.repeat([0, 1, 2], 4)
    place = group_advantages(image[:, None, None], groups)
    np.testing.assert_array_equal(place[:, 0, 0], group_advantages(image, groups))


def test_places_that_teach_nothing() -> None:
    """Catches rounding that is blown up to advantages, and numbers that are none in one place."""
    same = np.broadcast_to(np.random.default_rng(2).normal(size=(3, 3)) / 3, (6, 3, 3))
    groups = np.repeat([0, 1], 3)
    assert not group_advantages(np.array(same), groups, floor=1e-300).any()
    with pytest.raises(DataError, match="not finite"):
        group_advantages(np.where(np.eye(3, dtype=bool), np.nan, same), groups)


# ---------------------------------------------------------------- ratios


def a_step(std: float | Sequence[float]) -> tuple[Gaussian, Tensor, Tensor, Tensor]:
    """Now, the old mean, the action and its old log-probability."""
    spread = torch.tensor(std, dtype=torch.float64)
    if spread.ndim:
        spread = spread.reshape(-1, 1, 1, 1)
    old = Gaussian(random(*SHAPE), spread)
    action = old.sample(random(*SHAPE, seed=1))
    now = Gaussian(old.mean + 0.3 * spread * random(*SHAPE, seed=2), spread)
    return now, old.mean, action, old.log_prob(action)


@pytest.mark.parametrize("std", [0.4, [0.2, 0.9, 1.7]], ids=["one std", "one a sample"])
@pytest.mark.parametrize("mode", MODES)
def test_places_multiply_to_the_image(mode: Ratio, std: float | list[float]) -> None:
    """Catches a term of the ratio that is left out, or counted for each place."""
    now, old_mean, action, old_log_prob = a_step(std)
    places = place_ratios(now, old_mean, action, mode)
    assert places.shape == (3, 2, 5)
    image = ratio_of(now, old_mean, action, old_log_prob, mode)
    torch.testing.assert_close(places.log().mean(dim=(1, 2)), image.log(), rtol=1e-6, atol=1e-9)
    product = places.prod(dim=2).prod(dim=1) ** (1 / 10)
    torch.testing.assert_close(product, image, rtol=1e-6, atol=1e-9)
    assert float(places.log().std()) > 0.03  # they are told apart


@pytest.mark.parametrize("mode", MODES)
def test_a_place_moves_its_own_ratio_alone(mode: Ratio) -> None:
    """Catches rows for columns, and a mean that reaches over places."""
    _, old_mean, action, _ = a_step(0.4)
    mean = old_mean.clone()
    mean[1, :, 0, 3] += 0.1
    ratio = place_ratios(Gaussian(mean, torch.tensor(0.4)), old_mean, action, mode)
    assert torch.nonzero(ratio != 1).tolist() == [[1, 0, 3]]
    # channels are a mean: log N now less log N then, worked out for that place
    noise = (action[1, :, 0, 3] - old_mean[1, :, 0, 3]) / 0.4
    moved = 0.1 / 0.4
    change = float((noise * moved).mean()) - (0.5 * moved**2 if mode == "plain" else 0.0)
    expected = change * (0.4 if mode == "norm" else 1.0)
    assert float(ratio[1, 0, 3].log()) == pytest.approx(expected, rel=1e-6)


# ---------------------------------------------------------------- gradients


def slope(advantages: Tensor, clip: float, mode: Ratio, shift: Tensor | float = 0.0) -> Tensor:
    """Of the mean loss by the mean now, [N, C, h, w], of images [N] or their places [N, h, w]."""
    _, old_mean, action, old_log_prob = a_step([0.2, 0.9, 1.7])
    std = torch.tensor([0.2, 0.9, 1.7], dtype=torch.float64).reshape(-1, 1, 1, 1)
    mean = (old_mean + shift).requires_grad_()
    now = Gaussian(mean, std)
    if advantages.ndim == 1:
        ratio = ratio_of(now, old_mean, action, old_log_prob, mode)
    else:
        ratio = place_ratios(now, old_mean, action, mode)
    torch.autograd.backward(surrogate(ratio, advantages, clip).mean())
    assert mean.grad is not None
    return mean.grad


@pytest.mark.parametrize("mode", MODES)
def test_one_advantage_in_all_places_teaches_what_the_image_does(mode: Ratio) -> None:
    """Catches a sum over places, which would need another rate for each size of image."""
    advantages = torch.tensor([1.5, -0.7, 0.2], dtype=torch.float64)
    image = slope(advantages, 1e-3, mode)
    places = slope(advantages[:, None, None].expand(-1, 2, 5), 1e-3, mode)
    assert float(image.abs().min()) > 0
    torch.testing.assert_close(places, image, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_a_place_without_an_advantage_learns_nothing(mode: Ratio) -> None:
    """Catches advantages that leak to other places, or lie the other way round."""
    advantages = torch.zeros(3, 2, 5, dtype=torch.float64)
    advantages[0, 1, 4], advantages[2, 0, 1] = 1.0, -2.0
    found = slope(advantages, 1e-3, mode)
    taught = (found != 0).all(dim=1)
    assert torch.equal(taught, (found != 0).any(dim=1))
    assert torch.nonzero(taught).tolist() == [[0, 1, 4], [2, 0, 1]]


# ---------------------------------------------------------------- the clip


@pytest.mark.parametrize(
    ("nats", "shape", "clip"),
    [
        # DDPO's 1e-4 at 512 px of Stable Diffusion: 1.6384 nats, 64 places a side, 4 channels
        pytest.param(1.6384, (4, 64, 64), 1.6384 / 64 / 4, id="512 px of Stable Diffusion"),
        pytest.param(2.0, (3, 1, 1), 2 / 3, id="one place: the image's"),
        pytest.param(6.0, (1, 2, 18), 1.0, id="unlike sides"),
    ],
)
def test_the_clip_of_a_place(nats: float, shape: tuple[int, int, int], clip: float) -> None:
    """Catches bounds of places that together are the image's times their number, or its part."""
    found = place_clip(nats, shape)
    assert found == pytest.approx(clip, rel=1e-12)
    channels, height, width = shape
    # each at its bound by an independent sign: the image's log-ratio has the deviation `nats`
    assert channels * found * math.sqrt(height * width) == pytest.approx(nats)
    ratio = found / clip_range(nats, channels * height * width)
    assert ratio == pytest.approx(math.sqrt(height * width))


@pytest.mark.parametrize("nats", [0.0, -1.0])
def test_a_clip_of_nothing_is_refused(nats: float) -> None:
    with pytest.raises(UsageError, match="must be positive"):
        place_clip(nats, (4, 8, 8))


@pytest.mark.parametrize(
    ("sign", "advantage", "taught", "shares"),
    [
        pytest.param(1, 1.0, False, (0.1 / 3, 0.0), id="good, likelier already"),
        pytest.param(1, -1.0, True, (0.0, 0.0), id="bad, but likelier"),
        pytest.param(-1, -1.0, False, (0.0, 0.1 / 3), id="bad, less likely already"),
        pytest.param(-1, 1.0, True, (0.0, 0.0), id="good, but less likely"),
    ],
)
@pytest.mark.parametrize("mode", MODES)
def test_the_clip_stops_a_place_and_no_other(
    mode: Ratio, sign: int, advantage: float, taught: bool, shares: tuple[float, float]
) -> None:
    """Catches a bound on the image's ratio, which one place that went far does not reach."""
    _, old_mean, action, _ = a_step([0.2, 0.9, 1.7])
    shift = torch.zeros(SHAPE, dtype=torch.float64)
    toward = (action - old_mean)[1, :, 1, 2]
    shift[1, :, 1, 2] = sign * 0.5 * toward  # half the way to the action, or away from it
    std = torch.tensor([0.2, 0.9, 1.7], dtype=torch.float64).reshape(-1, 1, 1, 1)
    now, clip = Gaussian(old_mean + shift, std), place_clip(0.05, (4, 2, 5))
    ratio = place_ratios(now, old_mean, action, mode)
    beyond = (ratio - 1).abs() > clip
    assert torch.nonzero(beyond).tolist() == [[1, 1, 2]]
    advantages = torch.full((3, 2, 5), advantage, dtype=torch.float64)
    assert clipped(ratio, advantages, clip) == pytest.approx(shares)
    gradient = slope(advantages, clip, mode, shift)
    stopped = (gradient == 0).all(dim=1)
    assert torch.nonzero(stopped).tolist() == ([] if taught else [[1, 1, 2]])


# ---------------------------------------------------------------- what it is for

PLACES, IMAGES, DRAWS = (4, 4), 8, 4000
WEIGHT = 10.0  # over any deviation here: `floor`, so that all divide by the same


def gradients(*, by_place: bool) -> Tensor:
    """[DRAWS, h, w]: of 16 means of a policy N(mean, 1), each paid by what is drawn in its place.

    A draw is a group of eight images of one layout. Steepest ascent of the expected reward is 1
    in every place, as the reward of a place is the number drawn there.
    """
    mean = torch.zeros(DRAWS, 1, *PLACES, dtype=torch.float64, requires_grad=True)
    now = Gaussian(mean.repeat_interleave(IMAGES, dim=0), torch.ones((), dtype=torch.float64))
    with torch.no_grad():
        old = Gaussian(now.mean.detach().clone(), now.std)
        action = old.sample(random(DRAWS * IMAGES, 1, *PLACES, seed=5))
    worth = action[:, 0].numpy()
    groups = np.repeat(np.arange(DRAWS), IMAGES)
    rewards = worth if by_place else worth.sum(axis=(1, 2))
    values = group_advantages(rewards, groups, floor=WEIGHT, clip=math.inf)
    if by_place:
        ratio = place_ratios(now, old.mean, action)
    else:
        ratio = ratio_of(now, old.mean, action, old.log_prob(action))
    loss = surrogate(ratio, torch.from_numpy(values), 1e-3).mean()
    torch.autograd.backward(loss)
    assert mean.grad is not None
    # undone: the mean over all draws and over the places, the weight, and the sign of a loss
    return -mean.grad[:, 0] * WEIGHT * DRAWS * math.prod(PLACES)


def test_credit_by_object_has_the_same_mean_and_an_eighth_of_the_variance() -> None:
    """Catches credit that is biased, and credit that keeps the luck of the other places.

    Of n images, leave-one-out gives a place the sample variance of its own numbers: mean 1,
    variance 2 / (n - 1). Credit by image adds their sample covariances with each of the P - 1
    others: mean 0, variance 1 / (n - 1). So (P + 1) / 2 = 8.5 times the variance.
    """
    image, places = gradients(by_place=False), gradients(by_place=True)
    # their means are known to sqrt(17 / 7 / 64000) = .006 and .002
    assert float(image.mean()) == pytest.approx(1, abs=0.03)
    assert float(places.mean()) == pytest.approx(1, abs=0.01)
    assert float(places.var()) == pytest.approx(2 / 7, rel=0.05)
    assert float(image.var()) == pytest.approx(17 / 7, rel=0.05)
    assert float(image.var() / places.var()) == pytest.approx(8.5, rel=0.07)


def test_the_clip_is_in_deviations_of_places_with_objects() -> None:
    """Catches empty ground in the deviation, which makes advantages the mere sign of a reward.

    One cell of a hundred differs, by -1 or 1 in each of 64 groups of two: its deviation is 1, that
    of all cells 0.1, so the whitened value is 10; a clip of 5 would halve it, 5 / sqrt(0.01) not.
    """
    rewards = np.zeros((128, 10, 10))
    rewards[:, 3, 4] = np.tile([0.5, -0.5], 64)
    found = group_advantages(rewards, np.repeat(np.arange(64), 2))
    np.testing.assert_allclose(np.abs(found[:, 3, 4]), 10.0)
    assert np.count_nonzero(found) == 128
