"""The one record that flows through: Sample, and what it is made of.

Frozen dataclasses. Real and generated data are the same type; records are never mutated, use
`dataclasses.replace`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal

from rsgen.errors import DataError, UsageError
from rsgen.geometry import Box, Quad
from rsgen.mask import Mask

__all__ = [
    "INCOMPLETE",
    "WEIGHT",
    "ClassTable",
    "Failure",
    "Geo",
    "Instance",
    "Layout",
    "ObjectClass",
    "Provenance",
    "Sample",
    "lost_share",
]

# Attribute of a sample some of whose labels could not be read: "1/3 FieldCount" (of all, why).
INCOMPLETE = "incomplete"
# Score of a sample and of an instance that says how much it counts, in [0, 1]; 1 without it.
WEIGHT = "weight"


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


def with_instances(sample: Sample, instances: Iterable[Instance]) -> Sample:
    """The sample with other instances on the same canvas."""
    return replace(sample, layout=replace(sample.layout, instances=tuple(instances)))
