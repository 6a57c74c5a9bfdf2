"""Audits, promises and policies of the filter: what is refused, what is claimed, what is kept."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rsgen.errors import DataError, UsageError
from rsgen.execution import Job, run_stage
from rsgen.export import as_written
from rsgen.export.selection import Item
from rsgen.geometry import Box
from rsgen.images import write_png
from rsgen.records import Instance, Layout, Sample
from rsgen.reporting import RunSummary
from rsgen.scorers.base import Bound, Rule
from rsgen.scorers.judging import Scored, failed_policy, judge, without_verdict
from rsgen.screening.audit import strata_of
from rsgen.screening.promise import planted
from rsgen.settings import ExportConfig
from rsgen.store import is_committed, open_samples
from tests.build import CLASSES, config, sample_run
from tests.conftest import Result

SIDE = 48
CONTRAST = {"scorer": "contrast", "min": 3.0, "tolerate": 0.9}
AUDIT = {"filter.rules": [CONTRAST], "filter.draw_audit": 320}
PROMISE = {
    "filter.rules": [CONTRAST],
    "filter.rescore": "none",
    "filter.min_label_precision": 0.95,
}
PLACES = ((6, 6), (28, 6), (6, 28), (28, 28))


def scene(seed: int) -> tuple[np.ndarray, Layout, list[bool]]:
    """Four labels on noise; those whose object is faint are wrong, and not all of them."""
    rng = np.random.default_rng(seed)
    pixels = rng.normal(90, 3, (SIDE, SIDE, 3))
    things, right = [], []
    for x, y in PLACES:
        good = bool(rng.random() < 0.8)
        pixels[y : y + 12, x : x + 12] += rng.uniform(60, 120) if good else rng.uniform(12, 30)
        right.append(good)
        label = "plane" if rng.random() < 0.6 else "ship"
        things.append(Instance(label, Box(x, y, x + 12, y + 12)))
    return np.clip(pixels, 0, 255).astype(np.uint8), Layout(SIDE, SIDE, tuple(things)), right


def build(out: Path, count: int = 60, start: int = 0) -> tuple[Path, dict[tuple[str, int], bool]]:
    samples, truth = [], {}
    for k in range(count):
        pixels, layout, right = scene(start + k)
        name = f"images/{k:06d}.png"
        digest = write_png(out / name, pixels)
        samples.append(Sample(f"s{k}", layout, image=name, sha256=digest, split="train"))
        truth.update({(f"s{k}", place): value for place, value in enumerate(right)})
    run = sample_run(out, samples, command="generate", images=False)
    return run.path, truth


def run_filter(out: Path, run: Path, keys: dict[str, Any], **inputs: Path) -> RunSummary:
    given = {"run": [run], **{name: [path] for name, path in inputs.items()}}
    return run_stage(Job("filter", config(**keys), out, given))


def fill(
    path: Path, to: Path, verdict: Callable[[dict[str, str]], str], change: Any = None
) -> list[dict[str, str]]:
    with path.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    for row in rows:
        row["verdict"] = verdict(row)
    rows[0].update(change or {})
    with to.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return rows


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[tuple[str, int], bool]]:
    """A filter run that drew an audit of 320, and which labels are right."""
    root = tmp_path_factory.mktemp("audit")
    run, truth = build(root / "run", 160)
    summary = run_filter(root / "kept", run, AUDIT)
    assert Path(summary.artifacts["audit page"]).is_file()
    return root / "kept", truth


def said(truth: dict[tuple[str, int], bool]) -> Callable[[dict[str, str]], str]:
    def verdict(row: dict[str, str]) -> str:
        return "right" if truth[row["sample"], int(row["instance"])] else "Wrong "

    return verdict


# ---------------------------------------------------------------- the draw


def test_the_draw_is_of_kept_objects_by_stratum_with_empty_verdicts(drawn: Any) -> None:
    kept, _ = drawn
    with (kept / "audit.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert list(rows[0]) == ["run", "sample", "instance", "class", "stratum", "verdict"]
    assert Counter(row["stratum"] for row in rows) == {"plane": 160, "ship": 160}
    assert {row["verdict"] for row in rows} == {""}
    samples = {s.id: s for s in open_samples(kept)}
    for row in rows:
        instance = samples[row["sample"]].layout.instances[int(row["instance"])]
        assert instance.label == row["class"] and samples[row["sample"]].verdict == "keep"
        assert instance.scores["contrast"] >= 3.0
    page = (kept / "audit.html").read_text()
    assert page.count("<img") == 320 and "http" not in page


@pytest.mark.parametrize(
    ("count", "alone"), [(200, {"a"}), (79, set()), (240, {"a", "b"}), (320, {"a", "b", "c", "d"})]
)
def test_rare_classes_share_a_stratum(count: int, alone: set[str]) -> None:
    """Catches 200 rows over twenty classes, of which none can be promised anything."""
    strata = strata_of({"a": 900, "b": 500, "c": 40, "d": 3}, count)
    assert {name for name, stratum in strata.items() if name == stratum} == alone
    assert {stratum for name, stratum in strata.items() if name not in alone} <= {"others"}


# ---------------------------------------------------------------- the promise


def test_what_an_audit_promises_is_kept(drawn: Any, tmp_path: Path) -> None:
    kept, truth = drawn
    fill(kept / "audit.csv", tmp_path / "audit.csv", said(truth))
    summary = run_filter(tmp_path / "sure", kept, PROMISE, audit=tmp_path / "audit.csv")
    left = Counter(
        truth[sample.id, k]
        for sample in open_samples(tmp_path / "sure")
        for k, instance in enumerate(sample.layout.instances)
        if sample.verdict == "keep" and not instance.reasons
    )
    assert left[True] / left.total() >= 0.95 and left.total() > 100
    assert sum(truth.values()) / len(truth) < 0.9
    assert set(summary.tables["label precision"]) == {"plane", "ship"}
    line = str(summary.tables["label precision"]["plane"])
    assert line.startswith("at least 0.9") and "confidence 0.9" in line and "keeps" in line
    promise = json.loads((tmp_path / "sure/thresholds.json").read_text())["promise"]
    assert all(claim["threshold"] > 0 for claim in promise["claims"])
    assert sum(claim["kept"] for claim in promise["claims"]) == left.total()
    again = run_filter(tmp_path / "sure", kept, PROMISE, audit=tmp_path / "audit.csv")
    assert again.status == "no-op"


@pytest.mark.parametrize(
    ("verdict", "change", "error", "words"),
    [
        pytest.param(lambda row: "", {}, DataError, "no verdict", id="blanks"),
        pytest.param(lambda row: "right", {"verdict": ""}, DataError, ":2: no verdict", id="one"),
        pytest.param(lambda row: "maybe", {}, DataError, "unknown verdict 'maybe'", id="a word"),
        pytest.param(lambda row: "right", {"sample": "x"}, DataError, "was not drawn", id="an id"),
        pytest.param(lambda row: "right", {"instance": "a"}, DataError, "no number", id="a text"),
        pytest.param(lambda row: "right", {"stratum": "ship "}, DataError, "drawn", id="stratum"),
        pytest.param(lambda row: "right", {"run": "0/1"}, DataError, "drawn from '0/1'", id="run"),
        pytest.param(
            lambda row: "right" if int(row["instance"]) % 2 else "wrong", {}, UsageError,
            "at least 45 audited", id="half is wrong",
        ),
    ],
)  # fmt: skip
def test_what_an_audit_cannot_carry_is_refused(
    drawn: Any, tmp_path: Path, verdict: Any, change: Any, error: type[Exception], words: str
) -> None:
    kept, _ = drawn
    fill(kept / "audit.csv", tmp_path / "audit.csv", verdict, change)
    with pytest.raises(error, match=words):
        run_filter(tmp_path / "sure", kept, PROMISE, audit=tmp_path / "audit.csv")
    assert not (tmp_path / "sure").exists()


def test_a_mended_audit_goes_into_the_same_folder(
    drawn: Any, tmp_path: Path, cli_here: Callable[..., Result]
) -> None:
    """Catches an audit that is read when OUT is taken: its mended line was another request."""
    kept, truth = drawn
    audit, out = tmp_path / "audit.csv", tmp_path / "sure"
    line = ("filter", kept, "--rescore", "none", "--audit", audit)
    line = (*line, "--min-label-precision", 0.95, "--out", out)
    line = (*line, "-s", f"filter.rules={json.dumps([CONTRAST])}")
    for damage in ({"verdict": ""}, {"verdict": "maybe"}, {"sample": "x"}, {"run": "0/1"}):
        fill(kept / "audit.csv", audit, said(truth), damage)
        assert (cli_here(*line).code, out.exists()) == (3, False)
    fill(kept / "audit.csv", audit, lambda row: "wrong")
    assert (cli_here(*line).code, out.exists()) == (2, False)
    fill(kept / "audit.csv", audit, said(truth))
    assert cli_here(*line).code == 0 and is_committed(out)


def test_a_row_that_is_left_out_is_missed(drawn: Any, tmp_path: Path) -> None:
    """Catches an audit whose inconvenient rows were deleted."""
    kept, _ = drawn
    fill(kept / "audit.csv", tmp_path / "audit.csv", lambda row: "right")
    lines = (tmp_path / "audit.csv").read_text().splitlines()
    (tmp_path / "audit.csv").write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(DataError, match="is missing"):
        run_filter(tmp_path / "sure", kept, PROMISE, audit=tmp_path / "audit.csv")


@pytest.mark.parametrize(
    ("change", "audit", "words"),
    [
        pytest.param({"filter.rescore": "all"}, True, "are there already", id="not scored yet"),
        pytest.param({"filter.quotas": {"plane": 3}}, True, "quotas", id="with quotas"),
        pytest.param({"filter.min_label_precision": None}, True, "without", id="for nothing"),
        pytest.param({}, False, "needs an audit, or real", id="nothing to estimate with"),
    ],
)
def test_a_promise_without_its_ground_is_refused(
    drawn: Any, tmp_path: Path, change: dict[str, Any], audit: bool, words: str
) -> None:
    kept, _ = drawn
    inputs = {"audit": kept / "audit.csv"} if audit else {}
    with pytest.raises(UsageError, match=words):
        run_filter(tmp_path / "sure", kept, {**PROMISE, **change}, **inputs)
    assert not (tmp_path / "sure").exists()


def test_an_estimate_says_so(tmp_path: Path) -> None:
    """Right labels of real images against faults planted on them; nothing is promised."""
    run, _ = build(tmp_path / "run", 40)
    real, _ = build(tmp_path / "real", 40, start=500)
    run_filter(tmp_path / "kept", run, {"filter.rules": [CONTRAST]})
    keys = {**PROMISE, "filter.min_label_precision": 0.8}
    summary = run_filter(tmp_path / "guess", tmp_path / "kept", keys, real=real)
    (line,) = summary.tables["label precision"].values()
    assert str(line).startswith("estimated 0.") and "no bound" in str(line)
    assert any("is estimated, not promised" in note for note in summary.notes)


def test_planted_faults_change_every_label() -> None:
    _, layout, _ = scene(3)
    faulty = planted(Sample("s", layout), ["plane", "ship"], np.random.default_rng(0))
    for before, after in zip(layout.instances, faulty.layout.instances, strict=True):
        assert (before.label, before.box) != (after.label, after.box)


# ---------------------------------------------------------------- bounds and policies


def things(*scores: float, labels: str = "") -> Sample:
    names = labels.split() or ["plane"] * len(scores)
    return Sample(
        "s",
        Layout(9, 9, tuple(
            Instance(name, Box(0, 0, 4, 4), scores={"judge": score})
            for name, score in zip(names, scores, strict=True)
        )),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("policy", "scores", "verdict", "asked"),
    [
        ("reject", (0.9, 0.1), "drop", [None, None]),
        ("drop", (0.9, 0.1), "keep", [None, "drop"]),
        ("difficult", (0.1, 0.9), "keep", ["difficult", None]),
        ("drop", (0.1, 0.2), "drop", ["drop", "drop"]),
        ("difficult", (0.9, 0.8), "keep", [None, None]),
    ],
)
def test_a_policy_decides_between_image_and_object(
    policy: Any, scores: tuple[float, ...], verdict: str, asked: list[str | None]
) -> None:
    rule = Rule("judge", min=0.5, policy=policy)
    found = judge(Scored(things(*scores)), [rule], {"judge": Bound(0.5)}, {"judge": "instance"})
    assert found.verdict == verdict
    assert [failed_policy(i) for i in found.layout.instances] == asked
    assert without_verdict(found) == things(*scores)


def test_the_stricter_policy_of_two_counts() -> None:
    rules = [Rule("judge", min=0.5, policy="difficult"), Rule("judge", "two", 0.5, policy="drop")]
    sample = things(0.1, 0.9)
    marked = tuple(replace(i, scores={**i.scores, "two": 0.1}) for i in sample.layout.instances)
    sample = replace(sample, layout=replace(sample.layout, instances=marked))
    bounds = {"judge": Bound(0.5), "two": Bound(0.5)}
    found = judge(Scored(sample), rules, bounds, dict.fromkeys(bounds, "instance"))
    assert [failed_policy(i) for i in found.layout.instances] == ["drop", "drop"]


def test_a_class_has_its_own_bound_where_there_are_enough_of_it() -> None:
    """Catches a rare class that a common one's scores put out, and a quantile of three scores."""
    scores = {"plane": [0.8] * 60, "ship": [0.2] * 40, "tank": [0.01] * 5}
    bound = Rule("judge", quantile=0.1).bound(scores)
    assert bound.by_class == pytest.approx({"plane": 0.8, "ship": 0.2})
    assert bound.of("tank").low == bound.low == pytest.approx(0.2)
    assert Rule("judge", quantile=0.01).bound(scores).by_class == {}

    def canonical(label: str) -> str:
        return CLASSES.resolve(label).name

    sample = things(0.5, 0.5, labels="airplane boat")
    found = judge(
        Scored(sample), [Rule("judge", quantile=0.1, tolerate=0.9)], {"judge": bound},
        {"judge": "instance"}, canonical,
    )  # fmt: skip
    assert [bool(i.reasons) for i in found.layout.instances] == [True, False]
    assert found.layout.instances[0].reasons == ("judge 0.5 (min 0.8)",)


