"""Scorer that extracts masks from an image again and compares them with the asked ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar

import numpy as np

from rsgen.errors import UsageError
from rsgen.extraction.backends import BackendSetup, backend_class, check_backend, open_backend
from rsgen.extraction.base import MaskBackend
from rsgen.images import Pixels
from rsgen.records import ClassTable, Layout, Sample, normal_name
from rsgen.scorers.base import FloatArray, Level, is_thing
from rsgen.settings import ExtractMasksConfig
from rsgen.workers.script import script_hashes

__all__ = ["Remask"]

BLIND = ("auto", "polygon")  # they keep given masks: with none given they do as `classical` does
FALLBACK = "box"


@dataclass(frozen=True)
class Remask:
    """IoU of the mask that is asked for and the one that the pixels show, an instance.

    The extraction backend gets the image and the labels without masks. 0 where it fell back
    on the box or found nothing: such a mask would repeat the label. NaN for stuff, crowds and
    objects that came without a mask.
    `backend`, `model`, `detector`, `command`, `command_limit_s`: as of extract-masks; `auto` and
    `polygon` are `classical` here, and SAM with a detector is `sam`: asked labels are tight. The
    label's box or quad is told to the backend, so a wrong place shows as a poor mask, not as a
    moved one.
    """

    level: ClassVar[Level] = "instance"
    from_real: ClassVar[Mapping[str, str]] = {
        "backend": "extract_masks.backend",
        "model": "extract_masks.model",
        "detector": "extract_masks.detector",
        "command": "extract_masks.command",
        "command_limit_s": "extract_masks.command_limit_s",
    }
    backend: str = "classical"
    model: str | None = None
    detector: str | None = None
    command: str | None = None
    command_limit_s: float = 300.0
    device: str = "cpu"

    @property
    def uses_torch(self) -> bool:
        return bool(getattr(backend_class(self._settings().backend), "uses_torch", False))

    def check(self) -> None:
        """Refuse an unknown backend, or one without its model."""
        if self.backend == FALLBACK:
            raise UsageError(
                "scorer remask: backend box looks at no pixels",
                hint="use classical, or sam with a model",
            )
        check_backend(self._settings())

    def model_hash(self) -> str:
        """Of weights, or of a program's scripts; empty for a backend with neither."""
        settings = self._settings()
        hashes: Mapping[str, str] = getattr(
            backend_class(settings.backend), "model_hashes", lambda _: {}
        )(settings)
        scripts = script_hashes(settings.command or "")
        return " ".join([*(hashes[name] for name in sorted(hashes)), *scripts])

    def _settings(self) -> ExtractMasksConfig:
        name = "classical" if self.backend in BLIND else self.backend
        if self.detector is not None and hasattr(backend_class(name), "takes_detector"):
            name = "sam"
        return ExtractMasksConfig(
            backend=name,
            model=self.model,
            command=self.command if hasattr(backend_class(name), "runs_command") else None,
            command_limit_s=self.command_limit_s,
        )

    def score(self, images: Pixels, samples: Sequence[Sample]) -> list[FloatArray]:
        backend = _opened(self._settings().model_dump_json(), self.device)
        rows = zip(images, samples, strict=True)
        return [_one(image, sample.layout, backend) for image, sample in rows]


@lru_cache(maxsize=1)
def _opened(settings_json: str, device: str) -> MaskBackend:
    settings = ExtractMasksConfig.model_validate_json(settings_json)
    return open_backend(BackendSetup(settings, device=device))


def _one(image: Pixels, layout: Layout, backend: MaskBackend) -> FloatArray:
    """All things are extracted together, as for the real set: neighbours share pixels."""
    scores = np.full(len(layout.instances), np.nan, dtype=np.float32)
    places = [k for k, i in enumerate(layout.instances) if is_thing(i)]
    if not places:
        return scores
    bare = [replace(layout.instances[k], mask=None, reasons=()) for k in places]
    table = ClassTable.of(*{normal_name(i.label): i.label for i in bare}.values())
    for k, found in zip(places, backend.annotate(image, bare, table), strict=True):
        asked = layout.instances[k].mask
        if asked is None:
            continue
        seen = found.mask if found.origin != FALLBACK else None
        scores[k] = 0.0 if seen is None else asked.iou(seen)
    return scores
