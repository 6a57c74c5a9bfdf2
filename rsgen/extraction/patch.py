"""The square patch in which one labelled object is looked at, and the way back."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from rsgen.extraction.base import Pixels
from rsgen.extraction.shapes import INSET
from rsgen.geometry import Affine, Array, Box, Quad, as_array, bounds, compose
from rsgen.mask import Mask
from rsgen.records import Instance

__all__ = [
    "Frame",
    "Patch",
    "cut_patch",
    "empty_patch",
    "extended_frames",
    "frame_of_box",
    "frame_of_label",
    "frame_of_quad",
    "least_mask",
    "mask_from_field",
]

Grid = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Frame:
    """The unit box [0, 1] x [0, 1] of a label, as an affine onto image pixels.

    `width` and `height` are the box's sides in pixels.
    """

    to_image: Affine
    width: float
    height: float
    outline: Array  # float64 [4, 2] image corners

    @property
    def log_aspect(self) -> float:
        """log(width / height), rounded so that templates can be reused."""
        return round(math.log(max(self.width, 1e-6) / max(self.height, 1e-6)), 1)


@dataclass(frozen=True, slots=True)
class Patch:
    """uint8 [S, S, 3] pixels, the box in the middle (`INSET` around it), and its frame.

    `known` is float32 [S, S], 1 where the cell lies inside the image, else 0.
    """

    pixels: Pixels
    known: Grid
    frame: Frame
    to_image: Affine  # patch cells (half-open edges) -> image pixels


def frame_of_box(box: Box) -> Frame:
    matrix = np.array([[box.width, 0.0, box.x0], [0.0, box.height, box.y0]])
    corners = np.array([(box.x0, box.y0), (box.x1, box.y0), (box.x1, box.y1), (box.x0, box.y1)])
    return Frame(matrix, box.width, box.height, corners)


def frame_of_quad(quad: Quad) -> Frame:
    """+x of the unit box points to the quad's first edge."""
    p1, p2, _, p4 = as_array(quad)
    matrix = np.stack([p1 - p4, p2 - p1, p4], axis=1)
    width, height = float(np.hypot(*(p1 - p4))), float(np.hypot(*(p2 - p1)))
    return Frame(matrix, width, height, as_array(quad))


def frame_of_label(instance: Instance, width: int, height: int) -> tuple[Frame, str] | None:
    """The frame of a label in an image of this size, and what it says of the direction.

    "front": a quad with a heading; "axes": a quad without; "any": an axis-aligned box, which
    is clipped to the image. None where there is no label or hardly any of it is inside.
    """
    box = instance.bounds()
    if box is None:
        return None
    inside = box.clip(width, height)
    if min(inside.width, inside.height) < 0.5:
        return None
    if instance.quad is None:
        return frame_of_box(inside), "any"
    frame = frame_of_quad(instance.quad)
    if min(frame.width, frame.height) < 0.5:
        return frame_of_box(inside), "any"
    return frame, "axes" if instance.heading_rad is None else "front"


def extended_frames(frame: Frame, width: int, height: int) -> list[Frame]:
    """Upright frames that reach past the image's border where the label touches it.

    A label cut by the border shows a part of the object; its outline fits a longer box.
    """
    box = bounds(frame.outline)
    touches = (box.x0 < 0.6, box.y0 < 0.6, box.x1 > width - 0.6, box.y1 > height - 0.6)
    if not any(touches):
        return []
    found = []
    for more in (0.4, 1.0):
        for sides in ((1, 1), (1, 0), (0, 1)):
            left, top, right, bottom = (
                t * more * s for t, s in zip(touches, (*sides, *sides), strict=True)
            )
            if left or top or right or bottom:
                found.append(
                    frame_of_box(
                        Box(
                            box.x0 - left * box.width,
                            box.y0 - top * box.height,
                            box.x1 + right * box.width,
                            box.y1 + bottom * box.height,
                        )
                    )
                )
    return found if any(touches[::2]) and any(touches[1::2]) else found[::3]


def least_mask(frame: Frame, width: int, height: int) -> Mask | None:
    """The whole label, or the pixel at its centre, for objects too small for any outline."""
    mask = Mask.from_polygons([frame.outline], width, height)
    if mask is not None:
        return mask
    x, y = frame.outline.mean(axis=0)
    column, row = min(max(int(x), 0), width - 1), min(max(int(y), 0), height - 1)
    return Mask.from_array(np.ones((1, 1), dtype=bool), column, row)


def empty_patch(frame: Frame, size: int) -> Patch:
    """A patch without pixels, for fields that come from the label alone."""
    blank = np.zeros((size, size, 3), dtype=np.uint8)
    nothing = np.zeros((size, size), dtype=np.float32)
    return Patch(blank, nothing, frame, patch_affine(frame, size))


