"""Croissant metadata of an export: what lies in it, in JSON-LD that data catalogues read.

Label files are named one by one with their sha256, images and labels of one file an image as
sets of files; the sums of every file are in `sha256sums.txt`. Record sets describe the COCO and
JSON lines files, so that `mlcroissant` reads boxes and prompts from them.

Source: the Croissant format specification 1.0 (mlcommons.org/croissant/1.0).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rsgen.images import sha256_file

__all__ = ["CROISSANT_FILE", "SUMS_FILE", "croissant", "write_sums"]

CROISSANT_FILE = "croissant.json"
SUMS_FILE = "sha256sums.txt"
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
MEDIA_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".json": "application/json",
    ".geojson": "application/geo+json",
    ".jsonl": "application/jsonlines",
    ".md": "text/markdown",
    ".tar": "application/x-tar",
    ".txt": "text/plain",
    ".xml": "application/xml",
    ".yaml": "application/yaml",
    ".pgw": "text/plain",
    ".jgw": "text/plain",
}
# A folder of more files than that is a set of files; their sums are in SUMS_FILE.
FEW = 4


def write_sums(folder: Path, left_out: Iterable[str] = ()) -> dict[str, str]:
    """`sha256sums.txt` for `sha256sum -c`; returns relative name -> sha256, sorted."""
    skipped = {SUMS_FILE, CROISSANT_FILE, *left_out}
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    names = [p.relative_to(folder).as_posix() for p in files]
    known: dict[tuple[int, int], str] = {}  # images of several formats are links of one file
    sums = {n: _sum(p, known) for n, p in zip(names, files, strict=True) if n not in skipped}
    text = "".join(f"{value}  {name}\n" for name, value in sums.items())
    (folder / SUMS_FILE).write_text(text, encoding="utf-8")
    return sums


def _sum(file: Path, known: dict[tuple[int, int], str]) -> str:
    found = file.stat()
    key = found.st_dev, found.st_ino
    if key not in known:
        known[key] = sha256_file(file)
    return known[key]


def croissant(
    folder: Path,
    sums: Mapping[str, str],
    *,
    name: str,
    description: str,
    version: str,
    licences: Sequence[str],
    objects: Mapping[str, int],
) -> str:
    """The text of `croissant.json` for a data set whose files are `sums`.

    `objects`: how many lie in each split (lists without entries have no records to describe).
    """
    distribution = _distribution(sums)
    distribution.append(_file_object(SUMS_FILE, sha256_file(folder / SUMS_FILE)))
    data: dict[str, Any] = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "name": name,
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "description": description,
        "version": version,
        "license": list(licences),
        "isLiveDataset": False,
        "distribution": distribution,
        "recordSet": [*_coco_records(folder, sums, objects), *_line_records(sums)],
    }
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


# ---------------------------------------------------------------- files


def _distribution(sums: Mapping[str, str]) -> list[dict[str, Any]]:
    groups: dict[tuple[str, str], list[str]] = {}
    for name in sums:
        path = Path(name)
        groups.setdefault((path.parent.as_posix(), path.suffix.lower()), []).append(name)
    objects: list[dict[str, Any]] = []
    sets: list[dict[str, Any]] = []
    for (parent, suffix), names in groups.items():
        images = MEDIA_TYPES.get(suffix, "").startswith("image/")
        if parent != "." and (images or len(names) > FEW):
            sets.append(_file_set(parent, suffix))
        else:
            objects += [_file_object(name, sums[name]) for name in names]
    for name in _coco_files(sums):
        # mlcroissant reads all fields of a file into one table: two lists need two objects.
        objects.append({**_file_object(name, sums[name]), "@id": _ANNOTATIONS.format(name)})
    return [*objects, *sets]


_ANNOTATIONS = "{}#annotations"


def _coco_files(sums: Mapping[str, str]) -> list[str]:
    return [n for n in sums if n.startswith("coco/annotations/") and n.endswith(".json")]


def _media_type(suffix: str) -> str:
    return MEDIA_TYPES.get(suffix, "application/octet-stream")


def _file_object(name: str, sha256: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": name,
        "encodingFormat": _media_type(Path(name).suffix.lower()),
        "sha256": sha256,
    }


def _file_set(parent: str, suffix: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": f"{parent}/*{suffix}",
        "name": f"{parent}/*{suffix}",
        "description": f"their sha256 are in {SUMS_FILE}",
        "encodingFormat": _media_type(suffix),
        "includes": f"{parent}/*{suffix}",
    }


# ---------------------------------------------------------------- records


def _field(
    record_set: str, name: str, kind: str, file: str, extract: Mapping[str, str], **more: Any
) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"{record_set}/{name}",
        "name": f"{record_set}/{name}",
        "dataType": kind,
        "source": {"fileObject": {"@id": file}, "extract": dict(extract)},
        **more,
    }


def _coco_records(
    folder: Path, sums: Mapping[str, str], objects: Mapping[str, int]
) -> list[dict[str, Any]]:
    """Categories, and for each split its images and annotations."""
    files = _coco_files(sums)
    if not files:
        return []
    found = [_categories(_category_rows(folder / files[0]))]
    for file in files:
        split = Path(file).stem.removeprefix("instances_")
        found.append(_images_of(file, f"coco-{split}-images"))
        if objects.get(split):
            name = f"coco-{split}-annotations"
            found.append(_annotations_of(file, name, f"coco-{split}-images"))
    return found


def _category_rows(file: Path) -> list[dict[str, Any]]:
    """The categories, which our writer puts on the first line, before any image."""
    with file.open(encoding="utf-8") as handle:
        head = handle.readline().rstrip().removesuffix(",")
    rows: list[dict[str, Any]] = json.loads(head + "}")["categories"]
    return rows


def _categories(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    name = "coco-categories"
    kinds = (("id", "sc:Integer"), ("name", "sc:Text"))
    fields = [
        {"@type": "cr:Field", "@id": f"{name}/{key}", "name": f"{name}/{key}", "dataType": kind}
        for key, kind in kinds
    ]
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": "classes of the COCO files",
        "dataType": "sc:Enumeration",
        "key": {"@id": f"{name}/id"},
        "field": fields,
        "data": [{f"{name}/{key}": row[key] for key, _ in kinds} for row in rows],
    }


def _images_of(file: str, name: str) -> dict[str, Any]:
    columns = {
        "id": "sc:Integer",
        "file_name": "sc:Text",
        "width": "sc:Integer",
        "height": "sc:Integer",
    }
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": f"images of {file}",
        "key": {"@id": f"{name}/id"},
        "field": [
            _field(name, key, kind, file, {"jsonPath": f"$.images[*].{key}"})
            for key, kind in columns.items()
        ],
    }


def _annotations_of(file: str, name: str, images: str) -> dict[str, Any]:
    def field(key: str, kind: str, **more: Any) -> dict[str, Any]:
        source = _ANNOTATIONS.format(file)
        return _field(name, key, kind, source, {"jsonPath": f"$.annotations[*].{key}"}, **more)

    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": f"objects of {file}; bbox is x, y, width, height in pixels",
        "key": {"@id": f"{name}/id"},
        "field": [
            field("id", "sc:Integer"),
            field("image_id", "sc:Integer", references={"field": {"@id": f"{images}/id"}}),
            field(
                "category_id",
                "sc:Integer",
                references={"field": {"@id": "coco-categories/id"}},
            ),
            field("bbox", "cr:BoundingBox"),
            field("area", "sc:Float"),
        ],
    }


def _line_records(sums: Mapping[str, str]) -> list[dict[str, Any]]:
    """One record set a JSON lines file: the columns that are no lists."""
    columns = {
        "id": "sc:Text",
        "image": "sc:Text",
        "width": "sc:Integer",
        "height": "sc:Integer",
        "prompt": "sc:Text",
        "split": "sc:Text",
    }
    files = [n for n in sums if n.startswith("jsonl/") and n.endswith(".jsonl")]
    found = []
    for file in files:
        name = f"jsonl-{Path(file).stem}"
        found.append(
            {
                "@type": "cr:RecordSet",
                "@id": name,
                "name": name,
                "description": f"samples of {file}",
                "key": {"@id": f"{name}/id"},
                "field": [
                    _field(name, key, kind, file, {"column": key}) for key, kind in columns.items()
                ],
            }
        )
    return found
