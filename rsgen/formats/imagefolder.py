"""Classification sets: CLASS/x.png or SPLIT/CLASS/x.png. The class is the layout's scene.

Such a sample has no objects: prompts with {scene} name its class. Written are images by scene,
else by the only class of their objects.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from rsgen.errors import DataError
from rsgen.formats.common import (
    Dataset,
    Format,
    Found,
    Holds,
    Problem,
    ReadRequest,
    Source,
    Tally,
    WriteReport,
    split_of_path,
)
from rsgen.formats.files import list_files, names_images, relative, size_of
from rsgen.formats.pairs import image_root
from rsgen.images import IMAGE_SUFFIXES
from rsgen.records import ClassTable, Instance, Layout, Sample, normal_name

__all__ = ["FORMAT", "ImageFolderWriter", "class_folder", "read_imagefolder", "scene_of"]

OTHER_LABELS = (".xml", ".json", ".jsonl", ".txt", ".geojson", ".gpkg", ".csv", ".yaml")


def read_imagefolder(request: ReadRequest) -> Dataset:
    """Read a folder of class folders; samples without objects whose `scene` is the class."""
    root = image_root(request)
    if root.is_file():
        raise DataError(f"{root}: a file, not a folder of class folders", hint="check the path")
    tally = Tally(root)
    renamed = {normal_name(old): new for old, new in request.class_map.items()}
    for path in list_files(root, IMAGE_SUFFIXES):
        name = relative(path, root)
        try:
            split, label = _place(name)
            size = size_of(path, name, request.max_pixels)
        except Problem as problem:
            tally.image_failed(name, problem)
            continue
        scene = renamed.get(normal_name(label), label)
        request.class_map.saw(label)
        request.class_map.became[label] = scene
        layout = Layout(*size, gsd_m=request.gsd_m, scene=scene)
        tally.keep(Sample(name, layout, name, split=split))
    scenes = sorted({s.layout.scene or "" for s in tally.records})
    if scenes:
        shown = ", ".join(scenes[:12]) + (", ..." if len(scenes) > 12 else "")
        tally.notes.append(f"{len(scenes)} scene classes, no objects: {shown}")
    return tally.dataset("imagefolder", request.classes or ClassTable(()))


def _place(name: str) -> tuple[str | None, str]:
    """(split, class) of an image's path: the first folder that is no split and not `images`.

    Raises:
        Problem: NoClass.
    """
    split = None
    for part in PurePosixPath(name).parts[:-1]:
        found = split_of_path(part)
        if split is None and found is not None:
            split = found
        elif not names_images(part):
            return split, part
    raise Problem(
        "NoClass", "the image lies in no class folder", "put it into CLASS/ or SPLIT/CLASS/"
    )


def scene_of(sample: Sample) -> str | None:
    """The layout's scene, else the only class of its things, else of its stuff."""
    if sample.layout.scene:
        return sample.layout.scene
    instances = sample.layout.instances
    things = {i.label for i in instances if i.box is not None or i.quad is not None}
    labels = things or {i.label for i in instances}
    return next(iter(labels)) if len(labels) == 1 else None


def class_folder(scene: str) -> str:
    """A folder's name for a scene, as it is where that is safe; never that of a split."""
    name = re.sub(r"[^\w .()+-]+", "_", scene.strip()).strip(" .")[:100] or "scene"
    taken = split_of_path(name) is not None or names_images(name)
    return f"{name}_" if taken else name


class ImageFolderWriter:
    """`SPLIT/CLASS/NAME.png`."""

    name = "imagefolder"
    places_images = True

    def __init__(self) -> None:
        self._images = self._objects = 0

    def open(self, out_dir: Path, classes: ClassTable, splits: Sequence[str]) -> None:
        self._out, self._splits = out_dir, tuple(splits)
        for split in splits:
            (out_dir / split).mkdir(parents=True, exist_ok=True)

    def image_path(self, image_name: str, split: str, sample: Sample) -> str:
        scene = scene_of(sample)
        if scene is None:
            raise DataError(f"{sample.id}: {_leaves_out(sample)}", hint="leave it out")
        return f"{split}/{class_folder(scene)}/{image_name}"

    def add(self, sample: Sample, image_name: str, split: str, image: Path | None = None) -> None:
        self._images += 1
        self._objects += len(sample.layout.instances)

    def close(self) -> WriteReport:
        notes: tuple[str, ...] = ()
        if self._objects:
            notes = (f"{self._objects} objects are not kept, only the class folder of their image",)
        return WriteReport(self._splits, self._images, 0, {}, notes)

    def abort(self) -> None:
        """Nothing is open between samples."""


def _leaves_out(sample: Sample) -> str | None:
    return None if scene_of(sample) is not None else "without a scene or a single class"


def _detect(source: Source) -> Found | None:
    """Two class folders at least, and nothing that could be labels."""
    if source.root.is_file() or source.files(*OTHER_LABELS):
        return None
    labels: dict[str, int] = {}
    for path in source.files(*sorted(IMAGE_SUFFIXES)):
        try:
            _, label = _place(relative(path, source.base))
        except Problem:
            continue
        labels[label] = labels.get(label, 0) + 1
    if len(labels) < 2:
        return None
    first = ", ".join(sorted(labels)[:3])
    return Found(f"{len(labels)} folders of images and no labels ({first})", "masks", -1)


def _held(instance: Instance, layout: Layout, classes: ClassTable) -> Instance:
    # The class alone counts, and whether it is of a thing.
    is_thing = instance.box is not None or instance.quad is not None
    return Instance(instance.label, instance.bounds() if is_thing else None)


def _compare(wanted: Sample, read: Sample, classes: ClassTable) -> str | None:
    ours, theirs = wanted.layout, read.layout
    if (ours.width, ours.height) != (theirs.width, theirs.height):
        return f"size {theirs.width} x {theirs.height}, expected {ours.width} x {ours.height}"
    scene = scene_of(wanted)
    expected = None if scene is None else class_folder(scene)
    if expected != theirs.scene:
        return f"class {theirs.scene!r}, expected {expected!r}"
    return None


FORMAT = Format(
    "imagefolder",
    "`SPLIT/CLASS/*.png`, for classification: the class is the scene, else the only class of "
    "the image's objects",
    read_imagefolder,
    lambda _: ImageFolderWriter(),
    _detect,
    Holds(_held, frozenset({"scene"})),
    _compare,
    leaves_out=_leaves_out,
    objects=False,
)
