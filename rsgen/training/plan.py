"""What a training run will do, worked out from the size of the set before it starts."""

from __future__ import annotations

import math
import resource
import time
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import nn

from rsgen.errors import UsageError
from rsgen.training.loop import Objective, losses_of

__all__ = [
    "LR",
    "SMALL_UNET",
    "Estimate",
    "automatic_lr",
    "automatic_steps",
    "automatic_unet",
    "check_split",
    "measure",
]

# Images that pay for one more million of trainable UNet parameters, by how many learn:
# 870M parameters (Stable Diffusion 1.5) are tuned by LoRA from 435 images, in their decoder
# from 4,350, as a whole from 43,500; 300 images leave them frozen.
IMAGES_PER_MILLION = {"lora": 0.5, "decoder": 5.0, "full": 50.0}
# Below this many parameters all of the UNet learns, whatever the set: a network that small has
# seen little, and its decoder alone paints next to nothing of other images.
SMALL_UNET = 50e6
LR, SMALL_LR, LARGE_LR = 1e-4, 2e-4, 1e-5
PASSES = 20
STEP_RANGE = (60, 20_000)


def automatic_unet(images: int, unet_parameters: int) -> str:
    """frozen, lora, decoder or full: the most that this many images can pay for.

    A small UNet learns as a whole.
    """
    if unet_parameters < SMALL_UNET:
        return "full"
    chosen = "frozen"
    for mode, rate in IMAGES_PER_MILLION.items():
        if images >= rate * unet_parameters / 1e6:
            chosen = mode
    return chosen


def automatic_lr(unet_mode: str, unet_parameters: int) -> float:
    """The peak learning rate: high where a small UNet learns, low where a large one does."""
    if unet_parameters < SMALL_UNET:
        return SMALL_LR if unet_mode == "full" else LR
    return LARGE_LR if unet_mode in {"decoder", "full"} else LR


def automatic_steps(images: int, samples_a_step: int, epochs: int | None = None) -> int:
    """Steps of some passes over the set; by default about 20, within 60..20000 steps."""
    if epochs is not None:
        return math.ceil(epochs * images / samples_a_step)
    wanted = round(PASSES * images / samples_a_step)
    return int(min(max(wanted, STEP_RANGE[0]), STEP_RANGE[1]))


def check_split(batch_size: int, ranks: int) -> None:
    """Raise UsageError when the batch cannot be shared evenly."""
    if batch_size % ranks:
        raise UsageError(
            f"a batch of {batch_size} cannot be shared by {ranks} processes",
            hint=f"use --batch-size {-(-batch_size // ranks) * ranks}",
        )


@dataclass(frozen=True)
class Estimate:
    """Measured on one batch, scaled to the run."""

    seconds_a_step: float
    gigabytes: float
    trainable: int
    frozen: int

    def text(self, steps: int) -> str:
        """One line for the log."""
        seconds = self.seconds_a_step * steps
        shown = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
        return (
            f"{self.trainable / 1e6:.2f} M weights learn, {self.frozen / 1e6:.2f} M are fixed; "
            f"about {self.gigabytes:.1f} GB and {self.seconds_a_step:.2f} s a step, "
            f"{steps} steps: {shown}"
        )


def measure(
    objective: Objective, accelerator: Accelerator, batch_size: int, accumulate: int
) -> Estimate:
    """Time and memory of a step, from one forward and backward pass of one batch.

    Gradients are dropped again; nothing is learned. The first pass warms caches up, so a
    quick one is timed a second time.
    """
    share = batch_size // accelerator.num_processes
    device = accelerator.device
    module = objective.module.to(device)
    parameters = list(objective.parameters().values())
    seconds = _timed_pass(objective, module, accelerator, share)
    if seconds < 5:
        seconds = _timed_pass(objective, module, accelerator, share)
    for parameter in parameters:
        parameter.grad = None
    trainable = sum(p.numel() for p in parameters)
    every = sum(p.numel() for p in module.parameters())
    # AdamW keeps two moments, and the moving average one more copy
    optimiser_bytes = 3 * 4 * trainable
    return Estimate(
        seconds * accumulate,
        (_peak_bytes(device) + optimiser_bytes) / 1e9,
        trainable,
        every - trainable,
    )


def _timed_pass(
    objective: Objective, module: nn.Module, accelerator: Accelerator, share: int
) -> float:
    started = time.monotonic()
    batch = objective.batch(0, 0, share, accelerator.device)
    for losses in losses_of(objective, module, batch, accelerator):
        torch.autograd.backward(losses.mean())
    if accelerator.device.type == "cuda":
        torch.cuda.synchronize()
    return time.monotonic() - started


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
