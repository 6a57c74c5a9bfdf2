"""The sampling loop: noise, guidance, schedulers, held pixels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rsgen.condition import from_model
from rsgen.errors import DataError, UsageError
from rsgen.models.process import Gaussian
from rsgen.models.sampling import (
    Branches,
    Keep,
    SamplingSettings,
    draw_noise,
    draw_step_noise,
    plan_branches,
    sample,
)
from rsgen.models.schedulers import SCHEDULERS, make_scheduler
from rsgen.models.stable_diffusion import StableDiffusion
from tests.build_models import SIZE, card, small_model

SHAPE = (4, SIZE // 4, SIZE // 4)
SEEDS = (11, 2**62, 33, 44)


@pytest.fixture(scope="module")
def model() -> StableDiffusion:
    model = small_model()
    model.card = card()
    return model


def _condition(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return (torch.rand(count, 35, SIZE, SIZE, generator=generator) > 0.8).float()


@torch.no_grad()
def _sample(
    model: StableDiffusion,
    rows: slice = slice(0, 4),
    *,
    prompts: tuple[str, ...] = ("a plane", "a ship", "two ship on water", "a storage tank"),
    negative: str = "",
    condition: Tensor | None = None,
    keep: Keep | None = None,
    calls: list[Branches] | None = None,
    **settings: object,
) -> Tensor:
    noise = draw_noise(SEEDS, SHAPE)[rows]
    condition = _condition(4) if condition is None else condition
    values: dict[str, object] = {"steps": 4, "text_guidance": 3.0, **settings}
    return sample(
        model,
        noise=noise,
        text=model.encode_prompts(prompts[rows]),
        negative=model.encode_prompts([negative] * len(noise)),
        condition=condition[rows],
        settings=SamplingSettings(**values),  # type: ignore[arg-type]
        keep=keep,
        on_branches=None if calls is None else calls.append,
    )


def test_noise_depends_on_its_own_seed_alone() -> None:
    """Catches one generator for a batch: neighbours would change a sample."""
    together = draw_noise(SEEDS, SHAPE)
    assert together.dtype == torch.float32
    for k, seed in enumerate(SEEDS):
        assert torch.equal(together[k], draw_noise([seed], SHAPE)[0])
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize("scheduler", sorted(SCHEDULERS))
def test_batch_composition_changes_pixels_by_one_grey_level_at_most(
    scheduler: str, model: StableDiffusion
) -> None:
    """Catches state that leaks between the rows of a batch, in every scheduler."""
    with torch.no_grad():
        together = from_model(model.decode_latents(_sample(model, scheduler=scheduler)))
        for k in range(4):
            alone = _sample(model, slice(k, k + 1), scheduler=scheduler)
            picture = from_model(model.decode_latents(alone))[0]
            difference = abs(picture.astype(int) - together[k].astype(int))
            assert difference.max() <= 1


def test_the_same_call_twice_is_bit_equal(model: StableDiffusion) -> None:
    assert torch.equal(_sample(model), _sample(model))


def test_every_scheduler_ends_in_its_own_finite_place(model: StableDiffusion) -> None:
    """Catches a name that maps to another scheduler, and a division by the last level."""
    results = {name: _sample(model, scheduler=name, steps=6) for name in SCHEDULERS}
    for name, latents in results.items():
        assert torch.isfinite(latents).all(), name
    names = sorted(results)
    for k, first in enumerate(names):
        for second in names[k + 1 :]:
            # DDIM without noise and Euler solve the same equation in different variables.
            same = {first, second} == {"ddim", "euler"}
            close = torch.allclose(results[first], results[second], atol=1e-4)
            assert same or not close, (first, second)


def test_an_unknown_scheduler_lists_the_known(model: StableDiffusion) -> None:
    with pytest.raises(UsageError, match="dpm"):
        make_scheduler("magic", model.scheduler_config)


# ---------------------------------------------------------------- guidance

TEXT = torch.arange(2.0)[:, None, None].expand(2, 3, 4)  # rows 0 and 1 differ
SAME = torch.zeros(2, 3, 4)


@pytest.mark.parametrize(
    ("negative", "condition", "guidance", "calls", "full"),
    [
        pytest.param(SAME - 1, torch.ones(2, 1, 4, 4), (1.0, 1.0), 2, 2, id="no guidance"),
        pytest.param(SAME - 1, torch.ones(2, 1, 4, 4), (3.0, 1.0), 4, 4, id="text"),
        pytest.param(SAME - 1, torch.ones(2, 1, 4, 4), (3.0, 2.0), 6, 6, id="text and layout"),
        pytest.param(SAME - 1, torch.ones(2, 1, 4, 4), (2.0, 2.0), 4, 4, id="equal weights"),
        pytest.param(SAME, torch.ones(2, 1, 4, 4), (3.0, 1.0), 3, 4, id="row 0: equal prompts"),
        pytest.param(SAME - 1, torch.zeros(2, 1, 4, 4), (3.0, 2.0), 4, 6, id="empty layouts"),
        pytest.param(SAME - 1, None, (3.0, 2.0), 4, 6, id="a model without layouts"),
    ],
)
def test_equal_branches_are_joined(
    negative: Tensor,
    condition: Tensor | None,
    guidance: tuple[float, float],
    calls: int,
    full: int,
) -> None:
    """Catches calls that are made twice, and weights that no longer add up to one."""
    branches = plan_branches(TEXT, negative, condition, *guidance, empty_equals_bare=True)
    assert (len(branches), branches.full) == (calls, full)
    totals = torch.zeros(2).index_add_(0, branches.rows, branches.weights)
    torch.testing.assert_close(totals, torch.ones(2))


def test_half_the_calls_give_the_full_result(model: StableDiffusion) -> None:
    """Equal prompts: one branch instead of two, within 1e-5 of the call of both."""
    calls: list[Branches] = []
    prompts = ("", "", "", "")
    joined = _sample(model, prompts=prompts, calls=calls)
    assert (len(calls[0]), calls[0].full) == (4, 8)
    # A negative prompt that differs by nothing the encoder sees keeps both branches.
    full = _full_guidance(model, prompts)
    torch.testing.assert_close(joined, full, atol=1e-5, rtol=0)


@torch.no_grad()
def _full_guidance(model: StableDiffusion, prompts: tuple[str, ...]) -> Tensor:
    """Classifier-free guidance written out: two calls a step, whatever the prompts are."""
    scheduler = make_scheduler("ddim", model.scheduler_config)
    scheduler.set_timesteps(4)
    latents, condition = draw_noise(SEEDS, SHAPE), _condition(4)
    text, negative = model.encode_prompts(prompts), model.encode_prompts([""] * 4)
    for timestep in scheduler.timesteps:
        steps = timestep.expand(8)
        both, states = torch.cat([latents, latents]), torch.cat([negative, text])
        residuals = model.control(both, steps, states, torch.cat([condition, condition]))
        low, high = model.predict(both, steps, states, residuals).chunk(2)
        latents = scheduler.step(low + 3.0 * (high - low), timestep, latents).prev_sample
    return latents


def test_text_guidance_is_classifier_free_guidance(model: StableDiffusion) -> None:
    prompts = ("a plane", "a ship", "two ship on water", "a storage tank")
    expected = _full_guidance(model, prompts)
    torch.testing.assert_close(_sample(model, prompts=prompts), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("has_card", [True, False], ids=["trained here", "public"])
def test_layout_guidance_moves_away_from_the_empty_layout(
    has_card: bool, model: StableDiffusion
) -> None:
    """One DDIM step by hand: p0 + w (p1 - p0), where p0 has an empty layout or no branch."""
    public = small_model()
    public.card = card() if has_card else None
    got = _sample(public, steps=1, text_guidance=1.0, layout_guidance=2.5, negative="a ship")
    scheduler = make_scheduler("ddim", public.scheduler_config)
    scheduler.set_timesteps(1)
    timestep = scheduler.timesteps[0]
    latents, condition, steps = draw_noise(SEEDS, SHAPE), _condition(4), timestep.expand(4)
    prompts = ("a plane", "a ship", "two ship on water", "a storage tank")
    with torch.no_grad():
        text, other = public.encode_prompts(prompts), public.encode_prompts(["a ship"] * 4)

        def predict(states: Tensor, layout: Tensor | None) -> Tensor:
            residuals = None
            if layout is not None:
                residuals = public.control(latents, steps, states, layout)
            return public.predict(latents, steps, states, residuals)

        bare = predict(other, torch.zeros_like(condition) if has_card else None)
        held = predict(other, condition)
        full = bare + 2.5 * (held - bare) + 1.0 * (predict(text, condition) - held)
        expected = scheduler.step(full, timestep, latents).prev_sample
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def test_control_scale_weighs_the_layout(model: StableDiffusion) -> None:
    """Catches a scale that is applied twice, or not at all."""
    off = _sample(model, control_scale=0.0)
    on = _sample(model)
    unsteered = _sample(model, condition=_condition(4) * 0, control_scale=0.0)
    torch.testing.assert_close(off, unsteered)
    assert not torch.allclose(off, on, atol=1e-3)


# ---------------------------------------------------------------- held pixels, bad shapes


@pytest.mark.parametrize("scheduler", sorted(SCHEDULERS))
def test_held_pixels_end_as_given_and_the_rest_is_painted(
    scheduler: str, model: StableDiffusion
) -> None:
    given = torch.full((4, *SHAPE), 0.7)
    mask = torch.zeros(4, 1, *SHAPE[1:])
    mask[..., :4] = 1
    result = _sample(model, keep=Keep(given, mask), scheduler=scheduler)
    torch.testing.assert_close(result[..., :4], given[..., :4])
    assert not torch.allclose(result[..., 4:], given[..., 4:], atol=0.05)


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        pytest.param(torch.zeros(4, 35, SIZE * 2, SIZE * 2), "condition", id="twice the size"),
        pytest.param(torch.zeros(3, 35, SIZE, SIZE), "condition", id="one too few"),
    ],
)
def test_a_condition_of_another_size_is_refused(
    condition: Tensor, message: str, model: StableDiffusion
) -> None:
    """Catches diffusers' silent resizing of a wrong condition."""
    with pytest.raises(DataError, match=message):
        _sample(model, condition=condition)