def patch_affine(frame: Frame, size: int) -> Affine:
    """Cells of a patch of this side -> image pixels, both with half-open edges."""
    inner = (1 - 2 * INSET) * size
    to_unit = np.array([[1 / inner, 0.0, -INSET * size / inner]] * 2)
    to_unit[1, :2] = (0.0, 1 / inner)
    return compose(frame.to_image, to_unit)


def cut_patch(image: Pixels, frame: Frame, size: int) -> Patch:
    """Resample the label and its surround to `size` x `size` cells, averaging when it shrinks."""
    matrix = patch_affine(frame, size)
    corners = np.array([(0, 0), (size, 0), (size, size), (0, size)], dtype=np.float64)
    area = bounds(corners @ matrix[:, :2].T + matrix[:, 2])
    height, width = image.shape[:2]
    x0, y0 = max(0, math.floor(area.x0) - 2), max(0, math.floor(area.y0) - 2)
    x1, y1 = min(width, math.ceil(area.x1) + 2), min(height, math.ceil(area.y1) + 2)
    crop = image[y0:y1, x0:x1]
    step = max(float(np.hypot(*matrix[:, 0])), float(np.hypot(*matrix[:, 1])))
    shrink = max(1, int(step))
    if shrink > 1:
        small = (max(1, crop.shape[1] // shrink), max(1, crop.shape[0] // shrink))
        scale_x, scale_y = crop.shape[1] / small[0], crop.shape[0] / small[1]
        crop = np.asarray(cv2.resize(crop, small, interpolation=cv2.INTER_AREA), np.uint8)
    else:
        scale_x = scale_y = 1.0
    inward = np.array([[1 / scale_x, 0, -x0 / scale_x], [0, 1 / scale_y, -y0 / scale_y]])
    sampled = _warp(np.ascontiguousarray(crop), compose(inward, matrix), size)
    centres = (np.arange(size) + 0.5)[:, None]
    grid_x = centres.T * matrix[0, 0] + centres * matrix[0, 1] + matrix[0, 2]
    grid_y = centres.T * matrix[1, 0] + centres * matrix[1, 1] + matrix[1, 2]
    known = (grid_x >= 0) & (grid_x < width) & (grid_y >= 0) & (grid_y < height)
    return Patch(sampled.astype(np.uint8), known.astype(np.float32), frame, matrix)


def _warp(source: npt.NDArray[np.uint8], matrix: Affine, size: int) -> npt.NDArray[np.uint8]:
    """Bilinear samples at cell centres; `matrix` maps cells to source pixels (edges)."""
    centred = matrix.copy()
    centred[:, 2] += matrix[:, :2] @ (0.5, 0.5) - 0.5
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(
        cv2.warpAffine(source, centred, (size, size), flags=flags, borderMode=cv2.BORDER_REPLICATE),
        dtype=np.uint8,
    )


def mask_from_field(field: Grid, patch: Patch, width: int, height: int) -> Mask | None:
    """Threshold a field [S, S] (share inside, 0.5 = outline) on the image's pixels.

    Pixel centres must lie inside the label's outline; where a pixel spans several cells the
    field is averaged first.
    """
    size = field.shape[0]
    area = bounds(patch.frame.outline)
    x0, y0 = max(0, math.floor(area.x0)), max(0, math.floor(area.y0))
    x1, y1 = min(width, math.ceil(area.x1)), min(height, math.ceil(area.y1))
    if x1 <= x0 or y1 <= y0:
        return None
    inverse = np.linalg.inv(np.vstack([patch.to_image, [0, 0, 1]]))[:2]
    reach = [max(1, round(float(np.abs(inverse[k, :2]).sum()))) for k in range(2)]
    smooth = cv2.blur(field, (reach[0], reach[1])) if max(reach) > 1 else field
    ys, xs = np.mgrid[y0:y1, x0:x1] + 0.5
    u = inverse[0, 0] * xs + inverse[0, 1] * ys + inverse[0, 2]
    v = inverse[1, 0] * xs + inverse[1, 1] * ys + inverse[1, 2]
    sampled = cv2.remap(
        smooth, (u - 0.5).astype(np.float32), (v - 0.5).astype(np.float32), cv2.INTER_LINEAR
    )
    low, high = INSET * size - 1e-6, (1 - INSET) * size + 1e-6
    inside = (u >= low) & (u <= high) & (v >= low) & (v <= high)
    return Mask.from_array((sampled >= 0.5) & inside, x0, y0)
