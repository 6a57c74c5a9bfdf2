"""From logits to masks, on logits that are made by hand: the weights play no part here."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from rsgen.extraction.choose import Choice, View, choose, placed
from rsgen.extraction.patch import Frame, frame_of_box, frame_of_quad
from rsgen.geometry import Box, RotatedBox, rotated_box_to_quad
from rsgen.mask import Mask
from tests.build_sam import ellipse

Grid = npt.NDArray[np.float32]
SIZE = (160, 120)  # of the image, (width, height)
# A window of 100 x 50 in an input of 128: 128 x 64 of it are the window, the rest is padding.
PADDED = View(30, 40, 100, 50, 128, 64, 128)
# The same window squashed to a square, as SAM 2 sees it.
SQUASHED = View(30, 40, 100, 50, 128, 128, 128)
VIEWS = [pytest.param(PADDED, id="padded"), pytest.param(SQUASHED, id="squashed")]


def cells_in_image(view: View, cells: int) -> tuple[npt.NDArray[np.float64], ...]:
    """Image coordinates of the grid's cell centres, by hand: cell -> input -> window -> image."""
    centres = (np.arange(cells) + 0.5) * view.side / cells
    x = centres * view.width / view.input_width + view.x0
    y = centres * view.height / view.input_height + view.y0
    return x, y


def ellipse_logits(
    view: View, cx: float, cy: float, a: float, b: float, angle: float, cells: int = 64
) -> Grid:
    """Logits of an ellipse of the image, as a network that sees `view` would give them."""
    x, y = cells_in_image(view, cells)
    dx, dy = x[None] - cx, y[:, None] - cy
    c, s = math.cos(angle), math.sin(angle)
    inside = 1 - ((c * dx + s * dy) / a) ** 2 - ((-s * dx + c * dy) / b) ** 2
    return np.asarray(np.clip(inside * 8, -20, 20), dtype=np.float32)


def box_logits(view: View, box: Box, cells: int = 64) -> Grid:
    x, y = cells_in_image(view, cells)
    inside = ((x >= box.x0) & (x < box.x1))[None] & ((y >= box.y0) & (y < box.y1))[:, None]
    return np.where(inside, 8, -8).astype(np.float32)


def chosen(
    grids: list[Grid], frame: Frame, view: View = PADDED, ious: list[float] | None = None
) -> Choice:
    return choose(np.stack(grids), np.array(ious or [0.9] * len(grids), np.float32), frame, view)


# ---------------------------------------------------------------- placing


@pytest.mark.parametrize("view", VIEWS)
def test_boxes_go_to_the_input_by_hand(view: View) -> None:
    """Window 100 x 50 at (30, 40): x' = (x - 30) 1.28; y' = (y - 40) 1.28 padded, 2.56 squashed."""
    down = 1.28 if view is PADDED else 2.56
    boxes = view.to_input(np.array([[30.0, 40, 130, 90], [55, 50, 80, 65]]))
    assert boxes[0] == pytest.approx([0, 0, 128, 50 * down])
    assert boxes[1] == pytest.approx([32, 10 * down, 64, 25 * down])


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("angle", [0.0, 0.6, 2.0])
def test_a_mask_lies_where_the_network_saw_it(view: View, angle: float) -> None:
    """Half a pixel off, swapped axes or a mirrored turn would show in the centre or the IoU."""
    cx, cy, a, b = 97.3, 63.8, 22.0, 9.0
    truth = Mask.from_array(ellipse(SIZE, cx, cy, a, b, angle) >= 1)
    assert truth is not None
    found = chosen([ellipse_logits(view, cx, cy, a, b, angle)], frame_of_box(truth.box), view)
    assert found.doubt is None and found.mask is not None
    assert found.mask.iou(truth) > 0.95
    y, x = np.nonzero(found.mask.to_array(*SIZE))
    assert x.mean() + 0.5 == pytest.approx(cx, abs=0.15)
    assert y.mean() + 0.5 == pytest.approx(cy, abs=0.15)
    assert found.score == pytest.approx(0.9, abs=0.05)


def test_logits_are_read_at_pixel_centres() -> None:
    """A ramp x + 100 y over the image comes back exactly, away from the input's border."""
    view = View(10, 20, 64, 64, 128, 128, 128)
    x, y = cells_in_image(view, 32)
    ramp = (x[None] + 100 * y[:, None]).astype(np.float32)
    got = placed(ramp, view, (14, 30, 60, 70))
    expected = (np.arange(14, 60) + 0.5)[None] + 100 * (np.arange(30, 70) + 0.5)[:, None]
    assert got.shape == (40, 46)
    assert np.abs(got - expected).max() < 0.05 * 100  # cv2.remap weighs in 1/32 of a cell


# ---------------------------------------------------------------- cutting and cleaning


