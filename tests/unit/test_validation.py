"""What the validation grid shows of images that are larger than the model."""

from __future__ import annotations

import time

import numpy as np
import pytest

from rsgen.records import Instance, Layout
from rsgen.training.validation import crop_of, window_of
from tests.build import instance, picture


def far(*centres: tuple[float, float], size: tuple[int, int] = (400, 300)) -> Layout:
    """Small objects at these places of a large image."""
    made = [instance("plane", x, y, 20, 12, 0.3, size=size) for x, y in centres]
    return Layout(*size, tuple(made))


@pytest.mark.parametrize(
    ("centres", "shown"),
    [
        ([(350, 250)], 1),
        ([(390, 290)], 1),
        ([(10, 10), (300, 200), (320, 220), (310, 240)], 3),
        ([(50, 250), (200, 150)], 1),
        ([], 0),
    ],
    ids=["far corner", "at the border", "the larger group", "too far apart", "none"],
)
def test_a_crop_shows_objects(centres: list[tuple[float, float]], shown: int) -> None:
    """Catches the corner of a large image, where often nothing is: a grid of empty layouts."""
    layout = far(*centres)
    image = picture(layout)
    crop, moved = crop_of(image, layout, 64)
    assert crop.shape == (64, 64, 3) and (moved.width, moved.height) == (64, 64)
    assert len(moved.instances) == shown
    for item in moved.instances:
        assert item.mask is not None
        assert crop[item.mask.to_array(64, 64)].min() >= 120, "labels lie on their pixels"


def test_a_fitting_image_is_itself() -> None:
    layout = far((30, 30), size=(64, 64))
    image = picture(layout)
    assert crop_of(image, layout, 64)[0] is image


def test_a_crowded_scene_costs_little() -> None:
    rng = np.random.default_rng(0)
    layout = Layout(
        4000,
        4000,
        tuple(
            Instance("ship", box=instance("ship", *rng.uniform(50, 3900, 2), size=(4000, 4000)).box)
            for _ in range(2000)
        ),
    )
    started = time.process_time()
    x, y = window_of(layout, 512)
    assert time.process_time() - started < 2
    assert 0 <= x <= 4000 - 512 and 0 <= y <= 4000 - 512
