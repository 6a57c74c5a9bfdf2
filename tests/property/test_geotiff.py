"""Labels in any place on the ground come back to the pixel."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.transform import Affine

from rsgen.formats import read_dataset
from rsgen.formats.geotiff import FORMAT
from rsgen.formats.holding import as_held, difference
from rsgen.geometry import RotatedBox, bounds, heading_of, rotated_box_to_quad
from rsgen.images import write_png
from rsgen.mask import Mask
from rsgen.records import ClassTable, Geo, Instance, Layout, Sample

SIDE = 96
CLASSES = ClassTable.of("plane", "ship")
# CRS, a point in it, and units a metre
PLACES = (
    (CRS.from_epsg(32733), (312_345.678, 8_765_432.1), 1.0),
    (CRS.from_epsg(4326), (-179.5, 71.25), 1e-5),
    (CRS.from_epsg(2263), (987_654.3, 201_234.5), 3.28),
    (CRS.from_epsg(3857), (-13_580_000.0, 4_439_000.0), 1.0),
    (None, (0.0, 0.0), 1.0),
)


@st.composite
def places(draw: st.DrawFn) -> Geo:
    crs, (x, y), unit = draw(st.sampled_from(PLACES))
    gsd = draw(st.floats(0.02, 30)) * unit
    turn = draw(st.sampled_from((0.0, 0.0, 17.0, 90.0, -123.4)))
    flip = draw(st.sampled_from((-1.0, -1.0, 1.0)))  # some rasters run south to north
    made = Affine.translation(x, y) @ Affine.rotation(turn) @ Affine.scale(gsd, flip * gsd)
    a, b, c, d, e, f = tuple(made)[:6]
    return Geo(None if crs is None else crs.to_wkt(), (a, b, c, d, e, f))


@st.composite
def instances(draw: st.DrawFn) -> Instance:
    label = draw(st.sampled_from(CLASSES.names))
    box = RotatedBox(
        draw(st.floats(10, SIDE - 10)),
        draw(st.floats(10, SIDE - 10)),
        draw(st.floats(2, 30)),
        draw(st.floats(2, 12)),
        draw(st.floats(-3.1, 3.1)),
    )
    quad = rotated_box_to_quad(box)
    kind = draw(st.sampled_from(("box", "quad", "mask", "both")))
    if kind == "box":
        return Instance(label, bounds(quad).clip(SIDE, SIDE))
    heading = heading_of(quad) if draw(st.booleans()) else None
    if kind == "quad":
        return Instance(label, None, quad, heading_rad=heading, difficult=draw(st.booleans()))
    seed = draw(st.integers(0, 99))
    pixels = np.random.default_rng(seed).random((9, 11)) < 0.6
    pixels[4, 5] = True
    mask = Mask.from_array(pixels, int(box.cx) - 6, int(box.cy) - 5)
    if kind == "both":
        return Instance(label, None, quad, mask, heading_rad=heading)
    return Instance(label, None, None, mask)


@settings(max_examples=40)
@given(places(), st.lists(instances(), max_size=4))
def test_written_labels_come_back_to_the_pixel(geo: Geo, labels: list[Instance]) -> None:
    """Catches mirrored corners in rasters that run north, rounding in degrees, lost headings."""
    layout = Layout(SIDE, SIDE, tuple(labels), gsd_m=0.5)
    sample = Sample("a", layout, geo=geo, split="train")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_png(folder / "a.png", np.zeros((SIDE, SIDE, 3), np.uint8))
        writer = FORMAT.writer()
        writer.open(folder / "out", CLASSES, ["train"])
        writer.add(sample, "a.png", "train", folder / "a.png")
        writer.close()
        dataset = read_dataset(folder / "out", format="geotiff", classes=CLASSES)
    assert not dataset.failures
    assert difference(as_held(sample, CLASSES, FORMAT), dataset.records[0], CLASSES) is None
