"""Where exported tiles lie on the ground: files beside each image, and one table of all.

`NAME.png.aux.xml` (GDAL's own: CRS and affine; QGIS, ArcGIS and rasterio read it) and a world
file (`NAME.pgw`, `NAME.jgw`: the affine alone, which every GIS reads) make an image open in its
place. `georeference.json` says the same for those who have no GDAL.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from rsgen.records import Geo

__all__ = ["Georeferences", "place_on_ground", "world_file"]

WORLD_SUFFIX = {".png": ".pgw", ".jpg": ".jgw", ".jpeg": ".jgw"}
FILE = "georeference.json"


def world_file(geo: Geo) -> str:
    """The six lines of a world file: they place the centre of the first pixel, not its corner."""
    a, b, c, d, e, f = geo.affine
    values = (a, d, b, e, c + a / 2 + b / 2, f + d / 2 + e / 2)
    return "".join(f"{value!r}\n" for value in values)


def place_on_ground(image: Path, geo: Geo | None) -> bool:
    """Write the files that place a PNG or JPEG; whether there was anything to write."""
    suffix = WORLD_SUFFIX.get(image.suffix.lower())
    if suffix is None or geo is None:
        return False
    image.with_suffix(suffix).write_text(world_file(geo), encoding="ascii")
    a, b, c, d, e, f = geo.affine
    srs = "" if geo.crs is None else f"  <SRS>{escape(geo.crs)}</SRS>\n"
    transform = ", ".join(repr(float(v)) for v in (c, a, b, f, d, e))  # GDAL's order
    text = f"<PAMDataset>\n{srs}  <GeoTransform>{transform}</GeoTransform>\n</PAMDataset>\n"
    image.with_name(image.name + ".aux.xml").write_text(text, encoding="utf-8")
    return True


@dataclass
class Georeferences:
    """The places of all images of an export; each CRS is held once."""

    crs: list[str | None] = field(default_factory=list)
    images: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, name: str, split: str, geo: Geo | None) -> None:
        if geo is None:
            return
        if geo.crs not in self.crs:
            self.crs.append(geo.crs)
        place = self.crs.index(geo.crs)
        self.images[name] = {"split": split, "crs": place, "affine": list(geo.affine)}

    def write(self, folder: Path) -> bool:
        """`georeference.json` in the data set's folder; False where no image has a place."""
        if not self.images:
            return False
        rows = {
            "crs": self.crs,
            "affine": "x = a column + b row + c, y = d column + e row + f, of pixel corners",
            "images": dict(sorted(self.images.items())),
        }
        text = json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
        (folder / FILE).write_text(text, encoding="utf-8")
        return True
