"""How a raster's bands become uint8 RGB."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rsgen.geometry import Window
from rsgen.georaster.header import RasterInfo

__all__ = ["Look", "Part", "limits_of", "stretch"]

PERCENTILES = (2.0, 98.0)

Pixels = npt.NDArray[np.uint8]
Valid = npt.NDArray[np.bool_]
Numbers = npt.NDArray[Any]


@dataclass(frozen=True)
class Part:
    """values, and which of them count: [C, h, w]. valid, and what is shown black: [h, w]."""

    values: Numbers
    counted: Valid
    valid: Valid
    black: Valid


class Look:
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

    def read(self, place: Window) -> Part:
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
        return Part(values, counted & valid, valid, ~(shown if self._white else valid))

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


def limits_of(values: Numbers) -> tuple[float, float]:
    """The percentiles; the extremes where these are one value. A band of nothing gets (0, 1)."""
    if len(values) == 0:
        return 0.0, 1.0
    low, high = np.percentile(values, PERCENTILES).tolist()
    if high <= low:
        low, high = float(values.min()), float(values.max())
    if high <= low:
        return low - 1.0, low + 1.0  # one value everywhere is shown as middle grey
    return low, high


def stretch(values: Numbers, limits: npt.NDArray[np.float64]) -> Pixels:
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
