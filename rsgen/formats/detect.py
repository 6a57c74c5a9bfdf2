"""`--format auto`: every format says what it sees in a dataset folder; one of them is meant."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rsgen.errors import DataError
from rsgen.formats.common import Format, Found, Source
from rsgen.formats.files import list_files
from rsgen.images import IMAGE_SUFFIXES
from rsgen.registry import names, resolve

__all__ = ["Detection", "detect"]


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
    source = Source(path, labels)
    if not source.root.exists():
        raise DataError(f"{source.root}: no such file or folder", hint="check the path")
    if (source.root / "run.json").is_file():
        raise DataError(
            f"{source.root} is a run folder of rsgen, no label folder",
            hint="give it where a sample run is asked for, or its dataset/FORMAT folder",
        )
    claims = _claims(source)
    if len(claims) == 1:
        name, found = claims[0]
        return Detection(name, found.what)
    if not claims:
        raise DataError(
            f"{source.root}: no labels of a known format ({_what_is_there(source.root)})",
            hint=f"point --labels at the labels, or give --format, of: {', '.join(readable())}",
        )
    listed = "; ".join(f"{name}: {found.what}" for name, found in claims)
    raise DataError(
        f"{source.root} holds labels of several formats ({listed})",
        hint=f"choose one with --format {claims[0][0]}",
    )


def readable() -> list[str]:
    """Names of the formats that can be read."""
    return [name for name in names("formats") if resolve("formats", name).read is not None]


def _claims(source: Source) -> list[tuple[str, Found]]:
    """(format, what it found) for each family of formats: the claim with the most votes."""
    best: dict[str, tuple[str, Found]] = {}
    for name in names("formats"):
        entry: Format = resolve("formats", name)
        found = entry.detect(source) if entry.detect is not None else None
        if found is None:
            continue
        before = best.get(found.family)
        if before is None or found.votes > before[1].votes:
            best[found.family] = (name, found)
    sure = [claim for claim in best.values() if claim[1].votes > 0]
    most = max((found.votes for _, found in best.values()), default=0)
    return sure or [claim for claim in best.values() if claim[1].votes == most]


def _what_is_there(source: Path) -> str:
    if source.is_file():
        return f"a {source.suffix or 'plain'} file"
    images = len(list_files(source, IMAGE_SUFFIXES))
    texts = len(list_files(source, {".txt", ".json", ".jsonl", ".xml", ".csv"}))
    return f"{images} images, {texts} text files"
