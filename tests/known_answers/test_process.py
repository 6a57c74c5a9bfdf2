"""Reverse steps and their densities against diffusers, torch and moments worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from rsgen.errors import SetupError, UsageError
from rsgen.models.process import PREDICTIONS, Gaussian, Process, Rule

SHAPE = (2, 4, 3, 5)
STABLE: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
COSINE = {
    "beta_schedule": "squaredcos_cap_v2",
    "timestep_spacing": "trailing",
    "prediction_type": "v_prediction",
}
SCHEDULES: dict[str, tuple[dict[str, Any], int]] = {
    "stable-diffusion-50": (STABLE, 50),
    "offset-0": ({**STABLE, "steps_offset": 0}, 20),
    "alpha-one": ({**STABLE, "set_alpha_to_one": True}, 20),
    "trailing": ({**STABLE, "timestep_spacing": "trailing"}, 20),
    "trailing-with-remainder": ({**STABLE, "timestep_spacing": "trailing"}, 7),
    "linspace": ({**STABLE, "timestep_spacing": "linspace"}, 10),
    "cosine-to-no-signal": (COSINE, 20),
    "one-step": (COSINE, 1),
}
ZERO = {
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "beta_schedule": "scaled_linear",
}


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def config_runs(schedule: str, kind: str) -> bool:
    """An abar of 2e-9 divides a noise prediction: in float32 the step is rounding alone."""
    return kind != "epsilon" or SCHEDULES[schedule][0] is not COSINE


def diffusers_step(
    scheduler: Any, process: Process, i: int, x: Tensor, prediction: Tensor, **options: Any
) -> Tensor:
    stepped: Tensor = scheduler.step(
        prediction, process.timesteps[i], x, return_dict=False, **options
    )[0]
    return stepped


# ---------------------------------------------------------------- against diffusers


def ddim_of_diffusers(config: dict[str, Any], steps: int, *, wide: bool) -> Any:
    kind: Any = DDIMScheduler
    scheduler = kind.from_config(config, clip_sample=False)
    scheduler.set_timesteps(steps)
    if wide:  # 1 - abar - std^2 cancels in float32, which alone moves a mean by 5e-5
        scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
        scheduler.final_alpha_cumprod = scheduler.final_alpha_cumprod.double()
    return scheduler


@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_ddim_is_that_of_diffusers_at_every_step(schedule: str, eta: float, kind: str) -> None:
    """Catches a wrong end of the schedule, spacing, prediction type or standard deviation."""
    config, steps = SCHEDULES[schedule]
    config = {**config, "prediction_type": kind}
    scheduler = ddim_of_diffusers(config, steps, wide=True)
    process = Process.from_config(config, steps, Rule(eta=eta))
    assert torch.equal(process.timesteps, scheduler.timesteps)
    x, prediction, noise = random(*SHAPE), random(*SHAPE, seed=1), random(*SHAPE, seed=2)
    for i in range(steps):
        shared = (scheduler, process, i, x, prediction)
        step = process.transition(x, prediction, i)
        expected = diffusers_step(*shared, eta=eta, variance_noise=noise)
        torch.testing.assert_close(step.sample(noise), expected, atol=1e-9, rtol=1e-9)
        still = diffusers_step(*shared, eta=eta, variance_noise=0.0)
        torch.testing.assert_close(step.mean, still, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(
    ("schedule", "kind"),
    [(name, kind) for name in SCHEDULES for kind in PREDICTIONS if config_runs(name, kind)],
)
def test_without_noise_it_is_that_of_diffusers_as_shipped(schedule: str, kind: str) -> None:
    """In float32 throughout, as pictures are painted."""
    config, steps = SCHEDULES[schedule]
    config = {**config, "prediction_type": kind}
    scheduler = ddim_of_diffusers(config, steps, wide=False)
    process = Process.from_config(config, steps)
    x, prediction = random(*SHAPE).float(), random(*SHAPE, seed=1).float()
    for i in range(steps):
        expected = diffusers_step(scheduler, process, i, x, prediction)
        mean = process.transition(x, prediction, i).mean
        torch.testing.assert_close(mean, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("schedule", ["stable-diffusion-50", "offset-0", "trailing"])
def test_the_ddpm_posterior_is_that_of_diffusers(
    schedule: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches another variance, and noise in the last step."""
    config, steps = SCHEDULES[schedule]
    config = {**config, "prediction_type": kind}
    ddpm: Any = DDPMScheduler
    scheduler = ddpm.from_config(config, clip_sample=False)
    scheduler.set_timesteps(steps)
    process = Process.from_config(config, steps, Rule("ddpm"))
    assert torch.equal(process.timesteps, scheduler.timesteps)
    x, prediction, noise = random(*SHAPE), random(*SHAPE, seed=1), random(*SHAPE, seed=2)
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, **__: noise)
    for i in range(steps):
        expected = diffusers_step(scheduler, process, i, x, prediction)
        step = process.transition(x, prediction, i)
        torch.testing.assert_close(step.sample(noise), expected, atol=1e-6, rtol=1e-6)
    assert process.stochastic == tuple(range(steps - 1))


