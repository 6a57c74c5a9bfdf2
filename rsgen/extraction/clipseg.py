"""CLIPSeg of transformers: where in a picture is what a text names. No torchvision.

Objects are looked at in windows in which they are large (`crops`), one map a class and window;
`semantic` makes masks of the maps: CLIPSeg shows a class and not its single objects, and its
maps are coarse (a cell of the ViT is 16 input pixels).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rsgen.devices import memory_error
from rsgen.errors import SetupError
from rsgen.extraction.base import Pixels
from rsgen.extraction.choose import Grid, View, placed
from rsgen.extraction.crops import Crop, plan_crops
from rsgen.extraction.semantic import Region, instances_from_regions, surround
from rsgen.models.clip import DTYPES, load_tokenizer
from rsgen.models.processing import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    PixelPreparation,
)
from rsgen.models.whole import load_whole
from rsgen.prompts import spaced
from rsgen.records import ClassTable, Instance

__all__ = ["ClipSegBackend", "ClipSegNetwork"]

SIDE = 352  # what CLIPSeg was trained at; its files say so too
PHRASE = "an aerial photo of a {}"
USUAL = PixelPreparation(
    (SIDE, SIDE), resample=Image.Resampling.BILINEAR, mean=IMAGENET_MEAN, std=IMAGENET_STD
)


class ClipSegNetwork:
    """A loaded model; `side` is its square input's."""

    def __init__(
        self, model: Any, tokenizer: Any, preparation: PixelPreparation, device: str, dtype: str
    ) -> None:
        self.preparation = preparation
        self.side = preparation.input_size[0]
        self._model, self._tokenizer = model, tokenizer
        self._device, self._dtype = device, DTYPES[dtype]
        self._read: dict[str, Tensor] = {}

    @classmethod
    def load(cls, folder: Path, device: str, dtype: str) -> ClipSegNetwork:
        """Open a folder.

        Raises:
            SetupError: files do not make such a model. OutOfMemory: it does not fit.
        """
        from transformers import CLIPSegForImageSegmentation

        model = load_whole(CLIPSegForImageSegmentation, folder, "CLIPSeg", device)
        preparation = PixelPreparation.read(folder, USUAL)
        if preparation.keep_aspect or len(set(preparation.input_size)) != 1:
            raise SetupError(
                f"{folder}: its preprocessor does not make whole pictures square",
                hint="download the folder again: size should be one number, or height = width",
            )
        return cls(model, load_tokenizer(folder), preparation, device, dtype)

    def logits(self, window: Pixels, names: Sequence[str], batch_size: int) -> Grid:
        """float32 [N, g, g] of uint8 [h, w, 3]: above 0 is the class; N class names.

        Raises:
            OutOfMemory: a batch does not fit.
        """
        pixels = torch.from_numpy(self.preparation.pixels(window))[None].to(self._device)
        found = []
        try:
            with (
                torch.inference_mode(),
                torch.autocast(
                    self._device, dtype=self._dtype, enabled=self._dtype != torch.float32
                ),
            ):
                for start in range(0, len(names), batch_size):
                    texts = torch.cat([self._text(n) for n in names[start : start + batch_size]])
                    made = self._model(
                        pixel_values=pixels.expand(len(texts), -1, -1, -1),
                        conditional_embeddings=texts,
                        interpolate_pos_encoding=True,
                    )
                    found.append(made.logits.float().reshape(len(texts), *made.logits.shape[-2:]))
        except (RuntimeError, MemoryError) as error:
            raise (memory_error(error) or error) from error
        return np.asarray(torch.cat(found).cpu().numpy(), dtype=np.float32)

    def _text(self, name: str) -> Tensor:
        """The vector [1, D] of a class's phrase."""
        if name not in self._read:
            made = self._tokenizer([PHRASE.format(spaced(name))], return_tensors="pt")
            given = {k: made[k].to(self._device) for k in ("input_ids", "attention_mask")}
            self._read[name] = self._model.get_conditional_embeddings(batch_size=1, **given)
        return self._read[name]


class ClipSegBackend:
    """Keeps to `MaskBackend`: masks of things without one, from the maps of their classes."""

    def __init__(self, network: ClipSegNetwork, object_px: int, batch_size: int, name: str) -> None:
        self.name = name
        self._network, self._object_px, self._batch_size = network, object_px, batch_size

    def annotate(
        self, image: Pixels, known: Sequence[Instance], labels: ClassTable
    ) -> list[Instance]:
        """Masks for instances without one; scores as `semantic` defines them."""
        height, width = image.shape[:2]
        areas = {
            k: area
            for k, instance in enumerate(known)
            if instance.mask is None
            and not labels.is_stuff(instance.label)
            and (area := surround(instance, width, height)) is not None
        }
        keys = list(areas)
        boxes = [box.clip(width, height) for k in keys if (box := known[k].bounds()) is not None]
        regions: list[Region | None] = [None] * len(known)
        for crop in plan_crops(boxes, width, height, self._network.side, self._object_px):
            members = {keys[m]: labels.resolve(known[keys[m]].label).name for m in crop.members}
            names = list(dict.fromkeys(members.values()))
            window = image[crop.y0 : crop.y0 + crop.height, crop.x0 : crop.x0 + crop.width]
            maps = self._network.logits(window, names, self._batch_size)
            for k, name in members.items():
                regions[k] = self._region(maps[names.index(name)], crop, areas[k])
        return instances_from_regions(image, known, regions, labels, self.name)

    def _region(self, logits: Grid, crop: Crop, area: tuple[int, int, int, int]) -> Region:
        """The map at the pixels of `area` that the window shows."""
        side = self._network.side
        view = View(crop.x0, crop.y0, crop.width, crop.height, side, side, side)
        x0, y0 = max(area[0], crop.x0), max(area[1], crop.y0)
        x1, y1 = min(area[2], crop.x0 + crop.width), min(area[3], crop.y0 + crop.height)
        values = placed(logits, view, (x0, y0, x1, y1))
        return Region(1 / (1 + np.exp(-np.clip(values, -60, 60))), x0, y0)
