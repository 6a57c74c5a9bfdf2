"""A small mask pool of drawn shapes, for planner tests."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from rsgen.pool import MaskPool
from rsgen.pool.table import mask_id
from rsgen.records import ClassTable, ObjectClass

BoolImage = npt.NDArray[np.bool_]

SCENE_LIKE = ClassTable(
    (
        ObjectClass("plane", ("airplane", "aircraft")),
        ObjectClass("ship", ("boat",)),
        ObjectClass("storage-tank", ("oil-tank",), symmetric=True),
        ObjectClass("small-vehicle", ("car",)),
        ObjectClass("large-vehicle", ("truck",)),
        ObjectClass("tennis-court", symmetric=True),
        ObjectClass("swimming-pool", symmetric=True),
        ObjectClass("water", kind="stuff"),
        ObjectClass("road", kind="stuff"),
        ObjectClass("grass", kind="stuff"),
        ObjectClass("pavement", kind="stuff"),
    )
)
# label -> (along, across) in metres, and in pixels of a 0.5 m image
SIZES_M = {
    "plane": (20.0, 18.0),
    "ship": (18.0, 5.0),
    "storage-tank": (12.0, 12.0),
    "small-vehicle": (5.0, 2.5),
    "large-vehicle": (11.0, 3.0),
    "tennis-court": (24.0, 11.0),
    "swimming-pool": (9.0, 5.0),
}


def shape(label: str, width: int, height: int) -> BoolImage:
    """A shape whose front (+x) and left can be told apart, touching all four sides."""
    y, x = np.mgrid[0:height, 0:width]
    u, v = (x + 0.5) / width, (y + 0.5) / height
    if label == "plane":
        body = np.abs(v - 0.5) < 0.12
        wing = (u > 0.4) & (u < 0.62)
        return np.asarray(body | wing)
    if label in {"ship", "small-vehicle", "large-vehicle"}:
        return np.asarray(np.abs(v - 0.5) < np.minimum(0.51, 1.6 * (1.02 - u)))
    if label == "tennis-court":
        return np.ones((height, width), dtype=bool)
    return np.asarray((u - 0.5) ** 2 + (v - 0.5) ** 2 <= 0.255)


def pool(
    classes: ClassTable = SCENE_LIKE,
    labels: tuple[str, ...] | None = None,
    *,
    gsd_m: float | None = 0.5,
    sources: tuple[str, ...] = ("a.png", "b.png", "c.png"),
    scale: float = 1.0,
) -> MaskPool:
    """One mask a class and source, each a little larger than the one before."""
    rows = []
    for label in labels or tuple(SIZES_M):
        along, across = SIZES_M[_known(label)]
        for k, source in enumerate(sources):
            width, height = (round(side * scale / 0.5) + k for side in (along, across))
            pixels = shape(_known(label), width, height)
            code = coco_mask.encode(np.asfortranarray(pixels.astype(np.uint8)))
            counts = bytes(code["counts"])
            rows.append(
                {
                    "id": mask_id(label, width, height, counts),
                    "label": label,
                    "width": width,
                    "height": height,
                    "counts": counts,
                    "width_px": float(width),
                    "height_px": float(height),
                    "gsd_m": gsd_m,
                    "area": int(pixels.sum()),
                    "score": 1.0,
                    "solidity": 1.0,
                    "pose": "box" if classes.resolve(label).symmetric else "heading",
                    "origin": "polygon",
                    "sources": [source],
                }
            )
    return MaskPool.of_rows(rows, classes)


def _known(label: str) -> str:
    return SCENE_LIKE.resolve(label).name if SCENE_LIKE.find(label) else "swimming-pool"
