"""Mask laws: codes, moves and outlines lose nothing."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from rsgen.mask import Mask

QUICK = settings(max_examples=80, deadline=None, derandomize=True, database=None)
pixels = arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=14))
offset = st.integers(-20, 20)
Bool = npt.NDArray[np.bool_]


@QUICK
@given(pixels, offset, offset)
def test_array_to_mask_and_back(array: Bool, x0: int, y0: int) -> None:
    mask = Mask.from_array(array, x0, y0)
    if mask is None:
        assert not array.any()
        return
    height, width = array.shape
    np.testing.assert_array_equal(mask.shift(-x0, -y0).to_array(width, height), array)
    assert mask.area == array.sum()
    assert mask.crop().any(axis=0)[[0, -1]].all() and mask.crop().any(axis=1)[[0, -1]].all()


@QUICK
@given(pixels)
def test_coco_code_and_back(array: Bool) -> None:
    mask = Mask.from_array(array)
    if mask is not None:
        assert Mask.from_coco(mask.to_coco(array.shape[1], array.shape[0])) == mask


@QUICK
@given(pixels, offset, offset)
def test_rings_filled_even_odd_are_the_mask(array: Bool, x0: int, y0: int) -> None:
    """Catches lost holes, merged diagonal neighbours and a half-pixel frame."""
    mask = Mask.from_array(array, x0 + 20, y0 + 20)
    if mask is None:
        return
    rings = [ring for part in mask.rings() for ring in part]
    assert all(np.array_equal(r, np.round(r)) for r in rings), "rings run on pixel edges"
    assert Mask.from_polygons(rings, 80, 80) == mask


@QUICK
@given(pixels, offset, offset, st.integers(1, 12), st.integers(1, 12))
def test_windows_partition_a_mask(array: Bool, x0: int, y0: int, width: int, height: int) -> None:
    """Catches pixels lost or doubled at tile borders."""
    mask = Mask.from_array(array, x0, y0)
    if mask is None:
        return
    total = 0
    for left in range(-20, 40, width):
        for top in range(-20, 40, height):
            part = mask.window(left, top, width, height)
            total += part.area if part is not None else 0
    assert total == mask.area


@QUICK
@given(pixels, pixels, offset, offset)
def test_iou_is_that_of_the_pixels(a: Bool, b: Bool, dx: int, dy: int) -> None:
    first, second = Mask.from_array(a, 30, 30), Mask.from_array(b, 30 + dx, 30 + dy)
    if first is None or second is None:
        return
    x, y = first.to_array(80, 80), second.to_array(80, 80)
    expected = (x & y).sum() / (x | y).sum()
    assert abs(first.iou(second) - expected) < 1e-12
    assert first.iou(second) == second.iou(first)
    assert first.iou(first) == 1
