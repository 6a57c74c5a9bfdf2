"""The filter's report: pass rates, margins, histograms; what the page shows and does not need."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rsgen.geometry import Box
from rsgen.records import Instance, Layout, Sample
from rsgen.scorers.base import Bound, Rule
from rsgen.screening.tally import Tally, histogram
from tests.unit.test_screening import CONTRAST, build, run_filter

LEVELS = {"image": "image", "object": "instance"}


def sample(image: float | None, *objects: float, verdict: str = "keep") -> Sample:
    things = tuple(
        Instance(
            "plane" if k % 2 == 0 else "ship", Box(0, 0, 4, 4), scores={"object": score},
            reasons=("object 0 (min)",) if score < 0.5 else (),
        )
        for k, score in enumerate(objects)
    )  # fmt: skip
    scores = {} if image is None else {"image": image}
    reasons = () if verdict == "keep" else ("image 0 (min 1)",)
    return Sample(
        "s",
        Layout(8, 8, things),
        scores=scores,
        verdict=verdict,
        reasons=reasons,  # type: ignore[arg-type]
    )


def tally(*samples: Sample, tolerate: float = 0.0) -> Tally:
    bounds = {"image": Bound(1.0, 4.0), "object": Bound(0.5, None, {"ship": 0.1})}
    rules = [Rule("image", min=1.0, max=4.0), Rule("object", min=0.5, tolerate=tolerate)]
    found = Tally(rules, bounds, LEVELS, str)
    for one in samples:
        found.add(one)
    return found


def test_pass_rates_are_by_class_and_its_own_bound() -> None:
    found = tally(sample(2, 0.6, 0.2), sample(5, 0.4, 0.05, verdict="drop"), sample(None))
    assert found.passed("image") == {"": (2, 1)}
    assert found.passed("object") == {"plane": (2, 1), "ship": (2, 1)}
    assert found.verdicts == {"keep": 2, "drop": 1} and found.reasons == {"image": 1}
    assert found.sound == {"plane": 1, "ship": 0}
    assert found.object_reasons == {"object": 3}


def test_margins_are_under_zero_exactly_where_a_bound_is_broken() -> None:
    """Catches borderline pages full of images whose score is the best there is."""
    images = [0.2, 0.9, 1.0, 1.5, 2.0, 4.0, 4.5, 9.0]
    found = tally(*(sample(v) for v in images), sample(None)).margins()[0]
    assert np.isnan(found[-1])
    assert [m < 0 for m in found[:-1]] == [v < 1 or v > 4 for v in images]
    assert found[0] < found[1] and found[7] < found[6]  # further out is worse
    assert found[2] == found[5] < found[3]  # on the bound is nearest


def test_an_image_is_as_far_as_the_object_that_decides() -> None:
    """Catches "worst" images that were kept: one failing object of many is tolerated."""
    rows = [sample(2, 0.9, 0.9), sample(2, 0.9, 0.05), sample(2, 0.3, 0.05), sample(5, 0.3, 0.05)]
    found, failed = tally(*rows).margins()
    assert found[0] > 0 > max(found[1:]) and failed.tolist() == [0, 1, 1, 2]
    found, failed = tally(*rows, tolerate=0.5).margins()
    assert min(found[:2]) > 0 > max(found[2:]) and failed.tolist() == [0, 0, 1, 2]
    assert tally(*rows, tolerate=1.0).margins()[1].tolist() == [0, 0, 0, 1]


def test_histograms_share_their_bins() -> None:
    real = np.linspace(0, 1, 101)
    found = histogram(np.linspace(1, 2, 500), real.tolist(), bins=10)
    assert sum(found["generated"]) == pytest.approx(1) == sum(found["real"])
    assert found["edges"][0] == pytest.approx(0.005) and len(found["edges"]) == 11
    assert sum(found["real"][:5]) > 0.9 and sum(found["generated"][5:]) > 0.9
    one = histogram([2.0, 2.0], ())
    assert "real" not in one and sum(one["generated"]) == 1


def test_a_run_writes_both_and_the_page_needs_nothing_else(tmp_path: Path) -> None:
    run, _ = build(tmp_path / "run", 30)
    real, _ = build(tmp_path / "real", 20, start=700)
    rules = [
        {"scorer": "integrity", "min": 0.5},
        {**CONTRAST, "min": None, "quantile": 0.3, "tolerate": 0.5},
    ]
    summary = run_filter(tmp_path / "kept", run, {"filter.rules": rules}, real=real)
    report = json.loads(Path(summary.artifacts["report"]).read_text())
    contrast = report["rules"]["contrast"]
    assert contrast["scored"] == 120 and contrast["policy"] == "reject"
    by_class = contrast["by_class"]
    assert sum(row["passed"] for row in by_class.values()) == contrast["passed"]
    assert contrast["passed"] == 120 - contrast["failed_objects"]
    assert len(contrast["histogram"]["real"]) == len(contrast["histogram"]["generated"])
    assert report["rules"]["integrity"]["histogram"]["real"]
    assert len(report["worst"]) == min(summary.counts["dropped"], 20)
    assert len(report["worst"]) > 0 and len(report["borderline"]) == 20
    assert all(row["margin"] < 0 for row in report["worst"])
    page = Path(summary.artifacts["report page"]).read_text()
    assert page.count("<img") == len(report["worst"]) + len(report["borderline"])
    assert "http" not in page and "<script" not in page and "<polyline" in page
