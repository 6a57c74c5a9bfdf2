"""What a tuning run needs to go on exactly where it stopped, without pickles.

OUT/state/epoch-00000003/{weights,optimizer,best,critic,critic_optimizer,rewards,pool}.safetensors
and state.json. A state is of the end of an epoch: its images are not kept, but for those that
the next epoch learns from once more. Everything random follows from (seed, epoch, position), so
there is no generator state to keep.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rsgen.errors import DataError
from rsgen.models.weight_files import share_weights
from rsgen.training.state import plain

__all__ = ["SavedState", "latest", "load", "save"]

KEPT_STATES = 2
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class SavedState:
    """`counters`: plain JSON. `tensors`: by file name, then by tensor name."""

    epoch: int
    counters: Mapping[str, Any]
    tensors: Mapping[str, Tensors]


def save(folder: Path, state: SavedState) -> Path:
    """Write a state atomically and drop all but the newest two; returns its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"epoch-{state.epoch:08d}"
    if target.is_dir():
        return target
    temporary = folder / f".tmp-{target.name}"
    if temporary.is_dir():
        shutil.rmtree(temporary)
    temporary.mkdir()
    for name, tensors in state.tensors.items():
        if tensors:
            save_file({k: plain(v) for k, v in tensors.items()}, temporary / f"{name}.safetensors")
    share_weights(temporary)
    row = {"epoch": state.epoch, **state.counters}
    (temporary / "state.json").write_text(json.dumps(row, sort_keys=True), encoding="utf-8")
    temporary.replace(target)
    for old in _states(folder)[:-KEPT_STATES]:
        shutil.rmtree(old)
    return target


def latest(folder: Path) -> Path | None:
    """The newest complete state, or None."""
    states = _states(folder)
    return states[-1] if states else None


def load(folder: Path) -> SavedState:
    """Read one state.

    Raises:
        DataError: its files cannot be read.
    """
    try:
        row = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        tensors = {p.stem: load_file(p) for p in sorted(folder.glob("*.safetensors"))}
        epoch = int(row.pop("epoch"))
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise DataError(
            f"{folder}: a saved state that cannot be read ({error})",
            hint="remove this folder: the run goes on from the state before it",
        ) from error
    return SavedState(epoch, row, tensors)


def _states(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("epoch-*") if (p / "state.json").is_file())
