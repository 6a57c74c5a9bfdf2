"""Image-level labels of any number of classes: SPLIT.csv, one row an image; written only.

Columns: image (its path), classes (names in the table's order, joined by ";"), then one column a
class with the number of its objects, stuff counting as one: over 0 is the class's 0/1 label.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from rsgen.errors import DataError, UsageError
from rsgen.formats.common import Format, Holds, WriteReport
from rsgen.images import replace_bytes
from rsgen.records import ClassTable, Instance, Layout, Sample

__all__ = ["FORMAT", "JOIN", "ClassListWriter", "check_lists"]

JOIN = ";"
FIRST = ("image", "classes")


class ClassListWriter:
    """`images/SPLIT/NAME.png` and `SPLIT.csv`."""

    name = "class-list"
    places_images = True

    def __init__(self) -> None:
        self._rows: dict[str, list[list[str | int]]] = {}
        self._labels: Counter[str] = Counter()

    def open(self, out_dir: Path, classes: ClassTable, splits: Sequence[str]) -> None:
        joined = [name for name in classes.names if JOIN in name]
        if joined:
            raise UsageError(
                f"class-list joins names by {JOIN!r}, and a class is called {joined[0]!r}",
                hint="rename the class, or export another format",
            )
        self._out, self._classes = out_dir, classes
        self._rows = {split: [] for split in splits}
        for split in splits:
            (out_dir / "images" / split).mkdir(parents=True, exist_ok=True)

    def image_path(self, image_name: str, split: str, sample: Sample) -> str:
        return f"images/{split}/{image_name}"

    def add(self, sample: Sample, image_name: str, split: str, image: Path | None = None) -> None:
        found = Counter(self._classes.resolve(i.label).name for i in sample.layout.instances)
        present = JOIN.join(name for name in self._classes.names if found[name])
        counts = [found[name] for name in self._classes.names]
        self._rows[split].append([self.image_path(image_name, split, sample), present, *counts])
        self._labels.update(found)

    def close(self) -> WriteReport:
        for split, rows in self._rows.items():
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow([*FIRST, *self._classes.names])
            writer.writerows(rows)
            replace_bytes(self._out / f"{split}.csv", text.getvalue().encode("utf-8"))
        images = sum(len(rows) for rows in self._rows.values())
        notes: tuple[str, ...] = ()
        if self._labels:
            notes = (f"{self._labels.total()} objects are not kept, only which classes there are",)
        return WriteReport(
            tuple(f"{split}.csv" for split in self._rows), images, self._labels.total(), {}, notes
        )

    def abort(self) -> None:
        """Nothing is open between samples."""


def check_lists(folder: Path, images: Mapping[str, int], objects: int) -> None:
    """Read every list again: its images are there, and its two ways to say a class agree.

    Raises:
        DataError: what differs, with file and row.
    """
    total = 0
    for split, expected in images.items():
        path = folder / f"{split}.csv"
        try:
            with path.open(encoding="utf-8", newline="") as handle:
                head, *rows = csv.reader(handle)
        except (OSError, ValueError, csv.Error) as error:
            raise DataError(f"{path.name} cannot be read ({error})") from error
        if len(rows) != expected:
            raise DataError(f"{path.name}: {len(rows)} images, expected {expected}")
        for number, row in enumerate(rows, start=2):
            where = f"{path.name}:{number}"
            counts = _counts(row, head, where)
            present = [name for name, n in zip(head[len(FIRST) :], counts, strict=True) if n]
            if row[1] != JOIN.join(present):
                raise DataError(f"{where}: classes {row[1]!r}, its columns say {present}")
            if not (folder / row[0]).is_file():
                raise DataError(f"{where}: there is no {row[0]}")
            total += sum(counts)
    if total != objects:
        raise DataError(f"{total} objects are counted, expected {objects}")


def _counts(row: Sequence[str], head: Sequence[str], where: str) -> list[int]:
    """The objects of each class in a row."""
    if len(row) != len(head):
        raise DataError(f"{where}: {len(row)} columns, the first line has {len(head)}")
    try:
        return [int(cell) for cell in row[len(FIRST) :]]
    except ValueError as error:
        raise DataError(f"{where}: a count is no number ({error})") from error


def _held(instance: Instance, layout: Layout, classes: ClassTable) -> Instance:
    return instance


FORMAT = Format(
    "class-list",
    "`SPLIT.csv`, for classification by any number of classes: `image`, `classes`, and a column a "
    "class with the number of its objects; images in `images/SPLIT/`",
    None,
    lambda _: ClassListWriter(),
    None,
    Holds(_held),
    check=check_lists,
    objects=False,
)
