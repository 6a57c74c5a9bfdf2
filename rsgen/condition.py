"""From a layout to the control tensor that a model sees, and pixels to and from tensors.

Encodings (float32 [C, H, W] in [0, 1], at the exact target size):

binary   C = 3   1 on every thing, three equal channels.
index    C = 3   class index / 255, three equal channels (EarthSynth's convention).
classes  C = 35  32 class slots, instance edge, (1 + sin h) / 2 and (1 + cos h) / 2 of the
                 heading h inside the mask; 0 outside and where the heading is unknown.

A class owns one slot; when slots run out it owns a listed pair. The channel count never
depends on the data set, so a model fine-tunes to other classes.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt

from rsgen.errors import DataError, UsageError
from rsgen.raster import Raster, instance_mask, rasterize, resize_index, thing_edges
from rsgen.records import ClassTable, Layout, normal_name

if TYPE_CHECKING:
    import torch

__all__ = [
    "CLASS_SLOTS",
    "CONDITION_CHANNELS",
    "ConditionEncoding",
    "EncodingName",
    "Raster",
    "assign_slots",
    "encode",
    "encode_raster",
    "from_model",
    "instance_mask",
    "palette_png",
    "rasterize",
    "resize_index",
    "to_model",
]

EncodingName = Literal["binary", "index", "classes"]
Slots = Mapping[str, tuple[int, ...]]
Pixels = npt.NDArray[np.uint8]

CLASS_SLOTS = 32
EDGE = CLASS_SLOTS
HEADING_SIN = CLASS_SLOTS + 1
HEADING_COS = CLASS_SLOTS + 2
CONDITION_CHANNELS = CLASS_SLOTS + 3
INDEX_LIMIT = 255


# --- slots -------------------------------------------------------------------------------


def assign_slots(
    classes: ClassTable,
    base: Slots | None = None,
    base_classes: ClassTable | None = None,
) -> dict[str, tuple[int, ...]]:
    """The code of every class of a table: a slot 0..31, or a pair once slots have run out.

    Args:
        base: codes of the model to start from. A class that it knows, by a name or an alias of
            either table, keeps its code; a new one takes the first free slot, in table order.
            Slots of base classes outside the table are reused last: the model has learned
            another meaning for them.
        base_classes: the base's class table, for its aliases (airplane = plane).

    Raises:
        UsageError: more classes than codes (32 single, 496 pairs).
    """
    known: dict[str, tuple[int, ...]] = {}
    for name, code in (base or {}).items():
        entry = None if base_classes is None else base_classes.find(name)
        for spelling in (name, *(() if entry is None else (entry.name, *entry.aliases))):
            known.setdefault(normal_name(spelling), tuple(code))
    slots: dict[str, tuple[int, ...]] = {}
    for entry in classes.classes:
        codes = (known.get(normal_name(name)) for name in (entry.name, *entry.aliases))
        match = next((c for c in codes if c is not None and c not in slots.values()), None)
        if match is not None:
            slots[entry.name] = match
    taken, reserved = set(slots.values()), set(known.values())
    every: list[tuple[int, ...]] = [(k,) for k in range(CLASS_SLOTS)]
    every += itertools.combinations(range(CLASS_SLOTS), 2)
    free = sorted((c for c in every if c not in taken), key=lambda c: (len(c), c in reserved))
    new = [name for name in classes.names if name not in slots]
    if len(new) > len(free):
        raise UsageError(
            f"{len(classes.classes)} classes do not fit the `classes` encoding",
            hint=f"use at most {len(every)} classes, or `train.condition: index`",
        )
    slots.update(zip(new, free, strict=False))
    return {name: slots[name] for name in classes.names}


@dataclass(frozen=True)
class ConditionEncoding:
    """An encoding with what it needs to be the same at training and at generation.

    `slots` is empty but for `classes`. Stored in a checkpoint's rsgen.json.
    """

    name: EncodingName
    slots: Slots = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name not in get_args(EncodingName):
            raise UsageError(
                f"unknown condition encoding {self.name!r}",
                hint=f"use one of {', '.join(get_args(EncodingName))}",
            )
        codes = list(self.slots.values())
        bad = [c for c in codes if not 1 <= len(c) <= 2 or not all(0 <= s < CLASS_SLOTS for s in c)]
        if bad or len(set(codes)) != len(codes):
            raise DataError(
                f"condition slots {dict(self.slots)} must be distinct codes of one or two slots "
                f"in 0..{CLASS_SLOTS - 1}"
            )

    @classmethod
    def for_classes(
        cls,
        name: EncodingName,
        classes: ClassTable,
        base: ConditionEncoding | None = None,
        base_classes: ClassTable | None = None,
    ) -> ConditionEncoding:
        """An encoding for a class table, keeping a base model's slots (see `assign_slots`)."""
        if name != "classes":
            return cls(name)
        return cls(name, assign_slots(classes, None if base is None else base.slots, base_classes))

    @property
    def channels(self) -> int:
        return CONDITION_CHANNELS if self.name == "classes" else 3

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "slots": {k: list(v) for k, v in self.slots.items()}}

    @classmethod
    def from_json(cls, row: Mapping[str, Any] | str) -> ConditionEncoding:
        """Inverse of `to_json`; also reads its JSON text."""
        data = json.loads(row) if isinstance(row, str) else row
        try:
            slots = {str(k): tuple(int(s) for s in v) for k, v in data.get("slots", {}).items()}
            return cls(data["name"], slots)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"condition encoding {data!r} cannot be read: {error!r}") from error