def test_prompts_must_match_the_noise(model: StableDiffusion) -> None:
    with torch.no_grad():
        states = model.encode_prompts(["a"])
    with pytest.raises(DataError, match="agree"):
        sample(
            model,
            noise=draw_noise([1, 2], SHAPE),
            text=states,
            negative=states,
            condition=None,
            settings=SamplingSettings(),
        )


# ---------------------------------------------------------------- steps that draw noise

DRAWN = {"eta": 1.0, "window": (0.0, 0.5)}


@torch.no_grad()
def _drawn(model: StableDiffusion, rows: slice = slice(0, 4), **others: Any) -> Tensor:
    settings = {"steps": 4, "text_guidance": 1.0, **DRAWN, **others.pop("settings", {})}
    prompts = ["a plane", "a ship", "two ship on water", "a storage tank"][rows]
    return sample(
        model,
        noise=draw_noise(SEEDS, SHAPE)[rows],
        text=model.encode_prompts(prompts),
        negative=model.encode_prompts([""] * len(prompts)),
        condition=_condition(4)[rows],
        settings=SamplingSettings(**settings),
        **{"seeds": SEEDS[rows], **others},
    )


@pytest.mark.parametrize("window", [(0.0, 0.5), (0.0, 1.0), (0.5, 0.75)])
def test_drawn_steps_are_those_of_diffusers(
    window: tuple[float, float], model: StableDiffusion
) -> None:
    """Catches noise in the wrong steps, and one draw used twice."""
    scheduler = make_scheduler("ddim", model.scheduler_config)
    scheduler.set_timesteps(4)
    # In float32, 1 - abar - std^2 of the first step is rounding alone.
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    latents, condition = draw_noise(SEEDS, SHAPE), _condition(4)
    with torch.no_grad():
        text = model.encode_prompts(["a plane", "a ship", "two ship on water", "a storage tank"])
        for i, timestep in enumerate(scheduler.timesteps):
            steps = timestep.expand(4)
            residuals = model.control(latents, steps, text, condition)
            latents = scheduler.step(
                model.predict(latents, steps, text, residuals),
                timestep,
                latents,
                eta=1.0 if window[0] * 4 <= i < window[1] * 4 else 0.0,
                variance_noise=draw_step_noise(SEEDS, i, SHAPE),
            ).prev_sample
    got = _drawn(model, settings={"window": window})
    torch.testing.assert_close(got, latents, atol=1e-4, rtol=0)


