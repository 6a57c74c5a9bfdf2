"""What a model calls the classes of some labels: by name, by alias, or as it was told."""

from __future__ import annotations

from collections.abc import Mapping

from rsgen.errors import DataError, UsageError
from rsgen.hints import near_name
from rsgen.records import ClassTable, ObjectClass, normal_name

__all__ = ["check_class_map", "known_classes", "model_class"]

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
