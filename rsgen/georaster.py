"""Rasters through rasterio: probing, an 8-bit view of any number type, reads by window.

What is shown: the bands that the file calls red, green and blue, in that order; else one band
as grey, of two the first, of more the first three (a band called alpha is never shown). uint8
is shown unchanged. Other numbers are stretched band by band, from the 2nd to the 98th
percentile of the valid values of the whole scene to 0..255; the percentiles are taken from at
most 16 x 16 squares of 64 pixels, evenly over the scene (all of it up to 1024 pixels a side),
so every window of a scene shows the same value as the same grey. NaN, infinite and nodata
values do not count; a pixel is invalid, and black, where alpha or the mask is 0, or where no
band shown has a value. Where 8-bit files say that 255 is nodata, white stays white: it cannot be
told from a saturated roof.

rasterio is imported when the first raster is opened, and its errors become DataError.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rsgen.errors import DataError
from rsgen.geometry import Window
from rsgen.records import Geo

__all__ = [
    "GeoRaster",
    "RasterInfo",
    "Scene",
    "ScenePixels",
    "gdal_session",
    "ground_gsd",
    "is_raster",
    "probe_raster",
]

PERCENTILES = (2.0, 98.0)
SPOTS, SPOT_PX = 16, 64
CHUNK_PIXELS = 4_000_000  # converted in one go: bounds the memory beside the result
MAX_SCENE_PIXELS = 50_000_000_000  # from the header, read by windows only
CACHE_BYTES = 192 * 2**20  # a row of 1024 x 1024 tiles over a striped scene of 20,000 x 3 bands
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
JPEG_2000 = (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")
# A folder of 100,000 tiles is not listed for each of them; world files are found by name.
OPTIONS = {"GDAL_DISABLE_READDIR_ON_OPEN": "TRUE", "GDAL_CACHEMAX": CACHE_BYTES}
EARTH_A, EARTH_E2 = 6378137.0, 0.00669437999014  # WGS 84 ellipsoid
NOMINAL = 0.01  # a projection's own metres count where they are true to a percent

Pixels = npt.NDArray[np.uint8]
Valid = npt.NDArray[np.bool_]
Numbers = npt.NDArray[Any]


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


@dataclass(frozen=True)
class ScenePixels:
    """pixels: uint8 [H, W, 3] RGB. valid: bool [H, W]; what is not valid is black (or white)."""

    pixels: Pixels
    valid: Valid


class Scene(Protocol):
    """An image that is read whole or by windows."""

    width: int
    height: int

    def read(self, window: Window | None = None) -> ScenePixels: ...

    def close(self) -> None: ...


def is_raster(path: Path) -> bool:
    """Whether a file is a TIFF or JPEG 2000, by its first bytes; a missing file is none."""
    return _driver(path) is not None


def _driver(path: Path) -> str | None:
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


def probe_raster(path: Path) -> RasterInfo:
    """The header of a raster; no pixel is decoded.

    Raises:
        DataError: missing, damaged, or of a kind that cannot be shown.
    """
    with GeoRaster(path) as raster:
        return raster.info


class GeoRaster:
    """An open raster, read whole or by windows; neighbouring windows share decoded blocks."""

    def __init__(self, path: Path, max_pixels: int | None = None) -> None:
        """`max_pixels` bounds one read, and one block of the file.

        Raises:
            DataError: missing, damaged, too large, or of a kind that cannot be shown.
        """
        import rasterio

        self.path, self._max_pixels = path, max_pixels
        if not path.is_file():
            raise DataError(f"{path}: no such image", hint="check the images folder")
        driver = _driver(path)
        if driver is None:
            raise DataError(f"{path}: no TIFF and no JPEG 2000", hint="convert it to GeoTIFF")
        # The driver is named: a VRT in disguise could read any other file.
        with gdal_session(path, "not a readable raster"):
            self._file = rasterio.open(path.absolute(), driver=driver)
        try:
            with gdal_session(path, "not a readable raster"):
                self.info = _info(path, self._file)
                self._look = _Look(self._file, self.info)
            self._check_bounds()
        except BaseException:
            self.close()
            raise
        self.width, self.height = self.info.width, self.info.height

    def __enter__(self) -> GeoRaster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def _check_bounds(self) -> None:
        info = self.info
        if info.width * info.height > MAX_SCENE_PIXELS:
            raise DataError(
                f"{self.path}: declares {info.width} x {info.height} pixels, more than the limit "
                f"of {MAX_SCENE_PIXELS}",
                hint="cut it into scenes first",
            )
        rows, columns = info.block
        if self._max_pixels is not None and rows * columns > self._max_pixels:
            raise DataError(
                f"{self.path}: blocks of {columns} x {rows} pixels, more than the limit of "
                f"{self._max_pixels}",
                hint="store it in tiles: gdal_translate -co TILED=YES OLD NEW",
            )

    def read(self, window: Window | None = None) -> ScenePixels:
        """A window of the 8-bit view, all of it by default; the same as that part of the whole.

        Raises:
            DataError: damaged pixels, more than `max_pixels`, or a window over the border.
        """
        window = window or Window(0, 0, self.width, self.height)
        self._check_window(window)
        pixels = np.zeros((window.height, window.width, 3), dtype=np.uint8)
        valid = np.zeros((window.height, window.width), dtype=bool)
        with gdal_session(self.path, "damaged raster"):
            for part in _chunks(window, self.info.block[0]):
                rows = slice(part.y0 - window.y0, part.y0 - window.y0 + part.height)
                found = self._look.read(part)
                values = found.values
                if self._look.stretched:
                    values = _stretch(values, self._limits)
                pixels[rows] = np.moveaxis(self._look.colours(values), 0, -1)
                pixels[rows][found.black] = 0
                valid[rows] = found.valid
        return ScenePixels(pixels, valid)

    def _check_window(self, window: Window) -> None:
        inside = window.x0 >= 0 and window.y0 >= 0 and window.width > 0 and window.height > 0
        right, bottom = window.x0 + window.width, window.y0 + window.height
        if not inside or right > self.width or bottom > self.height:
            raise DataError(
                f"{self.path}: the window ({window.x0}, {window.y0}) of {window.width} x "
                f"{window.height} reaches out of its {self.width} x {self.height} pixels",
                hint="cut the window at the border",
            )
        if self._max_pixels is not None and window.width * window.height > self._max_pixels:
            raise DataError(
                f"{self.path}: {window.width} x {window.height} pixels in one go, more than the "
                f"limit of {self._max_pixels}",
                hint="cut it into tiles: extract-masks --tile auto",
            )

    @cached_property
    def _limits(self) -> npt.NDArray[np.float64]:
        """Float64 [C, 2]: the values shown as 0 and 255, band by band."""
        found: list[list[Numbers]] = [[] for _ in self._look.bands]
        for spot in _spots(self.width, self.height):
            part = self._look.read(spot)
            for band, (row, use) in enumerate(zip(part.values, part.counted, strict=True)):
                found[band].append(row[use].astype(np.float64))
        joined = [np.concatenate(parts) for parts in found]
        if any(len(values) == 0 for values in joined):
            joined = self._scan(joined)
        return np.array([_limits_of(values) for values in joined])

    def _scan(self, found: list[Numbers]) -> list[Numbers]:
        """For scenes with little valid area: some values of every chunk, for bands without any."""
        more: list[list[Numbers]] = [[values] for values in found]
        for chunk in _chunks(Window(0, 0, self.width, self.height), self.info.block[0]):
            part = self._look.read(chunk)
            for band, (row, use) in enumerate(zip(part.values, part.counted, strict=True)):
                if len(found[band]) == 0:
                    picked = row[use]
                    step = max(1, len(picked) // 4096)
                    more[band].append(picked[::step].astype(np.float64))
        return [np.concatenate(parts) for parts in more]


@dataclass(frozen=True)
class _Part:
    """values, and which of them count: [C, h, w]. valid, and what is shown black: [h, w]."""

    values: Numbers
    counted: Valid
    valid: Valid
    black: Valid


class _Look:
    """How a file's bands become what is shown."""

    def __init__(self, file: Any, info: RasterInfo) -> None:
        from rasterio.enums import ColorInterp, MaskFlags

        self._file, self._info = file, info
        self.bands = info.colour
        kinds = [file.colorinterp[band - 1] for band in info.colour]
        self._cmyk = ColorInterp.cyan in kinds
        self._palette = _palette(file) if ColorInterp.palette in kinds else None
        structure = file.tags(ns="IMAGE_STRUCTURE")
        self._inverted = structure.get("MINISWHITE") == "YES" and self._palette is None
        bits = int(file.tags(info.colour[0], ns="IMAGE_STRUCTURE").get("NBITS", 8))
        self._top = 2 ** min(bits, 8) - 1
        flags = file.mask_flag_enums[info.colour[0] - 1]
        self._masked = MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags
        self._nodata = [_as_dtype(file.nodatavals[band - 1], info.dtype) for band in info.colour]
        self._white = info.dtype == "uint8" and set(self._nodata) == {255.0}
        self.stretched = info.dtype != "uint8" and self._palette is None

    def read(self, place: Window) -> _Part:
        from rasterio.windows import Window as FileWindow

        window = FileWindow(place.x0, place.y0, place.width, place.height)
        values = self._file.read(list(self.bands), window=window)
        shown = np.ones(values.shape[1:], dtype=bool)
        if self._info.alpha is not None:
            shown &= self._file.read(self._info.alpha, window=window) > 0
        if self._masked:
            shown &= self._file.read_masks(self.bands[0], window=window) > 0
        counted = np.ones(values.shape, dtype=bool)
        for band, nodata in enumerate(self._nodata):
            if nodata is not None:
                counted[band] = values[band] != nodata
        if values.dtype.kind == "f":
            counted &= np.isfinite(values)
        valid = shown & counted.any(axis=0)
        return _Part(values, counted & valid, valid, ~(shown if self._white else valid))

    def colours(self, values: Numbers) -> Pixels:
        """uint8 [3, h, w] of values that are 8-bit, or indices of a palette."""
        if self._palette is not None:
            return np.moveaxis(self._palette[values[0]], -1, 0)
        if self._cmyk:
            left = 255 - values.astype(np.uint16)
            return np.asarray((left[:3] * left[3] + 127) // 255, dtype=np.uint8)
        if self._top < 255 and not self.stretched:
            values = np.minimum(values, self._top) * np.uint8(255 // self._top)
        if self._inverted:
            values = 255 - values
        return np.asarray(np.broadcast_to(values, (3, *values.shape[1:])), dtype=np.uint8)


def _as_dtype(nodata: float | None, dtype: str) -> float | None:
    """The value as the file's numbers hold it: -3.4e38 is stored in double precision."""
    if nodata is None or math.isnan(nodata):
        return None  # NaN is not finite, which is looked at anyhow
    with np.errstate(over="ignore"):
        return float(np.float32(nodata)) if dtype == "float32" else float(nodata)


def _palette(file: Any) -> Pixels:
    """uint8 [65536, 3] by index; indices without a colour are black."""
    table = np.zeros((65536, 3), dtype=np.uint8)
    for index, colour in file.colormap(1).items():
        table[index] = colour[:3]
    return table


def _chunks(window: Window, block_height: int) -> Iterator[Window]:
    """Row bands of a window of a bounded size, cut where the file's blocks end."""
    rows = max(1, CHUNK_PIXELS // window.width)
    if rows > block_height:
        rows -= rows % block_height
    end = window.y0 + window.height
    y0 = window.y0
    while y0 < end:
        stop = min(end, (y0 // rows + 1) * rows)
        yield Window(window.x0, y0, window.width, stop - y0)
        y0 = stop


def _spots(width: int, height: int) -> Iterator[Window]:
    """Squares evenly over a scene, row by row, that cover it where it is small."""

    def starts(length: int) -> list[tuple[int, int]]:
        if length <= SPOTS * SPOT_PX:
            return [(k, min(SPOT_PX, length - k)) for k in range(0, length, SPOT_PX)]
        return [(round(k * (length - SPOT_PX) / (SPOTS - 1)), SPOT_PX) for k in range(SPOTS)]

    for y0, rows in starts(height):
        for x0, columns in starts(width):
            yield Window(x0, y0, columns, rows)


def _limits_of(values: Numbers) -> tuple[float, float]:
    """The percentiles; the extremes where these are one value. A band of nothing gets (0, 1)."""
    if len(values) == 0:
        return 0.0, 1.0
    low, high = np.percentile(values, PERCENTILES).tolist()
    if high <= low:
        low, high = float(values.min()), float(values.max())
    if high <= low:
        return low - 1.0, low + 1.0  # one value everywhere is shown as middle grey
    return low, high


def _stretch(values: Numbers, limits: npt.NDArray[np.float64]) -> Pixels:
    """uint8 [C, h, w]; values that are not finite become 0."""
    made = np.zeros(values.shape, dtype=np.uint8)
    for band, (low, high) in enumerate(limits.tolist()):
        row = values[band].astype(np.float64)
        if values.dtype.kind == "f":
            row[~np.isfinite(row)] = low
        # Halves first: the range of doubles may be larger than a double.
        share = np.clip((row / 2 - low / 2) / (high / 2 - low / 2), 0.0, 1.0)
        made[band] = np.floor(share * 255 + 0.5).astype(np.uint8)
    return made


# ---------------------------------------------------------------- the header


def _info(path: Path, file: Any) -> RasterInfo:
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
