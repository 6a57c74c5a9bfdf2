"""Image files and one-file-an-image labels (DOTA, YOLO, XML), joined by key."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rsgen.errors import DataError
from rsgen.formats.common import Found, Problem, ReadRequest, Source, Tally, split_of_path
from rsgen.formats.files import (
    ImageFolder,
    is_under,
    join_key,
    list_files,
    names_labels,
    read_lines,
    relative,
    size_of,
)
from rsgen.images import IMAGE_SUFFIXES

__all__ = [
    "Pair",
    "Pairs",
    "empty_labels",
    "find_pairs",
    "image_root",
    "label_base",
    "label_files",
    "text_votes",
]

LOOKED_AT = 50  # label files that say what format a folder is of
LINES_LOOKED_AT = 20

NOT_LABELS = re.compile(
    r"^(classes|obj|names|readme.*|license.*|notes|changelog|train|val|valid|test|trainval"
    r"|labels|imagenamefile|requirements)$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Pair:
    """An image and its label file; at least one of them is there."""

    key: str
    image: Path | None
    labels: Path | None


@dataclass(frozen=True)
class Pairs:
    """All pairs of a dataset. Sample ids and images are relative to `root`."""

    root: Path
    base: Path
    request: ReadRequest
    found: list[Pair]

    def item(self, pair: Pair, line: int | None = None) -> str:
        """What messages call a pair: its label file (and line), else its image."""
        if pair.labels is None:
            return pair.key if pair.image is None else relative(pair.image, self.root)
        name = relative(pair.labels, self.base)
        return name if line is None else f"{name}:{line}"

    def sample_id(self, pair: Pair) -> str:
        return pair.key if pair.image is None else relative(pair.image, self.root)

    def split(self, pair: Pair) -> str | None:
        for path, root in ((pair.image, self.root), (pair.labels, self.base)):
            if path is not None:
                split = split_of_path(Path(relative(path, root)).parent.as_posix())
                if split is not None:
                    return split
        return None

    def size(self, pair: Pair) -> tuple[int, int]:
        """(width, height) of the image, or the request's size where there is none.

        Raises:
            Problem: MissingImage, or what is wrong with the file.
        """
        if pair.image is not None:
            name = relative(pair.image, self.root)
            return size_of(pair.image, name, self.request.max_pixels)
        if self.request.require_images:
            raise Problem(
                "MissingImage",
                f"no image for the key {pair.key!r}",
                "give the images folder with --images, or remove the label file",
            )
        if self.request.size is None:
            raise Problem(
                "MissingImage",
                "the labels do not say how large the image is, and there is no image",
                "give --images, or the size of all images",
            )
        return self.request.size


def label_base(request: ReadRequest) -> Path:
    """The folder that label files are looked for in.

    Raises:
        DataError: it does not exist.
    """
    base = request.labels or request.path
    if not base.exists():
        raise DataError(f"{base}: no such file or folder", hint="check the path")
    return base if base.is_dir() else base.parent


def image_root(request: ReadRequest) -> Path:
    """The folder that images are looked for in, and that sample ids are relative to."""
    if request.images is not None:
        if not request.images.is_dir():
            raise DataError(f"{request.images}: no such folder", hint="check --images")
        return request.images
    folder = request.path if request.path.is_dir() else request.path.parent
    alone = names_labels(folder.name) and not list_files(folder, IMAGE_SUFFIXES)
    return folder.parent if alone else folder


def find_pairs(
    request: ReadRequest,
    tally: Tally,
    labels: Sequence[Path] | None = None,
    named: Mapping[Path, str] | None = None,
) -> Pairs:
    """Join images and label files; a key that stands twice becomes a failure.

    `labels` are the label files where they are no text files. `named` is the stem of the image
    that a label file itself names; it counts where no image is called like the label file.
    """
    root, base = tally.root, label_base(request)
    images = ImageFolder(root, explicit=request.images is not None)
    if images.left_alone:
        tally.notes.append(f"{images.left_alone} images outside the images folders left alone")
    for path, kept in images.repeated:
        problem = Problem(
            "DuplicateId",
            f"{relative(kept, root)!r} has the same name but for its suffix or folder",
            "keep one of the two",
        )
        tally.image_failed(relative(path, root), problem)
    labels = label_files(request, images) if labels is None else labels
    stems: dict[str, int] = {}
    for path in labels:
        stems[path.stem] = stems.get(path.stem, 0) + 1
    taken: dict[str, Path] = {}
    found: list[Pair] = []
    for path in labels:
        key = join_key(path, base)
        match = images.find(key, stem_is_unique=stems[path.stem] == 1)
        if match is None and named is not None and path in named:
            match = images.find(named[path], stem_is_unique=True)
        key = match or key
        if key in taken:
            problem = Problem(
                "DuplicateId",
                f"{relative(taken[key], base)!r} labels the same image",
                "keep one of the two",
            )
            tally.label_failed(relative(path, base), problem, of_image=False)
            continue
        taken[key] = path
        found.append(Pair(key, images.by_key[match] if match else None, path))
    found += [Pair(key, path, None) for key, path in images.by_key.items() if key not in taken]
    return Pairs(root, base, request, sorted(found, key=lambda p: p.key))


def label_files(request: ReadRequest, images: ImageFolder | None = None) -> list[Path]:
    """Text files in folders that are named for labels, else all that can be labels.

    Names such as classes.txt or train.txt are labels only where an image is called so.
    """
    source, base = request.labels or request.path, label_base(request)
    if source.is_file() and source.suffix.lower() == ".txt":
        return [source]
    files = list_files(base, {".txt"})
    named = [f for f in files if is_under(f, base, names_labels)]
    chosen = named if named and request.labels is None else files
    return [
        f
        for f in chosen
        if not NOT_LABELS.match(f.stem)
        or (images is not None and images.find(join_key(f, base), stem_is_unique=True) is not None)
    ]


def _looked_at(source: Source) -> list[Path]:
    if source.root.is_file() and source.root.suffix.lower() != ".txt":
        return []
    return label_files(ReadRequest(source.path, labels=source.labels))[:LOOKED_AT]


def text_votes(source: Source, kind: str, is_line: Callable[[str], bool]) -> Found | None:
    """What speaks for a text format: label files of which most lines are of it.

    `is_line` judges a line without white space at its ends; `kind` says what such a line has.
    """
    files = [file for file in _looked_at(source) if _most_lines(file, is_line)]
    if not files:
        return None
    return Found(f"{relative(files[0], source.base)} has {kind}", "text", len(files))


def _most_lines(file: Path, is_line: Callable[[str], bool]) -> bool:
    try:
        lines = [line.strip() for line in read_lines(file)]
    except Problem:
        return False
    lines = [line for line in lines if line][:LINES_LOOKED_AT]
    return 2 * sum(map(is_line, lines)) > len(lines)


def empty_labels(source: Source) -> str | None:
    """The name of the folder of label files when there are some and all are empty."""
    files = _looked_at(source)
    if not files or any(file.read_bytes().strip() for file in files):
        return None
    return files[0].parent.name
