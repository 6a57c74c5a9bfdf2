"""Which folders hold low-rank layers instead of a model, and what these are of.

FOLDER/pytorch_lora_weights.safetensors   of the UNet; diffusers' `load_lora_weights` opens it
FOLDER/controlnet/...safetensors          of the ControlNet, where it has some
FOLDER/adapter.json                       hash of the base, and which networks
"""

from __future__ import annotations

import json
from pathlib import Path

from rsgen.errors import DataError, UsageError

__all__ = ["ADAPTER_FILE", "check_base", "is_adapter", "write_adapter_file"]

ADAPTER_FILE = "adapter.json"
SCHEMA = 1


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds low-rank layers instead of a model."""
    return (folder / ADAPTER_FILE).is_file()


def write_adapter_file(folder: Path, base_hash: str, networks: list[str]) -> None:
    """Say what the layers of a folder are of."""
    row = {"schema": SCHEMA, "base": base_hash, "networks": sorted(networks)}
    text = json.dumps(row, indent=1, sort_keys=True) + "\n"
    (folder / ADAPTER_FILE).write_text(text, encoding="utf-8")


def check_base(folder: Path, base_hash: str) -> tuple[str, ...]:
    """The networks that an adapter is for.

    Raises:
        DataError: it does not say. UsageError: it is of another model than this base.
    """
    path = folder / ADAPTER_FILE
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
        wanted, networks = str(row["base"]), tuple(map(str, row["networks"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: does not say what the adapter is of ({error!r})", hint="restore the file"
        ) from error
    if wanted != base_hash:
        raise UsageError(
            f"{folder}: an adapter of the model {wanted[:8]}, and --base is {base_hash[:8]}",
            hint="give the checkpoint that it was tuned from as --base, or use the merged model "
            "beside the adapter: OUT/model",
        )
    return networks
