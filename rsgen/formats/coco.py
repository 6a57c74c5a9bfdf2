"""COCO instance JSON: reading (several files, images apart) and streamed writing.

Beyond COCO: `obb` = [cx, cy, w, h, angle] (pixels, radians; w runs along the angle) and
`heading` (radians) carry oriented boxes; such an annotation without a mask has its four corners
in `segmentation`. `difficult`, `truncated` (annotation), `gsd_m` (image) and a filter's `weight`
(both) stand where known.
HIT-UAV's dialect is read too, see `coco_dialect`.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rsgen.errors import DataError
from rsgen.formats.atlas import fill_outlines
from rsgen.formats.checks import check_box, no_pixel, number
from rsgen.formats.coco_dialect import KEYS, in_own_words
from rsgen.formats.coco_images import ImagePlaces, ImageRecord, find_image, weight_scores
from rsgen.formats.coco_shapes import bbox_of, shape_of
from rsgen.formats.coco_write import CategoryIds, CocoWriter
from rsgen.formats.common import (
    Dataset,
    Format,
    Found,
    Holds,
    Problem,
    ReadRequest,
    Source,
    Tally,
    split_of_path,
    things_only,
)
from rsgen.formats.files import relative
from rsgen.formats.names import LabelNames, paint_order
from rsgen.geometry import Array, quad_to_rotated_box, rotated_box_to_quad, wrap_angle
from rsgen.records import WEIGHT, ClassTable, Instance, Layout, Sample

__all__ = ["FORMAT", "check_coco", "coco_files", "looks_like_coco", "read_coco"]

HEAD_BYTES = 1 << 16


def looks_like_coco(path: Path) -> bool:
    """Whether a JSON file has COCO's keys near its start or its end."""
    with path.open("rb") as handle:
        text = handle.read(HEAD_BYTES)
        length = handle.seek(0, 2)
        handle.seek(max(0, length - HEAD_BYTES))
        text += handle.read()
    keys = sum(
        f'"{key}"'.encode() in text or f'"{KEYS.get(key, key)}"'.encode() in text
        for key in ("images", "annotations", "categories")
    )
    return text.lstrip().startswith((b"{", b"\xef\xbb\xbf{")) and keys >= 2


def coco_files(path: Path) -> list[Path]:
    """COCO files of a dataset folder (or the file itself), sorted.

    Beside `instances_*.json` other annotation kinds (captions, keypoints) are left alone.
    """
    if path.is_file():
        return [path]
    places = [path, path / "annotations"]
    places += [p for p in sorted(path.iterdir()) if split_of_path(p.name) and p.is_dir()]
    found = [f for place in places if place.is_dir() for f in sorted(place.glob("*.json"))]
    found = [f for f in found if looks_like_coco(f)]
    instances = [f for f in found if f.name.startswith("instances")]
    return instances or found


def read_coco(request: ReadRequest) -> Dataset:
    """Read COCO files into one dataset; see `FormatReader`."""
    source = request.labels or request.path
    files = coco_files(source)
    if not files:
        raise DataError(
            f"{source}: no COCO JSON found",
            hint="point --labels at the file with images, annotations and categories",
        )
    root = request.images or _root(request.path)
    tally = Tally(root)
    names = LabelNames(request.classes, request.class_map)
    for file in files:
        _read_file(file, root, request, names, tally)
    return tally.dataset("coco", names.table(in_order=True))


def _root(path: Path) -> Path:
    if path.is_dir():
        return path
    return path.parent.parent if path.parent.name == "annotations" else path.parent


def _load(path: Path, name: str) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DataError(
            f"{name}:{line}: byte {error.start} is not UTF-8", hint="save it as UTF-8"
        ) from error
    except json.JSONDecodeError as error:
        raise DataError(
            f"{name}:{error.lineno}: not valid JSON ({error.msg}, column {error.colno})",
            hint="the file may be cut short: copy or export it anew",
        ) from error
    except (OSError, ValueError, RecursionError) as error:  # a number too long, a nest too deep
        raise DataError(f"{name}: cannot be read ({error})", hint="check the file") from error
    keys = ("images", "annotations", "categories")
    document = in_own_words(document) if isinstance(document, dict) else document
    if not isinstance(document, dict) or not all(
        isinstance(document.get(key), list) for key in keys
    ):
        raise DataError(
            f"{name}: no COCO file, it needs the lists {', '.join(keys)}",
            hint="export instance annotations, not captions or results",
        )
    return document


