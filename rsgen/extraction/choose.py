"""From a network's mask logits to the mask of a label: placing, cutting, cleaning, choosing.

Rule. Each of the candidates of a label (SAM gives three: part, object, group) is put on the
image's pixels, cut to the label's outline (the quad, else the box) and cleaned. Its score is

    predicted IoU x fill x inside

where `fill` says how far the mask spans the outline along both of its axes (an annotated box
touches its object on all four sides), and `inside` is the share of the uncut mask that lies
within the outline (a mask of the whole quay spans every ship's box). The best score wins.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from rsgen.extraction.patch import Frame
from rsgen.geometry import Array, bounds, fill_polygon
from rsgen.mask import Mask

__all__ = ["MIN_FILL", "Choice", "View", "choose", "cleaned", "label_axes", "placed", "spanned"]

Grid = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
MIN_IOU = 0.5  # below these a mask is not trusted
MIN_FILL = 0.35
MIN_INSIDE = 0.25
CORE = 0.25  # half the side of the label's middle, in its sides: there the object lies
SMALL_HOLE = 0.05  # holes below this share of the mask are filled


@dataclass(frozen=True, slots=True)
class View:
    """How a window of the image lies in a network's input.

    The window's pixel edges map to [0, input_width] x [0, input_height] of a square input of
    `side` pixels whose rest is padding.
    """

    x0: int
    y0: int
    width: int
    height: int
    input_width: int
    input_height: int
    side: int

    @property
    def scale(self) -> tuple[float, float]:
        """Input pixels an image pixel, along x and y."""
        return self.input_width / self.width, self.input_height / self.height

    def to_input(self, boxes: Array) -> Array:
        """Boxes float64 [N, 4] xyxy, image edges -> input edges."""
        shifted = boxes - (self.x0, self.y0, self.x0, self.y0)
        return np.asarray(shifted * (self.scale * 2), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Choice:
    """The best candidate of a label; `doubt` says why it is not to be used, or None."""

    mask: Mask | None
    score: float
    doubt: str | None
    predicted_iou: float = 0.0
    fill: float = 0.0
    inside: float = 0.0


def placed(logits: Grid, view: View, area: tuple[int, int, int, int]) -> Grid:
    """Logits [g, g] over the whole input -> at the pixels of `area` (x0, y0, x1, y1).

    Bilinear between cell centres, read at pixel centres. Cells must not be much smaller than
    pixels (SAM: half a pixel at the largest zoom).
    """
    x0, y0, x1, y1 = area
    cells = [s * g / view.side for s, g in zip(view.scale, logits.shape[::-1], strict=True)]
    columns = (np.arange(x0, x1) + 0.5 - view.x0) * cells[0] - 0.5
    rows = (np.arange(y0, y1) + 0.5 - view.y0) * cells[1] - 0.5
    map_x = np.broadcast_to(columns.astype(np.float32), (y1 - y0, x1 - x0))
    map_y = np.broadcast_to(rows.astype(np.float32)[:, None], (y1 - y0, x1 - x0))
    return np.asarray(
        cv2.remap(
            logits,
            np.ascontiguousarray(map_x),
            np.ascontiguousarray(map_y),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        ),
        dtype=np.float32,
    )


def choose(logits: Grid, predicted: Grid, frame: Frame, view: View) -> Choice:
    """The best of the candidates for one label.

    logits: [C, g, g], above 0 is the object; predicted: [C] IoU of each as the network sees
    it; `frame`: the label's outline in the image. Masks end at the window's border.
    """
    area = _area(frame, view)
    x0, y0, x1, y1 = area
    outline = fill_polygon([frame.outline - (x0, y0)], y1 - y0, x1 - x0)
    if not outline.any():
        return Choice(None, 0.0, "the label holds no pixel's centre")
    axes = label_axes(frame, area)
    tried = [
        _candidate(grid, float(iou), (frame, axes), view, area, outline)
        for grid, iou in zip(logits, predicted, strict=True)
    ]
    return max(tried, key=lambda choice: choice.score)


def _area(frame: Frame, view: View) -> tuple[int, int, int, int]:
    box = bounds(frame.outline)
    return (
        max(view.x0, math.floor(box.x0)),
        max(view.y0, math.floor(box.y0)),
        min(view.x0 + view.width, math.ceil(box.x1)),
        min(view.y0 + view.height, math.ceil(box.y1)),
    )


def _candidate(
    grid: Grid,
    predicted: float,
    label: tuple[Frame, tuple[Array, Array]],
    view: View,
    area: tuple[int, int, int, int],
    outline: Bools,
) -> Choice:
    if not (math.isfinite(predicted) and np.isfinite(grid).all()):
        return Choice(None, 0.0, "the network gave numbers that are not finite")
    frame, (u, v) = label
    cut = (placed(grid, view, area) > 0) & outline
    hard = cleaned(cut, outline & (np.abs(u - 0.5) < CORE) & (np.abs(v - 0.5) < CORE)) & outline
    if not hard.any():
        return Choice(None, 0.0, "nothing found in the label")
    iou = min(max(predicted, 0.0), 1.0)
    fill = spanned(hard, outline, u * frame.width) * spanned(hard, outline, v * frame.height)
    inside = min(1.0, float(cut.sum()) / max(_raw_area(grid, view), 1e-9))
    doubt = None
    if iou < MIN_IOU:
        doubt = f"low predicted IoU {iou:.2f}"
    elif inside < MIN_INSIDE:
        doubt = f"only {inside:.2f} of the mask lies in the label"
    elif fill < MIN_FILL:
        doubt = f"fills little of its label {fill:.2f}"
    mask = Mask.from_array(hard, area[0], area[1])
    return Choice(mask, iou * fill * inside, doubt, iou, fill, inside)


def label_axes(frame: Frame, area: tuple[int, int, int, int]) -> tuple[Array, Array]:
    """Where pixel centres lie in the label's unit box, float64 [h, w] along each of its axes."""
    inverse = np.linalg.inv(np.vstack([frame.to_image, [0.0, 0.0, 1.0]]))[:2]
    x0, y0, x1, y1 = area
    ys, xs = np.mgrid[y0:y1, x0:x1] + 0.5
    u = inverse[0, 0] * xs + inverse[0, 1] * ys + inverse[0, 2]
    v = inverse[1, 0] * xs + inverse[1, 1] * ys + inverse[1, 2]
    return u, v


