"""Bounds on both sides: what is usual of real labels, by class, frozen and applied."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rsgen.errors import UsageError
from rsgen.execution import Job, run_stage
from rsgen.geometry import Box
from rsgen.mask import Mask
from rsgen.records import Instance, Layout, Sample
from rsgen.scorers.base import Bound, Rule
from rsgen.scorers.rules import rule_of
from rsgen.screening.thresholds import Thresholds
from rsgen.settings import RuleConfig
from rsgen.store import open_samples
from tests.build import config, sample_run

REAL = {"plane": [float(k) for k in range(101)], "ship": [1000.0] * 100, "car": [5.0, 6.0]}


def resolved(**keys: Any) -> Bound:
    return rule_of(RuleConfig(scorer="aspect", **keys)).bound(REAL)


def test_upper_is_a_quantile_of_the_class_itself() -> None:
    """Catches a bound of all classes that lets a plane be as long as a ship."""
    bound = resolved(quantile=0.05, upper=0.95)
    assert bound.of("plane").low == 5 and bound.of("plane").high == 95
    assert bound.of("ship").high == 1000
    # two cars cannot tell their 95 %
    assert "car" not in bound.high_by_class and bound.of("car").high == bound.high == 1000
    assert [bound.of("plane").passes(score) for score in (4, 5, 95, 96)] == [
        False,
        True,
        True,
        False,
    ]


def test_upper_alone_leaves_the_lower_side_free_or_fixed() -> None:
    assert resolved(upper=0.9).of("plane").low is None
    assert resolved(upper=0.9, min=3.0).of("plane") == Bound(3.0, 90.0)
    assert resolved(quantile=0.05, max=50.0).of("plane") == Bound(5.0, 50.0)


def test_a_quantile_that_a_class_cannot_tell_is_of_all() -> None:
    """Catches a maximum of 30 scores that is called their 99.9 %."""
    assert resolved(upper=0.999).high_by_class == {}


def test_both_sides_are_told_and_frozen() -> None:
    bound = resolved(quantile=0.05, upper=0.95)
    assert str(bound.of("plane")) == "min 5, max 95"
    assert "max 1000, by class 95 to 1000" in str(bound)
    kept = Thresholds.from_json(json.loads(json.dumps(Thresholds({"a": bound}, 3).to_json())))
    assert kept.bounds["a"] == bound


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"max": 3.0, "upper": 0.9}, "both are upper bounds"),
        ({"quantile": 0.9, "upper": 0.9}, "keeps nothing"),
        ({"quantile": 0.1, "upper": 0.9, "policy": "weight"}, "max, upper or tolerate"),
    ],
)
def test_bounds_that_cannot_be_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        Rule("aspect", **keys)
    assert message in f"{error.value.message} {error.value.hint}"


# ---------------------------------------------------------------- a filter run


def labelled(name: str, *boxes: tuple[int, int, int, int], gap: bool = False) -> Sample:
    """Planes with box-shaped masks; with a gap the masks are in two pieces."""
    things = []
    for x0, y0, x1, y1 in boxes:
        pixels = np.ones((y1 - y0, x1 - x0), bool)
        if gap:
            pixels[:, (x1 - x0) // 2] = False
        things.append(Instance("plane", Box(x0, y0, x1, y1), mask=Mask.from_array(pixels, x0, y0)))
    return Sample(name, Layout(64, 64, tuple(things)), f"{name}.png", split="train")


def test_unusual_labels_are_found_by_what_real_ones_are(tmp_path: Path) -> None:
    """Catches upper quantiles that need no --real, or that nobody applies or can re-apply."""
    rng = np.random.default_rng(0)
    usual = [
        labelled(f"r{k}", *((4, 4, 4 + int(w), 14) for w in rng.integers(10, 21, 1 + k % 3)))
        for k in range(60)
    ]
    real = sample_run(tmp_path / "real", usual).path
    odd = [
        labelled("usual", (4, 4, 19, 14)),
        labelled("long", (4, 4, 60, 14)),
        labelled("cut", (4, 4, 19, 14), gap=True),
        labelled("many", *[(4, 4, 19, 14)] * 9),
        labelled("full", (0, 0, 64, 60)),
    ]
    made = sample_run(tmp_path / "made", odd, command="generate").path
    sides = {"quantile": 0.01, "upper": 0.99}
    keys: dict[str, Any] = {
        "filter.rules": [
            {"scorer": "aspect", **sides},
            {"scorer": "mask-parts", "upper": 0.99},
            {"scorer": "object-count", **sides},
            {"scorer": "foreground", "upper": 0.99},
        ]
    }
    with pytest.raises(UsageError, match="take quantiles of real images"):
        run_stage(Job("filter", config(**keys), tmp_path / "x", {"run": [made]}))
    inputs = {"run": [made], "real": [real]}
    run_stage(Job("filter", config(**keys), tmp_path / "kept", inputs))
    found = {s.id: [r.split()[0] for r in s.reasons] for s in open_samples(tmp_path / "kept")}
    assert found == {
        "usual": [],
        "long": ["aspect", "foreground"],
        "cut": ["mask-parts"],
        "many": ["object-count"],
        "full": ["foreground"],
    }
    keys |= {"filter.rescore": "none"}
    inputs = {"run": [tmp_path / "kept"], "real": [real]}
    run_stage(Job("filter", config(**keys), tmp_path / "again", inputs))
    again = {s.id: [r.split()[0] for r in s.reasons] for s in open_samples(tmp_path / "again")}
    assert again == found
    rules = json.loads((tmp_path / "again/report.json").read_text())["rules"]
    assert rules["aspect"]["passed"] == rules["aspect"]["scored"] - 1
