"""What the pixels of a semantic mask mean: a value or a colour for each class.

In YAML a legend is a class table whose entries have `value:` (the pixel of an index mask) or
`color:` ([r, g, b]); `unlabelled:` lists values and colours that are no class, `tolerance:`
says how far a channel may be off a colour (masks that went through a lossy codec).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from rsgen.errors import UsageError
from rsgen.records import ClassTable, ObjectClass

__all__ = [
    "BLACK",
    "MASK_WORDS",
    "Color",
    "Legend",
    "LegendRow",
    "legend_from_yaml",
    "legend_to_yaml",
    "may_be_mask",
    "name_words",
]

Color = tuple[int, int, int]
LegendRow = tuple[ObjectClass, int | None, Color | None]
BLACK: Color = (0, 0, 0)
MAX_VALUE = 65535
MASK_WORDS = frozenset(
    {
        "mask", "masks", "label", "labels", "lab", "gt", "gts", "groundtruth", "annotation",
        "annotations", "ann", "seg", "segmentation", "segmentations", "segmentationclass",
        "semantic", "semantics",
    }
)  # fmt: skip


def name_words(name: str) -> list[str]:
    """The lower-case words of a file's or folder's name."""
    return [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]


def may_be_mask(path: str) -> bool:
    """Whether a folder of a posix path, or the end of its stem, says that it is a mask."""
    parts = PurePosixPath(path)
    words = [word for part in parts.parts[:-1] for word in name_words(part)]
    return not MASK_WORDS.isdisjoint([*words, *name_words(parts.stem)[-1:]])


@dataclass(frozen=True)
class Legend:
    """Pixel values 0..65535 and RGB colours -> class names of `table`.

    `unlabelled` holds values (int) and colours that are no class. Value 0 and black are
    among them unless a class has them. `tolerance`: greatest difference of a channel, 0..127.
    """

    table: ClassTable
    values: Mapping[int, str] = field(default_factory=dict)
    colors: Mapping[Color, str] = field(default_factory=dict)
    unlabelled: frozenset[int | Color] = frozenset()
    tolerance: int = 0

    @classmethod
    def of(
        cls,
        rows: Sequence[LegendRow],
        unlabelled: Iterable[int | Color] = (),
        tolerance: int = 0,
    ) -> Legend | None:
        """The legend of a class table; None where no class has a value or colour.

        Raises:
            UsageError: a value or colour given twice, or out of range.
        """
        values: dict[int, str] = {}
        colors: dict[Color, str] = {}
        for entry, value, color in rows:
            if value is not None:
                _put(values, value, entry.name)
            if color is not None:
                _put(colors, color, entry.name)
        if not values and not colors:
            return None
        nothing = frozenset(unlabelled)
        for item in sorted(nothing, key=str):
            _check_range(item, "unlabelled")
            owner = values.get(item) if isinstance(item, int) else colors.get(item)
            if owner is not None:
                raise UsageError(
                    f"{_said(item)} is both unlabelled and {owner!r}",
                    hint="take it out of `unlabelled:`, or out of the class",
                )
        if not 0 <= tolerance <= 127:
            raise UsageError(f"tolerance {tolerance} of a colour", hint="give 0 to 127")
        if 0 not in values:
            nothing |= {0}
        if BLACK not in colors:
            nothing |= {BLACK}
        return cls(
            ClassTable(tuple(entry for entry, _, _ in rows)), values, colors, nothing, tolerance
        )


def _put(found: dict[Any, str], key: int | Color, name: str) -> None:
    _check_range(key, f"class {name!r}")
    before = found.setdefault(key, name)
    if before != name:
        raise UsageError(
            f"{_said(key)} belongs to both {before!r} and {name!r}",
            hint="give each class its own value and colour",
        )


def _check_range(key: int | Color, where: str) -> None:
    channels = (key,) if isinstance(key, int) else key
    top = MAX_VALUE if isinstance(key, int) else 255
    if not all(0 <= c <= top for c in channels):
        raise UsageError(f"{where}: {_said(key)} is out of range", hint=f"give 0 to {top}")


def _said(key: int | Color) -> str:
    return f"value {key}" if isinstance(key, int) else f"colour {list(key)}"


def legend_from_yaml(
    rows: Sequence[LegendRow], data: Mapping[str, Any], where: str
) -> Legend | None:
    """The legend of a file's class entries and its keys `unlabelled` and `tolerance`.

    Raises:
        UsageError: what is wrong in the file `where`.
    """
    listed = data.get("unlabelled", [])
    if not isinstance(listed, list):
        raise UsageError(f"{where}: `unlabelled:` is {listed!r}, expected a list")
    tolerance = data.get("tolerance", 0)
    if not isinstance(tolerance, int):
        raise UsageError(f"{where}: `tolerance:` is {tolerance!r}, expected 0 to 127")
    try:
        return Legend.of(rows, [_key(item, where) for item in listed], tolerance)
    except UsageError as error:
        if error.message.startswith(where):
            raise
        raise UsageError(f"{where}: {error.message}", hint=error.hint) from error


def _key(item: Any, where: str) -> int | Color:
    if isinstance(item, int) and not isinstance(item, bool):
        return item
    if isinstance(item, list) and len(item) == 3 and all(isinstance(c, int) for c in item):
        return (item[0], item[1], item[2])
    raise UsageError(f"{where}: {item!r} in `unlabelled:`, expected a value or [r, g, b]")


def legend_to_yaml(legend: Legend) -> dict[str, Any]:
    """A mapping that reads back as this legend."""
    values = {name: value for value, name in legend.values.items()}
    colors = {name: list(color) for color, name in legend.colors.items()}
    rows = []
    for entry in legend.table.classes:
        row: dict[str, Any] = {"name": entry.name}
        if entry.aliases:
            row["aliases"] = list(entry.aliases)
        if entry.kind != "thing":
            row["kind"] = entry.kind
        if entry.symmetric:
            row["symmetric"] = True
        if entry.name in values:
            row["value"] = values[entry.name]
        if entry.name in colors:
            row["color"] = colors[entry.name]
        rows.append(row)
    nothing = sorted(k for k in legend.unlabelled if isinstance(k, int))
    tints = sorted(list(k) for k in legend.unlabelled if not isinstance(k, int))
    document: dict[str, Any] = {"classes": rows, "unlabelled": [*nothing, *tints]}
    if legend.tolerance:
        document["tolerance"] = legend.tolerance
    return document
