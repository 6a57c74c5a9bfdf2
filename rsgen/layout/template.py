"""Layout templates: YAML that says how a kind of place arranges its objects.

Lengths ending in `_m` are metres (0.5 m a pixel is assumed where the layout's gsd is unknown);
shares are of the object's own extent, so that an arrangement keeps its look at any scale.
A pair [low, high] is drawn from evenly. Stuff that the class table lacks is left out.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from rsgen.config import read_yaml, templates_root
from rsgen.errors import UsageError
from rsgen.records import ClassTable, ObjectClass, normal_name

__all__ = [
    "Extra",
    "FreeTemplate",
    "GridTemplate",
    "LayoutTemplate",
    "Pad",
    "QuayTemplate",
    "RowsTemplate",
    "Shore",
    "Side",
    "StreetTemplate",
    "layout_template_names",
    "load_templates",
    "suits",
]

ANY = "*"


def _ordered(span: tuple[float, float]) -> tuple[float, float]:
    if span[0] > span[1]:
        raise ValueError(f"low {span[0]} is above high {span[1]}")
    return span


def _positive(span: tuple[float, float]) -> tuple[float, float]:
    if span[0] < 0:
        raise ValueError(f"{span[0]} is negative")
    return _ordered(span)


def _whole(span: tuple[int, int]) -> tuple[int, int]:
    if not 0 <= span[0] <= span[1]:
        raise ValueError(f"{list(span)} is no pair of counts, low first")
    return span


Span = Annotated[tuple[float, float], AfterValidator(_ordered)]
Length = Annotated[tuple[float, float], AfterValidator(_positive)]
Counts = Annotated[tuple[int, int], AfterValidator(_whole)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Pad(_Model):
    """Ground painted under each object (a helipad, a court's surround)."""

    stuff: str
    margin_m: Length = (1.0, 3.0)


class Extra(_Model):
    """Other objects beside the main ones: trucks on a tank farm's roads."""

    labels: tuple[str, ...]
    within: str | None = Field(None, description="stuff they must stand on")
    count: Counts = (0, 3)
    facing: Literal["along", "any"] = Field("along", description="along the road, or anyhow")


class Shore(_Model):
    """Land that begins beyond a wavy line."""

    stuff: str = "grass"
    chance: Share = 0.4


class Side(_Model):
    """Another ground beside the rows, with or without a road in it."""

    stuff: str | None = "grass"
    chance: Share = 0.5
    start: Span = Field((0.3, 1.0), description="distance from the centre, share of half the view")
    road: str | None = None
    road_width_m: Length = (7.0, 9.0)


class _Template(_Model):
    name: str = ""
    description: str = ""
    labels: tuple[str, ...] = Field(
        ..., min_length=1, description="classes it is made for, any spelling; * = every class"
    )
    scene: str | None = Field(None, description="name of the place, for prompts")
    weight: float = Field(1.0, gt=0, description="how often it is chosen among suitable ones")
    count: Counts = Field((1, 60), description="least and most main objects")
    mix: Share = Field(0.1, description="share of objects of the template's other classes")
    turn: Literal["any", "none"] = Field("any", description="direction of the arrangement")
    ground: str | None = Field(None, description="stuff that covers everything at first")
    pad: Pad | None = None
    size_jitter: float = Field(0.05, ge=0, lt=0.5, description="relative change of size, +-")
    spacing_px: int = Field(1, ge=0, description="least gap between two objects' masks")
    max_overlap: Share = Field(0.0, description="share of a mask that may lie on others")
    truncate: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="least visible share of an object cut by the border (none: no cuts)"
    )
    gsd_m: Span | None = Field(None, description="bounds of metres a pixel")
    trees: Counts = Field((0, 0), description="round gaps in the stuff on grass, a 128 px view")
    extras: tuple[Extra, ...] = ()


class RowsTemplate(_Template):
    """Rows of objects side by side: stands, stalls, berths, courts."""

    pattern: Literal["rows"]
    facing: Literal["across", "along"] = Field("across", description="objects against the row")
    pair: bool = Field(False, description="rows come in twos, back to back")
    run: Counts | None = Field(None, description="objects before a wide gap (none: no gaps)")
    gap: Length = Field((0.1, 0.4), description="between neighbours, share of their extent")
    lane: Length = Field((0.6, 1.2), description="between rows, share of the row's depth")
    occupied: Span = (0.5, 1.0)
    reverse: Share = Field(0.0, description="share of objects that face the other way")
    jitter_deg: float = Field(2.0, ge=0, le=180)
    lane_stuff: str | None = None
    lane_chance: Share = Field(0.5, description="share of lanes that carry the stuff")
    lane_width_m: Length = (12.0, 20.0)
    spine: str | None = Field(None, description="stuff between the rows of a pair (a pier)")
    spine_width_m: Length = (2.0, 4.0)
    side: Side | None = None


