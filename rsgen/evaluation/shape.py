"""Do objects have the shape that was asked for? Edges of object crops against a reference's.

Source: the shape metrics of OF-Diff (ICLR 2026), section 5: an instance's box is padded by
20 %, cropped, resized to 64 x 64, and the Canny edges of the generated crop are compared with
the reference crop's by IoU, Dice, Chamfer and Hausdorff distance and SSIM. Differs in: the paper
crops the upright box around an oriented one; here the oriented box itself is turned upright, its
front to the right, so that an object's pose is not part of its shape. What the paper does not say
is pinned here:

- IoU = |A & B| / |A | B| and Dice = 2 |A & B| / (|A| + |B|) of edge pixels; grey by BT.601;
  Canny of OpenCV with thresholds 100 and 200, aperture 3, L1 gradient, no blur, no dilation;
- Chamfer is the mean of both directions' mean nearest distance, Hausdorff the larger of both
  directions' largest, in pixels of the 64 x 64 crop;
- SSIM is scikit-image's on edge maps of 0 and 1 (uniform window of 7, data range 1);
- a reference without edges has no shape: the pair is left out and counted; a generated crop
  without edges scores IoU = Dice = 0, and both distances are the crop's diagonal;
- tables give means over objects (at most 200 of a class); the headline figures are means of
  class means, over classes that generated and real images both have, so that what a set holds
  more of does not tell them apart.

What a generated crop is compared with:

- asked outline: the edges of the mask that it was made from. Every generated object has one;
  it says whether the drawn object keeps to its input. The same figure of held real images
  against their own masks is the ceiling, the outline of another object of the class the
  floor. It is no comparison with a real image, so nothing of one leaks.
- real twin: where the layout is that of a held (test) real image, the same place in it.
  The generated object was given another object's mask: fair. Where it was given the twin's own
  mask, the reference has told the shape already: that is shown in a row of its own, marked.
  OF-Diff's table is of the second kind.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from rsgen.errors import DataError
from rsgen.evaluation.base import CellResult, Evaluation, Images, figure
from rsgen.evaluation.crops import SIDE, Crop, Place, crop_mask, cut_crops, places_of, spread
from rsgen.geometry import box_quad, quad_iou
from rsgen.images import Pixels
from rsgen.mask import BoolImage
from rsgen.pictures import contact_sheet
from rsgen.records import ClassTable, Instance, Sample

__all__ = ["CANNY", "CELL", "METRICS", "ShapeCell", "compare_edges", "edges_of", "outline_edges"]

CANNY = (100, 200)
MOST = 200  # objects of a class: the first by a random but fixed order
METRICS = ("IoU", "Dice", "Chamfer px", "Hausdorff px", "SSIM")
DIAGONAL = SIDE * 2**0.5
SAME_PLACE = 0.9  # IoU of labels that mark the same place of a layout
SAME_MASK = 0.98  # IoU of masks that are one mask
PICTURES = 8

ASKED = "generated, against the asked outline"
CEILING = "real test, against their own outline"
FLOOR = "generated, against another object's outline"
TWIN = "generated, against the real twin"
LEAKED = "generated, against the real twin whose mask it was given (leaks)"


def edges_of(crop: Pixels) -> BoolImage:
    """Canny edges of uint8 [S, S, 3] RGB, bool [S, S]."""
    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.Canny(grey, *CANNY) > 0)


def outline_edges(mask: BoolImage) -> BoolImage:
    """Canny edges of a mask drawn white on black: the operator that sees the images too."""
    return np.asarray(cv2.Canny(mask.astype(np.uint8) * np.uint8(255), *CANNY) > 0)


def compare_edges(found: BoolImage, reference: BoolImage) -> dict[str, float] | None:
    """The five metrics of two edge maps bool [S, S]; None where the reference has no edges."""
    from scipy.ndimage import distance_transform_edt
    from skimage.metrics import structural_similarity

    if not reference.any():
        return None
    common, union = int((found & reference).sum()), int((found | reference).sum())
    ssim = structural_similarity(  # type: ignore[no-untyped-call]
        found.astype(np.float64), reference.astype(np.float64), data_range=1.0
    )
    diagonal = float(np.hypot(*reference.shape))
    chamfer, hausdorff = diagonal, diagonal
    if found.any():
        there = distance_transform_edt(~reference)[found]
        back = distance_transform_edt(~found)[reference]
        chamfer = float(there.mean() + back.mean()) / 2
        hausdorff = float(max(there.max(), back.max()))
    dice = 2 * common / (int(found.sum()) + int(reference.sum()))
    values = (common / union, dice, chamfer, hausdorff, float(ssim))
    return dict(zip(METRICS, values, strict=True))


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two edge maps of one object."""

    label: str
    crop: Pixels
    found: BoolImage
    reference: BoolImage
    values: Mapping[str, float] | None


