"""Masks against pycocotools on the whole canvas: area, both kinds of RLE, IoU, polygons."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from pycocotools import mask as coco

from rsgen.mask import Mask

WIDTH, HEIGHT = 37, 23


def canvases() -> list[npt.NDArray[np.uint8]]:
    rng = np.random.default_rng(3)
    blobs = []
    for share in (0.02, 0.3, 0.7, 1.0):
        blobs.append((rng.random((HEIGHT, WIDTH)) < share).astype(np.uint8))
    corner = np.zeros((HEIGHT, WIDTH), np.uint8)
    corner[-1, -1] = 1
    column = np.zeros((HEIGHT, WIDTH), np.uint8)
    column[:, 4] = 1
    return [*blobs, corner, column]


CASES = pytest.mark.parametrize(
    "canvas", canvases(), ids=["2%", "30%", "70%", "full", "pixel", "column"]
)


def code(canvas: npt.NDArray[np.uint8]) -> dict[str, object]:
    return dict(coco.encode(np.asfortranarray(canvas)))


def uncompressed(canvas: npt.NDArray[np.uint8]) -> dict[str, object]:
    """COCO's list form, counted by hand: column-major runs, zeros first."""
    flat = canvas.flatten(order="F")
    counts, value, run = [], 0, 0
    for pixel in flat:
        if pixel != value:
            counts.append(run)
            value, run = int(pixel), 0
        run += 1
    return {"size": [HEIGHT, WIDTH], "counts": [*counts, run]}


@CASES
def test_area_box_and_code(canvas: npt.NDArray[np.uint8]) -> None:
    """Catches row-major runs and a crop code written as the canvas code."""
    mask = Mask.from_array(canvas)
    assert mask is not None
    theirs = code(canvas)
    assert mask.area == coco.area(theirs) == canvas.sum()
    x, y, w, h = coco.toBbox(theirs)
    assert (mask.x0, mask.y0, mask.width, mask.height) == (x, y, w, h)
    written = mask.to_coco(WIDTH, HEIGHT)
    assert isinstance(written["counts"], str)
    assert written == {"size": [HEIGHT, WIDTH], "counts": theirs["counts"].decode()}


@CASES
def test_every_form_of_rle_reads_the_same(canvas: npt.NDArray[np.uint8]) -> None:
    compressed = code(canvas)
    text = {**compressed, "counts": bytes(compressed["counts"]).decode()}  # type: ignore[call-overload]
    expected = Mask.from_array(canvas)
    assert Mask.from_coco(compressed) == expected
    assert Mask.from_coco(text) == expected
    assert Mask.from_coco(uncompressed(canvas)) == expected
    assert isinstance(text["counts"], str), "reading must not change the caller's mapping"


@CASES
def test_iou_on_crops_is_iou_on_canvases(canvas: npt.NDArray[np.uint8]) -> None:
    other = np.roll(canvas, (3, 5), axis=(0, 1))
    a, b = Mask.from_array(canvas), Mask.from_array(other)
    assert a is not None and b is not None
    theirs = coco.iou([code(canvas)], [code(other)], [0])[0, 0]
    assert a.iou(b) == pytest.approx(theirs)


def test_polygon_area_is_near_pycocotools() -> None:
    """Both rasterise; they may differ on the outline only."""
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    ring = np.stack([60 + 40 * np.cos(angle), 50 + 25 * np.sin(angle)], axis=1)
    ours = Mask.from_polygons([ring], 120, 100)
    theirs = coco.merge(coco.frPyObjects([ring.ravel().tolist()], 100, 120))
    assert ours is not None
    iou = coco.iou([ours.to_coco(120, 100)], [theirs], [0])[0, 0]
    assert iou > 0.98
    assert ours.area == pytest.approx(np.pi * 40 * 25, rel=0.01)
