"""Which files lie under a folder: links, loops, and what is no file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rsgen.listing import list_files, walk_files
from rsgen.store import input_ref


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A set whose labels lie elsewhere behind a link, with a loop, a pipe and a device in it."""
    root, other = tmp_path / "set", tmp_path / "elsewhere"
    for path in (root / "images" / "b.png", root / "images" / "a.PNG", other / "a.txt"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name)
    (root / ".cache").mkdir()
    (root / ".cache" / "c.png").write_text("hidden")
    (root / "labels").symlink_to(other)
    (other / "up").symlink_to(root)
    (root / "gone.png").symlink_to(tmp_path / "nothing")
    (root / "endless.txt").symlink_to("/dev/zero")
    os.mkfifo(root / "pipe.txt")
    return root


def test_links_are_followed_once_and_endless_files_are_none(folder: Path) -> None:
    """Catches a reader that waits for ever on a pipe, and one that runs in a circle."""
    found = [path.relative_to(folder).as_posix() for path in walk_files(folder)]
    assert found == ["gone.png", "images/a.PNG", "images/b.png", "labels/a.txt"]
    assert list_files(folder, {".png"}) == sorted(
        [folder / "gone.png", folder / "images" / "a.PNG", folder / "images" / "b.png"]
    )
    assert list(walk_files(folder / "no such folder")) == []


def test_labels_behind_a_link_are_part_of_the_request(folder: Path, tmp_path: Path) -> None:
    """Catches `already done` after a label in a linked folder was mended."""
    before = input_ref("dataset", folder).fingerprint
    assert input_ref("dataset", folder).fingerprint == before
    (tmp_path / "elsewhere" / "a.txt").write_text("b.txt")
    assert input_ref("dataset", folder).fingerprint != before