def _read_file(
    file: Path, root: Path, request: ReadRequest, names: LabelNames, tally: Tally
) -> None:
    where = relative(file, request.path if request.path.is_dir() else request.path.parent)
    document = _load(file, where)
    split = split_of_path(where)
    tally.notes.append(
        f"coco: {where} lists {len(document['images'])} images, "
        f"{len(document['annotations'])} annotations, {len(document['categories'])} categories"
    )
    categories = _categories(document["categories"], where, names, tally)
    labels = _by_image(document["annotations"], where, tally)
    images = ImagePlaces.beside(file, root, split)
    files_of = _files_of_ids(document["images"])
    done: set[Any] = set()
    for index, record in enumerate(document["images"]):
        item = f"{where}: images[{index}]"
        try:
            key, name = _image_key(record)
        except Problem as problem:
            tally.image_failed(item, problem)
            continue
        item = f"{where}: image {name!r} (id {key!r})"
        mine = labels.pop(key, [])
        try:
            if len(files_of[key]) > 1 or key in done:
                raise _repeated(key, files_of[key])
            done.add(key)
            found = find_image(record, name, images, request)
        except Problem as problem:
            tally.image_failed(item, problem, len(mine))
            continue
        instances = list(_instances(mine, where, found, categories, names, tally))
        layout = Layout(
            found.width, found.height, paint_order(instances, names), request.gsd_m or found.gsd_m
        )
        sample_split = split or split_of_path(found.id)
        sample = Sample(
            found.id, layout, found.image, split=sample_split, scores=weight_scores(record)
        )
        tally.keep(sample, labels=len(instances))
    for key, orphans in labels.items():
        unknown = Problem(
            "UnknownImage", f"no image of id {key!r}", "add the image record, or drop the label"
        )
        for index, annotation in orphans:
            tally.label_failed(_place(where, index, annotation), unknown, of_image=False)


def _place(where: str, index: int, annotation: Mapping[str, Any]) -> str:
    return f"{where}: annotations[{index}] (id {annotation.get('id')!r})"


def _categories(records: list[Any], where: str, names: LabelNames, tally: Tally) -> dict[Any, str]:
    found: dict[Any, str] = {}
    usable = [
        r
        for r in records
        if isinstance(r, dict) and isinstance(r.get("id"), (int, str)) and r.get("name")
    ]
    if len(usable) < len(records):
        raise DataError(
            f"{where}: {len(records) - len(usable)} categories have no id or no name",
            hint="give each category an id and a name",
        )
    for record in sorted(usable, key=lambda r: (isinstance(r["id"], str), r["id"])):
        if record["id"] in found:
            raise DataError(
                f"{where}: two categories have the id {record['id']!r}: "
                f"{found[record['id']]!r} and {record['name']!r}",
                hint="give each category its own id",
            )
        found[record["id"]] = str(record["name"])
        names.declare(str(record["name"]), stuff=record.get("isthing") == 0)
    return found


def _by_image(
    records: list[Any], where: str, tally: Tally
) -> dict[Any, list[tuple[int, dict[str, Any]]]]:
    """Annotations by image id; broken and repeated ones become failures."""
    found: dict[Any, list[tuple[int, dict[str, Any]]]] = {}
    seen: set[Any] = set()
    for index, record in enumerate(records):
        if not isinstance(record, dict) or not isinstance(record.get("image_id"), (int, str)):
            problem = Problem("MissingField", "no image_id", "give the annotation its image_id")
            tally.label_failed(f"{where}: annotations[{index}]", problem, of_image=False)
            continue
        identity = record.get("id")
        if isinstance(identity, (int, str)):
            if identity in seen:
                problem = Problem(
                    "DuplicateId",
                    f"a second annotation of the id {identity!r}",
                    "number the annotations anew",
                )
                tally.label_failed(_place(where, index, record), problem, of_image=False)
                continue
            seen.add(identity)
        found.setdefault(record["image_id"], []).append((index, record))
    return found


def _image_key(record: Any) -> tuple[int | str, str]:
    if not isinstance(record, dict):
        raise Problem("MissingField", "no image record", "write an object with id and file_name")
    key, name = record.get("id"), record.get("file_name")
    if not isinstance(key, (int, str)) or not isinstance(name, str):
        raise Problem("MissingField", "id or file_name is missing", "write both")
    return key, name


def _files_of_ids(records: list[Any]) -> dict[Any, set[str]]:
    found: dict[Any, set[str]] = {}
    for record in records:
        if isinstance(record, dict) and isinstance(record.get("id"), (int, str)):
            found.setdefault(record["id"], set()).add(str(record.get("file_name")))
    return found


def _repeated(key: int | str, files: set[str]) -> Problem:
    """Two files of one id are both refused, since nothing says whose the labels are."""
    return Problem(
        "DuplicateId",
        f"the image id {key!r} stands more than once, for {', '.join(sorted(files))}",
        "give every image its own id",
    )


