"""The four named failures: hand cases, and sets that fail in one way each."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rsgen.detections import Detections
from rsgen.evaluation.base import CellResult, Evaluation, Images
from rsgen.evaluation.failures import CELL, density_rows, leakage, reextracted
from rsgen.judge.model import Judge
from rsgen.matching import asked_of
from rsgen.records import Layout
from tests import build
from tests.evaluation_build import evaluation, images_of, scenes, shuffled, untrained_judge

CLASSES = build.CLASSES


def asked(*places: tuple[float, float]) -> Any:
    found = tuple(build.instance("ship", x, y, 20, 12, 0.4, size=(256, 256)) for x, y in places)
    return asked_of(Layout(256, 256, found), CLASSES)


def detections(*places: tuple[float, float, float]) -> Detections:
    """(x, y, score) of ships."""
    truth = asked(*((x, y) for x, y, _ in places))
    scores = np.array([score for _, _, score in places])
    return Detections(truth.quads, truth.labels, scores, truth.headings)


def test_leakage_is_the_share_of_scores_outside() -> None:
    """0.9 inside, 0.6 and 0.1 outside; of the latter one is sure."""
    found = detections((50, 50, 0.9), (150, 150, 0.6), (200, 40, 0.1))
    one = leakage([found], [asked((50, 50), (90, 90))], 0.5)
    assert one.energy == pytest.approx(0.7 / 1.6)
    assert one.extra == pytest.approx(1 / 2)


def test_leakage_counts_from_the_grown_box() -> None:
    """A box of 20 x 12 at no angle, grown to 1.3: its border is 13 from the middle."""
    box = build.instance("ship", 50, 50, 20, 12, 0.0, size=(256, 256))
    truth = asked_of(Layout(256, 256, (box,)), CLASSES)
    for x, outside in ((62.5, 0.0), (63.5, 1.0)):
        assert leakage([detections((x, 50, 0.5))], [truth], 0.5).energy == outside


def test_leakage_of_nothing() -> None:
    empty = asked_of(Layout(256, 256), CLASSES)
    nothing = leakage([Detections.none()], [empty], 0.5)
    assert math.isnan(nothing.energy) and math.isnan(nothing.extra)
    assert leakage([detections((50, 50, 0.4))], [empty], 0.5).energy == 1.0


def test_found_shares_by_density() -> None:
    few = [(30.0, 30.0), (100.0, 30.0)]
    many = [(20.0 + 30 * (k % 8), 20.0 + 30 * (k // 8)) for k in range(24)]
    found = [
        detections(*((x, y, 0.9) for x, y in few)),
        detections(*((x, y, 0.9) for x, y in many[:6])),
    ]
    rows = density_rows(found, [asked(*few), asked(*many)], 0.5)
    assert rows["1-5 objects"] == {"images": 1, "asked": 2, "found": 1.0}
    assert rows["21-100 objects"] == {"images": 1, "asked": 24, "found": 0.25}
    assert set(rows) == {"1-5 objects", "21-100 objects"}


def drawn(shift: float, name: str = "generated", **keys: Any) -> Images:
    """Bright ships on a dark sea, beside their labels by `shift` pixels."""
    rng = np.random.default_rng(3)
    pairs = []
    for _ in range(4):
        image = rng.integers(20, 40, (96, 96, 3)).astype(np.uint8)
        things = []
        for cx, cy in ((26, 26), (66, 30), (46, 70)):
            turn = float(rng.uniform(-3, 3))
            thing = build.instance("ship", cx, cy, 26, 12, turn, size=(96, 96))
            other = build.instance("ship", cx + shift, cy, 26, 12, turn, size=(96, 96))
            assert other.mask is not None
            other.mask.paint(image, (220, 210, 200))
            things.append(replace(thing, **keys))
        pairs.append((image, Layout(96, 96, tuple(things))))
    return images_of(name, pairs)


def run_of(generated: Images, real: Images, folder: Path, judge: Judge | None = None) -> Evaluation:
    return evaluation(generated, real, real, folder, classes=CLASSES, judge=judge)


def test_masks_found_anew_are_those_that_were_drawn(tmp_path: Path) -> None:
    """Objects that stand beside their labels, or are not there, lose their masks' IoU."""
    means = {}
    for shift in (0.0, 5.0, 14.0):
        run = run_of(drawn(shift), drawn(0.0, "real"), tmp_path)
        means[shift] = reextracted(run.generated, run, skip=frozenset()).mean({"ship"})
    assert means[0.0] > 0.9 > 0.8 > means[5.0] > means[14.0]


