"""Backend `box`: the class's typical outline inscribed in the label, without looking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rsgen.extraction.base import Pixels, resolve_contested
from rsgen.extraction.patch import empty_patch, frame_of_label, least_mask, mask_from_field
from rsgen.extraction.shapes import family_of, templates
from rsgen.records import ClassTable, Instance

__all__ = ["BOX_SCORE", "BoxBackend"]

BOX_SCORE = 0.2  # an outline that nothing in the image supports
GRID = 96


class BoxBackend:
    """Typical shapes; every mask is flagged (`origin` "box" and a reason)."""

    name = "box"

    def annotate(
        self, image: Pixels, known: Sequence[Instance], labels: ClassTable
    ) -> list[Instance]:
        """The least bent outline of the class's family; given masks and stuff stay."""
        height, width = image.shape[:2]
        made = [i.mask is None and not labels.is_stuff(i.label) for i in known]
        filled = [
            _inscribed(instance, width, height) if new else instance
            for instance, new in zip(known, made, strict=True)
        ]
        return resolve_contested(filled, made, labels)


def _inscribed(instance: Instance, width: int, height: int) -> Instance:
    label = frame_of_label(instance, width, height)
    if label is None:
        return replace(instance, reasons=(*instance.reasons, "no box inside the image"))
    frame, pose = label
    options = templates(family_of(instance.label), frame.log_aspect, pose, GRID)
    field = options.fill[int(np.argmin(options.cost))]
    mask = mask_from_field(field, empty_patch(frame, GRID), width, height)
    return replace(
        instance,
        mask=mask or least_mask(frame, width, height),
        origin="box",
        scores={**instance.scores, "mask": BOX_SCORE},
        reasons=(*instance.reasons, "typical outline, the image was not used"),
    )
