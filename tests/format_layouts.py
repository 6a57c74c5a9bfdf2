"""Hypothesis strategies for the format tests: anything that a sample may legally hold."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from rsgen.geometry import Box, RotatedBox, bounds, heading_of, rotated_box_to_quad
from rsgen.mask import Mask
from rsgen.records import (
    ClassTable,
    Geo,
    Instance,
    Layout,
    ObjectClass,
    Provenance,
    Sample,
    normal_name,
)

__all__ = ["SPLITS", "instances", "sample_sets", "tables"]

SPLITS = ("train", "val", "test")
# Names that a label file, a header, a path or a parser could take for something else.
NAMES = (
    "plane",
    "ship",
    "storage tank",
    "dry cargo ship",
    "vehicle/large",
    "Ünïcode häuser",
    "飛行機",
    "مطار",
    "🛩 jet",
    "e\u0301tang",
    'a "quoted" name',
    "it's",
    "<b>&amp;</b>",
    "]]>",
    "{json: [1, 2]}",
    "yaml: - # ! & *",
    "-leading-dash",
    "--option=value",
    "#comment",
    "%",
    "0",
    "1",
    "12",
    "1.5",
    "1e3",
    "nan",
    "inf",
    "true",
    "null",
    "~",
    "gsd:0.5",
    "imagesource:x",
    "__ignored__",
    "class-0",
    "../up",
    "C:\\x",
    "a,b;c|d",
    "x" * 120,
)
STUFF = ("water", "Wald & Wiese", "3", "bare land")
IDS = (
    "a",
    "images/a.png",
    "train/b c.png",
    "val/b c.png",
    "P1.tif#0,512",
    "P1.tif#512,0",
    "ü/ß.jpg#-8,16",
    "0123abcd-000001",
    "x.y.z.png",
    "x_y_z.png",
    "a_ship",
    "a-mask",
    "labels/a",
    "test",
    "classes",
    "UPPER/A.PNG",
    "a.tar.gz#1",
    "日本/写真.png",
)
WORDS = st.sampled_from(["a b", "", "ü", '"', "line\nline", "<&>", "1", "-x", "{}", "\t tab"])


@st.composite
def tables(draw: st.DrawFn) -> ClassTable:
    """1 to 40 classes, some of them stuff, none of one spelling."""
    things = draw(st.lists(st.sampled_from(NAMES), min_size=1, unique_by=normal_name))
    stuff = draw(st.lists(st.sampled_from(STUFF), max_size=2, unique=True))
    entries = [ObjectClass(name, symmetric=draw(st.booleans())) for name in things]
    entries += [ObjectClass(name, kind="stuff") for name in stuff]
    return ClassTable(tuple(draw(st.permutations(entries))))


@st.composite
def masks(draw: st.DrawFn, width: int, height: int, *, inside: bool) -> Mask:
    """Any pattern of at most 9 x 9 pixels, or a large ring; over the border unless `inside`."""
    if draw(st.integers(0, 9)) == 0:
        wide, high = draw(st.integers(9, 40)), draw(st.integers(9, 40))
        pixels = np.ones((high, wide), dtype=bool)
        pixels[3:-3, 3:-3] = False
        pixels[4, 4] = draw(st.booleans())
    else:
        high, wide = draw(st.integers(1, 9)), draw(st.integers(1, 9))
        bits = draw(st.integers(1, 2 ** (high * wide) - 1))
        pixels = np.array([bits >> k & 1 for k in range(high * wide)], dtype=bool)
        pixels = pixels.reshape(high, wide)
    low = 0 if inside else -6
    x0 = draw(st.integers(low, max(width - 1, 0)))
    y0 = draw(st.integers(low, max(height - 1, 0)))
    found = Mask.from_array(pixels, x0, y0)
    assert found is not None
    window = found.window(0, 0, width, height)
    if window is None:
        return Mask(draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1)), 1, 1, b"01")
    return window if inside else found


@st.composite
def instances(draw: st.DrawFn, classes: ClassTable, width: int, height: int) -> Instance:
    """A thing (box, oriented box, mask or several of them), or stuff, with any marks."""
    entry = draw(st.sampled_from(classes.classes))
    if entry.kind == "stuff":
        return Instance(entry.name, mask=draw(masks(width, height, inside=draw(st.booleans()))))
    shapes = draw(
        st.sampled_from(["box", "quad", "mask", "box+mask", "quad+mask", "mask alone", "upright"])
    )
    made = _shape(draw, entry.name, shapes, width, height)
    if entry.symmetric:
        made = replace(made, heading_rad=None)
    if draw(st.booleans()):
        return made
    texts = st.dictionaries(st.sampled_from(["colour", "occluded", "ü k"]), WORDS, max_size=2)
    return replace(
        made,
        caption=draw(st.none() | WORDS.filter(bool)),
        attributes=draw(texts),
        truncated=draw(st.booleans()),
        difficult=draw(st.booleans()),
        iscrowd=draw(st.booleans()),
        scores=draw(st.dictionaries(st.sampled_from(["fit", "judge"]), st.floats(0, 1))),
        reasons=tuple(draw(st.lists(WORDS, max_size=1))),
        origin=draw(st.sampled_from(["annotation", "polygon", "sam", "pool:abc#1"])),
    )


def _shape(draw: st.DrawFn, label: str, kind: str, width: int, height: int) -> Instance:
    if kind in ("mask", "mask alone"):
        mask = draw(masks(width, height, inside=draw(st.booleans())))
        return Instance(label, None if kind == "mask alone" else mask.box, mask=mask)
    cx = draw(st.floats(0, width, allow_subnormal=False))
    cy = draw(st.floats(0, height, allow_subnormal=False))
    w, h = draw(st.floats(0.5, 30)), draw(st.floats(0.5, 30))
    if kind in ("box", "box+mask"):
        box = Box(cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
        mask = draw(masks(width, height, inside=True)) if kind == "box+mask" else None
        return Instance(label, box if mask is None else mask.box, mask=mask)
    quarter = math.pi / 2
    angle = draw(st.sampled_from([0.0, quarter, -quarter, -math.pi]) if kind == "upright"
                 else st.floats(-math.pi, math.pi - 1e-3))  # fmt: skip
    quad = rotated_box_to_quad(RotatedBox(cx, cy, w, h, angle))
    heading = heading_of(quad) if draw(st.booleans()) else None
    mask = Mask.from_polygons([np.asarray(quad)], width, height) if kind == "quad+mask" else None
    return Instance(label, bounds(quad), quad, mask, heading_rad=heading)


def _geo(draw: st.DrawFn) -> Geo:
    crs = draw(st.sampled_from(["EPSG:32633", "EPSG:4326", "EPSG:3857", None]))
    scale = 1e-5 if crs == "EPSG:4326" else 0.5
    turn = draw(st.sampled_from([0.0, 0.0, 0.3]))
    a, b = scale * math.cos(turn), scale * math.sin(turn)
    x, y = (11.5, 48.1) if crs == "EPSG:4326" else (500000.25, 5400000.75)
    return Geo(crs, (a, b, x, b, -a, y))


@st.composite
def sample_sets(draw: st.DrawFn) -> tuple[ClassTable, list[Sample]]:
    """(class table, 1 to 4 samples of any size, in any of `SPLITS`)."""
    classes = draw(tables())
    ids = draw(st.lists(st.sampled_from(IDS), min_size=1, max_size=4, unique=True))
    return classes, [draw(_samples(name, classes)) for name in ids]


@st.composite
def _samples(draw: st.DrawFn, name: str, classes: ClassTable) -> Sample:
    width, height = draw(st.integers(1, 90)), draw(st.integers(1, 90))
    found = draw(st.lists(instances(classes, width, height), max_size=5))
    once = {(classes.is_stuff(i.label) and i.label) or k: i for k, i in enumerate(found)}
    scene = draw(st.sampled_from([None, "harbour", "train", "a/b", "Ö & <x>", "images", ".."]))
    synthetic = draw(st.booleans())
    return Sample(
        name,
        Layout(width, height, tuple(once.values()), draw(st.none() | st.floats(0.05, 100)), scene),
        image=f"images/{name}",
        prompt=draw(st.none() | WORDS.filter(lambda text: bool(text.strip()))),
        attributes=draw(
            st.fixed_dictionaries(
                {},
                optional={"imagesource": st.sampled_from(["WorldView 3", "Größe:1"]), "k": WORDS},
            )
        ),
        split=draw(st.sampled_from(SPLITS)),
        geo=_geo(draw) if draw(st.booleans()) else None,
        provenance=Provenance("synthetic", "f" * 8, seed=7) if synthetic else Provenance("real"),
        scores=draw(st.dictionaries(st.just("sharpness"), st.floats(0, 1))),
    )
