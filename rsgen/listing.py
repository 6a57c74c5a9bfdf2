"""Which files lie under a folder."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

__all__ = ["list_files", "walk_files"]


def list_files(root: Path, suffixes: Iterable[str]) -> list[Path]:
    """Files with these suffixes (lower case, with their dot) under a folder, sorted."""
    wanted = frozenset(suffixes)
    return sorted(path for path in walk_files(root) if path.suffix.lower() in wanted)


def walk_files(root: Path) -> Iterator[Path]:
    """Every file under a folder, folder by folder in a fixed order.

    Hidden folders and files are skipped, and so are pipes, sockets and devices, which have no
    end. Linked folders are followed, each once; a link to nothing counts as a file.
    """
    yield from _walk(root, set())


def _walk(folder: Path, visited: set[str]) -> Iterator[Path]:
    real = os.path.realpath(folder)
    if real in visited:
        return
    visited.add(real)
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError:
        return
    folders = []
    for entry in entries:
        if entry.name.startswith("."):
            continue
        # What the folder says of an entry is enough, unless it is a link: no file is looked at.
        if entry.is_dir():
            folders.append(Path(entry.path))
        elif entry.is_file() or (entry.is_symlink() and not Path(entry.path).exists()):
            yield Path(entry.path)
    for inner in folders:
        yield from _walk(inner, visited)
