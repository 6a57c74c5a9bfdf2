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

from rsgen.georaster.header import RASTER_SUFFIXES, RasterInfo, gdal_session, ground_gsd, is_raster
from rsgen.georaster.reader import GeoRaster, Scene, ScenePixels, check_window, probe_raster

__all__ = [
    "RASTER_SUFFIXES",
    "GeoRaster",
    "RasterInfo",
    "Scene",
    "ScenePixels",
    "check_window",
    "gdal_session",
    "ground_gsd",
    "is_raster",
    "probe_raster",
]
