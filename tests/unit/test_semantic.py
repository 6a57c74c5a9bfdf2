"""From class maps and boxes to one mask an instance: answers worked out by hand."""

from __future__ import annotations

import re
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from rsgen.errors import DataError
from rsgen.extraction.semantic import Region, instances_from_probability, instances_from_regions
from rsgen.geometry import Box, RotatedBox, rotated_box_to_quad
from rsgen.mask import Mask
from rsgen.records import ClassTable, Instance, ObjectClass

CLASSES = ClassTable(
    (ObjectClass("ship"), ObjectClass("harbor"), ObjectClass("water", kind="stuff"))
)
Map = npt.NDArray[np.float32]
SIZE = 60  # of the image, both sides
IMAGE = np.random.default_rng(0).normal(90, 3, (SIZE, SIZE, 3)).clip(0, 255).astype(np.uint8)


def hot(*blocks: tuple[int, int, int, int], value: float = 1.0) -> Map:
    """A map that is `value` in blocks (x0, y0, x1, y1), else 0."""
    found = np.zeros((SIZE, SIZE), np.float32)
    for x0, y0, x1, y1 in blocks:
        found[y0:y1, x0:x1] = value
    return found


def boxed(*box: float, label: str = "ship", **more: Any) -> Instance:
    return Instance(label, box=Box(*box), **more)


def masks(known: list[Instance], **maps: Any) -> list[Instance]:
    return instances_from_probability(IMAGE, known, maps, CLASSES, "clip")


def pixels(instance: Instance) -> npt.NDArray[np.bool_]:
    assert instance.mask is not None
    return instance.mask.to_array(SIZE, SIZE)


def test_a_clean_blob_in_its_box() -> None:
    """12 x 6 pixels at 0.8 in a box of 14 x 8: every number can be worked out."""
    (found,) = masks([boxed(9, 19, 23, 27)], ship=hot((10, 20, 22, 26), value=0.8))
    assert found.origin == "clip" and found.reasons == ()
    assert (pixels(found) == (hot((10, 20, 22, 26)) > 0)).all()
    assert found.scores["mask_probability"] == pytest.approx(0.8)
    assert found.scores["mask_fill"] == pytest.approx(72 / 112, abs=1e-4)
    assert found.scores["mask_leakage"] == 0
    assert found.scores["mask"] == pytest.approx(0.8 * (12 / 14) * (6 / 8), abs=1e-4)


def test_a_contested_pixel_goes_to_the_tighter_box_and_a_gap_stays() -> None:
    """One blob over two boxes that overlap in columns 28 and 29: 10 wide beats 20 wide."""
    known = [boxed(10, 20, 30, 30), boxed(28, 20, 38, 30)]
    wide, narrow = masks(known, ship=hot((10, 20, 38, 30)))
    assert (pixels(narrow) == (hot((28, 20, 38, 30)) > 0)).all()
    assert (pixels(wide) == (hot((10, 20, 27, 30)) > 0)).all(), "column 27 is the gap"
    assert wide.scores["mask_leakage"] == narrow.scores["mask_leakage"] == 0


def test_the_maps_own_gap_is_kept() -> None:
    """Boxes overlap, objects do not: what the map leaves out between them stays out."""
    known = [boxed(10, 20, 26, 30), boxed(22, 20, 40, 30)]
    one, two = masks(known, ship=hot((10, 20, 23, 30), (25, 20, 40, 30)))
    assert (pixels(one) == (hot((10, 20, 23, 30)) > 0)).all()
    assert (pixels(two) == (hot((25, 20, 40, 30)) > 0)).all()


def test_a_ship_is_cut_out_of_the_harbour_around_it() -> None:
    """Closing small holes of the harbour must not swallow the ship again."""
    known = [boxed(5, 5, 55, 55, label="harbor"), boxed(28, 28, 36, 32)]
    harbor, ship = masks(known, harbor=hot((5, 5, 55, 55)), ship=hot((28, 28, 36, 32)))
    assert (pixels(ship) == (hot((28, 28, 36, 32)) > 0)).all()
    ring = hot((28, 27, 36, 33), (27, 28, 37, 32)) > 0
    assert (pixels(harbor) == ((hot((5, 5, 55, 55)) > 0) & ~ring)).all()