def test_drawn_noise_depends_on_its_own_seed_alone(model: StableDiffusion) -> None:
    """Catches noise of a whole batch: neighbours and the split into batches would matter."""
    noise = [draw_step_noise(SEEDS, i, SHAPE) for i in (0, 1)]
    assert not torch.allclose(noise[0], noise[1])
    assert not torch.allclose(noise[0], draw_noise(SEEDS, SHAPE))
    together = _drawn(model)
    for k in range(4):
        alone = _drawn(model, slice(k, k + 1))
        torch.testing.assert_close(alone[0], together[k], atol=1e-4, rtol=0)
    others = _drawn(model, seeds=(11, 5, 33, 44))
    torch.testing.assert_close(others[2:], together[2:])
    assert not torch.allclose(others[1], together[1], atol=0.05)


@pytest.mark.parametrize("window", [(0.0, 0.5), (0.25, 0.75)], ids=["early", "middle"])
def test_only_the_window_is_told_and_can_be_kept_in_half_precision(
    window: tuple[float, float], model: StableDiffusion
) -> None:
    """Catches a trained step whose start or end was rounded only where it was stored."""
    told: list[tuple[int, Tensor, Gaussian, Tensor]] = []
    _drawn(
        model,
        settings={"window": window},
        store_dtype=torch.float16,
        on_draw=lambda *step: told.append(step),
    )
    first = round(window[0] * 4)
    assert [i for i, *_ in told] == [first, first + 1]
    kept = [told[0][1], *(drawn for *_, drawn in told)]
    assert len(kept) == 3  # one more than steps
    for latents in kept:
        assert torch.equal(latents, latents.half().float())
    assert torch.equal(told[1][1], told[0][3])
    for _, _, gaussian, drawn in told:
        assert gaussian.has_density
        assert torch.equal(gaussian.log_prob(drawn), gaussian.log_prob(drawn.half()))


def test_noise_needs_seeds_and_ddim(model: StableDiffusion) -> None:
    with pytest.raises(UsageError, match="seed of every sample"):
        _drawn(model, seeds=None)
    with pytest.raises(UsageError, match="take the scheduler ddim"):
        _drawn(model, settings={"scheduler": "unipc"})
