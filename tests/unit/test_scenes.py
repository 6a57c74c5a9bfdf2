"""Procedural scenes: what is drawn is what is labelled."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from rsgen.errors import UsageError
from rsgen.execution import run_stage
from rsgen.geometry import heading_of, polygon_area, quad_to_rotated_box
from rsgen.records import Instance, Layout
from rsgen.runs import Job
from rsgen.scenes import SCENE_CLASSES, SCENE_STYLES, SCENE_TYPES, render_scene
from rsgen.store import open_samples
from tests.build import config

Drawn = tuple[npt.NDArray[np.uint8], Layout]
SIZE = 128


@pytest.fixture(scope="module")
def drawn() -> list[Drawn]:
    """Sixty scenes: ten of each type, both styles."""
    return [
        render_scene(
            k, SIZE, scene=SCENE_TYPES[k % len(SCENE_TYPES)], style=SCENE_STYLES[k // 6 % 2]
        )
        for k in range(60)
    ]


def things(layout: Layout) -> list[Instance]:
    return [i for i in layout.instances if not SCENE_CLASSES.is_stuff(i.label)]


@pytest.mark.parametrize(
    ("held_out", "splits"), [(True, {"train", "val", "test"}), (False, {"train"})]
)
def test_what_is_held_out(tmp_path: Path, held_out: bool, splits: set[str]) -> None:
    """Catches a set that is measured by another one and still keeps a fifth of itself back."""
    values: dict[str, Any] = {"scenes.count": 24, "scenes.size": 32, "scenes.held_out": held_out}
    run_stage(Job("scenes", config(**values), tmp_path / "scenes"))
    assert {s.split for s in open_samples(tmp_path / "scenes")} == splits


@pytest.mark.parametrize("scene", [None, *SCENE_TYPES])
def test_same_request_same_bytes(scene: str | None) -> None:
    """Catches global random state, and results that depend on OpenCV's thread count."""
    threads = cv2.getNumThreads()
    first = render_scene(11, 96, scene=scene)
    try:
        cv2.setNumThreads(2 if threads == 1 else 1)
        render_scene(12, 96)
        again = render_scene(11, 96, scene=scene)
    finally:
        cv2.setNumThreads(threads)
    assert first[0].tobytes() == again[0].tobytes()
    assert first[1] == again[1]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"seed": 12}, "seed"),
        ({"style": "alt"}, "style"),
        ({"scene": "harbour"}, "scene"),
        ({"gsd_m": 0.45}, "gsd"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_argument_changes_the_picture(change: dict[str, object], what: str) -> None:
    """Catches an argument that does not reach the generator."""
    request: dict[str, object] = {"seed": 11, "size": 96, "scene": "tank-farm"}
    image, _ = render_scene(**request)  # type: ignore[arg-type]
    other, _ = render_scene(**{**request, **change})  # type: ignore[arg-type]
    assert np.abs(image.astype(int) - other.astype(int)).mean() > 5, what


def test_layout_describes_the_picture(drawn: list[Drawn]) -> None:
    """Catches swapped width and height, missing scene or gsd, and unknown labels."""
    for image, layout in drawn:
        assert image.dtype == np.uint8
        assert image.shape == (layout.height, layout.width, 3)
        assert layout.scene in SCENE_TYPES
        assert layout.gsd_m is not None and 0.3 <= layout.gsd_m <= 1.0
        assert {i.label for i in layout.instances} <= set(SCENE_CLASSES.names)


@pytest.mark.parametrize("size", [(160, 96), (70, 131)], ids=["wide", "tall"])
def test_other_shapes(size: tuple[int, int]) -> None:
    """Catches a transposed canvas: (width, height) is the order."""
    for scene in SCENE_TYPES:
        image, layout = render_scene(5, size, scene=scene)
        assert image.shape == (size[1], size[0], 3)
        assert (layout.width, layout.height) == size
        for instance in layout.instances:
            assert instance.mask is not None
            box = instance.mask.box
            assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= size[0] and box.y1 <= size[1]


def test_every_scene_has_its_things_and_most_classes_occur(drawn: list[Drawn]) -> None:
    """Catches a theme that draws nothing and a class that is never placed."""
    counts: Counter[str] = Counter()
    for _, layout in drawn:
        found = things(layout)
        assert found, layout.scene
        counts.update(i.label for i in found)
    wanted = [c.name for c in SCENE_CLASSES.classes if c.kind == "thing"]
    assert sum(counts[name] > 0 for name in wanted) >= 8, counts


def test_masks_are_inside_and_disjoint(drawn: list[Drawn]) -> None:
    """Catches a pixel that is given to two instances, or to a thing and its ground."""
    for _, layout in drawn:
        covered = np.zeros((layout.height, layout.width), dtype=int)
        for instance in layout.instances:
            assert instance.mask is not None
            covered += instance.mask.to_array(layout.width, layout.height)
        assert covered.max() <= 1


def test_paint_order_is_stuff_then_large_to_small(drawn: list[Drawn]) -> None:
    """Catches an order in which a large mask would cover a small one on repainting."""
    for _, layout in drawn:
        kinds = [SCENE_CLASSES.is_stuff(i.label) for i in layout.instances]
        assert kinds == sorted(kinds, reverse=True)
        areas = [
            i.mask.area
            for i in things(layout)
            if i.mask is not None and not i.truncated and "occluded" not in i.attributes
        ]
        assert all(small <= 1.15 * large + 5 for large, small in itertools.pairwise(areas))


def test_stuff_has_a_mask_only(drawn: list[Drawn]) -> None:
    for _, layout in drawn:
        stuff = [i for i in layout.instances if SCENE_CLASSES.is_stuff(i.label)]
        assert len({i.label for i in stuff}) == len(stuff)
        assert all(i.box is None and i.quad is None and i.mask is not None for i in stuff)


def test_quads_fit_their_masks(drawn: list[Drawn]) -> None:
    """Catches half-pixel shifts, a mirrored frame, and labels longer than what is seen."""
    checked = 0
    for _, layout in drawn:
        for instance in things(layout):
            assert instance.quad is not None and instance.mask is not None
            assert polygon_area(instance.quad) > 0
            if instance.truncated or "occluded" in instance.attributes:
                continue
            box = quad_to_rotated_box(instance.quad)
            pixels = instance.mask.to_array(layout.width, layout.height)
            rows, columns = np.nonzero(pixels)
            c, s = math.cos(box.angle_rad), math.sin(box.angle_rad)
            dx, dy = columns + 0.5 - box.cx, rows + 0.5 - box.cy
            reach = (abs(c) + abs(s)) / 2  # a pixel's own half extent in the turned frame
            along, across = c * dx + s * dy, c * dy - s * dx
            for values, side in ((along, box.w), (across, box.h)):
                assert abs(values.max() + reach - side / 2) <= 1.5, instance.attributes
                assert abs(values.min() - reach + side / 2) <= 1.5, instance.attributes
            checked += 1
    assert checked > 100


def test_boxes_are_the_masks_bounds(drawn: list[Drawn]) -> None:
    for _, layout in drawn:
        for instance in things(layout):
            assert instance.mask is not None and instance.box == instance.mask.box


def test_heading_is_the_first_edge(drawn: list[Drawn]) -> None:
    """Catches a heading in the world frame, and one on a class without a front."""
    for _, layout in drawn:
        for instance in things(layout):
            if SCENE_CLASSES.resolve(instance.label).symmetric:
                assert instance.heading_rad is None
                continue
            assert instance.heading_rad is not None and instance.quad is not None
            turn = heading_of(instance.quad) - instance.heading_rad
            assert abs(math.remainder(turn, 2 * math.pi)) < 1e-6


def test_planes_point_where_they_say(drawn: list[Drawn]) -> None:
    """Catches a front and tail that are swapped: the wings lie ahead of the tailplane.

    Behind the middle of the box a swept-wing plane's mask is wide at the wing tips only, so
    the rearmost fifth holds more pixels than the foremost (the nose is a bare tube).
    """
    front, rear = 0, 0
    for _, layout in drawn:
        for instance in things(layout):
            if instance.label != "plane" or instance.truncated or instance.mask is None:
                continue
            if instance.attributes["kind"] not in ("airliner", "business-jet", "fighter"):
                continue
            assert instance.quad is not None and instance.heading_rad is not None
            box = quad_to_rotated_box(instance.quad)
            rows, columns = np.nonzero(instance.mask.to_array(layout.width, layout.height))
            c, s = math.cos(instance.heading_rad), math.sin(instance.heading_rad)
            along = ((columns + 0.5 - box.cx) * c + (rows + 0.5 - box.cy) * s) / box.w
            front += int((along > 0.3).sum())
            rear += int((along < -0.3).sum())
    assert rear > front * 1.3 > 0


def test_truncated_means_cut_by_the_border(drawn: list[Drawn]) -> None:
    """Catches the flag on a whole object, and its absence where the border cuts."""
    for _, layout in drawn:
        for instance in things(layout):
            assert instance.box is not None
            box = instance.box
            touches = (
                min(box.x0, box.y0) <= 1
                or box.x1 >= layout.width - 1
                or box.y1 >= layout.height - 1
            )
            if instance.truncated and "occluded" not in instance.attributes:
                assert touches, instance


def test_objects_are_really_drawn(drawn: list[Drawn]) -> None:
    """Catches masks beside their pixels: an object differs from the ring around it."""
    differ, total = 0, 0
    for image, layout in drawn:
        for instance in things(layout):
            assert instance.mask is not None
            pixels = instance.mask.to_array(layout.width, layout.height)
            grown = cv2.dilate(pixels.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
            ring = grown & ~pixels
            if not ring.any():
                continue
            inside, outside = image[pixels].astype(float), image[ring].astype(float)
            gap = np.abs(inside.mean(axis=0) - outside.mean(axis=0)).max()
            differ += bool(gap > 8 or np.abs(inside.std() - outside.std()) > 12)
            total += 1
    assert differ / total > 0.9


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"size": 16}, "size"),
        ({"size": 64, "scene": "moon"}, "moon"),
        ({"size": 64, "style": "oil"}, "oil"),
        ({"size": 64, "gsd_m": float("nan")}, "gsd_m"),
    ],
    ids=["size", "scene", "style", "gsd"],
)
def test_bad_requests_are_named(arguments: dict[str, object], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        render_scene(0, **arguments)  # type: ignore[arg-type]
