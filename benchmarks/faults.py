"""Faults planted in sound samples: labels and pixels change exactly as each is named, no more.

- wrong class: one object's label is another class; its shape stays, its heading goes.
- moved: one object's shape (box, quad, mask) is moved by half of its box in a random direction.
- missing: one labelled object is painted out of the pixels; the labels stay.
- extra: one object's label is taken away; the pixels stay.
- blur: a Gaussian blur of all pixels (`BLUR_PX`). black: all pixels 0.
- duplicate: a second sample with the pixels and the labels of a sound one.

The object is drawn among those that can be seen: neither cut, crowd nor smaller than `LEAST_PX`
on a side. It carries the attribute `fault`, and so does the sample.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from sets import write_run

from rsgen.geometry import Box, as_array, box_quad, quad_from_tuple
from rsgen.images import Pixels, write_png
from rsgen.records import Instance, Layout, Sample, with_instances
from rsgen.request import item_seed
from rsgen.scorers.base import is_thing
from rsgen.scorers.pixels import object_shape
from rsgen.store import SampleRun, open_samples

__all__ = ["FAULTS", "OBJECT_FAULTS", "faulty_run", "plant", "planted_object"]

OBJECT_FAULTS = ("wrong class", "moved", "missing", "extra")
FAULTS = (*OBJECT_FAULTS, "blur", "duplicate", "black")
FAULT = "fault"
BLUR_PX = 2.0
LEAST_PX = 5.0
RIM_PX = 2  # painted out around an object: its soft edge


def plant(
    sample: Sample, image: Pixels, fault: str, classes: Sequence[str], rng: np.random.Generator
) -> tuple[Sample, Pixels] | None:
    """The sample and its pixels with one fault; None where it has no object to be faulty.

    Args:
        image: uint8 [H, W, 3] RGB, not changed in place. classes: what a wrong class is drawn
            from, by the names that the labels use.
    """
    named = replace(sample, attributes={**sample.attributes, FAULT: fault})
    if fault == "black":
        return named, np.zeros_like(image)
    if fault == "blur":
        return named, np.asarray(cv2.GaussianBlur(image, (0, 0), BLUR_PX), dtype=np.uint8)
    if fault == "duplicate":
        return replace(named, id=f"{sample.id} again"), image
    able = [k for k, i in enumerate(sample.layout.instances) if _visible(i, sample.layout)]
    if not able:
        return None
    place = int(rng.choice(able))
    instances = list(sample.layout.instances)
    mine = instances[place]
    if fault == "extra":
        del instances[place]
        return with_instances(named, instances), image
    if fault == "wrong class":
        others = [name for name in classes if name != mine.label]
        if not others:
            return None
        mine = replace(mine, label=str(rng.choice(others)), heading_rad=None)
    elif fault == "moved":
        mine = moved_by_half(mine, sample.layout, rng)
    else:
        image = painted_out(image, mine, rng)
    instances[place] = replace(mine, attributes={**mine.attributes, FAULT: fault})
    return with_instances(named, instances), image


def planted_object(sample: Sample) -> int | None:
    """The position of the object that carries the fault; None where none does."""
    marks = [k for k, i in enumerate(sample.layout.instances) if FAULT in i.attributes]
    return marks[0] if marks else None


def _visible(instance: Instance, layout: Layout) -> bool:
    box = instance.bounds()
    if box is None or not is_thing(instance) or instance.truncated:
        return False
    inside = box.clip(layout.width, layout.height)
    return inside == box and min(box.width, box.height) >= LEAST_PX


def moved_by_half(instance: Instance, layout: Layout, rng: np.random.Generator) -> Instance:
    """Box, quad and mask moved by whole pixels: half of the box in a random direction.

    Of eight draws the first that keeps the centre inside the image.
    """
    box = instance.bounds()
    assert box is not None, "a visible object has a place"
    for _ in range(8):
        angle = rng.uniform(-math.pi, math.pi)
        x, y = (
            round(side / 2 * part)
            for side, part in ((box.width, math.cos(angle)), (box.height, math.sin(angle)))
        )
        centre = (box.x0 + box.x1) / 2 + x, (box.y0 + box.y1) / 2 + y
        if 0 <= centre[0] < layout.width and 0 <= centre[1] < layout.height:
            break
    quad = None if instance.quad is None else quad_from_tuple(as_array(instance.quad) + (x, y))
    mask = None if instance.mask is None else instance.mask.shift(x, y)
    own = instance.box and Box(
        instance.box.x0 + x, instance.box.y0 + y, instance.box.x1 + x, instance.box.y1 + y
    )
    return replace(instance, box=own, quad=quad, mask=mask)


def painted_out(image: Pixels, instance: Instance, rng: np.random.Generator) -> Pixels:
    """The object's pixels and `RIM_PX` around them, filled from outside, with the grain there.

    The grain is that of a ring around the hole: noise of the spread of its finest detail.
    """
    height, width = image.shape[:2]
    hole = np.zeros((height, width), np.uint8)
    shape = object_shape(instance, width, height)
    if shape is None:
        corners = as_array(instance.quad or box_quad(instance.bounds()))  # type: ignore[arg-type]
        cv2.fillPoly(hole, [np.round(corners - 0.5).astype(np.int32)], 1)
    else:
        hole[shape.window][shape.pixels] = 1
    hole = cv2.dilate(hole, np.ones((2 * RIM_PX + 1, 2 * RIM_PX + 1), np.uint8))
    ring = (cv2.dilate(hole, np.ones((9, 9), np.uint8)) > 0) & (hole == 0)
    filled = cv2.inpaint(image, hole, 3, cv2.INPAINT_TELEA).astype(np.float32)
    detail = image.astype(np.float32) - cv2.medianBlur(image, 3)
    spread = detail[ring].std() if ring.any() else 0.0
    grain = rng.normal(0, spread, (height, width, 1)).astype(np.float32)
    inside = hole > 0
    filled[inside] += grain[inside]
    return np.where(inside[..., None], np.clip(np.round(filled), 0, 255), image).astype(np.uint8)


# ---------------------------------------------------------------- runs


def faulty_run(out: Path, run: Path, fault: str, count: int, seed: int = 0) -> Path:
    """A sample run of up to `count` faulty samples of a run, in its order.

    Duplicates come after the sound samples that they repeat, which are in the run too.
    """
    source = open_samples(run)
    labels = sorted({i.label for s in source for i in s.layout.instances if is_thing(i)})

    def samples() -> Iterable[Sample]:
        if fault == "duplicate":
            yield from source.rows(0, min(count, len(source)))
        made = 0
        for sample in source:
            if made == count:
                return
            rng = np.random.default_rng(item_seed(seed, f"faults/{fault}", sample.id))
            found = plant(sample, source.read_image(sample), fault, labels, rng)
            if found is not None:
                made += 1
                yield _stored(out, source, sample, *found)

    return write_run(out, samples, source.classes, [source], f"{fault} {count} {seed}")


def _stored(out: Path, source: SampleRun, before: Sample, sample: Sample, image: Pixels) -> Sample:
    """The sample with its pixels in OUT where they are no longer those of before."""
    if sample.attributes[FAULT] not in ("missing", "blur", "black"):
        return sample
    name = before.id.replace("/", "_").replace("#", "_")
    path = f"images/{name}.png"
    return replace(sample, image=path, sha256=write_png(out / path, image))
