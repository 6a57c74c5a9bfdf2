"""From labelled images to a pool of shapes: scenes, extract-masks, build-mask-pool."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rsgen.settings.base import Section

__all__ = [
    "BuildMaskPoolConfig",
    "ExtractMasksConfig",
    "ScenesConfig",
]


class ScenesConfig(Section):
    """Procedural labelled scenes."""

    count: int = Field(200, ge=1, description="how many scenes")
    size: int = Field(256, ge=32, le=8192, description="side in pixels")
    style: Literal["default", "alt"] = Field("default", description="palette and texture set")
    types: tuple[str, ...] = Field((), description="scene types (default: all in turn)")
    gsd_m: float | None = Field(None, gt=0, description="metres a pixel (default: by scene)")
    held_out: bool = Field(
        True, description="a tenth of the scenes each are val and test; false: all are train"
    )


class ExtractMasksConfig(Section):
    """Labelled images in any format -> samples with one scored mask an instance."""

    format: str = Field("auto", description="input format (auto: by content)")
    backend: str = Field(
        "auto", description="auto (polygon where the label has a shape, else classical), or a name"
    )
    model: str | None = Field(
        None,
        description="model of backends sam (SAM, SAM 2) and text-prompted (CLIPSeg; SAM with a "
        "detector): a folder or hub:ORG/NAME",
    )
    detector: str | None = Field(
        None,
        description="text-prompted, SAM: zero-shot detector that makes loose boxes tight first "
        "(Grounding DINO, OWL-ViT): a folder or hub:ORG/NAME",
    )
    command: str | None = Field(
        None, description="backend worker: the program that makes masks, as 'python worker.py'"
    )
    command_limit_s: float = Field(
        300.0, gt=0, description="seconds the program may take for an image (5 times for the first)"
    )
    object_px: int = Field(
        96,
        ge=16,
        le=256,
        description="least long side of an object in SAM's input; more: finer masks, more crops",
    )
    classes: str | None = Field(None, description="class list file or template name")
    class_map: dict[str, str] = Field(
        default_factory=dict, description="rename classes on reading: their=ours"
    )
    gsd_m: float | None = Field(None, gt=0, description="metres a pixel of the input")
    min_area_px: int = Field(
        16, ge=1, description="semantic masks: least pixels of an object (a connected part)"
    )
    label_key: str | None = Field(
        None, description="property of vector labels that names the class (default: found)"
    )
    label_name: str | None = Field(
        None, description="class of features of vector labels that name none"
    )
    voc_base: Literal["auto", 0, 1] = Field(
        "auto", description="VOC boxes: 1 = pixels from 1 (VOC), 0 = edges from 0 (auto: by zeros)"
    )
    captions: str | None = Field(
        None,
        description="model that gives objects captions: CLIP or SigLIP, a folder or hub:ORG/NAME",
    )
    phrases: str = Field(
        "colours",
        description="candidate phrases of captions: a template's name or a YAML file",
    )
    tile: int | Literal["auto", "none"] = Field(
        "auto", description="tile side for large scenes (auto: 1024)"
    )
    tile_gap: int = Field(
        128, ge=0, description="overlap of neighbouring tiles in pixels (at most half a tile)"
    )
    tile_keep: float = Field(
        0.3, gt=0, le=1, description="least share of an object's area that a tile must hold"
    )
    overlay: int = Field(60, ge=0, description="pictures on the overlay page, worst first")
    license: str | None = Field(
        None, description="licence of images and labels (SPDX id or URL), for data set cards"
    )


class BuildMaskPoolConfig(Section):
    """Samples -> pool of instance shapes."""

    min_score: float = Field(0.25, ge=0, le=1, description="least mask score")
    min_area_px: int = Field(24, ge=1, description="least mask area in pixels")
    min_solidity: float = Field(0.35, ge=0, le=1, description="least area / convex hull area")
    max_hole_share: float = Field(0.25, ge=0, le=1, description="most holes / filled area")
    allow_truncated: bool = Field(False, description="keep objects cut by the border")
    allow_fallback: bool = Field(
        False, description="keep class-typical shapes that stand in for a mask (origin box)"
    )
    max_per_class: int = Field(20000, ge=1, description="cap a class (a fair draw by seed)")
