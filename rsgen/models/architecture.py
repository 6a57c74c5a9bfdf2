"""What the configuration files of a model say: its family, its sides, and what fits it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rsgen.errors import SetupError, UsageError

__all__ = [
    "check_channels",
    "check_fit",
    "lone_weights",
    "model_family",
    "model_side",
    "model_step",
]

FAMILIES = {
    "StableDiffusionControlNetPipeline": "stable-diffusion",
    "StableDiffusionPipeline": "stable-diffusion",
}
BRANCH = "ControlNetModel"
# What a ControlNet shares with the UNet that it was copied from; another value is another model.
SHARED = (
    "cross_attention_dim",
    "block_out_channels",
    "layers_per_block",
    "down_block_types",
    "attention_head_dim",
    "in_channels",
    "addition_embed_type",
)
# By the width of the text encoder's states.
KNOWN = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "Stable Diffusion XL"}


def model_family(folder: Path, name: str | None = None) -> str:
    """The registry name of what runs a pipeline folder; `name` is what messages call it.

    Raises:
        UsageError: no whole pipeline, or of a family that rsgen cannot run.
        SetupError: its index cannot be read.
    """
    path, name = folder / "model_index.json", name or str(folder)
    if not path.is_file():
        kind = _configuration(folder).get("_class_name", "single network")
        raise UsageError(
            f"{name}: a {kind} alone, where a whole pipeline is needed",
            hint="give a Stable Diffusion 1.x or 2.x pipeline: hub:ORG/NAME, a folder, or tiny",
        )
    try:
        found = str(json.loads(path.read_text(encoding="utf-8"))["_class_name"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SetupError(
            f"{path}: not a diffusers pipeline index ({error!r})", hint="download the model again"
        ) from error
    if found not in FAMILIES:
        raise UsageError(
            f"{name}: a {found}; rsgen runs {', '.join(FAMILIES)}",
            hint="choose a Stable Diffusion 1.x or 2.x model",
        )
    return FAMILIES[found]


def check_fit(branch: Path, base: Path, name: str, base_name: str) -> None:
    """Raise UsageError, in one line, where a folder is no ControlNet, or not one for this base.

    Args:
        branch: the folder of the bare ControlNet. base: of the whole pipeline.
    """
    own = _configuration(branch)
    kind = str(own.get("_class_name", BRANCH))
    if kind != BRANCH:
        raise UsageError(
            f"{name}: a {kind}, not a {BRANCH}",
            hint="give a ControlNet of Stable Diffusion 1.x or 2.x, or a whole pipeline",
        )
    model_family(base, base_name)
    unet = _configuration(base / "unet")
    other = [
        f"{key} {_short(own[key])} and not {_short(unet[key])}"
        for key in SHARED
        if key in own and key in unet and own[key] != unet[key]
    ]
    if other:
        meant = KNOWN.get(_number(own.get("cross_attention_dim")))
        raise UsageError(
            f"{name} does not fit {base_name}: {', '.join(other)}",
            hint=f"it was made for {meant}: give such a model as --base"
            if meant in (KNOWN[768], KNOWN[1024]) and "cross_attention_dim" in other[0]
            else "give the base that it was trained on, or a ControlNet of this base",
        )


def check_channels(branch: Path, channels: int, condition: str, name: str) -> None:
    """Raise UsageError where a ControlNet takes another number of condition channels."""
    expected = _number(_configuration(branch).get("conditioning_channels", 3))
    if expected != channels:
        raise UsageError(
            f"condition `{condition}` has {channels} channels, the ControlNet expects {expected}: "
            f"{name}",
            hint="set -s generate.condition=binary, index or classes",
        )


def _number(value: object) -> int:
    return value if isinstance(value, int) else -1


def _short(value: object) -> str:
    return "/".join(map(str, value)) if isinstance(value, list) else str(value)


def lone_weights(folder: Path) -> Path | None:
    """The one safetensors file of a network that diffusers would not find by its name."""
    files = sorted(folder.glob("*.safetensors"))
    usual = any(path.name.startswith("diffusion_pytorch_model.") for path in files)
    return files[0] if len(files) == 1 and not usual else None


def model_side(folder: Path) -> int:
    """Side in pixels that a pipeline folder was trained at, from its configuration files."""
    unet = _configuration(folder / "unet")
    return int(unet.get("sample_size") or 64) * _factor(folder)


def model_step(folder: Path) -> int:
    """Image sides must be multiples of this: every level halves the grid once more."""
    levels = len(_configuration(folder / "unet").get("block_out_channels", (0,) * 4))
    return int(_factor(folder) * 2 ** (levels - 1))


def _factor(folder: Path) -> int:
    levels = len(_configuration(folder / "vae").get("block_out_channels", (0,) * 4))
    return int(2 ** (levels - 1))


def _configuration(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise SetupError(
            f"{folder}: no readable config.json ({error})", hint="download the model again"
        ) from error