class ShapeCell:
    """Edge agreement with the asked outline, and with real twins where layouts have one."""

    name = "shape"
    title = "shape: do objects have the asked outline"

    def compute(self, evaluation: Evaluation, folder: Path) -> CellResult:
        made = _crops(evaluation.generated, evaluation)
        if not made:
            raise DataError(
                f"none of {len(evaluation.generated)} generated images has an object with a mask "
                "of at least 6 px",
                hint="generate from layouts with masks",
            )
        asked = _against_outlines(made)
        sets = {
            ASKED: asked,
            CEILING: _against_outlines(_crops(evaluation.real, evaluation)),
            FLOOR: _against_others(asked),
            **_against_twins(made, evaluation),
        }
        summary = {name: _row(pairs) for name, pairs in sets.items()}
        common = _labels(asked) & (_labels(sets[CEILING]) or _labels(asked))
        means = {name: _class_means(pairs, common) for name, pairs in sets.items()}
        figures = {f"{name}, asked outline": means[ASKED][name] for name in METRICS}
        figures |= {
            "IoU, real images and their outlines": means[CEILING]["IoU"],
            "IoU, another object's outline": means[FLOOR]["IoU"],
            "IoU, real twin": means[TWIN]["IoU"],
        }
        return CellResult(
            figures=figures,
            tables={
                f"edges of {SIDE} px crops (Canny {CANNY[0]}/{CANNY[1]})": summary,
                "by class, asked outline": _class_rows(asked, sets[CEILING]),
            },
            counts={
                "objects compared with their outline": _known(asked),
                "real objects compared with theirs": _known(sets[CEILING]),
                "objects compared with a real twin": _known(sets[TWIN]),
                "objects with a twin whose mask they were given": _known(sets[LEAKED]),
            },
            notes=_notes(sets),
            pictures=_pictures(asked, folder),
        )


def _crops(images: Images, evaluation: Evaluation) -> list[Crop]:
    """Crops of objects with a mask of their own: the outline of a box is none."""
    places = places_of(images, evaluation.classes, evaluation.seed)
    shaped = [p for p in places if p.instance.mask is not None and p.instance.origin != "box"]
    found = list(cut_crops(images, spread(shaped, MOST)))
    evaluation.check_stop()
    return found


def _outline(place: Place) -> BoolImage:
    mask = place.instance.mask
    if mask is None:
        return np.zeros((SIDE, SIDE), dtype=bool)
    return outline_edges(crop_mask(mask, place.sample.layout, place.pose))


def _pair(crop: Crop, reference: BoolImage) -> _Pair:
    found = edges_of(crop.pixels)
    values = compare_edges(found, reference)
    return _Pair(crop.place.label, crop.pixels, found, reference, values)


def _against_outlines(crops: Iterable[Crop]) -> list[_Pair]:
    return [_pair(crop, _outline(crop.place)) for crop in crops]


def _against_others(pairs: Sequence[_Pair]) -> list[_Pair]:
    """Each object against the outline of the next one of its class: what chance gives."""
    by_class: dict[str, list[_Pair]] = {}
    for pair in pairs:
        by_class.setdefault(pair.label, []).append(pair)
    return [
        _Pair(one.label, one.crop, one.found, other.reference,
              compare_edges(one.found, other.reference))
        for members in by_class.values()
        if len(members) > 1
        for one, other in zip(members, members[1:] + members[:1], strict=True)
    ]  # fmt: skip


def _against_twins(crops: Sequence[Crop], evaluation: Evaluation) -> dict[str, list[_Pair]]:
    """Pairs with the same place of the held real image that has the layout."""
    held: dict[str, list[Sample]] = {}
    for sample in evaluation.real.samples:
        for name in {sample.id, sample.parent}:
            held.setdefault(name, []).append(sample)
    found: dict[str, list[tuple[Crop, Place]]] = {TWIN: [], LEAKED: []}
    for crop in crops:
        sample = crop.place.sample
        for name in dict.fromkeys((*sample.provenance.sources, sample.parent)):
            place = _same_place(crop.place, held.get(name, []), evaluation.classes)
            if place is not None:
                found[LEAKED if _has_mask_of(crop.place, place) else TWIN].append((crop, place))
                break
    pairs: dict[str, list[_Pair]] = {}
    for kind, members in found.items():
        twins = cut_crops(evaluation.real, [place for _, place in members])
        pairs[kind] = [
            _pair(crop, edges_of(twin.pixels))
            for (crop, _), twin in zip(members, twins, strict=True)
        ]
    return pairs


