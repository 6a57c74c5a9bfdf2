"""What a model calls the classes of some labels: by name, by alias, or as it was told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from rsgen.classes import united
from rsgen.errors import DataError, UsageError
from rsgen.hints import near_name
from rsgen.records import ClassTable, Layout, ObjectClass, normal_name

__all__ = ["Renaming", "check_class_map", "known_classes", "model_class"]

NOTHING: Mapping[str, str] = {}


def model_class(
    entry: ObjectClass, model: ClassTable, class_map: Mapping[str, str] = NOTHING
) -> ObjectClass | None:
    """The model's class for one of the labels; None where it has none.

    `class_map`, from any spelling of the labels' class to one of the model's, goes before names
    and aliases.
    """
    spellings = (entry.name, *entry.aliases)
    told = {normal_name(name): wanted for name, wanted in class_map.items()}
    for name in spellings:
        if normal_name(name) in told:
            return model.find(told[normal_name(name)])
    return next((found for name in spellings if (found := model.find(name)) is not None), None)


def known_classes(
    classes: ClassTable, model: ClassTable, class_map: Mapping[str, str] = NOTHING
) -> ClassTable:
    """The classes of a table that a model knows.

    Raises:
        DataError: it knows none of them.
    """
    known = tuple(e for e in classes.classes if model_class(e, model, class_map) is not None)
    if not known:
        raise DataError(
            f"the model knows {', '.join(model.names)}; the layouts have "
            f"{', '.join(classes.names) or 'no classes'}",
            hint="fine-tune the model on these classes, or say what it calls them: --class-map "
            "YOURS=ITS",
        )
    return ClassTable(known)


def check_class_map(class_map: Mapping[str, str], classes: ClassTable, model: ClassTable) -> None:
    """Raise UsageError where `--class-map` names a class that the labels or the model lack."""
    for name, wanted in class_map.items():
        for text, table, whose in (
            (name, classes, "of the layouts"),
            (wanted, model, "of the model"),
        ):
            if table.find(text) is None:
                near = near_name(text, table.names)
                raise UsageError(
                    f"--class-map {name}={wanted}: {text!r} is no class {whose}"
                    + (f" (did you mean {near}?)" if near else ""),
                    hint=f"it is YOURS=ITS; classes {whose}: {', '.join(table.names)}",
                )


@dataclass(frozen=True)
class Renaming:
    """Layouts with the model's names for the classes that `--class-map` names; others stay.

    `classes` is the table afterwards; `names`, from a name of the table `own` before it.
    """

    own: ClassTable
    classes: ClassTable
    names: Mapping[str, str]

    @classmethod
    def of(cls, own: ClassTable, model: ClassTable, class_map: Mapping[str, str]) -> Renaming:
        told = {normal_name(name) for name in class_map}
        names, tables = {}, list[ClassTable]()
        for entry in own.classes:
            mapped = any(normal_name(name) in told for name in (entry.name, *entry.aliases))
            found = model_class(entry, model, class_map) if mapped else None
            if found is not None:
                names[entry.name] = found.name
                entry = replace(entry, name=found.name, aliases=())
            tables.append(ClassTable((entry,)))
        return cls(own, united(tables) if names else own, names)

    def __call__(self, layout: Layout) -> Layout:
        """The layout under the new names."""
        if not self.names:
            return layout
        labels = {i.label: self.own.resolve(i.label).name for i in layout.instances}
        moved = (
            replace(i, label=self.names.get(labels[i.label], i.label)) for i in layout.instances
        )
        return replace(layout, instances=tuple(moved))
