"""Mask pool: rules, poses, duplicates, drawing, merging, the program."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rsgen.classes import united
from rsgen.config import load_config
from rsgen.errors import DataError, UsageError
from rsgen.geometry import Box
from rsgen.mask import Mask
from rsgen.pool import MaskPool, PoolMask, build_mask_pool, canonical_pose
from rsgen.pool.build import collect
from rsgen.pool.canonical import FRONT_GUESS
from rsgen.pool.rules import refusal, solidity_and_holes
from rsgen.pool.statistics import effective_shapes
from rsgen.records import ClassTable, Instance, Layout, ObjectClass, Provenance, Sample
from rsgen.reporting import RunSummary
from rsgen.runs import Job
from rsgen.settings import BuildMaskPoolConfig
from tests import build
from tests.build import CLASSES, instance, layout, sample

SETTINGS = BuildMaskPoolConfig()


def pool_of(samples: list[Sample], classes: ClassTable = CLASSES) -> MaskPool:
    kept: dict[str, dict[str, Any]] = {}
    for _ in collect(samples, classes, SETTINGS, kept, Counter()):
        pass
    return MaskPool.of_rows(kept.values(), classes)


def some_pool(count: int = 12) -> MaskPool:
    """Planes and tanks of growing size, each from its own scene."""
    return pool_of(
        [
            sample(
                f"scene-{k}.png#0,{k}",
                layout(
                    (
                        instance("plane", 40, 40, 16 + 2 * k, 9 + k, 0.1 * k, size=(96, 96)),
                        instance("storage-tank", 70, 70, 12 + k, 12 + k, 0, size=(96, 96)),
                    ),
                    size=(96, 96),
                ),
                provenance=Provenance("real", parent=f"scene-{k}.png"),
            )
            for k in range(count)
        ]
    )


# ---------------------------------------------------------------- rules


def holed() -> Mask:
    pixels = np.ones((20, 20), bool)
    pixels[4:16, 4:16] = False
    mask = Mask.from_array(pixels, 10, 10)
    assert mask is not None
    return mask


def pieces() -> Mask:
    pixels = np.zeros((20, 20), bool)
    pixels[:8, :8] = pixels[12:, 12:] = True
    mask = Mask.from_array(pixels, 10, 10)
    assert mask is not None
    return mask


def cross() -> Mask:
    pixels = np.zeros((41, 41), bool)
    pixels[20, :] = pixels[:, 20] = True
    mask = Mask.from_array(pixels, 10, 10)
    assert mask is not None
    return mask


GOOD = instance()
RULES = [
    (GOOD, None),
    (replace(GOOD, mask=None), "no mask"),
    (Instance("water", mask=holed()), "stuff class"),
    (replace(GOOD, iscrowd=True), "crowd"),
    (replace(GOOD, origin="box"), "fallback shape"),
    (replace(GOOD, scores={"mask": 0.1}), "low score"),
    (replace(GOOD, scores={}), None),  # a human's mask has no score: it is trusted
    (replace(GOOD, truncated=True), "truncated"),
    (instance(cx=3.0), "truncated"),  # touches the border though nobody flagged it
    (instance(length=5, across=3), "too small"),
    (replace(GOOD, mask=pieces()), "in pieces"),
    (replace(GOOD, mask=cross()), "not solid"),
    (replace(GOOD, mask=holed()), "holes"),
]


RULE_IDS = [f"{k} {reason}" for k, (_, reason) in enumerate(RULES)]


@pytest.mark.parametrize(("given", "reason"), RULES, ids=RULE_IDS)
def test_each_rule_names_itself(given: Instance, reason: str | None) -> None:
    assert refusal(given, Layout(64, 64, (given,)), CLASSES, SETTINGS) == reason


def test_solidity_of_pixel_squares() -> None:
    """A hull of pixel centres would give a full square a solidity above 1."""
    assert solidity_and_holes(np.ones((7, 9), bool)) == (1.0, 0.0, 1.0)
    assert solidity_and_holes(np.ones((1, 1), bool))[0] == 1.0
    _, holes, _ = solidity_and_holes(holed().crop())
    assert holes == pytest.approx(144 / 400)


# ---------------------------------------------------------------- poses


def triangle(angle: float, guess: float | None = None) -> Instance:
    """A long triangle with its tip at `angle`; its label is upright."""
    c, s = math.cos(angle), math.sin(angle)
    points = np.array([(22, 0), (-18, 9), (-18, -9)]) @ np.array([[c, s], [-s, c]]) + 48
    mask = Mask.from_polygons([points], 96, 96)
    assert mask is not None
    attributes = {} if guess is None else {FRONT_GUESS: str(guess)}
    return Instance("plane", box=mask.box, mask=mask, attributes=attributes)


def tip_is_right(pixels: np.ndarray) -> bool:
    third = pixels.shape[1] // 3
    return bool(pixels[:, :third].sum() > 2 * pixels[:, -third:].sum())


@pytest.mark.parametrize("angle", [0.0, 0.6, 1.57, 2.8, -2.0])
def test_a_known_heading_faces_right(angle: float) -> None:
    given = replace(triangle(angle), heading_rad=angle)
    found = canonical_pose(given)
    assert found is not None and found.pose == "heading" and tip_is_right(found.pixels)


@pytest.mark.parametrize("angle", [0.0, 0.6, 1.57, 2.8, -2.0])
def test_a_guessed_front_decides_between_two_ends(angle: float) -> None:
    """The mask's own rectangle is the same for a half turn."""
    found = canonical_pose(triangle(angle, guess=angle + 0.2))
    assert found is not None and found.pose == "guess" and tip_is_right(found.pixels)


