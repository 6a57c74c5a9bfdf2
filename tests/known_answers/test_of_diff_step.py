"""The dual-branch step against one that copies networks: the same losses, the same gradients.

Float64 throughout, so that agreement to 1e-9 leaves no room for a missing or doubled term.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

from rsgen.errors import UsageError
from rsgen.losses import ramp
from rsgen.models.image_hint import ImageHintConvolution, add_image_slice, drop_image_slice
from rsgen.training.distillation import DistillationLosses, DistillationSettings
from rsgen.training.setup import choose_weights
from tests.build_models import SIZE, small_model

TOLERANCE = 1e-9
LAMBDA, STEPS = 0.7, 8
LEVELS = (40, 700, 150, 130)
KEPT = (1.0, 1.0, 0.0, 1.0)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small networks lose time to threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def schedule(kind: str) -> Any:
    """Stable Diffusion's levels with either prediction type."""
    return DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=kind
    )


@dataclass
class Step:
    """Networks, settings and a batch of four, one of them without its condition."""

    prediction: str = "v_prediction"
    condition: str = "classes"
    unet: str = "decoder"
    checkpointing: bool = False
    progress: float = 0.5
    reconstruct: bool = True
    snr_gamma: float | None = None
    ramp: str = "linear"
    weight: float = LAMBDA
    dtype: torch.dtype = torch.float64
    module: Any = field(init=False)
    model: Any = field(init=False)

    def __post_init__(self) -> None:
        torch.manual_seed(3)
        self.model = model = small_model(4)
        channels = 35 if self.condition == "classes" else 3
        if channels == 3:
            model.controlnet = model.fresh_controlnet(3)
            for parameter in model.controlnet.parameters():
                if not bool(parameter.any()):
                    nn.init.normal_(parameter, std=0.1)
        else:
            add_image_slice(model.controlnet, 5)
        choose_weights(model, "controlnet", self.unet, False, 4, decoder_only=True)
        for name, parameter in model.unet.named_parameters():
            if "lora_B" in name:  # zero at first, and so is the gradient of the other half
                nn.init.normal_(parameter, std=0.3)
        for network in model.networks().values():
            network.to(self.dtype).train()
        if self.checkpointing:
            model.unet.enable_gradient_checkpointing()
            model.controlnet.enable_gradient_checkpointing()
        settings = DistillationSettings(
            STEPS, self.ramp, self.weight, self.reconstruct, self.snr_gamma
        )
        self.module = DistillationLosses(
            model.unet, model.text_encoder, model.controlnet, schedule(self.prediction), settings
        )

    def batch(self) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(6)

        def uniform(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=generator).to(self.dtype)

        count, side = len(LEVELS), SIZE // 4
        kept = torch.tensor(KEPT, dtype=self.dtype)
        channels = 35 if self.condition == "classes" else 1
        condition = (uniform(count, channels, SIZE, SIZE) > 0.8).to(self.dtype)
        if channels == 1:
            condition = condition.repeat(1, 3, 1, 1)
        weights = 0.5 + uniform(count, 1, side, side)
        return {
            "latents": 2 * uniform(count, 4, side, side) - 1,
            "noise": torch.randn(count, 4, side, side, generator=generator).to(self.dtype),
            "timesteps": torch.tensor(LEVELS),
            "tokens": self.model.tokens(["an image of plane", "", "ship", "two ships"]),
            "weights": weights / weights.mean(dim=(2, 3), keepdim=True),
            "condition": condition * kept[:, None, None, None],
            "kept": kept,
            "image": uniform(count, 3, SIZE, SIZE),
            "progress": torch.tensor(self.progress, dtype=torch.float64),
        }

    def run(self, batch: dict[str, Tensor] | None = None) -> tuple[float, dict[str, Tensor]]:
        """The cheap step: total loss, and gradients by name."""
        total = 0.0
        for losses in self.module.passes(batch or self.batch()):
            losses.mean().backward()
            total += float(losses.detach().mean())
        return total, gradients(self.module)

    def parts(self) -> dict[str, float]:
        return {name: float(value) for name, value in self.module.sums.items()}


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {n: p.grad for n, p in module.named_parameters() if p.grad is not None}


# ---------------------------------------------------------------- the naive step


