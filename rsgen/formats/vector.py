"""Vector label files: GeoJSON and GeoPackage as layers of features, and which property is a class.

GeoJSON is in the CRS that its `crs` member names (as GDAL and QGIS write it), in WGS 84 degrees
without one (RFC 7946), and in the raster's own coordinates where that member is null.
GeoPackage is read by pyogrio, the extra `vector`.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry import shape

from rsgen.errors import DataError, SetupError
from rsgen.formats.common import Problem
from rsgen.formats.files import list_files

__all__ = ["VectorLayer", "class_of", "find_class_key", "read_layers", "vector_files"]

SUFFIXES = (".geojson", ".gpkg", ".json")
# What may be called like a class, and the share of features that must have it: streets and
# churches have a `name` too, but not all of them.
CLASS_KEYS = {
    **dict.fromkeys(("label", "class", "classname", "category", "categoryname"), 0.5),
    **dict.fromkeys(("object", "type", "name"), 0.9),
    **dict.fromkeys(("typeid", "classid", "categoryid", "labelid"), 0.5),
}
HEAD_BYTES = 1 << 16
FARTHEST = 1e12  # no CRS has such coordinates, and their products stay finite
Geometries = npt.NDArray[np.object_]


@dataclass(frozen=True)
class VectorLayer:
    """Features of one file, or of one layer of a GeoPackage.

    geometries: [N], None where there is none that can be used, which `problems` tells by
    feature. crs: of rasterio; None = the raster's own coordinates. guessed: no CRS is named,
    so that GeoJSON means degrees. gsd_m: what rsgen wrote beside the features.
    """

    name: str
    path: Path
    properties: Sequence[Mapping[str, Any]]
    geometries: Geometries
    crs: Any | None
    guessed: bool = False
    gsd_m: float | None = None
    problems: list[tuple[int, Problem]] = field(default_factory=list)

    def item(self, index: int) -> str:
        """What messages call a feature, counted from 0."""
        return f"{self.name}: features[{index}]"


def vector_files(root: Path) -> list[Path]:
    """The file itself, or the label files of a folder; .json only where it holds features."""
    files = [root] if root.is_file() else list_files(root, SUFFIXES)
    return [f for f in files if f.suffix.lower() in SUFFIXES and _has_features(f)]


def _has_features(path: Path) -> bool:
    if path.suffix.lower() != ".json":
        return True
    try:
        with path.open("rb") as handle:
            head = handle.read(HEAD_BYTES)
    except OSError:
        return False
    return b'"FeatureCollection"' in head


def read_layers(path: Path, name: str) -> list[VectorLayer]:
    """The layers of a label file; `name` is for messages.

    Raises:
        Problem: the file cannot be read.
        SetupError: a GeoPackage, and pyogrio is not installed.
    """
    return _geopackage(path, name) if path.suffix.lower() == ".gpkg" else [_geojson(path, name)]


# ---------------------------------------------------------------- GeoJSON


def _geojson(path: Path, name: str) -> VectorLayer:
    try:
        data = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise Problem("BadJson", f"not valid JSON ({error})", "export it again") from error
    except OSError as error:
        raise Problem("Unreadable", f"{error.strerror}", "check the file's rights") from error
    features = data.get("features") if isinstance(data, dict) else None
    if isinstance(data, dict) and data.get("type") == "Feature":
        features = [data]
    if not isinstance(features, list):
        raise Problem("BadJson", "no FeatureCollection", "write GeoJSON features")
    crs, guessed = _geojson_crs(data)
    geometries = np.full(len(features), None, dtype=object)
    properties: list[Mapping[str, Any]] = []
    problems: list[tuple[int, Problem]] = []
    for index, feature in enumerate(features):
        known = feature.get("properties") if isinstance(feature, dict) else None
        properties.append(known if isinstance(known, dict) else {})
        try:
            geometries[index] = _area(_parsed(feature))
        except Problem as problem:
            problems.append((index, problem))
    gsd_m = data.get("gsd_m")
    usable = isinstance(gsd_m, float | int) and 0 < gsd_m < FARTHEST
    return VectorLayer(
        name, path, properties, geometries, crs, guessed, float(gsd_m) if usable else None, problems
    )


def _geojson_crs(data: Mapping[str, Any]) -> tuple[Any | None, bool]:
    """(the CRS that the file names or means, whether it is only meant)."""
    if "crs" not in data:
        return crs_of("OGC:CRS84"), True
    member = data["crs"]
    if member is None:
        return None, False
    try:
        return crs_of(member["properties"]["name"]), False
    except (TypeError, KeyError) as error:
        raise Problem(
            "BadCrs", f"the crs member is {str(member)[:80]!r}", "name the CRS, or leave it out"
        ) from error


def crs_of(text: Any) -> Any:
    """A rasterio CRS of a code, URN or WKT.

    Raises:
        Problem: BadCrs.
    """
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    try:
        return CRS.from_user_input(text)
    except (CRSError, ValueError, TypeError) as error:
        raise Problem(
            "BadCrs", f"unknown CRS {str(text)[:80]!r}", "name it by an EPSG code"
        ) from error


def _parsed(feature: Any) -> Any:
    geometry = feature.get("geometry") if isinstance(feature, dict) else None
    if geometry is None:
        return None
    try:
        with np.errstate(invalid="ignore"):  # NaN is looked for afterwards
            return shape(geometry)
    except (shapely.errors.ShapelyError, ValueError, TypeError, KeyError, IndexError,
            AttributeError, OverflowError, RecursionError) as error:  # fmt: skip
        raise Problem(
            "BadGeometry", f"no geometry ({error or type(error).__name__})", "draw it anew"
        ) from error


def _area(geometry: Any) -> Any:
    """A polygon or multipolygon without heights.

    Raises:
        Problem: NoGeometry, NoArea or NotFinite.
    """
    if geometry is None or geometry.is_empty:
        raise Problem("NoGeometry", "the feature has no geometry", "draw it, or remove it")
    if geometry.geom_type not in ("Polygon", "MultiPolygon"):
        raise Problem(
            "NoArea", f"a {geometry.geom_type} has no area", "draw the object's outline or box"
        )
    flat = shapely.force_2d(geometry)
    points = shapely.get_coordinates(flat)
    if not (np.abs(points) < FARTHEST).all():
        raise Problem("NotFinite", "a coordinate is not finite, or beyond any map", "draw it anew")
    return flat


# ---------------------------------------------------------------- GeoPackage


def _pyogrio() -> ModuleType:
    try:
        import pyogrio
    except ModuleNotFoundError as error:
        raise SetupError(
            "GeoPackage labels need the package 'pyogrio', which is not installed",
            hint="pip install 'rsgen[vector]', or save the labels as GeoJSON",
        ) from error
    module: ModuleType = pyogrio
    return module


def _geopackage(path: Path, name: str) -> list[VectorLayer]:
    pyogrio = _pyogrio()
    with path.open("rb") as handle:
        if handle.read(15) != b"SQLite format 3":
            raise Problem("BadGeoPackage", "no GeoPackage", "export it again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # GDAL's remarks on damaged files
            listed = [str(row[0]) for row in pyogrio.list_layers(path) if row[1] is not None]
            return [_layer(pyogrio, path, f"{name}:{layer}", layer) for layer in listed]
    except (RuntimeError, ValueError, shapely.errors.ShapelyError) as error:
        text = " ".join(str(error).split())
        raise Problem("BadGeoPackage", f"cannot be read ({text})", "export it again") from error


def _layer(pyogrio: ModuleType, path: Path, name: str, layer: str) -> VectorLayer:
    meta, _, codes, columns = pyogrio.raw.read(path, layer=layer)
    fields = [str(f) for f in meta["fields"]]
    rows = zip(*(column.tolist() for column in columns), strict=True)
    properties = [dict(zip(fields, row, strict=True)) for row in rows]
    found = shapely.from_wkb(codes, on_invalid="ignore")
    geometries = np.full(len(found), None, dtype=object)
    problems: list[tuple[int, Problem]] = []
    for index, geometry in enumerate(found):
        try:
            geometries[index] = _area(geometry)
        except Problem as problem:
            problems.append((index, problem))
    properties = properties or [{} for _ in found]
    crs = None if meta["crs"] is None else crs_of(meta["crs"])
    return VectorLayer(name, path, properties, geometries, crs, problems=problems)


# ---------------------------------------------------------------- classes


def class_of(value: Any) -> str | None:
    """A property's value as a class name; None for what names none."""
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        value = int(value) if value.is_integer() else value
    if value is None or isinstance(value, bool | list | dict):
        return None
    return str(value).strip() or None


def find_class_key(layers: Iterable[VectorLayer], wanted: str | None) -> str | None:
    """The property that names the class: the one wanted, or the first usual one in general use.

    None where there is none.

    Raises:
        DataError: no feature has the one wanted.
    """
    filled: dict[str, int] = {}
    total = 0
    for layer in layers:
        total += len(layer.properties)
        for row in layer.properties:
            for key, value in row.items():
                if class_of(value) is not None:
                    filled[key] = filled.get(key, 0) + 1
    if wanted is not None:
        if total and wanted not in filled:
            raise DataError(
                f"no feature has the property {wanted!r}; there are: {', '.join(sorted(filled))}",
                hint="give one of them as extract_masks.label_key",
            )
        return wanted
    for usual, share in CLASS_KEYS.items():
        for key in sorted(filled):
            plain = "".join(c for c in key.lower() if c.isalnum())
            if plain == usual and filled[key] >= share * total:
                return key
    return None
