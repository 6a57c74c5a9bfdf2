"""Opening a transformers model so that it is either whole or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rsgen.devices import memory_error
from rsgen.errors import SetupError
from rsgen.models.processing import silence_transformers

__all__ = ["load_whole"]


def load_whole(
    kind: Any, folder: Path, name: str, device: str, hint: str = "download the folder again"
) -> Any:
    """A model of a transformers class in fp32 on a device, to be used and not trained.

    Args:
        name: what the model is called in messages. hint: where no such model can be made.

    Raises:
        SetupError: files do not make such a model, or weights are missing (transformers would
            go on with random numbers). OutOfMemory: it does not fit.
    """
    silence_transformers()
    try:
        model, said = kind.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            dtype=torch.float32,
        )
        missing = sorted(said["missing_keys"])
        if not missing:
            model = model.to(device).eval().requires_grad_(False)
    except Exception as error:  # transformers raises a dozen kinds over a bad folder
        raise memory_error(error) or SetupError(
            f"{folder}: not a {name} model that can be loaded "
            f"({type(error).__name__}: {(str(error) or '-').splitlines()[0]})",
            hint=hint,
        ) from error
    if missing:
        raise SetupError(
            f"{folder}: its weights lack {len(missing)} tensors of {name}: {missing[0]}, ...",
            hint="download the folder again",
        )
    return model
