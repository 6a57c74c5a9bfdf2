"""The baseline that needs no model: objects cut out by their masks, pasted onto other images.

Source: Ghiasi et al. 2021, "Simple Copy-Paste is a Strong Data Augmentation Method for Instance
Segmentation", section 3. Differs in: quarter turns and mirroring in place of large rescaling
(seen from above an object has no upright pose, and its size in metres is fixed), and pasted
objects never cover labelled ones, so that every label stays exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from rsgen.augment import move_instance
from rsgen.composition.labels import STAND_IN
from rsgen.composition.paste import blend, same_scale, soft_edge
from rsgen.geometry import Affine
from rsgen.images import Pixels
from rsgen.mask import Mask
from rsgen.records import ClassTable, Instance, Layout, Sample
from rsgen.request import item_seed

__all__ = ["CopyPaste", "Pasted", "can_paste", "paint"]

SOFT_PX = 0.8  # sigma of the blurred border: a hard cut would mark every pasted object
TRIES = 20
LEAST_AREA = 12  # pixels; less than that is no shape


@dataclass(frozen=True)
class _Place:
    """An object of another image after its turn: the turned cut and where it goes."""

    donor: Sample
    source: Mask
    turns: int
    mirror: bool
    mask: Mask  # in the frame of the image that it is pasted onto


@dataclass(frozen=True)
class Pasted:
    """An image to be: its labels, and how its pixels are made."""

    sample: Sample
    base: Sample
    places: tuple[_Place, ...]


def can_paste(instance: Instance, layout: Layout, classes: ClassTable) -> bool:
    """Whether its mask shows a whole object: no stuff, nothing cut by the image's edge, and no
    filled box, which would paste the ground around the object too."""
    mask = instance.mask
    if mask is None or classes.is_stuff(instance.label) or instance.origin == STAND_IN:
        return False
    whole = (
        mask.x0 > 0
        and mask.y0 > 0
        and mask.x0 + mask.width < layout.width
        and mask.y0 + mask.height < layout.height
    )
    return whole and not instance.truncated and not instance.iscrowd and mask.area >= LEAST_AREA


class CopyPaste:
    """Makes images out of train images; number k depends on (seed, k) alone."""

    def __init__(self, samples: Sequence[Sample], classes: ClassTable, seed: int) -> None:
        self._samples, self._classes, self._seed = list(samples), classes, seed
        self._donors = [
            (sample, tuple(i for i in sample.layout.instances if self._fits(i, sample.layout)))
            for sample in self._samples
        ]
        self._donors = [(sample, things) for sample, things in self._donors if things]

    def _fits(self, instance: Instance, layout: Layout) -> bool:
        return can_paste(instance, layout, self._classes)

    def __bool__(self) -> bool:
        """Whether there is anything to paste."""
        return bool(self._donors)

    def plan(self, number: int) -> Pasted:
        """Image `number`: a train image with objects of another one, as many as a draw gives."""
        rng = np.random.default_rng(item_seed(self._seed, "copy-paste", str(number)))
        base = self._samples[number % len(self._samples)]
        donors = [d for d in self._donors if same_scale(d[0].layout, base.layout)]
        layout, places = base.layout, list[_Place]()
        if not donors:
            return Pasted(replace(base, id=f"{base.id}+{number}"), base, ())
        donor, things = donors[int(rng.integers(len(donors)))]
        taken = _covered(layout, self._classes)
        for k in rng.permutation(len(things))[: int(rng.integers(1, len(things) + 1))]:
            found = _fit(things[k], donor, taken, rng)
            if found is None:
                continue
            place, instance = found
            place.mask.paint(taken, True)
            places.append(place)
            layout = replace(layout, instances=(*layout.instances, instance))
        sample = replace(base, id=f"{base.id}+{number}", layout=layout, image=None, sha256=None)
        return Pasted(sample, base, tuple(places))


def paint(pasted: Pasted, read: Callable[[Sample], Pixels]) -> Pixels:
    """uint8 [H, W, 3]: the planned objects blended into the base image."""
    image = read(pasted.base).astype(np.float32)
    for place in pasted.places:
        _blend(image, place, read(place.donor))
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _covered(layout: Layout, classes: ClassTable) -> npt.NDArray[np.bool_]:
    """bool [H, W]: where things lie, by mask or, without one, by box."""
    taken = np.zeros((layout.height, layout.width), dtype=bool)
    for instance in layout.instances:
        box = instance.bounds()
        if classes.is_stuff(instance.label) or box is None:
            continue
        x0, y0 = int(np.floor(max(box.x0, 0))), int(np.floor(max(box.y0, 0)))
        taken[y0 : int(np.ceil(max(box.y1, 0))), x0 : int(np.ceil(max(box.x1, 0)))] = True
    return taken


def _fit(
    instance: Instance, donor: Sample, taken: npt.NDArray[np.bool_], rng: np.random.Generator
) -> tuple[_Place, Instance] | None:
    """A free place for an object after a random turn, or None."""
    source = instance.mask
    if source is None:
        return None
    turns, mirror = int(rng.integers(4)), bool(rng.random() < 0.5)
    crop = _turned(source.crop(), turns, mirror)
    rows, columns = crop.shape
    height, width = taken.shape
    if rows >= height or columns >= width:
        return None
    for _ in range(TRIES):
        x, y = int(rng.integers(width - columns + 1)), int(rng.integers(height - rows + 1))
        # One pixel around it too: soft borders reach there.
        around = taken[max(y - 1, 0) : y + rows + 1, max(x - 1, 0) : x + columns + 1]
        if around.any():
            continue
        mask = Mask.from_array(crop, x, y)
        if mask is None:
            return None
        canvas = mask.to_array(width, height)
        matrix = _matrix(source, turns, mirror, x, y)
        moved = move_instance(instance, matrix, canvas, width, height)
        if moved is None:
            return None
        return _Place(donor, source, turns, mirror, mask), replace(moved, truncated=False)
    return None


def _turned(crop: npt.NDArray[np.bool_], turns: int, mirror: bool) -> npt.NDArray[np.bool_]:
    turned = np.rot90(crop, turns)
    return np.ascontiguousarray(turned[:, ::-1] if mirror else turned)


def _matrix(source: Mask, turns: int, mirror: bool, x: int, y: int) -> Affine:
    """Half-open coordinates of the donor -> of the base, float64 [2, 3]."""
    matrix = np.array([[1.0, 0.0, -source.x0], [0.0, 1.0, -source.y0], [0.0, 0.0, 1.0]])
    width, height = float(source.width), float(source.height)
    for _ in range(turns):  # numpy's quarter turn: (x, y) -> (y, width - x)
        matrix = np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, width], [0.0, 0.0, 1.0]]) @ matrix
        width, height = height, width
    if mirror:
        matrix = np.array([[-1.0, 0.0, width], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]) @ matrix
    matrix = np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]]) @ matrix
    return np.asarray(matrix[:2], dtype=np.float64)


def _blend(image: npt.NDArray[np.float32], place: _Place, donor: Pixels) -> None:
    """Paste one object with a soft border, in place; `image` is float32 [H, W, 3]."""
    source, reach = place.source, 2
    padded = np.pad(donor, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    window = padded[
        source.y0 : source.y0 + source.height + 2 * reach,
        source.x0 : source.x0 + source.width + 2 * reach,
    ]
    alpha = soft_edge(np.pad(source.crop(), reach), SOFT_PX)
    window, alpha = np.rot90(window, place.turns), np.rot90(alpha, place.turns)
    if place.mirror:
        window, alpha = window[:, ::-1], alpha[:, ::-1]
    x, y = place.mask.x0 - reach, place.mask.y0 - reach
    rows, columns = alpha.shape
    top, left = max(0, -y), max(0, -x)
    bottom, right = min(rows, image.shape[0] - y), min(columns, image.shape[1] - x)
    part = image[y + top : y + bottom, x + left : x + right]
    blend(part, window[top:bottom, left:right], alpha[top:bottom, left:right])
