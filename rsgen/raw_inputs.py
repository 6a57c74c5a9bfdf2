"""Raw data sets as inputs: which files a run has seen, and what has changed since.

    OUT/inputs.json   one list a raw input: [relative path, bytes, sha256 of labels]

Mending a data set is no other request while its run is not committed: the request keeps the
fingerprint of the first start, and the manifest hash says what the files are now.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rsgen.images import replace_bytes
from rsgen.request import InputRef

__all__ = ["Mended", "changed_files", "changed_text", "take_up", "write_inputs"]

RECORD = "inputs.json"
SHOWN = 5


@dataclass(frozen=True)
class Mended:
    """Inputs as the run knows them by now, and the files that changed since its last start."""

    inputs: tuple[InputRef, ...]
    files: frozenset[Path] = frozenset()

    def text(self) -> str:
        return _shown(self.files)


def _shown(files: Iterable[Path]) -> str:
    """`a.png, b.txt and 3 more`."""
    names = sorted(path.name for path in files)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def write_inputs(out: Path, inputs: Sequence[InputRef]) -> None:
    """Record the files of the raw inputs; nothing is written where there are none."""
    rows = {
        str(position): [list(row) for row in ref.files]
        for position, ref in enumerate(inputs)
        if ref.files
    }
    if rows:
        replace_bytes(out / RECORD, (json.dumps(rows) + "\n").encode("utf-8"))


def take_up(
    out: Path, before: Sequence[InputRef], now: Sequence[InputRef], *, may_change: bool
) -> Mended:
    """Inputs under the fingerprint of the run's first start, where they are its own.

    A raw input at its old place that is as the run last saw it is its own; with `may_change`
    (an uncommitted run that can make again what changed) also one whose files have changed.
    """
    taken: list[InputRef] = []
    files: set[Path] = set()
    for position, ref in enumerate(now):
        was = before[position] if position < len(before) else ref
        if not ref.files or (was.name, was.path) != (ref.name, ref.path):
            taken.append(ref)
            continue
        if was.manifest_hash != ref.manifest_hash:
            changed = changed_files(out, position, ref) if may_change else None
            if changed is None:
                taken.append(ref)
                continue
            files |= changed
        taken.append(replace(ref, fingerprint=was.fingerprint))
    return Mended(tuple(taken), frozenset(files))


def changed_text(out: Path, before: Sequence[InputRef], now: Sequence[InputRef]) -> dict[str, str]:
    """The key of each raw input that is another one than the run's -> its changed files."""
    found = {}
    for position, (was, ref) in enumerate(zip(before, now, strict=False)):
        if (was.name, was.path) == (ref.name, ref.path) and was.fingerprint != ref.fingerprint:
            files = changed_files(out, position, ref) if ref.files else None
            if files:
                found[f"input {ref.name}[{position}]"] = _shown(files)
    return found


def changed_files(out: Path, position: int, ref: InputRef) -> set[Path] | None:
    """Files of a raw input that were added, removed or changed; None where it is not recorded."""
    try:
        rows = json.loads((out / RECORD).read_text(encoding="utf-8"))[str(position)]
    except (OSError, ValueError, KeyError):
        return None
    before = _by_name(rows)
    now = _by_name(ref.files)
    folder = Path(ref.path)
    names = {name for name in {*before, *now} if before.get(name) != now.get(name)}
    return {folder / name if folder.is_dir() else folder for name in names}


def _by_name(rows: Sequence[Sequence[Any]]) -> dict[str, list[Any]]:
    return {str(row[0]): list(row[1:]) for row in rows}
