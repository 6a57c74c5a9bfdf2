"""The one record that flows through: Sample, and what it is made of.

Frozen dataclasses, and their Arrow schema both ways. Real and generated data are the
same type; records are never mutated, use `dataclasses.replace`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from rsgen.errors import DataError, UsageError
from rsgen.geometry import Box, Quad, quad_from_tuple
from rsgen.mask import Mask

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "INCOMPLETE",
    "ClassTable",
    "Failure",
    "Geo",
    "Instance",
    "Layout",
    "ObjectClass",
    "Provenance",
    "Sample",
    "lost_share",
    "samples_from_table",
    "samples_to_table",
    "sample_schema",
]

SCHEMA_VERSION = 1
# Attribute of a sample some of whose labels could not be read: "1/3 FieldCount" (of all, why).
INCOMPLETE = "incomplete"


@lru_cache(maxsize=4096)
def normal_name(name: str) -> str:
    """Spelling-free form of a class name: lower case, words joined by '-'."""
    return "-".join(name.strip().lower().replace("_", " ").replace("-", " ").split())


@dataclass(frozen=True, slots=True)
class ObjectClass:
    """One class. A stuff class is one mask an image: no box, no components."""

    name: str
    aliases: tuple[str, ...] = ()
    kind: Literal["thing", "stuff"] = "thing"
    symmetric: bool = False  # no front: heading is None, flips and half turns are free


@dataclass(frozen=True, slots=True)
class ClassTable:
    """Ordered classes; index 0 is background, classes are 1..K in this order."""

    classes: tuple[ObjectClass, ...]

    def __post_init__(self) -> None:
        seen: dict[str, str] = {}
        for entry in self.classes:
            for name in {normal_name(entry.name), *map(normal_name, entry.aliases)}:
                if name in seen:
                    raise UsageError(
                        f"class name {name!r} belongs to both {seen[name]!r} and {entry.name!r}",
                        hint="give each class and alias one place in the class table",
                    )
                seen[name] = entry.name

    @classmethod
    def of(cls, *names: str) -> ClassTable:
        """A table of plain thing classes."""
        return cls(tuple(ObjectClass(name) for name in names))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(entry.name for entry in self.classes)

    def find(self, name: str) -> ObjectClass | None:
        """The class that a name or alias means, or None."""
        wanted = normal_name(name)
        for entry in self.classes:
            if wanted == normal_name(entry.name) or wanted in map(normal_name, entry.aliases):
                return entry
        return None

    def resolve(self, name: str) -> ObjectClass:
        """Like `find`, but an unknown name is a DataError that lists the known ones."""
        entry = self.find(name)
        if entry is None:
            raise DataError(
                f"unknown class {name!r}; known: {', '.join(self.names)}",
                hint="labels get other names, and tables other classes, where labels are read: "
                f"extract-masks --class-map {name}=KNOWN, or --classes TABLE",
            )
        return entry

    def index(self, name: str) -> int:
        """1..K for a class of the table."""
        return self.classes.index(self.resolve(name)) + 1

    def is_stuff(self, name: str) -> bool:
        return self.resolve(name).kind == "stuff"

    def to_json(self) -> list[dict[str, Any]]:
        return [
            {
                "name": c.name,
                "aliases": list(c.aliases),
                "kind": c.kind,
                "symmetric": c.symmetric,
            }
            for c in self.classes
        ]

    @classmethod
    def from_json(cls, rows: Iterable[Mapping[str, Any]]) -> ClassTable:
        return cls(
            tuple(
                ObjectClass(
                    str(row["name"]),
                    tuple(row.get("aliases", ())),
                    row.get("kind", "thing"),
                    bool(row.get("symmetric", False)),
                )
                for row in rows
            )
        )


@dataclass(frozen=True, slots=True)
class Instance:
    """A labelled object. Coordinates are pixels of its layout, half-open edges.

    `quad` is clockwise on screen; `heading_rad` is known only where the source says which
    end is the front. `origin`: annotation, polygon, correction (drawn by hand), box,
    classical, sam, pool:<mask id>.
    """

    label: str
    box: Box | None = None
    quad: Quad | None = None
    mask: Mask | None = None
    heading_rad: float | None = None
    caption: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    truncated: bool = False
    difficult: bool = False
    iscrowd: bool = False
    scores: Mapping[str, float] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()
    origin: str = "annotation"

    def bounds(self) -> Box | None:
        """The box, else the quad's bounds, else the mask's."""
        if self.box is not None:
            return self.box
        if self.quad is not None:
            xs, ys = [p[0] for p in self.quad], [p[1] for p in self.quad]
            return Box(min(xs), min(ys), max(xs), max(ys))
        return None if self.mask is None else self.mask.box


@dataclass(frozen=True, slots=True)
class Layout:
    """Labelled instances on a canvas, in paint order: later covers earlier."""

    width: int
    height: int
    instances: tuple[Instance, ...] = ()
    gsd_m: float | None = None
    scene: str | None = None


@dataclass(frozen=True, slots=True)
class Provenance:
    """Enough to remake the sample; no path, host or time."""

    kind: Literal["real", "synthetic"]
    run: str | None = None
    parent: str | None = None
    seed: int | None = None
    model: str | None = None
    prompt_template: str | None = None
    layout_template: str | None = None
    sources: tuple[str, ...] = ()  # ids of real samples whose masks or layout it uses


@dataclass(frozen=True, slots=True)
class Geo:
    """Where a tile lies: CRS as WKT, and the six affine terms (a, b, c, d, e, f)."""

    crs: str | None
    affine: tuple[float, float, float, float, float, float]


@dataclass(frozen=True, slots=True)
class Sample:
    """One image (or one layout without an image) with everything known about it.

    `id` is the root-relative posix path, `path#x0,y0` for a tile, `<fingerprint8>-000123`
    for synthetic data. `image` is relative to the run folder or to its dataset root.
    """

    id: str
    layout: Layout
    image: str | None = None
    sha256: str | None = None
    prompt: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    split: str | None = None
    geo: Geo | None = None
    provenance: Provenance = field(default_factory=lambda: Provenance("real"))
    scores: Mapping[str, float] = field(default_factory=dict)
    verdict: Literal["keep", "drop", "unknown"] | None = None
    reasons: tuple[str, ...] = ()

    @property
    def parent(self) -> str:
        """The scene it belongs to: splits and leakage guards go by this."""
        return self.provenance.parent or self.id.split("#", 1)[0]


def lost_share(sample: Sample) -> float:
    """Share of a sample's labels that could not be read, in [0, 1]: the picture shows more."""
    lost, _, every = sample.attributes.get(INCOMPLETE, "0/1").split()[0].partition("/")
    return int(lost) / max(int(every or 1), 1)


@dataclass(frozen=True, slots=True)
class Failure:
    """An item that could not be processed: a row, not a crash."""

    item: str
    stage: str
    error: str
    message: str

    def to_json(self) -> dict[str, str]:
        return {
            "item": self.item,
            "stage": self.stage,
            "error": self.error,
            "message": self.message,
        }


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


def with_instances(sample: Sample, instances: Iterable[Instance]) -> Sample:
    """The sample with other instances on the same canvas."""
    return replace(sample, layout=replace(sample.layout, instances=tuple(instances)))
