"""Policy `weight`: what it gives by hand, and how far it is carried: run, why, COCO, training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rsgen.errors import UsageError
from rsgen.execution import Job, run_stage
from rsgen.formats.coco import FORMAT as COCO
from rsgen.formats.common import ReadRequest
from rsgen.formats.dota import FORMAT as DOTA
from rsgen.formats.holding import losses
from rsgen.geometry import Box
from rsgen.pipeline import run_command
from rsgen.records import Instance, Sample
from rsgen.scorers.base import Bound, Rule
from rsgen.scorers.judging import Scored, judge
from rsgen.scorers.weights import sample_weight, weights_of
from rsgen.store import open_samples
from rsgen.why import explain
from tests.build import CLASSES, config, instance, layout, sample, sample_run

LEVELS = {"look": "image", "copy": "image", "judge": "instance", "edge": "instance"}


def weigh(name: str, low: float, full: float) -> Rule:
    return Rule(name, min=low, full=full, policy="weight")


def scored(image: dict[str, float], *objects: dict[str, float]) -> Sample:
    things = [
        instance(label, scores=row)
        for label, row in zip(["plane", "ship", "ship"], objects, strict=False)
    ]
    return replace(sample("s", layout(things)), scores=image)


def after(one: Sample, *rules: Rule, **bounds: Bound) -> Sample:
    given = {rule.name: bounds.get(rule.name, rule.bound()) for rule in rules}
    return judge(Scored(one), rules, given, LEVELS, lambda label: CLASSES.resolve(label).name)


@pytest.mark.parametrize(
    ("score", "weight"),
    [(0.1, 0.0), (0.2, 0.0), (0.3, 0.25), (0.5, 0.75), (0.6, 1.0), (9.0, 1.0)],
)
def test_the_weight_rises_from_the_bound_to_full(score: float, weight: float) -> None:
    """Catches a weight that is not cut to [0, 1], and an image that is dropped all the same."""
    found = after(scored({"look": score}), weigh("look", 0.2, 0.6))
    assert found.scores["weight"] == pytest.approx(weight)
    assert (found.verdict, found.reasons) == ("keep", ())


def test_products_over_rules_and_means_over_objects() -> None:
    """By hand: objects 0.5 * 0.5 and 1; the image 0.8 * 0.5 * mean(0.25, 1) = 0.25."""
    one = scored(
        {"look": 0.8, "copy": 0.5}, {"judge": 0.5, "edge": 2.5}, {"judge": 1.0}, {"other": 1.0}
    )
    rules = [weigh("look", 0, 1), weigh("copy", 0, 1), weigh("judge", 0, 1), weigh("edge", 0, 5)]
    found = after(one, *rules)
    first, second, other = found.layout.instances
    assert (first.scores["weight"], second.scores["weight"]) == (0.25, 1.0)
    assert found.scores["weight"] == pytest.approx(0.8 * 0.5 * 0.625)
    assert not first.reasons and other.scores == {"other": 1.0}


def test_what_no_rule_scores_has_no_weight() -> None:
    """Catches zeros where a rule does not apply: stuff and crowds would weigh an image down."""
    found = after(scored({"copy": 0.5}, {"judge": 0.5}, {}), weigh("look", 0, 1))
    assert "weight" not in found.scores and sample_weight(found) == 1
    found = after(scored({}, {"judge": 0.5}, {}), weigh("judge", 0, 1))
    assert "weight" not in found.layout.instances[1].scores
    assert found.scores["weight"] == 0.5  # not the mean with an object that has none


def test_a_class_has_its_own_ends() -> None:
    own = Bound(0.0, None, {"plane": 0.5}, 1.0, {"plane": 0.9})
    found = after(scored({}, {"judge": 0.7}, {"judge": 0.7}), weigh("judge", 0, 1), judge=own)
    plane, ship = found.layout.instances
    assert plane.scores["weight"] == pytest.approx(0.5)
    assert ship.scores["weight"] == pytest.approx(0.7)


def test_another_rule_still_rejects() -> None:
    rules = [weigh("look", 0, 1), Rule("copy", min=0.1)]
    found = after(scored({"look": 0.5, "copy": 0.0}), *rules)
    assert found.verdict == "drop" and found.scores["weight"] == 0.5


def test_the_ends_are_quantiles_of_real_scores() -> None:
    """Of 0..100: 0 at the 10th part, 1 at the median; a class with few scores has those of all."""
    rule = Rule("judge", quantile=0.1, policy="weight")
    real = {"plane": np.arange(101.0).tolist(), "ship": [1000.0]}
    bound = rule.bound(real)
    assert bound.of("plane") == Bound(10.0, full=50.0)
    every = [*real["plane"], 1000.0]
    of_all = (float(np.quantile(every, 0.1)), float(np.quantile(every, 0.5)))
    assert (bound.of("ship").low, bound.of("ship").full) == of_all
    assert bound.passes(-1.0), "it rejects nothing"
    assert str(bound) == "weight 0 at 10.1, 1 at 50.5"


def test_equal_ends_are_a_step() -> None:
    """Catches a division by nothing where real scores are all alike."""
    ends = np.full(3, 2.0)
    values = np.array([1.0, 2.0, np.nan])
    np.testing.assert_array_equal(weights_of(values, ends, ends), [0.0, 1.0, np.nan])
    assert [Bound(2.0, full=2.0).weight(v) for v in values[:2]] == [0.0, 1.0]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        pytest.param({"min": 0.1}, "and no full", id="no upper end"),
        pytest.param({"min": 0.1, "full": 0.1}, "0 at 0.1 and 1 at 0.1", id="no room"),
        pytest.param({"quantile": 0.6}, "0 at 0.6 and 1 at 0.5", id="over the median"),
        pytest.param({"min": 0.1, "full": 1, "max": 2}, "policy weight, and max", id="max"),
        pytest.param(
            {"min": 0, "full": 1, "tolerate": 0.5}, "policy weight, and max", id="tolerate"
        ),
        pytest.param({"min": 0, "full": 1, "policy": "reject"}, "policy reject", id="only full"),
    ],
)
def test_what_cannot_be_a_weight_is_refused(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Rule("judge", **{"policy": "weight", **keys})


# ---------------------------------------------------------------- how far it is carried

WEIGH = {"policy": "weight", "min": 0.0}
RULES = [
    {"scorer": "contrast", "full": 30.0, **WEIGH},
    {"scorer": "integrity", "full": 2.0, **WEIGH},
]


@pytest.fixture(scope="module")
def weighed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A filter run with weights, filtered anew from its scores with another upper end."""
    root = tmp_path_factory.mktemp("weighed")
    rows = [sample(f"s{k}.png", layout([instance()])) for k in range(3)]
    real = sample_run(root / "real", rows).path
    run_stage(Job("filter", config(**{"filter.rules": RULES}), root / "old", {"run": [real]}))
    keys = {"filter.rules": [{**RULES[0], "full": 60.0}], "filter.rescore": "none"}
    summary = run_stage(Job("filter", config(**keys), root / "new", {"run": [root / "old"]}))
    assert any("kept images weigh" in note for note in summary.notes)
    return root


