"""GeoTIFFs through the command line: tiles that know where they lie, and out again."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.crs import CRS
from rasterio.transform import Affine
from rasterio.warp import transform
from rasterio.windows import Window

from rsgen.store import open_samples, read_failures
from tests.conftest import CommandLine
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

HOUSE = [(300.0, 40.0), (330.0, 40.0), (330.0, 52.0), (315.0, 52.0), (315.0, 70.0), (300.0, 70.0)]
EDGE = [(250.0, 100.0), (262.0, 100.0), (262.0, 112.0), (256.0, 116.0), (250.0, 112.0)]


def degrees(ring: list[tuple[float, float]]) -> list[list[float]]:
    xs, ys = zip(*on_map(ring), strict=True)
    return [list(p) for p in zip(*transform(UTM, LON_LAT, xs, ys), strict=True)]


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A uint16 scene of 512 x 512 whose lower left quarter has no data, labels in degrees."""
    folder = tmp_path_factory.mktemp("town")
    bands = noise(3, 512, 512, "uint16")
    bands[:, 40:70, 300:330] = 60000  # what lies around the house
    bands[:, 256:, :256] = 0
    put_raster(folder / "town.tif", bands, nodata=0, compress="deflate")
    features = [feature(degrees(HOUSE), type="house"), feature(degrees(EDGE), type="shed")]
    features.append(feature({"type": "Point", "coordinates": [9.0, 49.6]}, type="house"))
    put_geojson(folder / "town.geojson", features, None)
    return folder


