"""Words for messages: near names for what was probably meant, and counts."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

__all__ = ["check_path", "counted", "near_name"]

SHOWN = 5


def near_name(word: str, known: Iterable[str], cutoff: float = 0.5) -> str | None:
    """The known name that a mistyped one is nearest to, or None where none is alike."""
    found = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), list(found), n=1, cutoff=cutoff)
    return found[close[0]] if close else None


def counted(number: int, one: str, many: str | None = None) -> str:
    """`1 class`, `2 classes`."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def check_path(path: Path) -> str:
    """A fix for a path that does not exist: a near sibling, else what its folder holds."""
    there = path.absolute()
    missing = there.name
    while not there.parent.is_dir() and there.parent != there:
        there = there.parent
        missing = there.name
    folder = there.parent
    try:
        names = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
    except OSError:
        return "check the path"
    rest = path.absolute().relative_to(there)
    near = near_name(missing, names, 0.6)
    if near is not None:
        # Shown as it was typed: relative stays relative.
        typed = Path(*path.parts[: len(path.parts) - len(rest.parts)]) if rest.parts else path
        return f"did you mean {typed.parent / near / rest}?"
    if not names:
        return f"check the path; {folder} is empty"
    more = ", ..." if len(names) > SHOWN else ""
    return f"check the path; {folder} holds {', '.join(names[:SHOWN])}{more}"