def test_ddpm_is_ddim_with_eta_1_where_both_end_on_the_image() -> None:
    """The two formulas come from two papers; catches a slip in either."""
    config = {**STABLE, "set_alpha_to_one": True}
    ddpm = Process.from_config(config, 20, Rule("ddpm"))
    ddim = Process.from_config(config, 20, Rule(eta=1.0))
    for name in ("state", "prediction", "std"):
        torch.testing.assert_close(getattr(ddpm, name), getattr(ddim, name))


def test_the_published_standard_deviations_of_stable_diffusion() -> None:
    """Measured on ddpo-pytorch's own step: catches a clamp or an offset that differs from it."""
    std = Process.from_config(STABLE, 50, Rule(eta=1.0)).std
    found = std[[0, 1, -3, -2, -1]].tolist()
    assert found == pytest.approx([0.4545, 0.448, 0.0999, 0.0395, 0.0206], abs=1e-3)


# ---------------------------------------------------------------- both ends


@pytest.mark.parametrize(
    ("config", "last"),
    [
        pytest.param({**STABLE, "steps_offset": 0}, 0.0, id="offset 0: no noise, no density"),
        pytest.param({**STABLE, "set_alpha_to_one": True}, 0.0, id="ends on the image"),
        pytest.param({**STABLE, "timestep_spacing": "trailing"}, None, id="trailing"),
        pytest.param({**ZERO, "prediction_type": "v_prediction"}, None, id="no signal, v"),
        pytest.param({**ZERO, "prediction_type": "sample"}, None, id="no signal, image"),
        pytest.param(COSINE, 0.0, id="cosine"),
    ],
)
def test_every_step_is_finite_and_only_noisy_ones_have_a_density(
    config: dict[str, Any], last: float | None
) -> None:
    """Catches 0 / 0 in the log-probability of the last step and infinities at the first."""
    process = Process.from_config(config, 20, Rule(eta=1.0))
    x, prediction, noise = (random(*SHAPE, seed=k).float() for k in range(3))
    if last is not None:
        assert float(process.std[-1]) == last
    for i in range(20):
        step = process.transition(x, prediction, i)
        assert torch.isfinite(step.mean).all()
        assert step.has_density == (i in process.stochastic)
        if step.has_density:
            assert torch.isfinite(step.log_prob(step.sample(noise))).all()
            continue
        with pytest.raises(UsageError, match="deterministic"):
            step.log_prob(x)
        with pytest.raises(UsageError, match="deterministic"):
            step.kl(step)


