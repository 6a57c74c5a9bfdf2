"""Images and their semantic masks, joined by key: images/ and masks/, *_sat and *_mask."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from rsgen.formats.common import Problem, ReadRequest, Tally
from rsgen.formats.files import list_files, relative
from rsgen.formats.pairs import Pair, Pairs, image_root, label_base
from rsgen.images import IMAGE_SUFFIXES
from rsgen.legend import MASK_WORDS, name_words

__all__ = ["find_mask_pairs", "split_files", "unambiguous"]

IMAGE_WORDS = frozenset(
    {"image", "images", "img", "imgs", "jpegimages", "rgb", "sat", "satellite", "pictures"}
)


def _folder_kind(path: Path, root: Path) -> str | None:
    """image or mask, by the nearest folder whose name says so."""
    for part in reversed(PurePosixPath(relative(path, root)).parts[:-1]):
        words = name_words(part)
        if any(w in MASK_WORDS for w in words):
            return "mask"
        if any(w in IMAGE_WORDS for w in words):
            return "image"
    return None


@dataclass
class _Files:
    """Image files told apart; `by_stem` where stems and not folders say which is a mask."""

    images: list[Path] = field(default_factory=list)
    masks: list[Path] = field(default_factory=list)
    by_stem: bool = False


def split_files(files: list[Path], root: Path) -> _Files:
    """Which files of a folder are images, which are masks, by their folders or their stems."""
    kinds = {file: _folder_kind(file, root) for file in files}
    masks = [f for f in files if kinds[f] == "mask"]
    if masks:
        named = [f for f in files if kinds[f] == "image"]
        return _Files(named or [f for f in files if kinds[f] is None], masks)
    masks = [f for f in files if (words := name_words(f.stem))[-1:] and words[-1] in MASK_WORDS]
    taken = set(masks)
    return _Files([f for f in files if f not in taken], masks, by_stem=True)


def _key(path: Path, root: Path) -> str:
    """The path without suffix and without folders that only say image or mask."""
    parts = PurePosixPath(relative(path, root)).with_suffix("").parts
    kept = [p for p in parts[:-1] if not any(w in IMAGE_WORDS | MASK_WORDS for w in name_words(p))]
    return "/".join([*kept, parts[-1]])


def _bare(key: str) -> str:
    """The key without the words in its stem that say image or mask."""
    folder, _, stem = key.rpartition("/")
    words = [w for w in re.split(r"[_\-. ]+", stem) if w.lower() not in IMAGE_WORDS | MASK_WORDS]
    return "/".join([*([folder] if folder else []), "_".join(words) or stem])


class _Images:
    """Images found by key, by key without such words, or by a stem that only one has."""

    def __init__(self) -> None:
        self.by_key: dict[str, Path] = {}
        self._bare: dict[str, list[str]] = {}
        self._stems: dict[str, list[str]] = {}

    def add(self, key: str, path: Path) -> None:
        self.by_key[key] = path
        self._bare.setdefault(_bare(key), []).append(key)
        self._stems.setdefault(_bare(key).rsplit("/", 1)[-1], []).append(key)

    def find(self, key: str, *, stem_is_unique: bool) -> str | None:
        if key in self.by_key:
            return key
        bare = self._bare.get(_bare(key), [])
        if len(bare) != 1 and stem_is_unique:
            bare = self._stems.get(_bare(key).rsplit("/", 1)[-1], [])
        return bare[0] if len(bare) == 1 else None


def find_mask_pairs(request: ReadRequest, tally: Tally) -> Pairs:
    """Every mask with its image, and images that lack one; both kinds of doubles are failures.

    Images in folders where nothing has a mask (a test set without labels) are only remarked.
    """
    root, base = image_root(request), label_base(request)
    files = _sources(request, root, base)
    images, found = _Images(), list[Pair]()
    for path in files.images:
        key = _key(path, root)
        if key in images.by_key:
            kept = relative(images.by_key[key], root)
            tally.image_failed(relative(path, root), _double(f"{kept!r} has the same name", path))
            continue
        images.add(key, path)
    stems: dict[str, int] = {}
    for path in files.masks:
        stem = _bare(path.stem)
        stems[stem] = stems.get(stem, 0) + 1
    taken: dict[str, Path] = {}
    for path in files.masks:
        key = _key(path, base)
        match = images.find(key, stem_is_unique=stems[_bare(path.stem)] == 1)
        key = match or key
        if key in taken:
            problem = _double(f"{relative(taken[key], base)!r} is of the same image", path)
            tally.label_failed(relative(path, base), problem, of_image=False)
            continue
        taken[key] = path
        found.append(Pair(key, images.by_key[match] if match else None, path))
    folders = {key.rpartition("/")[0] for key in taken}
    for key, path in images.by_key.items():
        if key in taken:
            continue
        if key.rpartition("/")[0] in folders:
            found.append(Pair(key, path, None))
        else:
            tally.remark("images left alone, in folders without any mask")
    return Pairs(root, base, request, sorted(found, key=lambda p: p.key))


def _double(message: str, path: Path) -> Problem:
    return Problem("DuplicateId", message, f"keep one of the two ({path.name})")


def _sources(request: ReadRequest, root: Path, base: Path) -> _Files:
    if request.labels is not None and request.labels.is_file():
        masks = [request.labels]
    elif request.labels is not None:
        masks = list_files(base, IMAGE_SUFFIXES)
    elif request.images is not None and request.images != request.path:
        inside = set(list_files(request.images, IMAGE_SUFFIXES))
        rest = [f for f in list_files(base, IMAGE_SUFFIXES) if f not in inside]
        masks = split_files(rest, base).masks or rest
    else:
        return split_files(list_files(root, IMAGE_SUFFIXES), root)
    others = set(masks)
    files = [f for f in list_files(root, IMAGE_SUFFIXES) if f not in others]
    if request.images is None:
        told = split_files(files, root)
        files = told.images if told.images else files
    return _Files(files, masks)


def unambiguous(files: _Files, root: Path) -> list[tuple[Path, Path]]:
    """(image, mask) of every mask whose image is found by its key."""
    images = _Images()
    for path in files.images:
        if _key(path, root) not in images.by_key:
            images.add(_key(path, root), path)
    found = []
    for mask in files.masks:
        key = images.find(_key(mask, root), stem_is_unique=False)
        if key is not None:
            found.append((images.by_key[key], mask))
    return found
