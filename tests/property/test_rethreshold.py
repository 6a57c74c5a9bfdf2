"""New thresholds over the columns of a part give what they give sample by sample."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsgen.errors import DataError
from rsgen.execution import Job, run_stage
from rsgen.filter import FilterStage
from rsgen.geometry import Box
from rsgen.records import Instance, Layout, Sample
from rsgen.scorers.base import Bound, Rule
from rsgen.scorers.judging import FAILED, Scored, judge, without_verdict
from rsgen.screening.checks import failed_rule
from rsgen.screening.columns import Columns
from rsgen.screening.quotas import Quotas, within_quotas
from rsgen.screening.rethreshold import judge_columns, within_quotas_by_columns
from rsgen.screening.tally import Tally
from rsgen.store import open_samples
from rsgen.tables import samples_from_table, samples_to_table
from tests.build import CLASSES, config, sample_run
from tests.property.test_records import instances as any_instances
from tests.property.test_records import samples as any_samples

QUICK = settings(max_examples=150, deadline=None, derandomize=True, database=None)
LEVELS = {"image": "image", "object": "instance", "other": "instance"}
LABELS = st.sampled_from(["plane", "airplane", "ship", "boat", "storage-tank"])
score = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 2.0, -3.5, 123456.0, float("inf")])
names = st.sampled_from(["image", "object", "other", "foreign", "weight"])
scores = st.dictionaries(names, score)
reason = st.sampled_from(
    [
        "object 0.1 (min 0.5)",
        "other 0.1 (min 0.5) -> drop",
        "image 0 (min 1), like s3",
        "object 1 of 2 objects fail (min 0.5)",
        "quota plane (max 3)",
        "failed image: OSError: gone",
        "failed other: ValueError: a: b",
        "seen by hand",
        "weight lost by hand",
    ]
)
reasons = st.lists(reason, max_size=3).map(tuple)
things = st.builds(
    replace,
    any_instances,
    label=LABELS,
    scores=scores,
    reasons=reasons,
    iscrowd=st.booleans(),
    origin=st.sampled_from(["annotation", "pool:a", "pool:b"]),
)
boxed = st.builds(
    Instance, LABELS, st.just(Box(1, 2, 5, 9)), scores=scores, reasons=st.just(()) | reasons
)
layouts = st.builds(
    lambda sample, found: replace(sample.layout, instances=tuple(found)),
    any_samples,
    st.lists(boxed | things, max_size=5),
)
filtered = st.builds(
    replace,
    any_samples,
    layout=layouts,
    scores=scores,
    reasons=reasons,
    verdict=st.sampled_from(["keep", "drop", "unknown"]),
)
share = st.sampled_from([0.0, 0.3, 0.5, 1.0])
bound = st.builds(
    Bound,
    st.none() | score,
    st.none() | score,
    st.dictionaries(st.sampled_from(CLASSES.names[:3]), score, max_size=2),
    high_by_class=st.dictionaries(st.sampled_from(CLASSES.names[:3]), score, max_size=2),
)
policy = st.sampled_from(["reject", "drop", "difficult"])
object_rules = st.builds(
    Rule, st.sampled_from(["object", "other"]), min=st.just(0.0), tolerate=share, policy=policy
)
weights = st.builds(Rule, st.sampled_from([*LEVELS]), min=st.just(0.0), full=st.just(1.0),
                    policy=st.just("weight"))  # fmt: skip
image_rules = st.just(Rule("image", min=0.0))
rules = st.lists(image_rules | object_rules | weights, max_size=3, unique_by=lambda r: r.name)
low = st.sampled_from([0.0, 0.1, 0.25, 0.5])
by_class = st.dictionaries(st.sampled_from(CLASSES.names[:3]), low, max_size=2)
weighing = st.builds(Bound, low, st.none(), by_class, st.sampled_from([0.5, 0.6, 3.0]), by_class)


def name_of(label: str) -> str:
    return CLASSES.resolve(label).name


def filtered_sample(number: int, *objects: dict[str, float], **more: Any) -> Sample:
    label = more.pop("label", "plane")
    found = tuple(
        Instance(label if k % 2 == 0 else "boat", Box(k, 0, k + 4, 4), scores=scores)
        for k, scores in enumerate(objects)
    )
    return Sample(f"s{number}", Layout(16, 16, found), **more)


def one_by_one(samples: list[Sample], *how: object) -> list[Sample]:
    judged = []
    for sample in samples:
        failed = dict(failed_rule(r) for r in sample.reasons if r.startswith(f"{FAILED} "))
        judged.append(judge(Scored(without_verdict(sample), failed), *how))  # type: ignore[arg-type]
    return judged


def bytes_of(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


@QUICK
@given(
    st.lists(filtered, max_size=6), rules, st.data(),
    st.builds(
        Quotas,
        st.dictionaries(st.sampled_from(["plane", "ship"]), st.integers(0, 4)),
        st.none() | st.integers(1, 2),
    ),
)  # fmt: skip
def test_columns_say_what_samples_say(
    samples: list[Sample], chosen: list[Rule], data: st.DataObject, quotas: Quotas
) -> None:
    """Catches a bound, policy, class or older reason that one of the two ways reads differently."""
    bounds = {r.name: data.draw(weighing if r.policy == "weight" else bound) for r in chosen}
    how = (chosen, bounds, LEVELS, name_of)
    wanted = within_quotas(one_by_one(samples, *how), Counter(), quotas, name_of)
    columns = Columns(samples_to_table(samples))
    judged = judge_columns(columns, *how)
    within_quotas_by_columns(columns, judged, Counter(), quotas, name_of)
    table = judged.table(columns)
    assert list(samples_from_table(table)) == wanted
    assert bytes_of(table) == bytes_of(samples_to_table(wanted))

    ones, all_at_once = (Tally(chosen, bounds, LEVELS, name_of) for _ in range(2))
    for sample in wanted:
        ones.add(sample)
    half = len(wanted) // 2
    for part in (wanted[:half], wanted[half:]):
        all_at_once.add_columns(Columns(samples_to_table(part)))
    for field in (
        "verdicts", "reasons", "object_reasons", "objects", "sound", "scores", "names", "weight"
    ):  # fmt: skip
        assert getattr(all_at_once, field) == getattr(ones, field), field


@pytest.mark.parametrize("by_class", [{}, {"plane": 0.5}], ids=["one bound", "by class"])
def test_a_label_that_is_no_class_is_told_where_classes_matter(by_class: dict[str, float]) -> None:
    samples = [filtered_sample(0, {"object": 0.2}, label="pier")]
    how = ([Rule("object", min=0.5)], {"object": Bound(0.5, None, by_class)}, LEVELS, name_of)
    columns = Columns(samples_to_table(samples))
    if by_class:
        with pytest.raises(DataError, match="pier"):
            judge_columns(columns, *how)
    else:
        found = judge_columns(columns, *how)
        assert found.verdicts == [s.verdict for s in one_by_one(samples, *how)] == ["drop"]


def test_the_command_writes_the_same_run_either_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches quotas that forget earlier parts, and a report or part that depends on the way."""
    samples = [
        filtered_sample(
            k,
            *({"contrast": 1.0 + (7 * k + j) % 9, "label-geometry": 1.0} for j in range(k % 4)),
            scores={"novelty-hash": (k % 7) / 20},
            verdict="keep",
            reasons=("failed integrity: OSError: gone",) if k % 11 == 0 else (),
            split="train",
        )
        for k in range(60)
    ]
    old = sample_run(tmp_path / "old", samples, command="filter", images=False).path
    rule = {"scorer": "contrast", "min": 4.0, "tolerate": 0.5}
    rules = [
        {"scorer": "integrity", "min": 0.5},
        {"scorer": "novelty-hash", "min": 0.1},
        {"scorer": "label-geometry", "min": 0.5, "policy": "drop"},
        {**rule, "policy": "difficult"},
    ]
    keys = {
        "filter.rescore": "none",
        "filter.rules": rules,
        "filter.quotas": {"plane": 25, "boat": 9},
        "execution.shard_size": 16,
    }
    found = {}
    for way in (True, False):
        monkeypatch.setattr(FilterStage, "by_columns", way)
        out = tmp_path / f"new-{way}"
        summary = run_stage(Job("filter", config(**keys), out, {"run": [old]}))
        files = sorted(p for p in out.rglob("*") if p.suffix in {".parquet", ".html"})
        report = (out / "report.json").read_text(encoding="utf-8")
        found[way] = (
            [p.read_bytes() for p in files], report, summary.counts, summary.tables,
            Counter(s.verdict for s in open_samples(out)),
        )  # fmt: skip
    assert found[True] == found[False]
    verdicts = found[True][-1]
    assert len(found[True][0]) == 5 and set(verdicts) == {"keep", "drop", "unknown"}
    assert any("quota" in row for row in summary.tables["reasons"])
