"""`--class-map`: which source names were read, what became of them, and which were meant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rsgen.errors import UsageError
from rsgen.hints import counted, near_name
from rsgen.records import ClassTable, normal_name

__all__ = ["ClassMap", "rename_notes", "unused_notes"]

SHOWN = 30


class ClassMap(dict[str, str]):
    """Source name -> table name, as asked for, and what became of the names that were read.

    labels: source name -> how many labels have it. became: source name -> table name.
    """

    def __init__(self, wanted: Mapping[str, str] | None = None) -> None:
        super().__init__(wanted or {})
        self.labels: dict[str, int] = {}
        self.became: dict[str, str] = {}

    def saw(self, name: str, labels: int = 1) -> None:
        """Count labels of a source name; 0 where it is only declared."""
        self.labels[name] = self.labels.get(name, 0) + labels


def unused_notes(wanted: Mapping[str, str], labels: Mapping[str, int]) -> list[str]:
    """A note on names of the map that occur nowhere among the source names (name -> labels).

    Raises:
        UsageError: not one of them occurs.
    """
    known = {normal_name(name) for name in labels}
    unused = [name for name in wanted if normal_name(name) not in known]
    if not unused or not labels:
        return []
    near = {name: near_name(name, labels, 0.7) for name in unused}
    shown = [f"{n} (did you mean {near[n]}?)" if near[n] else n for n in unused]
    found = [f"{name} ({count})" for name, count in sorted(labels.items()) if count]
    more = ", ..." if len(found) > SHOWN else ""
    names = (", ".join(found[:SHOWN]) or "none") + more
    what = f"--class-map: {', '.join(shown)}"
    verb = "occurs" if len(unused) == 1 else "occur"
    if len(unused) == len(wanted):
        raise UsageError(f"{what} {verb} nowhere in the labels", hint=f"names there are {names}")
    return [f"{what} {verb} nowhere in the labels; names there are {names}"]


def rename_notes(maps: Iterable[ClassMap], classes: ClassTable) -> list[str]:
    """A note on labels that got another name in the table, and by what; spelling is no name."""
    rows: dict[tuple[str, str, str], int] = {}
    for names in maps:
        wanted = {normal_name(name) for name in names}
        for source, became in names.became.items():
            entry = classes.find(became)
            target = became if entry is None else entry.name
            if normal_name(source) == normal_name(target) or not names.labels.get(source):
                continue
            how = "--class-map" if normal_name(source) in wanted else "alias of the class table"
            key = (source, target, how)
            rows[key] = rows.get(key, 0) + names.labels[source]
    if not rows:
        return []
    shown = [f"{a} -> {b} ({count}, {how})" for (a, b, how), count in sorted(rows.items())]
    more = ", ..." if len(shown) > SHOWN else ""
    renamed = counted(sum(rows.values()), "label")
    return [f"{renamed} renamed: {', '.join(shown[:SHOWN])}{more}"]
