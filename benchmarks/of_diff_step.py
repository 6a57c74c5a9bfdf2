"""Cost of a dual-branch training step against the naive one: time and peak memory, as ratios.

The naive step is the published one: each step copies the ControlNet and the UNet, runs three
ControlNets and two whole UNets, and one backward pass that also fills the copied decoder's
gradients, to be thrown away. Ours runs the encoder once, two ControlNets and two decoders, copies
nothing, and gives the same gradients (tests/known_answers/test_of_diff_step.py).

    python benchmarks/of_diff_step.py tiny
    python benchmarks/of_diff_step.py sd15 --width 0.5 --latent 32

`tiny` is the embedded model's shape, `sd15` Stable Diffusion 1.5's with random weights and
channels times --width. Both steps run in processes of their own, in turns; time is the CPU time of
the fastest step on one thread, so that a busy machine matters less. Memory: the process's peak, and
what the step adds to the weights. No optimiser is made: its moments are the same in both.
"""

from __future__ import annotations

import argparse
import copy
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from diffusers import ControlNetModel, DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn

from rsgen.losses import prediction_target, weighted_error
from rsgen.models.image_hint import add_image_slice
from rsgen.models.tiny import build_tiny
from rsgen.models.unet_parts import decoder_parts
from rsgen.training.distillation import DistillationLosses, DistillationSettings, image_hint

CODE_CHANNELS = 35
PROGRESS = 0.5


class Text(nn.Module):
    """Hidden states as a text encoder gives them; its cost is the same in both steps."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.states = nn.Parameter(torch.randn(1, tokens, width), requires_grad=False)

    def forward(self, tokens: Tensor) -> tuple[Tensor]:
        return (self.states.expand(len(tokens), -1, -1),)


def networks(shape: str, width: float) -> tuple[Any, Any, Text]:
    """UNet, ControlNet and text of a shape; the ControlNet's joints are filled."""
    torch.manual_seed(0)
    unet: Any
    controlnet: Any
    if shape == "tiny":
        model = build_tiny(0)
        unet, controlnet = model.unet, model.controlnet
    else:
        channels = tuple(round(width * c / 32) * 32 for c in (320, 640, 1280, 1280))
        unet = UNet2DConditionModel(  # type: ignore[no-untyped-call]
            sample_size=64,
            block_out_channels=channels,
            cross_attention_dim=768,
            attention_head_dim=8,
        )
        controlnet = ControlNetModel.from_unet(unet, conditioning_channels=CODE_CHANNELS)
    for parameter in controlnet.parameters():
        if not bool(parameter.any()):
            nn.init.normal_(parameter, std=0.01)
    add_image_slice(controlnet, 1)
    unet.requires_grad_(False)
    for part in decoder_parts(unet):
        part.requires_grad_(True)
    return unet.train(), controlnet.train(), Text(77, unet.config.cross_attention_dim)


def batch_of(count: int, latent: int, factor: int) -> dict[str, Tensor]:
    """Noise in the shapes of a batch."""
    side = factor * latent
    return {
        "latents": torch.randn(count, 4, latent, latent),
        "noise": torch.randn(count, 4, latent, latent),
        "timesteps": torch.arange(count) * 400 // count + 300,
        "tokens": torch.zeros(count, 77, dtype=torch.long),
        "weights": torch.ones(count, 1, latent, latent),
        "condition": (torch.rand(count, CODE_CHANNELS, side, side) > 0.9).float(),
        "kept": torch.ones(count),
        "image": torch.rand(count, 3, side, side),
        "progress": torch.tensor(PROGRESS),
    }


def cheap_step(module: DistillationLosses, batch: dict[str, Tensor]) -> float:
    total = 0.0
    for losses in module.passes(batch):
        torch.autograd.backward(losses.mean())
        total += float(losses.detach().mean())
    return total