# --- encodings ---------------------------------------------------------------------------


def encode(
    layout: Layout,
    size: tuple[int, int],
    encoding: ConditionEncoding,
    classes: ClassTable,
) -> npt.NDArray[np.float32]:
    """The control tensor float32 [C, H, W] in [0, 1] at `size` = (width, height).

    Raises:
        DataError: a label that the class table or the encoding's slots lack; an index
            encoding with more than 255 classes.
    """
    return encode_raster(rasterize(layout, classes, size), encoding, classes)


def encode_raster(
    raster: Raster, encoding: ConditionEncoding, classes: ClassTable
) -> npt.NDArray[np.float32]:
    """Like `encode`, from a raster (which may have been flipped or cropped with its image)."""
    if encoding.name == "binary":
        return _three((raster.things > 0).astype(np.float32))
    if encoding.name == "index":
        if len(classes.classes) > INDEX_LIMIT:
            raise DataError(
                f"{len(classes.classes)} classes do not fit the `index` encoding (255 at most)",
                hint="use `train.condition: classes`",
            )
        return _three(raster.index.astype(np.float32) / np.float32(INDEX_LIMIT))
    return _encode_classes(raster, encoding.slots, classes)


def _three(plane: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.repeat(plane[None], 3, axis=0)


def _encode_classes(raster: Raster, slots: Slots, classes: ClassTable) -> npt.NDArray[np.float32]:
    condition = np.zeros((CONDITION_CHANNELS, *raster.index.shape), dtype=np.float32)
    present = np.flatnonzero(np.bincount(raster.index.ravel()))
    for value in present[present > 0].tolist():
        on = raster.index == value
        for slot in _slots_of(value, slots, classes):
            condition[slot][on] = 1.0
    condition[EDGE] = thing_edges(raster.things)
    known = ~np.isnan(raster.heading)
    if known.any():
        angle = np.where(known, raster.heading, 0.0)
        sine = np.where(known, (1.0 + np.sin(angle)) / 2.0, 0.0).astype(np.float32)
        cosine = np.where(known, (1.0 + np.cos(angle)) / 2.0, 0.0).astype(np.float32)
        condition[HEADING_SIN] = sine[raster.things]
        condition[HEADING_COS] = cosine[raster.things]
    return condition


def _slots_of(value: int, slots: Slots, classes: ClassTable) -> tuple[int, ...]:
    entry = classes.classes[value - 1]
    for name in (entry.name, *entry.aliases):
        if name in slots:
            return slots[name]
    wanted = {normal_name(name) for name in (entry.name, *entry.aliases)}
    for name, code in slots.items():
        if normal_name(name) in wanted:
            return code
    raise DataError(
        f"class {entry.name!r} has no slot in this model; it knows: {', '.join(slots)}",
        hint="rename the class (extract-masks --class-map), or fine-tune the model on it",
    )


def palette_png(layout: Layout, classes: ClassTable, size: tuple[int, int] | None = None) -> Pixels:
    """A viewable condition: uint8 [H, W, 3], a colour per class, edges dark, a dot at the front.

    For people only; a model never sees colours.
    """
    from rsgen.pictures import palette

    raster = rasterize(layout, classes, size)
    colours = np.array([palette(k) for k in range(len(classes.classes) + 1)], dtype=np.float32)
    for k, entry in enumerate(classes.classes, start=1):
        if entry.kind == "stuff":
            colours[k] = colours[k] * 0.25 + 45.0
    image = colours[raster.index].astype(np.uint8)
    image[thing_edges(raster.things)] //= 2
    height, width = image.shape[:2]
    scale = np.array([width / layout.width, height / layout.height])
    for instance in layout.instances:
        if instance.quad is None or instance.heading_rad is None:
            continue
        quad = np.asarray(instance.quad)
        centre, front = quad.mean(axis=0), (quad[0] + quad[1]) / 2
        if math.dist(centre, front) < 3:
            continue
        x, y = ((centre + 0.75 * (front - centre)) * scale - 0.5).round().astype(int).tolist()
        cv2.circle(image, (x, y), 1, (255, 255, 255), -1)
    return image


# --- pixels ------------------------------------------------------------------------------


def to_model(images: Pixels | torch.Tensor) -> torch.Tensor:
    """uint8 [N, H, W, 3] -> float32 [N, 3, H, W] in [-1, 1]; 0 -> -1 and 255 -> 1 exactly."""
    import torch

    pixels = torch.as_tensor(images)
    return pixels.permute(0, 3, 1, 2).to(torch.float32).div_(127.5).sub_(1.0).contiguous()


def from_model(images: torch.Tensor) -> Pixels:
    """float [N, 3, H, W] -> uint8 [N, H, W, 3], clamped and rounded; inverse of `to_model`.

    Raises:
        DataError: a value is NaN or infinite.
    """
    import torch

    if not bool(torch.isfinite(images).all()):
        raise DataError("the model gave pixels that are not finite")
    scaled = images.detach().float().clamp(-1.0, 1.0).add(1.0).mul(127.5).round()
    return np.ascontiguousarray(scaled.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy())