def test_an_image_rule_drops_no_objects(tmp_path: Path) -> None:
    run, _ = build(tmp_path / "run", 1)
    rules = [{"scorer": "integrity", "min": 0.5, "policy": "drop"}]
    with pytest.raises(UsageError, match="can be rejected, or given a weight"):
        run_filter(tmp_path / "kept", run, {"filter.rules": rules})


@pytest.mark.parametrize("default", ["difficult", "keep", "drop"])
def test_an_export_follows_the_policy_before_its_own_setting(default: Any) -> None:
    """Catches a rule's policy that the export's default overrules, and the reverse."""
    reasons = ("judge 0.1 (min 0.5) -> drop",), ("judge 0.1 (min 0.5) -> difficult",)
    sample = things(0.1, 0.1, 0.1, 0.9)
    marked = tuple(
        replace(instance, reasons=reason)
        for instance, reason in zip(
            sample.layout.instances, (*reasons, ("judge 0.1 (min 0.5)",), ()), strict=True
        )
    )
    sample = replace(sample, layout=replace(sample.layout, instances=marked))
    item = Item(0, 0, "s", "s", "synthetic", "train")
    written, skipped = as_written(sample, item, CLASSES, ExportConfig(failed_objects=default))
    difficult = [i.difficult for i in written.layout.instances]
    assert difficult == {
        "difficult": [True, True, False], "keep": [True, False, False], "drop": [True, False],
    }[default]  # fmt: skip
    assert skipped["failed a filter rule"] == (2 if default == "drop" else 1)
