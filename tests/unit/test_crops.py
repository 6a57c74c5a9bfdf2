"""Windows in which labels are looked at: each label once, whole, and large enough."""

from __future__ import annotations

import numpy as np
import pytest

from rsgen.extraction.crops import CONTEXT, MAX_ZOOM, plan_crops
from rsgen.geometry import Box


def scattered(
    count: int, size: tuple[int, int], least: float, most: float, seed: int = 0
) -> list[Box]:
    """Boxes inside an image of (width, height), long sides drawn evenly in log."""
    rng = np.random.default_rng(seed)
    boxes = []
    for _ in range(count):
        longest = float(np.exp(rng.uniform(np.log(least), np.log(most))))
        sides = (longest, longest * rng.uniform(0.2, 1))
        width, height = sides if rng.random() < 0.5 else sides[::-1]
        x0, y0 = rng.uniform(0, size[0] - width), rng.uniform(0, size[1] - height)
        boxes.append(Box(float(x0), float(y0), float(x0 + width), float(y0 + height)))
    return boxes


CASES = [
    pytest.param((1024, 1024), 531, 8, 60, 1024, id="531 ships of a tile"),
    pytest.param((4000, 3000), 200, 6, 900, 1024, id="all sizes in a scene"),
    pytest.param((5000, 90), 60, 4, 80, 1024, id="a strip"),
    pytest.param((256, 256), 20, 3, 200, 1024, id="an image smaller than the input"),
    pytest.param((300, 200), 30, 3, 150, 64, id="a small network"),
]


@pytest.mark.parametrize(("size", "count", "least", "most", "side"), CASES)
def test_every_box_is_seen_once_whole_and_large(
    size: tuple[int, int], count: int, least: float, most: float, side: int
) -> None:
    """A box that two windows claim, or none, would be decoded twice or left without a mask."""
    boxes = scattered(count, size, least, most)
    crops = plan_crops(boxes, *size, side, 128)
    seen = sorted(k for crop in crops for k in crop.members)
    assert seen == list(range(count))
    wanted = min(128, side // 4)
    for crop in crops:
        assert crop.x0 >= 0 and crop.x0 + crop.width <= size[0]
        assert crop.y0 >= 0 and crop.y0 + crop.height <= size[1]
        zoom = side / max(crop.width, crop.height)
        for k in crop.members:
            box = boxes[k]
            longest = max(box.width, box.height)
            assert zoom * longest >= min(wanted, longest * MAX_ZOOM) - 1e-6
            margin = CONTEXT * longest - 1  # windows start at whole pixels
            assert box.x0 - crop.x0 >= min(margin, box.x0) - 1e-6
            assert box.y0 - crop.y0 >= min(margin, box.y0) - 1e-6
            right, bottom = crop.x0 + crop.width, crop.y0 + crop.height
            assert right - box.x1 >= min(margin, size[0] - box.x1) - 1e-6
            assert bottom - box.y1 >= min(margin, size[1] - box.y1) - 1e-6


def test_neighbours_share_windows() -> None:
    """A window an object would cost 531 passes of the image encoder on one tile."""
    boxes = scattered(531, (1024, 1024), 16, 30)
    assert len(plan_crops(boxes, 1024, 1024, 1024, 128)) <= 150
    boxes = scattered(531, (1024, 1024), 40, 60)
    assert len(plan_crops(boxes, 1024, 1024, 1024, 128)) <= 40


def test_a_single_look_where_that_is_enough() -> None:
    boxes = scattered(40, (800, 600), 110, 300)
    crops = plan_crops(boxes, 800, 600, 1024, 128)
    assert [(c.x0, c.y0, c.width, c.height) for c in crops] == [(0, 0, 800, 600)]


def test_the_order_of_the_labels_does_not_move_the_windows() -> None:
    boxes = scattered(80, (2000, 1500), 8, 120)
    order = np.random.default_rng(1).permutation(len(boxes))
    places = [
        sorted((c.x0, c.y0, c.width, c.height) for c in plan_crops(b, 2000, 1500, 1024, 128))
        for b in (boxes, [boxes[k] for k in order])
    ]
    assert places[0] == places[1]


def test_no_boxes_no_windows() -> None:
    assert plan_crops([], 500, 400, 1024, 128) == []


def test_the_window_by_hand() -> None:
    """A 20 px box: 128 / 20 = 6.4, so zoom 8, and 1024 / 8 = 128 pixels with the box amid them."""
    (crop,) = plan_crops([Box(500, 700, 520, 710)], 4000, 4000, 1024, 128)
    assert (crop.x0, crop.y0, crop.width, crop.height) == (446, 641, 128, 128)