def _same_place(place: Place, samples: Sequence[Sample], classes: ClassTable) -> Place | None:
    """The object of a real sample that a generated one stands for, in the generated frame."""
    layout = place.sample.layout
    for sample in samples:
        if (sample.layout.width, sample.layout.height) != (layout.width, layout.height):
            continue
        for instance in sample.layout.instances:
            if classes.resolve(instance.label).name != place.label:
                continue
            if _overlap(instance, place.instance) >= SAME_PLACE:
                return Place(sample, instance, place.label, place.pose, place.key)
    return None


def _overlap(one: Instance, other: Instance) -> float:
    first, second = one.bounds(), other.bounds()
    if first is None or second is None:
        return 0.0
    return quad_iou(one.quad or box_quad(first), other.quad or box_quad(second))


def _has_mask_of(place: Place, twin: Place) -> bool:
    """Whether the twin's own mask was the input. In doubt it was."""
    ours, theirs = place.instance.mask, twin.instance.mask
    if not place.instance.origin.startswith("pool:"):
        return True
    return ours is not None and theirs is not None and ours.iou(theirs) >= SAME_MASK


def _labels(pairs: Iterable[_Pair]) -> set[str]:
    return {pair.label for pair in pairs if pair.values is not None}


def _class_means(pairs: Sequence[_Pair], labels: Collection[str]) -> dict[str, float | None]:
    """The mean of class means of each metric, over some classes; None without objects."""
    rows = [
        [[pair.values[name] for name in METRICS] for pair in pairs
         if pair.label == label and pair.values is not None]
        for label in sorted(labels)
    ]  # fmt: skip
    means = [np.mean(row, axis=0) for row in rows if row]
    every = np.mean(means, axis=0) if means else np.full(len(METRICS), np.nan)
    return {name: figure(float(value)) for name, value in zip(METRICS, every, strict=True)}


def _known(pairs: Iterable[_Pair]) -> int:
    return sum(pair.values is not None for pair in pairs)


def _row(pairs: Sequence[_Pair]) -> dict[str, float | int | None]:
    values = [pair.values for pair in pairs if pair.values is not None]
    row: dict[str, float | int | None] = {"objects": len(values)}
    for name in METRICS:
        row[name] = figure(float(np.mean([v[name] for v in values]))) if values else None
    row["crops without edges"] = sum(not p.found.any() for p in pairs if p.values is not None)
    row["left out: reference without edges"] = len(pairs) - len(values)
    return row


def _class_rows(
    made: Sequence[_Pair], real: Sequence[_Pair]
) -> dict[str, dict[str, float | int | None]]:
    rows = {}
    for label in sorted({pair.label for pair in made}):
        ours = _row([pair for pair in made if pair.label == label])
        theirs = _row([pair for pair in real if pair.label == label])
        rows[label] = {
            "objects": ours["objects"],
            **{name: ours[name] for name in METRICS},
            "IoU of real objects": theirs["IoU"],
        }
    return rows


def _notes(sets: Mapping[str, Sequence[_Pair]]) -> list[str]:
    notes = []
    if not sets[TWIN]:
        notes.append(
            "no generated object has another object's mask on the layout of a held real image: "
            "to compare with real images, generate with -s generate.layout_splits=[test] "
            "and --pool"
        )
    if sets[LEAKED]:
        notes.append(
            f"{len(sets[LEAKED])} objects were made from the mask of the very real object they "
            "are compared with: their row tells nothing of unknown layouts"
        )
    if not sets[CEILING]:
        notes.append("held real objects have no masks of their own: no ceiling")
    return notes


def _pictures(pairs: Sequence[_Pair], folder: Path) -> dict[str, str]:
    """Crops with their edges and the asked ones, least and most alike (of those with edges)."""
    known = [pair for pair in pairs if pair.values is not None and pair.found.any()]
    known.sort(key=lambda pair: (pair.values or {})["Chamfer px"])
    made = {}
    for title, chosen in (("worst", known[::-1][:PICTURES]), ("best", known[:PICTURES])):
        tiles: list[Pixels] = []
        titles: list[str] = []
        for pair in chosen:
            tiles += [_large(pair.crop), _large(_both(pair.found, pair.reference))]
            titles += [pair.label, f"{(pair.values or {})['Chamfer px']:.1f} px"]
        contact_sheet(tiles, folder / f"{title}.png", titles=titles, columns=8)
        made[f"{title}: crop; its edges (red), asked outline (green), both (yellow)"] = (
            f"{title}.png"
        )
    return made


def _both(found: BoolImage, reference: BoolImage) -> Pixels:
    drawn: npt.NDArray[np.uint8] = np.zeros((*found.shape, 3), dtype=np.uint8)
    drawn[found, 0] = 255
    drawn[reference, 1] = 255
    return drawn


def _large(tile: Pixels) -> Pixels:
    return np.ascontiguousarray(np.kron(tile, np.ones((2, 2, 1), dtype=np.uint8)))


CELL = ShapeCell()
