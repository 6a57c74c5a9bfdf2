"""Which device and number type a request gets."""

from __future__ import annotations

import pytest
import torch

from rsgen.devices import device_name, number_type
from rsgen.errors import SetupError


@pytest.mark.parametrize(
    ("asked", "visible", "expected"),
    [
        ("auto", False, "cpu"),
        ("auto", True, "cuda"),
        ("cpu", True, "cpu"),
        ("cuda", True, "cuda"),
    ],
)
def test_device(asked: str, visible: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a GPU that is taken though the CPU was asked for, or left idle."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: visible)
    assert device_name(asked) == expected


def test_a_missing_gpu_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a run that was sent to a GPU and computes on the CPU in silence."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SetupError, match="no CUDA device"):
        device_name("cuda")


@pytest.mark.parametrize(
    ("asked", "device", "expected"),
    [("auto", "cpu", "fp32"), ("auto", "cuda", "bf16"), ("fp16", "cuda", "fp16")],
)
def test_number_type(asked: str, device: str, expected: str) -> None:
    """Catches half precision where nobody asked for it."""
    assert number_type(asked, device) == expected
