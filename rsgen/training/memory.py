"""The memory that each choice of trainable weights takes on a GPU, counted before the start.

A step runs on meta tensors, which have shapes and number types but no values, and the bytes that
live at once are added up: nothing is allocated or measured. CUDA's mixed precision and its
attention, which keeps no N x N table, are followed by hand. Left out: the driver's own memory
(about half a gigabyte), workspaces of convolutions and what the allocator cannot reuse.
"""

from __future__ import annotations

import contextlib
import copy
import math
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from rsgen.models.exact_hint import has_grey_hints
from rsgen.models.image_hint import IMAGE_CHANNELS, ImageHintConvolution, add_image_slice
from rsgen.models.stable_diffusion import DTYPES, StableDiffusion
from rsgen.models.unet_parts import decoder_parts
from rsgen.training.diffusion import DiffusionLoss
from rsgen.training.distillation import DistillationLosses, DistillationSettings
from rsgen.training.setup import LORA_TARGETS, choose_weights, place_weights

__all__ = ["MODES", "LiveBytes", "Memory", "StepShape", "count_memory", "memory_note", "states"]

#: What may learn of the UNet, by method.
MODES = {"plain": ("frozen", "lora", "decoder", "full"), "of-diff": ("frozen", "lora", "decoder")}
MOMENT_BYTES = 8  # AdamW's two, float32
PROGRESS = 0.5  # of a dual-branch run: both branches are computed


@dataclass(frozen=True)
class StepShape:
    """What a step computes on: `batch` images of `size` pixels at once, on one device."""

    method: str
    batch: int
    size: int
    dtype: str
    checkpointing: bool
    average: bool = False
    lora_rank: int = 16
    learn_text: bool = False
    task: str = "controlnet"


@dataclass(frozen=True)
class Memory:
    """Bytes on the device in a training step.

    `weights` of every network; `gradients`, `moments` and moving `average` of what learns;
    `working`: what forward and backward passes hold on top at most; `update`: the same of the
    optimiser's update, which comes after them.
    """

    learning: int  # weights that learn
    weights: int
    gradients: int
    moments: int
    average: int
    working: int
    update: int

    @property
    def total(self) -> int:
        states = self.weights + self.gradients + self.moments + self.average
        return states + max(self.working, self.update)


def states(model: StableDiffusion, mode: str, shape: StepShape) -> Memory:
    """What lies on the device between two passes where `mode` of the UNet learns.

    `model` has no low-rank layers yet; its weights are not looked at.
    """
    networks = {name: _count(network) for name, network in model.networks().items()}
    low_rank = _low_rank(model, shape) if mode == "lora" else 0
    learning = {
        "unet": {
            "frozen": 0,
            "lora": low_rank,
            "decoder": sum(map(_count, decoder_parts(model.unet))),
            "full": networks["unet"],
        }[mode],
        "text_encoder": networks["text_encoder"] if shape.learn_text else 0,
    }
    if shape.task == "controlnet" and "controlnet" in networks:
        networks["controlnet"] += _slice_count(model, shape)
        learning["controlnet"] = networks["controlnet"]
    networks["unet"] += low_rank
    width = DTYPES[shape.dtype].itemsize
    # a network of which a part learns is kept in full precision as a whole
    weights = sum(n * (4 if learning.get(name) else width) for name, n in networks.items())
    count = sum(learning.values())
    return Memory(
        count,
        weights,
        4 * count,
        MOMENT_BYTES * count,
        4 * count if shape.average else 0,
        0,
        4 * count,  # one list of tensors as large as the weights
    )


def _count(network: Any) -> int:
    return sum(p.numel() for p in network.parameters())


def _low_rank(model: StableDiffusion, shape: StepShape) -> int:
    where = "up_blocks." if shape.method == "of-diff" else ""
    return sum(
        shape.lora_rank * (module.in_features + module.out_features)
        for name, module in model.unet.named_modules()
        if isinstance(module, nn.Linear) and name.startswith(where) and name.endswith(LORA_TARGETS)
    )


