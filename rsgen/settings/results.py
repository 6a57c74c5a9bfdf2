"""What comes out: evaluate and export."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rsgen.settings.base import Section

__all__ = [
    "EvaluateConfig",
    "ExportConfig",
    "METRICS",
]


METRICS = (
    "layout",
    "fidelity",
    "classification",
    "shape",
    "suspicion",
    "copies",
    "failures",
)


class EvaluateConfig(Section):
    """Generated images against held real ones."""

    metrics: tuple[str, ...] = Field(
        METRICS, description="what to measure (downstream is asked for by name: it trains)"
    )
    features: str = Field(
        "judge",
        description="feature network of distances: judge, a vision model such as CLIP, or FID's "
        "Inception (doctor --convert-inception)",
    )
    detector: str = Field(
        "judge",
        description="who looks for objects: judge, a transformers detector (folder, hub:ORG/NAME) "
        "or 'command: PROGRAM'",
    )
    detector_limit_s: float = Field(60.0, gt=0, description="seconds a program may look")
    force_judge: bool = Field(False, description="measure with a judge made for rewards")
    downstream_steps: int = Field(400, ge=1, description="training steps of a downstream cell")
    downstream_seeds: int = Field(3, ge=1, description="repetitions of a downstream cell")
    downstream_ratios: tuple[float, ...] = Field(
        (0.5, 1.0), description="synthetic images a real one in downstream cells"
    )


class ExportConfig(Section):
    """Kept samples -> data sets on disk."""

    format: tuple[str, ...] = Field(("coco", "dota"), description="formats to write")
    split: str | None = Field(None, description="regroup by parent scene: 0.7/0.2/0.1")
    ratio: str | None = Field(None, description="real to synthetic, as 1:1 (with --with-real)")
    image_format: Literal["png", "jpg", "match-real"] = Field("png", description="image codec")
    jpg_quality: int = Field(92, ge=50, le=100, description="quality for jpg")
    include_unknown: bool = Field(False, description="export samples whose verdict is unknown")
    failed_objects: Literal["difficult", "keep", "drop"] = Field(
        "difficult",
        description="objects of kept images that failed a filter rule: mark, keep or leave out",
    )
    category_ids: str = Field("start=1", description="COCO ids: start=N or from=FILE")
    samples_per_shard: int = Field(1000, ge=1, description="samples a tar file of webdataset")