def spanned(hard: Bools, outline: Bools, along: Array) -> float:
    """Extent of the mask along an axis, as a share of the outline's; in pixels, ends included."""
    inner, outer = along[hard], along[outline]
    span = float(inner.max() - inner.min()) + 1.0
    return min(1.0, span / (float(outer.max() - outer.min()) + 1.0))


def _raw_area(grid: Grid, view: View) -> float:
    """Image pixels of the uncut mask; the input's padding does not count."""
    cells = [g / view.side for g in grid.shape[::-1]]
    columns, rows = math.ceil(view.input_width * cells[0]), math.ceil(view.input_height * cells[1])
    pixels = cells[0] * cells[1] * view.scale[0] * view.scale[1]
    return float(np.count_nonzero(grid[:rows, :columns] > 0) / pixels)


def cleaned(hard: Bools, core: Bools) -> Bools:
    """The part that fills most of the label's middle (else the largest), small holes closed."""
    count, parts, stats, _ = cv2.connectedComponentsWithStats(hard.astype(np.uint8), connectivity=8)
    if count < 2:
        return hard
    central = np.bincount(parts[core], minlength=count)[1:]
    areas = stats[1:, cv2.CC_STAT_AREA]
    kept = 1 + int(np.lexsort((-areas, -central))[0])
    main = np.asarray(parts == kept)
    return main | _small_holes(main, SMALL_HOLE * float(main.sum()))


def _small_holes(hard: Bools, limit: float) -> Bools:
    """Background parts below `limit` pixels that do not reach the border."""
    framed = np.pad(~hard, 1, constant_values=True).astype(np.uint8)
    _, parts, stats, _ = cv2.connectedComponentsWithStats(framed, connectivity=4)
    small = stats[:, cv2.CC_STAT_AREA] <= limit
    small[[0, int(parts[0, 0])]] = False
    return np.asarray(small[parts][1:-1, 1:-1], dtype=bool)
