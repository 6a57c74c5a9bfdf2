"""Tiles: where they lie, and what happens to the labels they cut."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rsgen.errors import UsageError
from rsgen.formats.tiling import Window, cut_layout, cut_sample, fit_along, needs_tiling, plan_tiles
from rsgen.geometry import Box, as_array, bounds, heading_of, polygon_area
from rsgen.records import Geo, Instance, Layout
from tests.formats_build import disk_mask, plane, sample_of, tank

PLANS = [
    # width, height, size, gap, columns, rows
    ("exact", 200, 100, 100, 0, [0, 100], [0]),
    ("last-tile-shifted", 250, 100, 100, 0, [0, 100, 150], [0]),
    ("gap", 250, 100, 100, 50, [0, 50, 100, 150], [0]),
    ("smaller-than-a-tile", 60, 250, 100, 20, [0], [0, 80, 150]),
    ("one-pixel-over", 101, 100, 100, 0, [0, 1], [0]),
]


@pytest.mark.parametrize(
    ("width", "height", "size", "gap", "columns", "rows"),
    [p[1:] for p in PLANS],
    ids=[p[0] for p in PLANS],
)
def test_tiles_cover_the_scene_at_full_size(
    width: int, height: int, size: int, gap: int, columns: list[int], rows: list[int]
) -> None:
    tiles = plan_tiles(width, height, size, gap)
    assert [(t.x0, t.y0) for t in tiles] == [(x, y) for y in rows for x in columns]
    covered = np.zeros((height, width), dtype=bool)
    for tile in tiles:
        assert (tile.width, tile.height) == (min(size, width), min(size, height))
        covered[tile.y0 : tile.y0 + tile.height, tile.x0 : tile.x0 + tile.width] = True
    assert covered.all()


@pytest.mark.parametrize(("size", "gap"), [(0, 0), (100, 100), (100, -1)])
def test_a_plan_that_never_ends_is_refused(size: int, gap: int) -> None:
    with pytest.raises(UsageError, match="gap"):
        plan_tiles(200, 200, size, gap)


@pytest.mark.parametrize(
    ("width", "height", "cut"), [(768, 512, False), (769, 512, True), (100, 800, True)]
)
def test_only_scenes_over_one_and_a_half_tiles_are_cut(width: int, height: int, cut: bool) -> None:
    assert needs_tiling(width, height, 512) is cut


def _one(instance: Instance, window: Window, keep: float = 0.3) -> Instance | None:
    found = cut_layout(Layout(64, 48, (instance,)), window, keep).instances
    return found[0] if found else None


def test_a_whole_label_only_moves() -> None:
    source = plane(30, 24, 12, 6, 0.6)
    cut = _one(source, Window(20, 10, 30, 30))
    assert cut is not None and not cut.truncated
    assert np.allclose(as_array(cut.quad) + (20, 10), source.quad)
    assert cut.heading_rad == 0.6


@pytest.mark.parametrize("angle", [0.0, 0.5, 1.2, math.pi / 2, -2.4, 3.0])
def test_a_cut_label_is_clipped_and_keeps_its_heading(angle: float) -> None:
    """Clamping corners instead of clipping would shear the box and turn the heading."""
    source = plane(30, 24, 24, 10, angle)
    window = Window(28, 20, 30, 25)
    cut = _one(source, window, keep=0.05)
    assert cut is not None and cut.quad is not None and cut.truncated
    assert cut.heading_rad == source.heading_rad
    turn = math.remainder(heading_of(cut.quad) - angle, 2 * math.pi)
    assert turn == pytest.approx(0, abs=1e-9)
    assert polygon_area(cut.quad) > 0
    assert polygon_area(cut.quad) <= polygon_area(source.quad) + 1e-6
    box = cut.box
    assert box is not None
    assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= 30 and box.y1 <= 25
    outer = bounds(cut.quad)
    assert outer.x0 <= box.x0 + 1e-9 and outer.y1 >= box.y1 - 1e-9


@pytest.mark.parametrize(
    ("keep", "stays"), [(0.3, True), (0.5, True), (0.51, False)], ids=["low", "exact", "high"]
)
def test_the_keep_rule_goes_by_area(keep: float, stays: bool) -> None:
    cut = _one(Instance("ship", Box(10, 10, 20, 20)), Window(15, 0, 40, 40), keep)
    assert (cut is not None) is stays
    if cut is not None:
        assert cut.box == Box(0, 10, 5, 20)
        assert cut.truncated


def test_the_keep_rule_goes_by_the_mask_where_there_is_one() -> None:
    """A thin object in a large box: what counts is how much of the object is left."""
    mask = disk_mask(20, 16, 8)
    left = mask.window(0, 0, 20, 48)
    assert left is not None
    cut = _one(tank(20, 16, 8), Window(0, 0, 20, 48))
    assert cut is not None and cut.mask == left and cut.truncated
    assert cut.mask.area / mask.area == pytest.approx(0.5)
    assert _one(tank(20, 16, 8), Window(0, 0, 15, 48)) is None


def test_a_whole_mask_is_not_truncated_by_an_empty_corner() -> None:
    source = plane(20, 16, 16, 16, math.pi / 4, mask=disk_mask(20, 16, 7))
    cut = _one(source, Window(12, 0, 40, 40))
    assert cut is not None and not cut.truncated
    assert cut.box is not None and cut.box.x0 >= 0


def test_stuff_is_windowed_however_little_is_left() -> None:
    water = Instance("water", mask=disk_mask(20, 16, 8))
    cut = _one(water, Window(27, 8, 20, 20), keep=0.9)
    assert cut is not None and cut.mask is not None and not cut.truncated
    assert _one(water, Window(40, 8, 20, 20)) is None


def test_a_tile_knows_its_scene_and_its_place() -> None:
    sample = sample_of("scene.png", plane(30, 24, 12, 6, 0.6))
    sample = type(sample)(**{**{k: getattr(sample, k) for k in sample.__slots__},
                             "geo": Geo("EPSG:32617", (0.5, 0, 100, 0, -0.5, 200))})  # fmt: skip
    tile = cut_sample(sample, Window(20, 10, 30, 30))
    assert (tile.id, tile.parent, tile.image) == ("scene.png#20,10", "scene.png", None)
    assert tile.geo is not None and tile.geo.affine == (0.5, 0, 110, 0, -0.5, 195)
    assert (tile.layout.width, tile.layout.height) == (30, 30)


def test_fit_along_encloses_and_is_tight() -> None:
    points = np.array([[0, 0], [4, 1], [2, 5]], dtype=float)
    quad = as_array(fit_along(points, 0.7))
    assert polygon_area(quad) > 0
    for p, q in zip(quad, np.roll(quad, -1, axis=0), strict=True):
        side = (q[0] - p[0]) * (points[:, 1] - p[1]) - (q[1] - p[1]) * (points[:, 0] - p[0])
        assert side.min() == pytest.approx(0, abs=1e-9)
