"""Class names of a source -> names of the table; and the order in which labels are painted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from rsgen.formats.class_map import ClassMap
from rsgen.formats.common import Problem
from rsgen.mask import Mask
from rsgen.raster import paint_positions
from rsgen.records import ClassTable, Instance, ObjectClass, normal_name

__all__ = ["LabelNames", "paint_order"]


class LabelNames:
    """Source class names -> table names, with what was seen.

    With a table every name must be in it (directly, by alias, or through the map); without one
    names are taken as they come, equal spellings joined.
    """

    def __init__(self, classes: ClassTable | None, class_map: Mapping[str, str]) -> None:
        self._classes = classes
        self._seen = class_map if isinstance(class_map, ClassMap) else ClassMap()
        self._map = {normal_name(k): v for k, v in class_map.items()}
        self._cache: dict[str, str] = {}
        self._by_normal: dict[str, str] = {}
        self._kinds: dict[str, ObjectClass] = {}

    def declare(self, name: str, *, stuff: bool = False) -> None:
        """Give a name its place in the table, in order of the source's own list."""
        self._seen.saw(name, 0)
        target = self._target(name)
        if self._classes is None and target not in self._kinds:
            self._kinds[target] = ObjectClass(target, kind="stuff" if stuff else "thing")

    def declare_table(self, table: ClassTable) -> None:
        """Give the classes of a stored table their places, with aliases and kinds."""
        for entry in table.classes:
            for alias in entry.aliases:
                self._map.setdefault(normal_name(alias), entry.name)
            self._seen.saw(entry.name, 0)
            for alias in entry.aliases:
                self._seen.saw(alias, 0)
            target = self._target(entry.name)
            if self._classes is None and target not in self._kinds:
                self._kinds[target] = replace(entry, name=target)

    def _target(self, name: str) -> str:
        mapped = self._map.get(normal_name(name), name)
        return self._by_normal.setdefault(normal_name(mapped), mapped.strip())

    def resolve(self, name: str) -> str:
        """The table's name for a source name.

        Raises:
            Problem: UnknownClass, with the list of the known ones.
        """
        self._seen.saw(name)
        known = self._cache.get(name)
        if known is not None:
            return known
        target = self._target(name)
        if not normal_name(target):
            raise Problem("UnknownClass", "empty class name", "name the class in the label")
        if self._classes is None:
            self._kinds.setdefault(target, ObjectClass(target))
        else:
            entry = self._classes.find(target)
            if entry is None:
                raise Problem(
                    "UnknownClass",
                    f"unknown class {name!r}; known: {', '.join(self._classes.names)}",
                    f"map it with --class-map {name}=KNOWN, or add it with --classes",
                    unseen=True,  # left out by the table that was chosen
                )
            target = entry.name
        self._cache[name] = self._seen.became[name] = target
        return target

    def resolve_first(self, names: Sequence[str]) -> str:
        """The table's name for the first of several source names that table or map know; the
        last is taken where none is known.

        Raises:
            Problem: UnknownClass.
        """
        known = (name for name in names[:-1] if self._is_known(name))
        return self.resolve(next(known, names[-1]))

    def _is_known(self, name: str) -> bool:
        in_table = self._classes is not None and self._classes.find(name) is not None
        return in_table or normal_name(name) in self._map

    def is_stuff(self, label: str) -> bool:
        if self._classes is not None:
            return self._classes.is_stuff(label)
        return label in self._kinds and self._kinds[label].kind == "stuff"

    def is_symmetric(self, label: str) -> bool:
        entry = None if self._classes is None else self._classes.find(label)
        return entry is not None and entry.symmetric

    def table(self, *, in_order: bool = False) -> ClassTable:
        """The given table; else the names seen, sorted unless the source lists them in order."""
        if self._classes is not None:
            return self._classes
        found = list(self._kinds.values())
        return ClassTable(tuple(found if in_order else sorted(found, key=lambda c: c.name)))


def paint_order(instances: Iterable[Instance], names: LabelNames) -> tuple[Instance, ...]:
    """One mask a stuff class, then all as they are painted."""
    joined: list[Instance] = []
    places: dict[str, int] = {}
    for instance in instances:
        if not names.is_stuff(instance.label) or instance.mask is None:
            joined.append(instance)
            continue
        place = places.setdefault(instance.label, len(joined))
        other = None if place == len(joined) else joined[place].mask
        mask = _joined(other, instance.mask)
        joined[place : place + 1] = [replace(instance, box=None, quad=None, mask=mask)]
    return tuple(joined[k] for k in paint_positions(joined, names.is_stuff))


def _joined(a: Mask | None, b: Mask) -> Mask | None:
    if a is None:
        return b
    x0, y0 = min(a.x0, b.x0), min(a.y0, b.y0)
    x1, y1 = max(a.x0 + a.width, b.x0 + b.width), max(a.y0 + a.height, b.y0 + b.height)
    canvas = np.zeros((y1 - y0, x1 - x0), dtype=bool)
    a.shift(-x0, -y0).paint(canvas, True)
    b.shift(-x0, -y0).paint(canvas, True)
    return Mask.from_array(canvas, x0, y0)
