"""Builders for the raster tests: small GeoTIFFs of every kind, and GeoJSON labels."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.enums import ColorInterp
from rasterio.transform import Affine

WEST, NORTH, GSD = 500_000.0, 5_500_000.0, 0.5
NORTH_UP = Affine(GSD, 0.0, WEST, 0.0, -GSD, NORTH)
UTM = "EPSG:32632"
LON_LAT = "EPSG:4326"


def noise(bands: int, height: int, width: int, dtype: str = "uint8", seed: int = 0) -> Any:
    """[C, H, W] values from 1 to a quarter of the type's range (1000 for floats)."""
    top = 1000 if dtype.startswith("float") else min(np.iinfo(dtype).max // 4, 100_000)
    values = np.random.default_rng(seed).integers(1, top, (bands, height, width))
    return values.astype(dtype)


def put_raster(
    path: Path,
    bands: npt.NDArray[Any],
    *,
    crs: str | None = UTM,
    affine: Affine | None = NORTH_UP,
    nodata: float | None = None,
    colours: Sequence[ColorInterp] | None = None,
    mask: npt.NDArray[np.bool_] | None = None,
    **options: Any,
) -> Path:
    """A GeoTIFF of [C, H, W]; `mask` bool [H, W] is stored inside as a per-dataset mask."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = bands.shape
    where = {} if affine is None else {"transform": affine}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with (
            rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
            rasterio.open(
                path, "w", driver="GTiff", width=width, height=height, count=count,
                dtype=str(bands.dtype), crs=crs, nodata=nodata, **where, **options,
            ) as file,
        ):  # fmt: skip
            file.write(bands)
            if colours is not None:
                file.colorinterp = list(colours)
            if mask is not None:
                file.write_mask(mask)
    return path


def on_map(ring: Sequence[Sequence[float]], affine: Affine = NORTH_UP) -> list[list[float]]:
    """A closed ring of pixel corners in map coordinates."""
    return [list(affine @ tuple(point)) for point in [*ring, ring[0]]]


def feature(ring: Sequence[Sequence[float]] | dict[str, Any], **properties: Any) -> Any:
    """A polygon (map coordinates, closed) or any geometry, with its properties."""
    geometry = ring if isinstance(ring, dict) else {"type": "Polygon", "coordinates": [ring]}
    return {"type": "Feature", "properties": properties, "geometry": geometry}


def put_geojson(path: Path, features: Sequence[Any], crs: str | None = UTM, **extra: Any) -> Path:
    """`crs` None leaves the member out: WGS 84 degrees."""
    path.parent.mkdir(parents=True, exist_ok=True)
    named = {"type": "name", "properties": {"name": crs}}
    collection = {"type": "FeatureCollection", **({} if crs is None else {"crs": named}), **extra}
    path.write_text(json.dumps({**collection, "features": list(features)}), encoding="utf-8")
    return path


def box_ring(x0: float, y0: float, x1: float, y1: float) -> list[tuple[float, float]]:
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
