"""Class tables by name (templates/classes) or from a file, and several joined to one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rsgen.config import problem_lines, read_yaml, template_path, templates_root
from rsgen.errors import UsageError
from rsgen.legend import Legend, LegendRow, legend_from_yaml
from rsgen.records import ClassTable, ObjectClass
from rsgen.settings import ClassEntry

__all__ = ["class_template_names", "load_class_table", "load_legend", "united"]

LEGEND_KEYS = ("unlabelled", "tolerance")


def class_template_names() -> tuple[str, ...]:
    """Names that `load_class_table` knows without a file."""
    return tuple(sorted(path.stem for path in (templates_root() / "classes").glob("*.yaml")))


def load_class_table(name_or_path: str | Path) -> ClassTable:
    """A class table from a template name (`dota-v1.0`), a YAML file or a plain list.

    YAML: `classes:` with names, or mappings of name, aliases, kind (thing or stuff) and
    symmetric; what else a legend has is passed over. A `.txt` or `.names` file holds one name
    a line; `#` starts a comment.

    Raises:
        UsageError: an unknown name, or a file that is no class table (entry named).
    """
    _, rows, _ = _table_file(name_or_path)
    return ClassTable(tuple(entry for entry, _, _ in rows))


def load_legend(name_or_path: str | Path) -> Legend | None:
    """What the pixels of masks mean, of the same files; None where no class has `value`
    or `color`.

    Raises:
        UsageError: as `load_class_table`, or values and colours that contradict each other.
    """
    path, rows, data = _table_file(name_or_path)
    return legend_from_yaml(rows, data, str(path))


def _table_file(name_or_path: str | Path) -> tuple[Path, list[LegendRow], dict[str, Any]]:
    """(the file, its classes with value and colour, its other keys)."""
    data: dict[str, Any] = {}
    text = str(name_or_path)
    path = template_path(text.lower(), "classes")
    if path is None:
        path = Path(name_or_path)
        if not path.suffix or not path.is_file():
            raise UsageError(f"no class table {text!r}", hint=_hint(text))
    if path.suffix in {".txt", ".names"}:
        entries: list[Any] = _lines(path)
    else:
        data = read_yaml(path)
        found = data.get("classes")
        if not isinstance(found, list) or not set(data) <= {"classes", *LEGEND_KEYS}:
            raise UsageError(
                f"{path}: expected one key `classes:` with a list",
                hint=f"beside it only {' and '.join(LEGEND_KEYS)}, of a legend of masks",
            )
        entries = found
    if not entries:
        raise UsageError(f"{path}: the class list is empty")
    return path, [_entry(path, k, value) for k, value in enumerate(entries, start=1)], data


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read ({error})") from error
    return [name for line in lines if (name := line.split("#", 1)[0].strip())]


def _entry(path: Path, number: int, value: Any) -> LegendRow:
    try:
        row = {"name": value} if isinstance(value, str) else value
        entry = ClassEntry.model_validate(row)
    except ValidationError as error:
        problems = "; ".join(problem_lines(error, ClassEntry, row))
        raise UsageError(f"{path}: class {number}: {problems}") from error
    known = ObjectClass(entry.name, entry.aliases, entry.kind, entry.symmetric)
    return known, entry.value, entry.color


def _hint(text: str) -> str:
    known = class_template_names()
    near = difflib.get_close_matches(text.lower(), known, n=1)
    guess = f"did you mean {near[0]}? " if near else ""
    return f"{guess}give a file, or one of {', '.join(known)}"


def united(tables: Iterable[ClassTable]) -> ClassTable:
    """All classes of several tables, in order of first appearance; aliases add up.

    A class that an earlier table knows by any of its names is that class, with all names of
    both; its kind and symmetry stay those of the first table.
    """
    merged = ClassTable(())
    for table in tables:
        for entry in table.classes:
            names = (entry.name, *entry.aliases)
            old = next((found for n in names if (found := merged.find(n)) is not None), None)
            if old is None:
                merged = ClassTable((*merged.classes, entry))
                continue
            new = tuple(n for n in names if merged.find(n) is None)
            joined = replace(old, aliases=(*old.aliases, *new))
            merged = ClassTable(tuple(joined if c is old else c for c in merged.classes))
    return merged
