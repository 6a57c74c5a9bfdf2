"""A mask file -> class places, by a legend: index, palette, grey and colour images.

Place 0 is unlabelled, place k the k-th class of the legend's table.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from rsgen.errors import DataError
from rsgen.formats.common import Problem
from rsgen.formats.files import size_of
from rsgen.georaster.header import driver_of, gdal_session, is_raster
from rsgen.images import DECODER_ERRORS
from rsgen.legend import Color, Legend

__all__ = [
    "MAX_MASK_PIXELS",
    "MaskPixels",
    "Places",
    "classify",
    "holds_values",
    "most_frequent",
    "read_mask",
    "unpacked",
]

# Parts are found on int32 labels of a whole mask: 100 million pixels take about 1 GB.
MAX_MASK_PIXELS = 100_000_000
UNKNOWN = 0xFFFF
STRAY_SHARE = 0.001  # of an image's pixels may have a colour outside the legend (edges)
MOST_GREYS = 128  # classes that a mask of colours may hold; a grey photograph has more
LISTED = 5  # values or colours that a message names

VALUE_MODES = {"1", "L", "LA", "P", "PA", "I", "I;16", "I;16B", "I;16L", "I;16N"}
COLOR_MODES = {"RGB", "RGBA", "RGBX"}
LOSSY = {"JPEG", "JPEG2000", "WEBP", "MPO"}
# PIL spreads grey of 2 and 4 bits over 0..255; the values themselves are meant here.
SPREAD = {"L;2": 85, "L;4": 17}

Places = npt.NDArray[np.uint16]
Codes = npt.NDArray[Any]  # unsigned or int32


@dataclass(frozen=True)
class MaskPixels:
    """The pixels of a mask as written.

    codes: integers [H, W]: values, or colours packed as r << 16 | g << 8 | b (uint32).
    palette: the packed colours of a palette image's indices, uint32 [N].
    clear: bool [H, W], where an alpha channel is 0; None without one.
    """

    codes: Codes
    is_color: bool
    palette: Codes | None = None
    clear: npt.NDArray[np.bool_] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        height, width = self.codes.shape
        return width, height


def read_mask(path: Path, name: str, max_pixels: int) -> MaskPixels:
    """Decode a mask; a palette image keeps its indices.

    Raises:
        Problem: what `size_of` raises, LossyMask, BadMask; `name` is for messages.
    """
    try:
        size_of(path, name, min(max_pixels, MAX_MASK_PIXELS))
    except Problem as problem:
        names = {"MissingImage": "MissingMask", "BadImage": "BadMask"}
        raise Problem(
            names.get(problem.name, problem.name),
            problem.message.replace("no image", "no mask"),
            problem.fix,
        ) from problem
    try:
        if is_raster(path):
            return _raster_pixels(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                return _pixels(image)
    except DECODER_ERRORS as error:
        raise Problem("BadMask", f"damaged mask ({error})", "copy or write it anew") from error
    except DataError as error:
        text = error.message.replace(str(path), name)
        raise Problem("BadMask", text, "copy or write it anew") from error


def _header_mode(path: Path) -> str | None:
    """PIL's mode of an image file, without decoding; None where it cannot be opened."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                return image.mode
    except DECODER_ERRORS:
        return None


def holds_values(path: Path) -> bool:
    """Whether an image is one of class values: of one channel, or few greys written as colours."""
    mode = _header_mode(path)
    if mode not in COLOR_MODES:
        return mode in VALUE_MODES
    try:
        codes = read_mask(path, path.name, MAX_MASK_PIXELS).codes
    except Problem:
        return False
    return _is_grey(codes) and len(np.unique(codes)) <= MOST_GREYS


def _pixels(image: Image.Image) -> MaskPixels:
    raw = next((str(tile[3]) for tile in getattr(image, "tile", ())), "")
    if image.format in LOSSY:
        raise _lossy(str(image.format))
    if image.mode not in VALUE_MODES | COLOR_MODES or (image.mode in COLOR_MODES and ";16" in raw):
        raise _bad_kind(f"{image.mode} {raw}".rstrip())
    array = np.asarray(image)
    if image.mode in COLOR_MODES:
        clear = _clear(array) if image.mode == "RGBA" else None
        return MaskPixels(_pack(*(array[..., k] for k in range(3))), True, clear=clear)
    clear = _clear(array) if image.mode in ("LA", "PA") else None
    values = array[..., 0] if array.ndim == 3 else array
    codes = values.astype(np.uint8) if values.dtype == np.bool_ else _checked(values)
    if raw in SPREAD:
        codes = codes // SPREAD[raw]
    return MaskPixels(codes, False, _palette(image), clear)


