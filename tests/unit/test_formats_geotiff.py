"""GeoTIFF scenes with vector labels: CRS, shapes, classes, failures; and writing them."""

from __future__ import annotations

import builtins
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
from rasterio.crs import CRS
from rasterio.transform import Affine
from rasterio.warp import transform

from rsgen.errors import DataError, SetupError
from rsgen.formats import Dataset, SafeNames, detect, read_dataset
from rsgen.formats.geotiff import FORMAT
from rsgen.formats.holding import as_held, difference
from rsgen.geometry import RotatedBox, heading_of, rotated_box_to_quad
from rsgen.images import read_image, write_png
from rsgen.mask import Mask
from rsgen.records import (
    INCOMPLETE,
    ClassTable,
    Geo,
    Instance,
    Layout,
    ObjectClass,
    Provenance,
    Sample,
)
from tests.formats_build import CLASSES, HEIGHT, WIDTH, disk_mask, plane, tank
from tests.raster_build import (
    LON_LAT,
    NORTH_UP,
    UTM,
    box_ring,
    feature,
    noise,
    on_map,
    put_geojson,
    put_raster,
)

L_SHAPE = [(10.0, 10.0), (30.0, 10.0), (30.0, 18.0), (20.0, 18.0), (20.0, 30.0), (10.0, 30.0)]
TURNED_BOX = [tuple(p) for p in rotated_box_to_quad(RotatedBox(40, 24, 20, 8, 0.5))]


def scene(folder: Path, name: str = "a.tif", **options: Any) -> Path:
    return put_raster(folder / name, noise(3, 48, 64), **options)


def labelled(
    folder: Path, *features: Any, name: str = "labels.geojson", crs: str | None = UTM, **extra: Any
) -> Path:
    scene(folder)
    put_geojson(folder / name, features, crs, **extra)
    return folder


def only(dataset: Dataset) -> Instance:
    assert not dataset.failures, dataset.failures
    (instance,) = dataset.records[0].layout.instances
    return instance


# ---------------------------------------------------------------- shapes


def test_an_outline_becomes_a_mask_and_its_box(tmp_path: Path) -> None:
    """Catches y that runs up, x and y swapped, and a half-pixel shift."""
    folder = labelled(tmp_path, feature(on_map(L_SHAPE), label="house"))
    dataset = read_dataset(folder)
    instance = only(dataset)
    expected = Mask.from_polygons([np.array(L_SHAPE)], 64, 48)
    assert instance.mask == expected and instance.quad is None and instance.label == "house"
    assert instance.box is not None and instance.box.x1 == pytest.approx(30)
    sample = dataset.records[0]
    assert sample.id == "a.tif" and sample.layout.gsd_m == 0.5 and sample.geo is not None


def test_holes_and_parts_are_one_object(tmp_path: Path) -> None:
    ring, hole, other = (box_ring(2, 2, 20, 20), box_ring(8, 8, 12, 12), box_ring(30, 30, 40, 36))
    geometry = {
        "type": "MultiPolygon",
        "coordinates": [[on_map(ring), on_map(hole)], [on_map(other)]],
    }
    found = only(read_dataset(labelled(tmp_path, feature(geometry, label="a"))))
    assert found.mask is not None and found.mask.area == 18 * 18 - 16 + 60


def test_overlapping_parts_are_filled_and_make_no_hole(tmp_path: Path) -> None:
    """Catches even-odd filling of two parts drawn over each other."""
    parts = [[on_map(box_ring(2, 2, 20, 20))], [on_map(box_ring(10, 2, 30, 20))]]
    geometry = {"type": "MultiPolygon", "coordinates": parts}
    found = only(read_dataset(labelled(tmp_path, feature(geometry, label="a"))))
    assert found.mask is not None and found.mask.area == 28 * 18


