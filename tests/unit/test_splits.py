"""Splits: counts, scenes kept whole, given ones kept, growth."""

from __future__ import annotations

import random

import pytest

from rsgen.errors import DataError, UsageError
from rsgen.records import Layout, Provenance, Sample
from rsgen.splits import assign_splits, scene_key, split_counts, train_only


def samples(count: int, tiles: int = 1, split: str | None = None) -> list[Sample]:
    return [
        Sample(
            f"s{k}.png#{t},0" if tiles > 1 else f"s{k}.png",
            Layout(8, 8),
            split=split,
            provenance=Provenance("real", parent=f"s{k}.png"),
        )
        for k in range(count)
        for t in range(tiles)
    ]


COUNTS = [
    (3, {"train": 1, "val": 1, "test": 1}),  # a share of 10 % of three rounds to nothing
    (10, {"train": 8, "val": 1, "test": 1}),
    (100, {"train": 80, "val": 10, "test": 10}),
    (1, {"train": 1}),
    (2, {"train": 2}),
]


@pytest.mark.parametrize(("count", "expected"), COUNTS, ids=[str(c) for c, _ in COUNTS])
def test_counts_are_near_the_ratios(count: int, expected: dict[str, int]) -> None:
    assert split_counts(assign_splits(samples(count), seed=1)) == expected


def test_tiles_of_a_scene_share_a_split() -> None:
    """Drawing by tile would leak a scene's overlap from train into test."""
    found = assign_splits(samples(20, tiles=7), seed=3)
    by_scene: dict[str, set[str]] = {}
    for name, split in found.items():
        by_scene.setdefault(name.split("#")[0], set()).add(split)
    assert all(len(s) == 1 for s in by_scene.values())
    assert set(found.values()) == {"train", "val", "test"}


def test_order_of_the_input_does_not_matter() -> None:
    listed = samples(50)
    shuffled = random.Random(0).sample(listed, len(listed))
    assert assign_splits(listed, 5) == assign_splits(shuffled, 5)
    assert assign_splits(listed, 5) != assign_splits(listed, 6)


def test_given_splits_are_kept_and_the_rest_is_drawn() -> None:
    given = [*samples(10, split="val"), *[Sample(f"x{k}", Layout(8, 8)) for k in range(10)]]
    found = assign_splits(given, 0)
    assert all(found[f"s{k}.png"] == "val" for k in range(10))
    assert split_counts({k: v for k, v in found.items() if k.startswith("x")})["train"] == 8


def test_a_scene_in_two_given_splits_is_refused() -> None:
    twice = [samples(1, split="train")[0], Sample("s0.png#1,1", Layout(8, 8), split="test")]
    with pytest.raises(DataError, match=r"s0.png.*'train'.*'test'"):
        assign_splits(twice, 0)


KEYS = [
    ("images/p0.png", "p0"),
    ("p0", "p0"),
    ("train/images/a/P0.v2.TIF", "train/a/P0.v2"),
    ("P0.v2", "P0.v2"),  # the key of labels without an image has lost its suffix already
    ("labelTxt/val/a", "val/a"),
]


@pytest.mark.parametrize(("name", "key"), KEYS, ids=[name for name, _ in KEYS])
def test_the_key_of_a_scene(name: str, key: str) -> None:
    assert scene_key(name) == key


def test_labels_without_images_are_drawn_as_with_them() -> None:
    """Else a test scene's labels count as train once its images are left at home."""
    with_images = [Sample(f"images/{k}.png", Layout(8, 8)) for k in range(40)]
    alone = [Sample(f"{k}", Layout(8, 8)) for k in range(40)]
    drawn, again = assign_splits(with_images, 4), assign_splits(alone, 4)
    assert all(drawn[f"images/{k}.png"] == again[f"{k}"] for k in range(40))


def test_known_parents_keep_their_split_when_a_set_grows() -> None:
    before = assign_splits(samples(20), 0)
    after = assign_splits(samples(60), 0, known=before)
    assert {k: after[k] for k in before} == before
    assert split_counts(after)["train"] == pytest.approx(48, abs=1)


@pytest.mark.parametrize("ratios", [(0.0, 0.0, 0.0), (-0.1, 0.6, 0.5)], ids=["zero", "negative"])
def test_bad_ratios(ratios: tuple[float, float, float]) -> None:
    with pytest.raises(UsageError):
        assign_splits(samples(3), 0, ratios)


def test_no_validation_share_means_none() -> None:
    assert split_counts(assign_splits(samples(10), 0, (0.5, 0.0, 0.5))) == {"train": 5, "test": 5}


def test_train_only_leaves_out_everything_else() -> None:
    """An unassigned sample must not slip into training."""
    mixed = [*samples(1, split="train"), *samples(1, split="test"), *samples(1)]
    assert [s.split for s in train_only(mixed)] == ["train"]
