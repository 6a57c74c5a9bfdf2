"""The downstream table: exact labels of pasted objects, intervals by hand, cached trainings."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rsgen.data import TrainingImages
from rsgen.evaluation.copy_paste import CopyPaste, can_paste, paint
from rsgen.evaluation.gains import Outcome, Spread, gain_tables, mean_interval, verdict
from rsgen.geometry import heading_of
from rsgen.images import Pixels
from rsgen.judge.calibration import Calibration
from rsgen.judge.model import Judge, JudgeCard
from rsgen.records import Layout, Provenance, Sample
from rsgen.training.detector import Recipe, class_habits, new_objective
from tests.build import CLASSES, instance, layout
from tests.conftest import CommandLine, Result
from tests.toy_world import COLORS, FRONT, SIDE, samples, toy_run
from tests.toy_world import paint as toy_paint

TRAIN = samples(12, 0, "train")


def read(sample: Sample) -> Pixels:
    return toy_paint(sample.layout, TRAIN.index(sample))


def test_pasted_pixels_lie_where_the_labels_say() -> None:
    """Catches a turn of the pixels that differs from the labels': the class's colour must fill
    the moved mask, and its yellow front must lie where the heading points."""
    pasting, seen, headed = CopyPaste(TRAIN, CLASSES, seed=3), 0, 0
    for number in range(40):
        pasted = pasting.plan(number)
        image = paint(pasted, read).astype(int)
        for item in pasted.sample.layout.instances[len(pasted.base.layout.instances) :]:
            assert item.mask is not None and item.quad is not None and item.box is not None
            area = item.mask.to_array(SIDE, SIDE)
            own = np.abs(image - COLORS[item.label]).sum(axis=2) < 60
            front = np.abs(image - FRONT).sum(axis=2) < 60
            assert (own | front)[area].mean() > 0.55  # the rest is the soft border
            assert (own | front)[area].sum() > 0.5 * item.mask.area
            x, y = np.mean(item.quad, axis=0)
            assert item.box.x0 <= x <= item.box.x1 and item.box.y0 <= y <= item.box.y1
            rows, columns = np.nonzero(area)
            assert abs(columns.mean() + 0.5 - x) < 1.5 and abs(rows.mean() + 0.5 - y) < 1.5
            seen += 1
            if item.heading_rad is None:
                continue
            assert math.cos(item.heading_rad - heading_of(item.quad)) > 0.999
            rows, columns = np.nonzero(area & front)
            along = (columns.mean() + 0.5 - x) * math.cos(item.heading_rad)
            along += (rows.mean() + 0.5 - y) * math.sin(item.heading_rad)
            assert along > 2
            headed += 1
    assert seen > 15 and headed > 8


def test_pasted_objects_cover_no_labelled_one() -> None:
    pasting = CopyPaste(TRAIN, CLASSES, seed=4)
    for number in range(20):
        taken = np.zeros((SIDE, SIDE), int)
        for item in pasting.plan(number).sample.layout.instances:
            assert item.mask is not None
            taken += item.mask.to_array(SIDE, SIDE)
        assert taken.max() <= 1


def test_a_pasted_image_depends_on_its_number_alone() -> None:
    one, other = (CopyPaste(TRAIN, CLASSES, seed=5) for _ in range(2))
    later = [other.plan(k).sample for k in (7, 2)]
    assert [one.plan(k).sample for k in (2, 7)] == later[::-1]
    assert one.plan(2).sample != CopyPaste(TRAIN, CLASSES, seed=6).plan(2).sample


@pytest.mark.parametrize(
    ("change", "allowed"),
    [
        ({}, True),
        ({"origin": "box"}, False),  # would paste the ground around the object
        ({"mask": None}, False),
        ({"truncated": True}, False),
        ({"cx": 3.0}, False),  # cut by the image's edge
        ({"iscrowd": True}, False),
    ],
    ids=["whole", "filled box", "no mask", "truncated", "at the edge", "crowd"],
)
def test_what_may_be_pasted(change: dict[str, object], allowed: bool) -> None:
    item = instance(**change)  # type: ignore[arg-type]
    assert can_paste(item, layout((item,)), CLASSES) is allowed


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        # t(0.975, 2) = 4.302653; s = 1, so 4.302653 / sqrt(3)
        ([1.0, 2.0, 3.0], Spread(2.0, 2 - 2.484138, 2 + 2.484138, 3)),
        # t(0.975, 1) = 12.706205; s = sqrt(2) / 10
        ([0.5, 0.7], Spread(0.6, 0.6 - 1.2706205, 0.6 + 1.2706205, 2)),
        ([0.4, 0.4, 0.4], Spread(0.4, 0.4, 0.4, 3)),
        ([0.3], Spread(0.3, math.nan, math.nan, 1)),
        ([math.nan, 0.3], Spread(0.3, math.nan, math.nan, 1)),
        ([], Spread(math.nan, math.nan, math.nan, 0)),
    ],
    ids=["three", "two", "no spread", "one", "one known", "none"],
)
def test_intervals_by_hand(values: list[float], expected: Spread) -> None:
    found = mean_interval(values)
    assert found.count == expected.count
    for name in ("mean", "low", "high"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), nan_ok=True, abs=1e-6)


@pytest.mark.parametrize(
    ("difference", "said"),
    [
        (Spread(0.05, 0.01, 0.09, 3), "0.050 higher than with real images alone (95% interval "
         "+0.010 to +0.090, n=3): it pays"),
        (Spread(-0.05, -0.09, -0.01, 3), "it harms"),
        (Spread(0.05, -0.01, 0.11, 3), "no difference"),
        (Spread(0.05, math.nan, math.nan, 1), "one repetition"),
        (Spread(math.nan, math.nan, math.nan, 0), "nothing to compare"),
    ],
    ids=["pays", "harms", "unclear", "one", "none"],
)  # fmt: skip
def test_a_difference_in_words(difference: Spread, said: str) -> None:
    assert said in verdict("real + synthetic 1:1", difference)


def row(value: float | None) -> dict[str, object]:
    one = {"AP50": value, "oriented AP50": value}
    return {
        **one,
        "AP": value,
        "AP75": value,
        "classes": {"plane": one, "ship": {"AP50": None, "oriented AP50": None}},
    }


def test_gains_are_paired_by_repetition() -> None:
    """Repetitions differ much, arms little: an unpaired interval would hide the gain."""
    real = Outcome("real", 10, (row(0.2), row(0.5), row(0.8)))
    more = Outcome("real + synthetic 1:1", 20, (row(0.29), row(0.60), row(0.91)))
    figures, tables, sentences = gain_tables([real, more])
    assert figures["oriented AP50, real + synthetic 1:1"] == 0.6
    found = next(iter(tables.values()))["real + synthetic 1:1"]
    assert found["oriented AP50, to real"] == 0.1
    assert 0 < found["oriented AP50, low"] < 0.1  # type: ignore[operator]
    assert found["n"] == 3 and found["train images"] == 20
    assert found["AP, to real"] == found["AP75, to real"] == 0.1
    assert len(sentences) == 1 and sentences[0].endswith("it pays")
    assert list(tables["oriented AP50 by class"]) == ["plane"]  # no test image holds a ship


def test_arms_of_a_repetition_start_alike() -> None:
    """Only the images may differ: equal initial weights, whatever the set's size."""
    recipe = Recipe(4, 2, 64, 1e-3, 1.0, 10, seed=1)
    first, second = (
        new_objective(TrainingImages(some, read, CLASSES), 3, recipe, "downstream")
        for some in (TRAIN, TRAIN[:9])
    )
    for name, value in first.parameters().items():
        assert bool((value == second.parameters()[name]).all()), name