def test_a_set_of_rectangles_is_a_set_of_boxes(tmp_path: Path) -> None:
    """Catches masks that are whole boxes: a pool of them would teach that ships are rectangles."""
    upright = feature(on_map(box_ring(5, 5, 25, 15)), label="a")
    turned = feature(on_map(TURNED_BOX[::-1]), label="b")
    dataset = read_dataset(labelled(tmp_path, upright, turned))
    a, b = sorted(dataset.records[0].layout.instances, key=lambda i: i.label)
    assert a.mask is None and a.quad is None and a.box is not None and a.box.width == 20
    assert b.mask is None and b.quad is not None and b.heading_rad is None
    assert {tuple(np.round(p, 6)) for p in b.quad} == {tuple(np.round(p, 6)) for p in TURNED_BOX}
    assert any("every label is a rectangle" in note for note in dataset.notes)


def test_a_rectangle_among_outlines_is_an_outline_with_its_oriented_box(tmp_path: Path) -> None:
    """Four-cornered houses among others keep their masks."""
    turned = feature(on_map(TURNED_BOX), label="b")
    upright = feature(on_map(box_ring(50, 5, 60, 15)), label="c")
    other = feature(on_map(L_SHAPE), label="a")
    found = {i.label: i for i in read_dataset(labelled(tmp_path, other, turned, upright))
             .records[0].layout.instances}  # fmt: skip
    assert found["b"].mask is not None and found["b"].quad is not None
    assert found["c"].mask is not None and found["c"].quad is None
    assert found["a"].quad is None


def test_heading_where_the_user_says_that_first_edges_are_fronts(tmp_path: Path) -> None:
    folder = labelled(tmp_path, feature(on_map(TURNED_BOX), label="b"))
    assert only(read_dataset(folder, heading=True)).heading_rad == pytest.approx(0.5)