def test_a_front_across_the_long_side_is_kept() -> None:
    """A wide aircraft must not be laid on its wing because that side is longer."""
    pixels = np.zeros((20, 40), bool)
    pixels[8:14, :] = pixels[:, 17:23] = True
    mask = Mask.from_array(pixels, 10, 10)
    found = canonical_pose(Instance("plane", mask=mask, heading_rad=-math.pi / 2))
    assert found is not None and found.pixels.shape == (40, 20)


def test_without_a_direction_the_long_side_lies_along_x() -> None:
    found = canonical_pose(triangle(1.2))
    assert found is not None and found.pose == "long side"
    assert found.width_px > found.height_px


def test_compact_shapes_keep_the_axes() -> None:
    mask = build.ellipse_mask(30, 30, 20, 22)
    found = canonical_pose(Instance("storage-tank", box=mask.box, mask=mask), symmetric=True)
    assert found is not None and found.pose == "box"
    assert found.pixels.shape == (20, 22)


def test_symmetric_classes_have_no_heading() -> None:
    given = replace(triangle(0.6), heading_rad=0.6)
    found = canonical_pose(given, symmetric=True)
    assert found is not None and found.pose == "long side"


def test_rubbish_guesses_are_ignored() -> None:
    for text in ("", "north", "nan", "inf"):
        found = canonical_pose(replace(triangle(0.3), attributes={FRONT_GUESS: text}))
        assert found is not None and found.pose == "long side"


# ---------------------------------------------------------------- collecting


def test_counts_add_up_and_only_train_is_used() -> None:
    items = (GOOD, replace(GOOD, mask=None), instance("ship", 44, 40, 26, 9, -2.0))
    given = [sample(f"{s}.png", layout(items), split=s) for s in ("train", "val", "test", None)]
    kept: dict[str, dict[str, Any]] = {}
    counts: Counter[str] = Counter()
    assert sum(collect(given, CLASSES, SETTINGS, kept, counts)) == 4
    assert counts["instances"] == 12 == sum(v for k, v in counts.items() if k != "instances")
    assert (counts["accepted"], counts["no mask"]) == (2, 1)
    assert counts["split: val"] == counts["split: test"] == counts["split: none"] == 3
    assert {s for row in kept.values() for s in row["sources"]} == {"train.png"}


def test_equal_shapes_are_joined_and_remember_every_source() -> None:
    """A duplicate that forgot its second source would slip past the leakage guard."""
    given = [
        sample(f"{k}.png", layout((instance(cx=20.0 + 8 * k, heading_rad=0.0),))) for k in range(3)
    ]
    pool = pool_of(given)
    assert len(pool) == 1
    assert pool.get(0).sources == ("0.png", "1.png", "2.png")


def test_mirrored_shapes_of_symmetric_classes_are_one() -> None:
    pixels = np.zeros((12, 18), bool)
    pixels[:, :12] = pixels[:5] = True
    turned = (pixels, pixels[:, ::-1], pixels[::-1], pixels[::-1, ::-1])
    for label, expected in (("storage-tank", 1), ("plane", 4)):
        given = [
            sample(f"{k}.png", layout((Instance(label, mask=Mask.from_array(t, 10, 10)),)))
            for k, t in enumerate(turned)
        ]
        assert len(pool_of(given)) == expected


# ---------------------------------------------------------------- drawing


def test_a_drawn_mask_is_tight_and_measured() -> None:
    pool = some_pool()
    mask = pool.draw("plane", np.random.default_rng(0))
    assert isinstance(mask, PoolMask)
    for side in (mask.pixels[0], mask.pixels[-1], mask.pixels[:, 0], mask.pixels[:, -1]):
        assert side.any()
    assert mask.mask().crop().shape == mask.pixels.shape
    assert mask.length_m == pytest.approx(mask.width_px * 0.5)


