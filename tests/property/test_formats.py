"""Any layout written in any format and read back says the same, as far as the format can."""

from __future__ import annotations

import math
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rsgen.formats import read_dataset, write_dataset
from rsgen.formats.atlas import fill_outlines, trace_masks
from rsgen.formats.checks import whole_pixels
from rsgen.formats.common import Format
from rsgen.formats.rle import decode_counts, mask_from_runs
from rsgen.formats.tiling import cut_layout, plan_tiles
from rsgen.geometry import Box, RotatedBox, bounds, quad_iou, rotated_box_to_quad
from rsgen.mask import Mask
from rsgen.records import Instance, Layout, Sample
from rsgen.registry import resolve
from tests.formats_build import CLASSES, assert_counts_add_up, put_image

WIDTH, HEIGHT = 80, 60
FAST = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


@st.composite
def masks(draw: st.DrawFn) -> Mask:
    """Any non-empty pattern of pixels: parts, holes, corners that touch."""
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    bits = draw(st.integers(1, 2 ** (height * width) - 1))
    pixels = np.array([bits >> k & 1 for k in range(height * width)], dtype=bool)
    x0, y0 = draw(st.integers(0, WIDTH - 9)), draw(st.integers(0, HEIGHT - 9))
    mask = Mask.from_array(pixels.reshape(height, width), x0, y0)
    assert mask is not None
    return mask


@st.composite
def instances(draw: st.DrawFn) -> Instance:
    kind = draw(st.sampled_from(["box", "quad", "mask"]))
    label = draw(st.sampled_from(["plane", "ship"]))
    if kind == "mask":
        mask = draw(masks())
        return Instance(label, mask.box, mask=mask, origin="polygon")
    number = st.floats(2, 12)
    w, h = draw(number), draw(number)
    cx, cy = draw(st.floats(15, WIDTH - 15)), draw(st.floats(15, HEIGHT - 15))
    if kind == "box":
        return Instance(label, Box(cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2))
    angle = draw(st.floats(-math.pi, math.pi - 1e-3))
    quad = rotated_box_to_quad(RotatedBox(cx, cy, w, h, angle))
    return Instance(label, bounds(quad), quad, heading_rad=angle, difficult=draw(st.booleans()))


layouts = st.lists(instances(), max_size=6).map(
    lambda found: Layout(WIDTH, HEIGHT, tuple(found), gsd_m=0.5)
)


def _round_trip(kind: str, layout: Layout) -> tuple[Instance, ...]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        entry: Format = resolve("formats", kind)
        write_dataset(
            entry.writer(),
            [Sample("a", layout)],
            CLASSES,
            folder,
            copy_image=lambda _, path: put_image(path, WIDTH, HEIGHT),
        )
        back = read_dataset(folder, format=kind, classes=CLASSES, heading=True)
        assert back.failures == []
        assert_counts_add_up(back)
        return back.records[0].layout.instances


def _matched(written: Layout, read: tuple[Instance, ...]) -> list[tuple[Instance, Instance]]:
    """Pairs of written and read labels by nearest box; every one finds its own."""
    assert len(read) == len(written.instances)
    left, pairs = list(read), []
    for source in written.instances:
        box = source.bounds()
        assert box is not None

        def distance(other: Instance, box: Box = box, source: Instance = source) -> float:
            found = other.bounds()
            assert found is not None
            far = max(
                abs(found.x0 - box.x0),
                abs(found.y0 - box.y0),
                abs(found.x1 - box.x1),
                abs(found.y1 - box.y1),
            )
            same = (other.mask == source.mask) + (other.difficult == source.difficult)
            same += (other.quad is None) == (source.quad is None)
            return far + (100 if other.label != source.label else 0) - 1e-3 * same

        best = min(left, key=distance)
        assert distance(best) < 1e-3
        left.remove(best)
        pairs.append((source, best))
    return pairs


def _same_direction(a: float, b: float) -> bool:
    return abs(math.remainder(a - b, 2 * math.pi)) < 1e-3


@FAST
@given(layouts)
def test_coco_keeps_labels_masks_quads_and_headings(layout: Layout) -> None:
    for source, found in _matched(layout, _round_trip("coco", layout)):
        assert found.mask == source.mask
        assert found.difficult == source.difficult
        if source.quad is None:
            assert found.quad is None
        else:
            assert found.quad is not None and np.allclose(found.quad, source.quad, atol=1e-4)
            assert found.heading_rad is not None and source.heading_rad is not None
            assert _same_direction(found.heading_rad, source.heading_rad)


@FAST
@given(layouts)
def test_dior_r_keeps_quads_first_edges_and_marks(layout: Layout) -> None:
    for source, found in _matched(layout, _round_trip("dior-r", layout)):
        assert found.difficult == source.difficult
        if source.quad is not None:
            assert found.quad is not None and np.allclose(found.quad, source.quad, atol=1e-3)


