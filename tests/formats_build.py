"""Builders for the format tests: tiny images, samples with every kind of label, copied fixtures."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from rsgen.formats import Dataset, FormatWriter, WriteReport, write_dataset
from rsgen.geometry import RotatedBox, bounds, rotated_box_to_quad
from rsgen.mask import Mask
from rsgen.records import ClassTable, Instance, Layout, ObjectClass, Sample

BAD = Path(__file__).parent / "data" / "bad"
WIDTH, HEIGHT = 64, 48
CLASSES = ClassTable(
    (
        ObjectClass("plane", ("airplane",)),
        ObjectClass("storage tank", ("tank",), symmetric=True),
        ObjectClass("water", kind="stuff"),
        ObjectClass("ship", ("boat",)),
    )
)


def put_image(path: Path, width: int = WIDTH, height: int = HEIGHT) -> None:
    """A noisy image file of the kind that its suffix says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def copy_bad(kind: str, rule: str, target: Path, images: Iterable[str] = ()) -> Path:
    """A fixture of tests/data/bad in a folder of its own, with images put in."""
    shutil.copytree(BAD / kind / rule, target)
    for image in images:
        put_image(target / image)
    return target


def place_image(sample: Sample, path: Path) -> None:
    """The `copy_image` of tests: an image of the layout's size."""
    put_image(path, sample.layout.width, sample.layout.height)


def plane(cx: float, cy: float, w: float, h: float, angle_rad: float, **fields: object) -> Instance:
    """An oriented plane whose heading is its angle."""
    quad = rotated_box_to_quad(RotatedBox(cx, cy, w, h, angle_rad))
    inside = bounds(quad).clip(WIDTH, HEIGHT)
    return Instance("plane", inside, quad, heading_rad=angle_rad, **fields)  # type: ignore[arg-type]


def disk_mask(cx: float, cy: float, radius: float, hole: float = 0.0) -> Mask:
    """A disk, or a ring when `hole` is a radius too."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH] + 0.5
    distance = np.hypot(x - cx, y - cy)
    mask = Mask.from_array((distance < radius) & (distance >= hole))
    assert mask is not None
    return mask


def tank(cx: float, cy: float, radius: float, hole: float = 0.0) -> Instance:
    """A storage tank with its mask and the mask's box."""
    mask = disk_mask(cx, cy, radius, hole)
    return Instance("storage tank", mask.box, mask=mask, origin="polygon")


def sample_of(name: str, *instances: Instance, split: str | None = None) -> Sample:
    return Sample(
        name, Layout(WIDTH, HEIGHT, instances, gsd_m=0.5), image=f"images/{name}.png", split=split
    )


def write(writer: FormatWriter, samples: Iterable[Sample], out: Path) -> WriteReport:
    """Write with images, train and val split."""
    return write_dataset(
        writer, samples, CLASSES, out, splits=("train", "val"), copy_image=place_image
    )


def assert_counts_add_up(dataset: Dataset) -> None:
    """Every image and label that was read is kept or has a reason."""
    counts = dataset.counts
    for what in ("images", "labels"):
        skipped = sum(v for k, v in counts.items() if k.startswith(f"{what}_skipped."))
        assert counts[f"{what}_read"] == counts[f"{what}_kept"] + skipped, counts
    assert counts["images_kept"] == len(dataset.records)
    reasons = {k.split(".", 1)[1] for k in counts if "_skipped." in k}
    assert reasons == {failure.error for failure in dataset.failures}


def by_stem(dataset: Dataset) -> dict[str, Sample]:
    return {Path(sample.image or sample.id).stem: sample for sample in dataset}
