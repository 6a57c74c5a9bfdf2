"""Difficulty: a detector's loss on the labels, by hand, and the band that a rule keeps of it."""

from __future__ import annotations

import math
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rsgen.errors import UsageError
from rsgen.geometry import Box
from rsgen.records import ClassTable, Instance, Layout, Sample
from rsgen.scorers.base import make_scorer
from tests.build_judge import save_judges

SCRIPT = Path(__file__).parents[1] / "outside_worker.py"
TABLE = ClassTable.of("plane", "ship", "storage-tank")
SIDE = 60
AT, THERE = (10, 10, 30, 30), (40, 40, 55, 55)


def red(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    pixels = np.zeros((1, SIDE, SIDE, 3), np.uint8)
    for x0, y0, x1, y1 in boxes:
        pixels[0, y0:y1, x0:x1, 0] = 255
    return pixels


def asked(*boxes: tuple[int, int, int, int], label: str = "plane") -> Sample:
    return Sample("s", Layout(SIDE, SIDE, tuple(Instance(label, Box(*b)) for b in boxes)))


def eyes(**options: Any) -> Any:
    """Its detector sees red as planes, with a score of 0.9."""
    line = "command: " + shlex.join([sys.executable, str(SCRIPT), "good"])
    options = {"look": "detection", "detector": line, "classes": TABLE, **options}
    return make_scorer("difficulty", options)


MOST = -math.log(1e-3)


@pytest.mark.parametrize(
    ("seen", "wanted", "loss"),
    [
        pytest.param(red(AT), asked(AT), -math.log(0.9), id="seen"),
        pytest.param(red(), asked(AT), MOST, id="not seen: a large loss, not an infinite one"),
        pytest.param(
            red(AT), asked(AT, THERE), (MOST - math.log(0.9)) / 2, id="the mean of two"
        ),
        pytest.param(red(AT), asked((10, 10, 30, 26)), -math.log(0.72), id="out of place"),
        pytest.param(red(AT), asked(), math.nan, id="nothing is asked"),
        pytest.param(red(AT), asked(AT, label="car"), math.nan, id="only what it does not know"),
    ],
)  # fmt: skip
def test_loss_by_hand(seen: np.ndarray, wanted: Sample, loss: float) -> None:
    (found,) = eyes().score(seen, [wanted])
    assert found == pytest.approx(loss, nan_ok=True)


def test_it_is_the_judges_answer_about_each_box(tmp_path: Path) -> None:
    """Catches chances of a neighbouring image, and a mean of chances in place of losses."""
    judge = str(save_judges(tmp_path, TABLE))
    pixels = np.random.default_rng(0).integers(0, 255, (3, SIDE, SIDE, 3), dtype=np.uint8)
    samples = [asked(AT), asked(AT, THERE), asked(THERE, label="ship")]
    found = make_scorer("difficulty", {"judge": judge}).score(pixels, samples)
    told = make_scorer("judge", {"judge": judge, "look": "verification"}).score(pixels, samples)
    assert found == pytest.approx([float(np.mean(-np.log(row))) for row in told], rel=1e-5)
    alone = [
        make_scorer("difficulty", {"judge": judge}).score(pixels[k : k + 1], samples[k : k + 1])[0]
        for k in range(3)
    ]
    assert found == pytest.approx(alone, rel=1e-4), "whoever else is in the batch"


def test_what_cannot_be_asked_is_refused() -> None:
    with pytest.raises(UsageError, match="answers no questions"):
        eyes(look="verification").check()
    with pytest.raises(UsageError, match="option look is 'loss'"):
        eyes(look="loss").check()