def test_size_and_aspect_pull_the_draw() -> None:
    pool, rng = some_pool(), np.random.default_rng(1)
    small = np.mean([pool.draw("plane", rng, size_px=16).width_px for _ in range(60)])
    large = np.mean([pool.draw("plane", rng, size_px=38).width_px for _ in range(60)])
    assert small < 25 < 30 < large
    slim = np.mean([pool.draw("plane", rng, aspect=1.9).aspect for _ in range(60)])
    wide = np.mean([pool.draw("plane", rng, aspect=1.5).aspect for _ in range(60)])
    assert slim > wide


def test_excluded_sources_are_never_drawn() -> None:
    pool, rng = some_pool(3), np.random.default_rng(2)
    for banned in ("scene-1.png", "scene-1.png#64,0", ["scene-1.png"]):
        drawn = [pool.draw("plane", rng, exclude_source=banned) for _ in range(40)]
        assert all("scene-1.png" not in mask.sources for mask in drawn)
    with pytest.raises(DataError, match="every mask of class 'plane'"):
        pool.draw("plane", rng, exclude_source=[f"scene-{k}.png" for k in range(3)])


def test_only_symmetric_classes_are_mirrored() -> None:
    pool, rng = some_pool(), np.random.default_rng(3)
    assert {pool.draw("plane", rng).flipped for _ in range(40)} == {""}
    assert {pool.draw("storage-tank", rng).flipped for _ in range(80)} == {"", "x", "y", "xy"}


def test_draw_depends_on_the_generator_alone() -> None:
    pool = some_pool()
    first, second = ([pool.draw("plane", g).id for _ in range(9)] for g in _twins())
    assert first == second


def _twins() -> list[np.random.Generator]:
    return [np.random.default_rng(4), np.random.default_rng(4)]


def test_names_meet_through_aliases_and_unknown_ones_are_listed() -> None:
    pool, rng = some_pool(), np.random.default_rng(5)
    assert pool.draw("airplane", rng).label == "plane"
    with pytest.raises(DataError, match="known: plane, ship"):
        pool.draw("zeppelin", rng)
    with pytest.raises(DataError, match="no mask of class 'ship'"):
        pool.draw("ship", rng)


# ---------------------------------------------------------------- files, merging, statistics


def test_save_and_load(tmp_path: Path) -> None:
    pool = some_pool()
    pool.save(tmp_path / "pool.parquet")
    again = MaskPool.load(tmp_path)
    assert again.table.equals(pool.table) and again.classes == CLASSES
    assert (
        pool.save(tmp_path / "b.parquet").read_bytes() == (tmp_path / "pool.parquet").read_bytes()
    )