@pytest.fixture(scope="module")
def run(town: Path, cli: CommandLine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "masks"
    done = cli("extract-masks", town, "--out", out, "--tile", 256, "-s", "extract_masks.tile_gap=0",
               "-s", "extract_masks.tile_keep=0.4", "--json")  # fmt: skip
    assert done.code == 0, done
    counts = done.json["counts"]
    assert counts["samples"] == 3 and counts["images and tiles without data"] == 1
    assert counts["labels_skipped.NoArea"] == 1
    assert any("were left out" in note for note in done.json["notes"])
    return out


def test_tiles_know_where_they_lie(run: Path) -> None:
    """Catches tiles with the scene's affine, and empty ones that a model would learn as ground."""
    samples = {s.id: s for s in open_samples(run)}
    assert sorted(samples) == ["town.tif#0,0", "town.tif#256,0", "town.tif#256,256"]
    for name, sample in samples.items():
        x, y = map(int, name.split("#")[1].split(","))
        assert sample.layout.gsd_m == 0.5 and sample.geo is not None
        assert sample.geo.affine == (0.5, 0, 500_000 + x / 2, 0, -0.5, 5_500_000 - y / 2)
        assert CRS.from_wkt(sample.geo.crs) == CRS.from_string(UTM)
    (house,) = [i for i in samples["town.tif#256,0"].layout.instances if i.label == "house"]
    assert house.mask is not None and house.origin == "polygon"
    assert (house.mask.x0, house.mask.y0, house.mask.area) == (44, 40, 30 * 12 + 15 * 18)


def test_export_gives_geotiffs_that_fit_the_scene(
    run: Path, town: Path, cli: CommandLine, tmp_path: Path
) -> None:
    """The corner of the house is found at its place on the ground, in pixels and in labels; the
    set is read again as it was."""
    done = cli("export", run, "--out", tmp_path / "x", "--format", "geotiff,coco")
    assert done.code == 0, done
    folder = tmp_path / "x/dataset/geotiff"
    paths = sorted(folder.rglob("*.tif"))
    assert len(paths) == 3
    tile = next(p for p in paths if "256_0" in p.name)
    with rasterio.open(tile) as file, rasterio.open(town / "town.tif") as scene:
        x, y = on_map(HOUSE)[0]
        row, column = file.index(x + 0.1, y - 0.1)
        assert (file.read(1)[row, column], scene.read(1)[scene.index(x + 0.1, y - 0.1)]) == (
            255, 60000)  # fmt: skip
        assert file.crs == scene.crs and file.tags()["RSGEN_KIND"] == "real"
    labels = json.loads((folder / f"labels/train/{tile.stem}.geojson").read_text())
    corners = [p for f in labels["features"] for p in f["geometry"]["coordinates"][0]]
    assert [500_150.0, 5_499_980.0] in corners
    shutil.move(folder, tmp_path / "set")
    again = cli("extract-masks", tmp_path / "set", "--out", tmp_path / "again")
    assert again.code == 0, again
    masks = {
        name: sorted((i.label, i.mask.area) for s in open_samples(path) for i in s.layout.instances
                     if i.mask is not None)
        for name, path in (("before", run), ("after", tmp_path / "again"))
    }  # fmt: skip
    assert masks["before"] == masks["after"] and masks["before"]


def test_samples_that_lie_nowhere_are_left_out_and_listed(
    run: Path, cli: CommandLine, tmp_path: Path
) -> None:
    assert cli("scenes", "--out", tmp_path / "s", "--count", 2, "--size", 64).code == 0
    done = cli("export", run, "--with-real", tmp_path / "s", "--out", tmp_path / "x",
               "--format", "geotiff", "--json")  # fmt: skip
    assert done.code == 0, done
    assert any("left out 2 images without a position" in note for note in done.json["notes"])
    report = json.loads((tmp_path / "x/dataset/export.json").read_text())
    assert len(report["left out"]["geotiff"]["without a position on the ground"]) == 2
    assert len(list((tmp_path / "x/dataset/geotiff").rglob("*.tif"))) == 3
    nothing = cli("export", tmp_path / "s", "--out", tmp_path / "y", "--format", "geotiff")
    assert nothing.code == 3 and "without a position" in nothing.err


def test_the_same_scene_gives_the_same_bytes(town: Path, cli: CommandLine, tmp_path: Path) -> None:
    found = []
    for name in ("one", "two"):
        out = tmp_path / name
        assert cli("extract-masks", town, "--out", out, "--tile", 256).code == 0
        files = [*out.glob("parts/*"), *out.glob("images/*/*"), out / "manifest.json"]
        found.append({p.relative_to(out).as_posix(): p.read_bytes() for p in files})
    assert found[0] == found[1] and len(found[0]) > 5


def test_a_damaged_scene_is_a_failure_row(cli: CommandLine, tmp_path: Path) -> None:
    data = tmp_path / "data"
    put_raster(data / "a.tif", noise(3, 64, 64))
    broken = put_raster(
        data / "b.tif", noise(3, 64, 64), affine=NORTH_UP @ Affine.translation(64, 0)
    )
    broken.write_bytes(broken.read_bytes()[:-6000])
    ring = box_ring(10, 10, 100, 20)
    put_geojson(data / "labels.geojson", [feature(on_map(ring), label="road")])
    line = ["extract-masks", data, "--out", tmp_path / "out"]
    assert cli(*line).code == 5
    done = cli(*line, "-s", "execution.max_failure_rate=0.6")
    assert done.code == 0, done
    (failure,) = read_failures(tmp_path / "out")
    assert failure.item == "b.tif" and "damaged raster" in failure.message


def test_nothing_but_nodata_is_exit_3(cli: CommandLine, tmp_path: Path) -> None:
    """Catches an empty run that is committed, and a hint at failures of which there are none."""
    bands = np.zeros((1, 600, 600), np.float32)
    put_raster(tmp_path / "data/a.tif", bands, nodata=0)
    ring = on_map(box_ring(10, 10, 100, 20))
    put_geojson(tmp_path / "data/a.geojson", [feature(ring, label="road")])
    done = cli("extract-masks", tmp_path / "data", "--out", tmp_path / "o", "--tile", 256)
    assert done.code == 3 and "not one pixel" in done.err, done


def test_a_geopackage_without_the_extra_is_exit_4(cli: CommandLine, tmp_path: Path) -> None:
    data, hidden = tmp_path / "data", tmp_path / "hidden"
    put_raster(data / "a.tif", noise(3, 64, 64))
    (data / "a.gpkg").write_bytes(b"SQLite format 3\0")
    hidden.mkdir()
    (hidden / "pyogrio.py").write_text("raise ModuleNotFoundError(name='pyogrio')\n")
    done = cli("extract-masks", data, "--out", tmp_path / "o", env={"PYTHONPATH": str(hidden)})
    assert done.code == 4 and "rsgen[vector]" in done.err, done


PEAK = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)
"""


def test_a_large_scene_is_tiled_in_little_memory(cli: CommandLine, tmp_path: Path) -> None:
    """Catches whole scenes decoded for each tile, or for the first: 12,000 x 12,000 x 3 uint16
    are 864 MB. Most of the file is sparse: tiles without data are dropped unwritten."""
    data = tmp_path / "data"
    data.mkdir()
    with rasterio.open(
        data / "a.tif", "w", driver="GTiff", width=12_000, height=12_000, count=3,
        dtype="uint16", tiled=True, blockxsize=512, blockysize=512, SPARSE_OK=True,
        compress="deflate", crs=UTM, transform=NORTH_UP, nodata=0,
    ) as file:  # fmt: skip
        file.write(noise(3, 600, 600, "uint16"), window=Window(5000, 7000, 600, 600))
    ring = box_ring(5100, 7100, 5140, 7120)
    put_geojson(data / "a.geojson", [feature(on_map(ring), label="hall")])
    command = [sys.executable, "-m", "rsgen_cli", "extract-masks", str(data), "--out",
               str(tmp_path / "out")]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *command], env=cli.environment(), capture_output=True,
        text=True, timeout=240, check=True,
    )  # fmt: skip
    code, peak_mb = map(int, done.stdout.split())
    assert code == 0, done.stderr
    run = open_samples(tmp_path / "out")
    assert 1 <= len(run) <= 4, "tiles that hold data"
    assert sum(len(s.layout.instances) for s in run) >= 1
    assert peak_mb < 600, f"{peak_mb} MB"
