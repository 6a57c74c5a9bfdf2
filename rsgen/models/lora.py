"""Adding the low-rank layers of an adapter's folder to the model that they are of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["WEIGHTS", "add_adapter"]

WEIGHTS = "pytorch_lora_weights.safetensors"


def add_adapter(networks: Mapping[str, Any], folder: Path, names: Sequence[str]) -> None:
    """Add the layers of a folder into the own weights of the networks that it names."""
    places = {"unet": (folder, "unet"), "controlnet": (folder / "controlnet", None)}
    for name in names:
        network = networks[name]
        where, prefix = places[name]
        network.load_lora_adapter(
            str(where),
            prefix=prefix,
            weight_name=WEIGHTS,
            adapter_name="default",
            local_files_only=True,
            use_safetensors=True,
        )
        network.fuse_lora()
        network.unload_lora()
