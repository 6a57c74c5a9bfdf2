"""Object crops of one size: the oriented box turned upright, with some of its surround."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from rsgen.evaluation.base import Images
from rsgen.geometry import (
    Affine,
    Box,
    RotatedBox,
    as_array,
    box_quad,
    clip_polygon,
    compose,
    polygon_area,
    quad_to_rotated_box,
    rotated_box_to_quad,
)
from rsgen.images import Pixels
from rsgen.mask import BoolImage, Mask
from rsgen.records import ClassTable, Instance, Layout, Sample

__all__ = [
    "PAD",
    "SIDE",
    "Crop",
    "Place",
    "crop_image",
    "crop_mask",
    "cut_crops",
    "places_of",
    "pose_of",
    "spread",
]

SIDE = 64
PAD = 0.2  # of the box's own side, added at each end
LEAST_PX = 6.0  # shorter sides show too little to compare
LEAST_INSIDE = 0.8  # of the box in the image: beyond it the border's pixels are drawn out


@dataclass(frozen=True, slots=True)
class Place:
    """An object of a sample that can be cropped. `key` orders objects at random but fixed."""

    sample: Sample
    instance: Instance
    label: str
    pose: RotatedBox
    key: str


@dataclass(frozen=True, slots=True)
class Crop:
    """uint8 [SIDE, SIDE, 3] RGB of an object."""

    place: Place
    pixels: Pixels


def pose_of(instance: Instance) -> RotatedBox | None:
    """The box to turn upright: its front to +x where known, else its long side along x.

    A label without a quad has its upright box.
    """
    box = instance.bounds()
    if box is None:
        return None
    pose = quad_to_rotated_box(instance.quad or box_quad(box))
    if instance.quad is None:  # the quad of an upright box starts at its top
        pose = RotatedBox(*box.center, box.width, box.height, 0.0)
    if instance.heading_rad is None and pose.h > pose.w:
        return RotatedBox(pose.cx, pose.cy, pose.h, pose.w, pose.angle_rad + math.pi / 2)
    return pose


def _inside(pose: RotatedBox, layout: Layout) -> float:
    """Share of the box that lies in the image; labels of cut objects may end at the border."""
    quad = as_array(rotated_box_to_quad(pose))
    parts = clip_polygon(quad, Box(0.0, 0.0, float(layout.width), float(layout.height)))
    return sum(abs(polygon_area(part)) for part in parts) / abs(polygon_area(quad))


def places_of(images: Images, classes: ClassTable, seed: int) -> list[Place]:
    """The things of a set that can be compared, ordered by a key of seed, sample and position.

    Left out: difficult objects and crowds, sides under 6 px, less than 80 % in the image. The
    order does not depend on the order of samples, so taking the first n is a fair draw.
    """
    found = []
    for sample in images.samples:
        for number, instance in enumerate(sample.layout.instances):
            if classes.is_stuff(instance.label) or instance.difficult or instance.iscrowd:
                continue
            pose = pose_of(instance)
            if pose is None or min(pose.w, pose.h) < LEAST_PX:
                continue
            if _inside(pose, sample.layout) < LEAST_INSIDE:
                continue
            key = hashlib.sha256(f"{seed} {sample.id} {number}".encode()).hexdigest()
            label = classes.resolve(instance.label).name
            found.append(Place(sample, instance, label, pose, key))
    return sorted(found, key=lambda place: place.key)


def spread(places: Sequence[Place], most: int) -> list[Place]:
    """At most `most` of each class, the first by key."""
    taken: dict[str, int] = {}
    chosen = []
    for place in places:
        taken[place.label] = taken.get(place.label, 0) + 1
        if taken[place.label] <= most:
            chosen.append(place)
    return chosen


def cut_crops(images: Images, places: Sequence[Place]) -> Iterator[Crop]:
    """Crops of objects of these images, in the order of places; each image is read once."""
    wanted: dict[str, list[int]] = {}
    for k, place in enumerate(places):
        wanted.setdefault(place.sample.id, []).append(k)
    made: dict[int, Crop] = {}
    for sample in images.samples:
        members = wanted.get(sample.id, [])
        if members:
            image = images.read(sample)
            for k in members:
                made[k] = Crop(places[k], crop_image(image, places[k].pose))
    return (made[k] for k in range(len(places)))


def _frame(pose: RotatedBox, width: int, height: int) -> Affine:
    """Edges of a crop [0, width] x [0, height] -> edges of the image, padding included."""
    c, s = math.cos(pose.angle_rad), math.sin(pose.angle_rad)
    across, down = pose.w * (1 + 2 * PAD), pose.h * (1 + 2 * PAD)
    along = np.array([c, s]) * across / width
    side = np.array([-s, c]) * down / height
    corner = np.array([pose.cx, pose.cy]) - along * width / 2 - side * height / 2
    return np.stack([along, side, corner], axis=1)


def _sampled(image: npt.NDArray[np.uint8], pose: RotatedBox) -> npt.NDArray[np.uint8]:
    """The box at the image's own resolution, then stretched to SIDE x SIDE by area."""
    width = max(1, round(pose.w * (1 + 2 * PAD)))
    height = max(1, round(pose.h * (1 + 2 * PAD)))
    width, height = max(width, SIDE), max(height, SIDE)
    half = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5]])
    matrix = compose(_frame(pose, width, height), half)
    matrix[:, 2] -= 0.5  # OpenCV counts from pixel centres
    found = cv2.warpAffine(
        image,
        matrix,
        (width, height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.asarray(cv2.resize(found, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.uint8)


def crop_image(image: Pixels, pose: RotatedBox) -> Pixels:
    """uint8 [SIDE, SIDE, 3]; outside the image its border goes on."""
    return _sampled(image, pose)


def crop_mask(mask: Mask, layout: Layout, pose: RotatedBox) -> BoolImage:
    """The same crop of a mask of the layout's canvas, bool [SIDE, SIDE]."""
    canvas = mask.to_array(layout.width, layout.height).astype(np.uint8) * np.uint8(255)
    return np.asarray(_sampled(canvas, pose) >= 128, dtype=bool)
