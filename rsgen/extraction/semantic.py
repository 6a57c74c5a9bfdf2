"""From a map of where a class is to one mask a labelled instance.

Rule. What the map shows (probability >= 0.5) is cut by each label's outline (the quad, else
the box); a pixel that several outlines claim goes to the tightest of them; of what is left the
part in the label's middle stays, small holes closed. Each mask is scored by

    mean probability inside x span x (1 - leakage)

`span` says how far the mask reaches along both axes of the outline (an annotated box touches
its object on all four sides). `leakage` is the share of what the map shows here that lies
outside every label of the class, in a surround of half the label's sides: a map of the whole
quay is hot in every ship's box, and says nothing about the ship. Empty and poor masks are made
by `classical` instead, which falls back to a typical outline (`box`); the reason is kept.

A map shows touching neighbours as one blob. Where two masks of maps meet, the looser gives up
the pixels at the border, so that a gap of one pixel keeps them apart on a binary canvas too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from rsgen.errors import DataError
from rsgen.extraction.base import Pixels, resolve_contested, tightness
from rsgen.extraction.choose import CORE, MIN_FILL, cleaned, label_axes, spanned
from rsgen.extraction.classical import ClassicalBackend
from rsgen.extraction.patch import Frame, frame_of_label
from rsgen.geometry import Array, bounds, fill_polygon
from rsgen.mask import Mask
from rsgen.records import ClassTable, Instance

__all__ = [
    "MAX_LEAKAGE",
    "Region",
    "instances_from_probability",
    "instances_from_regions",
    "surround",
]

Grid = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
HOT = 0.5
MAX_LEAKAGE = 0.5  # above it the map shows something else than the label
MIN_PROBABILITY = 0.5
SURROUND = 0.5  # looked at for leakage, in the label's sides
SLACK_PX = 1.0  # outside by less is how exact labels are
MAX_GAP_SHARE = 0.25  # a mask that the gap would take more of touches its neighbour


@dataclass(frozen=True, slots=True)
class Region:
    """What a network says of one class in a part of the image.

    `probability` is float [h, w] in [0, 1] at pixels (x0, y0) and on; nothing is known of the
    rest. `certainty` in [0, 1] multiplies it in the score. `alone`: it shows one instance, not
    all of its class, so that what it shows in a neighbour's label is leakage.
    """

    probability: npt.NDArray[np.floating]
    x0: int = 0
    y0: int = 0
    certainty: float = 1.0
    alone: bool = False


def instances_from_probability(
    image: Pixels,
    known: Sequence[Instance],
    probability_of: Mapping[str, Region | npt.NDArray[np.floating]],
    labels: ClassTable,
    name: str,
) -> list[Instance]:
    """One instance for each of `known`, with a mask from the map of its class.

    Args:
        image: uint8 [H, W, 3] RGB.
        known: labels with a box or quad; given masks and stuff stay as they are.
        probability_of: label (as in `known`) -> float [H, W] in [0, 1], or a part of it.
        labels: the class table.
        name: the backend's, for `origin` and reasons.

    Raises:
        DataError: a map is not of the image's size.
    """
    regions = dict[str, Region]()
    for label, given in probability_of.items():
        if not isinstance(given, Region) and given.shape != image.shape[:2]:
            raise _misplaced(Region(given), label, image.shape[1], image.shape[0])
        regions[label] = given if isinstance(given, Region) else Region(given)
    return instances_from_regions(image, known, [regions.get(i.label) for i in known], labels, name)


def instances_from_regions(
    image: Pixels,
    known: Sequence[Instance],
    regions: Sequence[Region | None],
    labels: ClassTable,
    name: str,
    doubts: Mapping[int, str] | None = None,
) -> list[Instance]:
    """As `instances_from_probability`, with a map (or none) for each of `known`.

    Scores of masks from maps: `mask` (see the module), `mask_probability` (mean inside),
    `mask_fill` (share of the outline's pixels) and `mask_leakage`. `doubts`: why some have no
    map, by their number.
    """
    height, width = image.shape[:2]
    made = [i.mask is None and not labels.is_stuff(i.label) for i in known]
    views = dict[int, _View]()
    for k, (instance, region) in enumerate(zip(known, regions, strict=True)):
        if region is not None:
            _check(region, instance.label, width, height)
        label = frame_of_label(instance, width, height) if made[k] else None
        area = surround(instance, width, height)
        if label is not None and area is not None:
            views[k] = _View(label[0], region, area)
    claims = [replace(i, mask=views[k].cut()) if k in views else i for k, i in enumerate(known)]
    settled = resolve_contested(claims, made, labels, lambda k, left: views[k].tidy(left))
    canvases = dict[str, Bools]()
    instead, filled = ClassicalBackend(), list[Instance]()
    for k, instance in enumerate(known):
        if not made[k]:
            filled.append(instance)
            continue
        doubt = (doubts or {}).get(k)
        if doubt is None and k in views:
            if instance.label not in canvases:
                canvases[instance.label] = _labelled(known, instance.label, (width, height))
            found = views[k].judged(settled[k].mask, canvases[instance.label])
            if isinstance(found, _Found):
                filled.append(found.on(instance, name))
                continue
            doubt = found
        filled.append(_fallback(instead.single(image, instance, known), instance, name, doubt))
    return _with_gaps(resolve_contested(filled, made, labels), made, name)


def surround(instance: Instance, width: int, height: int) -> tuple[int, int, int, int] | None:
    """(x0, y0, x1, y1) in an image of this size: what a label's mask is made and judged from.

    None where the label does not lie in the image.
    """
    found = frame_of_label(instance, width, height)
    if found is None:
        return None
    grown = bounds(_grown(found[0], SURROUND))
    x0, y0 = max(0, math.floor(grown.x0)), max(0, math.floor(grown.y0))
    return x0, y0, min(width, math.ceil(grown.x1)), min(height, math.ceil(grown.y1))


@dataclass(frozen=True, slots=True)
class _Found:
    mask: Mask
    probability: float
    span: float
    fill: float
    leakage: float

    def on(self, instance: Instance, name: str) -> Instance:
        scores = {
            **instance.scores,
            "mask": round(self.probability * self.span * (1 - self.leakage), 4),
            "mask_probability": round(self.probability, 4),
            "mask_fill": round(self.fill, 4),
            "mask_leakage": round(self.leakage, 4),
        }
        return replace(instance, mask=self.mask, origin=name, scores=scores)


class _View:
    """One label and what its map says in and around it."""

    def __init__(
        self, frame: Frame, region: Region | None, area: tuple[int, int, int, int]
    ) -> None:
        self._frame, self._region = frame, region
        known = (0, 0, 0, 0)
        if region is not None:
            height, width = region.probability.shape
            known = (region.x0, region.y0, region.x0 + width, region.y0 + height)
        self._x0, self._y0 = max(known[0], area[0]), max(known[1], area[1])
        self._x1, self._y1 = min(known[2], area[2]), min(known[3], area[3])
        self._empty = self._x1 <= self._x0 or self._y1 <= self._y0
        if not self._empty:
            self._hot: Bools = np.asarray(self._values() >= HOT)
            self._inside = self._filled(frame.outline)

    def cut(self) -> Mask | None:
        """What the map shows inside the outline."""
        if self._empty:
            return None
        return Mask.from_array(self._hot & self._inside, self._x0, self._y0)

    def tidy(self, left: Mask) -> Mask:
        """The part in the label's middle (else the largest) of what no tighter label has."""
        mine = self._local(left)
        inside = self._inside
        u, v = label_axes(self._frame, (self._x0, self._y0, self._x1, self._y1))
        core = inside & (np.abs(u - 0.5) < CORE) & (np.abs(v - 0.5) < CORE)
        taken = self._hot & ~mine  # a hole that is another's is no hole to close
        kept = Mask.from_array(cleaned(mine, core) & inside & ~taken, self._x0, self._y0)
        assert kept is not None, "a part of a mask is not empty"
        return kept

    def judged(self, kept: Mask | None, labelled: Bools) -> _Found | str:
        """The mask with its measures, or why it is not to be used.

        `kept`: what the map shows in the outline, less what a tighter label has; `labelled`:
        bool [H, W], the outlines of all labels of the class.
        """
        if self._region is None:
            return "the answer has nothing of its class"
        if self._empty:
            return "the map does not reach the label"
        values = self._values()
        if not np.isfinite(values).all():
            return "the map has numbers that are not finite"
        inside, cut = self._inside, self._hot & self._inside
        if not cut.any():
            return "nothing found in the label"
        if kept is None:
            return "all that was found lies in tighter labels"
        mine = self._local(kept)
        u, v = label_axes(self._frame, (self._x0, self._y0, self._x1, self._y1))
        reach = spanned(mine, inside, u * self._frame.width)
        reach *= spanned(mine, inside, v * self._frame.height)
        leakage = self._leakage(cut, labelled)
        probability = float(np.clip(values[mine], 0, 1).mean()) * self._region.certainty
        if probability < MIN_PROBABILITY:
            return f"low probability {probability:.2f}"
        if leakage > MAX_LEAKAGE:
            return f"{leakage:.2f} of what is shown there lies outside the label"
        if reach < MIN_FILL:
            return f"fills little of its label {reach:.2f}"
        return _Found(kept, probability, reach, float(mine.sum() / inside.sum()), leakage)

    def _leakage(self, cut: Bools, labelled: Bools) -> float:
        """Outside / all, of the connected parts of the map that the label holds a piece of."""
        _, parts = cv2.connectedComponents(self._hot.astype(np.uint8), connectivity=8)
        held = np.isin(parts, np.unique(parts[cut]))
        free = self._hot & held & self._filled(_grown(self._frame, SURROUND))
        free &= ~self._filled(_grown(self._frame, 0.0, SLACK_PX))
        if self._region is not None and not self._region.alone:
            free &= ~labelled[self._y0 : self._y1, self._x0 : self._x1]
        outside = float(free.sum())
        return outside / (outside + float(cut.sum()))

    def _values(self) -> Grid:
        assert self._region is not None
        x0, y0 = self._region.x0, self._region.y0
        part = self._region.probability[
            self._y0 - y0 : self._y1 - y0, self._x0 - x0 : self._x1 - x0
        ]
        return np.asarray(part, dtype=np.float32)

    def _filled(self, outline: Array) -> Bools:
        shifted = outline - (self._x0, self._y0)
        return fill_polygon([shifted], self._y1 - self._y0, self._x1 - self._x0)

    def _local(self, mask: Mask) -> Bools:
        width, height = self._x1 - self._x0, self._y1 - self._y0
        return mask.shift(-self._x0, -self._y0).to_array(width, height)


def _check(region: Region, label: str, width: int, height: int) -> None:
    shape = region.probability.shape
    fits = len(shape) == 2 and region.x0 >= 0 and region.y0 >= 0
    if not fits or region.x0 + shape[1] > width or region.y0 + shape[0] > height:
        raise _misplaced(region, label, width, height)


def _misplaced(region: Region, label: str, width: int, height: int) -> DataError:
    return DataError(
        f"the map of {label!r} is {region.probability.shape} at ({region.x0}, {region.y0}), the "
        f"image is {height} x {width}",
        hint="give maps as [height, width] of the image, or a Region inside it",
    )


def _grown(frame: Frame, share: float, pixels: float = 0.0) -> Array:
    """The outline with each side moved out by a share of the label, and by pixels."""
    more = np.array([share + pixels / frame.width, share + pixels / frame.height])
    corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1)], dtype=np.float64)
    unit = corners + (2 * corners - 1) * more
    return np.asarray(unit @ frame.to_image[:, :2].T + frame.to_image[:, 2], dtype=np.float64)


