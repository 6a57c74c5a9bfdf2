"""Tiling of one large raster by extract-masks: wall time and peak memory of the whole command.

Makes a raster of smooth ground with bright blocks (uint16 unless told otherwise) and GeoJSON
labels of some of the blocks in a temporary folder, then runs the command on them.

    python benchmarks/rasters.py --size 20000 [--dtype uint8] [--layout stripes] [--labels 5000]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import from_origin
from rasterio.windows import Window

WEST, NORTH, GSD = 500_000.0, 5_500_000.0, 0.5
ROWS = 512


def write_scene(path: Path, size: int, dtype: str, layout: str) -> None:
    """Three bands in EPSG:32632, deflate, written in bands of rows."""
    rng = np.random.default_rng(0)
    top = 255 if dtype == "uint8" else 4000
    patch = rng.integers(top // 8, top // 3, (ROWS, ROWS, 3))
    options = {"tiled": True, "blockxsize": 512, "blockysize": 512} if layout == "tiles" else {}
    with rasterio.open(
        path, "w", driver="GTiff", width=size, height=size, count=3, dtype=dtype,
        crs="EPSG:32632", transform=from_origin(WEST, NORTH, GSD, GSD), compress="deflate",
        zlevel=1, BIGTIFF="YES", **options,
    ) as file:  # fmt: skip
        for y0 in range(0, size, ROWS):
            rows = min(ROWS, size - y0)
            part = np.tile(patch, (1, -(-size // ROWS), 1))[:rows, :size]
            part[40:80, 40::400] = top
            part[40:80, 41::400] = top
            file.write(np.moveaxis(part, -1, 0).astype(dtype), window=Window(0, y0, size, rows))


def write_labels(path: Path, size: int, count: int) -> None:
    rng = np.random.default_rng(1)
    features = []
    for _ in range(count):
        x, y = rng.uniform(10, size - 60, 2)
        ring = [(x, y), (x + 40, y + 4), (x + 36, y + 24), (x - 4, y + 20), (x, y + 10)]
        on_map = [(WEST + GSD * a, NORTH - GSD * b) for a, b in [*ring, ring[0]]]
        geometry = {"type": "Polygon", "coordinates": [on_map]}
        features.append({"type": "Feature", "properties": {"label": "block"}, "geometry": geometry})
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32632"}}
    collection = {"type": "FeatureCollection", "crs": crs, "features": features}
    path.write_text(json.dumps(collection), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=20_000)
    parser.add_argument("--dtype", choices=("uint8", "uint16"), default="uint16")
    parser.add_argument("--layout", choices=("tiles", "stripes"), default="tiles")
    parser.add_argument("--labels", type=int, default=5000)
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        data = Path(name) / "data"
        data.mkdir()
        write_scene(data / "scene.tif", options.size, options.dtype, options.layout)
        write_labels(data / "labels.geojson", options.size, options.labels)
        gigabytes = (data / "scene.tif").stat().st_size / 1e9
        print(f"scene of {options.size} x {options.size} x 3 {options.dtype} in {options.layout}, "
              f"{gigabytes:.2f} GB on disk, {options.labels} labels")  # fmt: skip
        start = time.perf_counter()
        command = ["extract-masks", str(data), "--out", str(Path(name) / "out"), "--json"]
        done = subprocess.run(
            [sys.executable, "-m", "rsgen_cli", *command],
            capture_output=True,
            text=True,
            check=True,
        )
        seconds = time.perf_counter() - start
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        counts = json.loads(done.stdout)["counts"]
        print(f"{counts['samples']} tiles, {counts['instances']} instances, {seconds:.0f} s "
              f"({usage.ru_utime + usage.ru_stime:.0f} s of CPU), peak {usage.ru_maxrss / 1e3:.0f} "
              "MB")  # fmt: skip


if __name__ == "__main__":
    main()
