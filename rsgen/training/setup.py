"""Which model is started from, which weights learn, and in which number types they live."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from rsgen import devices
from rsgen.condition import ConditionEncoding
from rsgen.errors import UsageError
from rsgen.models.base import ModelCard, ModelRef, load_model
from rsgen.models.image_hint import IMAGE_CHANNELS, add_image_slice
from rsgen.models.stable_diffusion import DTYPES, StableDiffusion
from rsgen.models.tiny import build_tiny
from rsgen.models.unet_parts import decoder_parts
from rsgen.models.weight_files import share_weights
from rsgen.records import ClassTable
from rsgen.request import item_seed
from rsgen.settings import TrainConfig

__all__ = [
    "card_encoding",
    "check_batch",
    "check_method",
    "choose_weights",
    "make_accelerator",
    "merge_lora",
    "number_type",
    "open_base",
    "place_weights",
    "prepare_controlnet",
    "save_lora",
]

LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
LORA_NAME = "default"


def number_type(asked: str, device: str) -> str:
    """fp32, bf16 or fp16; auto is bf16 on CUDA and fp32 on a CPU.

    Raises:
        UsageError: fp16 on a CPU, which cannot train with it.
    """
    if asked == "fp16" and device == "cpu":
        raise UsageError(
            "execution.dtype=fp16 cannot train on a CPU", hint="use -s execution.dtype=bf16"
        )
    return devices.number_type(asked, device)


def make_accelerator(device: str, dtype: str) -> Accelerator:
    """One Accelerator for CPU, one GPU, or the ranks that torchrun started."""
    # an earlier training of this process may have had another number type
    AcceleratorState._reset_state()
    return Accelerator(cpu=device == "cpu", mixed_precision="no" if dtype == "fp32" else dtype)


def check_batch(settings: TrainConfig) -> None:
    """Raise UsageError where what a batch is made of and another setting exclude each other."""
    fields = type(settings).model_fields
    if settings.batch == "plain" and settings.cf_comp != fields["cf_comp"].default:
        raise UsageError(
            "train.cf_comp belongs to train.batch=cf-comp",
            hint="add -s train.batch=cf-comp, or leave train.cf_comp out",
        )
    if settings.task != "autoencoder":
        return
    for name in ("batch", "local_loss", "category_weight", "class_balance"):
        value = getattr(settings, name)
        if value != fields[name].default:
            raise UsageError(
                f"train.{name}={value} is about labels, and train.task=autoencoder learns without",
                hint=f"leave train.{name} out",
            )


def check_method(settings: TrainConfig) -> None:
    """Raise UsageError where `train.method` and another setting exclude each other."""
    if settings.method == "plain":
        if settings.recon_augment:
            raise UsageError(
                "train.recon_augment belongs to train.method=of-diff",
                hint="add -s train.method=of-diff, or leave recon_augment out",
            )
        return
    if settings.task != "controlnet":
        raise UsageError(
            f"train.method=of-diff teaches a layout branch, train.task={settings.task} has none",
            hint="leave train.method out, or use -s train.task=controlnet",
        )
    if settings.unet == "full":
        raise UsageError(
            "train.method=of-diff computes the UNet's encoder once for both branches, fixed; "
            "train.unet=full would have it learn",
            hint="use -s train.unet=decoder, lora or frozen",
        )
    if settings.learn_text:
        raise UsageError(
            "train.method=of-diff does not teach the text encoder",
            hint="leave train.learn_text out; train.task=base teaches it",
        )


def open_base(settings: TrainConfig, reference: str | Path, seed: int) -> StableDiffusion:
    """The model to start from, in fp32.

    Raises:
        UsageError: `from_scratch` with a base whose architecture is not built here.
    """
    if settings.from_scratch:
        if str(reference) != "tiny":
            raise UsageError(
                f"train.from_scratch builds the architecture of 'tiny', not of {reference}",
                hint="use --base tiny, or leave from_scratch out",
            )
        return build_tiny(item_seed(seed, "train", "initial weights") % 2**31)
    ref = ModelRef("folder", str(reference)) if isinstance(reference, Path) else reference
    model = load_model(ref, device="cpu", dtype="fp32")
    if not isinstance(model, StableDiffusion):
        raise UsageError(f"training of {type(model).__name__} models is not supported")
    return model


def card_encoding(card: ModelCard | None) -> ConditionEncoding | None:
    """The condition encoding that a model was trained with; None for a public model."""
    if card is None:
        return None
    return ConditionEncoding.from_json({"name": card.condition, "slots": card.slots})


def prepare_controlnet(
    model: StableDiffusion, settings: TrainConfig, classes: ClassTable, seed: int
) -> ConditionEncoding:
    """Give the model a layout branch for this encoding; a fitting one of the base is kept."""
    base = card_encoding(model.card)
    if base is not None and base.name != settings.condition:
        base = None
    known = None if model.card is None else model.card.classes
    encoding = ConditionEncoding.for_classes(settings.condition, classes, base, known)
    if settings.from_scratch or model.condition_channels != encoding.channels:
        torch.manual_seed(item_seed(seed, "train", "controlnet") % 2**31)
        model.controlnet = model.fresh_controlnet(encoding.channels)
    if settings.method == "of-diff" and encoding.channels != IMAGE_CHANNELS:
        add_image_slice(model.controlnet, item_seed(seed, "train", "image slice") % 2**31)
    return encoding


def choose_weights(
    model: StableDiffusion,
    task: str,
    unet_mode: str,
    learn_text: bool,
    lora_rank: int,
    decoder_only: bool = False,
    seed: int = 0,
) -> None:
    """Set `requires_grad` everywhere; LoRA layers are added to the UNet where asked for.

    `decoder_only` keeps them out of the UNet's encoder; `seed` is what they start from.
    """
    for network in model.networks().values():
        network.requires_grad_(False)
    model.text_encoder.requires_grad_(learn_text)
    if task == "controlnet" and model.controlnet is not None:
        model.controlnet.requires_grad_(True)
    unet = model.unet
    if unet_mode == "full":
        unet.requires_grad_(True)
    elif unet_mode == "decoder":
        for part in decoder_parts(unet):
            part.requires_grad_(True)
    elif unet_mode == "lora":
        with torch.random.fork_rng(devices=[]):  # every rank must start from the same layers
            torch.manual_seed(item_seed(seed, "train", "lora") % 2**31)
            _add_lora(unet, lora_rank, decoder_only)


def _add_lora(unet: Any, rank: int, decoder_only: bool) -> None:
    from peft import LoraConfig

    names = "|".join(re.escape(name) for name in LORA_TARGETS)
    decoder = rf"up_blocks\..*\.({names})"

    unet.add_adapter(
        LoraConfig(
            r=rank,
            lora_alpha=rank,
            init_lora_weights="gaussian",
            target_modules=decoder if decoder_only else list(LORA_TARGETS),
        ),
        adapter_name=LORA_NAME,
    )


def place_weights(model: StableDiffusion, device: str, dtype: str, checkpointing: bool) -> None:
    """Move networks; what learns stays fp32, frozen ones take the run's type on a GPU."""
    for network in model.networks().values():
        learns = any(p.requires_grad for p in network.parameters())
        network.to(device, torch.float32 if learns or device == "cpu" else DTYPES[dtype])
    if checkpointing:
        model.unet.enable_gradient_checkpointing()
        if model.controlnet is not None:
            model.controlnet.enable_gradient_checkpointing()


def merge_lora(unet: Any, adapter_folder: Path) -> None:
    """Save the low-rank layers for other tools, then add them into the UNet's own weights."""
    save_lora(unet, adapter_folder)
    unet.fuse_lora()
    unet.unload_lora()


def save_lora(unet: Any, adapter_folder: Path) -> None:
    """Save the low-rank layers as diffusers' `load_lora_weights` reads them."""
    from diffusers import StableDiffusionPipeline
    from diffusers.utils.state_dict_utils import convert_state_dict_to_diffusers
    from peft import get_peft_model_state_dict

    to_diffusers: Any = convert_state_dict_to_diffusers
    layers = to_diffusers(get_peft_model_state_dict(unet))
    adapter_folder.mkdir(parents=True, exist_ok=True)
    StableDiffusionPipeline.save_lora_weights(
        str(adapter_folder), unet_lora_layers=layers, safe_serialization=True
    )
    share_weights(adapter_folder)
