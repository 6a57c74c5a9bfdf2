"""`--format auto`: what a dataset folder holds, judged by content."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rsgen.errors import DataError
from rsgen.formats.coco import coco_files
from rsgen.formats.common import Problem, ReadRequest
from rsgen.formats.dota import parse_line
from rsgen.formats.files import list_files, read_lines, relative
from rsgen.formats.jsonl import jsonl_files
from rsgen.formats.pairs import label_files
from rsgen.formats.yolo import class_names, looks_like_yolo
from rsgen.images import IMAGE_SUFFIXES

__all__ = ["Detection", "detect"]

FILES_LOOKED_AT = 50


@dataclass(frozen=True)
class Detection:
    """The format's name, and what in the files says so."""

    format: str
    found: str


def detect(path: Path, labels: Path | None = None) -> Detection:
    """The format of a dataset folder or label file.

    Raises:
        DataError: nothing that is known, or several formats side by side.
    """
    source = labels or path
    if not source.exists():
        raise DataError(f"{source}: no such file or folder", hint="check the path")
    if (source / "run.json").is_file():
        raise DataError(
            f"{source} is a run folder of rsgen, no label folder",
            hint="give it where a sample run is asked for, or its dataset/FORMAT folder",
        )
    found = [d for d in (_jsonl(source), _coco(source), _text(path, labels)) if d is not None]
    if len(found) == 1:
        return found[0]
    if not found:
        raise DataError(
            f"{source}: no labels of a known format ({_what_is_there(source)})",
            hint="point --labels at COCO JSON, DOTA or YOLO text, or .jsonl, or give --format",
        )
    listed = "; ".join(f"{d.format}: {d.found}" for d in found)
    raise DataError(
        f"{source} holds labels of several formats ({listed})",
        hint=f"choose one with --format {found[0].format}",
    )


def _jsonl(source: Path) -> Detection | None:
    if source.is_file() and source.suffix.lower() != ".jsonl":
        return None
    for file in jsonl_files(source):
        with file.open("rb") as handle:
            line = handle.readline(1 << 20)
        if line.lstrip().startswith(b"{") and b'"instances"' in line:
            return Detection("jsonl", f"{file.name} has one sample a line")
    return None


def _coco(source: Path) -> Detection | None:
    if source.is_file() and source.suffix.lower() != ".json":
        return None
    files = coco_files(source)
    if not files:
        return None
    base = source if source.is_dir() else source.parent
    listed = ", ".join(relative(f, base) for f in files[:3])
    return Detection("coco", f"{listed} with images, annotations and categories")


def _text(path: Path, labels: Path | None) -> Detection | None:
    """DOTA or YOLO, by the lines of the first label files that have any."""
    source = labels or path
    if source.is_file() and source.suffix.lower() not in (".txt", ".yaml", ".yml"):
        return None
    files = label_files(ReadRequest(path, labels=labels))
    dota = yolo = 0
    examples: dict[str, str] = {}
    base = source if source.is_dir() else source.parent
    for file in files[:FILES_LOOKED_AT]:
        kind = _kind_of_file(file)
        dota += kind == "dota"
        yolo += kind == "yolo"
        if kind is not None:
            examples.setdefault(kind, relative(file, base))
    if dota > yolo:
        return Detection("dota", f"{examples['dota']} has eight coordinates and a class name")
    if yolo:
        return Detection("yolo", f"{examples['yolo']} has class indices and shares of the image")
    names = class_names(source) if source.suffix.lower() != ".txt" else None
    if names is not None and names.source is not None:
        return Detection("yolo", f"{names.source} lists class names")
    if files and all(not f.read_bytes().strip() for f in files[:FILES_LOOKED_AT]):
        folder = files[0].parent.name
        return Detection("yolo" if folder.startswith("label") and folder != "labelTxt" else "dota",
                         f"empty label files in {folder}")  # fmt: skip
    return None


def _kind_of_file(file: Path) -> str | None:
    """dota or yolo when most lines are, None for other text."""
    try:
        lines = [line.strip() for line in read_lines(file) if line.strip()]
    except Problem:
        return None
    if any(line.lower().startswith(("imagesource:", "gsd:")) for line in lines[:2]):
        return "dota"
    votes = {"dota": 0, "yolo": 0}
    for line in lines[:20]:
        if looks_like_yolo(line):
            votes["yolo"] += 1
            continue
        try:
            parse_line(line)
        except Problem:
            continue
        votes["dota"] += 1
    best = max(votes, key=lambda k: votes[k])
    return best if votes[best] * 2 > min(len(lines), 20) else None


def _what_is_there(source: Path) -> str:
    if source.is_file():
        return f"a {source.suffix or 'plain'} file"
    images = len(list_files(source, IMAGE_SUFFIXES))
    texts = len(list_files(source, {".txt", ".json", ".jsonl", ".xml", ".csv"}))
    return f"{images} images, {texts} text files"
