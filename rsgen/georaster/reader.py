"""Reading a raster whole or by windows, as uint8 RGB."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rsgen.errors import DataError
from rsgen.geometry import Window
from rsgen.georaster.header import RasterInfo, driver_of, gdal_session, read_info
from rsgen.georaster.look import Look, limits_of, stretch

__all__ = ["GeoRaster", "Scene", "ScenePixels", "check_window", "probe_raster"]

SPOTS, SPOT_PX = 16, 64
CHUNK_PIXELS = 4_000_000  # converted in one go: bounds the memory beside the result
MAX_SCENE_PIXELS = 50_000_000_000  # from the header, read by windows only

Pixels = npt.NDArray[np.uint8]
Valid = npt.NDArray[np.bool_]
Numbers = npt.NDArray[Any]


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


def probe_raster(path: Path) -> RasterInfo:
    """The header of a raster; no pixel is decoded.

    Raises:
        DataError: missing, damaged, or of a kind that cannot be shown.
    """
    with GeoRaster(path) as raster:
        return raster.info


def check_window(path: Path, window: Window, width: int, height: int) -> None:
    """Raise DataError for a window that is empty, or not wholly inside the image."""
    inside = window.x0 >= 0 and window.y0 >= 0 and window.width > 0 and window.height > 0
    if inside and window.x0 + window.width <= width and window.y0 + window.height <= height:
        return
    raise DataError(
        f"{path}: the window ({window.x0}, {window.y0}) of {window.width} x {window.height} "
        f"reaches out of its {width} x {height} pixels",
        hint="cut the window at the border",
    )


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
        driver = driver_of(path)
        if driver is None:
            raise DataError(f"{path}: no TIFF and no JPEG 2000", hint="convert it to GeoTIFF")
        # The driver is named: a VRT in disguise could read any other file.
        with gdal_session(path, "not a readable raster"):
            self._file = rasterio.open(path.absolute(), driver=driver)
        try:
            with gdal_session(path, "not a readable raster"):
                self.info = read_info(path, self._file)
                self._look = Look(self._file, self.info)
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
                if self._look.stretched and not found.valid.any():
                    continue  # black, whatever the stretch
                values = found.values
                if self._look.stretched:
                    values = stretch(values, self._limits)
                pixels[rows] = np.moveaxis(self._look.colours(values), 0, -1)
                pixels[rows][found.black] = 0
                valid[rows] = found.valid
        return ScenePixels(pixels, valid)

    def _check_window(self, window: Window) -> None:
        check_window(self.path, window, self.width, self.height)
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
        return np.array([limits_of(values) for values in joined])

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