BAD_FEATURES: dict[str, tuple[Any, str]] = {
    "point": (feature({"type": "Point", "coordinates": [500010, 5499990]}, label="a"), "NoArea"),
    "line": (
        feature({"type": "LineString", "coordinates": [[0, 0], [1, 1]]}, label="a"), "NoArea"),
    "no geometry": ({"type": "Feature", "properties": {"label": "a"}, "geometry": None},
                    "NoGeometry"),
    "empty": (feature({"type": "Polygon", "coordinates": []}, label="a"), "NoGeometry"),
    "nonsense": (feature({"type": "Polygon", "coordinates": "x"}, label="a"), "BadGeometry"),
    "unknown type": (feature({"type": "Circle", "coordinates": [1, 2]}, label="a"), "BadGeometry"),
    "two points": (feature([[5e5, 5.5e6], [5e5, 5.4e6]], label="a"), "BadGeometry"),
    "no class": (feature(on_map(L_SHAPE), label=None), "NoClass"),
    "not finite": (
        feature([[5e5, 5.5e6], [math.nan, 5.5e6], [5e5, 5.4e6], [5e5, 5.5e6]], label="a"),
        "NotFinite"),
    "bow tie": (
        feature(on_map([(2, 2), (20, 20), (20, 2), (2, 20), (1, 11)]), label="a"), "SelfCrossing"),
    "no feature": (17, "NoGeometry"),
    "elsewhere": (feature(on_map(box_ring(900, 900, 950, 960)), label="a"), "OutsideScenes"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_FEATURES, ids=list(BAD_FEATURES))
def test_a_bad_feature_is_a_failure_and_the_others_go_on(case: str, tmp_path: Path) -> None:
    bad, name = BAD_FEATURES[case]
    good = [feature(on_map(L_SHAPE), label="a")] * 12
    dataset = read_dataset(labelled(tmp_path, *good, bad))
    assert [f.error for f in dataset.failures] == [name]
    assert "labels.geojson" in dataset.failures[0].message
    assert len(dataset.records[0].layout.instances) == 12
    counts = dataset.counts
    assert counts["labels_read"] == 13 == counts["labels_kept"] + counts[f"labels_skipped.{name}"]


# ---------------------------------------------------------------- classes


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ({"label": "ship"}, "ship"),
        ({"id": 4, "Class": "ship"}, "ship"),
        ({"type_id": 18}, "18"),
        ({"type_id": 18.0, "image": "x"}, "18"),
        ({"CLASS_NAME": "ship", "type_id": 1}, "ship"),
    ],
    ids=["label", "spelling", "number", "number as float", "a name before a number"],
)
def test_the_property_that_names_the_class_is_found(
    properties: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    assert only(read_dataset(labelled(tmp_path, feature(on_map(L_SHAPE), **properties)))).label == (
        expected
    )


def test_a_name_that_few_have_is_no_class(tmp_path: Path) -> None:
    """Catches OpenStreetMap houses sorted into classes by what their owners call them."""
    features = [feature(on_map(L_SHAPE), name="", building="yes") for _ in range(9)]
    features.append(feature(on_map(L_SHAPE), name="Town hall", building="yes"))
    folder = labelled(tmp_path, *features)
    with pytest.raises(DataError, match="building, name") as caught:
        read_dataset(folder)
    assert "extract_masks.label_key" in str(caught.value)
    assert read_dataset(folder, label_name="building").classes.names == ("building",)
    assert read_dataset(folder, label_key="building").classes.names == ("yes",)
    with pytest.raises(DataError, match="no feature has the property 'kind'"):
        read_dataset(folder, label_key="kind")


def test_class_map_and_table_apply(tmp_path: Path) -> None:
    folder = labelled(
        tmp_path, feature(on_map(L_SHAPE), type_id=18), feature(on_map(L_SHAPE), type_id=99)
    )
    dataset = read_dataset(folder, classes=ClassTable.of("car"), class_map={"18": "car"})
    assert [i.label for i in dataset.records[0].layout.instances] == ["car"]
    assert [f.error for f in dataset.failures] == ["UnknownClass"]


# ---------------------------------------------------------------- coordinate systems


def in_degrees(ring: Any) -> list[list[float]]:
    xs, ys = zip(*on_map(ring), strict=True)
    return [list(p) for p in zip(*transform(UTM, LON_LAT, xs, ys), strict=True)]


CRS_CASES = {
    "same": (UTM, on_map(L_SHAPE)),
    "urn": ("urn:ogc:def:crs:EPSG::32632", on_map(L_SHAPE)),
    "degrees, unsaid": (None, in_degrees(L_SHAPE)),
    "degrees, said": ("urn:ogc:def:crs:OGC:1.3:CRS84", in_degrees(L_SHAPE)),
    "degrees by EPSG": ("urn:ogc:def:crs:EPSG::4326", in_degrees(L_SHAPE)),
    "metres, unsaid": (None, on_map(L_SHAPE)),
}


@pytest.mark.parametrize("case", CRS_CASES)
def test_labels_are_brought_into_the_images_crs(case: str, tmp_path: Path) -> None:
    """Catches latitude first, degrees taken for metres, and metres taken for degrees."""
    crs, ring = CRS_CASES[case]
    found = only(read_dataset(labelled(tmp_path, feature(ring, label="a"), crs=crs)))
    expected = Mask.from_polygons([np.array(L_SHAPE)], 64, 48)
    assert found.mask is not None and expected is not None
    assert found.mask.iou(expected) > 0.99


def test_a_label_beyond_the_pole_is_a_failure(tmp_path: Path) -> None:
    """Catches infinite coordinates, which poison the index of all labels."""
    beyond = [[0.0, 90.5], [1.0, 90.5], [1.0, 90.9], [0.0, 90.5]]
    features = [feature(in_degrees(L_SHAPE), label="a"), feature(beyond, label="a")]
    dataset = read_dataset(labelled(tmp_path, *features, crs=None))
    assert [f.error for f in dataset.failures] == ["NotFinite"]
    assert len(dataset.records[0].layout.instances) == 1


def test_a_rotated_image_gets_its_labels_in_place(tmp_path: Path) -> None:
    affine = Affine.translation(5e5, 5.5e6) @ Affine.rotation(25) @ Affine.scale(0.5, -0.5)
    scene(tmp_path, affine=affine)
    put_geojson(tmp_path / "l.geojson", [feature(on_map(L_SHAPE, affine), label="a")])
    dataset = read_dataset(tmp_path)
    assert only(dataset).mask == Mask.from_polygons([np.array(L_SHAPE)], 64, 48)
    assert dataset.records[0].layout.gsd_m == pytest.approx(0.5)


def test_an_image_without_crs_takes_labels_in_its_own_coordinates(tmp_path: Path) -> None:
    scene(tmp_path, crs=None)
    put_geojson(tmp_path / "l.geojson", [feature(on_map(L_SHAPE), label="a")])
    dataset = read_dataset(tmp_path)
    assert only(dataset).mask is not None and dataset.records[0].layout.gsd_m is None
    assert any("name no CRS" in note for note in dataset.notes)


def test_pixels_as_coordinates_where_nothing_is_georeferenced(tmp_path: Path) -> None:
    """Only for the image of the same name: shared pixel labels would land in every image."""
    scene(tmp_path, crs=None, affine=None)
    ring = [list(p) for p in [*L_SHAPE, L_SHAPE[0]]]
    put_geojson(tmp_path / "a.geojson", [feature(ring, label="a")], None)
    assert only(read_dataset(tmp_path)).mask == Mask.from_polygons([np.array(L_SHAPE)], 64, 48)
    (tmp_path / "a.geojson").rename(tmp_path / "all.geojson")
    failed = read_dataset(tmp_path)
    assert failed.failures[0].error == "NotGeoreferenced" and not failed.records


def test_shared_labels_go_to_the_images_that_they_lie_in(tmp_path: Path) -> None:
    """Two scenes side by side and one far away; one object lies over the seam."""
    scene(tmp_path, "left.tif")
    scene(tmp_path, "right.tif", affine=NORTH_UP @ Affine.translation(64, 0))
    scene(tmp_path, "far.tif", affine=NORTH_UP @ Affine.translation(0, 5000))
    seam = [(54.0, 10.0), (74.0, 10.0), (74.0, 20.0), (66.0, 22.0), (54.0, 20.0)]
    features = [feature(on_map(L_SHAPE), label="a"), feature(on_map(seam), label="b")]
    put_geojson(tmp_path / "labels.geojson", features)
    dataset = read_dataset(tmp_path)
    found = {s.id: sorted(i.label for i in s.layout.instances) for s in dataset}
    assert found == {"left.tif": ["a", "b"], "right.tif": ["b"]}
    assert all(i.truncated for s in dataset for i in s.layout.instances if i.label == "b")
    assert [f.error for f in dataset.failures] == ["OutsideLabels"], (
        "an image beyond all labels is not known to be empty"
    )
    assert dataset.counts["labels_read"] == dataset.counts["labels_kept"] == 3


def test_labels_of_an_images_name_are_its_own(tmp_path: Path) -> None:
    """Overlapping tiles: catches an object that comes twice, from its own file and the other's."""
    scene(tmp_path, "images/train/a.tif")
    scene(tmp_path, "images/train/b.tif", affine=NORTH_UP @ Affine.translation(5, 0))
    for name in ("a", "b"):
        put_geojson(
            tmp_path / f"labels/train/{name}.geojson", [feature(on_map(L_SHAPE), label=name)]
        )
    dataset = read_dataset(tmp_path)
    assert [[i.label for i in s.layout.instances] for s in dataset] == [["a"], ["b"]]
    assert {s.split for s in dataset} == {"train"}


def test_an_outline_over_a_huge_scene_is_refused_and_not_filled(tmp_path: Path) -> None:
    """Catches gigabytes for one lake: 400 million pixels are filled, and decoded for each tile."""
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", width=20_000, height=20_000, count=1,
        dtype="uint8", tiled=True, SPARSE_OK=True, crs=UTM, transform=NORTH_UP,
    ):  # fmt: skip
        pass
    lake = [(5.0, 5.0), (19_000.0, 5.0), (19_500.0, 19_000.0), (9_000.0, 19_900.0), (5.0, 600.0)]
    features = [feature(on_map(lake), label="a"), feature(on_map(L_SHAPE), label="a")]
    dataset = read_dataset(put_geojson(tmp_path / "a.geojson", features).parent)
    assert [f.error for f in dataset.failures] == ["TooLarge"]
    assert len(dataset.records[0].layout.instances) == 1


