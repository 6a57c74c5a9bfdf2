"""Mask: the run-length code of a cropped instance, placed in an image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from rsgen.geometry import Array, Box, fill_polygon

__all__ = ["Mask"]

BoolImage = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Mask:
    """A binary mask: COCO compressed RLE `counts` of a height x width crop at (x0, y0).

    The crop is tight for masks made by `from_array` and `from_polygons`, so equality of
    fields is equality of pixels. Coordinates are whole pixels of the image's frame.
    """

    x0: int
    y0: int
    height: int
    width: int
    counts: bytes

    @classmethod
    def from_array(cls, array: npt.NDArray[Any], x0: int = 0, y0: int = 0) -> Mask | None:
        """From bool [H, W] whose top left pixel lies at (x0, y0); None when empty."""
        pixels = np.asarray(array, dtype=bool)
        rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
        if rows.size == 0:
            return None
        top, left = int(rows[0]), int(columns[0])
        crop = pixels[top : rows[-1] + 1, left : columns[-1] + 1]
        code = coco_mask.encode(np.asfortranarray(crop.astype(np.uint8)))
        return cls(x0 + left, y0 + top, crop.shape[0], crop.shape[1], bytes(code["counts"]))

    @classmethod
    def from_polygons(cls, parts: list[Array], width: int, height: int) -> Mask | None:
        """From polygons (half-open pixel frame, even-odd) clipped to an image; None when empty."""
        if not parts:
            return None
        points = np.concatenate([np.asarray(p, dtype=np.float64).reshape(-1, 2) for p in parts])
        x0 = int(np.clip(np.floor(points[:, 0].min()), 0, width))
        y0 = int(np.clip(np.floor(points[:, 1].min()), 0, height))
        x1 = int(np.clip(np.ceil(points[:, 0].max()), 0, width))
        y1 = int(np.clip(np.ceil(points[:, 1].max()), 0, height))
        if x1 <= x0 or y1 <= y0:
            return None
        shifted = [np.asarray(p, dtype=np.float64).reshape(-1, 2) - (x0, y0) for p in parts]
        return cls.from_array(fill_polygon(shifted, y1 - y0, x1 - x0), x0, y0)

    @classmethod
    def from_coco(cls, rle: Mapping[str, Any]) -> Mask | None:
        """From a full-canvas COCO RLE, compressed (str or bytes) or uncompressed (list)."""
        code = dict(rle)
        if isinstance(code["counts"], list):
            height, width = code["size"]
            code = coco_mask.frPyObjects(code, height, width)
        elif isinstance(code["counts"], str):
            code["counts"] = code["counts"].encode("ascii")
        return cls.from_array(coco_mask.decode(code))

    def to_coco(self, width: int, height: int) -> dict[str, Any]:
        """Compressed COCO RLE on a canvas of this size, `counts` as str."""
        code = coco_mask.encode(np.asfortranarray(self.to_array(width, height).astype(np.uint8)))
        return {"size": [height, width], "counts": code["counts"].decode("ascii")}

    def crop(self) -> BoolImage:
        """The crop itself, bool [height, width]."""
        code = {"size": [self.height, self.width], "counts": self.counts}
        return np.asarray(coco_mask.decode(code), dtype=bool)

    def to_array(self, width: int, height: int) -> BoolImage:
        """On an image canvas, bool [height, width]; parts outside are cut off."""
        canvas = np.zeros((height, width), dtype=bool)
        self.paint(canvas, True)
        return canvas

    def paint(self, canvas: npt.NDArray[Any], value: Any) -> None:
        """Set `value` on the mask's pixels of an [H, W] or [H, W, C] array, in place."""
        height, width = canvas.shape[:2]
        x0, y0 = max(self.x0, 0), max(self.y0, 0)
        x1, y1 = min(self.x0 + self.width, width), min(self.y0 + self.height, height)
        if x1 > x0 and y1 > y0:
            part = self.crop()[y0 - self.y0 : y1 - self.y0, x0 - self.x0 : x1 - self.x0]
            canvas[y0:y1, x0:x1][part] = value

    @property
    def area(self) -> int:
        """Pixels set."""
        code = {"size": [self.height, self.width], "counts": self.counts}
        return int(coco_mask.area(code))

    @property
    def box(self) -> Box:
        return Box(
            float(self.x0),
            float(self.y0),
            float(self.x0 + self.width),
            float(self.y0 + self.height),
        )

    def shift(self, dx: int, dy: int) -> Mask:
        return Mask(self.x0 + dx, self.y0 + dy, self.height, self.width, self.counts)

    def window(self, x0: int, y0: int, width: int, height: int) -> Mask | None:
        """The part inside a window, in the window's frame; None when empty."""
        return Mask.from_array(self.shift(-x0, -y0).to_array(width, height))

    def rings(self) -> list[list[Array]]:
        """One entry a 4-connected part: the outer ring, then its holes.

        Each ring is float64 [N, 2] on pixel edges of the image's frame, not closed. Filling
        all rings even-odd gives the mask back exactly.
        """
        from rasterio.features import shapes

        pixels = self.crop().astype(np.uint8)
        found = []
        for shape, _ in shapes(pixels, mask=pixels.astype(bool), connectivity=4):
            found.append(
                [
                    np.asarray(ring[:-1], dtype=np.float64) + (self.x0, self.y0)
                    for ring in shape["coordinates"]
                ]
            )
        return found

    def polygons(self) -> list[Array]:
        """Outer rings alone, as COCO polygons want them (holes are filled)."""
        return [rings[0] for rings in self.rings()]

    def iou(self, other: Mask) -> float:
        """Intersection over union of two masks of one image, in [0, 1]."""
        x0, y0 = min(self.x0, other.x0), min(self.y0, other.y0)
        width = max(self.x0 + self.width, other.x0 + other.width) - x0
        height = max(self.y0 + self.height, other.y0 + other.height) - y0
        a = self.shift(-x0, -y0).to_array(width, height)
        b = other.shift(-x0, -y0).to_array(width, height)
        union = int((a | b).sum())
        return float((a & b).sum()) / union if union else 0.0
