"""Procedural overhead scenes with exact labels: the sample data.

`render_scene(seed, size)` draws a picture like a satellite's and returns it with its layout:
instance masks, oriented boxes and headings that are true by construction.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rsgen.errors import UsageError
from rsgen.records import ClassTable, Layout, ObjectClass
from rsgen.scenes import airside, industry, town, waterside
from rsgen.scenes.camera import expose
from rsgen.scenes.canvas import Canvas
from rsgen.scenes.layers import instances_of
from rsgen.scenes.style import STYLES, style_named

__all__ = ["SCENE_CLASSES", "SCENE_STYLES", "SCENE_TYPES", "render_scene"]

SCENE_CLASSES = ClassTable(
    (
        ObjectClass("plane", ("airplane", "aeroplane", "aircraft")),
        ObjectClass("helicopter"),
        ObjectClass("ship", ("boat", "vessel")),
        ObjectClass("storage-tank", ("storagetank", "oil-tank"), symmetric=True),
        ObjectClass("small-vehicle", ("car", "vehicle")),
        ObjectClass("large-vehicle", ("truck", "bus")),
        ObjectClass("tennis-court", ("tenniscourt",), symmetric=True),
        ObjectClass("basketball-court", ("basketballcourt",), symmetric=True),
        ObjectClass("swimming-pool", ("pool",), symmetric=True),
        ObjectClass("water", kind="stuff"),
        ObjectClass("road", kind="stuff"),
        ObjectClass("grass", kind="stuff"),
        ObjectClass("pavement", kind="stuff"),
    )
)
SCENE_STYLES: tuple[str, ...] = tuple(STYLES)


@dataclass(frozen=True, slots=True)
class Theme:
    """One way to lay out a scene type, and the ground sampling distances that suit it."""

    draw: Callable[[Canvas], None]
    gsd_m: tuple[float, float]
    weight: float


_THEMES: dict[str, tuple[Theme, ...]] = {
    "airfield": (
        Theme(airside.apron, (0.58, 0.95), 0.36),
        Theme(airside.light_park, (0.3, 0.42), 0.24),
        Theme(airside.military_ramp, (0.34, 0.5), 0.24),
        Theme(airside.runway, (0.45, 0.95), 0.16),
    ),
    "harbour": (
        Theme(waterside.quay, (0.7, 1.0), 0.4),
        Theme(waterside.marina, (0.3, 0.5), 0.3),
        Theme(waterside.open_water, (0.4, 1.0), 0.3),
    ),
    "tank-farm": (Theme(industry.tank_farm, (0.5, 0.9), 1.0),),
    "car-park": (Theme(town.car_park, (0.3, 0.38), 1.0),),
    "sports-ground": (Theme(town.sports_ground, (0.34, 0.5), 1.0),),
    "residential-street": (Theme(town.residential_street, (0.3, 0.4), 1.0),),
}
SCENE_TYPES: tuple[str, ...] = tuple(_THEMES)
_MAIN_CLASSES = {
    "airfield": {"plane", "helicopter"},
    "harbour": {"ship"},
    "tank-farm": {"storage-tank"},
    "car-park": {"small-vehicle", "large-vehicle"},
    "sports-ground": {"tennis-court", "basketball-court", "swimming-pool"},
    "residential-street": {"small-vehicle", "swimming-pool"},
}
_ATTEMPTS = 6  # a draw without a thing that the scene is about is drawn anew


def render_scene(
    seed: int,
    size: int | tuple[int, int],
    *,
    scene: str | None = None,
    gsd_m: float | None = None,
    style: str = "default",
) -> tuple[npt.NDArray[np.uint8], Layout]:
    """A picture uint8 [height, width, 3] RGB and its layout.

    `size` is the side in pixels or (width, height); at least 32. `scene` is one of
    SCENE_TYPES (drawn from the seed when None); `gsd_m` metres a pixel (drawn to suit the
    scene when None); `style` `default` or `alt`. Same arguments, same bytes. Masks are
    disjoint and show what is visible; a quad is the whole object's, so it may reach outside
    where `truncated`. UsageError on a value outside these ranges.
    """
    width, height = (int(n) for n in (size if isinstance(size, tuple) else (size, size)))
    if min(width, height) < 32:
        raise UsageError(f"scene size {width}x{height} is too small", hint="use at least 32 pixels")
    if scene is not None and scene not in _THEMES:
        raise UsageError(f"unknown scene {scene!r}", hint=f"use one of {', '.join(SCENE_TYPES)}")
    if gsd_m is not None and not 0.1 <= gsd_m <= 1.5:
        raise UsageError(f"gsd_m {gsd_m} is out of range", hint="use 0.1 to 1.5 metres a pixel")
    look = style_named(style)
    draw = _generator(int(seed), width, height, style)
    name = scene if scene is not None else SCENE_TYPES[int(draw.integers(len(SCENE_TYPES)))]
    for attempt in range(_ATTEMPTS):
        rng = _generator(int(seed), width, height, name, gsd_m, style, attempt)
        theme, ground = _choose(rng, name, gsd_m)
        canvas = Canvas(width, height, ground, rng, look)
        theme.draw(canvas)
        instances = instances_of(canvas, canvas.finish())
        if any(instance.label in _MAIN_CLASSES[name] for instance in instances):
            break
    image = expose(canvas.reduced(), rng, look, ground)
    return image, Layout(width, height, instances, ground, name)


def _generator(*request: object) -> np.random.Generator:
    digest = hashlib.blake2b(repr(request).encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def _choose(rng: np.random.Generator, scene: str, gsd_m: float | None) -> tuple[Theme, float]:
    """A theme and a ground sampling distance; a given one prefers themes made for it."""
    themes = _THEMES[scene]
    weights = np.array([theme.weight for theme in themes])
    if gsd_m is not None:
        off = [abs(math.log(gsd_m / np.clip(gsd_m, *theme.gsd_m))) for theme in themes]
        weights = weights * (np.array(off) <= min(off) + 1e-9)
    theme = themes[int(rng.choice(len(themes), p=weights / weights.sum()))]
    low, high = theme.gsd_m
    drawn = round(float(rng.uniform(low, high)), 3)
    return theme, drawn if gsd_m is None else gsd_m
