"""Where images lie: georeferenced rasters give their samples a position and metres a pixel."""

from __future__ import annotations

from dataclasses import replace

from rsgen.errors import DataError
from rsgen.formats.common import Dataset
from rsgen.georaster import RASTER_SUFFIXES, is_raster, probe_raster
from rsgen.records import Sample

__all__ = ["with_places"]


def with_places(dataset: Dataset) -> Dataset:
    """The dataset with `geo` and `gsd_m` set where an image's header has them and labels do not.

    What the labels or the user said stays. A header that cannot be read changes nothing: its
    image fails where its pixels are read.
    """
    records = [_placed(sample, dataset) for sample in dataset.records]
    placed = sum(sample.geo is not None for sample in records)
    if not placed:
        return dataset
    sizes = [s.layout.gsd_m for s in records if s.geo is not None and s.layout.gsd_m is not None]
    text = f"{placed} of {len(records)} images are georeferenced"
    if sizes:
        low, high = f"{min(sizes):.3g}", f"{max(sizes):.3g}"
        text += f", {low if low == high else f'{low} to {high}'} m a pixel"
    return replace(dataset, records=records, notes=[*dataset.notes, text])


def _placed(sample: Sample, dataset: Dataset) -> Sample:
    layout = sample.layout
    known = sample.geo is not None and layout.gsd_m is not None
    if known or sample.image is None or not sample.image.lower().endswith(RASTER_SUFFIXES):
        return sample
    path = dataset.image_path(sample)
    try:
        info = probe_raster(path) if is_raster(path) else None
    except DataError:
        return sample
    if info is None:
        return sample
    layout = replace(layout, gsd_m=layout.gsd_m or info.gsd_m)
    return replace(sample, layout=layout, geo=sample.geo or info.geo)
