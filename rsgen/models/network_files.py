"""Networks of a pipeline folder: opened whole from safetensors, or refused with the reason."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel, DDIMScheduler
from safetensors import SafetensorError
from safetensors.torch import load_file

from rsgen.errors import OutOfMemory, SetupError
from rsgen.models.architecture import lone_weights
from rsgen.models.exact_hint import keep_exact

__all__ = [
    "open_layout_branch",
    "open_network",
    "open_part",
    "open_schedule",
    "parts_of",
]


def parts_of(folder: Path) -> set[str]:
    """Names of the parts that a pipeline folder has."""
    row = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    return {k for k, v in row.items() if isinstance(v, list) and v[0] is not None}


def open_part(kind: Any, folder: Path, **options: Any) -> Any:
    """`from_pretrained` without network or pickles; its failures name the folder."""
    if not folder.is_dir():
        raise SetupError(f"{folder} is missing", hint="download or train the whole model again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return kind.from_pretrained(str(folder), local_files_only=True, **options)
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(f"{folder}: too little memory to load it") from error
    except Exception as error:  # each library raises its own kinds for a damaged file
        reason = str(error).strip().splitlines()
        raise SetupError(
            f"{folder}: cannot be opened as {kind.__name__} "
            f"({type(error).__name__}: {reason[0] if reason else ''})",
            hint="download or train the whole model again",
        ) from error


def open_network(kind: Any, folder: Path, dtype: torch.dtype) -> Any:
    options: dict[str, Any] = {"dtype": dtype, "use_safetensors": True}
    half_only = not any(p for p in folder.glob("*.safetensors") if ".fp16." not in p.name)
    if half_only and any(folder.glob("*.fp16.safetensors")):
        options["variant"] = "fp16"
    return open_part(kind, folder, **options)


def open_layout_branch(folder: Path, dtype: torch.dtype) -> Any:
    """A ControlNet, whole or refused; one that reads grey levels reads them in fp32.

    Its weights may have any name where they are alone: people copy them so.
    """
    lone = lone_weights(folder)
    if lone is None:
        opened = open_part(ControlNetModel, folder, use_safetensors=True, output_loading_info=True)
        network, missing = opened[0], opened[1]["missing_keys"]
    else:
        network, missing = _renamed(folder, lone)
    if missing:
        raise SetupError(
            f"{folder}: its weights lack {len(missing)} tensors of a ControlNet: "
            f"{min(missing)}, ...",
            hint="download the folder again",
        )
    return keep_exact(network, dtype)


def _renamed(folder: Path, weights: Path) -> tuple[Any, list[str]]:
    """The network of a folder's config.json with weights of any name; what they lack."""
    try:
        network = ControlNetModel.from_config(  # type: ignore[no-untyped-call]
            json.loads((folder / "config.json").read_text())
        )
        found = network.load_state_dict(load_file(weights), strict=False)
        if found.unexpected_keys:
            raise ValueError(f"unknown tensor {found.unexpected_keys[0]}")
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise SetupError(
            f"{weights}: not the weights of a ControlNet ({type(error).__name__}: {reason})",
            hint="give the ControlNet's own config.json and weights",
        ) from error
    return network, list(found.missing_keys)


def open_schedule(folder: Path) -> Any:
    """The folder's noise schedule as DDIM, which trains and samples alike."""
    scheduler = open_part(DDIMScheduler, folder)
    # Latents are not bounded by 1; some configurations of pixel models say otherwise.
    scheduler.register_to_config(clip_sample=False)
    return scheduler
