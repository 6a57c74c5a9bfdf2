"""How exported images are coded: kept as they are, PNG, JPEG, or like the real images.

A detector trained on JPEG reals and PNG fakes learns to tell them apart by block artefacts;
match-real codes each synthetic image with the very quantisation tables of a real one.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, JpegImagePlugin

from rsgen.errors import DataError
from rsgen.georaster import is_raster
from rsgen.images import Pixels, encode_png, png_text, read_image, replace_bytes, sha256_file
from rsgen.records import Sample

__all__ = ["Codec", "describe_codecs", "jpeg_quality", "place_image", "provenance_text", "survey"]

# Annex K.1 of the JPEG standard (ITU-T T.81): luminance, in row order.
STANDARD_LUMINANCE = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55,
    14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62,
    18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip


@dataclass(frozen=True)
class Codec:
    """An image file's coding; `tables` are quantisation tables as Pillow takes them."""

    format: str  # png | jpg
    quality: int | None = None
    tables: tuple[tuple[int, ...], ...] = ()
    subsampling: int = -1

    @property
    def suffix(self) -> str:
        return f".{self.format}"


def jpeg_quality(table: Sequence[int]) -> int:
    """The libjpeg quality, 1..100, whose scaled standard table is nearest to this one.

    Args:
        table: 64 luminance divisors in row order.
    """
    standard = np.asarray(STANDARD_LUMINANCE, dtype=np.float64)
    found = np.asarray(table, dtype=np.float64)
    qualities = np.arange(1, 101)
    scale = np.where(qualities < 50, 5000 / qualities, 200 - 2 * qualities)
    tables = np.clip(np.floor((standard * scale[:, None] + 50) / 100), 1, 255)
    return int(qualities[np.abs(tables - found).sum(axis=1).argmin()])


def codec_of(path: Path) -> Codec:
    """How a file is coded; everything that is not JPEG counts as lossless, PNG.

    Raises:
        DataError: it cannot be opened.
    """
    if is_raster(path):
        return Codec("png")
    try:
        with Image.open(path) as image:
            if image.format != "JPEG":
                return Codec("png")
            quantization: Mapping[int, Sequence[int]] = image.quantization  # type: ignore[attr-defined]
            tables = tuple(tuple(int(v) for v in quantization[k]) for k in sorted(quantization))
            subsampling = int(JpegImagePlugin.get_sampling(image))
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path}: not a readable image ({error})") from error
    return Codec("jpg", jpeg_quality(tables[0]), tables, subsampling)


def survey(paths: Sequence[Path]) -> list[Codec]:
    """The coding of each file, in order."""
    return [codec_of(path) for path in paths]


def describe_codecs(codecs: Sequence[Codec]) -> str:
    """For the card: `120 JPEG (quality 75 to 92), 3 PNG`."""
    counts = Counter(codec.format for codec in codecs)
    qualities = sorted(c.quality for c in codecs if c.quality is not None)
    texts = []
    if counts["jpg"]:
        low, high = qualities[0], qualities[-1]
        span = f"{low}" if low == high else f"{low} to {high}"
        texts.append(f"{counts['jpg']} JPEG (quality {span})")
    if counts["png"]:
        texts.append(f"{counts['png']} PNG")
    return ", ".join(texts) or "none"


def provenance_text(sample: Sample) -> str:
    """One line of JSON that says what made a synthetic image."""
    row = {k: getattr(sample.provenance, k) for k in ("kind", "run", "parent", "seed", "model")}
    row |= {"id": sample.id, "prompt": sample.prompt}
    return json.dumps({k: v for k, v in row.items() if v is not None}, sort_keys=True)


def place_image(source: Path, target: Path, sample: Sample, wanted: Codec | None) -> bool:
    """Put a sample's image at `target`; returns whether the file was copied unchanged.

    A file that has the wanted coding already is copied byte for byte; `wanted` None means any.
    A synthetic PNG always carries its provenance as text, a synthetic JPEG as comment.

    Raises:
        DataError: the image cannot be read, or is not the one that its run had seen.
    """
    _refuse_changed(source, sample)
    now = codec_of(source)
    synthetic = sample.provenance.kind == "synthetic"
    text = png_text(source) if synthetic and _is_png(source) else {}
    if _fits(now, source, wanted) and (not synthetic or text or now.format == "jpg"):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        return True
    pixels = read_image(source)
    note = dict(text) if text else ({"rsgen": provenance_text(sample)} if synthetic else {})
    codec = wanted or now
    data = encode_png(pixels, note) if codec.format == "png" else encode_jpeg(pixels, codec, note)
    replace_bytes(target, data)
    return False


def _is_png(path: Path) -> bool:
    with path.open("rb") as handle:
        return handle.read(4) == b"\x89PNG"


def _fits(now: Codec, source: Path, wanted: Codec | None) -> bool:
    if wanted is not None and now.format != wanted.format:
        return False
    # TIFF, BMP and the like count as PNG, but not every reader of a detection set opens them.
    return now.format == "jpg" or _is_png(source)


def _refuse_changed(source: Path, sample: Sample) -> None:
    if sample.sha256 is not None and sha256_file(source) != sample.sha256:
        raise DataError(
            f"{source}: the image has changed since {sample.id} was recorded",
            hint="restore the file, or run the commands that read it again",
        )


def encode_jpeg(pixels: Pixels, codec: Codec, text: Mapping[str, str]) -> bytes:
    """JPEG bytes of uint8 [H, W, 3], by tables where the codec has them, else by quality."""
    options: dict[str, Any] = {"quality": codec.quality or 92}
    if codec.tables:
        options = {"qtables": [list(t) for t in codec.tables], "subsampling": codec.subsampling}
        if codec.subsampling < 0:
            del options["subsampling"]
    if text:
        options["comment"] = json.dumps(dict(text), sort_keys=True).encode("utf-8")
    buffer = io.BytesIO()
    tables = codec.tables
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if len(tables) == 1:  # a grey donor: colour needs a table for chroma too
        options["qtables"] = [list(tables[0]), list(tables[0])]
        options["subsampling"] = 0
    image.save(buffer, format="JPEG", **options)
    return buffer.getvalue()


def donor(sample_id: str, donors: Sequence[Codec]) -> Codec:
    """The real image's coding that a synthetic one takes: a fixed draw by its id."""
    return donors[zlib.crc32(sample_id.encode("utf-8")) % len(donors)]


def link_or_copy(source: Path, target: Path) -> None:
    """A second name for an exported file; a copy where the file system has no links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