@FAST
@given(layouts)
def test_voc_keeps_boxes_to_the_nearest_pixel(layout: Layout) -> None:
    """Catches an edge moved by a pixel, which all boxes of a set then share."""
    read = _round_trip("voc", layout)
    whole = [
        replace(i, box=whole_pixels(box, WIDTH, HEIGHT), quad=None, mask=None, heading_rad=None)
        for i in layout.instances
        if (box := i.bounds()) is not None
    ]
    for source, found in _matched(replace(layout, instances=tuple(whole)), read):
        assert (found.box, found.difficult) == (source.box, source.difficult)


@FAST
@given(layouts)
def test_dota_keeps_quads_and_headings(layout: Layout) -> None:
    for source, found in _matched(layout, _round_trip("dota", layout)):
        if source.quad is not None:
            assert found.quad is not None and np.allclose(found.quad, source.quad, atol=1e-3)
            assert found.heading_rad is not None and source.heading_rad is not None
            assert (
                _same_direction(found.heading_rad, source.heading_rad)
                or min(
                    source.bounds().width,
                    source.bounds().height,  # type: ignore[union-attr]
                )
                < 3
            )


@FAST
@given(layouts)
def test_yolo_obb_keeps_quads(layout: Layout) -> None:
    for source, found in _matched(layout, _round_trip("yolo-obb", layout)):
        if source.quad is not None:
            assert found.quad is not None
            assert quad_iou(found.quad, source.quad) > 0.999


@FAST
@given(layouts)
def test_yolo_keeps_boxes(layout: Layout) -> None:
    _matched(layout, _round_trip("yolo", layout))


@FAST
@given(layouts)
def test_jsonl_keeps_everything(layout: Layout) -> None:
    assert _round_trip("jsonl", layout) == layout.instances


@FAST
@example(Mask(0, 0, 2, 2, b"121"))  # two pixels that touch at a corner
@given(masks())
def test_yolo_segments_keep_parts_and_holes(mask: Mask) -> None:
    layout = Layout(WIDTH, HEIGHT, (Instance("ship", mask.box, mask=mask),))
    assert _round_trip("yolo-seg", layout)[0].mask == mask


@FAST
@given(masks())
def test_run_lengths_of_both_kinds_decode_to_the_mask(mask: Mask) -> None:
    code = mask.to_coco(WIDTH, HEIGHT)
    runs = decode_counts(code["counts"], WIDTH * HEIGHT)
    assert mask_from_runs(runs, HEIGHT) == mask
    assert mask_from_runs(decode_counts(runs.tolist(), WIDTH * HEIGHT), HEIGHT) == mask


@FAST
@given(st.binary(max_size=12))
def test_any_bytes_are_a_mask_or_an_error(code: bytes) -> None:
    """Damaged codes must not crash, hang, or give pixels that are not in the file."""
    try:
        runs = decode_counts(code, 100)
    except ValueError:
        return
    assert int(runs.sum()) == 100
    mask_from_runs(runs, 10)


@FAST
@given(layouts, st.integers(20, 50), st.integers(0, 15))
def test_tiles_lose_no_mask_pixel(layout: Layout, size: int, gap: int) -> None:
    """With keep 0 the windows of a mask join to the mask again."""
    for instance in layout.instances:
        if instance.mask is None:
            continue
        canvas = np.zeros((HEIGHT, WIDTH), dtype=bool)
        for tile in plan_tiles(WIDTH, HEIGHT, size, gap):
            for cut in cut_layout(Layout(WIDTH, HEIGHT, (instance,)), tile, keep=0).instances:
                assert cut.mask is not None
                cut.mask.shift(tile.x0, tile.y0).paint(canvas, True)
        assert Mask.from_array(canvas) == instance.mask


@FAST
@given(st.lists(masks(), max_size=6))
def test_tracing_and_filling_in_a_strip_is_the_same_as_one_by_one(found: list[Mask]) -> None:
    """A neighbour on the strip that leaks in would put pixels of one object into another."""

    def key(part: list[np.ndarray]) -> bytes:
        return b"".join(ring.tobytes() for ring in part)

    traced = trace_masks(found)
    for mask, parts in zip(found, traced, strict=True):
        assert sorted(map(key, parts)) == sorted(map(key, mask.rings()))
    whole = [[rings[0] for rings in parts] for parts in traced]
    filled = fill_outlines([*whole, [np.array([[-3.0, 2], [4, 2], [4, 70]])]], WIDTH, HEIGHT)
    for mask, parts, result in zip(found, traced, filled, strict=False):
        if all(len(rings) == 1 for rings in parts):
            assert result == mask
    assert filled[-1] is not None and filled[-1].box.clip(WIDTH, HEIGHT) == filled[-1].box
