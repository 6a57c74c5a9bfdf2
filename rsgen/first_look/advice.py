"""From what was found to the values of a first pipeline file."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from rsgen.first_look.findings import Findings
from rsgen.formats.tiling import needs_tiling
from rsgen.hints import counted
from rsgen.models.base import EMBEDDED, model_side, model_step

__all__ = ["FEW_SHAPES", "HUB_MODEL", "Advice", "advise"]

HUB_MODEL = "hub:stable-diffusion-v1-5/stable-diffusion-v1-5"
HUB_FACTOR, HUB_SIDE, HUB_STEP = 8, 512, 64
TINY_FACTOR = 4
LARGEST_TINY = 256  # four times the work of 128; beyond that a CPU takes too long
TILE = 1024  # what extract-masks' `tile: auto` means
ROOM = 0.75  # share of a canvas that a large object may take
PASSES, BATCH = 20, 8
STEPS = (400, 2000)
IMAGES = (64, 500)
FEW_SHAPES = 20
EXPORT = {
    "masks": ("coco", "yolo-seg"),
    "oriented": ("coco", "dota", "yolo-obb"),
    "boxes": ("coco", "yolo"),
}


@dataclass(frozen=True)
class Advice:
    """Values for the file; `cells` are latent pixels of the median object, tiny's and SD's."""

    size: int
    steps: int
    count: int
    formats: tuple[str, ...]
    tiled: bool
    cells: float | None
    hub_size: int
    hub_cells: float | None
    few: tuple[str, ...]  # classes with too few shapes to learn from
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def advise(found: Findings) -> Advice:
    """Size by the objects, steps and counts by the images, formats by the kind of label."""
    step = model_step(EMBEDDED)
    side = min(found.least_side, TILE)
    tiny = _side(found.long_px, model_side(EMBEDDED), LARGEST_TINY, side, step)
    hub = max(HUB_STEP, min(HUB_SIDE, side // HUB_STEP * HUB_STEP))
    train = found.splits.get("train", 0)
    stuff = any(c.kind == "stuff" and c.objects for c in found.classes)
    few = tuple(c.name for c in found.classes if 0 < c.train < FEW_SHAPES and c.kind == "thing")
    return Advice(
        size=tiny,
        steps=int(min(max(round(PASSES * train / BATCH), STEPS[0]), STEPS[1])),
        count=min(max(2 * train, IMAGES[0]), IMAGES[1]),
        formats=("coco", "masks") if stuff else EXPORT[found.label_kind],
        tiled=needs_tiling(found.largest_side, found.largest_side, TILE),
        cells=None if found.median_px is None else found.median_px / TINY_FACTOR,
        hub_size=hub,
        hub_cells=None if found.median_px is None else found.median_px / HUB_FACTOR,
        few=few,
        warnings=tuple(_warnings(found, tiny, train, few)),
    )


def _side(long_px: float | None, least: int, most: int, image: int, step: int) -> int:
    """The model's own side, or larger where objects would not fit; never above the images'."""
    wanted = least
    if long_px is not None:
        wanted = min(max(least, math.ceil(long_px / ROOM / 32) * 32), most)
    return max(step, min(wanted, image // step * step))


def _warnings(found: Findings, size: int, train: int, few: tuple[str, ...]) -> list[str]:
    lines = []
    if 0 < train < 20:
        lines.append(f"{counted(train, 'image')} to learn from: few, so expect copies")
    if few:
        lines.append(
            f"fewer than {FEW_SHAPES} objects to learn from: {', '.join(few)}; leave such classes "
            "out of the first run, or label more"
        )
    if found.long_px is not None and found.long_px > size:
        lines.append(
            f"a quarter of the objects is longer than {found.long_px:.0f} px, more than the "
            f"{size} px canvas of this file: they will be cut or made smaller; a GPU model has "
            f"{HUB_SIDE} px"
        )
    if found.median_px is not None and found.median_px < 2 * TINY_FACTOR:
        lines.append(
            f"the median object is {found.median_px:.0f} px: too small to be painted well "
            f"(under 2 latent pixels of {TINY_FACTOR} px)"
        )
    return lines
