"""Focus: mild blur is seen, whatever the picture shows; calm fields and low contrast are not it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from rsgen.errors import UsageError
from rsgen.execution import Job, run_stage
from rsgen.images import Pixels, write_png
from rsgen.records import Sample
from rsgen.scenes import SCENE_CLASSES, SCENE_TYPES, render_scene
from rsgen.scorers.base import Bound, Rule
from rsgen.scorers.judging import score_samples
from rsgen.scorers.pixels import Focus
from rsgen.scorers.rules import default_rules, rule_of
from rsgen.settings import RuleConfig
from rsgen.store import open_samples, read_failures
from tests.build import config, sample, sample_run


def blurred(image: Pixels, sigma: float) -> Pixels:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), dtype=np.uint8)


def scores(*images: Pixels) -> list[float]:
    return [float(Focus().score(image[None], [sample()])[0]) for image in images]


@pytest.fixture(scope="module")
def scenes() -> list[Pixels]:
    """Two of every scene type, 128 x 128."""
    kinds = list(SCENE_TYPES)
    return [render_scene(k, 128, scene=kinds[k % len(kinds)])[0] for k in range(12)]


def noise(contrast: float) -> Pixels:
    grey = np.random.default_rng(0).normal(128, contrast, (96, 96, 1))
    return np.clip(grey, 0, 255).astype(np.uint8).repeat(3, axis=2)


@pytest.mark.parametrize("sigma", [1.0, 1.5, 2.0])
@pytest.mark.parametrize("contrast", [15.0, 40.0])
def test_blur_leaves_one_over_its_width(contrast: float, sigma: float) -> None:
    """Catches a measure that contrast moves: an absolute bound would mean nothing."""
    (left,) = scores(blurred(noise(contrast), sigma))
    assert 0.7 / sigma < left < 1.3 / sigma


def test_every_sharp_scene_lies_over_every_blurred_one(scenes: list[Pixels]) -> None:
    """Catches what the variance of the Laplacian does: a busy scene, blurred, beats a calm one."""
    sharp = scores(*scenes)
    soft = scores(*(blurred(image, 1.0) for image in scenes))
    softer = scores(*(blurred(image, 1.5) for image in scenes))
    assert max(softer) < 0.8
    assert min(sharp) > 1.25 > max(soft)


def test_a_lone_object_on_a_calm_field_is_sharp_until_it_is_blurred() -> None:
    """Catches means over the image: fields without structure would fail open water."""
    image = np.full((256, 256, 3), 90, np.uint8)
    cv2.line(image, (40, 60), (58, 71), (200, 190, 180), 5, cv2.LINE_AA)
    sharp, soft = scores(image, blurred(image, 1.5))
    assert sharp > 0.9
    assert soft < 0.7


def test_jpeg_neither_hides_blur_nor_looks_like_it(scenes: list[Pixels]) -> None:
    def stored(image: Pixels) -> Pixels:
        data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
        return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), dtype=np.uint8)

    assert min(scores(*map(stored, scenes))) > 1.0
    assert max(scores(*(stored(blurred(image, 1.5)) for image in scenes))) < 0.8


@pytest.mark.parametrize("side", [1, 7, 16, 33])
def test_images_smaller_than_a_window_have_a_score(side: int) -> None:
    """Catches a window of no pixels, and a blank image that divides by nothing."""
    found = scores(noise(20)[:side, :side], np.full((side, side, 3), 70, np.uint8))
    assert np.isfinite(found).all()
    assert found[1] == 0


def test_scores_do_not_depend_on_the_batch(scenes: list[Pixels]) -> None:
    one = scores(*scenes)
    samples = [sample(f"{k}") for k in range(len(scenes))]
    for size in (1, 5, 12):
        found = score_samples(
            samples, {"focus": Focus()}, lambda s: scenes[int(s.id)], batch_size=size
        )
        assert [item.sample.scores["focus"] for item in found] == pytest.approx(one, rel=1e-5)


# ---------------------------------------------------------------- the bound


REAL = [1.0 + k / 10 for k in range(21)]


@pytest.mark.parametrize(
    ("keys", "low"),
    [
        pytest.param({"quantile": 0.05}, 1.1, id="real images alone"),
        pytest.param({"quantile": 0.05, "at_most": 0.9}, 0.9, id="real ones are much better"),
        pytest.param({"quantile": 0.05, "at_most": 1.5}, 1.1, id="real ones are no better"),
    ],
)
def test_at_most_limits_what_a_quantile_asks(keys: dict[str, float], low: float) -> None:
    """Catches new images that all fail because the camera of the real ones was better yet."""
    bound = rule_of(RuleConfig(scorer="focus", **keys)).bound({"": REAL})
    assert bound.low == pytest.approx(low)


def test_at_most_limits_every_class() -> None:
    real = {"plane": [float(k) for k in range(100)], "ship": [0.1] * 100}
    bound = Rule("contrast", quantile=0.5, at_most=2.0).bound(real)
    assert bound == Bound(0.1, None, {"plane": 2.0, "ship": 0.1})


def test_at_most_needs_a_quantile() -> None:
    with pytest.raises(UsageError, match=r"at_most 0\.9 and no quantile"):
        Rule("focus", min=0.5, at_most=0.9)


@pytest.mark.parametrize("task", ["classification", "detection", "segmentation"])
@pytest.mark.parametrize("real", [True, False])
def test_every_task_asks_for_focus(task: Any, real: bool) -> None:
    """Catches blurred images that pass because no default rule looks."""
    (rule,) = [r for r in default_rules(real=real, checkpoint=False, task=task)
               if r.scorer == "focus"]  # fmt: skip
    bound = rule.bound({"": [2.0, 2.5]} if real else None)
    assert 0.7 <= (bound.low or 0) <= 0.9


# ---------------------------------------------------------------- a filter run


RULES = [
    {"scorer": "focus", "min": 0.7},
    {"scorer": "aspect", "max": 30.0},
    {"scorer": "object-size", "min": 0.5},
    {"scorer": "foreground", "max": 1.0},
    {"scorer": "object-count", "max": 1000.0},
]


def test_a_run_of_rules_whatever_the_parts_and_one_broken_image(tmp_path: Path) -> None:
    """Catches scores that depend on parts or batches, and an unreadable image that is kept,
    dropped or stops the run."""
    made = [render_scene(k, 64 if k % 3 else 96) for k in range(9)]
    rows = []
    for k, (pixels, layout) in enumerate(made):
        name = f"images/{k}.png"
        image = blurred(pixels, 2) if k == 4 else pixels
        digest = write_png(tmp_path / "run" / name, image)
        rows.append(Sample(f"{k}", layout, name, sha256=digest, split="train"))
    run = sample_run(
        tmp_path / "run", rows, command="generate", images=False, classes=SCENE_CLASSES
    ).path
    (run / "images/7.png").write_bytes(b"no image")
    found = {}
    for size, batch in ((64, 16), (2, 3)):
        out = tmp_path / f"kept-{size}"
        keys: dict[str, Any] = {
            "filter.rules": RULES,
            "execution.shard_size": size,
            "execution.batch_size": batch,
            "execution.max_failure_rate": 0.5,
        }
        run_stage(Job("filter", config(**keys), out, {"run": [run]}))
        found[size] = list(open_samples(out))
        (failure,) = read_failures(out)
        assert failure.item == "7"
    assert found[64] == found[2]
    assert [f"{s.verdict}"[0] for s in found[64]] == list("kkkkdkkuk")
    assert found[64][4].reasons[0].startswith("focus")
    assert not found[64][7].scores
