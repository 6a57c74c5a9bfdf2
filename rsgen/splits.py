"""Which samples may be learned from: the one place where splits are made and guarded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from pathlib import PurePosixPath

from rsgen.errors import DataError, UsageError
from rsgen.images import IMAGE_SUFFIXES
from rsgen.records import Sample

__all__ = ["SPLITS", "assign_splits", "scene_key", "split_counts", "train_only"]

SPLITS = ("train", "val", "test")
IMAGE_FOLDERS = frozenset({"images", "image", "img", "imgs", "jpegimages"})
LABEL_FOLDERS = frozenset({"labels", "label", "annfiles", "annotations"})


def names_images(folder: str) -> bool:
    """Whether a folder's name says that images lie in it."""
    return folder.lower() in IMAGE_FOLDERS


def names_labels(folder: str) -> bool:
    """Whether a folder's name says that labels lie in it (labelTxt-v1.0 too)."""
    return folder.lower() in LABEL_FOLDERS or folder.lower().startswith("labeltxt")


def scene_key(name: str) -> str:
    """What a scene is called with or without its image: its id without the image's suffix and
    without the folders that only say 'images' or 'labels' (`images/a.png`, `a` -> `a`)."""
    path = PurePosixPath(name)
    last = path.stem if path.suffix.lower() in IMAGE_SUFFIXES else path.name
    folders = [f for f in path.parts[:-1] if not names_images(f) and not names_labels(f)]
    return "/".join([*folders, last])


def _rank(seed: int, parent: str) -> bytes:
    # By key, so that labels read without their images are drawn as with them.
    return blake2b(f"{seed}/split/{scene_key(parent)}".encode(), digest_size=8).digest()


def assign_splits(
    samples: Iterable[Sample],
    seed: int,
    ratios: tuple[float, float, float] = (0.8, 0.1, 0.1),
    known: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The split of every sample id: given ones are kept, the rest is drawn by parent scene.

    All tiles of a scene share a split. Parents without a given split are ordered by a hash of
    (seed, parent), so the result does not depend on the order of the input, and cut where the
    counts of samples come nearest to `ratios`; with three or more such parents every split
    with a positive ratio gets at least one. `known` (parent -> split) holds parents that an
    earlier run has assigned; they keep their split when a dataset has grown.
    Raises DataError where one scene was given to two splits, UsageError for bad ratios.
    """
    if min(ratios) < 0 or sum(ratios) <= 0:
        raise UsageError(
            f"split ratios {ratios} must be positive or zero, and not all zero",
            hint="use for example 0.8/0.1/0.1",
        )
    fixed: dict[str, str] = dict(known or {})
    members: dict[str, list[str]] = {}
    for sample in samples:
        members.setdefault(sample.parent, []).append(sample.id)
        if sample.split is not None:
            before = fixed.setdefault(sample.parent, sample.split)
            if before != sample.split:
                raise DataError(
                    f"scene {sample.parent!r} lies in split {before!r} and, through "
                    f"{sample.id!r}, in {sample.split!r}",
                    hint="put all tiles of a scene into one split",
                )
    free = sorted((p for p in members if p not in fixed), key=lambda p: (_rank(seed, p), p))
    fixed |= _cut(free, [len(members[p]) for p in free], ratios)
    return {name: fixed[parent] for parent, names in members.items() for name in names}


def _cut(
    parents: list[str], sizes: list[int], ratios: tuple[float, float, float]
) -> dict[str, str]:
    """Consecutive runs of parents, val and test first, each near its share of the samples."""
    share = {name: ratio / sum(ratios) for name, ratio in zip(SPLITS, ratios, strict=True)}
    total, start = sum(sizes), 0
    chosen: dict[str, str] = {}
    for name in ("test", "val"):
        target, taken, stop = share[name] * total, 0, start
        at_least_one = share[name] > 0 and len(parents) >= 3
        while stop < len(parents) and (
            abs(taken + sizes[stop] - target) < abs(taken - target)
            or (at_least_one and stop == start)
        ):
            taken += sizes[stop]
            stop += 1
        chosen |= dict.fromkeys(parents[start:stop], name)
        start = stop
    rest = "train" if share["train"] > 0 else ("val" if share["val"] > 0 else "test")
    return chosen | dict.fromkeys(parents[start:], rest)


def split_counts(splits: Mapping[str, str]) -> dict[str, int]:
    """Samples a split, in the order train, val, test, then other names."""
    names = [*SPLITS, *sorted(set(splits.values()) - set(SPLITS))]
    found = list(splits.values())
    return {name: found.count(name) for name in names if name in found}


def train_only(samples: Iterable[Sample]) -> Iterator[Sample]:
    """The samples that a learner may see; val, test and unassigned ones are left out."""
    return (sample for sample in samples if sample.split == "train")