# ---------------------------------------------------------------- files


def put_geopackage(path: Path, ring: Any, **properties: Any) -> Path:
    import pyogrio

    pyogrio.raw.write(
        path,
        shapely.to_wkb(np.array([shapely.Polygon(ring)])),
        [np.array([value], dtype=object) for value in properties.values()],
        list(properties),
        layer="objects",
        driver="GPKG",
        geometry_type="Polygon",
        crs=UTM,
    )
    return path


def test_geopackage(tmp_path: Path) -> None:
    scene(tmp_path)
    put_geopackage(tmp_path / "labels.gpkg", on_map(L_SHAPE), category="house")
    instance = only(read_dataset(tmp_path))
    assert instance.label == "house"
    assert instance.mask == Mask.from_polygons([np.array(L_SHAPE)], 64, 48)


def test_geopackage_without_the_extra_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene(tmp_path)
    (tmp_path / "labels.gpkg").write_bytes(b"SQLite format 3\0")
    real: Callable[..., Any] = builtins.__import__

    def without(name: str, *rest: Any, **options: Any) -> Any:
        if name.split(".")[0] == "pyogrio":
            raise ModuleNotFoundError("No module named 'pyogrio'", name="pyogrio")
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SetupError, match="pyogrio") as caught:
        read_dataset(tmp_path)
    assert "rsgen[vector]" in str(caught.value)