def test_noise_prediction_cannot_start_without_signal() -> None:
    """Catches infinities that would paint black pictures."""
    with pytest.raises(SetupError, match="without any signal"):
        Process.from_config({**ZERO, "prediction_type": "epsilon"}, 20)


def test_trailing_steps_never_leave_the_schedule() -> None:
    """diffusers' grid of 61 trailing steps has a 62nd at -1, the noisiest entry of its table."""
    config = {**STABLE, "timestep_spacing": "trailing"}
    process = Process.from_config(config, 61)
    assert len(process) == 61
    assert int(process.timesteps.min()) > 0


@pytest.mark.parametrize(
    ("config", "steps", "words"),
    [
        ({**STABLE}, 0, "schedule has 1000"),
        ({**STABLE}, 1001, "schedule has 1000"),
        ({**STABLE}, 1000, "steps_offset is 1"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, 10, "ddim and ddpm"),
        ({"_class_name": "EDMEulerScheduler"}, 10, "ddim and ddpm"),
        ({**STABLE, "prediction_type": "flow_prediction"}, 10, "epsilon, sample, v_prediction"),
    ],
)
def test_schedules_without_these_steps_are_refused(
    config: dict[str, Any], steps: int, words: str
) -> None:
    with pytest.raises(UsageError) as caught:
        Process.from_config(config, steps)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"kind": "unipc"}, "use one of ddim, ddpm"),
        ({"eta": 1.5}, "from 0"),
        ({"window": (0.5, 0.2)}, "two fractions"),
        ({"window": (0.0, 1.2)}, "two fractions"),
    ],
)
def test_rules_without_a_density_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        Rule(**arguments)
    assert words in str(caught.value)


# ---------------------------------------------------------------- the window


@pytest.mark.parametrize(
    ("rule", "steps", "drawn"),
    [
        (Rule(eta=1.0, window=(0.0, 0.2)), 20, (0, 1, 2, 3)),
        (Rule("ddpm", window=(0.0, 0.2)), 20, (0, 1, 2, 3)),
        (Rule(eta=1.0, window=(0.0, 0.2)), 12, (0, 1, 2)),
        (Rule(eta=1.0, window=(0.0, 0.1)), 30, (0, 1, 2)),
        (Rule(eta=0.5, window=(0.4, 0.7)), 10, (4, 5, 6)),
        (Rule(eta=0.0, window=(0.0, 1.0)), 10, ()),
        (Rule(eta=1.0, window=(0.0, 0.0)), 10, ()),
    ],
)
def test_only_the_window_draws_and_the_rest_is_the_ode(
    rule: Rule, steps: int, drawn: tuple[int, ...]
) -> None:
    """Catches a random subset instead of early steps, and rounding of 0.1 * 30 to 4 steps."""
    process = Process.from_config(COSINE, steps, rule)
    assert process.stochastic == drawn
    ode = Process.from_config(COSINE, steps)
    outside = [i for i in range(steps) if i not in drawn]
    assert torch.equal(process.state[outside], ode.state[outside])
    assert torch.equal(process.prediction[outside], ode.prediction[outside])
    if drawn:
        every = Process.from_config(COSINE, steps, Rule(rule.kind, rule.eta))
        assert torch.equal(process.std[list(drawn)], every.std[list(drawn)])


def test_one_index_a_sample_is_one_index_for_all() -> None:
    """Catches an index that broadcasts over the wrong axis."""
    process = Process.from_config(STABLE, 20, Rule(eta=1.0))
    x, prediction = random(3, 4, 3, 3), random(3, 4, 3, 3, seed=1)
    steps = torch.tensor([7, 0, 19])
    together = process.transition(x, prediction, steps)
    for k, i in enumerate(steps.tolist()):
        alone = process.transition(x[k : k + 1], prediction[k : k + 1], i)
        assert torch.equal(together.mean[k : k + 1], alone.mean)
        assert torch.equal(together.log_prob(x)[k : k + 1], alone.log_prob(x[k : k + 1]))


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_clean_and_noised_undo_each_other(kind: str) -> None:
    """Catches a level that is one step off."""
    process = Process.from_config({**STABLE, "prediction_type": kind}, 20)
    image, noise = random(*SHAPE), random(*SHAPE, seed=1)
    for i in (0, 7, 19):
        x = process.noised(image, noise, i)
        root, other = process.signal[i].sqrt(), (1 - process.signal[i]).sqrt()
        answer = {"epsilon": noise, "sample": image, "v_prediction": root * noise - other * image}
        torch.testing.assert_close(process.clean(x, answer[kind], i), image)


