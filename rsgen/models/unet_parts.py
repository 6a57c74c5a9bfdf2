"""A UNet in two parts, so that what is frozen is computed once and what learns as often as needed.

`decode_up(unet, encode_down(unet, x, t, text), residuals)` gives the bits of
`UNet2DConditionModel.forward` with the same ControlNet residuals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from rsgen.errors import UsageError
from rsgen.models.base import Residuals

__all__ = ["EncoderState", "check_unet", "decode_up", "decoder_parts", "encode_down", "held"]

# Entries of a UNet's configuration that add steps to its forward pass which are not made here.
UNHANDLED = (
    "class_embed_type",
    "num_class_embeds",
    "addition_embed_type",
    "encoder_hid_dim_type",
    "encoder_hid_dim",
    "time_cond_proj_dim",
    "center_input_sample",
)


@dataclass(frozen=True)
class EncoderState:
    """What the decoder needs: one skip a down layer, the middle's output, time and text."""

    skips: tuple[Tensor, ...]
    middle: Tensor
    embedding: Tensor
    text: Tensor


def check_unet(unet: Any) -> None:
    """Raise UsageError for a UNet that is conditioned on more than time and text."""
    found = [f"{key}={unet.config[key]}" for key in UNHANDLED if unet.config.get(key)]
    if unet.config.get("attention_type", "default") != "default":
        found.append(f"attention_type={unet.config['attention_type']}")
    if unet.mid_block is None:
        found.append("no middle block")
    if found:
        raise UsageError(
            f"a UNet with {', '.join(found)} cannot be split into encoder and decoder",
            hint="use a Stable Diffusion 1.x or 2.x base, or train.method=plain",
        )


def decoder_parts(unet: Any) -> list[nn.Module]:
    """The modules that `decode_up` runs and `encode_down` does not."""
    return [unet.up_blocks, unet.conv_norm_out, unet.conv_out]


def encode_down(unet: Any, noisy: Tensor, timesteps: Tensor, text: Tensor) -> EncoderState:
    """Time embedding, down blocks and middle block.

    Args:
        noisy: [N, C, h, w]. timesteps: [N]. text: hidden states [N, L, D].
    """
    embedding = unet.time_embedding(unet.get_time_embed(sample=noisy, timestep=timesteps))
    if unet.time_embed_act is not None:
        embedding = unet.time_embed_act(embedding)
    sample = unet.conv_in(noisy)
    skips = [sample]
    for block in unet.down_blocks:
        sample, given = block(hidden_states=sample, temb=embedding, **_attended(block, text))
        skips += given
    sample = unet.mid_block(sample, embedding, **_attended(unet.mid_block, text))
    return EncoderState(tuple(skips), sample, embedding, text)


def decode_up(unet: Any, state: EncoderState, residuals: Residuals | None = None) -> Tensor:
    """Up blocks and output layers on skips and middle plus residuals; [N, C, h, w].

    Residuals are added out of place, so one state serves several calls.
    """
    skips, sample = list(state.skips), state.middle
    if residuals is not None:
        skips = [skip + more for skip, more in zip(skips, residuals.down, strict=True)]
        sample = sample + residuals.middle
    # an odd side was rounded up on its way down: then the skips say how large it was
    multiple = 2**unet.num_upsamplers
    told = any(side % multiple for side in state.skips[0].shape[-2:])
    for block in unet.up_blocks:
        count = len(block.resnets)
        own, skips = skips[-count:], skips[:-count]
        sample = block(
            hidden_states=sample,
            temb=state.embedding,
            res_hidden_states_tuple=tuple(own),
            upsample_size=skips[-1].shape[2:] if told and skips else None,
            **_attended(block, state.text),
        )
    if unet.conv_norm_out:
        sample = unet.conv_act(unet.conv_norm_out(sample))
    output: Tensor = unet.conv_out(sample)
    return output


@contextmanager
def held(parts: list[nn.Module]) -> Iterator[None]:
    """Within it the parameters get no gradient; inputs do.

    A backward pass through a graph made inside must end inside as well: gradient checkpointing
    computes the layers again, and finds other tensors saved once the parameters learn again.
    """
    learning = [p for part in parts for p in part.parameters() if p.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


def _attended(block: Callable[..., Any], text: Tensor) -> dict[str, Tensor]:
    """The text, for blocks that look at it."""
    return {"encoder_hidden_states": text} if getattr(block, "has_cross_attention", False) else {}
