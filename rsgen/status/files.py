"""Looking at a run's files and lock without touching them."""

from __future__ import annotations

import fcntl
import json
import os
import stat
from pathlib import Path
from typing import Any

__all__ = ["disk_use", "is_held", "read_json"]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def disk_use(folder: Path) -> tuple[int, float | None]:
    """(bytes of all files, when the newest was changed); files may vanish while we look."""
    size, newest = 0, None
    todo = [str(folder)]
    while todo:
        try:
            entries = list(os.scandir(todo.pop()))
        except OSError:
            continue
        for entry in entries:
            try:
                found = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if stat.S_ISDIR(found.st_mode):
                todo.append(entry.path)
                continue
            size += found.st_size
            newest = found.st_mtime if newest is None else max(newest, found.st_mtime)
    return size, newest


def is_held(out: Path) -> bool:
    """Whether a process of this machine holds the run's lock, asked without touching the lock.

    Linux lists held locks by inode; elsewhere the lock is asked for and let go at once. A file
    system of several devices (overlay, btrfs) shows another device number there than `stat`
    does, one with the major number 0.
    """
    held = _held_inodes()
    locks = [out / "run.lock", *out.glob("slice-*.lock")]
    if held is None:
        return any(_refuses(path) for path in locks)
    for path in locks:
        try:
            found = path.stat()
        except OSError:
            continue
        device = (os.major(found.st_dev), os.minor(found.st_dev))
        for major, minor, inode in held:
            alike = (major, minor) == device or 0 in (major, device[0])
            if inode == found.st_ino and alike:
                return True
    return False


def _refuses(path: Path) -> bool:
    try:
        with path.open("r") as handle:
            fcntl.flock(handle.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _held_inodes() -> list[tuple[int, int, int]] | None:
    """(major, minor, inode) of every lock that is held, not of those waited for.

    None where the system has no such list.
    """
    try:
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = []
    for line in lines:
        fields = line.split()
        if "->" in fields:
            continue
        for text in fields:
            major, _, rest = text.partition(":")
            minor, sign, inode = rest.partition(":")
            if sign:
                found.append((int(major, 16), int(minor, 16), int(inode)))
    return found