def test_what_is_no_pool_says_so(tmp_path: Path) -> None:
    (tmp_path / "pool.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match="no readable mask pool"):
        MaskPool.load(tmp_path)
    with pytest.raises(DataError, match="no readable mask pool"):
        MaskPool.load(tmp_path / "absent")


def test_merge_joins_shapes_and_class_tables() -> None:
    other = ClassTable((ObjectClass("airplane"), ObjectClass("car")))
    planes = [sample("x.png", layout((instance("airplane", 30, 30, 20, 12, 0.3),)))]
    named_otherwise = pool_of(planes, ClassTable.of("airplane", "car"))
    pool = MaskPool.merge([some_pool(3), named_otherwise, some_pool(3)])
    assert pool.labels == ("plane", "storage-tank")
    assert len(pool) == 3 + 3 + 1
    assert "x.png" in {s for k in range(len(pool)) for s in pool.get(k).sources}
    assert united([CLASSES, other]).names == (*CLASSES.names, "car")


def test_effective_shapes_counts_what_differs() -> None:
    def of(pixels: np.ndarray) -> PoolMask:
        h, w = pixels.shape
        return PoolMask("i", "plane", pixels, float(w), float(h), None, ("s",), 1.0, "box")

    square = of(np.ones((20, 20), bool))
    grown = of(np.ones((40, 40), bool))
    bar = of(np.ones((10, 60), bool))
    corner = of(np.tri(30, dtype=bool))
    assert effective_shapes([]) == 0.0
    assert effective_shapes([square, grown]) == pytest.approx(1.0)
    assert effective_shapes([square, bar, corner]) == pytest.approx(3.0)
    assert 1 < effective_shapes([square] * 9 + [bar]) < 2


# ---------------------------------------------------------------- the program


def build_pool(out: Path, *runs: Path, **keys: Any) -> RunSummary:
    settings = [(f"build_mask_pool.{k}" if k != "seed" else k, v) for k, v in keys.items()]
    config = load_config(settings=settings, environ={})
    return build_mask_pool(Job("build-mask-pool", config, out, {"run": runs}))


def many(count: int = 30) -> list[Sample]:
    return [
        sample(
            f"scene-{k}.png",
            layout(
                (
                    instance("plane", 40, 40, 20 + k / 2, 10 + k / 3, k, size=(96, 96)),
                    instance("storage-tank", 70, 70, 8 + k / 2, 8 + k / 2, 0, size=(96, 96)),
                ),
                size=(96, 96),
            ),
            split="val" if k % 10 == 9 else "train",
        )
        for k in range(count)
    ]


def test_program_writes_pool_sheet_and_statistics(tmp_path: Path) -> None:
    run = build.sample_run(tmp_path / "run", many(), images=False)
    summary = build_pool(tmp_path / "pool", run.path)
    pool = MaskPool.load(tmp_path / "pool")
    assert summary.counts["instances"] == 60 and summary.counts["split: val"] == 6
    assert len(pool) == summary.counts["masks"]
    sources = {s for k in range(len(pool)) for s in pool.get(k).sources}
    assert not sources & {"scene-9.png", "scene-19.png", "scene-29.png"}
    assert any("effective shapes" in note for note in summary.notes)
    assert summary.tables["plane"]["heading known"] == "100%"
    assert (tmp_path / "pool" / "contact_sheet.png").is_file()
    assert build_pool(tmp_path / "pool", run.path).status == "no-op"


def test_program_leaves_out_what_a_filter_dropped(tmp_path: Path) -> None:
    """Catches a filter run as input whose refused samples teach the pool their shapes."""
    verdicts = ["drop" if k < 5 else "keep" for k in range(9)]
    given = [replace(s, verdict=v) for s, v in zip(many(9), verdicts, strict=True)]
    run = build.sample_run(tmp_path / "run", given, images=False, command="filter")
    summary = build_pool(tmp_path / "pool", run.path)
    pool = MaskPool.load(tmp_path / "pool")
    assert summary.counts["dropped by a filter"] == 10 and summary.counts["instances"] == 18
    assert {s for k in range(len(pool)) for s in pool.get(k).sources} == {
        f"scene-{k}.png" for k in range(5, 9)
    }


def test_a_dry_run_builds_nothing(tmp_path: Path) -> None:
    """Catches --dry-run that builds and commits, and one that another request's folder takes."""
    run = build.sample_run(tmp_path / "run", many(), images=False)
    config = load_config(environ={})
    job = Job("build-mask-pool", config, tmp_path / "pool", {"run": [run.path]}, dry_run=True)
    summary = build_mask_pool(job)
    assert (summary.status, summary.counts["samples"]) == ("dry-run", 30)
    assert not (tmp_path / "pool").exists()
    build_pool(tmp_path / "pool", run.path, seed=3)
    with pytest.raises(UsageError, match="seed: 3 -> 0"):
        build_mask_pool(job)


def test_program_caps_a_class_by_seed(tmp_path: Path) -> None:
    run = build.sample_run(tmp_path / "run", many(), images=False)
    names = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        summary = build_pool(tmp_path / name, run.path, max_per_class=5, seed=seed)
        assert summary.counts["masks"] == 10 and summary.counts["over the cap"] > 0
        names.append(MaskPool.load(tmp_path / name).table.column("id").to_pylist())
    assert names[0] == names[1] != names[2]


def test_program_merges_runs_and_pools(tmp_path: Path) -> None:
    first = build.sample_run(tmp_path / "r1", many()[:15], images=False)
    second = build.sample_run(tmp_path / "r2", many()[15:], images=False)
    both = build_pool(tmp_path / "both", first.path, second.path)
    build_pool(tmp_path / "one", first.path)
    merged = build_pool(tmp_path / "merged", tmp_path / "one", second.path)
    assert both.counts["masks"] == merged.counts["masks"]
    assert (tmp_path / "both" / "pool.parquet").read_bytes() == (
        tmp_path / "merged" / "pool.parquet"
    ).read_bytes()


def test_program_says_why_nothing_is_left(tmp_path: Path) -> None:
    run = build.sample_run(tmp_path / "run", [sample("a", split="test")], images=False)
    with pytest.raises(DataError, match="split: test"):
        build_pool(tmp_path / "pool", run.path)
    with pytest.raises(UsageError):
        build_pool(tmp_path / "none")


def test_box_of_a_pool_mask_is_in_pixels_of_its_source() -> None:
    mask = Mask.from_array(np.ones((10, 24), bool), 5, 5)
    pool = pool_of([sample("a", layout((Instance("plane", box=Box(5, 5, 29, 15), mask=mask),)))])
    found = pool.get(0)
    assert (found.width_px, found.height_px, found.pixels.shape) == (24.0, 10.0, (10, 24))
