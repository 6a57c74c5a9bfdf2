"""Which files lie under a folder."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

__all__ = ["list_files"]


def list_files(root: Path, suffixes: Iterable[str]) -> list[Path]:
    """Files with these suffixes under a folder, sorted; hidden folders and files are skipped."""
    wanted = frozenset(suffixes)
    found: list[Path] = []
    visited: set[str] = set()  # linked folders are followed, once
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        paths = [Path(folder, name) for name in names if not name.startswith(".")]
        found.extend(path for path in paths if path.suffix.lower() in wanted)
    return sorted(found)
