"""The scripts that a worker's command names: a changed one is another worker."""

from __future__ import annotations

import shlex
from hashlib import sha256
from pathlib import Path

__all__ = ["script_hashes"]

SUFFIXES = frozenset({".py", ".sh"})


def script_hashes(command: str) -> tuple[str, ...]:
    """Sha256 of each script of a command line that there is, in order; relative to this folder.

    Other files, such as weights, count by the line alone.
    """
    try:
        words = shlex.split(command)
    except ValueError:  # Worker tells what is wrong with it
        return ()
    scripts = [Path(word) for word in words if Path(word).suffix in SUFFIXES]
    return tuple(sha256(path.read_bytes()).hexdigest() for path in scripts if path.is_file())
