"""New layouts from a mask pool and scene templates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from rsgen.errors import DataError, UsageError
from rsgen.layout.draws import FILL, Draws, pool_labels
from rsgen.layout.ground import Ground
from rsgen.layout.patterns import arrange
from rsgen.layout.template import (
    FreeTemplate,
    LayoutTemplate,
    is_specific,
    load_templates,
    suits,
)
from rsgen.pool import MaskPool
from rsgen.records import ClassTable, Layout

__all__ = ["PlannedLayout", "plan_from_pool"]

ATTEMPTS = 7
SURE_FILL = 0.62  # an object of this share of the view fits at any angle


@dataclass(frozen=True)
class PlannedLayout:
    """A layout with where its shapes come from.

    `sources`: ids of the real samples whose masks it uses, sorted. `counts`: placed, shrunk
    (objects made smaller than true to fit the canvas), same_source (masks of the image whose
    layout this is), dropped (objects of a given layout left out).
    """

    layout: Layout
    template: str
    sources: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)


def plan_from_pool(
    pool: MaskPool,
    classes: ClassTable,
    templates: Sequence[LayoutTemplate],
    rng: np.random.Generator,
    size: tuple[int, int],
    gsd_m: float | None = None,
    labels: Mapping[str, float] | None = None,
    empty: float = 0.0,
) -> PlannedLayout:
    """One new layout of `size` = (width, height).

    A main class is drawn by weight, then a template made for it. Without `gsd_m` the layout
    takes that of the first mask drawn, within the template's bounds; where that is unknown
    too, sizes are the pixels of the source. Objects keep their true size but for the
    template's jitter. A function of `rng` alone.

    Args:
        labels: weights by class name or alias (default: every class of the pool alike).
        empty: share of layouts without objects, with stuff alone.

    Raises:
        DataError: pool and class table share no class.
        UsageError: an unknown label, one that the pool lacks, or no template for it.
    """
    names = pool_labels(pool, classes)
    if not names:
        raise DataError(
            f"the pool has {', '.join(pool.labels) or 'no masks'}, but the classes are "
            f"{', '.join(classes.names)}",
            hint="use a pool of the same classes, or give aliases",
        )
    usable = templates or load_templates((), classes)
    main = _main_label(rng, names, classes, usable, labels)
    template = _template(rng, usable, classes, main)
    nothing = bool(rng.random() < empty)
    for attempt in range(ATTEMPTS):
        ground, draws = _begin(pool, names, classes, template, main, rng, size, gsd_m)
        if attempt == ATTEMPTS - 1:
            draws.fill = SURE_FILL
        if nothing:
            ground.capacity = 0
        arrange(template, ground, draws)
        if nothing or any(thing.label == main for thing in ground.things):
            break
        if attempt == ATTEMPTS - 1:
            ground.put(draws.piece(main), 0.0, 0.0, float(rng.uniform(-math.pi, math.pi)))
        if attempt == ATTEMPTS - 2:
            template = FreeTemplate(
                pattern="free",
                name=template.name,
                labels=("*",),
                scene=template.scene,
                ground=template.ground,
                gsd_m=template.gsd_m,
                count=(1, max(1, min(3, template.count[1]))),
            )
    return _result(ground, template, nothing, main)


def _main_label(
    rng: np.random.Generator,
    names: Mapping[str, str],
    classes: ClassTable,
    templates: Sequence[LayoutTemplate],
    labels: Mapping[str, float] | None,
) -> str:
    if labels is None:
        weights = {
            name: 1.0 for name in names if any(suits(t, classes.resolve(name)) for t in templates)
        }
        if not weights:
            raise UsageError(
                f"no template of {', '.join(t.name for t in templates)} is made for the "
                f"pool's classes {', '.join(names)}",
                hint="add the template `free`",
            )
    else:
        weights = {}
        for label, weight in labels.items():
            entry = classes.find(label)
            if entry is None or entry.name not in names:
                raise UsageError(
                    f"class {label!r} is not in the pool; it has {', '.join(names)}",
                    hint="leave it out, or build the pool from samples that show it",
                )
            if not any(suits(t, entry) for t in templates):
                raise UsageError(
                    f"no template of {', '.join(t.name for t in templates)} is made for {label!r}",
                    hint="add the template `free`",
                )
            weights[entry.name] = weights.get(entry.name, 0.0) + float(weight)
    total = sum(weights.values())
    if total <= 0 or any(weight < 0 or not math.isfinite(weight) for weight in weights.values()):
        raise UsageError(f"class weights {dict(weights)} must be positive numbers")
    keys = list(weights)
    return keys[int(rng.choice(len(keys), p=[weights[k] / total for k in keys]))]


def _template(
    rng: np.random.Generator,
    templates: Sequence[LayoutTemplate],
    classes: ClassTable,
    label: str,
) -> LayoutTemplate:
    """One made for the class by name, else one for every class."""
    fitting = [t for t in templates if suits(t, classes.resolve(label))]
    chosen = [t for t in fitting if is_specific(t)] or fitting
    weights = np.array([t.weight for t in chosen])
    return chosen[int(rng.choice(len(chosen), p=weights / weights.sum()))]


def _begin(
    pool: MaskPool,
    names: Mapping[str, str],
    classes: ClassTable,
    template: LayoutTemplate,
    main: str,
    rng: np.random.Generator,
    size: tuple[int, int],
    gsd_m: float | None,
) -> tuple[Ground, Draws]:
    draws = Draws(
        pool=pool,
        names=names,
        classes=classes,
        rng=rng,
        size=size,
        main=main,
        others=[
            name
            for name in names
            if name != main and is_specific(template) and suits(template, classes.resolve(name))
        ],
        mix=template.mix,
        gsd_m=gsd_m,
        jitter=template.size_jitter,
        fill=FILL if template.truncate is None else 1.5,
    )
    leader = draws.leader()
    draws.like = leader.width_px
    if gsd_m is None and leader.gsd_m is not None:
        low, high = template.gsd_m or (0.0, math.inf)
        draws.gsd_m = min(max(leader.gsd_m, low), high)
    turn = float(rng.uniform(-math.pi, math.pi)) if template.turn == "any" else 0.0
    low_count, high_count = template.count
    capacity = int(rng.integers(max(low_count, 1), max(high_count, 1) + 1))
    ground = Ground(
        width=size[0],
        height=size[1],
        classes=classes,
        rng=rng,
        gsd_m=draws.gsd_m,
        turn_rad=turn,
        spacing_px=template.spacing_px,
        max_overlap=template.max_overlap,
        truncate=template.truncate,
        pad=template.pad,
        capacity=capacity,
    )
    return ground, draws


def _result(ground: Ground, template: LayoutTemplate, nothing: bool, main: str) -> PlannedLayout:
    instances = ground.instances()
    shrunk = sum(piece.shrunk for piece in ground.pieces)
    notes = []
    if nothing:
        notes.append("empty")
    elif not any(thing.label == main for thing in ground.things):
        notes.append(f"no room for {main}")
    if shrunk:
        notes.append(f"{shrunk} objects shrunk to fit {ground.width} x {ground.height} px")
    return PlannedLayout(
        layout=Layout(ground.width, ground.height, instances, ground.gsd_m, template.scene),
        template=template.name,
        sources=tuple(sorted({s for piece in ground.pieces for s in piece.mask.sources})),
        notes=tuple(notes),
        counts={"placed": len(ground.things), "shrunk": shrunk},
    )
