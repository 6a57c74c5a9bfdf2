"""What a mask backend is, and what every backend's masks go through."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from rsgen.geometry import Box, Quad, as_array, polygon_area
from rsgen.mask import Mask
from rsgen.records import ClassTable, Instance

__all__ = ["CORRECTION", "MaskBackend", "Pixels", "cut_to_quad", "resolve_contested", "tightness"]

Pixels = npt.NDArray[np.uint8]
CORRECTION = "correction"  # origin of a mask that a person has drawn: no backend makes it anew


class MaskBackend(Protocol):
    """Gives labelled instances a mask each; a plug-in group (`rsgen.mask_backends`)."""

    name: str

    def annotate(
        self, image: Pixels, known: Sequence[Instance], labels: ClassTable
    ) -> list[Instance]:
        """One instance for each of `known`, in the same order.

        `image` is uint8 [H, W, 3] RGB; coordinates are its pixels, half-open edges. A result
        has a mask, `scores["mask"]` in [0, 1] and an origin (the backend's name, or `box`
        with a reason where it fell back); an instance that no mask could be made for comes
        back without one and with a reason.
        """
        ...


def tightness(instance: Instance) -> float:
    """Area of the label's own outline (quad, else box) in pixels: the smaller is tighter."""
    if instance.quad is not None:
        return abs(polygon_area(instance.quad))
    box = instance.bounds()
    return box.area if box is not None else float("inf")


def cut_to_quad(mask: Mask | None, quad: Quad) -> Mask | None:
    """The part of a mask inside a quad (pixel centres); None when nothing is left."""
    if mask is None:
        return None
    inside = Mask.from_polygons([as_array(quad) - (mask.x0, mask.y0)], mask.width, mask.height)
    if inside is None:
        return None
    return Mask.from_array(mask.crop() & inside.to_array(mask.width, mask.height), mask.x0, mask.y0)


def _overlap(a: Box, b: Box) -> bool:
    return a.x0 < b.x1 and b.x0 < a.x1 and a.y0 < b.y1 and b.y0 < a.y1


def resolve_contested(
    instances: Sequence[Instance],
    made: Sequence[bool],
    labels: ClassTable,
    tidy: Callable[[int, Mask], Mask] | None = None,
) -> list[Instance]:
    """Gives each contested pixel to the instance with the tighter box or quad.

    Only masks that were `made` here lose pixels: a mask that came with the label is kept as
    it is and wins against made ones. Stuff takes no part. A mask that loses everything is
    dropped with the reason `covered`. `tidy` (number, what is left) -> what the instance keeps
    of that: what it gives up others may have.
    """
    order = sorted(
        (k for k, i in enumerate(instances) if i.mask is not None and not labels.is_stuff(i.label)),
        key=lambda k: (made[k], tightness(instances[k]), k),
    )
    boxes = {k: mask.box for k in order if (mask := instances[k].mask) is not None}
    result, settled = list(instances), list[int]()
    for k in order:
        mask = instances[k].mask
        if made[k] and mask is not None:
            pixels = mask.crop()
            for other in settled:
                rival = result[other].mask
                if rival is not None and _overlap(boxes[k], boxes[other]):
                    rival.shift(-mask.x0, -mask.y0).paint(pixels, False)
            left = Mask.from_array(pixels, mask.x0, mask.y0)
            if left is None:
                result[k] = replace(
                    instances[k], mask=None, reasons=(*instances[k].reasons, "covered")
                )
            elif tidy is not None or left != mask:
                result[k] = replace(instances[k], mask=tidy(k, left) if tidy else left)
        settled.append(k)
    return result