class QuayTemplate(_Template):
    """A straight quay: objects moored along it, others under way."""

    pattern: Literal["quay"]
    land: str | None = "pavement"
    road: str | None = "road"
    edge: Span = Field((-0.3, 0.15), description="where the quay lies, share of half the view")
    offset_m: Length = (0.5, 2.5)
    gap: Length = (0.08, 0.45)
    occupied: Span = (0.5, 1.0)
    free: Counts = Field((0, 3), description="objects away from the quay")


class GridTemplate(_Template):
    """Blocks between roads, each with a grid of equal objects."""

    pattern: Literal["grid"]
    block: Length = Field((1.6, 4.5), description="side of a block, in objects with their gap")
    road: str | None = "road"
    road_width_m: Length = (6.5, 9.0)
    gap: Length = Field((0.2, 0.6), description="between neighbours, share of their extent")
    occupied: Span = (0.75, 1.0)
    grounds: tuple[str | None, ...] = Field((None,), description="a block's ground, drawn evenly")


class FreeTemplate(_Template):
    """Objects anywhere."""

    pattern: Literal["free"]
    facing: Literal["any", "lane"] = Field("any", description="lane: one direction, both ways")
    within: str | None = Field(None, description="stuff the objects must lie on")
    shore: Shore | None = None


class StreetTemplate(_Template):
    """A street with lots: objects along the kerb, on drives, and in the yards."""

    pattern: Literal["street"]
    road: str = "road"
    walk: str = "pavement"
    road_width_m: Length = (6.4, 8.4)
    lot_m: Length = (17.0, 23.0)
    depth_m: Length = (33.0, 40.0)
    kerb: Share = Field(0.4, description="chance of an object at a place along the kerb")
    drive: Share = Field(0.6, description="chance of an object on a drive")
    yard_labels: tuple[str, ...] = ()
    yard: Share = Field(0.25, description="chance of an object in a yard")


LayoutTemplate = RowsTemplate | QuayTemplate | GridTemplate | FreeTemplate | StreetTemplate
_ADAPTER: TypeAdapter[LayoutTemplate] = TypeAdapter(
    Annotated[LayoutTemplate, Field(discriminator="pattern")]
)


def layout_template_names() -> tuple[str, ...]:
    """Templates that come with rsgen."""
    return tuple(sorted(path.stem for path in (templates_root() / "layouts").glob("*.yaml")))


def suits(template: LayoutTemplate, entry: ObjectClass) -> bool:
    """Whether a class is one of the template's main classes by any of its names."""
    names = {normal_name(name) for name in (entry.name, *entry.aliases)}
    return ANY in template.labels or not names.isdisjoint(map(normal_name, template.labels))


def is_specific(template: LayoutTemplate) -> bool:
    """Whether the template names its classes."""
    return ANY not in template.labels


def load_templates(
    names: Sequence[str | Path] = (), classes: ClassTable | None = None
) -> tuple[LayoutTemplate, ...]:
    """Templates by name or file; without names all that suit the classes.

    Raises:
        UsageError: an unknown name, a broken template (key named), or none that suits.
    """
    if names:
        loaded = tuple(_load(_find(str(name))) for name in names)
    else:
        loaded = tuple(_load(_named(name)) for name in layout_template_names())
    if classes is None:
        return loaded
    things = [entry for entry in classes.classes if entry.kind == "thing"]
    fitting = tuple(t for t in loaded if any(suits(t, entry) for entry in things))
    if not fitting:
        raise UsageError(
            f"no layout template of {', '.join(t.name for t in loaded)} is made for "
            f"{', '.join(entry.name for entry in things)}",
            hint="use the template `free`, or add the class to the template's labels",
        )
    return fitting


def _named(name: str) -> Path:
    return templates_root() / "layouts" / f"{name}.yaml"


def _find(name: str) -> Path:
    if _named(name).is_file():
        return _named(name)
    path = Path(name)
    if path.suffix in {".yaml", ".yml"} and path.is_file():
        return path
    near = difflib.get_close_matches(name, layout_template_names(), n=1)
    guess = f"did you mean {near[0]}? " if near else ""
    raise UsageError(
        f"no layout template {name!r}",
        hint=f"{guess}give a YAML file, or one of {', '.join(layout_template_names())}",
    )


@lru_cache(maxsize=64)
def _load_at(path: Path, changed_ns: int) -> LayoutTemplate:
    data = read_yaml(path)
    try:
        template = _ADAPTER.validate_python({"name": path.stem, **data})
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in error.errors()
        )
        raise UsageError(f"{path}: {problems}") from error
    return template


def _load(path: Path) -> LayoutTemplate:
    return _load_at(path, path.stat().st_mtime_ns)
