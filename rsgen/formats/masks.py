"""Semantic masks: an image of classes beside each image, and a legend of its pixels.

Connected parts of a thing class are its objects (those that touch are one), a stuff class is
one mask. The legend is `legend.yaml` of the folder, else that of the class table given.
"""

from __future__ import annotations

import numpy as np

from rsgen.classes import class_template_names, load_legend
from rsgen.errors import DataError, UsageError
from rsgen.formats.common import (
    Dataset,
    Format,
    Found,
    Holds,
    Problem,
    ReadRequest,
    Source,
    Tally,
)
from rsgen.formats.files import relative
from rsgen.formats.mask_pairs import find_mask_pairs, split_files, unambiguous
from rsgen.formats.mask_parts import cut_parts
from rsgen.formats.mask_pixels import (
    MaskPixels,
    classify,
    holds_values,
    most_frequent,
    read_mask,
    unpacked,
)
from rsgen.formats.masks_write import LEGEND, MasksWriter, held_shape
from rsgen.formats.names import LabelNames, paint_order
from rsgen.formats.pairs import Pair, Pairs, image_root, label_base
from rsgen.images import IMAGE_SUFFIXES
from rsgen.legend import Legend
from rsgen.raster import rasterize
from rsgen.records import ClassTable, Layout, Sample, normal_name

__all__ = ["FORMAT", "masked_sample", "read_masks", "same_classes"]

LOOKED_AT = 20  # masks that say what values there are, or what kind of images they are
LISTED = 12
TOUCHING = "objects of semantic masks are connected parts: those that touch are one"


def read_masks(request: ReadRequest) -> Dataset:
    """Read images and their semantic masks; masks are decoded, images are not.

    Raises:
        DataError: also where nothing says what the pixels mean, with the values found.
    """
    tally = Tally(image_root(request))
    pairs = find_mask_pairs(request, tally)
    legend = _legend(request, pairs, tally)
    names = LabelNames(request.classes, request.class_map)
    if legend is not None:
        if request.classes is None:
            names.declare_table(legend.table)
        for pair in pairs.found:
            _read_pair(pair, pairs, legend, names, tally)
        if any(i.box is not None for s in tally.records for i in s.layout.instances):
            tally.notes.append(TOUCHING)
    return tally.dataset("masks", names.table(in_order=True))


def _legend(request: ReadRequest, pairs: Pairs, tally: Tally) -> Legend | None:
    """The folder's own, else the one given; None only where there is no mask.

    Raises:
        DataError: neither says anything.
    """
    for folder in dict.fromkeys((label_base(request), request.path)):
        path = folder / LEGEND
        if not path.is_file():
            continue
        try:
            found = load_legend(path)
        except UsageError as error:
            raise DataError(
                f"{LEGEND}: {error.message.removeprefix(f'{path}: ')}",
                hint=f"mend {LEGEND}, or remove it and give --classes",
            ) from error
        if found is not None:
            if request.legend is not None and request.legend != found:
                tally.notes.append(f"masks: pixels are read by {LEGEND} of the folder")
            return found
    if request.legend is not None or not any(p.labels for p in pairs.found):
        return request.legend
    raise _no_legend(pairs)


def _no_legend(pairs: Pairs) -> DataError:
    values, colors = np.zeros(1 << 16, np.int64), dict[int, int]()
    looked_at = 0
    for pair in pairs.found:
        if pair.labels is None or looked_at == LOOKED_AT:
            continue
        try:
            mask = read_mask(pair.labels, pairs.item(pair), pairs.request.max_pixels)
        except Problem:
            continue
        looked_at += 1
        if mask.is_color:
            for code, count in most_frequent(mask.codes):
                colors[code] = colors.get(code, 0) + count
        else:
            values += np.bincount(mask.codes.ravel(), minlength=len(values))
    found: list[tuple[int | list[int], int]] = [
        (int(value), int(values[value])) for value in np.flatnonzero(values)
    ]
    found += [(unpacked(code), n) for code, n in sorted(colors.items(), key=lambda p: -p[1])]
    total = max(1, sum(count for _, count in found))
    said = ", ".join(f"{key} ({count / total:.1%})" for key, count in found[:LISTED])
    more = f" and {len(found) - LISTED} more" if len(found) > LISTED else ""
    keys = [key for key, _ in found if key not in (0, [0, 0, 0])]
    rows = [
        f"  - {{name: NAME_{k}, {'value' if isinstance(key, int) else 'color'}: {key}}}"
        for k, key in enumerate(keys, start=1)
    ]
    example = "\n".join(["classes:", *rows[:LISTED]])
    tables = ", ".join(name for name in class_template_names() if load_legend(name) is not None)
    return DataError(
        f"{pairs.base}: nothing says what the pixels of the masks mean; {looked_at} of them "
        f"have {said}{more}",
        hint="name the values in a YAML file and give it as --classes FILE (generate: -s "
        "generate.classes=FILE; `kind: stuff` where a class has no single objects), or "
        f"--classes {tables}:\n{example}",
    )