def _instances(
    labels: list[tuple[int, dict[str, Any]]],
    where: str,
    image: ImageRecord,
    categories: dict[Any, str],
    names: LabelNames,
    tally: Tally,
) -> Iterator[Instance]:
    good: list[tuple[int, dict[str, Any], Instance, list[Array]]] = []
    for index, annotation in labels:
        try:
            instance, parts = _instance(annotation, image, categories, names, tally)
            good.append((index, annotation, instance, parts))
        except Problem as problem:
            tally.label_failed(_place(where, index, annotation), problem)
    outlines = [parts for *_, parts in good if parts]
    masks = iter(fill_outlines(outlines, image.width, image.height))
    for index, annotation, instance, parts in good:
        mask = next(masks) if parts else instance.mask
        if parts and mask is None:
            tally.label_failed(_place(where, index, annotation), no_pixel())
        elif mask is None:
            yield instance
        else:
            yield replace(instance, mask=mask, origin="polygon")


def _instance(
    record: dict[str, Any],
    image: ImageRecord,
    categories: dict[Any, str],
    names: LabelNames,
    tally: Tally,
) -> tuple[Instance, list[Array]]:
    """(the label, polygons that are yet to be filled to its mask)."""
    category = record.get("category_id")
    if not isinstance(category, (int, str)) or category not in categories:
        known = ", ".join(f"{key}: {name}" for key, name in categories.items())
        raise Problem(
            "UnknownClass", f"category_id {category!r}; known: {known}", "add the category"
        )
    label = names.resolve(categories[category])
    box = bbox_of(record.get("bbox"))
    shape = shape_of(record, box, image, tally)
    found, cut = shape.box, shape.cut
    if box is not None:
        found, cut = check_box(box, image.width, image.height)
    if found is None:
        raise Problem("MissingField", "neither bbox nor segmentation", "write at least one")
    heading = record.get("heading")
    instance = Instance(
        label=label,
        box=found,
        quad=shape.quad,
        mask=shape.mask,
        heading_rad=None if heading is None else wrap_angle(number(heading, "heading")),
        truncated=bool(record.get("truncated")) or cut,
        difficult=bool(record.get("difficult")),
        iscrowd=bool(record.get("iscrowd")),
        scores=weight_scores(record),
    )
    return instance, shape.parts


def _detect(source: Source) -> Found | None:
    if source.root.is_file() and source.root.suffix.lower() != ".json":
        return None
    files = coco_files(source.root)
    if not files:
        return None
    listed = ", ".join(relative(f, source.base) for f in files[:3])
    return Found(f"{listed} with images, annotations and categories", "json", len(files))


def _held(instance: Instance, layout: Layout, classes: ClassTable) -> Instance | None:
    """A quad beside a mask comes back as its rotated rectangle, alone as its four corners."""
    kept = things_only(instance, layout, classes)
    if kept is None:
        return None
    quad = kept.quad
    if quad is not None and kept.mask is not None:
        quad = rotated_box_to_quad(quad_to_rotated_box(quad))
    mask = kept.mask
    if mask is not None:
        mask = mask.window(0, 0, layout.width, layout.height)
    return replace(
        kept,
        box=kept.bounds(),
        quad=quad,
        mask=mask,
        caption=None,
        attributes={},
        scores={k: v for k, v in kept.scores.items() if k == WEIGHT},
        reasons=(),
    )


def check_coco(folder: Path, images: Mapping[str, int], objects: int) -> None:
    """Load every instances_SPLIT.json with pycocotools and count; decode some masks.

    Raises:
        DataError: pycocotools cannot load it, or counts differ.
    """
    from pycocotools.coco import COCO

    total = 0
    for path in sorted((folder / "annotations").glob("instances_*.json")):
        split = path.stem.removeprefix("instances_")
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                coco = COCO(str(path))
            for annotation in coco.loadAnns(coco.getAnnIds()[:20]):
                if annotation["segmentation"]:
                    coco.annToMask(annotation)
        except (KeyError, TypeError, ValueError, json.JSONDecodeError) as error:
            raise DataError(f"pycocotools cannot load {path.name} ({error!r})") from error
        if len(coco.getImgIds()) != images.get(split, 0):
            raise DataError(
                f"{path.name}: {len(coco.getImgIds())} images, expected {images.get(split)}"
            )
        total += len(coco.getAnnIds())
    if total != objects:
        raise DataError(f"pycocotools finds {total} objects, expected {objects}")


FORMAT = Format(
    "coco",
    "`annotations/instances_SPLIT.json`, images in `images/SPLIT/` (pycocotools, or any detector "
    "that reads COCO)",
    read_coco,
    lambda options: CocoWriter(CategoryIds.parse(options.category_ids)),
    _detect,
    Holds(_held, frozenset({"gsd_m"}), weights=True),
    check=check_coco,
)