def _labelled(known: Sequence[Instance], label: str, image: tuple[int, int]) -> Bools:
    """bool [H, W]: where the labels of one class lie."""
    canvas = np.zeros((image[1], image[0]), dtype=bool)
    for instance in known:
        found = frame_of_label(instance, *image) if instance.label == label else None
        mask = None if found is None else Mask.from_polygons([found[0].outline], *image)
        if mask is not None:
            mask.paint(canvas, True)
    return canvas


def _fallback(other: Instance, instance: Instance, name: str, doubt: str | None) -> Instance:
    """The classical mask; a label outside the image has said so itself."""
    if doubt is None:
        return other
    said = len(instance.reasons)
    return replace(other, reasons=(*instance.reasons, f"{name}: {doubt}", *other.reasons[said:]))


def _with_gaps(instances: Sequence[Instance], made: Sequence[bool], name: str) -> list[Instance]:
    """Where two masks of maps meet, the looser loses the pixels that touch the tighter."""
    result = list(instances)
    order = sorted(
        (k for k, i in enumerate(instances) if made[k] and i.origin == name and i.mask),
        key=lambda k: (tightness(instances[k]), k),
    )
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    for place, k in enumerate(order):
        mask = result[k].mask
        assert mask is not None
        pixels = mask.crop()
        touched = np.zeros(pixels.shape, dtype=bool)
        for other in order[:place]:
            rival = result[other].mask
            assert rival is not None
            if not _near(mask, rival):
                continue
            window = np.zeros((mask.height + 2, mask.width + 2), dtype=np.uint8)
            rival.shift(1 - mask.x0, 1 - mask.y0).paint(window, 1)
            touched |= cv2.dilate(window, cross)[1:-1, 1:-1] > 0
        lost = pixels & touched
        if lost.any() and lost.sum() <= MAX_GAP_SHARE * pixels.sum():
            result[k] = replace(result[k], mask=Mask.from_array(pixels & ~lost, mask.x0, mask.y0))
    return result


def _near(a: Mask, b: Mask) -> bool:
    across = a.x0 <= b.x0 + b.width and b.x0 <= a.x0 + a.width
    return across and a.y0 <= b.y0 + b.height and b.y0 <= a.y0 + a.height
