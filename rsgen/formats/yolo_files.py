"""What YOLO files say, before any image is looked at: the names file and the label lines."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import yaml

from rsgen.errors import DataError
from rsgen.formats.checks import number
from rsgen.formats.common import SPLITS, Problem
from rsgen.formats.files import read_lines

__all__ = [
    "ClassNames",
    "LabelFile",
    "Line",
    "class_names",
    "looks_like_yolo",
    "parse_file",
]

NAME_FILES = ("classes.txt", "obj.names", "labels/classes.txt", "names.txt")
REACH = 2.0  # normalised coordinates far outside [0, 1] are pixels or damage


@dataclass(frozen=True)
class ClassNames:
    """Names by index, where they came from, and folders that the file calls splits."""

    names: dict[int, str]
    source: str | None
    splits: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Line:
    """One object: the line's number from 1, its class index and its normalised numbers."""

    number: int
    index: int
    values: tuple[float, ...]


@dataclass
class LabelFile:
    """The lines of a label file, and (line number, problem) of those that say nothing."""

    lines: list[Line] = field(default_factory=list)
    problems: list[tuple[int, Problem]] = field(default_factory=list)


def class_names(path: Path) -> ClassNames:
    """Names for a dataset folder (or a data.yaml): data.yaml first, then classes.txt.

    Raises:
        DataError: a names file that cannot be understood, with its place.
    """
    folder = path if path.is_dir() else path.parent
    yamls = [path] if path.is_file() else sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])
    for file in yamls:
        if file.suffix.lower() in (".yaml", ".yml"):
            found = _from_yaml(file)
            if found is not None:
                return found
    for name in NAME_FILES:
        file = folder / name
        if file.is_file():
            try:
                lines = [line.strip() for line in read_lines(file)]
            except Problem as problem:
                raise DataError(f"{name}: {problem.message}", hint=problem.fix) from problem
            while lines and not lines[-1]:
                lines.pop()
            return ClassNames(dict(enumerate(lines)), name)
    return ClassNames({}, None)


def _from_yaml(file: Path) -> ClassNames | None:
    """The names of a data.yaml; None when it is some other YAML file."""
    try:
        document = yaml.safe_load("\n".join(read_lines(file)))
    except Problem as problem:
        raise DataError(f"{file.name}: {problem.message}", hint=problem.fix) from problem
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f":{mark.line + 1}"
        raise DataError(
            f"{file.name}{line}: not valid YAML",
            hint="correct it, or give the names in extract-masks --classes",
        ) from error
    if not isinstance(document, dict) or "names" not in document:
        return None
    raw = document["names"]
    pairs = dict(enumerate(raw)) if isinstance(raw, list) else raw
    if not isinstance(pairs, dict) or not all(isinstance(k, int) and k >= 0 for k in pairs):
        raise DataError(
            f"{file.name}: names is no list and no index: name mapping", hint="correct it"
        )
    if not all(isinstance(name, str | int | float) for name in pairs.values()):
        raise DataError(f"{file.name}: a name is no text", hint="write one name an index")
    if isinstance(document.get("nc"), int) and document["nc"] != len(pairs):
        raise DataError(
            f"{file.name}: nc is {document['nc']}, but there are {len(pairs)} names",
            hint="make them agree",
        )
    splits: dict[str, str] = {}
    for key, split in SPLITS.items():
        entries = document.get(key)
        for entry in entries if isinstance(entries, list) else [entries]:
            # Only the tail counts: `path:` and leading `../` belong to another machine.
            if isinstance(entry, str):
                parts = [p for p in entry.replace("\\", "/").split("/") if p not in ("", ".", "..")]
                splits["/".join(parts)] = split
    return ClassNames({k: str(v) for k, v in pairs.items()}, file.name, splits)


def _parse_line(text: str) -> tuple[int, tuple[float, ...]]:
    """(class index, normalised values) of a line of 5, 9 or more fields."""
    fields = text.split()
    count = len(fields) - 1
    if count != 4 and (count < 6 or count % 2):
        raise Problem(
            "FieldCount",
            f"{count} numbers after the class in {text.strip()[:60]!r}",
            "write 4 numbers for a box, 8 for an oriented box, x y pairs for an outline",
        )
    index = number(fields[0], "class")
    if index != int(index) or index < 0:
        raise Problem("UnknownClass", f"class index {fields[0]!r}", "write a whole number from 0")
    values = tuple(number(v, f"number {k + 1}") for k, v in enumerate(fields[1:]))
    far = [v for v in values if abs(v) > REACH]
    if far:
        raise Problem(
            "NotNormalised",
            f"{far[0]:g} is no share of the image",
            "divide x by the width and y by the height",
        )
    return int(index), values


def looks_like_yolo(line: str) -> bool:
    """Whether a line is an index and normalised numbers."""
    try:
        _parse_line(line)
    except Problem:
        return False
    return True


def parse_file(path: Path) -> LabelFile:
    parsed = LabelFile()
    for position, text in enumerate(read_lines(path), start=1):
        if not text.strip():
            continue
        try:
            parsed.lines.append(Line(position, *_parse_line(text)))
        except Problem as problem:
            parsed.problems.append((position, problem))
    return parsed
