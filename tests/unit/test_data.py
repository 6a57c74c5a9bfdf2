"""Training views: what they hold and where they are cut."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rsgen.augment import AugmentSettings
from rsgen.data import (
    TrainingImages,
    automatic_views,
    make_view,
    median_object_px,
    random_crop,
)
from rsgen.errors import DataError
from rsgen.losses import object_weights
from rsgen.training.plan import automatic_lr, automatic_steps, automatic_unet
from tests.build import CLASSES, instance, layout, picture, sample


def images(count: int = 3, size: tuple[int, int] = (64, 64), budget: int = 10**9) -> TrainingImages:
    rows = [sample(f"{k}.png", layout(size=size)) for k in range(count)]
    return TrainingImages(
        rows, lambda s: picture(s.layout, int(s.id[:-4])), CLASSES, cache_bytes=budget
    )


def test_the_first_view_of_a_fitting_image_is_the_image() -> None:
    """Catches augmented pixels where the real ones are meant to be compared."""
    source = images()
    view = make_view(source, 1, 0, 64, 3, AugmentSettings(photometry=1.0))
    assert np.array_equal(view.image, source.image(1))
    assert view.layout == source.samples[1].layout


def test_a_larger_image_is_cropped_at_its_own_scale() -> None:
    """Catches images that are shrunk to the model's size in silence."""
    source = images(size=(160, 128))
    for number in range(6):
        view = make_view(source, 0, number, 64, 3, AugmentSettings(flips=False))
        assert view.image.shape == (64, 64, 3)
        assert view.layout.gsd_m == source.samples[0].layout.gsd_m
        whole = source.image(0)
        places = np.argwhere((whole[:65, :97] == view.image[0, 0]).all(axis=-1))
        assert any(np.array_equal(whole[y : y + 64, x : x + 64], view.image) for y, x in places)


def test_views_depend_on_seed_item_and_number_alone() -> None:
    """Catches views that change when images are read in another order."""
    first, second = images(size=(96, 96)), images(size=(96, 96))
    second.image(2)
    a = make_view(first, 1, 3, 64, 9, AugmentSettings())
    b = make_view(second, 1, 3, 64, 9, AugmentSettings())
    assert np.array_equal(a.image, b.image) and a.layout == b.layout
    c = make_view(first, 1, 3, 64, 10, AugmentSettings())
    assert not np.array_equal(a.image, c.image)


def test_a_spent_cache_reads_again() -> None:
    """Catches pixels of one image handed out for another when memory is short."""
    source = images(budget=64 * 64 * 3)
    for index in (0, 1, 2, 1, 0):
        assert np.array_equal(source.image(index), picture(source.samples[index].layout, index))


def test_small_images_are_named() -> None:
    """Catches an unreadable crash in the middle of a run."""
    with pytest.raises(DataError, match=r"2 of 2 .* smaller than 96 px, first 0.png"):
        images(2).check_size(96)


@pytest.mark.parametrize(
    ("size", "flips", "expected"),
    [((64, 64), False, 1), ((64, 64), True, 2), ((128, 128), True, 4), ((4000, 4000), True, 16)],
)
def test_cached_views_by_size(size: tuple[int, int], flips: bool, expected: int) -> None:
    """Catches one crop of a large image standing for all of it, and a cache without bound."""
    rows = [sample("a", replace(layout([], size)))]
    assert automatic_views(rows, 64, flips) == expected


def test_median_object_size() -> None:
    """Catches a size in another unit than pixels."""
    rows = [sample("a", layout([instance("plane", 30, 30, 20, 20, 0.0)]))]
    assert median_object_px(rows) == pytest.approx(20)
    assert median_object_px([sample("a", layout([]))]) is None


def test_crops_are_square_and_from_the_image() -> None:
    """Catches crops that reach outside near a border."""
    of = layout()
    for seed in range(20):
        crop = random_crop(picture(of), of, 32, np.random.default_rng(seed))
        assert crop.shape == (32, 32, 3) and crop.dtype == np.uint8


def test_object_weights_lift_small_things_most() -> None:
    """Catches weights that leave small objects to the background, and stuff that counts."""
    large = instance("plane", 20, 20, 30, 30, 0.0)
    small = instance("ship", 52, 52, 6, 6, 0.0)
    plane = object_weights(layout([large, small]), CLASSES, 3.0, 4)
    assert plane.shape == (16, 16) and plane.mean() == pytest.approx(1.0)
    assert plane[13, 13] > plane[5, 5] > plane[0, 15]
    only_stuff = object_weights(layout(layout().instances[:1]), CLASSES, 3.0, 4)
    assert np.allclose(only_stuff, 1.0)


@pytest.mark.parametrize(
    ("count", "parameters", "expected"),
    [
        (300, 860_000_000, "frozen"),  # 300 images do not tune Stable Diffusion
        (1_000, 860_000_000, "lora"),
        (10_000, 860_000_000, "decoder"),
        (100_000, 860_000_000, "full"),
        (160, 6_400_000, "full"),  # tiny
        (20, 49_000_000, "full"),
        (20, 51_000_000, "frozen"),
    ],
)
def test_what_learns_by_the_size_of_the_set(count: int, parameters: int, expected: str) -> None:
    """Catches a large network tuned on a handful of pictures."""
    assert automatic_unet(count, parameters) == expected


def test_a_small_network_learns_faster_than_a_large_one() -> None:
    assert automatic_lr("full", 6_400_000) == 2e-4
    assert automatic_lr("decoder", 6_400_000) == automatic_lr("lora", 860_000_000) == 1e-4
    assert automatic_lr("full", 860_000_000) == automatic_lr("decoder", 860_000_000) == 1e-5


@pytest.mark.parametrize(
    ("count", "epochs", "expected"),
    [(1, None, 60), (160, None, 400), (10**7, None, 20_000), (5862, 100, 73_275), (3, 1, 1)],
)
def test_automatic_steps(count: int, epochs: int | None, expected: int) -> None:
    """Catches budgets without bounds, and epochs that are bounded."""
    assert automatic_steps(count, 8, epochs) == expected