def _read_pair(pair: Pair, pairs: Pairs, legend: Legend, names: LabelNames, tally: Tally) -> None:
    item = pairs.item(pair)
    if pair.labels is None:
        problem = Problem("MissingLabels", "no mask for this image", "add one, or remove the image")
        tally.image_failed(item, problem)
        return
    try:
        size = None
        if pair.image is not None or pairs.request.require_images:
            size = pairs.size(pair)
        mask = read_mask(pair.labels, item, pairs.request.max_pixels)
        sample_id = pairs.sample_id(pair)
        sample = Sample(
            sample_id,
            Layout(*(size or mask.size), gsd_m=pairs.request.gsd_m),
            None if pair.image is None else sample_id,
            split=pairs.split(pair),
        )
        masked_sample(sample, mask, item, legend, names, pairs.request, tally)
    except Problem as problem:
        tally.image_failed(item, problem)


def masked_sample(
    sample: Sample,
    mask: MaskPixels,
    item: str,
    legend: Legend,
    names: LabelNames,
    request: ReadRequest,
    tally: Tally,
) -> None:
    """Keep a sample with the instances of its mask; bad classes are failures of `item`.

    Raises:
        Problem: the mask is of another size than the sample, or has unknown pixels.
    """
    width, height = sample.layout.width, sample.layout.height
    if mask.size != (width, height):
        raise Problem(
            "WrongSize",
            f"the mask is {mask.size[0]} x {mask.size[1]}, the image {width} x {height}",
            "use the image that was annotated, or resize the mask (nearest neighbour)",
        )
    places, stray = classify(mask, legend)
    tally.remark("pixels of masks with a colour near no class, taken as unlabelled", stray)
    called = _names_in(legend, request)
    parts = cut_parts(places, called, names, request.min_area_px)
    for labels, problem in parts.problems:
        tally.label_failed(item, problem, labels)
    tally.remark(f"parts of masks under {request.min_area_px} pixels left out", parts.small)
    instances = paint_order(parts.instances, names)
    layout = Layout(width, height, instances, sample.layout.gsd_m, sample.layout.scene)
    tally.keep(
        Sample(
            sample.id,
            layout,
            sample.image,
            prompt=sample.prompt,
            attributes=sample.attributes,
            split=sample.split,
            provenance=sample.provenance,
        ),
        labels=len(parts.instances),
    )


def _names_in(legend: Legend, request: ReadRequest) -> tuple[str, ...]:
    """What the legend's classes are called where they are looked up: the one of their names
    that the class table asked for knows, unless the class map renames them."""
    table, mapped = request.classes, {normal_name(name) for name in request.class_map}
    called = []
    for entry in legend.table.classes:
        names = (entry.name, *entry.aliases)
        if table is not None and normal_name(entry.name) not in mapped:
            names = tuple(n for n in names if table.find(n) is not None) or names
        called.append(names[0])
    return tuple(called)


def _detect(source: Source) -> Found | None:
    """Without a vote: where there are labels of another kind, masks are something beside them."""
    if source.root.is_file():
        return None
    files = source.files(*sorted(IMAGE_SUFFIXES))
    told = split_files(files, source.root)
    apart = source.labels is not None and source.labels != source.path
    if apart or (told.masks and not told.images):
        looked_at = files[:LOOKED_AT]
        if 2 * sum(map(holds_values, looked_at)) <= len(looked_at):
            return None
        return Found(f"{relative(files[0], source.base)} has class values", "masks", 0)
    pairs = unambiguous(told, source.root)
    if not pairs or 2 * len(pairs) < len(told.masks):
        return None
    image, mask = (relative(p, source.base) for p in pairs[0])
    return Found(f"{mask} beside {image} ({len(pairs)} such pairs)", "masks", 0)


def same_classes(wanted: Sample, read: Sample, classes: ClassTable) -> str | None:
    """Whether two samples paint the same class on every pixel; what differs, else None."""
    ours, theirs = wanted.layout, read.layout
    if (ours.width, ours.height) != (theirs.width, theirs.height):
        return f"size {theirs.width} x {theirs.height}, expected {ours.width} x {ours.height}"
    a, b = rasterize(ours, classes).index, rasterize(theirs, classes).index
    off = int((a != b).sum())
    if not off:
        return None
    row, column = np.argwhere(a != b)[0].tolist()
    names = ("nothing", *classes.names)
    return (
        f"{off} pixels of another class, the first at ({column}, {row}): "
        f"{names[b[row, column]]}, expected {names[a[row, column]]}"
    )


FORMAT = Format(
    "masks",
    "`masks/SPLIT/*.png` beside `images/SPLIT/`, one palette index a class; legend.yaml says which",
    read_masks,
    lambda _: MasksWriter(),
    _detect,
    Holds(held_shape),
    same_classes,
)
