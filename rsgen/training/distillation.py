"""Learning with two branches (`method: of-diff`): one sees the layout, one the real image too.

Both are the same ControlNet and the same UNet decoder. Source: OF-Diff (arXiv 2508.10801),
section 3, and its parent Siamese-Diffusion (CVPR 2025), whose step copies the networks; here
nothing is copied and the losses and gradients are the same. With the paper's symbols:

    R_s = ControlNet(layout)                        student's residuals
    R_m = sg(R_s) + w(n / N) ControlNet(image)      teacher's residuals, each one after its joint
    L_s = |student - target|^2    L_m = |teacher - target|^2    L_c = |student - sg(teacher)|^2
    L   = L_s + L_m + lambda L_c (+ L_reg)

sg stops the gradient. The teacher's decoder is the student's of this very step and gets no
gradient from L_m, so that L_m teaches the ControlNet alone, and only what it makes of images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rsgen.losses import clean_from, level_weights, painting_error, prediction_target, ramp
from rsgen.models.base import Residuals
from rsgen.models.image_hint import IMAGE_CHANNELS
from rsgen.models.unet_parts import check_unet, decode_up, decoder_parts, encode_down, held
from rsgen.training.pairs import TrainingPairs
from rsgen.training.tally import Tally

__all__ = [
    "DistillationLosses",
    "DistillationObjective",
    "DistillationSettings",
    "image_hint",
    "mix",
]

# L_reg begins after this share of the steps, on levels up to this share of the schedule.
RECONSTRUCTION_START = 1 / 3
RECONSTRUCTION_LEVELS = 0.2


@dataclass(frozen=True)
class DistillationSettings:
    """`weight` is lambda of L_c; `steps` is N, the optimiser steps of the whole run."""

    steps: int
    ramp: str  # "linear" | "constant" | "cosine"
    weight: float
    reconstruct: bool
    snr_gamma: float | None
    local_weight: float = 0.0  # of the error on the foreground, in every term

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"a ramp needs a positive number of steps, got {self.steps}")


def image_hint(image: Tensor, condition_channels: int) -> Tensor:
    """The hint of a real image [N, 3, H, W] in [0, 1]: [zeros | image], or the image alone.

    Encodings of three channels share them with the image; wider ones have three more for it.
    """
    if condition_channels == IMAGE_CHANNELS:
        return image
    count, _, height, width = image.shape
    return torch.cat([image.new_zeros(count, condition_channels, height, width), image], dim=1)


def mix(student: Residuals, image: Residuals, weight: float) -> Residuals:
    """sg(R_s[k]) + weight R_i[k] for every residual; the gradient goes to the image's alone."""
    return Residuals(
        tuple(s.detach() + weight * i for s, i in zip(student.down, image.down, strict=True)),
        student.middle.detach() + weight * image.middle,
    )


