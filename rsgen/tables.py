"""Samples as rows of an Arrow table, and back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rsgen.geometry import Box, quad_from_tuple
from rsgen.mask import Mask
from rsgen.records import Geo, Instance, Layout, Provenance, Sample

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "sample_from_row",
    "sample_row",
    "sample_schema",
    "samples_from_table",
    "samples_to_table",
]

SCHEMA_VERSION = 1


def sample_schema() -> pa.Schema:
    """The Arrow schema of a part file."""
    import pyarrow as pa

    text, number, whole = pa.string(), pa.float64(), pa.int64()
    mask = pa.struct(
        [
            ("x0", whole),
            ("y0", whole),
            ("height", whole),
            ("width", whole),
            ("counts", pa.binary()),
        ]
    )
    instance = pa.struct(
        [
            ("label", text),
            ("box", pa.list_(number)),
            ("quad", pa.list_(number)),
            ("mask", mask),
            ("heading_rad", number),
            ("caption", text),
            ("attributes", text),
            ("truncated", pa.bool_()),
            ("difficult", pa.bool_()),
            ("iscrowd", pa.bool_()),
            ("scores", text),
            ("reasons", pa.list_(text)),
            ("origin", text),
        ]
    )
    return pa.schema(
        [
            ("id", text),
            ("image", text),
            ("sha256", text),
            ("width", whole),
            ("height", whole),
            ("gsd_m", number),
            ("scene", text),
            ("instances", pa.list_(instance)),
            ("prompt", text),
            ("attributes", text),
            ("split", text),
            ("geo", text),
            ("provenance", text),
            ("scores", text),
            ("verdict", text),
            ("reasons", pa.list_(text)),
        ],
        metadata={"rsgen_schema": str(SCHEMA_VERSION)},
    )


def _dump(mapping: Mapping[str, Any]) -> str | None:
    return json.dumps(dict(mapping), sort_keys=True) if mapping else None


def _load(text: str | None) -> dict[str, Any]:
    return dict(json.loads(text)) if text else {}


def _instance_row(instance: Instance) -> dict[str, Any]:
    box, quad, mask = instance.box, instance.quad, instance.mask
    return {
        "label": instance.label,
        "box": None if box is None else [box.x0, box.y0, box.x1, box.y1],
        "quad": None if quad is None else [c for point in quad for c in point],
        "mask": None
        if mask is None
        else {
            "x0": mask.x0,
            "y0": mask.y0,
            "height": mask.height,
            "width": mask.width,
            "counts": mask.counts,
        },
        "heading_rad": instance.heading_rad,
        "caption": instance.caption,
        "attributes": _dump(instance.attributes),
        "truncated": instance.truncated,
        "difficult": instance.difficult,
        "iscrowd": instance.iscrowd,
        "scores": _dump(instance.scores),
        "reasons": list(instance.reasons),
        "origin": instance.origin,
    }


def _instance(row: Mapping[str, Any]) -> Instance:
    mask = row["mask"]
    return Instance(
        label=row["label"],
        box=None if row["box"] is None else Box(*row["box"]),
        quad=None if row["quad"] is None else quad_from_tuple(row["quad"]),
        mask=None if mask is None else Mask(**mask),
        heading_rad=row["heading_rad"],
        caption=row["caption"],
        attributes=_load(row["attributes"]),
        truncated=row["truncated"],
        difficult=row["difficult"],
        iscrowd=row["iscrowd"],
        scores=_load(row["scores"]),
        reasons=tuple(row["reasons"]),
        origin=row["origin"],
    )


def _provenance_row(provenance: Provenance) -> str:
    row = {name: getattr(provenance, name) for name in Provenance.__slots__}
    row["sources"] = list(provenance.sources)
    return json.dumps({k: v for k, v in row.items() if v not in (None, [])}, sort_keys=True)


def _provenance(text: str) -> Provenance:
    row = json.loads(text)
    return Provenance(**{**row, "sources": tuple(row.get("sources", ()))})


def sample_row(sample: Sample) -> dict[str, Any]:
    """A sample as plain values in the order of `sample_schema`."""
    layout, geo = sample.layout, sample.geo
    return {
        "id": sample.id,
        "image": sample.image,
        "sha256": sample.sha256,
        "width": layout.width,
        "height": layout.height,
        "gsd_m": layout.gsd_m,
        "scene": layout.scene,
        "instances": [_instance_row(i) for i in layout.instances],
        "prompt": sample.prompt,
        "attributes": _dump(sample.attributes),
        "split": sample.split,
        "geo": None if geo is None else json.dumps({"crs": geo.crs, "affine": list(geo.affine)}),
        "provenance": _provenance_row(sample.provenance),
        "scores": _dump(sample.scores),
        "verdict": sample.verdict,
        "reasons": list(sample.reasons),
    }


def sample_from_row(row: Mapping[str, Any]) -> Sample:
    """Inverse of `sample_row`."""
    geo = _load(row["geo"])
    return Sample(
        id=row["id"],
        image=row["image"],
        sha256=row["sha256"],
        layout=Layout(
            row["width"],
            row["height"],
            tuple(_instance(i) for i in row["instances"]),
            row["gsd_m"],
            row["scene"],
        ),
        prompt=row["prompt"],
        attributes=_load(row["attributes"]),
        split=row["split"],
        geo=Geo(geo["crs"], tuple(geo["affine"])) if geo else None,
        provenance=_provenance(row["provenance"]),
        scores=_load(row["scores"]),
        verdict=row["verdict"],
        reasons=tuple(row["reasons"]),
    )


def samples_to_table(samples: Iterable[Sample]) -> pa.Table:
    """Samples as one Arrow table."""
    import pyarrow as pa

    return pa.Table.from_pylist([sample_row(s) for s in samples], schema=sample_schema())


def samples_from_table(table: pa.Table) -> Iterator[Sample]:
    """Samples of an Arrow table, in row order."""
    for batch in table.to_batches(max_chunksize=256):
        for row in batch.to_pylist():
            yield sample_from_row(row)