def test_a_quad_cuts_the_mask() -> None:
    """SAM sees only the upright bounds; pixels of a neighbour beside the quad are not the ship."""
    quad = rotated_box_to_quad(RotatedBox(80, 65, 44, 12, 0.7))
    frame = frame_of_quad(quad)
    upright = Mask.from_polygons([frame.outline], *SIZE)
    assert upright is not None
    found = chosen([box_logits(PADDED, upright.box)], frame)
    assert found.mask is not None
    assert found.mask.iou(upright) > 0.97
    assert found.inside == pytest.approx(upright.area / upright.box.area, abs=0.05)


def test_the_part_in_the_middle_is_kept() -> None:
    """The larger part is the neighbour's, in a corner of the upright box."""
    label = Box(50, 45, 100, 85)
    own, other = Box(68, 60, 82, 70), Box(51, 46, 66, 58)
    grid = np.maximum(box_logits(PADDED, own), box_logits(PADDED, other))
    found = chosen([grid], frame_of_box(label))
    assert found.mask is not None
    assert found.mask.box.x0 >= 66 and found.mask.box.x1 <= 84
    assert found.doubt is not None and found.doubt.startswith("fills little")


@pytest.mark.parametrize(("radius", "closed"), [(2.0, True), (8.0, False)], ids=["chip", "court"])
def test_small_holes_are_closed_and_real_ones_stay(radius: float, closed: bool) -> None:
    grid = box_logits(PADDED, Box(60, 48, 100, 84))
    grid[ellipse_logits(PADDED, 80, 66, radius, radius, 0) > 0] = -8
    found = chosen([grid], frame_of_box(Box(60, 48, 100, 84)))
    assert found.mask is not None
    hole = not found.mask.to_array(*SIZE)[66, 80]
    assert hole is not closed


def test_a_mask_ends_at_its_label() -> None:
    found = chosen([np.full((64, 64), 5, np.float32)], frame_of_box(Box(60, 50, 80, 70)))
    assert found.mask is not None
    assert found.mask.box == Box(60, 50, 80, 70)
    assert found.inside == pytest.approx(400 / 5000, rel=0.02), "padding is no leak"


# ---------------------------------------------------------------- choosing

WHOLE = ellipse_logits(PADDED, 80, 65, 20, 10, 0.0)
PART = ellipse_logits(PADDED, 80, 65, 9, 4, 0.0)
QUAY = np.full((64, 64), 4, np.float32)
LABEL = Box(60, 55, 100, 75)


def test_the_whole_object_beats_its_part_and_its_surround() -> None:
    """By predicted IoU alone the part or the quay would win."""
    found = chosen([PART, WHOLE, QUAY], frame_of_box(LABEL), ious=[0.95, 0.85, 0.97])
    assert found.predicted_iou == pytest.approx(0.85)
    assert found.score == pytest.approx(found.predicted_iou * found.fill * found.inside)
    assert found.doubt is None


def test_of_like_masks_the_surer_wins() -> None:
    found = chosen([WHOLE, WHOLE, WHOLE], frame_of_box(LABEL), ious=[0.6, 0.9, 0.7])
    assert found.predicted_iou == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("grid", "iou", "says"),
    [
        pytest.param(-WHOLE * 0 - 5, 0.9, "nothing found", id="empty"),
        pytest.param(WHOLE, 0.3, "low predicted IoU 0.30", id="unsure"),
        pytest.param(QUAY, 0.9, "of the mask lies in the label", id="surround"),
        pytest.param(PART, 0.9, "fills little", id="part"),
        pytest.param(WHOLE * np.float32("nan"), 0.9, "not finite", id="nan logits"),
        pytest.param(WHOLE, float("nan"), "not finite", id="nan IoU"),
    ],
)
def test_poor_masks_come_with_a_doubt(grid: Grid, iou: float, says: str) -> None:
    found = chosen([grid], frame_of_box(LABEL), ious=[iou])
    assert found.doubt is not None and says in found.doubt


def test_predicted_iou_is_held_in_bounds() -> None:
    """SAM's head is linear and says 1.02 now and then; a score is a share."""
    assert chosen([WHOLE], frame_of_box(LABEL), ious=[1.3]).score <= 1


@pytest.mark.parametrize(
    "box", [Box(70.1, 60.1, 70.4, 60.4), Box(70.6, 50, 71.4, 70)], ids=["dot", "sliver"]
)
def test_labels_below_a_pixel_are_left_to_the_fallback(box: Box) -> None:
    found = chosen([WHOLE], frame_of_box(box))
    assert found.mask is None
    assert found.doubt == "the label holds no pixel's centre"


def test_a_label_that_leaves_the_image_is_judged_by_what_is_inside() -> None:
    """The window ends at x = 130; half of the ship is beyond, which is no lack of fill."""
    quad = rotated_box_to_quad(RotatedBox(130, 65, 60, 16, 0.0))
    grid = ellipse_logits(PADDED, 130, 65, 30, 8, 0.0)
    found = chosen([grid], frame_of_quad(quad))
    assert found.doubt is None
    assert found.fill > 0.9