BAD_FILES = {
    "no json": ("b.geojson", b"{", "BadJson"),
    "no features": ("b.geojson", b'{"type": "FeatureCollection"}', "BadJson"),
    "a list": ("b.geojson", b"[1, 2]", "BadJson"),
    "not utf-8": ("b.geojson", b'{"type": "\xff\xfe"}', "BadJson"),
    "deep": ("b.geojson", b"[" * 200_000, "BadJson"),
    "unknown crs": (
        "b.geojson",
        b'{"features": [], "crs": {"type": "name", "properties": {"name": "EPSG:0"}}}',
        "BadCrs",
    ),
    "linked crs": ("b.geojson", b'{"features": [], "crs": {"type": "link"}}', "BadCrs"),
    "no geopackage": ("b.gpkg", b"<OGRVRTDataSource/>", "BadGeoPackage"),
    "damaged geopackage": ("b.gpkg", b"SQLite format 3\0" + b"\1" * 500, "BadGeoPackage"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_label_file_is_a_failure_and_the_others_go_on(case: str, tmp_path: Path) -> None:
    name, data, error = BAD_FILES[case]
    folder = labelled(tmp_path, feature(on_map(L_SHAPE), label="a"))
    (folder / name).write_bytes(data)
    dataset = read_dataset(folder)
    assert [f.error for f in dataset.failures] == [error]
    assert name in dataset.failures[0].message
    assert len(dataset.records[0].layout.instances) == 1


def test_a_damaged_image_is_a_failure(tmp_path: Path) -> None:
    folder = labelled(tmp_path, feature(on_map(L_SHAPE), label="a"))
    (folder / "b.tif").write_bytes(b"II*\0" + bytes(40))
    dataset = read_dataset(folder)
    assert [(f.item, f.error) for f in dataset.failures] == [("b.tif", "BadImage")]


def test_detection(tmp_path: Path) -> None:
    folder = labelled(tmp_path, feature(on_map(L_SHAPE), label="a"), name="a.json")
    found = detect(folder)
    assert found.format == "geotiff" and "a.json" in found.found
    (folder / "a.tif").unlink()
    with pytest.raises(DataError, match="no labels of a known format"):
        detect(folder)


def test_labels_alone_are_refused(tmp_path: Path) -> None:
    folder = labelled(tmp_path, feature(on_map(L_SHAPE), label="a"))
    with pytest.raises(DataError, match="no pixels of their own"):
        read_dataset(folder, require_images=False)


def test_other_labels_get_the_images_place_too(tmp_path: Path) -> None:
    """DOTA labels of a GeoTIFF: catches a position that only one format knows of."""
    put_raster(tmp_path / "images/a.tif", noise(3, 48, 64))
    write_png(tmp_path / "images/b.png", np.zeros((48, 64, 3), np.uint8))
    for name in ("a", "b"):
        path = tmp_path / f"labelTxt/{name}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text("1 1 9 1 9 9 1 9 ship 0\n")
    a, b = read_dataset(tmp_path).records
    assert a.geo is not None and a.geo.affine == tuple(NORTH_UP)[:6] and a.layout.gsd_m == 0.5
    assert b.geo is None and b.layout.gsd_m is None
    assert read_dataset(tmp_path, gsd_m=0.7).records[0].layout.gsd_m == 0.7, "the user knows better"


# ---------------------------------------------------------------- writing

PLACE = Geo(CRS.from_string(UTM).to_wkt(), tuple(NORTH_UP)[:6])
TURNED = Affine.translation(5e5, 5.5e6) @ Affine.rotation(25) @ Affine.scale(0.1, -0.1)
PLACES = {
    "projected": PLACE,
    "rotated": Geo(PLACE.crs, tuple(TURNED)[:6]),
    "degrees": Geo(CRS.from_epsg(4326).to_wkt(), (1e-6, 0.0, 9.0, 0.0, -1e-6, 49.0)),
    "no CRS": Geo(None, (1.0, 0.0, 100.0, 0.0, -1.0, 200.0)),
    "no code": Geo(CRS.from_proj4("+proj=tmerc +lon_0=9.5 +ellps=GRS80").to_wkt(), PLACE.affine),
}


def tile(geo: Geo | None = PLACE, *instances: Instance, **fields: Any) -> Sample:
    return Sample(
        "s.tif#0,0", Layout(WIDTH, HEIGHT, instances, gsd_m=0.31), geo=geo, split="train", **fields
    )


def written(sample: Sample, folder: Path) -> Dataset:
    write_png(folder / "loose.png", np.moveaxis(noise(3, HEIGHT, WIDTH), 0, -1))
    writer = FORMAT.writer()
    writer.open(folder / "out", CLASSES, ["train"])
    name = SafeNames().name(sample.id, ".png")
    writer.add(sample, name, "train", folder / "loose.png")
    assert writer.close().images == 1
    return read_dataset(folder / "out", format="geotiff", classes=CLASSES)


@pytest.mark.parametrize("place", PLACES)
def test_what_is_written_is_read_back(place: str, tmp_path: Path) -> None:
    """Every kind of label, in every kind of place: exact masks, headings, marks, gsd."""
    water = disk_mask(40, 40, 7)
    sample = tile(
        PLACES[place],
        Instance("water", mask=water),
        plane(30, 20, 16, 6, 0.7),
        plane(10, 12, 9, 5, -2.0, mask=disk_mask(10, 12, 4), difficult=True),
        tank(50, 30, 6, 3),
        Instance("ship", box=tank(20, 38, 4).box, iscrowd=True, truncated=True),
    )
    dataset = written(sample, tmp_path)
    assert not dataset.failures
    (read,) = dataset.records
    assert difference(as_held(sample, CLASSES, FORMAT), read, CLASSES) is None
    found = {i.label: i for i in read.layout.instances}
    assert found["water"].mask == water and found["water"].box is None
    assert found["ship"].truncated and found["ship"].mask is None
    assert read.layout.gsd_m == 0.31 and read.geo is not None
    np.testing.assert_allclose(read.geo.affine, PLACES[place].affine, rtol=1e-12)
    np.testing.assert_array_equal(
        read_image(dataset.image_path(read)), read_image(tmp_path / "loose.png")
    )


def test_other_programs_find_the_labels_in_place(tmp_path: Path) -> None:
    """GDAL (through pyogrio) reads CRS and corners; the known corner is checked by hand."""
    import pyogrio

    written(tile(PLACE, Instance("ship", box=tank(20, 30, 4).box)), tmp_path)
    meta, _, codes, _ = pyogrio.raw.read(tmp_path / "out/labels/train/s_0_0.geojson")
    assert CRS.from_user_input(meta["crs"]) == CRS.from_string(UTM)
    bounds = shapely.from_wkb(codes[0]).bounds
    np.testing.assert_allclose(bounds, (500008.0, 5499983.0, 500012.0, 5499987.0))


def test_synthetic_images_say_so_and_real_ones_do_not(tmp_path: Path) -> None:
    """A made-up picture with coordinates must never pass for an observation."""
    made = Provenance("synthetic", run="f" * 8, seed=3, parent="scene.tif")
    for kind, provenance in (("synthetic", made), ("real", Provenance("real"))):
        folder = tmp_path / kind
        written(tile(PLACE, provenance=provenance), folder)
        with rasterio.open(folder / "out/images/train/s_0_0.tif") as file:
            tags = file.tags()
            assert file.profile["compress"] == "deflate"
        assert tags["RSGEN_KIND"] == kind
        assert ("synthetic" in tags.get("TIFFTAG_IMAGEDESCRIPTION", "")) == (kind == "synthetic")
        labels = json.loads((folder / "out/labels/train/s_0_0.geojson").read_text())
        assert ("description" in labels) == (kind == "synthetic")
        if kind == "synthetic":
            assert json.loads(tags["RSGEN_PROVENANCE"])["seed"] == 3


def test_the_same_sample_gives_the_same_bytes(tmp_path: Path) -> None:
    """Catches dates and paths in TIFF tags."""
    files = []
    for name in ("one", "two"):
        written(tile(PLACE, tank(50, 30, 6, 3)), tmp_path / name)
        out = tmp_path / name / "out"
        files.append({p.name: p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()})
    assert files[0] == files[1] and len(files[0]) == 2


def test_a_sample_that_lies_nowhere_is_left_out() -> None:
    assert FORMAT.leaves_out is not None
    assert FORMAT.leaves_out(tile(None)) == "without a position on the ground"
    assert FORMAT.leaves_out(tile()) is None


def test_large_tiles_are_tiled_inside(tmp_path: Path) -> None:
    from rsgen.formats.geotiff_write import write_geotiff

    pixels = np.moveaxis(noise(3, 300, 600), 0, -1)
    write_geotiff(tmp_path / "a.tif", pixels, PLACE, {})
    with rasterio.open(tmp_path / "a.tif") as file:
        assert file.block_shapes[0] == (256, 256)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), pixels)


