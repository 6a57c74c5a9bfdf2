"""Transform then export = export then transform, whatever the transform is."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rsgen.augment import Augmenter, AugmentSettings
from rsgen.formats.dota import DotaWriter, parse_line
from rsgen.geometry import apply_affine, as_array, wrap_angle
from rsgen.records import Layout, Provenance, Sample
from tests.build import CLASSES, instance, layout

FAST = settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
SIDE = 96
KINDS = {
    "flips, quarter turns and crops": AugmentSettings(),
    "with photometry": AugmentSettings(photometry=1.0),
    "free rotation": AugmentSettings(flips=False, rotate_degrees=180.0),
    "rotation, scale and flips": AugmentSettings(True, rotate_degrees=90.0, scale_range=(0.7, 1.4)),
}


def coordinates(width: int, height: int) -> npt.NDArray[np.uint8]:
    """Each pixel holds twice its own place: (2 column, 2 row, 255)."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([2 * x, 2 * y, np.full_like(x, 255)], axis=-1).astype(np.uint8)


def affine_of(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """The matrix from source to moved coordinates, read off moved pixels by least squares."""
    height, width = image.shape[:2]
    y, x = np.mgrid[0:height, 0:width] + 0.5
    moved = np.stack([x.ravel(), y.ravel()], axis=1)
    source = image[..., :2].reshape(-1, 2) / 2 + 0.5
    design = np.concatenate([source, np.ones((len(source), 1))], axis=1)
    solution, *_ = np.linalg.lstsq(design, moved, rcond=None)
    return np.asarray(solution.T, dtype=np.float64)


def exported(of: Layout) -> dict[str, npt.NDArray[np.float64]]:
    """Corners by class name, as the DOTA writer puts them into its file."""
    with tempfile.TemporaryDirectory() as folder:
        writer = DotaWriter()
        writer.open(Path(folder), CLASSES, ["train"])
        writer.add(Sample("a", of, provenance=Provenance("real")), "a.png", "train")
        text = (Path(folder) / "train/labelTxt/a.txt").read_text(encoding="utf-8")
    rows = [parse_line(line) for line in text.splitlines() if ":" not in line]
    return {name: np.asarray(corners).reshape(4, 2) for corners, name, _ in rows}


@st.composite
def scenes(draw: st.DrawFn) -> Layout:
    """One plane, ship and tank of any size, place and heading on a canvas of 120 x 104."""
    size = (120, 104)
    objects = [
        instance(
            label,
            draw(st.floats(20, size[0] - 20)),
            draw(st.floats(20, size[1] - 20)),
            draw(st.floats(8, 40)),
            draw(st.floats(6, 20)),
            draw(st.floats(-math.pi, math.pi - 1e-6)),
            size=size,
        )
        for label in ("plane", "ship", "storage-tank")
    ]
    return layout(objects, size)


# Photometry changes the coordinates that the picture holds: its matrix is that of the same
# seed without photometry, which is what the second row checks.
@pytest.mark.parametrize("kind", KINDS, ids=str)
@FAST
@given(of=scenes(), seed=st.integers(0, 10_000))
def test_moving_then_exporting_equals_exporting_then_moving(
    kind: str, of: Layout, seed: int
) -> None:
    """Catches shifted corners (pixel-centred keypoints), lost headings, mirrored corner order."""
    chosen = KINDS[kind]
    image = coordinates(of.width, of.height)
    picture, moved = Augmenter(chosen, SIDE)(image, of, np.random.default_rng(seed))
    if chosen.photometry:
        plain = AugmentSettings()
        picture, reference = Augmenter(plain, SIDE)(image, of, np.random.default_rng(seed))
        assert [i.label for i in moved.instances] == [i.label for i in reference.instances]
    matrix = affine_of(picture)
    # a rounded coordinate picture gives the matrix of a free move to about a tenth of a pixel
    tolerance = 0.35 if chosen.rotate_degrees else 1e-3
    before, after = exported(of), exported(moved)
    for name, corners in after.items():
        expected = apply_affine(matrix, before[name])
        distance = np.linalg.norm(corners[:, None] - expected[None], axis=2)
        assert distance.min(axis=1).max() < tolerance, name
        assert sorted(distance.argmin(axis=1).tolist()) == [0, 1, 2, 3]
        front, wanted = corners[:2].mean(axis=0), expected[:2].mean(axis=0)
        assert np.linalg.norm(front - wanted) < tolerance, "the first edge is no longer the front"


@pytest.mark.parametrize("kind", KINDS, ids=str)
@FAST
@given(of=scenes(), seed=st.integers(0, 10_000))
def test_masks_follow_their_corners(kind: str, of: Layout, seed: int) -> None:
    """Catches a mask moved by another matrix than its label, and a heading left behind."""
    image = coordinates(of.width, of.height)
    _, moved = Augmenter(KINDS[kind], SIDE)(image, of, np.random.default_rng(seed))
    for item in moved.instances:
        assert item.mask is not None and item.quad is not None
        y, x = np.nonzero(item.mask.to_array(SIDE, SIDE))
        corners = as_array(item.quad)
        edges = np.roll(corners, -1, axis=0) - corners
        points = np.stack([x, y], axis=1) + 0.5
        away = points[:, None] - corners[None]
        inside = edges[:, 0] * away[..., 1] - edges[:, 1] * away[..., 0]
        # pixel centres lie inside the quad, up to a pixel where a warp resamples the mask
        assert (inside / np.linalg.norm(edges, axis=1)).min() > -1.0
        if item.heading_rad is not None:
            middle = corners[:2].mean(axis=0) - corners.mean(axis=0)
            turned = wrap_angle(item.heading_rad - math.atan2(middle[1], middle[0]))
            assert abs(turned) < 1e-6