def test_leakage_counts_what_lies_beside_every_label_of_the_class() -> None:
    """Box 10 x 10, blob 14 x 10: past the pixel of slack, 3 columns of 10 lie outside."""
    (found,) = masks([boxed(20, 20, 30, 30)], ship=hot((20, 20, 34, 30)))
    assert found.scores["mask_leakage"] == pytest.approx(30 / 130, abs=1e-4)
    beside = [boxed(20, 20, 30, 30), boxed(30, 20, 34, 30)]
    assert masks(beside, ship=hot((20, 20, 34, 30)))[0].scores["mask_leakage"] == 0


def test_an_oriented_label_cuts_by_its_quad_and_not_by_its_box() -> None:
    quad = rotated_box_to_quad(RotatedBox(30, 30, 30, 8, 0.7))
    known = [Instance("ship", quad=quad)]
    outline = Mask.from_polygons([np.array(quad)], SIZE, SIZE)
    assert outline is not None
    inside = outline.to_array(SIZE, SIZE)
    spots = inside.copy()
    spots[12:16, 40:44] = True  # another thing, in the corner of the upright box
    (found,) = masks(known, ship=spots.astype(np.float32))
    assert (pixels(found) == inside).all()
    assert found.scores["mask_leakage"] == 0, "it does not touch the object"


FULL = np.ones((SIZE, SIZE), np.float32)
POOR = {
    "empty": (hot(), "nothing found in the label"),
    "below one half": (hot((20, 20, 40, 30), value=0.45), "nothing found in the label"),
    "everything": (FULL, "0.7. of what is shown there lies outside the label"),
    "a speck": (hot((24, 24, 28, 26)), r"fills little of its label 0\.04"),
    "not finite": (np.where(hot((25, 22, 30, 24)) > 0, np.nan, 1.0), "not finite"),
}


@pytest.mark.parametrize(("given", "why"), POOR.values(), ids=POOR)
def test_poor_maps_are_replaced_and_say_so(given: Map, why: str) -> None:
    """Catches a poor mask that goes on as the backend's own, and a lost object."""
    image = IMAGE.copy()
    image[21:29, 21:39] = 220
    known = [boxed(20, 20, 40, 30, reasons=("difficult",))]
    (found,) = instances_from_probability(image, known, {"ship": given}, CLASSES, "clip")
    assert found.origin in {"classical", "box"} and found.mask is not None
    assert found.reasons[0] == "difficult"
    assert re.search("clip: .*" + why, found.reasons[1])
    assert "mask_leakage" not in found.scores


def test_featureless_ground_without_a_map_ends_at_the_typical_outline() -> None:
    """Map -> classical -> box, each step named."""
    (found,) = masks([boxed(20, 20, 40, 30)], ship=hot())
    assert found.origin == "box"
    assert found.reasons[0] == "clip: nothing found in the label"
    assert found.reasons[1].startswith("fallback: ")


def test_a_class_without_a_map_and_a_label_outside_say_so() -> None:
    known = [boxed(20, 20, 40, 30, label="harbor"), boxed(90, 90, 99, 99)]
    harbor, outside = masks(known, ship=hot())
    assert harbor.reasons[0] == "clip: the answer has nothing of its class"
    assert outside.mask is None and outside.reasons == ("no box inside the image",)


def test_given_masks_and_stuff_stay_and_win() -> None:
    """Catches a gap or a contest that eats a mask which came with the label."""
    given = Mask.from_array(hot((10, 20, 20, 30)))
    water = Mask.from_array(hot((0, 40, 60, 60)))
    known = [
        boxed(10, 20, 20, 30, mask=given, origin="clip"),
        boxed(18, 22, 26, 28),
        Instance("water", mask=water),
    ]
    one, two, three = masks(known, ship=hot((10, 20, 26, 30)))
    assert one == known[0] and three == known[2]
    assert (pixels(two) == (hot((20, 22, 26, 28)) > 0)).all()


