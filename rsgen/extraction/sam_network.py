"""SAM and SAM 2 of transformers: image and boxes in, mask logits out. No torchvision.

The image processors of transformers want torchvision for SAM 2; resizing, normalising and
padding are done here as they define them, with the sizes of the model's own folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rsgen.devices import memory_error
from rsgen.errors import SetupError
from rsgen.extraction.base import Pixels
from rsgen.extraction.choose import Grid, View
from rsgen.extraction.crops import Crop
from rsgen.geometry import Array
from rsgen.models.processing import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    processor_settings,
)
from rsgen.models.whole import load_whole

__all__ = ["Preprocessing", "SamNetwork"]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Preprocessing:
    """How a model wants its pixels.

    `keep_aspect`: the longest edge becomes `side` and the rest is padded with zeros on the
    right and at the bottom (SAM); else both edges become `side` (SAM 2).
    """

    side: int = 1024
    keep_aspect: bool = True
    resample: int = Image.Resampling.BILINEAR
    factor: float = 1 / 255
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    @classmethod
    def read(cls, folder: Path, side: int, keep_aspect: bool) -> Preprocessing:
        """From preprocessor_config.json or processor_config.json; defaults where both lack.

        `keep_aspect`: what the family does, where the files do not say.

        Raises:
            SetupError: unreadable, or made for another input size than the network's `side`.
        """
        data = processor_settings(folder)
        size = data.get("size") or {}
        if not isinstance(size, dict):  # an older file: one number
            size = {"longest_edge" if keep_aspect else "height": size}
        given = {edge: int(number) for edge, number in size.items() if number}
        keep_aspect = "longest_edge" in given if given else keep_aspect
        if any(given.get(edge, side) != side for edge in ("longest_edge", "height", "width")):
            raise SetupError(
                f"{folder}: its preprocessor makes {size}, the network takes {side} x {side}",
                hint="the folder mixes files of two models: download it again",
            )
        rescale = bool(data.get("do_rescale", True))
        normalise = bool(data.get("do_normalize", True))
        return cls(
            side=side,
            keep_aspect=keep_aspect,
            resample=int(data.get("resample", Image.Resampling.BILINEAR)),
            factor=float(data.get("rescale_factor", 1 / 255)) if rescale else 1.0,
            mean=tuple(data.get("image_mean", IMAGENET_MEAN)) if normalise else (0.0,) * 3,
            std=tuple(data.get("image_std", IMAGENET_STD)) if normalise else (1.0,) * 3,
        )

    def view(self, crop: Crop) -> View:
        """Where the crop lies in the input."""
        width = height = self.side
        if self.keep_aspect:
            scale = self.side / max(crop.width, crop.height)
            width, height = int(crop.width * scale + 0.5), int(crop.height * scale + 0.5)
        width, height = max(1, width), max(1, height)
        return View(crop.x0, crop.y0, crop.width, crop.height, width, height, self.side)

    def pixels(self, image: Pixels, view: View) -> Grid:
        """float32 [3, side, side]: the view's window of uint8 [H, W, 3], resized and normalised."""
        window = image[view.y0 : view.y0 + view.height, view.x0 : view.x0 + view.width]
        size = (view.input_width, view.input_height)
        method = Image.Resampling(self.resample)
        resized = np.asarray(Image.fromarray(np.ascontiguousarray(window)).resize(size, method))
        values = resized.astype(np.float32) * np.float32(self.factor)
        mean, std = (np.array(numbers, dtype=np.float32) for numbers in (self.mean, self.std))
        values = (values - mean) / std
        canvas = np.zeros((3, self.side, self.side), dtype=np.float32)
        canvas[:, : size[1], : size[0]] = values.transpose(2, 0, 1)
        return canvas


class SamNetwork:
    """A loaded model; the image encoder computes in `dtype`, prompts and masks in float32.

    Box corners are numbers up to 1024 that are turned into waves: in bf16 they would be off
    by up to four pixels.
    """

    def __init__(self, model: Any, preprocessing: Preprocessing, device: str, dtype: str) -> None:
        self.preprocessing = preprocessing
        self._model = model
        self._device = device
        self._dtype = DTYPES[dtype]

    @classmethod
    def load(cls, folder: Path, family: str, device: str, dtype: str) -> SamNetwork:
        """`family` is sam or sam2.

        Raises:
            SetupError: files do not make such a model. OutOfMemory: it does not fit.
        """
        model = load_whole(_model_class(family), folder, family, device)
        side = int(model.prompt_encoder.input_image_size)
        return cls(model, Preprocessing.read(folder, side, family == "sam"), device, dtype)

    def encode(self, image: Pixels, view: View) -> Any:
        """Embeddings of one window, for `decode`.

        Raises:
            OutOfMemory: it does not fit the device.
        """
        pixels = torch.from_numpy(self.preprocessing.pixels(image, view))[None].to(self._device)
        low = self._dtype != torch.float32
        try:
            with (
                torch.inference_mode(),
                torch.autocast(self._device, dtype=self._dtype, enabled=low),
            ):
                found = self._model.get_image_embeddings(pixels)
                if isinstance(found, Tensor):
                    return found.float()
                return [level.float() for level in found]
        except (RuntimeError, MemoryError) as error:
            raise (memory_error(error) or error) from error

    def decode(self, embeddings: Any, boxes: Array) -> tuple[Grid, Grid]:
        """Boxes float64 [N, 4] xyxy, input edges -> logits [N, 3, g, g] and IoU [N, 3].

        Raises:
            OutOfMemory: too many boxes at once.
        """
        # The prompt encoder takes pixel numbers and adds half a pixel itself.
        corners = torch.from_numpy((boxes - 0.5).astype(np.float32))[None].to(self._device)
        try:
            with torch.inference_mode():
                found = self._model(
                    input_boxes=corners, image_embeddings=embeddings, multimask_output=True
                )
                logits, predicted = found.pred_masks[0].float(), found.iou_scores[0].float()
                return logits.cpu().numpy(), predicted.cpu().numpy()
        except (RuntimeError, MemoryError) as error:
            raise (memory_error(error) or error) from error


def _model_class(family: str) -> Any:
    if family == "sam":
        from transformers.models.sam.modeling_sam import SamModel

        return SamModel
    from transformers.models.sam2.modeling_sam2 import Sam2Model

    return Sam2Model