def one_convolution(controlnet: Any) -> Any:
    """A copy whose [code | image] convolution is a single layer, as a plain ControlNet has it."""
    copied = copy.deepcopy(controlnet)
    split = controlnet.controlnet_cond_embedding.conv_in
    if isinstance(split, ImageHintConvolution):
        joined = nn.Conv2d(38, split.code.out_channels, 3, padding=1).to(split.code.weight)
        with torch.no_grad():
            joined.weight.copy_(torch.cat([split.code.weight, split.image.weight], dim=1))
            joined.bias.copy_(split.code.bias)  # type: ignore[union-attr]
        copied.controlnet_cond_embedding.conv_in = joined
    copied.disable_gradient_checkpointing()
    return copied


def naive_step(step: Step, batch: dict[str, Tensor]) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Three ControlNet passes, copies of ControlNet and UNet, whole UNets, one backward pass."""
    unet = copy.deepcopy(step.model.unet)
    unet.disable_gradient_checkpointing()
    controlnet = one_convolution(step.model.controlnet)
    unet_copy = copy.deepcopy(unet).requires_grad_(False)
    controlnet_copy = copy.deepcopy(controlnet).requires_grad_(False)
    x, e, t = batch["latents"], batch["noise"], batch["timesteps"]
    kept, weights = batch["kept"], batch["weights"]
    text = step.model.text_encoder(batch["tokens"])[0].detach()
    power = schedule("epsilon").alphas_cumprod.to(x)[t]
    a, s = power.sqrt()[:, None, None, None], (1 - power).sqrt()[:, None, None, None]
    by_velocity = step.prediction == "v_prediction"

    mask_hint, picture = batch["condition"], batch["image"]
    if step.condition == "classes":
        nothing = torch.zeros_like
        mask_hint = torch.cat([batch["condition"], nothing(picture)], dim=1)
        picture = torch.cat([nothing(batch["condition"]), picture], dim=1)

    def control(network: Any, noisy: Tensor, hint: Tensor) -> tuple[list[Tensor], Tensor]:
        down, middle = network(noisy, t, text, controlnet_cond=hint, return_dict=False)
        return list(down), middle

    def denoise(network: Any, noisy: Tensor, residuals: tuple[list[Tensor], Tensor]) -> Any:
        return network(
            noisy,
            t,
            text,
            down_block_additional_residuals=residuals[0],
            mid_block_additional_residual=residuals[1],
        ).sample

    def error(one: Tensor, other: Tensor) -> Tensor:
        loss = ((one - other) ** 2 * weights).mean(dim=(1, 2, 3))
        if step.snr_gamma is not None:
            snr = power / (1 - power)
            bounded = snr.clamp(max=step.snr_gamma)
            loss = loss * bounded / (snr + 1 if by_velocity else snr)
        return loss

    z = a * x + s * e
    target = a * e - s * x if by_velocity else e
    student_residuals = control(controlnet, z, mask_hint)
    fixed_residuals = control(controlnet_copy, z, mask_hint)
    image_residuals = control(controlnet, z, picture)
    w = float(batch["progress"])
    mixed = [f + w * i for f, i in zip(fixed_residuals[0], image_residuals[0], strict=True)]
    teacher = denoise(unet_copy, z, (mixed, fixed_residuals[1] + w * image_residuals[1]))
    student = denoise(unet, z, student_residuals)
    losses = {
        "L_s": error(student, target),
        "L_m": kept * error(teacher, target),
        "L_c": kept * error(student, teacher.detach()),
    }
    if step.reconstruct:
        teacher = teacher.detach()
        noise_seen = a * teacher + s * z if by_velocity else teacher
        again = z + s * (e - noise_seen)
        wanted = (e - s * again) / a if by_velocity else e
        low = (t <= 200).to(x)
        prediction = denoise(unet, again, control(controlnet, again, mask_hint))
        losses["L_reg"] = low * kept * error(prediction, wanted)
    scales = {"L_c": LAMBDA}
    sum(scales.get(n, 1.0) * loss.mean() for n, loss in losses.items()).backward()  # type: ignore[union-attr]
    found = {f"unet.{n}": g for n, g in gradients(unet).items()}
    found |= {f"controlnet.{n}": g for n, g in gradients(controlnet).items()}
    joined = "controlnet.controlnet_cond_embedding.conv_in"
    if step.condition == "classes":
        both = found.pop(f"{joined}.weight")
        found[f"{joined}.code.weight"], found[f"{joined}.image.weight"] = both[:, :35], both[:, 35:]
        found[f"{joined}.code.bias"] = found.pop(f"{joined}.bias")
    return {name: float(loss.detach().mean()) for name, loss in losses.items()}, found


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize(
    "changes",
    [
        {"prediction": "epsilon", "condition": "binary"},
        {"prediction": "epsilon", "condition": "classes", "snr_gamma": 5.0},
        {"prediction": "v_prediction", "condition": "binary", "snr_gamma": 5.0},
        {"prediction": "v_prediction", "condition": "classes"},
        {"unet": "frozen"},
        {"unet": "lora"},
        {"reconstruct": False, "condition": "binary"},
    ],
    ids=lambda changes: "-".join(str(v) for v in changes.values()),
)
def test_losses_and_gradients_equal_those_of_the_naive_step(
    changes: dict[str, Any], checkpointing: bool
) -> None:
    """Catches a term that is lost, doubled or leaks, in any of the losses."""
    step = Step(checkpointing=checkpointing, **changes)
    batch = step.batch()
    expected, expected_gradients = naive_step(step, batch)
    total, found = step.run(batch)
    parts = step.parts()
    assert parts.keys() == expected.keys()
    for name, value in expected.items():
        assert parts[name] == pytest.approx(value, rel=TOLERANCE), name
    assert total == pytest.approx(
        sum(v * (LAMBDA if n == "L_c" else 1) for n, v in expected.items()), rel=TOLERANCE
    )
    assert found.keys() == expected_gradients.keys()
    for name, gradient in expected_gradients.items():
        scale = max(1.0, float(gradient.abs().max()))
        assert float((found[name] - gradient).abs().max()) < TOLERANCE * scale, name
    assert sum(float(g.abs().max()) > 1e-8 for g in found.values()) > 0.9 * len(found)


# ---------------------------------------------------------------- where gradients go


@pytest.mark.parametrize("condition", ["binary", "classes"])
def test_each_loss_teaches_what_it_should(condition: str) -> None:
    """Catches L_m in the decoder or in the layout's residuals, and L_c in the teacher."""
    step = Step(condition=condition, reconstruct=False)
    batch = step.batch()
    layout = batch["condition"].requires_grad_(True)
    image = batch["image"].requires_grad_(True)
    passes = step.module.passes(batch)
    next(passes).mean().backward()
    assert layout.grad is None
    assert image.grad is not None and float(image.grad.abs().max()) > 0
    dropped = KEPT.index(0.0)
    assert not bool(image.grad[dropped].any())
    reached = {name.split(".")[0] for name, g in gradients(step.module).items() if bool(g.any())}
    assert reached == {"controlnet"}
    from_image = image.grad.clone()
    step.module.zero_grad()
    next(passes).mean().backward()
    assert torch.equal(image.grad, from_image)
    assert layout.grad is not None and bool(layout.grad.any())
    decoder = [n for n, g in gradients(step.module).items() if n.startswith("unet.") and g.any()]
    assert decoder
    assert all(n.split(".")[1] in {"up_blocks", "conv_norm_out", "conv_out"} for n in decoder)


