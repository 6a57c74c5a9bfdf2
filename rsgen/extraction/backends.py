"""The life of a mask backend: named in the settings, opened once a worker, then used.

A backend is a class without arguments that has `annotate` (see `MaskBackend`). One that runs
a network also has, on the class: `uses_torch = True`, `batch_size`, `model_hashes(settings)`
(name -> hash, for the request) and `open(setup)`, which returns it with its model loaded. One
that runs a program of the user's has `runs_command = True` and `open`; `instead` names the
backend for images that it cannot do (a failure each).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rsgen.errors import UsageError
from rsgen.extraction.base import MaskBackend, Pixels
from rsgen.records import ClassTable, Instance
from rsgen.registry import names, resolve
from rsgen.settings import ExtractMasksConfig
from rsgen.workers.process import Worker

__all__ = ["BackendSetup", "backend_class", "check_backend", "open_backend"]


@dataclass(frozen=True)
class BackendSetup:
    """What a backend is opened with: the command's settings, and the plan's device.

    `device` is cpu or cuda; `dtype` fp32, bf16 or fp16; `batch_size` prompts at once;
    `classes` the table of the labels, where a stage opens it.
    """

    settings: ExtractMasksConfig
    device: str = "cpu"
    dtype: str = "fp32"
    batch_size: int = 16
    classes: ClassTable | None = None


class AutoBackend:
    """Keeps masks that came with the label and makes the others by `classical`."""

    name = "auto"

    def annotate(
        self, image: Pixels, known: Sequence[Instance], labels: ClassTable
    ) -> list[Instance]:
        given = _made("polygon").annotate(image, known, labels)
        kept = [g if k.mask is not None else k for g, k in zip(given, known, strict=True)]
        if all(k.mask is not None for k in known):
            return kept
        return _made("classical").annotate(image, kept, labels)


def _made(name: str) -> MaskBackend:
    made: MaskBackend = resolve("mask_backends", name)()
    return made


def backend_class(name: str) -> Any:
    """The class behind a name of `--backend`.

    Raises:
        UsageError, SetupError: unknown, or its package is missing.
    """
    return AutoBackend if name == "auto" else resolve("mask_backends", name)


def check_backend(settings: ExtractMasksConfig) -> None:
    """Refuse what no run could do, before any work; no weights are looked at.

    Raises:
        UsageError: unknown backend, a model or command without its backend, or a backend
        without one. SetupError: there is no such program.
    """
    name, kind = settings.backend, backend_class(settings.backend)
    runs_model = hasattr(kind, "model_hashes")
    if settings.model is not None and not runs_model:
        with_model = _backends_with("model_hashes")
        raise UsageError(
            f"extract_masks.model {settings.model!r}: backend {name!r} runs no model",
            hint=f"leave --model out, or add --backend {' or '.join(with_model)}",
        )
    if settings.model is None and runs_model:
        raise UsageError(
            f"backend {name!r} needs a model",
            hint=f"add --model, as in --model {getattr(kind, 'example_model', 'FOLDER')}",
        )
    _check_command(settings, kind)
    if settings.detector is not None and not getattr(kind, "takes_detector", False):
        raise UsageError(
            f"extract_masks.detector {settings.detector!r}: backend {name!r} asks no detector",
            hint=f"leave it out, or add --backend {' or '.join(_backends_with('takes_detector'))}",
        )


def _check_command(settings: ExtractMasksConfig, kind: Any) -> None:
    runs_command = getattr(kind, "runs_command", False)
    if settings.command is not None and not runs_command:
        raise UsageError(
            f"extract_masks.command {settings.command!r}: backend {settings.backend!r} runs no "
            "program",
            hint=f"leave it out, or add --backend {' or '.join(_backends_with('runs_command'))}",
        )
    if settings.command is None and runs_command:
        raise UsageError(
            f"backend {settings.backend!r} needs a program",
            hint="add --command 'python worker.py'; see rsgen templates workers/remotesam.py",
        )
    if settings.command is not None:
        Worker(settings.command)  # it starts with its first question


def _backends_with(attribute: str) -> list[str]:
    return [n for n in names("mask_backends") if hasattr(backend_class(n), attribute)]


def open_backend(setup: BackendSetup) -> MaskBackend:
    """The backend of the settings, with its model loaded where it has one."""
    kind = backend_class(setup.settings.backend)
    opener = getattr(kind, "open", None)
    made: MaskBackend = kind() if opener is None else opener(setup)
    return made
