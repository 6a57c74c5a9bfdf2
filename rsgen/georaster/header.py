"""A raster's file and header: what is opened and how, where it lies, metres a pixel."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rsgen.errors import DataError
from rsgen.records import Geo

__all__ = [
    "RASTER_SUFFIXES",
    "RasterInfo",
    "driver_of",
    "gdal_session",
    "ground_gsd",
    "is_raster",
    "read_info",
]

RASTER_SUFFIXES = (".tif", ".tiff", ".jp2", ".j2k")
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
JPEG_2000 = (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")
CACHE_BYTES = 256 * 2**20  # a row of 1024 x 1024 tiles over a striped scene of 20,000 x 3 bands
# A folder of 100,000 tiles is not listed for each of them; world files are found by name.
OPTIONS = {"GDAL_DISABLE_READDIR_ON_OPEN": "TRUE", "GDAL_CACHEMAX": CACHE_BYTES}
EARTH_A, EARTH_E2 = 6378137.0, 0.00669437999014  # WGS 84 ellipsoid
NOMINAL = 0.01  # a projection's own metres count where they are true to a percent


@dataclass(frozen=True)
class RasterInfo:
    """What a raster's header says.

    crs: WKT, None where there is none. affine: pixel edges (column, row) -> map coordinates as
    x = a c + b r + c0, y = d c + e r + f0, in the order (a, b, c0, d, e, f0); None where the
    file does not say where it lies. gsd_m: metres a pixel on the ground, None without a CRS.
    colour: 1-based bands shown. block: (height, width) of what the file decodes in one go.
    """

    width: int
    height: int
    bands: int
    dtype: str
    crs: str | None
    affine: tuple[float, float, float, float, float, float] | None
    nodata: float | None
    gsd_m: float | None
    colour: tuple[int, ...]
    alpha: int | None
    block: tuple[int, int]

    @property
    def geo(self) -> Geo | None:
        return None if self.affine is None else Geo(self.crs, self.affine)


def is_raster(path: Path) -> bool:
    """Whether a file is a TIFF or JPEG 2000, by its first bytes; a missing file is none."""
    return driver_of(path) is not None


def driver_of(path: Path) -> str | None:
    """The driver for a file, by its first bytes; None for what is no raster."""
    try:
        with path.open("rb") as handle:
            head = handle.read(12)
    except OSError:
        return None
    if head.startswith(TIFF):
        return "GTiff"
    return "JP2OpenJPEG" if head.startswith(JPEG_2000) else None


@contextmanager
def gdal_session(path: Path, what: str) -> Iterator[None]:
    """GDAL set up, its errors turned into a DataError of this path, its remarks kept off stderr.

    Raises:
        DataError: whatever rasterio raises inside.
    """
    import rasterio
    from rasterio._err import CPLE_BaseError
    from rasterio.errors import RasterioError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with rasterio.Env(**OPTIONS):
                yield
    except (RasterioError, CPLE_BaseError, ValueError, OverflowError) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path}: {what} ({text})", hint="replace it") from error


def read_info(path: Path, file: Any) -> RasterInfo:
    """The header of an open rasterio dataset.

    Raises:
        DataError: a kind of raster that cannot be shown.
    """
    from rasterio.enums import ColorInterp

    dtypes = set(file.dtypes)
    if file.count < 1 or len(dtypes) != 1 or np.dtype(file.dtypes[0]).kind not in "uif":
        raise DataError(
            f"{path}: {file.count} bands of {', '.join(sorted(dtypes)) or 'nothing'}",
            hint="store bands of one real number type",
        )
    kinds = list(file.colorinterp)
    alpha = kinds.index(ColorInterp.alpha) + 1 if ColorInterp.alpha in kinds else None
    if file.count == 1:
        alpha = None
    affine = _affine(file)
    crs = file.crs if file.crs and affine is not None else None
    blocks = [tuple(shape) for shape in file.block_shapes]
    return RasterInfo(
        width=file.width,
        height=file.height,
        bands=file.count,
        dtype=str(file.dtypes[0]),
        crs=None if crs is None else crs.to_wkt(),
        affine=affine,
        nodata=file.nodatavals[0],
        gsd_m=None if crs is None or affine is None else ground_gsd(crs, affine, file.shape),
        colour=_colour_bands(kinds, alpha),
        alpha=alpha,
        block=max(blocks, key=lambda shape: shape[0] * shape[1]),
    )


def _colour_bands(kinds: list[Any], alpha: int | None) -> tuple[int, ...]:
    """1-based bands to show: one, three, or four of cyan, magenta, yellow and black."""
    from rasterio.enums import ColorInterp as Kind

    for wanted in ((Kind.red, Kind.green, Kind.blue),
                   (Kind.cyan, Kind.magenta, Kind.yellow, Kind.black)):  # fmt: skip
        if all(kind in kinds for kind in wanted):
            return tuple(kinds.index(kind) + 1 for kind in wanted)
    others = [band for band in range(1, len(kinds) + 1) if band != alpha]
    return tuple(others[:3]) if len(others) >= 3 else (others[0],)


def _affine(file: Any) -> tuple[float, float, float, float, float, float] | None:
    t = file.transform
    terms = (float(t.a), float(t.b), float(t.c), float(t.d), float(t.e), float(t.f))
    usable = all(map(math.isfinite, terms)) and t.a * t.e - t.b * t.d != 0
    return terms if usable and not t.is_identity else None


def ground_gsd(
    crs: Any, affine: tuple[float, float, float, float, float, float], shape: tuple[int, int]
) -> float | None:
    """Metres a pixel: the square root of the area that the centre pixel has.

    For a projected CRS that is the affine times the unit, as long as that is true to a percent
    on the ground; else (degrees, and Web Mercator, whose metre is 0.5 m at 60 degrees north)
    the pixel is measured on the WGS 84 ellipsoid at the centre. None where neither is known.
    """
    from rasterio.errors import CRSError

    a, b, c, d, e, f = affine
    try:
        nominal = math.sqrt(abs(a * e - b * d)) * float(crs.linear_units_factor[1])
    except CRSError:
        nominal = None
    height, width = shape
    x = c + a * width / 2 + b * height / 2
    y = f + d * width / 2 + e * height / 2
    true = _ellipsoid_gsd(crs, (x, x + a, x + b), (y, y + d, y + e))
    if nominal is None or true is None:
        return true if nominal is None else nominal
    return nominal if abs(true - nominal) <= NOMINAL * nominal else true


def _ellipsoid_gsd(
    crs: Any, xs: tuple[float, float, float], ys: tuple[float, float, float]
) -> float | None:
    """Metres of a pixel given by its corner and its neighbours along a row and a column."""
    from rasterio._err import CPLE_BaseError
    from rasterio.crs import CRS
    from rasterio.errors import RasterioError
    from rasterio.warp import transform

    try:
        found = transform(crs, CRS.from_epsg(4326), list(xs), list(ys))
    except (RasterioError, CPLE_BaseError):
        return None
    longitude, latitude = np.asarray(found[0]), np.radians(np.asarray(found[1]))
    if not (np.isfinite(longitude).all() and np.isfinite(latitude).all()):
        return None
    # Arc lengths of the ellipsoid at a latitude: along a parallel, and along a meridian.
    root = math.sqrt(1 - EARTH_E2 * math.sin(latitude[0]) ** 2)
    parallel = EARTH_A * math.cos(latitude[0]) / root
    meridian = EARTH_A * (1 - EARTH_E2) / root**3
    turn = (np.diff(longitude[[0, 1]])[0], np.diff(longitude[[0, 2]])[0])
    east = np.radians([math.remainder(t, 360.0) for t in turn]) * parallel
    north = (latitude[1:] - latitude[0]) * meridian
    area = abs(float(east[0] * north[1] - east[1] * north[0]))
    return math.sqrt(area) if area > 0 else None
