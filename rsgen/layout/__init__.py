"""Planners: what the next image shows, and where.

plan_from_pool(pool, classes, templates, rng, size, gsd_m=None, labels=None, empty=0.0)
    a new layout: masks of the pool put down by a scene template.
plan_from_layout(sample, pool, rng, *, mode="resample", allow_same_source=False, classes=None)
    a given layout with other shapes ("resample"), or with its objects moved, turned, resized,
    swapped, dropped and doubled ("perturb").
load_templates(names, classes)
    layout templates by name or file; without names all that suit the classes.

All return or take plain records; every result is a function of the generator alone. An object's
mask always is the canonical mask mapped onto its label's corners by one affine, so labels are
true by construction. `PlannedLayout` says whose masks were used.
"""

from rsgen.layout.from_pool import PlannedLayout, plan_from_pool
from rsgen.layout.from_real import Perturbation, plan_from_layout
from rsgen.layout.place import place_mask, placement
from rsgen.layout.template import LayoutTemplate, layout_template_names, load_templates

__all__ = [
    "LayoutTemplate",
    "Perturbation",
    "PlannedLayout",
    "layout_template_names",
    "load_templates",
    "place_mask",
    "placement",
    "plan_from_layout",
    "plan_from_pool",
]
