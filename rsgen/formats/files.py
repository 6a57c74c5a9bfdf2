"""Finding images and label files: safe paths, sizes from headers, pairs joined by key."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from rsgen.errors import DataError
from rsgen.formats.common import Problem
from rsgen.images import IMAGE_SUFFIXES, MAX_PIXELS, image_size
from rsgen.listing import list_files
from rsgen.splits import names_images, names_labels

__all__ = [
    "ImageFolder",
    "is_under",
    "join_key",
    "list_files",
    "names_images",
    "names_labels",
    "read_lines",
    "relative",
    "safe_relative",
    "size_of",
]

LONGEST_NAME, LONGEST_PATH = 255, 1000


def is_under(path: Path, root: Path, named: Callable[[str], bool]) -> bool:
    """Whether a folder between the root and the file has such a name."""
    return any(named(part) for part in PurePosixPath(relative(path, root)).parts[:-1])


def relative(path: Path, root: Path) -> str:
    """A posix path under the root for ids and messages; the bare name when it lies elsewhere."""
    try:
        return path.relative_to(root).as_posix()
    except ValueError:
        return path.name


def safe_relative(text: str) -> str:
    """A path from a label file as a clean relative posix path.

    Raises:
        Problem: PathEscape when it is absolute or climbs out of the dataset folder,
            MissingImage when no file can be called so.
    """
    cleaned = text.strip().replace("\\", "/")
    parts: list[str] = []
    escapes = not cleaned or cleaned.startswith("/") or cleaned[1:2] == ":" or "\0" in cleaned
    for part in PurePosixPath(cleaned).parts:
        if part == "..":
            escapes = escapes or not parts
            parts = parts[:-1]
        elif part != ".":
            parts.append(part)
    # Beyond this the system itself refuses to look.
    if max(map(len, parts), default=0) > LONGEST_NAME or len(cleaned) > LONGEST_PATH:
        raise Problem(
            "MissingImage", f"a path of {len(cleaned)} characters", "write the image's file name"
        )
    if escapes or not parts:
        raise Problem(
            "PathEscape",
            f"the path {text!r} leaves the dataset folder",
            "write it relative to the images folder",
        )
    return "/".join(parts)


def join_key(path: Path, root: Path) -> str:
    """What an image and its label file share: the path without suffix and without the folder
    names that only say 'images' or 'labels' (`train/images/a.png`, `labels/train/a.txt`)."""
    parts = PurePosixPath(relative(path, root)).with_suffix("").parts
    kept = [p for p in parts[:-1] if not names_images(p) and not names_labels(p)]
    return "/".join([*kept, parts[-1]])


class ImageFolder:
    """The images under a folder, found by join key or, where stems are distinct, by stem.

    Where some lie in folders called `images`, only those count (the others may be previews),
    unless the folder was given as the one of the images (`explicit`).
    """

    def __init__(self, root: Path, *, explicit: bool = False) -> None:
        self.root = root
        self.by_key: dict[str, Path] = {}
        self.repeated: list[tuple[Path, Path]] = []  # (left out, kept): same key
        stems: dict[str, list[str]] = {}
        paths = list_files(root, IMAGE_SUFFIXES)
        named = [] if explicit else [p for p in paths if is_under(p, root, names_images)]
        self.left_alone = len(paths) - len(named) if named else 0
        for path in named or paths:
            key = join_key(path, root)
            if key in self.by_key:
                self.repeated.append((path, self.by_key[key]))
                continue
            self.by_key[key] = path
            stems.setdefault(key.rsplit("/", 1)[-1], []).append(key)
        self._key_of_stem = {stem: keys[0] for stem, keys in stems.items() if len(keys) == 1}

    def find(self, key: str, *, stem_is_unique: bool) -> str | None:
        """The key of the image that belongs to a label file's key, or None."""
        if key in self.by_key:
            return key
        return self._key_of_stem.get(key.rsplit("/", 1)[-1]) if stem_is_unique else None


def size_of(path: Path, name: str, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(width, height) from the header; the file's end is looked at, its pixels are not decoded.

    Raises:
        Problem: MissingImage, TooManyPixels, BadImage or TruncatedImage; `name` is for messages.
    """
    if not path.is_file():
        raise Problem("MissingImage", f"no image {name!r}", "check the images folder (--images)")
    try:
        size = image_size(path, max_pixels)
    except DataError as error:
        text = error.message.replace(str(path), name)
        large = "than the limit" in text or "exceeds limit" in text
        kind = "TooManyPixels" if large else "BadImage"
        raise Problem(kind, text, error.hint or "replace it") from error
    if not _complete(path):
        raise Problem("TruncatedImage", "the image file ends too early", "copy or download it anew")
    return size


def _complete(path: Path) -> bool:
    """Whether a PNG, JPEG or WebP has its end; other kinds are left to the decoder."""
    with path.open("rb") as handle:
        head = handle.read(12)
        length = handle.seek(0, os.SEEK_END)
        handle.seek(max(0, length - 4096))
        tail = handle.read()
    if head.startswith(b"\x89PNG"):
        return b"IEND" in tail
    if head.startswith(b"\xff\xd8"):
        return tail.rstrip(b"\0\n\r ").endswith(b"\xff\xd9") or b"\xff\xd9" in tail[-1024:]
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return length >= int.from_bytes(head[4:8], "little") + 8
    return True


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 text file (a byte-order mark is dropped).

    Raises:
        Problem: NotUtf8 with the line, or Unreadable.
    """
    try:
        data = path.read_bytes()
        text = data.decode("utf-8-sig").removesuffix("\n")
        return [line.rstrip("\r") for line in text.split("\n")]
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise Problem(
            "NotUtf8", f"byte {error.start} in line {line} is not UTF-8", "save it as UTF-8"
        ) from error
    except OSError as error:
        raise Problem("Unreadable", f"{error.strerror}", "check the file's rights") from error
