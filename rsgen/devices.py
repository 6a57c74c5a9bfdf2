"""Which device and number type a run computes with, from what was asked for."""

from __future__ import annotations

from rsgen.errors import OutOfMemory, SetupError

__all__ = ["device_name", "memory_error", "number_type"]


def device_name(asked: str) -> str:
    """auto, cpu or cuda -> cpu or cuda; auto takes a GPU where one is visible.

    Raises:
        SetupError: CUDA was asked for and is not there.
    """
    if asked == "cpu":
        return "cpu"
    import torch

    available = torch.cuda.is_available()
    if asked == "cuda" and not available:
        raise SetupError(
            "--device cuda: no CUDA device is visible", hint="use --device cpu, or see rsgen doctor"
        )
    return "cuda" if available else "cpu"


def number_type(asked: str, device: str) -> str:
    """fp32, bf16 or fp16; auto is bf16 on CUDA and fp32 on a CPU."""
    if asked == "auto":
        return "bf16" if device == "cuda" else "fp32"
    return asked


def memory_error(error: BaseException) -> OutOfMemory | None:
    """The error as OutOfMemory when a device or the machine had too little; else None."""
    import torch

    text = str(error)
    on_cpu = isinstance(error, RuntimeError) and "not enough memory" in text
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or on_cpu:
        return OutOfMemory(f"out of memory: {text.splitlines()[0] if text else 'no detail'}")
    return None
