"""The image records of a COCO file: finding the files, checking the sizes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsgen.formats.checks import check_size
from rsgen.formats.common import Problem, ReadRequest
from rsgen.formats.files import relative, safe_relative, size_of
from rsgen.records import WEIGHT

__all__ = ["ImagePlaces", "ImageRecord", "find_image", "weight_scores"]


@dataclass
class ImagePlaces:
    """Where the images of one JSON file may lie; the folder that had the last one goes first."""

    root: Path
    folders: list[Path]

    @classmethod
    def beside(cls, file: Path, root: Path, split: str | None) -> ImagePlaces:
        bases = [root, root / "images", root / "JPEGImages", file.parent, file.parent / "images"]
        if split is not None:
            bases = [*(b / split for b in bases[:2]), root / split / "images", *bases]
        year = "".join(c for c in file.stem if c.isdigit())
        if split is not None and len(year) == 4:
            bases = [root / f"{split}{year}", root / "images" / f"{split}{year}", *bases]
        return cls(root, [b for b in dict.fromkeys(bases) if b.is_dir()])

    def find(self, name: str) -> Path | None:
        for place, folder in enumerate(self.folders):
            if (folder / name).is_file():
                self.folders.insert(0, self.folders.pop(place))
                return folder / name
        return None


@dataclass(frozen=True)
class ImageRecord:
    """An image record that passed: its sample id, path under the root, and size."""

    id: str
    image: str | None
    width: int
    height: int
    gsd_m: float | None


def find_image(
    record: dict[str, Any], name: str, images: ImagePlaces, request: ReadRequest
) -> ImageRecord:
    """The record with its file and size checked against each other.

    Raises:
        Problem: PathEscape, MissingImage, BadSize, WrongSize, TooManyPixels, or a bad file.
    """
    clean = safe_relative(name)
    path = images.find(clean)
    declared = None
    if record.get("width") is not None or record.get("height") is not None:
        declared = check_size(record.get("width"), record.get("height"), request.max_pixels)
    if path is None:
        if request.require_images:
            tried = ", ".join(relative(f, images.root) or "." for f in images.folders[:4])
            raise Problem("MissingImage", f"not found in {tried}", "give the folder with --images")
        size = declared or request.size
        if size is None:
            raise Problem("BadSize", "no width and height, and no image", "write them")
        return ImageRecord(clean, None, *size, _gsd(record))
    size = size_of(path, clean, request.max_pixels)
    if declared is not None and declared != size:
        raise Problem(
            "WrongSize",
            f"declared {declared[0]} x {declared[1]}, the file is {size[0]} x {size[1]}",
            "use the images that were annotated, or correct the record",
        )
    inside = relative(path, images.root)
    return ImageRecord(inside, inside, *size, _gsd(record))


def weight_scores(record: dict[str, Any]) -> dict[str, float]:
    """The weight of an image or annotation record, as a score; none where it is not in [0, 1]."""
    value = record.get(WEIGHT)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= 1:
        return {}
    return {WEIGHT: float(value)}


def _gsd(record: dict[str, Any]) -> float | None:
    value = record.get("gsd_m")
    return float(value) if isinstance(value, (int, float)) and 0 < value < 1e6 else None
