"""What a training run needs to go on exactly where it stopped, without pickles.

OUT/state/step-00000200/{weights,optimizer,average}.safetensors + state.json. All randomness
of a step follows from (seed, step), so there is no generator state to keep.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rsgen.models.weight_files import share_weights

__all__ = [
    "TrainingState",
    "fill_optimizer",
    "latest_state",
    "load_state",
    "optimizer_tensors",
    "plain",
    "save_state",
]

KEPT_STATES = 2


@dataclass(frozen=True)
class TrainingState:
    """Counters beside the tensors: `history` holds the loss of every finished step."""

    step: int
    history: tuple[float, ...]
    average_steps: int
    loss_scale: Mapping[str, float]


def save_state(
    folder: Path,
    state: TrainingState,
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    average: Sequence[Tensor] | None,
) -> Path:
    """Write one state atomically and drop all but the newest two; returns its folder.

    Args:
        parameters: trainable parameters by name, in the optimizer's order.
        average: their moving averages in the same order, or None.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"step-{state.step:08d}"
    if target.is_dir():
        return target
    temporary = folder / f".tmp-{target.name}"
    if temporary.is_dir():
        shutil.rmtree(temporary)
    temporary.mkdir()
    save_file(
        {name: plain(p.data) for name, p in parameters.items()},
        temporary / "weights.safetensors",
    )
    save_file(optimizer_tensors(parameters, optimizer), temporary / "optimizer.safetensors")
    if average is not None:
        save_file(
            {name: plain(t) for name, t in zip(parameters, average, strict=True)},
            temporary / "average.safetensors",
        )
    history = torch.tensor(state.history, dtype=torch.float64)
    save_file({"loss": history}, temporary / "history.safetensors")
    share_weights(temporary)
    counters = {
        "step": state.step,
        "average_steps": state.average_steps,
        "loss_scale": dict(state.loss_scale),
    }
    (temporary / "state.json").write_text(json.dumps(counters, sort_keys=True), encoding="utf-8")
    temporary.replace(target)
    for old in _states(folder)[:-KEPT_STATES]:
        shutil.rmtree(old)
    return target


def latest_state(folder: Path) -> Path | None:
    """The newest complete state, or None."""
    states = _states(folder)
    return states[-1] if states else None


def load_state(
    folder: Path,
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    average: Sequence[Tensor] | None,
) -> TrainingState:
    """Fill parameters, optimizer and averages from a state folder; returns its counters."""
    weights = load_file(folder / "weights.safetensors")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
    fill_optimizer(parameters, optimizer, load_file(folder / "optimizer.safetensors"))
    if average is not None:
        averages = load_file(folder / "average.safetensors")
        for name, tensor in zip(parameters, average, strict=True):
            tensor.copy_(averages[name])
    counters = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    history = load_file(folder / "history.safetensors")["loss"]
    return TrainingState(
        int(counters["step"]),
        tuple(history.tolist()),
        int(counters["average_steps"]),
        dict(counters["loss_scale"]),
    )


def plain(tensor: Tensor) -> Tensor:
    """A dense copy in the default memory order, as safetensors wants it."""
    return tensor.detach().cpu().contiguous().clone()


def _states(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("step-*") if (p / "state.json").is_file())


def optimizer_tensors(
    parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> dict[str, Tensor]:
    """What an optimiser remembers, as `parameter:key` -> tensor, dense on the CPU."""
    found = {}
    for name, parameter in parameters.items():
        for key, value in optimizer.state.get(parameter, {}).items():
            found[f"{name}:{key}"] = plain(torch.as_tensor(value))
    return found


def fill_optimizer(
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, Tensor],
) -> None:
    """Give an optimiser back what `optimizer_tensors` wrote."""
    optimizer.state.clear()
    for joined, value in tensors.items():
        name, key = joined.rsplit(":", 1)
        parameter = parameters[name]
        if value.shape == parameter.shape and value.ndim > 0:
            # moments follow the parameter's memory order, or the fused update reads them wrong
            moment = torch.empty_like(parameter)
            moment.copy_(value)
            value = moment
        optimizer.state[parameter][key] = value