def _raster_pixels(path: Path) -> MaskPixels:
    """A TIFF; its nodata value is unlabelled.

    Raises:
        Problem: LossyMask, BadMask.
        DataError: it cannot be read.
    """
    import rasterio
    from rasterio.enums import ColorInterp

    driver = driver_of(path)
    with gdal_session(path, "damaged mask"), rasterio.open(path, driver=driver) as file:
        compression = "" if file.compression is None else str(file.compression.value)
        if driver != "GTiff" or "JPEG" in compression:
            raise _lossy("JPEG 2000" if driver != "GTiff" else f"TIFF ({compression})")
        kinds, dtype = list(file.colorinterp), np.dtype(file.dtypes[0])
        if file.count in (3, 4) and set(file.dtypes) == {"uint8"}:
            clear = file.read(4) == 0 if kinds[3:] == [ColorInterp.alpha] else None
            return MaskPixels(_pack(*file.read((1, 2, 3))), True, clear=clear)
        if file.count != 1 or dtype.kind not in "ui" or dtype.itemsize > 4:
            raise _bad_kind(f"{file.count} bands of {dtype}")
        values, nodata = file.read(1), file.nodatavals[0]
        clear = None if nodata is None else values == nodata
        if clear is not None and clear.any():
            values[clear] = 0
        palette = None
        if kinds == [ColorInterp.palette]:
            table = np.zeros((256, 3), dtype=np.uint8)
            for index, color in file.colormap(1).items():
                if index < 256:
                    table[index] = color[:3]
            palette = _pack(*table.T)
        return MaskPixels(_checked(values), False, palette, clear)


def _lossy(kind: str) -> Problem:
    return Problem(
        "LossyMask",
        f"the mask is a {kind} of a lossy kind: its pixels are not as drawn",
        "write it as PNG from its source (a JPEG saved as PNG stays wrong)",
    )


def _bad_kind(kind: str) -> Problem:
    return Problem(
        "BadMask",
        f"the mask has pixels of kind {kind}",
        "write it as PNG of values (8 or 16 bits), palette indices or 8-bit RGB",
    )


def _checked(values: Codes) -> Codes:
    """The values, which fit the look-up tables.

    Raises:
        Problem: BadMask.
    """
    if values.size and not 0 <= values.min() <= values.max() < UNKNOWN:
        raise Problem(
            "BadMask",
            f"values from {values.min()} to {values.max()}",
            f"write class values from 0 to {UNKNOWN - 1}",
        )
    return values


def _pack(red: Codes, green: Codes, blue: Codes) -> Codes:
    """Packed colours, uint32 of the channels' shape."""
    packed = red.astype(np.uint32) << 16
    packed |= green.astype(np.uint32) << 8
    packed |= blue
    return packed