def _slice_count(model: StableDiffusion, shape: StepShape) -> int:
    """Weights still to come of the channels that real images enter by."""
    if (
        shape.method != "of-diff"
        or model.controlnet is None
        or model.condition_channels == IMAGE_CHANNELS
    ):
        return 0
    first = model.controlnet.controlnet_cond_embedding.conv_in
    if isinstance(first, ImageHintConvolution):
        return 0  # it is there already, and counted
    return int(IMAGE_CHANNELS * first.out_channels * math.prod(first.kernel_size))


def count_memory(model: StableDiffusion, mode: str, shape: StepShape) -> Memory:
    """The memory of a step where `mode` of the UNet learns; takes some seconds."""
    return replace(states(model, mode, shape), working=_working_bytes(model, mode, shape))


def memory_note(model: StableDiffusion, chosen: str, shape: StepShape, passes: bool) -> str:
    """What each choice of `train.unet` takes, in one line; `passes` counts those of `chosen`."""
    parts = []
    modes = MODES[shape.method] if shape.task == "controlnet" else MODES["plain"][1:]
    for mode in modes:
        found = states(model, mode, shape)
        mark = " (this run)" if mode == chosen else ""
        parts.append(
            f"{mode} {_gigabytes(found.total - found.update)} "
            f"for {found.learning / 1e6:.1f} M that learn{mark}"
        )
    text = (
        f"memory by train.unet, counted from shapes: {', '.join(parts)}: weights, gradients, "
        f"AdamW's moments{' and the moving average' if shape.average else ''} in {shape.dtype}"
    )
    if not passes:
        return text + "; the passes come on top"
    found = count_memory(model, chosen, shape)
    return (
        f"{text}; on top {_gigabytes(found.working)} for the passes of {shape.batch} images at "
        f"once, then {_gigabytes(found.update)} for the update: {_gigabytes(found.total)} in all, "
        f"{'with' if shape.checkpointing else 'without'} gradient checkpointing"
    )


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


# ---------------------------------------------------------------- a step without values


def _meta_model(model: StableDiffusion, mode: str, shape: StepShape) -> StableDiffusion:
    """The networks' shapes without their weights, ready to learn."""
    with torch.device("meta"):
        empty = StableDiffusion(
            unet=type(model.unet).from_config(model.unet.config),
            vae=type(model.vae).from_config(model.vae.config),
            text_encoder=type(model.text_encoder)(model.text_encoder.config),
            tokenizer=model.tokenizer,
            scheduler=model.scheduler,
            controlnet=None
            if model.controlnet is None
            else type(model.controlnet).from_config(model.controlnet.config),
        )
        if _slice_count(empty, shape):
            add_image_slice(empty.controlnet, 0)
        two_branches = shape.method == "of-diff"
        choose_weights(
            empty, shape.task, mode, shape.learn_text, shape.lora_rank, decoder_only=two_branches
        )
    place_weights(empty, "meta", shape.dtype, shape.checkpointing)
    if empty.controlnet is not None and has_grey_hints(empty.controlnet):
        hint = empty.controlnet.controlnet_cond_embedding
        empty.controlnet.controlnet_cond_embedding = _Exact(hint, DTYPES[shape.dtype])
    for network in empty.networks().values():
        for parameter in network.parameters():
            if parameter.requires_grad:  # of the batches before, when accumulated
                parameter.grad = torch.empty_like(parameter)
    return empty


def _working_bytes(full: StableDiffusion, mode: str, shape: StepShape) -> int:
    model = _meta_model(full, mode, shape)
    schedule = copy.deepcopy(model.noise_schedule())  # it moves its tables to the batch's device
    batch = _batch(model, shape)
    numbers = DTYPES[shape.dtype]
    tracker = LiveBytes()
    for network in (model.unet, model.controlnet):
        if network is None:
            continue
        network.train()
        if shape.checkpointing:
            network.enable_gradient_checkpointing(_checkpoint(numbers))
    with tracker:
        passes = _losses(model, schedule, batch, shape)
        while True:
            with _Autocast(numbers):
                losses = next(passes, None)
            if losses is None:
                return tracker.peak
            torch.autograd.backward(losses.mean())
            del losses


def _checkpoint(numbers: torch.dtype) -> Callable[..., Any]:
    """Gradient checkpointing that computes layers again with the same casts."""

    def run(layer: Callable[..., Any], *args: Any) -> Any:
        return checkpoint(
            layer,
            *args,
            use_reentrant=False,
            context_fn=lambda: (contextlib.nullcontext(), _Autocast(numbers)),
        )

    return run