# ---------------------------------------------------------------- densities


def test_log_prob_is_the_mean_of_torch_normal_and_its_gradient_is_right() -> None:
    """Catches a sum for a mean, a lost constant, and a gradient through the scored latent."""
    process = Process.from_config(STABLE, 20, Rule(eta=1.0))
    x, prediction = random(*SHAPE), random(*SHAPE, seed=1)
    following = random(*SHAPE, seed=2).requires_grad_()
    step = process.transition(x, prediction, 3)
    normal: Any = Normal(step.mean, step.std)
    expected = normal.log_prob(following).flatten(1).mean(dim=1)
    torch.testing.assert_close(step.log_prob(following), expected, atol=1e-10, rtol=0)

    def score(value: Tensor) -> Tensor:
        return process.transition(x, value, 3).log_prob(following.detach())

    assert torch.autograd.gradcheck(score, prediction.requires_grad_())
    torch.autograd.backward(process.transition(x, prediction, 3).log_prob(following).sum())
    assert following.grad is None


def test_kl_is_that_of_torch_and_zero_at_the_start() -> None:
    """Catches sum against mean, the wrong direction, and a rounding that is not 0 for equals."""
    mean, other = random(*SHAPE), random(*SHAPE, seed=1)
    for first, second in ((0.3, 0.3), (0.3, 0.5), (0.5, 0.3)):
        p, q = Gaussian(mean, torch.tensor(first)), Gaussian(other, torch.tensor(second))
        whole = kl_divergence(Normal(p.mean, p.std), Normal(q.mean, q.std))
        torch.testing.assert_close(
            p.kl(q), whole.flatten(1).mean(dim=1), atol=1e-6, rtol=1e-6, check_dtype=False
        )
        torch.testing.assert_close(
            p.kl_nats(q), whole.flatten(1).sum(dim=1), atol=1e-4, rtol=1e-6, check_dtype=False
        )
    alike = Gaussian(mean.float(), torch.tensor(0.3))
    assert torch.equal(alike.kl(alike), torch.zeros(2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_stored_latent_is_the_scored_one(dtype: torch.dtype) -> None:
    """Catches scoring before rounding: up to 2.5e-3 in bf16 against a clip of 1e-4."""
    process = Process.from_config(STABLE, 20, Rule(eta=1.0))
    step = process.transition(random(*SHAPE).float(), random(*SHAPE, seed=1).float(), 19)
    drawn = step.sample(random(*SHAPE, seed=2), dtype)
    stored = drawn.to(dtype)
    assert torch.equal(step.log_prob(stored), step.log_prob(drawn))
    assert not torch.equal(step.sample(random(*SHAPE, seed=2)), drawn)


def test_half_precision_inputs_are_stepped_in_single_precision() -> None:
    """Catches a mean rounded to bf16, which is coarser than a late step's noise."""
    process = Process.from_config(STABLE, 20, Rule(eta=1.0))
    x, prediction = random(*SHAPE).bfloat16(), random(*SHAPE, seed=1).bfloat16()
    step = process.transition(x, prediction, 19)
    assert step.mean.dtype == torch.float32
    whole = process.transition(x.double(), prediction.double(), 19)
    torch.testing.assert_close(step.mean, whole.mean.float(), atol=1e-6, rtol=0)
