"""A hint network that stays in fp32: what it reads are steps of 1/255.

bf16 keeps eight bits, so between the layers of the network, whose activations are larger than
these steps, neighbouring class indices would run together.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding
from torch import Tensor, nn

__all__ = ["Remembered", "has_grey_hints", "is_exact", "keep_exact"]

GREY_CHANNELS = 3  # of `index` and `binary`; one-hot channels need no such care
EMBEDDING = "controlnet_cond_embedding"


class ExactEmbedding(ControlNetConditioningEmbedding):
    """The same network and weights, computed in fp32 also under autocast.

    What it gives has the number type of the rest, so that nothing after it changes.
    """

    output_type: torch.dtype

    def forward(self, conditioning: Tensor) -> Tensor:
        kind = conditioning.device.type
        wanted = self.output_type
        autocast: Any = contextlib.nullcontext()
        if kind != "meta" and torch.is_autocast_enabled(kind):
            wanted = torch.get_autocast_dtype(kind)
            autocast = torch.autocast(kind, enabled=False)
        with autocast:
            exact: Tensor = super().forward(conditioning.to(next(self.parameters()).dtype))
        return exact.to(wanted)


def keep_exact(controlnet: Any, dtype: torch.dtype) -> Any:
    """Give a ControlNet, which is in fp32, this number type, but not its grey hint network."""
    embedding = getattr(controlnet, EMBEDDING)
    exact = has_grey_hints(controlnet)
    for name, part in controlnet.named_children():
        if not (exact and name == EMBEDDING):
            part.to(dtype)
    if exact:
        embedding.__class__ = ExactEmbedding  # names of weights stay as in any ControlNet
        embedding.output_type = dtype
    return controlnet


def has_grey_hints(controlnet: Any) -> bool:
    """Whether classes come as grey levels, so that the hint network belongs in fp32."""
    return int(controlnet.config.conditioning_channels) == GREY_CHANNELS


def is_exact(controlnet: Any) -> bool:
    """Whether conditions must reach it in fp32."""
    embedding = getattr(controlnet, EMBEDDING)
    return isinstance(getattr(embedding, "layer", embedding), ExactEmbedding)


class Remembered(nn.Module):
    """A layer whose input is the same tensor step after step: computed once."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self._last: tuple[Tensor | None, Tensor | None] = (None, None)

    def forward(self, value: Tensor) -> Tensor:
        if value is not self._last[0]:
            self._last = (value, self.layer(value))
        result = self._last[1]
        assert result is not None
        return result