def test_following_the_teacher_reaches_decoder_and_layout_residuals() -> None:
    """Catches an L_c that is computed but teaches nothing."""
    changed = []
    for weight in (0.0, 1.0):
        step = Step(reconstruct=False, weight=weight)
        passes = step.module.passes(step.batch())
        next(passes)
        next(passes).mean().backward()
        changed.append(gradients(step.module))
    without, with_it = changed
    moved = {n for n, g in with_it.items() if float((g - without[n]).abs().max()) > 1e-8}
    assert {name.split(".")[0] for name in moved} == {"unet", "controlnet"}
    joint = "controlnet.controlnet_cond_embedding.conv_in"
    assert f"{joint}.code.weight" in moved and f"{joint}.image.weight" not in moved


def test_nothing_reaches_what_is_frozen() -> None:
    """Catches an encoder, autoencoder or text encoder with a graph, even where they could learn."""
    step = Step()
    for network in step.model.networks().values():
        network.requires_grad_(True)
    step.run()
    frozen = [step.model.unet.down_blocks, step.model.unet.mid_block, step.model.unet.conv_in]
    frozen += [step.model.unet.time_embedding, step.model.vae, step.model.text_encoder]
    assert all(p.grad is None for part in frozen for p in part.parameters())
    learning = [*step.model.unet.up_blocks.parameters(), *step.model.controlnet.parameters()]
    assert all(p.requires_grad and p.grad is not None for p in learning)