def test_all_of_it_in_tighter_labels_is_not_lost() -> None:
    """The map shows the small one alone: the large one gets a mask from elsewhere."""
    known = [boxed(10, 10, 50, 50), boxed(28, 28, 34, 34)]
    large, small = masks(known, ship=hot((28, 28, 34, 34)))
    assert small.origin == "clip"
    assert large.reasons[0] == "clip: all that was found lies in tighter labels"
    assert large.mask is not None


def test_maps_of_single_instances_and_of_parts_of_the_image() -> None:
    """A window's map lies where the window does; another's label is no excuse for leakage."""
    known = [boxed(20, 20, 30, 30), boxed(31, 20, 41, 30)]
    window = hot((20, 20, 30, 30))[10:45, 15:58]
    both = hot((20, 20, 41, 30))
    one, two = instances_from_regions(
        IMAGE,
        known,
        [Region(window, 15, 10, certainty=0.9), Region(both, alone=True)],
        CLASSES,
        "clip",
        {},
    )
    assert (pixels(one) == (hot((20, 20, 30, 30)) > 0)).all()
    assert one.scores["mask"] == pytest.approx(0.9)
    assert two.scores["mask_leakage"] == pytest.approx(4 * 10 / 140, abs=1e-4)


@pytest.mark.parametrize(
    "region",
    [
        pytest.param(np.zeros((30, 60), np.float32), id="half"),
        pytest.param(np.zeros((61, 60), np.float32), id="one row too many"),
        pytest.param(np.zeros((2, 60, 60), np.float32), id="two channels"),
        pytest.param(Region(np.zeros((30, 30), np.float32), 40, 0), id="past the border"),
        pytest.param(Region(np.zeros((30, 30), np.float32), -1, 0), id="before the border"),
    ],
)
def test_a_map_of_another_size_is_refused(region: Any) -> None:
    """Catches maps at the network's size that would put masks somewhere else."""
    with pytest.raises(DataError, match="the map of 'ship' is"):
        masks([boxed(20, 20, 40, 30)], ship=region)


@pytest.mark.parametrize("seed", range(8))
def test_masks_lie_in_their_labels_and_share_no_pixel(seed: int) -> None:
    """Crowded oriented labels and blotchy maps: catches claims that come back by a later step."""
    rng = np.random.default_rng(seed)
    known = []
    for k in range(14):
        cx, cy, long, wide = rng.uniform((5, 5, 6, 4), (55, 55, 30, 14))
        quad = rotated_box_to_quad(RotatedBox(cx, cy, long, wide, rng.uniform(-3, 3)))
        known.append(Instance(("ship", "harbor")[k % 2], quad=quad))
    maps = {}
    for label in ("ship", "harbor"):
        noise = cv2.GaussianBlur(rng.normal(0, 1, (SIZE, SIZE)), (0, 0), 2.5)
        maps[label] = np.clip(0.6 + noise * 2, 0, 1).astype(np.float32)
    found = masks(known, **maps)
    assert [(i.label, i.quad) for i in found] == [(i.label, i.quad) for i in known]
    assert any(i.origin == "clip" for i in found)
    taken = np.zeros((SIZE, SIZE), int)
    for instance in found:
        if instance.mask is None:
            assert instance.reasons[-1] == "covered"
            continue
        taken += pixels(instance)
        assert 0 <= instance.scores["mask"] <= 1
        outline = Mask.from_polygons([np.array(instance.quad)], SIZE, SIZE)
        if instance.origin == "clip" and outline is not None:
            assert not (pixels(instance) & ~outline.to_array(SIZE, SIZE)).any()
            assert (maps[instance.label][pixels(instance)] >= 0.5).mean() > 0.9
    assert taken.max() == 1