@pytest.mark.parametrize("origin", ["box", "classical", "sam"], ids=str)
def test_masks_of_backends_are_no_ceiling(origin: str, tmp_path: Path) -> None:
    """A backend compared with itself is perfect and says nothing."""
    result = CELL.compute(run_of(drawn(0.0), drawn(0.0, "real", origin=origin), tmp_path), tmp_path)
    assert result.figures["structural distortion, real"] is None
    assert result.figures["structural distortion"] > 0.7  # type: ignore[operator]
    assert any("no ceiling" in note for note in result.notes)
    assert any("not measured" in note for note in result.notes)


def test_fallbacks_are_zeros_and_told_apart(tmp_path: Path) -> None:
    flat = replace(drawn(0.0), read=lambda sample: np.full((96, 96, 3), 90, np.uint8))
    result = CELL.compute(run_of(flat, drawn(0.0, "real"), tmp_path), tmp_path)
    assert result.figures["structural distortion"] == 0.0
    assert result.counts["of them fallbacks"] == result.counts["generated masks found anew"] == 12
    assert result.tables["structural distortion by class"]["without fallbacks"]["IoU"] is None


@dataclass
class Eye:
    """A judge whose detections are given; everything else is an untrained one's."""

    judge: Judge
    answers: dict[bytes, Detections]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.judge, name)

    def detect(self, images: Any) -> list[Detections]:
        return [self.answers[image.tobytes()] for image in images]


def seen(truth: Any) -> Detections:
    return Detections(truth.quads, truth.labels, np.full(len(truth), 0.9), truth.headings)


def answers(answer: Callable[[Any], Detections], folder: Path) -> CellResult:
    """The cell, when generated images get such answers and real ones perfect ones."""
    made, real = drawn(0.0), drawn(0.5, "real")
    given = {
        images.read(sample).tobytes(): one(asked_of(sample.layout, CLASSES))
        for images, one in ((made, answer), (real, seen))
        for sample in images.samples
    }
    eye: Any = Eye(untrained_judge(CLASSES), given)
    return CELL.compute(run_of(made, real, folder, eye), folder)


def test_lines_of_perfect_images_are_those_of_real_ones(tmp_path: Path) -> None:
    result = answers(seen, tmp_path)
    lines = result.tables["one line each"]
    assert set(lines) == {
        "control leakage", "structural distortion", "dense collapse", "feature mismatch",
    }  # fmt: skip
    assert lines["control leakage"]["generated"] == lines["control leakage"]["real"] == 0.0
    assert lines["dense collapse"]["generated"] == lines["dense collapse"]["real"] == 1.0


def test_leaked_and_lost_objects_show_in_their_lines(tmp_path: Path) -> None:
    def away(truth: Any) -> Detections:
        found = seen(truth)
        return replace(found, quads=found.quads + (300.0, 0.0))

    result = answers(away, tmp_path)
    assert result.figures["control leakage"] == 1.0
    assert result.figures["control leakage, real"] == 0.0
    assert result.figures["dense collapse"] == 0.0
    lost = answers(lambda truth: seen(truth).chosen([0]), tmp_path)
    assert lost.figures["control leakage"] == 0.0
    assert lost.figures["dense collapse"] == pytest.approx(1 / 3, rel=1e-3)


def test_features_of_another_world_are_a_mismatch_and_order_is_nothing(tmp_path: Path) -> None:
    real = scenes("real", range(16), 64)
    same = scenes("generated", range(40, 56), 64)
    dark = replace(same, read=lambda sample: same.read(sample) // 4)
    near, far = (
        CELL.compute(evaluation(made, real, real, tmp_path), tmp_path) for made in (same, dark)
    )
    gap = abs(near.figures["feature mismatch"])  # type: ignore[arg-type]
    assert far.figures["feature mismatch"] > 3 * gap  # type: ignore[operator]
    assert near.figures["feature mismatch, real"] == far.figures["feature mismatch, real"]
    again = CELL.compute(evaluation(shuffled(same), shuffled(real), real, tmp_path), tmp_path)
    assert again == near
