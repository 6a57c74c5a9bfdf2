"""Traces of codec, blur and noise, and the classifier that is to see them alone."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from rsgen.errors import DataError
from rsgen.evaluation import suspicion
from rsgen.evaluation.base import Images
from rsgen.evaluation.suspicion import CELL, TraceSet, separability
from rsgen.evaluation.traces import GROUPS, traces
from rsgen.images import Pixels
from rsgen.records import Sample
from tests.evaluation_build import changed, evaluation, scene, scenes, shuffled

NAMES = [name for names in GROUPS.values() for name in names]


def jpeg(quality: int) -> Callable[[Pixels], Pixels]:
    def change(image: Pixels) -> Pixels:
        kept = io.BytesIO()
        Image.fromarray(image).save(kept, "JPEG", quality=quality)
        return np.array(Image.open(kept))

    return change


def blurred(image: Pixels) -> Pixels:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), 1.0))


def noisy(image: Pixels) -> Pixels:
    rng = np.random.default_rng(int(image.sum()))
    return np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)


def number(image: Pixels, name: str) -> float:
    return float(traces(image)[NAMES.index(name)])


@pytest.mark.parametrize("seed", [1, 2, 3], ids=str)
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("8 px blocks, grey", jpeg(30)),
        ("8 px blocks, colour", jpeg(60)),
        ("gaps in cosine coefficients", jpeg(50)),
        ("high coefficients that are zero", jpeg(70)),
        ("unused grey levels", lambda i: i // 4 * 4),
        ("loss when blurred again", blurred),
        ("noise (Immerkaer)", noisy),
        ("noise (diagonal differences)", noisy),
        ("noise in flat places", noisy),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_a_trace_rises_with_what_it_is_named_for(
    name: str, change: Callable[[Pixels], Pixels], seed: int
) -> None:
    image, _ = scene(seed, 128)
    assert number(change(image), name) > number(image, name)


def test_blur_takes_the_high_frequencies() -> None:
    image, _ = scene(4, 128)
    assert number(blurred(image), "power at 3/8 to 1/2") < number(image, "power at 3/8 to 1/2") - 1
    assert number(blurred(image), "Laplacian to variance") < number(image, "Laplacian to variance")


def test_noise_is_measured_in_grey_levels() -> None:
    """On a flat image both estimates give the spread that was put there (here of one channel)."""
    rng = np.random.default_rng(0)
    grey = np.clip(rng.normal(128, 5, (128, 128, 1)).round(), 0, 255).astype(np.uint8)
    image = np.repeat(grey, 3, axis=2)
    assert np.exp(number(image, "noise (Immerkaer)")) == pytest.approx(5, rel=0.05)
    assert np.exp(number(image, "noise (diagonal differences)")) == pytest.approx(5, rel=0.1)
    assert number(image, "noise of red and green") == pytest.approx(1)


def test_blocks_are_found_at_any_offset() -> None:
    """Tiles of a compressed scene begin anywhere in its blocks."""
    image = jpeg(20)(scene(5, 160)[0])
    whole = number(image[:128, :128], "8 px blocks, grey")
    assert number(np.ascontiguousarray(image[3:131, 5:133]), "8 px blocks, grey") == pytest.approx(
        whole, rel=0.25
    )


@pytest.mark.parametrize("level", [0, 128, 255], ids=str)
def test_a_flat_image_has_numbers(level: int) -> None:
    """Ratios of nothing to nothing would stop the whole evaluation."""
    assert np.isfinite(traces(np.full((32, 40, 3), level, np.uint8))).all()


def gaussians(count: int, shift: float, seed: int, scenes_of: int = 1) -> TraceSet:
    values = np.random.default_rng(seed).normal(shift, 1, (count, 3))
    names = tuple(f"{seed}-{k // scenes_of}" for k in range(count))
    samples = tuple(Sample(id=f"{seed}-{k}", layout=None) for k in range(count))  # type: ignore[arg-type]
    return TraceSet(values, names, samples)


def test_one_set_in_two_is_not_told_and_two_sets_are() -> None:
    columns = [0, 1, 2]
    same = [
        separability(gaussians(60, 0, s), gaussians(60, 0, 100 + s), columns, s)[0]
        for s in range(8)
    ]
    assert np.mean(same) == pytest.approx(0.5, abs=0.05)
    area, decisions = separability(gaussians(60, 1, 1), gaussians(60, 0, 2), columns, 0)
    # the best possible AUC of two Gaussians: the normal distribution at d / sqrt(2)
    assert area == pytest.approx(0.89, abs=0.05)
    truth = np.repeat([1, 0], 60)
    assert roc_auc_score(truth, decisions) == pytest.approx(area, abs=0.04)


def test_scenes_do_not_leak_between_folds() -> None:
    """Ten tiles of a scene have one random fingerprint: tiles in learned and held folds would
    tell the sets apart, though there is nothing to tell."""

    def tiled(seed: int) -> TraceSet:
        one = gaussians(6, 0, seed)
        noise = np.random.default_rng(seed).normal(0, 0.01, (60, 3))
        scene_names = tuple(n for n in one.scenes for _ in range(10))
        samples = tuple(s for s in one.samples for _ in range(10))
        return TraceSet(np.repeat(one.values, 10, axis=0) + noise, scene_names, samples)

    areas = [separability(tiled(s), tiled(50 + s), [0, 1, 2], 0)[0] for s in range(8)]
    assert np.mean(areas) < 0.65


def test_too_few_scenes_have_no_folds() -> None:
    alone = gaussians(20, 0, 0, scenes_of=20)
    assert np.isnan(separability(alone, gaussians(20, 0, 1), [0], 0)[0])


@pytest.fixture(autouse=True)
def _few_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suspicion, "REPEATS", 2)


@pytest.fixture(scope="module")
def sets() -> tuple[Images, Images]:
    return scenes("generated", range(24), 64), scenes("real", range(50, 74), 64)


def area(generated: Images, real: Images, folder: Path, name: str = "all together") -> float:
    found = CELL.compute(evaluation(generated, real, real, folder), folder)
    value = found.figures[f"AUC, {name}"]
    assert isinstance(value, float)
    return value


def test_blurred_and_compressed_images_are_told_and_equal_ones_are_not(
    sets: tuple[Images, Images], tmp_path: Path
) -> None:
    made, real = sets
    result = CELL.compute(evaluation(made, real, real, tmp_path), tmp_path)
    assert 0.2 < result.figures["AUC, all together"] < 0.8  # type: ignore[operator]
    assert 0.2 < result.figures["AUC, real halves"] < 0.8  # type: ignore[operator]
    assert not any("without looking" in note for note in result.notes)
    told = CELL.compute(evaluation(changed(made, blurred), real, real, tmp_path), tmp_path)
    assert told.figures["AUC, all together"] > 0.97  # type: ignore[operator]
    assert any("without looking" in note for note in told.notes)
    assert any("sensor_noise" in note for note in told.notes) == (
        next(iter(told.tables["single traces (AUC either way), most telling first"])).startswith(
            "noise"
        )
    )
    assert (tmp_path / "told.png").is_file() and (tmp_path / "pass.png").is_file()
    assert area(changed(made, jpeg(50)), real, tmp_path, "codec") > 0.97
    assert told.counts["px a side looked at"] == 64


def test_order_of_images_does_not_matter(sets: tuple[Images, Images], tmp_path: Path) -> None:
    made, real = sets
    one = CELL.compute(evaluation(made, real, real, tmp_path), tmp_path)
    run = evaluation(shuffled(made), shuffled(real), real, tmp_path)
    assert CELL.compute(run, tmp_path) == one


def test_sizes_are_made_equal(tmp_path: Path) -> None:
    """Numbers of a larger image differ by its size: the same pixels must not be told."""
    real = scenes("real", range(24), 96)
    samples = tuple(
        replace(s, id=f"g{s.id}", layout=replace(s.layout, width=64, height=64))
        for s in real.samples
    )
    made = Images("generated", samples, lambda s: real.read(s)[16:80, 16:80])
    found = CELL.compute(evaluation(made, real, real, tmp_path), tmp_path)
    assert found.counts["px a side looked at"] == 64
    assert found.figures["AUC, all together"] < 0.7  # type: ignore[operator]


def test_few_images_are_refused(tmp_path: Path) -> None:
    few = scenes("generated", range(4), 64)
    with pytest.raises(DataError, match="at least 10"):
        CELL.compute(evaluation(few, few, few, tmp_path), tmp_path)