def untrained_judge(folder: Path) -> Path:
    """A judge folder; downstream takes only its side from it."""
    habits = class_habits(TRAIN, CLASSES)
    recipe = Recipe(1, 2, 64, 1e-3, 1.0, 10, seed=1)
    network = new_objective(TrainingImages(TRAIN, read, CLASSES), 3, recipe, "judge").network
    card = JudgeCard("evaluation", CLASSES, network.shape, habits, ("water",), Calibration(), 0.5,
                     "run", 64)  # fmt: skip
    return Judge(network, card).save(folder)


def test_downstream_goes_on_where_it_was_killed(
    cli: CommandLine, cli_here: Callable[..., Result], tmp_path: Path
) -> None:
    """Trainings that are done are kept; the table is that of an uninterrupted run. One of the
    generated images is laid out like a test image: nobody may learn from it."""
    toy_run(tmp_path / "real", [*TRAIN[:9], *samples(4, 2, "test")])
    made = samples(6, 3, "train", "made")
    leak = Provenance("synthetic", sources=("scene-test-001.png",))
    made.append(Sample("made-leak", Layout(SIDE, SIDE, ()), "x", provenance=leak, split="train"))
    toy_run(tmp_path / "made", made, command="generate")
    judge = untrained_judge(tmp_path / "judge")
    line = (
        "evaluate", tmp_path / "made", "--real", tmp_path / "real", "--judge", judge,
        "--metrics", "downstream", "-s", "evaluate.downstream_steps=2",
        "-s", "evaluate.downstream_seeds=1", "-s", "evaluate.downstream_ratios=[0.5,5]", "-q",
    )  # fmt: skip
    whole, out = tmp_path / "whole", tmp_path / "out"
    result = cli_here(*line, "--out", whole)
    assert result.code == 0, result
    cell = out / "cells" / "downstream"
    killed = cli.stop_when(
        lambda: len(list(cell.glob("*.json"))) >= 2, *line, "--out", out, number=signal.SIGKILL
    )
    assert killed.code == -signal.SIGKILL, killed
    before = {p: p.stat().st_mtime_ns for p in cell.glob("*.json")}
    again = cli_here(*line, "--out", out)
    assert again.code == 0, again
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert (out / "report.json").read_bytes() == (whole / "report.json").read_bytes()
    report = json.loads((whole / "report.json").read_text(encoding="utf-8"))
    found = report["cells"]["downstream"]
    table = next(iter(found["tables"].values()))
    # 9 real; 0.5 x 9 = 4 (even rounding); of 45 wanted there are 6 clean ones
    assert {arm: r["train images"] for arm, r in table.items()} == {
        "real": 9, "real + synthetic 1:0.5": 13, "real + synthetic 1:5": 15,
        "real + copies": 15, "real + copy-paste": 15,
    }  # fmt: skip
    notes = " ".join(found["notes"])
    assert "1 generated images are left out" in notes
    assert "6 generated images where 45 were asked for" in notes
    assert not list((cell / "state").glob("*"))
