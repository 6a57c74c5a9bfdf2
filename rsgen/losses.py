"""Loss terms of the training tasks, all per sample, and their weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as functional
from torch import Tensor

from rsgen.composition.labels import owners
from rsgen.errors import UsageError
from rsgen.records import ClassTable, Layout

__all__ = [
    "clean_from",
    "foreground_cells",
    "gradient_difference",
    "kl_to_normal",
    "level_weights",
    "local_error",
    "min_snr_weight",
    "object_weights",
    "prediction_target",
    "painting_error",
    "ramp",
    "weighted_error",
]

# An object of this area gets the plain object weight; smaller ones up to twice as much.
REFERENCE_AREA_PX = 400.0


def gradient_difference(output: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference of horizontal and vertical image gradients, [N]."""
    difference = output - target
    across = (difference[..., :, 1:] - difference[..., :, :-1]).abs().mean(dim=(1, 2, 3))
    down = (difference[..., 1:, :] - difference[..., :-1, :]).abs().mean(dim=(1, 2, 3))
    return across + down


def kl_to_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL of N(mean, exp(log_variance)) from N(0, 1), summed over a sample's latent, [N]."""
    terms = mean.square() + log_variance.exp() - 1 - log_variance
    return 0.5 * terms.sum(dim=(1, 2, 3))


def object_weights(
    layout: Layout, classes: ClassTable, weight: float, factor: int
) -> npt.NDArray[np.float32]:
    """Loss weight of each latent cell, float32 [h, w], mean 1.

    1 on the background, `weight` on things (small ones up to twice its surplus), in between
    where an object covers a part of the cell of factor x factor pixels.
    """
    plane = np.zeros((layout.height, layout.width), dtype=np.float32)
    for instance in layout.instances:
        known = classes.find(instance.label)
        if instance.mask is None or (known is not None and known.kind == "stuff"):
            continue
        boost = float(np.clip(np.sqrt(REFERENCE_AREA_PX / instance.mask.area), 0.5, 2.0))
        instance.mask.paint(plane, (weight - 1) * boost)
    height, width = layout.height // factor, layout.width // factor
    cells = plane[: height * factor, : width * factor]
    pooled = cells.reshape(height, factor, width, factor).mean(axis=(1, 3)) + 1
    return np.asarray(pooled / pooled.mean(), dtype=np.float32)


def weighted_error(prediction: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Squared error with weights [N, 1, h, w] of mean 1, averaged over each sample, [N]."""
    kind = torch.promote_types(prediction.dtype, torch.float32)
    error = functional.mse_loss(prediction.to(kind), target.to(kind), reduction="none")
    return (error * weights).mean(dim=(1, 2, 3))


def foreground_cells(
    layout: Layout, classes: ClassTable, factor: int, stuff: bool = False
) -> npt.NDArray[np.float32]:
    """1 where a cell of factor x factor pixels holds any foreground, else 0; float32 [h, w].

    Foreground is what is seen of things, with `stuff` of all labels. Objects smaller than a
    cell stay: nearest or mean resizing would lose them.
    """
    counted = [False, *(stuff or not classes.is_stuff(i.label) for i in layout.instances)]
    plane = np.array(counted, dtype=bool)[owners(layout, classes)]
    height, width = layout.height // factor, layout.width // factor
    cells = plane[: height * factor, : width * factor].reshape(height, factor, width, factor)
    return np.asarray(cells.any(axis=(1, 3)), dtype=np.float32)


def local_error(prediction: Tensor, target: Tensor, foreground: Tensor) -> Tensor:
    """Mean squared error over the foreground cells [N, 1, h, w] of each sample alone, [N].

    0 for a sample without foreground. A large and a small foreground count the same.
    """
    kind = torch.promote_types(prediction.dtype, torch.float32)
    error = functional.mse_loss(prediction.to(kind), target.to(kind), reduction="none")
    values = prediction.shape[1] * foreground.sum(dim=(1, 2, 3))
    return (error * foreground).sum(dim=(1, 2, 3)) / values.clamp(min=1)


def painting_error(
    prediction: Tensor, target: Tensor, batch: Mapping[str, Tensor], local_weight: float
) -> Tensor:
    """The error over the image plus `local_weight` times that over the foreground, [N].

    A `scale` [N] of the batch evens out ranks of which one has more samples than another.
    """
    error = weighted_error(prediction, target, batch["weights"])
    if local_weight > 0:
        error = error + local_weight * local_error(prediction, target, batch["foreground"])
    return error * batch["scale"] if "scale" in batch else error


def prediction_target(schedule: Any, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """What a model of this schedule's prediction type should say, [N, C, h, w].

    Raises UsageError for other types than epsilon and v_prediction.
    """
    kind = schedule.config.prediction_type
    if kind == "epsilon":
        return noise
    if kind != "v_prediction":
        raise UsageError(
            f"a model that predicts {kind!r} cannot be trained",
            hint="use a base that predicts epsilon or v_prediction (scheduler_config.json)",
        )
    velocity: Tensor = schedule.get_velocity(clean, noise, timesteps)
    return velocity


def clean_from(schedule: Any, noisy: Tensor, prediction: Tensor, timesteps: Tensor) -> Tensor:
    """The clean latents that a prediction stands for, [N, C, h, w].

    With z = a x + s e: x = (z - s e) / a, and x = a z - s v for v = a e - s x. Source: Salimans
    & Ho 2022, "Progressive Distillation for Fast Sampling of Diffusion Models", appendix D.
    """
    powers: Tensor = schedule.alphas_cumprod
    power = powers.to(noisy)[timesteps][:, None, None, None]
    signal, level = power.sqrt(), (1 - power).sqrt()
    if schedule.config.prediction_type == "epsilon":
        return (noisy - level * prediction) / signal
    return signal * noisy - level * prediction


def level_weights(
    schedule: Any, timesteps: Tensor, gamma: float | None, dtype: torch.dtype
) -> Tensor | float:
    """Min-SNR weight a sample [N], or 1 without a gamma."""
    if gamma is None:
        return 1.0
    alphas = schedule.alphas_cumprod.to(timesteps.device, dtype)
    return min_snr_weight(alphas, timesteps, gamma, str(schedule.config.prediction_type))


def ramp(kind: str, progress: float) -> float:
    """Weight of a growing term at `progress` = step / steps: linear, cosine, or constant 1."""
    share = min(max(progress, 0.0), 1.0)
    if kind == "constant":
        return 1.0
    return share if kind == "linear" else 0.5 - 0.5 * math.cos(math.pi * share)


def min_snr_weight(
    alphas_cumprod: Tensor, timesteps: Tensor, gamma: float, prediction_type: str
) -> Tensor:
    """Min-SNR loss weight a sample, [N].

    Source: Hang et al. 2023, "Efficient Diffusion Training via Min-SNR Weighting Strategy",
    section 3.4; for v-prediction the weight is divided by SNR + 1 instead of SNR.
    """
    alpha = alphas_cumprod[timesteps]
    snr = alpha / (1 - alpha)
    bounded = torch.clamp(snr, max=gamma)
    return bounded / (snr + 1) if prediction_type == "v_prediction" else bounded / snr
