"""Augmentation: what is kept, cut, dropped and turned."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from rsgen.augment import Augmenter, AugmentSettings, move_instance, move_layout, warp
from rsgen.geometry import Box, similarity
from rsgen.records import Instance
from tests.build import instance, layout, picture


def test_the_same_generator_state_gives_the_same_view() -> None:
    """Catches an augmentation that draws from a global generator."""
    of = layout()
    chosen = AugmentSettings(photometry=1.0, rotate_degrees=30)
    first, second = (
        Augmenter(chosen, 48)(picture(of), of, np.random.default_rng(5)) for _ in range(2)
    )
    assert np.array_equal(first[0], second[0])
    assert first[1] == second[1]


def test_a_crop_holds_its_focus() -> None:
    """Catches a focus in the wrong frame: the object would often be missing."""
    of = layout([instance("plane", 52, 12, 10, 6, 0.0)])
    chosen = AugmentSettings(flips=False, focus=(52.0, 12.0))
    for seed in range(10):
        _, moved = Augmenter(chosen, 32)(picture(of), of, np.random.default_rng(seed))
        assert [i.label for i in moved.instances] == ["plane"]


@pytest.mark.parametrize(
    ("shift", "left", "truncated"),
    [
        ((0.0, 0.0), True, False),  # untouched
        ((-15.0, 0.0), True, True),  # cut by the border
        ((-64.0, 0.0), False, False),  # outside
    ],
    ids=["inside", "cut", "outside"],
)
def test_objects_at_the_border(shift: tuple[float, float], left: bool, truncated: bool) -> None:
    """Catches labels of objects that are no longer in the picture."""
    of = layout([instance("plane", 20, 24, 20, 12, 0.3)])
    moved = move_layout(of, similarity(shift=shift), 64, 64).instances
    assert bool(moved) is left
    if moved:
        assert moved[0].truncated is truncated
        assert moved[0].box is not None and moved[0].box.x0 >= 0
        assert moved[0].mask is not None and moved[0].mask.x0 >= 0


def test_a_smaller_scale_makes_pixels_larger_on_the_ground() -> None:
    """Catches a gsd that ignores the scale of a resize."""
    moved = move_layout(layout(gsd_m=0.5), similarity(0.5), 32, 32)
    assert moved.gsd_m == pytest.approx(1.0)


def test_a_box_without_corners_stays_a_box() -> None:
    """Catches a quad invented for axis-aligned labels."""
    plain = Instance("ship", Box(10, 10, 30, 20))
    quarter = similarity(angle_rad=math.pi / 2, shift=(64, 0))
    moved = move_instance(plain, quarter, None, 64, 64)
    assert moved is not None and moved.quad is None and moved.box is not None
    assert (moved.box.x0, moved.box.y0, moved.box.x1, moved.box.y1) == pytest.approx(
        (44, 10, 54, 30)
    )


def test_stuff_without_a_box_follows() -> None:
    """Catches stuff masks that are dropped because they have no box."""
    of = layout()
    _, moved = Augmenter(AugmentSettings(), 64)(picture(of), of, np.random.default_rng(1))
    kept = {i.label: i for i in moved.instances}
    assert kept["water"].mask is not None and kept["water"].box is None
    assert kept["water"].mask.area == 64 * 32


def test_warping_by_the_identity_changes_nothing() -> None:
    """Catches a half-pixel shift between half-open and pixel-centred coordinates."""
    image = picture(layout())
    assert np.array_equal(warp(image, similarity(), 64, 64, 1), image)


def test_free_moves_stay_inside_the_image() -> None:
    """Catches mirrored borders, whose objects would have no labels."""
    of = layout([])
    image = np.full((64, 64, 3), 200, np.uint8)
    image[0] = image[-1] = image[:, 0] = image[:, -1] = 0
    chosen = AugmentSettings(flips=False, rotate_degrees=180)
    for seed in range(5):
        view, _ = Augmenter(chosen, 32)(image, of, np.random.default_rng(seed))
        middle = view[2:-2, 2:-2]
        assert middle.min() > 190


def test_a_truncated_flag_is_never_lost() -> None:
    """Catches a crop that forgets that the source had cut the object already."""
    of = layout([replace(instance(), truncated=True)])
    moved = move_layout(of, similarity(shift=(2, 2)), 64, 64)
    assert moved.instances[0].truncated
