"""The UNet in two parts gives the bits of the whole, on the shapes that Stable Diffusion has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch import Tensor

from rsgen.errors import UsageError
from rsgen.models.base import Residuals
from rsgen.models.unet_parts import check_unet, decode_up, decoder_parts, encode_down, held
from tests.build_models import small_model


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small networks lose time to threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny_shaped() -> Any:
    """Three levels of one layer, text on the lower two."""
    return small_model(2).unet


def sd_shaped(**changes: Any) -> Any:
    """Stable Diffusion 1.5's blocks, 1/40 as wide."""
    torch.manual_seed(0)
    options: dict[str, Any] = {
        "sample_size": 16,
        "block_out_channels": (8, 16, 16, 16),
        "cross_attention_dim": 16,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
        **changes,
    }
    return UNet2DConditionModel(**options)  # type: ignore[no-untyped-call]


def sd2_shaped() -> Any:
    """Stable Diffusion 2's: linear projections, heads by level."""
    return sd_shaped(use_linear_projection=True, attention_head_dim=(1, 2, 2, 2))


def inputs(unet: Any, side: tuple[int, int], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    width = unet.config.cross_attention_dim
    noisy = torch.randn(2, 4, *side, generator=generator).to(dtype)
    text = torch.randn(2, 5, width, generator=generator).to(dtype)
    return noisy, torch.tensor([3, 801]), text


def steering(unet: Any, values: tuple[Tensor, Tensor, Tensor]) -> Residuals:
    """Residuals of a ControlNet whose zero joints are filled."""
    torch.manual_seed(2)
    controlnet: Any = ControlNetModel.from_unet(
        unet, conditioning_embedding_out_channels=(4, 8), conditioning_channels=3
    )
    for parameter in controlnet.parameters():
        if not bool(parameter.any()):
            torch.nn.init.normal_(parameter, std=0.1)
    noisy = values[0]
    hint = torch.rand(2, 3, 2 * noisy.shape[2], 2 * noisy.shape[3]).to(noisy.dtype)
    down, middle = controlnet.to(noisy.dtype)(*values, controlnet_cond=hint, return_dict=False)
    return Residuals(tuple(d.detach() for d in down), middle.detach())


@pytest.mark.parametrize("residuals", [True, False], ids=["steered", "alone"])
@pytest.mark.parametrize("side", [(16, 16), (16, 20), (13, 18)], ids=["square", "wide", "odd"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("build", [tiny_shaped, sd_shaped, sd2_shaped])
def test_the_parts_give_the_bits_of_the_whole(
    build: Callable[[], Any], dtype: torch.dtype, side: tuple[int, int], residuals: bool
) -> None:
    """Catches a skip at the wrong layer, a middle added twice, a side that was rounded."""
    unet = build().to(dtype)
    values = inputs(unet, side, dtype)
    with torch.no_grad():
        more = steering(unet, values) if residuals else None
        whole = unet(
            *values,
            down_block_additional_residuals=more and more.down,
            mid_block_additional_residual=None if more is None else more.middle,
        ).sample
        state = encode_down(unet, *values)
        assert torch.equal(decode_up(unet, state, more), whole)
        assert torch.equal(decode_up(unet, state, more), whole), "the state was changed by a call"


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
def test_gradients_are_those_of_the_whole(checkpointing: bool) -> None:
    """Catches a decoder that is recomputed otherwise, and gradients that stop at the residuals."""
    unet = sd_shaped().train()
    values = inputs(unet, (16, 16), torch.float32)
    unet.requires_grad_(False)
    for part in decoder_parts(unet):
        part.requires_grad_(True)
    more = steering(unet, values)
    leaves = [d.requires_grad_(True) for d in (*more.down, more.middle)]
    more = Residuals(tuple(leaves[:-1]), leaves[-1])
    unet(
        *values,
        down_block_additional_residuals=more.down,
        mid_block_additional_residual=more.middle,
    ).sample.square().mean().backward()
    learning = [*leaves, *(p for p in unet.parameters() if p.requires_grad)]
    expected = [p.grad.clone() for p in learning if p.grad is not None]
    assert len(expected) == len(learning)
    for parameter in learning:
        parameter.grad = None
    if checkpointing:
        unet.enable_gradient_checkpointing()
    with torch.no_grad():
        state = encode_down(unet, *values)
    decode_up(unet, state, more).square().mean().backward()
    for parameter, gradient in zip(learning, expected, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, gradient, rtol=0, atol=0)


def test_autocast_gives_the_bits_of_the_whole() -> None:
    """Catches a part that computes in another number type than the whole does."""
    unet = sd_shaped()
    values = inputs(unet, (16, 16), torch.float32)
    more = steering(unet, values)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        whole = unet(
            *values,
            down_block_additional_residuals=more.down,
            mid_block_additional_residual=more.middle,
        ).sample
        assert torch.equal(decode_up(unet, encode_down(unet, *values), more), whole)


def test_held_parameters_learn_again() -> None:
    """Catches layers that were fixed before, learning after; and the others, staying fixed."""
    unet = sd_shaped()
    unet.up_blocks[0].requires_grad_(False)
    before = [p.requires_grad for p in unet.parameters()]
    with pytest.raises(KeyError), held(decoder_parts(unet)):
        assert not any(p.requires_grad for p in unet.up_blocks.parameters())
        assert all(p.requires_grad for p in unet.down_blocks.parameters())
        raise KeyError
    assert [p.requires_grad for p in unet.parameters()] == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_class_embeds": 3}, "num_class_embeds=3"),
        ({"class_embed_type": "timestep"}, "class_embed_type=timestep"),
        (
            {
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": 4,
                "projection_class_embeddings_input_dim": 24,
            },
            "addition_embed_type=text_time",
        ),
        ({"encoder_hid_dim": 8, "encoder_hid_dim_type": "text_proj"}, "encoder_hid_dim"),
        ({"time_cond_proj_dim": 8}, "time_cond_proj_dim"),
        ({"center_input_sample": True}, "center_input_sample"),
        ({"attention_type": "gated", "cross_attention_dim": 16}, "attention_type=gated"),
        ({"mid_block_type": None}, "no middle block"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_unets_are_refused(changes: dict[str, Any], words: str) -> None:
    """Catches an SDXL that is trained without its size, or a class that is not looked at."""
    with pytest.raises(UsageError, match=words):
        check_unet(sd_shaped(**changes))


@pytest.mark.parametrize("build", [tiny_shaped, sd_shaped, sd2_shaped])
def test_stable_diffusion_is_taken(build: Callable[[], Any]) -> None:
    """Catches a refusal of what can be split."""
    check_unet(build())
