"""benchmarks/r_filter.py: bounds keep to the asked share, and what counts as caught, by hand."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from rsgen.geometry import Box
from rsgen.records import Instance, Layout, Sample
from rsgen.scorers.base import Bound, Rule
from rsgen.screening.columns import Columns
from rsgen.tables import samples_to_table

FOLDER = Path(__file__).parents[2] / "benchmarks"
IMAGE = Rule("integrity", min=0.5)
OBJECTS = Rule("contrast", min=3.0, tolerate=0.4)
FREE_IMAGE = Rule("integrity", quantile=0.01)
FREE_OBJECTS = Rule("contrast", quantile=0.01, tolerate=0.4)


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    before = list(sys.path), set(sys.modules)
    sys.path.insert(0, str(FOLDER))
    import r_filter

    yield r_filter
    sys.path[:] = before[0]
    for name in {"r_filter", "faults", "sets", "cells"} - before[1]:
        sys.modules.pop(name, None)


def sample(image: float, *objects: float | None) -> Sample:
    things = tuple(
        Instance("plane", Box(0, 0, 9, 9), scores={} if score is None else {"contrast": score})
        for score in objects
    )
    return Sample("s", Layout(16, 16, things), scores={"integrity": image})


def columns(*samples: Sample) -> Columns:
    return Columns(samples_to_table(samples))


def clean(count: int = 400) -> Columns:
    rng = np.random.default_rng(0)
    return columns(
        *(
            sample(float(rng.random()), *rng.normal(10, 3, int(rng.integers(0, 6))).tolist())
            for _ in range(count)
        )
    )


@pytest.mark.parametrize("names", ["image", "objects", "image objects"])
def test_bounds_cut_off_what_was_asked_for(bench: ModuleType, names: str) -> None:
    """Catches shares that are counted by rule instead of together, and a search that stops."""
    given = clean()
    rules = [{"image": FREE_IMAGE, "objects": FREE_OBJECTS}[name] for name in names.split()]
    bounds = bench.Variant("x", tuple(rules)).bounds(given, 0.05)
    assert 0.03 < max(bench.false_rates(given, rules, bounds)) <= 0.05


def test_rules_of_objects_leave_room_for_those_of_images(bench: ModuleType) -> None:
    """Catches object rules that reject as many images as may be, so that no other rule can."""
    given, rules = clean(), [FREE_IMAGE, FREE_OBJECTS]
    bounds = bench.Variant("x", tuple(rules)).bounds(given, 0.05)
    alone = bench.false_rates(given, [FREE_OBJECTS], bounds)
    assert alone[0] <= 0.025
    assert bench.false_rates(given, [FREE_IMAGE], bounds)[0] > 0.01


def test_a_fixed_bound_of_the_preset_stays(bench: ModuleType) -> None:
    """Catches a share of scores that are mostly equal, which cuts off all of them at once."""
    bounds = bench.Variant("x", (IMAGE, FREE_OBJECTS)).bounds(clean(), 0.05)
    assert bounds["integrity"] == Bound(0.5)
    assert bounds["contrast"].low not in (None, 3.0)


def test_false_rates_by_hand(bench: ModuleType) -> None:
    """Four images, one is rejected; six objects, one is marked, and tolerated."""
    given = columns(sample(1, 1, 9, 9), sample(0, 9), sample(1), sample(1, 9, None))
    bounds = {"integrity": Bound(0.5), "contrast": Bound(3.0)}
    images, objects = bench.false_rates(given, [IMAGE, OBJECTS], bounds)
    assert (images, objects) == (1 / 4, 1 / 6)


def test_caught_is_rejected_or_marked_at_the_planted_object(bench: ModuleType) -> None:
    """Catches another object's mark, and sound images of a set, that count as caught."""
    given = columns(
        sample(1, 1, 9, 9),  # its planted object is marked
        sample(1, 1, 9, 9),  # another one is
        sample(0, 9),  # rejected
        sample(1),  # neither
        sample(0, 9),  # sound: the original of a duplicate
    )
    held = bench.Set(given, (True, True, True, True, False), (0, 4, None, None, None))
    bounds = {"integrity": Bound(0.5), "contrast": Bound(3.0)}
    assert bench.caught(held, [IMAGE, OBJECTS], bounds) == 2 / 4
    assert bench.caught(bench.Set(given, (False,) * 5, (None,) * 5), [IMAGE], bounds) is None


def test_rows_are_of_the_presets_as_they_are(bench: ModuleType) -> None:
    """Catches a rule that a preset has gained and the table leaves out."""
    names = [variant.name for variant in bench.variants()]
    for rule in bench.preset("detection"):
        assert f"detection: {rule.name} off" in names
    every = {r.name for task in bench.TASKS for r in bench.preset(task)}
    assert {f"{name} alone" for name in every} <= set(names)
    assert len(names) == len(set(names))
