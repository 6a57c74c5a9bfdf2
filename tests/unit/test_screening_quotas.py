"""Quotas: a class, and a mask of the pool, give so many kept objects and no more."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rsgen.execution import Job, run_stage
from rsgen.geometry import Box
from rsgen.records import Instance, Layout, Sample
from rsgen.screening.quotas import Quotas, within_quotas
from rsgen.store import open_samples
from tests.build import config, sample_run


def of(name: str, *masks: str, label: str = "plane", **more: Any) -> Sample:
    """A kept sample of objects with these masks of the pool; '-' came from no pool."""
    things = [
        Instance(label, Box(4, 4, 9, 9), origin="annotation" if m == "-" else f"pool:{m}", **more)
        for m in masks
    ]
    layout = Layout(64, 64, tuple(things))
    return Sample(name, layout, f"{name}.png", split="train", verdict="keep")


def kept(samples: list[Sample], quotas: Quotas) -> list[str]:
    judged = within_quotas(samples, Counter(), quotas, str)
    return [sample.id for sample in judged if sample.verdict == "keep"]


@pytest.mark.parametrize(
    ("samples", "most", "left"),
    [
        pytest.param([of("1", "a"), of("2", "a"), of("3", "a")], 2, "12", id="the third goes"),
        pytest.param([of("1", "a"), of("2", "b"), of("3", "c")], 1, "123", id="three masks"),
        pytest.param([of("1", "a", "a"), of("2", "a")], 1, "2", id="twice in one image"),
        pytest.param([of("1", "-", "-"), of("2", "-")], 1, "12", id="labels of no pool"),
        pytest.param([of("1", "a", "b"), of("2", "b"), of("3", "a")], 1, "1", id="all count"),
        # what is dropped for one mask uses up none of another
        pytest.param([of("1", "a"), of("2", "a", "b"), of("3", "b")], 1, "13", id="in order"),
        pytest.param(
            [of("1", "a", iscrowd=True), of("2", "a")], 1, "12", id="a crowd is no object"
        ),
    ],
)
def test_a_mask_gives_so_many(samples: list[Sample], most: int, left: str) -> None:
    """Catches one silhouette that a detector sees a thousand times."""
    assert kept(samples, Quotas(mask=most)) == list(left)
    assert kept(samples, Quotas()) == [sample.id for sample in samples]


def test_class_and_mask_count_side_by_side() -> None:
    samples = [of("1", "a"), of("2", "b"), of("3", "a", label="ship"), of("4", "c", label="ship")]
    assert kept(samples, Quotas({"plane": 1}, 1)) == ["1", "4"]
    (_, second, third, _) = within_quotas(samples, Counter(), Quotas({"plane": 1}, 1), str)
    assert second.reasons == ("quota plane (max 1)",)
    assert third.reasons == ("quota pool:a (max 1)",)


@pytest.mark.parametrize("rescore", ["all", "none"])
def test_a_quota_holds_across_parts(tmp_path: Path, rescore: str) -> None:
    """Catches a mask that starts anew with every part, whichever way verdicts are made."""
    samples = [of(f"{k}", "ab"[k % 2], scores={"label-geometry": 1.0}) for k in range(12)]
    run = sample_run(tmp_path / "run", samples, command="filter").path
    keys: dict[str, Any] = {
        "filter.rules": [{"scorer": "label-geometry", "min": 0.1}],
        "filter.mask_quota": 2,
        "filter.rescore": rescore,
        "execution.shard_size": 3,
    }
    run_stage(Job("filter", config(**keys), tmp_path / "kept", {"run": [run]}))
    found = [s.id for s in open_samples(tmp_path / "kept") if s.verdict == "keep"]
    assert found == ["0", "1", "2", "3"]