def test_the_run_keeps_weights_and_makes_them_anew(weighed: Path) -> None:
    """Catches weights of the run before that stay beside, or multiply into, new ones."""
    for old, new in zip(open_samples(weighed / "old"), open_samples(weighed / "new"), strict=True):
        assert old.verdict == new.verdict == "keep"
        (was,), (now,) = old.layout.instances, new.layout.instances
        assert was.scores["weight"] == pytest.approx(min(was.scores["contrast"] / 30, 1), rel=1e-5)
        assert now.scores["weight"] == pytest.approx(min(was.scores["contrast"] / 60, 1), rel=1e-5)
        half = min(old.scores["integrity"], 2) / 2
        assert old.scores["weight"] == pytest.approx(half * was.scores["weight"], rel=1e-5)
        assert new.scores["weight"] == now.scores["weight"]


def test_the_report_says_where_weights_begin_and_end(weighed: Path) -> None:
    """Catches a page that shows the lower end of a weight as a bound that rejects."""
    report = json.loads((weighed / "old" / "report.json").read_text(encoding="utf-8"))
    rule = report["rules"]["contrast"]
    assert (rule["bound"]["min"], rule["bound"]["full"]) == (0.0, 30.0)
    assert rule["passed"] == rule["scored"] == 3 and rule["policy"] == "weight"
    page = (weighed / "old" / "report.html").read_text(encoding="utf-8")
    assert "weight 0 at 0, 1 at 30" in page


def test_why_shows_the_weight_and_no_failure(weighed: Path) -> None:
    run = open_samples(weighed / "old")
    found = explain(run, next(iter(run)))
    rows = {row.rule: row for row in found.judged}
    assert rows["contrast"].ok and rows["contrast"].bound == "weight 0 at 0, 1 at 30"
    assert rows["weight"].ok is None


def test_coco_carries_weights_and_reads_them_back(weighed: Path) -> None:
    inputs = {"run": [weighed / "new"]}
    job = Job("export", config(**{"export.format": ("coco", "dota")}), weighed / "out", inputs)
    summary = run_command(job)
    (path,) = (weighed / "out").rglob("instances_train.json")
    written = json.loads(path.read_text(encoding="utf-8"))
    want = {s.sha256: s for s in open_samples(weighed / "new")}
    assert len(written["images"]) == len(want) == 3
    assert sorted(r["weight"] for r in written["images"]) == sorted(
        s.scores["weight"] for s in want.values()
    )
    folder = path.parent.parent
    read = list(COCO.read(ReadRequest(folder, classes=CLASSES)))  # type: ignore[misc]
    assert all(s.scores.keys() == {"weight"} for s in read)
    assert all(i.scores.keys() == {"weight"} for s in read for i in s.layout.instances)
    notes = " ".join(summary.notes)
    assert "coco cannot hold" in notes and "dota cannot hold" in notes
    coco, dota = (next(n for n in summary.notes if n.startswith(k)) for k in ("coco", "dota"))
    assert "weights" not in coco
    assert "3 image weights" in dota and "3 object weights" in dota


def test_the_listing_of_losses_counts_weights_apart_from_scores() -> None:
    thing = Instance("plane", Box(1, 1, 9, 9), scores={"weight": 0.5})
    one = sample("s", layout([thing]), scores={"weight": 0.5})
    assert not {k for k in losses(one, CLASSES, COCO) if "weights" in k or "scores" in k}
    lost = losses(one, CLASSES, DOTA)
    assert lost["image weights"] == lost["object weights"] == 1
    assert not lost["image scores"] and not lost["object scores"]


@pytest.mark.parametrize("value", [True, -0.1, 1.5, "0.5", None, [0.5]], ids=str)
def test_another_weight_in_a_coco_file_is_left_alone(tmp_path: Path, value: object) -> None:
    """Catches a reader that fails on, or samples by, what other tools mean by `weight`."""
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 4], "weight": value}
    file = tmp_path / "instances_train.json"
    image = {"id": 1, "file_name": "a.png", "width": 16, "height": 16, "weight": value}
    categories = [{"id": 1, "name": "plane"}]
    file.write_text(json.dumps({"images": [image], "annotations": [box], "categories": categories}))
    request = ReadRequest(file, classes=CLASSES, require_images=False)
    (read,) = COCO.read(request)  # type: ignore[misc]
    assert not read.scores and not read.layout.instances[0].scores
