"""Weights of other programs, kept by torch.save: the tensors alone, no code is run."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rsgen.devices import memory_error
from rsgen.errors import SetupError

__all__ = ["read_state"]


def read_state(file: Path) -> dict[str, Tensor]:
    """A state dict, or the one under `state_dict` of a training checkpoint.

    Raises:
        SetupError: not such a file, or it holds more than tensors.
    """
    try:
        found: Any = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise SetupError(
            f"{file}: it holds more than tensors, and opening that could run code; it was not "
            "opened",
            hint="take the file from where its authors publish it; weights are a plain state dict",
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise memory_error(error) or SetupError(
            f"{file}: not a file of torch.save that can be read "
            f"({(str(error) or type(error).__name__).splitlines()[0]})",
            hint="download it again; a TorchScript archive is not read",
        ) from error
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    tensors = isinstance(found, Mapping) and all(isinstance(t, Tensor) for t in found.values())
    if not tensors or not found:
        raise SetupError(
            f"{file}: not a state dict (names and tensors)", hint="give the plain weights"
        )
    return {str(name).removeprefix("module."): tensor for name, tensor in found.items()}
