"""Three more input channels for a layout branch while it learns from real images."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["IMAGE_CHANNELS", "ImageHintConvolution", "add_image_slice", "drop_image_slice"]

IMAGE_CHANNELS = 3


class ImageHintConvolution(nn.Module):
    """A convolution over [code | image] channels, kept as two: `code` as it was, and `image`.

    A hint of the code's channels alone gives what [code | zeros] gives, to the bit, because
    the code's convolution is computed by itself in both cases.
    """

    def __init__(self, code: nn.Conv2d) -> None:
        super().__init__()
        self.code = code
        self.image = nn.Conv2d(
            IMAGE_CHANNELS,
            code.out_channels,
            code.kernel_size,  # type: ignore[arg-type]
            padding=code.padding,  # type: ignore[arg-type]
            bias=False,
        )
        # Spread as one convolution over all channels starts. Zeros would learn too, but only
        # by the learning rate a step; and the ramp keeps a random start from being heard.
        fan_in = (code.in_channels + IMAGE_CHANNELS) * math.prod(code.kernel_size)
        nn.init.uniform_(self.image.weight, -(fan_in**-0.5), fan_in**-0.5)

    def forward(self, hint: Tensor) -> Tensor:
        """[N, K or K + 3, H, W] -> [N, D, H, W]."""
        channels = self.code.in_channels
        output: Tensor = self.code(hint[:, :channels])
        if hint.shape[1] > channels:
            output = output + self.image(hint[:, channels:])
        return output


def add_image_slice(controlnet: Any, seed: int) -> None:
    """Let a ControlNet take [code | image] hints; its own weights stay as they are."""
    embedding = controlnet.controlnet_cond_embedding
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        embedding.conv_in = ImageHintConvolution(embedding.conv_in)


def drop_image_slice(controlnet: Any) -> None:
    """Give a ControlNet its own first convolution back; nothing happens without a slice."""
    embedding = controlnet.controlnet_cond_embedding
    if isinstance(embedding.conv_in, ImageHintConvolution):
        embedding.conv_in = embedding.conv_in.code