def naive_step(module: DistillationLosses, batch: dict[str, Tensor]) -> float:
    schedule, x, e, t = (
        module.noise_schedule,
        batch["latents"],
        batch["noise"],
        batch["timesteps"],
    )
    unet, controlnet = module.unet, module.controlnet
    unet_copy = copy.deepcopy(unet)
    controlnet_copy = copy.deepcopy(controlnet).requires_grad_(False)
    noisy, target = schedule.add_noise(x, e, t), prediction_target(schedule, x, e, t)
    text = module.text_encoder(batch["tokens"])[0]

    def control(network: Any, hint: Tensor) -> list[Tensor]:
        down, middle = network(noisy, t, text, controlnet_cond=hint, return_dict=False)
        return [*down, middle]

    def denoise(network: Any, residuals: list[Tensor]) -> Tensor:
        output: Tensor = network(
            noisy,
            t,
            text,
            down_block_additional_residuals=residuals[:-1],
            mid_block_additional_residual=residuals[-1],
        ).sample
        return output

    condition = batch["condition"]
    mask_hint = torch.cat([condition, torch.zeros_like(batch["image"])], dim=1)
    own = control(controlnet, mask_hint)
    fixed = control(controlnet_copy, mask_hint)
    seen = control(controlnet, image_hint(batch["image"], condition.shape[1]))
    guide = denoise(unet_copy, [f + PROGRESS * s for f, s in zip(fixed, seen, strict=True)])
    student = denoise(unet, own)
    pairs = ((student, target), (guide, target), (student, guide.detach()))
    loss = sum(weighted_error(*pair, batch["weights"]).mean() for pair in pairs)
    assert isinstance(loss, Tensor)
    torch.autograd.backward(loss)
    return float(loss.detach())


def peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """One process, one kind of step."""
    torch.set_num_threads(1)
    unet, controlnet, text = networks(arguments.shape, arguments.width)
    if arguments.checkpointing:
        unet.enable_gradient_checkpointing()
        controlnet.enable_gradient_checkpointing()
    schedule = DDPMScheduler(  # type: ignore[no-untyped-call]
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
    )
    settings = DistillationSettings(100, "linear", 1.0, False, None)
    module = DistillationLosses(unet, text, controlnet, schedule, settings)
    batch = batch_of(arguments.batch, arguments.latent, 4 if arguments.shape == "tiny" else 8)
    step: Callable[[DistillationLosses, dict[str, Tensor]], float]
    step = cheap_step if arguments.kind == "cheap" else naive_step
    before, seconds, loss = peak_gb(), [], 0.0
    for _ in range(arguments.steps + 1):
        module.zero_grad(set_to_none=False)  # gradients stay allocated, as they do in training
        started = time.process_time()
        loss = step(module, batch)
        seconds.append(time.process_time() - started)
    learning = sum(p.numel() for p in module.parameters() if p.requires_grad)
    return {
        "seconds": min(seconds[1:]),
        "peak": peak_gb(),
        "added": peak_gb() - before,
        "loss": loss,
        "learning": learning / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", choices=("tiny", "sd15"))
    parser.add_argument("--width", type=float, default=0.5, help="channels / those of sd15")
    parser.add_argument("--latent", type=int, default=32, help="side of the latents")
    parser.add_argument("--batch", type=int, default=2, help="samples a step")
    parser.add_argument("--steps", type=int, default=3, help="steps a process, after a first one")
    parser.add_argument("--repeat", type=int, default=2, help="processes of each kind")
    parser.add_argument("--checkpointing", action="store_true", help="recompute layers")
    parser.add_argument("--kind", choices=("cheap", "naive"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.kind:
        print(json.dumps(measure(arguments)))
        return
    found: dict[str, list[dict[str, float]]] = {"naive": [], "cheap": []}
    for _ in range(arguments.repeat):
        for kind, rows in found.items():
            line = [sys.executable, __file__, *sys.argv[1:], "--kind", kind]
            done = subprocess.run(line, check=True, capture_output=True, text=True)
            rows.append(json.loads(done.stdout))
    best = {
        kind: {name: min(row[name] for row in rows) for name in rows[0]}
        for kind, rows in found.items()
    }
    naive, cheap = best["naive"], best["cheap"]
    print(
        f"{cheap['learning']:.1f} M weights learn; losses {naive['loss']:.6f} {cheap['loss']:.6f}"
    )
    print(f"{'':10}{'naive':>10}{'ours':>10}{'ratio':>8}")
    for name, unit in (("seconds", "s"), ("peak", "GB"), ("added", "GB")):
        ratio = cheap[name] / naive[name]
        print(f"{name:10}{naive[name]:8.2f} {unit:2}{cheap[name]:7.2f} {unit:2}{ratio:6.2f}")


if __name__ == "__main__":
    main()
