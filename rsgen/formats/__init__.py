"""Label formats, read and write side by side; the registry lists them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from rsgen.errors import DataError, UsageError
from rsgen.formats.checks import raster_session
from rsgen.formats.class_map import ClassMap
from rsgen.formats.common import (
    Dataset,
    Format,
    FormatReader,
    FormatWriter,
    Holds,
    ReadRequest,
    SafeNames,
    WriteOptions,
    WriteReport,
    write_dataset,
)
from rsgen.formats.detect import Detection, detect, readable
from rsgen.formats.places import with_places
from rsgen.hints import check_path
from rsgen.images import MAX_PIXELS
from rsgen.legend import Legend
from rsgen.records import ClassTable
from rsgen.registry import resolve

__all__ = [
    "READ_KEYS",
    "Dataset",
    "Detection",
    "Format",
    "FormatReader",
    "FormatWriter",
    "Holds",
    "ReadRequest",
    "SafeNames",
    "WriteOptions",
    "WriteReport",
    "detect",
    "read_dataset",
    "readable",
    "write_dataset",
]

# Keys of the section `extract_masks` that are arguments of `read_dataset` under the same name.
READ_KEYS = ("min_area_px", "label_key", "label_name", "voc_base")


def read_dataset(
    path: Path | str,
    *,
    images: Path | str | None = None,
    labels: Path | str | None = None,
    format: str = "auto",
    classes: ClassTable | None = None,
    class_map: Mapping[str, str] | None = None,
    gsd_m: float | None = None,
    require_images: bool = True,
    heading: bool | Literal["auto"] = "auto",
    size: tuple[int, int] | None = None,
    max_pixels: int = MAX_PIXELS,
    legend: Legend | None = None,
    min_area_px: int = 16,
    label_key: str | None = None,
    label_name: str | None = None,
    voc_base: Literal["auto", 0, 1] = "auto",
) -> Dataset:
    """Read a labelled dataset without decoding pixels; sizes come from image headers.

    `images` and `labels` say where each lies when they are apart. With `classes` every label
    must name one of them (by name, alias, or through `class_map`: source name -> table name).
    `gsd_m` overrides what the files say. `heading`: whether the first edge of an oriented box
    is its front (auto: DOTA yes when any quad is turned, YOLO no). `size` (width, height) is
    for DOTA and YOLO labels whose images are absent (`require_images=False`). `label_key` and
    `label_name` are for vector labels: the property that names the class, and the class of
    features that name none. `voc_base`: what XML boxes count from, see `ReadRequest`.
    Georeferenced images give their samples `geo` and `gsd_m`.

    Raises:
        DataError: nothing can be read at all. Single bad items are `failures`.
        UsageError: an unknown format.
    """
    request = ReadRequest(
        Path(path),
        None if images is None else Path(images),
        None if labels is None else Path(labels),
        classes,
        ClassMap(class_map),
        gsd_m,
        require_images,
        heading,
        size,
        max_pixels,
        legend,
        min_area_px,
        label_key,
        label_name,
        voc_base,
    )
    for given in (request.path, request.images, request.labels):
        if given is not None and not given.exists():
            raise DataError(f"{given}: no such file or folder", hint=check_path(given))
    found = None
    if format == "auto":
        found = detect(request.path, request.labels)
        format = found.format
    chosen: Format = resolve("formats", format, "read")
    if chosen.read is None:
        raise UsageError(
            f"{format} is written, not read", hint=f"formats to read: {', '.join(readable())}"
        )
    with raster_session():
        dataset = chosen.read(request)
        dataset = replace(with_places(dataset), names=request.class_map)
    if found is not None:
        dataset.notes.insert(0, f"format: {dataset.format}, since {found.found}")
    return dataset