def test_stuff_without_a_table_is_known_by_its_mark(tmp_path: Path) -> None:
    written(tile(PLACE, Instance("water", mask=disk_mask(40, 40, 7))), tmp_path)
    dataset = read_dataset(tmp_path / "out")
    assert dataset.classes.is_stuff("water")
    assert dataset.records[0].layout.instances[0].box is None


def test_headings_of_symmetric_classes_are_not_made_up(tmp_path: Path) -> None:
    table = ClassTable((ObjectClass("b", symmetric=True),))
    folder = labelled(tmp_path, feature(on_map(TURNED_BOX), label="b"))
    found = only(read_dataset(folder, classes=table, heading=True))
    assert found.heading_rad is None and found.quad is not None
    assert abs(math.remainder(heading_of(found.quad) - 0.5, math.pi / 2)) < 1e-6


def test_an_image_has_lost_the_labels_that_lie_in_it(tmp_path: Path) -> None:
    """Catches the first image of a set being blamed for failures in all others."""

    def box(x: float, label: str | None) -> Any:
        return feature(on_map(box_ring(x, 4, x + 10, 14)), label=label)

    for k, name in enumerate("abc"):
        scene(tmp_path, f"{name}.tif", affine=NORTH_UP @ Affine.translation(100 * k, 0))
    shared = [box(4, "house"), box(104, "house"), box(130, None), box(204, "house")]
    put_geojson(tmp_path / "labels.geojson", shared)
    put_geojson(tmp_path / "c.geojson", [box(230, None), feature({"type": "Point"}, label="a")])
    dataset = read_dataset(tmp_path)
    lost = {s.id: s.attributes.get(INCOMPLETE) for s in dataset}
    assert lost == {"a.tif": None, "b.tif": "1/2 NoClass", "c.tif": "2/3 BadGeometry NoClass"}
    assert dataset.counts["labels_read"] == 6 and dataset.counts["labels_kept"] == 3