class DistillationLosses(nn.Module):
    """The networks and the passes of a step."""

    def __init__(
        self,
        unet: Any,
        text_encoder: nn.Module,
        controlnet: nn.Module,
        noise_schedule: Any,
        settings: DistillationSettings,
    ) -> None:
        super().__init__()
        self.unet, self.text_encoder, self.controlnet = unet, text_encoder, controlnet
        self.noise_schedule, self.settings = noise_schedule, settings
        self.sums: dict[str, Tensor] = {}
        self.count = 0

    def passes(self, batch: Mapping[str, Tensor]) -> Iterator[Tensor]:
        """Losses [N]: L_m, then L_s + lambda L_c, then L_reg where it is due.

        Each must be backpropagated before the next is asked for: the graph of the layout's
        residuals lives from the first to the second, the decoder's parameters are held in the
        first. An object weight, min-SNR weight or dropped condition counts in every term.
        """
        schedule, settings = self.noise_schedule, self.settings
        latents, noise, steps = batch["latents"], batch["noise"], batch["timesteps"]
        condition, kept = batch["condition"], batch["kept"]
        noisy = schedule.add_noise(latents, noise, steps)
        target = prediction_target(schedule, latents, noise, steps)
        with torch.no_grad():
            text = self.text_encoder(batch["tokens"])[0]
            state = encode_down(self.unet, noisy, steps, text)
        own = self._control(noisy, steps, text, condition)
        progress = float(batch["progress"])
        with held(decoder_parts(self.unet)):
            hint = image_hint(batch["image"], condition.shape[1])
            seen = self._control(noisy, steps, text, hint)
            guide = decode_up(self.unet, state, mix(own, seen, ramp(settings.ramp, progress)))
            guided = kept * self._error(guide, target, batch)
            yield guided
        guide, guided = guide.detach(), guided.detach()
        del seen, hint
        student = decode_up(self.unet, state, own)
        plain = self._error(student, target, batch)
        follow = kept * self._error(student, guide, batch)
        yield plain + settings.weight * follow
        parts = {"L_s": plain, "L_m": guided, "L_c": follow}
        if settings.reconstruct and progress > RECONSTRUCTION_START:
            again = self._reconstruction(batch, noisy, guide, text)
            if again is not None:
                yield again
            parts["L_reg"] = torch.zeros_like(plain) if again is None else again
        self._note(parts)

    def _control(self, noisy: Tensor, steps: Tensor, text: Tensor, hint: Tensor) -> Residuals:
        down, middle = self.controlnet(noisy, steps, text, controlnet_cond=hint, return_dict=False)
        return Residuals(tuple(down), middle)

    def _error(self, prediction: Tensor, target: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        error = painting_error(prediction, target, batch, self.settings.local_weight)
        gamma = self.settings.snr_gamma
        return error * level_weights(self.noise_schedule, batch["timesteps"], gamma, error.dtype)

    def _reconstruction(
        self, batch: Mapping[str, Tensor], noisy: Tensor, guide: Tensor, text: Tensor
    ) -> Tensor | None:
        """L_reg [N]: the student's error on the teacher's reconstruction under the same noise.

        Siamese-Diffusion writes the input for noise predictions, z + s (e - e_teacher), which
        is a x_teacher + s e, and the target e. Here both are made from x_teacher and e, so that
        a model that predicts velocity gets the velocity of that pair: the same input and, since
        e' - e = a (v' - v) on one input, the same optimum. None where no level is low enough.
        """
        schedule = self.noise_schedule
        last = RECONSTRUCTION_LEVELS * schedule.config.num_train_timesteps
        due = (batch["timesteps"] <= last) & (batch["kept"] > 0)
        if not bool(due.any()):
            return None
        names = {"noise", "timesteps", "condition", "weights", "foreground", "scale"} & batch.keys()
        part = {name: batch[name][due] for name in names}
        noise, steps, text = part["noise"], part["timesteps"], text[due]
        clean = clean_from(schedule, noisy[due], guide[due].to(noisy.dtype), steps)
        again = schedule.add_noise(clean, noise, steps)
        with torch.no_grad():
            state = encode_down(self.unet, again, steps, text)
        student = decode_up(self.unet, state, self._control(again, steps, text, part["condition"]))
        error = self._error(student, prediction_target(schedule, clean, noise, steps), part)
        return error.new_zeros(len(due)).index_put((due,), error)

    def _note(self, parts: Mapping[str, Tensor]) -> None:
        for name, loss in parts.items():
            self.sums[name] = self.sums.get(name, 0.0) + loss.detach().mean()
        self.count += 1


class DistillationObjective:
    """Several losses a step; learns whatever has `requires_grad` set.

    That may be the ControlNet and the UNet's decoder or parts of it; encoder, autoencoder and
    text encoder are computed without gradient. An empty condition stands for any layout and is
    taught by L_s alone: the image's branch knows what such a sample must not be told.
    """

    def __init__(
        self,
        pairs: TrainingPairs,
        settings: DistillationSettings,
        *,
        unet: Any,
        text_encoder: nn.Module,
        controlnet: nn.Module,
        noise_schedule: Any,
    ) -> None:
        """Raises UsageError for a UNet that cannot be split."""
        check_unet(unet)
        self.pairs, self.settings = pairs, settings
        self.module = DistillationLosses(unet, text_encoder, controlnet, noise_schedule, settings)

    @property
    def tally(self) -> Tally | None:
        return self.pairs.tally

    def parameters(self) -> dict[str, nn.Parameter]:
        return {n: p for n, p in self.module.named_parameters() if p.requires_grad}

    def batch(self, step: int, start: int, stop: int, device: torch.device) -> dict[str, Tensor]:
        """The pairs with their images, and `progress` = step / steps, a number on the CPU."""
        batch = self.pairs.batch(step, start, stop, device)
        batch["progress"] = torch.tensor(step / self.settings.steps, dtype=torch.float64)
        return batch

    def passes(self, batch: Mapping[str, Tensor]) -> Iterator[Tensor]:
        """The losses [N] of a step, each to be backpropagated before the next is asked for."""
        return self.module.passes(batch)

    def parts(self) -> dict[str, Tensor]:
        """Mean of each term since the last call, by name; they stay on the device."""
        module = self.module
        means = {name: total / module.count for name, total in module.sums.items()}
        module.sums, module.count = {}, 0
        return means