def _clear(array: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    return np.asarray(array[..., -1] == 0)


def _palette(image: Image.Image) -> Codes | None:
    found = image.getpalette("RGB") if image.mode in ("P", "PA") else None
    if not found:
        return None
    return _pack(*np.asarray(found, dtype=np.uint8).reshape(-1, 3).T)


class _Table:
    """Codes -> places, filled in for near colours as they are met."""

    def __init__(self, known: Mapping[int, int], size: int, tolerance: int) -> None:
        self.places = np.full(size, UNKNOWN, dtype=np.uint16)
        for code, place in known.items():
            self.places[code] = place
        self._tolerance = tolerance
        self._known = np.array(list(known), dtype=np.int64)
        self._targets = np.array(list(known.values()), dtype=np.uint16)

    def look_up(self, codes: Codes) -> Places:
        found: Places = self.places[codes]
        if self._tolerance and (found == UNKNOWN).any():
            # Noise has millions of colours: marking them is ten times faster than sorting.
            met = np.zeros(len(self.places), dtype=bool)
            met[codes[found == UNKNOWN]] = True
            self._learn(np.flatnonzero(met))
            found = self.places[codes]
        return found

    def _learn(self, codes: Codes) -> None:
        """Give colours within the tolerance the place of the nearest in the legend."""
        for start in range(0, len(codes), 65536):
            part = codes[start : start + 65536].astype(np.int64)
            off = np.zeros((len(part), len(self._known)), dtype=np.int64)
            for shift in (16, 8, 0):
                channel = np.abs(
                    ((part >> shift) & 255)[:, None] - ((self._known >> shift) & 255)[None, :]
                )
                off = np.maximum(off, channel)
            best = off.argmin(axis=1)
            near = off[np.arange(len(part)), best] <= self._tolerance
            self.places[part[near]] = self._targets[best[near]]


class _Tables:
    """A legend as look-up tables, made when first asked for."""

    def __init__(self, legend: Legend) -> None:
        place = {name: k + 1 for k, name in enumerate(legend.table.names)}
        self.values: _Table | None = None
        self.colors: _Table | None = None
        if legend.values:
            known = {k: 0 for k in legend.unlabelled if isinstance(k, int)}
            known |= {value: place[name] for value, name in legend.values.items()}
            self.values = _Table(known, 65536, 0)
        if legend.colors:
            known = {_packed(k): 0 for k in legend.unlabelled if not isinstance(k, int)}
            known |= {_packed(color): place[name] for color, name in legend.colors.items()}
            self.colors = _Table(known, 1 << 24, legend.tolerance)


_made: dict[int, tuple[Legend, _Tables]] = {}


def _tables(legend: Legend) -> _Tables:
    """The tables of the legend that was last asked for are kept: one takes 32 MB."""
    found = _made.get(id(legend))
    if found is None or found[0] is not legend:
        _made.clear()
        found = (legend, _Tables(legend))
        _made[id(legend)] = found
    return found[1]


def _packed(color: Color) -> int:
    return color[0] << 16 | color[1] << 8 | color[2]


def classify(mask: MaskPixels, legend: Legend) -> tuple[Places, int]:
    """(uint16 [H, W] of places in the legend's table, stray pixels taken as unlabelled).

    Values are looked up as values where the legend has any (a palette's colours are then
    not looked at), else as the colours of the palette or as exact greys. Colours are looked up as
    colours; where those do not fit and all are grey, as values.

    Raises:
        Problem: UnknownValue; UnknownColor above a share of 0.001 of the pixels.
    """
    tables = _tables(legend)
    if not mask.is_color:
        if tables.values is not None:
            places = _cleared(tables.values.look_up(mask.codes), mask)
            if (places == UNKNOWN).any():
                raise _unknown_values(mask.codes[places == UNKNOWN], legend)
            return places, 0
        if mask.palette is None:
            return _by_grey(mask, legend), 0
        mask = MaskPixels(_as_colors(mask, mask.palette), True, clear=mask.clear)
    places = np.full(mask.codes.shape, UNKNOWN, dtype=np.uint16)
    if tables.colors is not None:
        places = _cleared(tables.colors.look_up(mask.codes), mask)
    stray = int((places == UNKNOWN).sum())
    if stray <= STRAY_SHARE * places.size:
        places[places == UNKNOWN] = 0
        return places, stray
    if tables.values is not None and _is_grey(mask.codes):
        by_value = _cleared(tables.values.look_up(mask.codes & 255), mask)
        if not (by_value == UNKNOWN).any():
            return by_value, 0
    raise _unknown_colors(mask.codes[places == UNKNOWN], legend, mask.codes.size)


def _cleared(places: Places, mask: MaskPixels) -> Places:
    if mask.clear is not None:
        places[mask.clear] = 0
    return places


def _by_grey(mask: MaskPixels, legend: Legend) -> Places:
    """A grey image by a legend of colours alone: exact greys (0 and 255), or it is refused.

    Within a tolerance every small class value would be taken for black.
    """
    place = {name: k + 1 for k, name in enumerate(legend.table.names)}
    table = np.full(65536, UNKNOWN, dtype=np.uint16)
    for color in (*legend.colors, *(k for k in legend.unlabelled if not isinstance(k, int))):
        if color[0] == color[1] == color[2]:
            table[color[0]] = place[legend.colors[color]] if color in legend.colors else 0
    places = _cleared(table[mask.codes], mask)
    if (places == UNKNOWN).any():
        raise _unknown_values(mask.codes[places == UNKNOWN], legend)
    return places


def _as_colors(mask: MaskPixels, palette: Codes) -> Codes:
    full = np.zeros(256, dtype=np.uint32)
    full[: len(palette)] = palette[:256]
    colors: Codes = full[np.minimum(mask.codes, 255)]
    return colors


def _is_grey(codes: Codes) -> bool:
    return bool((codes == (codes & 255) * 0x010101).all())


def most_frequent(codes: Codes) -> list[tuple[int, int]]:
    """(code, pixels), the most frequent first."""
    found, counts = np.unique(codes, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return [(int(found[k]), int(counts[k])) for k in order]


def _unknown_values(codes: Codes, legend: Legend) -> Problem:
    found = most_frequent(codes)
    listed = ", ".join(f"{value} ({count} pixels)" for value, count in found[:LISTED])
    more = f" and {len(found) - LISTED} more" if len(found) > LISTED else ""
    known = ", ".join(str(v) for v in sorted(legend.values)) or "colours alone"
    return Problem(
        "UnknownValue",
        f"values outside the legend: {listed}{more}; it has {known}",
        "add them to the class table, as `value:` of a class or under `unlabelled:`",
    )


def _unknown_colors(codes: Codes, legend: Legend, total: int) -> Problem:
    found = most_frequent(codes)
    listed = ", ".join(f"{unpacked(code)} ({count} pixels)" for code, count in found[:LISTED])
    more = f" and {len(found) - LISTED} more" if len(found) > LISTED else ""
    has = "its colours" if legend.colors else "it has values alone"
    return Problem(
        "UnknownColor",
        f"colours outside the legend ({has}): {listed}{more}, {len(codes)} of {total} pixels",
        "add them to the class table, as `color:` of a class or under `unlabelled:`; colours "
        "that are a little off: `tolerance: N`",
    )


def unpacked(code: int) -> list[int]:
    """[r, g, b] of a packed colour."""
    return [code >> 16 & 255, code >> 8 & 255, code & 255]
