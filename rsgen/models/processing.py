"""How a transformers model wants its pixels, as the files of its folder say; no torchvision."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from rsgen.errors import SetupError

__all__ = [
    "CLIP_MEAN",
    "CLIP_STD",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "PixelPreparation",
    "processor_settings",
    "silence_transformers",
]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def processor_settings(folder: Path) -> dict[str, Any]:
    """The image part of preprocessor_config.json or processor_config.json; empty without them.

    Raises:
        SetupError: a file that is not JSON.
    """
    for name in ("preprocessor_config.json", "processor_config.json"):
        path = folder / name
        if not path.is_file():
            continue
        try:
            data = dict(json.loads(path.read_text(encoding="utf-8")))
            return dict(data.get("image_processor") or data)
        except (OSError, ValueError, TypeError) as error:
            raise SetupError(f"{path}: not readable ({error})", hint="download it again") from error
    return {}


@dataclass(frozen=True)
class PixelPreparation:
    """Resizing to one input size, as CLIP's family and ViT are prepared.

    `size` is (height, width) of the resized picture; where `keep_aspect` the shortest edge
    becomes `size[0]` and the rest is cut off evenly to `crop`.
    """

    size: tuple[int, int]
    crop: tuple[int, int] | None = None
    keep_aspect: bool = False
    resample: int = Image.Resampling.BICUBIC
    factor: float = 1 / 255
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD

    @classmethod
    def read(cls, folder: Path, usual: PixelPreparation) -> PixelPreparation:
        """From the folder's preprocessor settings; `usual` is what they leave out.

        Raises:
            SetupError: unreadable, or pictures that do not come out in one size.
        """
        settings = processor_settings(folder)
        size, keep_aspect = _edges(settings.get("size"), usual.size, usual.keep_aspect)
        crop = None
        if settings.get("do_center_crop", keep_aspect):
            crop, _ = _edges(settings.get("crop_size"), usual.crop or size, False)
        if not settings.get("do_resize", True) or (keep_aspect and crop is None):
            raise SetupError(
                f"{folder}: its preprocessor settings do not bring pictures to one size",
                hint="download the folder again, or mend size and crop_size in its "
                "preprocessor_config.json",
            )
        if crop is not None and (crop[0] > size[0] or crop[1] > size[1]):
            raise SetupError(f"{folder}: its preprocessor cuts {crop} out of {size}")
        rescale, normalise = settings.get("do_rescale", True), settings.get("do_normalize", True)
        return cls(
            size,
            crop,
            keep_aspect,
            int(settings.get("resample", usual.resample)),
            float(settings.get("rescale_factor", usual.factor)) if rescale else 1.0,
            tuple(settings.get("image_mean") or usual.mean) if normalise else (0.0,) * 3,
            tuple(settings.get("image_std") or usual.std) if normalise else (1.0,) * 3,
        )

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of what the network gets."""
        return self.crop or self.size

    def pixels(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """uint8 [H, W, 3] RGB -> float32 [3, h, w]."""
        height, width = self.size
        if self.keep_aspect:
            short, long = sorted(image.shape[:2])
            other = int(height * long / short)
            height, width = (height, other) if image.shape[0] == short else (other, height)
        picture = Image.fromarray(np.ascontiguousarray(image))
        resized = np.asarray(picture.resize((width, height), Image.Resampling(self.resample)))
        if self.crop is not None:
            top, left = (height - self.crop[0]) // 2, (width - self.crop[1]) // 2
            resized = resized[top : top + self.crop[0], left : left + self.crop[1]]
        values = resized.astype(np.float32) * np.float32(self.factor)
        mean, std = (np.array(numbers, dtype=np.float32) for numbers in (self.mean, self.std))
        return np.ascontiguousarray(((values - mean) / std).transpose(2, 0, 1))


def _edges(given: Any, usual: tuple[int, int], keep_aspect: bool) -> tuple[tuple[int, int], bool]:
    """((height, width), whether it is the shortest edge alone) of a size in the files."""
    if isinstance(given, Mapping) and given.get("shortest_edge"):
        return (int(given["shortest_edge"]),) * 2, True
    if isinstance(given, Mapping) and given.get("height"):
        return (int(given["height"]), int(given["width"])), False
    if isinstance(given, int | float):
        return (int(given),) * 2, keep_aspect
    if isinstance(given, list | tuple) and len(given) == 2:
        return (int(given[0]), int(given[1])), False
    return usual, keep_aspect


def silence_transformers() -> None:
    """Only errors, no bars: a table of unused weights or advice is not for users."""
    import transformers

    logging: Any = transformers.logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()