def test_an_abandoned_step_leaves_the_decoder_learning() -> None:
    """Catches a run that is stopped between two passes and goes on with a decoder that is held."""
    step = Step()
    passes = step.module.passes(step.batch())
    next(passes)
    assert not any(p.requires_grad for p in step.model.unet.up_blocks.parameters())
    passes.close()
    assert all(p.requires_grad for p in step.model.unet.up_blocks.parameters())


# ---------------------------------------------------------------- ramp, start and end


@pytest.mark.parametrize("condition", ["binary", "classes"])
def test_at_step_zero_the_teacher_equals_the_student(condition: str) -> None:
    """Catches a teacher of other weights, and an image that is heard before the ramp rises."""
    step = Step(condition=condition, progress=0.0)
    step.run()
    parts = step.parts()
    assert parts["L_c"] == 0.0
    batch = step.batch()
    losses = [loss.detach() for loss in step.module.passes(batch)]
    teacher, student = losses[0], losses[1]
    assert torch.equal(teacher, student * batch["kept"])


def test_reconstruction_waits_for_a_third_of_the_steps() -> None:
    """Catches L_reg from the first step on, and levels that it must not touch."""
    assert "L_reg" not in _parts(Step(progress=1 / 3))
    later = _parts(Step(progress=0.34))
    assert later["L_reg"] > 0
    step = Step(progress=0.34)
    batch = step.batch()
    *_, last = step.module.passes(batch)
    assert [bool(v) for v in last] == [
        t <= 200 and bool(k) for t, k in zip(LEVELS, KEPT, strict=True)
    ]
    batch["timesteps"] = torch.full((len(LEVELS),), 201)
    assert len(list(step.module.passes(batch))) == 2


def _parts(step: Step) -> dict[str, float]:
    step.run()
    return step.parts()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("linear", [0.0, 0.25, 0.5, 1.0]),
        ("constant", [1.0, 1.0, 1.0, 1.0]),
        ("cosine", [0.0, 0.14644660940672624, 0.5, 1.0]),
    ],
)
def test_ramp(kind: str, expected: list[float]) -> None:
    """Catches a ramp that ends elsewhere than at 1, or grows beyond it."""
    assert [ramp(kind, share) for share in (0.0, 0.25, 0.5, 1.0)] == pytest.approx(expected)
    assert ramp(kind, 1.5) == 1.0


def test_other_predictions_are_refused() -> None:
    """Catches a model of clean images that is taught velocities."""
    step = Step(prediction="sample")
    with pytest.raises(UsageError, match="sample"):
        next(step.module.passes(step.batch()))


def test_a_ramp_needs_steps() -> None:
    """Catches N = -1, with which the image's weight would fall without end."""
    with pytest.raises(ValueError, match="positive"):
        DistillationSettings(-1, "linear", 1.0, False, None)


def test_dropping_the_image_slice_changes_no_bit() -> None:
    """Catches a saved ControlNet that paints otherwise than the one that was trained."""
    model = small_model(7)
    channels = model.controlnet.config.conditioning_channels
    original = copy.deepcopy(model.controlnet)
    add_image_slice(model.controlnet, 1)
    code = torch.rand(2, channels, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    noisy, text = torch.ones(2, 4, SIZE // 4, SIZE // 4), torch.ones(2, 5, 16)
    steps = torch.tensor([3, 500])

    def outputs(network: Any, hint: Tensor) -> list[Tensor]:
        with torch.no_grad():
            down, middle = network(noisy, steps, text, controlnet_cond=hint, return_dict=False)
        return [*down, middle]

    def equal(one: list[Tensor], other: list[Tensor]) -> bool:
        return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))

    nothing, picture = torch.zeros(2, 3, SIZE, SIZE), torch.ones(2, 3, SIZE, SIZE)
    before = outputs(original, code)
    assert equal(outputs(model.controlnet, torch.cat([code, nothing], dim=1)), before)
    assert not equal(outputs(model.controlnet, torch.cat([code, picture], dim=1)), before)
    drop_image_slice(model.controlnet)
    assert equal(outputs(model.controlnet, code), before)
    assert model.controlnet.state_dict().keys() == original.state_dict().keys()
