"""Image files in and out: bounded decoding, deterministic PNG, hashes.

TIFF and JPEG 2000, told by their first bytes, are read as rasters (georaster.py): of any number
type, as an 8-bit view, and by windows.
"""

from __future__ import annotations

import hashlib
import io
import os
import struct
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, PngImagePlugin

from rsgen.errors import DataError
from rsgen.geometry import Window
from rsgen.georaster import GeoRaster, Scene, ScenePixels, check_window, is_raster

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "encode_png",
    "image_size",
    "open_scene",
    "png_text",
    "read_image",
    "read_window",
    "replace_bytes",
    "sha256_file",
    "write_png",
]

Pixels = npt.NDArray[np.uint8]
MAX_PIXELS = 500_000_000
IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".jp2"}
)
EIGHT_BIT_MODES = {"1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "PA"}
# What PIL's decoders have been seen to raise on damaged files.
DECODER_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    struct.error,
    ArithmeticError,
    LookupError,
    TypeError,
    AttributeError,
    MemoryError,
    EOFError,
)
# Scenes of 20,000 x 20,000 pixels are common here, PIL's own limit is below that; ours is
# checked from the header, before anything is decoded.
Image.MAX_IMAGE_PIXELS = None


@contextmanager
def _decoding(path: Path, what: str) -> Iterator[None]:
    """Turn a decoder's error into ours, and keep its remarks on damaged metadata off stderr."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such image", hint="check the images folder") from error
    except DECODER_ERRORS as error:
        raise DataError(f"{path}: {what} ({error})", hint="replace it") from error


@contextmanager
def _open(path: Path, max_pixels: int) -> Iterator[Image.Image]:
    """An image whose header is read and whose declared size is within bounds."""
    with ExitStack() as stack:
        with _decoding(path, "not a readable image"):
            image = stack.enter_context(Image.open(stack.enter_context(path.open("rb"))))
        width, height = image.size
        if width * height > max_pixels:
            raise DataError(
                f"{path}: declares {width} x {height} pixels, more than the limit of {max_pixels}",
                hint="cut it into tiles first",
            )
        yield image


def image_size(path: Path, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(width, height) from the header alone.

    A raster is read by windows, so that `max_pixels` bounds what it decodes in one go, its blocks.

    Raises:
        DataError: missing, no image, or larger than `max_pixels`.
    """
    if is_raster(path):
        with GeoRaster(path, max_pixels) as raster:
            return raster.width, raster.height
    with _open(path, max_pixels) as image:
        return image.size


def read_image(path: Path, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Decode to uint8 [H, W, 3] RGB; grey and palette images are spread to RGB, alpha dropped.

    Rasters of other number types are stretched, and black where they have no data.

    Raises:
        DataError: missing, truncated, too large, or (no raster) not 8 bits a channel.
    """
    if is_raster(path):
        with GeoRaster(path, max_pixels) as raster:
            return raster.read().pixels
    with _open(path, max_pixels) as image:
        # PIL opens 16-bit RGB as mode RGB and drops the low bytes; only the raw mode tells.
        raw = [str(tile[3]) for tile in getattr(image, "tile", ())]
        if image.mode not in EIGHT_BIT_MODES or any(";16" in mode for mode in raw):
            raise DataError(
                f"{path}: pixel mode {image.mode} ({', '.join(raw)}), expected 8 bits a channel",
                hint="stretch it to 8-bit RGB first",
            )
        with _decoding(path, "damaged image"):
            return np.array(image.convert("RGB"), dtype=np.uint8)


class _Decoded:
    """An image that can only be decoded as a whole, as a scene."""

    def __init__(self, path: Path, max_pixels: int) -> None:
        self._path, self._pixels = path, read_image(path, max_pixels)
        self.height, self.width = self._pixels.shape[:2]

    def read(self, window: Window | None = None) -> ScenePixels:
        part = self._pixels
        if window is not None:
            check_window(self._path, window, self.width, self.height)
            rows = slice(window.y0, window.y0 + window.height)
            part = part[rows, window.x0 : window.x0 + window.width]
        return ScenePixels(np.ascontiguousarray(part), np.ones(part.shape[:2], dtype=bool))

    def close(self) -> None:
        """Nothing is open."""


def open_scene(path: Path, max_pixels: int = MAX_PIXELS) -> Scene:
    """An image to read windows of: a raster window by window, another kind decoded once.

    `max_pixels` bounds what is decoded in one go. Close it after use.

    Raises:
        DataError: missing, damaged or too large.
    """
    return GeoRaster(path, max_pixels) if is_raster(path) else _Decoded(path, max_pixels)


def read_window(path: Path, window: Window, max_pixels: int = MAX_PIXELS) -> ScenePixels:
    """One window of an image; for several of one image keep it open (`open_scene`).

    Raises:
        DataError: missing, damaged, too large, or the window reaches over the border.
    """
    with closing(open_scene(path, max_pixels)) as scene:
        return scene.read(window)


def encode_png(array: Pixels, text: Mapping[str, str] | None = None) -> bytes:
    """PNG bytes of uint8 [H, W, 3] or [H, W]; the same input gives the same bytes."""
    info = PngImagePlugin.PngInfo()
    for key in sorted(text or {}):
        info.add_itxt(key, (text or {})[key])
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array)).save(
        buffer, format="PNG", pnginfo=info, compress_level=4
    )
    return buffer.getvalue()


def replace_bytes(path: Path, data: bytes) -> None:
    """Write a file whole: temp name in the same folder, fsync, os.replace."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The pid alone is not unique among machines that share the folder.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}.tmp")
    try:
        with temporary.open("wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_png(path: Path, array: Pixels, text: Mapping[str, str] | None = None) -> str:
    """Write a PNG atomically; returns the file's sha256 in hex."""
    data = encode_png(array, text)
    replace_bytes(path, data)
    return hashlib.sha256(data).hexdigest()


def png_text(path: Path) -> dict[str, str]:
    """The text chunks of a PNG."""
    with _open(path, MAX_PIXELS) as image:
        with _decoding(path, "damaged image"):
            image.load()
        found = getattr(image, "text", {})
        return {str(k): str(v) for k, v in found.items()}


def sha256_file(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