def _losses(
    model: StableDiffusion, schedule: Any, batch: dict[str, Tensor], shape: StepShape
) -> Iterator[Tensor]:
    unet, text_encoder, controlnet = model.unet, model.text_encoder, model.controlnet
    if shape.method == "plain" or controlnet is None:
        yield DiffusionLoss(unet, text_encoder, controlnet, schedule, None)(batch)
        return
    settings = DistillationSettings(1, "linear", 1.0, False, None)
    losses = DistillationLosses(unet, text_encoder, controlnet, schedule, settings)
    yield from losses.passes(batch)


def _batch(model: StableDiffusion, shape: StepShape) -> dict[str, Tensor]:
    count, side = shape.batch, shape.size // model.factor
    with torch.device("meta"):
        batch = {
            "latents": torch.empty(count, model.latent_channels, side, side),
            "noise": torch.empty(count, model.latent_channels, side, side),
            "timesteps": torch.empty(count, dtype=torch.long),
            "tokens": torch.empty(
                count, model.text_encoder.config.max_position_embeddings, dtype=torch.long
            ),
            "weights": torch.empty(count, 1, side, side),
            "kept": torch.empty(count),
            "image": torch.empty(count, 3, shape.size, shape.size),
        }
        if model.condition_channels is not None:
            batch["condition"] = torch.empty(
                count, model.condition_channels, shape.size, shape.size
            )
    batch["progress"] = torch.tensor(PROGRESS)
    return batch


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the storages that are made within it, and remembers the most at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {id(t.untyped_storage()) for t in tree_leaves((args, kwargs)) if _is_meta(t)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if _is_meta(tensor) and id(tensor.untyped_storage()) not in before:
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: Any) -> None:
        size = storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._drop, size)

    def _drop(self, size: int) -> None:
        self.live -= size


def _is_meta(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_meta


LOWER: tuple[Callable[..., Any], ...] = (
    functional.conv2d,
    functional.linear,
    torch.matmul,
    torch.bmm,
    torch.baddbmm,
    Tensor.matmul,
    Tensor.__matmul__,
)
HIGHER: tuple[Callable[..., Any], ...] = (
    functional.group_norm,
    functional.layer_norm,
    functional.softmax,
    functional.mse_loss,
)


class _Exact(nn.Module):
    """A layer that mixed precision leaves alone (see models.exact_hint)."""

    def __init__(self, layer: nn.Module, numbers: torch.dtype) -> None:
        super().__init__()
        self.layer, self.numbers = layer, numbers

    def forward(self, value: Tensor) -> Tensor:
        with torch._C.DisableTorchFunction():
            exact: Tensor = self.layer(value)
        return exact.to(self.numbers)


class _Autocast(TorchFunctionMode):
    """What torch.autocast does on CUDA, for meta tensors; fp32 changes nothing but attention.

    Weights that learn are cast once and kept until its end, as there.
    """

    def __init__(self, numbers: torch.dtype) -> None:
        super().__init__()
        self.numbers, self.kept = numbers, dict[int, Tensor]()

    def __exit__(self, *reason: Any) -> None:
        self.kept.clear()
        super().__exit__(*reason)  # type: ignore[no-untyped-call]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is functional.scaled_dot_product_attention:
            query, key, value = (self._cast(t, self.numbers) for t in args[:3])
            return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[0]
        if self.numbers != torch.float32 and func in LOWER + HIGHER:
            wanted = self.numbers if func in LOWER else torch.float32
            args = tuple(self._cast(a, wanted) for a in args)
            kwargs = {name: self._cast(value, wanted) for name, value in kwargs.items()}
        return func(*args, **kwargs)

    def _cast(self, value: Any, wanted: torch.dtype) -> Any:
        if not _is_meta(value) or not value.is_floating_point() or value.dtype == wanted:
            return value
        if not (value.is_leaf and value.requires_grad and isinstance(value, nn.Parameter)):
            return value.to(wanted)
        if id(value) not in self.kept:
            self.kept[id(value)] = value.to(wanted)
        return self.kept[id(value)]
