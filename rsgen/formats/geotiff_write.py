"""Tiles as GeoTIFF, with their labels as GeoJSON in the same coordinates."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rsgen.errors import DataError
from rsgen.formats.common import Problem, WriteReport
from rsgen.formats.geotiff_shapes import feature_of
from rsgen.formats.vector import crs_of
from rsgen.georaster import gdal_session
from rsgen.images import read_image, replace_bytes
from rsgen.records import ClassTable, Geo, Sample

__all__ = ["GeoTiffWriter", "crs_name", "why_left_out", "write_geotiff"]

TILE_PX = 256
SYNTHETIC = "synthetic image made by rsgen; not an observation of this place"


def why_left_out(sample: Sample) -> str | None:
    """Why a sample cannot be a GeoTIFF."""
    return None if sample.geo is not None else "without a position on the ground"


def crs_name(crs: str | None) -> str | None:
    """What GeoJSON calls a CRS: a URN where it has a code, else its WKT; None for none."""
    if crs is None:
        return None
    authority = crs_of(crs).to_authority()
    if authority is None:
        return crs
    body, code = authority
    return f"urn:ogc:def:crs:{body}:{'1.3' if body == 'OGC' else ''}:{code}"


def write_geotiff(
    path: Path, pixels: npt.NDArray[np.uint8], geo: Geo, tags: Mapping[str, str]
) -> None:
    """A tiled, losslessly compressed RGB GeoTIFF of uint8 [H, W, 3]; same input, same bytes.

    Raises:
        DataError: the CRS is unknown, or the file cannot be written.
    """
    import rasterio
    from rasterio.transform import Affine

    height, width = pixels.shape[:2]
    options: dict[str, Any] = {"compress": "deflate", "predictor": 2, "photometric": "RGB"}
    if min(height, width) > TILE_PX:
        options |= {"tiled": True, "blockxsize": TILE_PX, "blockysize": TILE_PX}
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        crs = None if geo.crs is None else crs_of(geo.crs)
    except Problem as problem:
        raise DataError(f"{path.name}: {problem.message}", hint=problem.fix) from problem
    with (
        gdal_session(path, "cannot be written"),
        rasterio.open(
            path, "w", driver="GTiff", width=width, height=height, count=3, dtype="uint8",
            crs=crs, transform=Affine(*geo.affine), **options,
        ) as file,
    ):  # fmt: skip
        file.write(np.ascontiguousarray(np.moveaxis(pixels, -1, 0)))
        file.update_tags(**tags)


def _tags(sample: Sample) -> dict[str, str]:
    """TIFF tags that say what the picture is, and what made it."""
    provenance = sample.provenance
    tags = {"TIFFTAG_SOFTWARE": "rsgen", "RSGEN_KIND": provenance.kind, "RSGEN_ID": sample.id}
    if provenance.kind == "synthetic":
        tags["TIFFTAG_IMAGEDESCRIPTION"] = SYNTHETIC
        kept = {k: getattr(provenance, k) for k in ("run", "parent", "seed", "model")}
        row = {k: v for k, v in kept.items() if v is not None}
        tags["RSGEN_PROVENANCE"] = json.dumps(row, sort_keys=True)
    return tags


class GeoTiffWriter:
    """`images/SPLIT/NAME.tif` and `labels/SPLIT/NAME.geojson`.

    Real tiles have their pixels as they are. Labels are in the CRS of the image, which the
    `crs` member names as GDAL, QGIS and geopandas read it (RFC 7946 knows degrees alone).
    """

    name = "geotiff"
    places_images = False

    def __init__(self) -> None:
        self._images = self._labels = 0
        self._skipped: dict[str, int] = {}
        self._folders: tuple[str, ...] = ()
        self._crs: dict[str | None, str | None] = {}

    def open(self, out_dir: Path, classes: ClassTable, splits: Sequence[str]) -> None:
        self._out, self._classes = out_dir, classes
        self._folders = tuple(f"{kind}/{split}" for split in splits for kind in KINDS)
        for folder in self._folders:
            (out_dir / folder).mkdir(parents=True, exist_ok=True)

    def image_path(self, image_name: str, split: str, sample: Sample) -> str:
        return f"images/{split}/{Path(image_name).stem}.tif"

    def add(self, sample: Sample, image_name: str, split: str, image: Path | None = None) -> None:
        if sample.geo is None:
            raise DataError(f"{sample.id}: {why_left_out(sample)}", hint="leave it out")
        if image is not None:
            target = self._out / self.image_path(image_name, split, sample)
            write_geotiff(target, read_image(image), sample.geo, _tags(sample))
        features = []
        for instance in sample.layout.instances:
            stuff = self._classes.is_stuff(instance.label)
            feature = feature_of(instance, sample.geo.affine, stuff=stuff)
            if feature is None:
                self._skipped["without a shape"] = self._skipped.get("without a shape", 0) + 1
                continue
            features.append(feature)
        text = json.dumps(self._collection(sample, sample.geo, features), allow_nan=False)
        labels = self._out / "labels" / split / f"{Path(image_name).stem}.geojson"
        replace_bytes(labels, text.encode("utf-8") + b"\n")
        self._images += 1
        self._labels += len(features)

    def _collection(self, sample: Sample, geo: Geo, features: list[Any]) -> dict[str, Any]:
        if geo.crs not in self._crs:
            self._crs[geo.crs] = crs_name(geo.crs)
        name = self._crs[geo.crs]
        crs = None if name is None else {"type": "name", "properties": {"name": name}}
        found: dict[str, Any] = {"type": "FeatureCollection", "crs": crs}
        if sample.layout.gsd_m is not None:
            found["gsd_m"] = sample.layout.gsd_m
        if sample.provenance.kind == "synthetic":
            found["description"] = SYNTHETIC
        return {**found, "features": features}

    def close(self) -> WriteReport:
        return WriteReport(self._folders, self._images, self._labels, dict(self._skipped))

    def abort(self) -> None:
        """Nothing is open between samples."""


KINDS = ("images", "labels")
