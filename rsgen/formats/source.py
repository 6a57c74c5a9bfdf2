"""What `--format auto` looks at, and what folder names say."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath

from rsgen.listing import list_files

__all__ = ["SPLITS", "Found", "Source", "split_of_path"]

SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class Source:
    """What `--format auto` looks at: a dataset folder or label file, listed once for all."""

    path: Path
    labels: Path | None = None
    _listed: dict[frozenset[str], list[Path]] = field(default_factory=dict, compare=False)

    @property
    def root(self) -> Path:
        """Where labels are: the labels folder or file if given, else the dataset."""
        return self.labels or self.path

    @cached_property
    def base(self) -> Path:
        """The folder that names of files are given relative to."""
        return self.root if self.root.is_dir() else self.root.parent

    def files(self, *suffixes: str) -> list[Path]:
        """Files under `root` with one of the suffixes (lower case, with their dot), sorted.

        A `root` that is a file is listed when its suffix is among them.
        """
        if self.root.is_file():
            return [self.root] if self.root.suffix.lower() in suffixes else []
        key = frozenset(suffixes)
        if key not in self._listed:
            self._listed[key] = list_files(self.root, key)
        return self._listed[key]


@dataclass(frozen=True)
class Found:
    """Why a source is of a format: what in the files says so.

    Formats of one `family` (text, xml, json ...) may claim the same files: the one with most
    `votes` is meant, and one without votes (0, the weakest less) only where nobody has more.
    Claims with votes of several families are for the user to choose from.
    """

    what: str
    family: str
    votes: int = 1


def split_of_path(path: str) -> str | None:
    """train, val or test from a path's folders or file name (`instances_train2017.json`)."""
    parts = PurePosixPath(path).parts
    for part in reversed(parts):
        words = re.split(r"[^a-z]+", PurePosixPath(part).stem.lower())
        whole = SPLITS.get(re.sub(r"\d{4}$", "", part.lower()))
        if whole is not None:
            return whole
        if part is parts[-1] and part.lower().endswith((".json", ".jsonl")):
            found = [SPLITS[w] for w in words if w in SPLITS]
            if found:
                return found[-1]
    return None
