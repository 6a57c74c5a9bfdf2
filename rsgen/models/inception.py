"""The Inception network of FID and KID, and its weights from a folder of safetensors.

Figures may be called FID and KID only with this network: Google's 2015 classifier (1,008
outputs), whose pooling differs from the Inception v3 of other libraries in two places (zeros
outside the map are not averaged, and the last block takes a maximum). Input and resizing are
TensorFlow 1's, in which the published figures are defined.

Sources: Szegedy et al. 2016, "Rethinking the Inception Architecture for Computer Vision" (the
blocks); Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule" (FID, pool_3 features).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from rsgen.devices import memory_error
from rsgen.errors import SetupError

__all__ = ["FEATURES", "MODEL_TYPE", "WEIGHTS", "Inception", "load_inception", "resize_like_tf1"]

MODEL_TYPE = "fid-inception-v3"
WEIGHTS = "model.safetensors"
FEATURES = 2048
SIDE = 299

Size = int | tuple[int, int]


class Convolution(nn.Module):
    """Convolution without bias, batch normalisation (epsilon 0.001), ReLU."""

    def __init__(self, given: int, made: int, size: Size, stride: int = 1, pad: Size = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(given, made, size, stride, pad, bias=False)
        self.bn = nn.BatchNorm2d(made, eps=0.001)

    def forward(self, maps: Tensor) -> Tensor:
        normal: Tensor = self.bn(self.conv(maps))
        return functional.relu(normal)


def _across(given: int, made: int, length: int) -> Convolution:
    return Convolution(given, made, (1, length), pad=(0, length // 2))


def _down(given: int, made: int, length: int) -> Convolution:
    return Convolution(given, made, (length, 1), pad=(length // 2, 0))


def _average(maps: Tensor) -> Tensor:
    return functional.avg_pool2d(maps, 3, stride=1, padding=1, count_include_pad=False)


def _highest(maps: Tensor) -> Tensor:
    return functional.max_pool2d(maps, 3, stride=1, padding=1)


def _halved(maps: Tensor) -> Tensor:
    return functional.max_pool2d(maps, 3, stride=2)


class BlockA(nn.Module):
    """35 x 35: 1x1, 5x5, twice 3x3, pool (the paper's figure 5)."""

    def __init__(self, given: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = Convolution(given, 64, 1)
        self.branch5x5_1 = Convolution(given, 48, 1)
        self.branch5x5_2 = Convolution(48, 64, 5, pad=2)
        self.branch3x3dbl_1 = Convolution(given, 64, 1)
        self.branch3x3dbl_2 = Convolution(64, 96, 3, pad=1)
        self.branch3x3dbl_3 = Convolution(96, 96, 3, pad=1)
        self.branch_pool = Convolution(given, pooled, 1)

    def forward(self, maps: Tensor) -> Tensor:
        five = self.branch5x5_2(self.branch5x5_1(maps))
        threes = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(maps)))
        pool = self.branch_pool(_average(maps))
        return torch.cat([self.branch1x1(maps), five, threes, pool], dim=1)


class BlockB(nn.Module):
    """35 x 35 to 17 x 17."""

    def __init__(self, given: int) -> None:
        super().__init__()
        self.branch3x3 = Convolution(given, 384, 3, 2)
        self.branch3x3dbl_1 = Convolution(given, 64, 1)
        self.branch3x3dbl_2 = Convolution(64, 96, 3, pad=1)
        self.branch3x3dbl_3 = Convolution(96, 96, 3, 2)

    def forward(self, maps: Tensor) -> Tensor:
        threes = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(maps)))
        return torch.cat([self.branch3x3(maps), threes, _halved(maps)], dim=1)


class BlockC(nn.Module):
    """17 x 17: 1x1, 7x7 as two lines, twice that, pool (figure 6, n = 7)."""

    def __init__(self, given: int, inner: int) -> None:
        super().__init__()
        self.branch1x1 = Convolution(given, 192, 1)
        self.branch7x7_1 = Convolution(given, inner, 1)
        self.branch7x7_2 = _across(inner, inner, 7)
        self.branch7x7_3 = _down(inner, 192, 7)
        self.branch7x7dbl_1 = Convolution(given, inner, 1)
        self.branch7x7dbl_2 = _down(inner, inner, 7)
        self.branch7x7dbl_3 = _across(inner, inner, 7)
        self.branch7x7dbl_4 = _down(inner, inner, 7)
        self.branch7x7dbl_5 = _across(inner, 192, 7)
        self.branch_pool = Convolution(given, 192, 1)

    def forward(self, maps: Tensor) -> Tensor:
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(maps)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(maps)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        pool = self.branch_pool(_average(maps))
        return torch.cat([self.branch1x1(maps), seven, twice, pool], dim=1)


class BlockD(nn.Module):
    """17 x 17 to 8 x 8."""

    def __init__(self, given: int) -> None:
        super().__init__()
        self.branch3x3_1 = Convolution(given, 192, 1)
        self.branch3x3_2 = Convolution(192, 320, 3, 2)
        self.branch7x7x3_1 = Convolution(given, 192, 1)
        self.branch7x7x3_2 = Convolution(192, 192, (1, 7), pad=(0, 3))
        self.branch7x7x3_3 = Convolution(192, 192, (7, 1), pad=(3, 0))
        self.branch7x7x3_4 = Convolution(192, 192, 3, 2)

    def forward(self, maps: Tensor) -> Tensor:
        three = self.branch3x3_2(self.branch3x3_1(maps))
        seven = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(maps)))
        return torch.cat([three, self.branch7x7x3_4(seven), _halved(maps)], dim=1)


class BlockE(nn.Module):
    """8 x 8: 1x1, 3x3 as two lines side by side, 3x3 before that, pool (figure 7)."""

    def __init__(self, given: int, *, highest: bool) -> None:
        super().__init__()
        self.highest = highest
        self.branch1x1 = Convolution(given, 320, 1)
        self.branch3x3_1 = Convolution(given, 384, 1)
        self.branch3x3_2a = _across(384, 384, 3)
        self.branch3x3_2b = _down(384, 384, 3)
        self.branch3x3dbl_1 = Convolution(given, 448, 1)
        self.branch3x3dbl_2 = Convolution(448, 384, 3, pad=1)
        self.branch3x3dbl_3a = _across(384, 384, 3)
        self.branch3x3dbl_3b = _down(384, 384, 3)
        self.branch_pool = Convolution(given, 192, 1)

    def forward(self, maps: Tensor) -> Tensor:
        three = self.branch3x3_1(maps)
        twice = self.branch3x3dbl_2(self.branch3x3dbl_1(maps))
        pool = self.branch_pool(_highest(maps) if self.highest else _average(maps))
        return torch.cat(
            [
                self.branch1x1(maps),
                self.branch3x3_2a(three),
                self.branch3x3_2b(three),
                self.branch3x3dbl_3a(twice),
                self.branch3x3dbl_3b(twice),
                pool,
            ],
            dim=1,
        )


class Inception(nn.Module):
    """uint8 images to the 2,048 pooled features; parameters are named as in the public files."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Convolution(3, 32, 3, 2)
        self.Conv2d_2a_3x3 = Convolution(32, 32, 3)
        self.Conv2d_2b_3x3 = Convolution(32, 64, 3, pad=1)
        self.Conv2d_3b_1x1 = Convolution(64, 80, 1)
        self.Conv2d_4a_3x3 = Convolution(80, 192, 3)
        self.Mixed_5b = BlockA(192, 32)
        self.Mixed_5c = BlockA(256, 64)
        self.Mixed_5d = BlockA(288, 64)
        self.Mixed_6a = BlockB(288)
        self.Mixed_6b = BlockC(768, 128)
        self.Mixed_6c = BlockC(768, 160)
        self.Mixed_6d = BlockC(768, 160)
        self.Mixed_6e = BlockC(768, 192)
        self.Mixed_7a = BlockD(768)
        self.Mixed_7b = BlockE(1280, highest=False)
        self.Mixed_7c = BlockE(FEATURES, highest=True)

    def forward(self, images: Tensor) -> Tensor:
        """float32 [N, 2048] of uint8 images [N, 3, H, W] of any size."""
        resized = resize_like_tf1(images.to(self.Conv2d_1a_3x3.conv.weight.dtype), (SIDE, SIDE))
        maps = (resized - 128) / 128
        maps = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(maps)))
        maps = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(_halved(maps)))
        maps = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(_halved(maps))))
        maps = self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(maps)))
        maps = self.Mixed_7a(self.Mixed_6e(self.Mixed_6d(maps)))
        found: Tensor = self.Mixed_7c(self.Mixed_7b(maps)).mean(dim=(2, 3))
        return found


def resize_like_tf1(images: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear [N, C, H, W] -> [N, C, *size] as TensorFlow 1 does it by default.

    Output pixel i looks at i * H / size: corners are not aligned, nor are pixel centres, and
    nothing is averaged in shrinking. Other libraries differ by half a pixel, and FID by
    points of it (Parmar et al. 2022, "On Aliased Resizing").
    """
    for axis, wanted in zip((2, 3), size, strict=True):
        length = images.shape[axis]
        if length == wanted:
            continue
        place = torch.arange(wanted, device=images.device, dtype=images.dtype) * (length / wanted)
        first = place.floor().long().clamp(max=length - 1)
        second = (first + 1).clamp(max=length - 1)
        share = (place - first).reshape((-1, 1) if axis == 2 else (-1,))
        left, right = images.index_select(axis, first), images.index_select(axis, second)
        images = left + (right - left) * share
    return images


def load_inception(folder: Path, device: str) -> Inception:
    """The network of a folder that `rsgen doctor --convert-inception` made.

    Raises:
        SetupError: files are missing or are not its weights. OutOfMemory: it does not fit.
    """
    try:
        row = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if row.get("model_type") != MODEL_TYPE:
            raise ValueError(f"model_type is {row.get('model_type')!r}")
        tensors = load_file(folder / WEIGHTS)
        with torch.device("meta"):
            network = Inception()
        network.load_state_dict(tensors, strict=True, assign=True)
        return network.to(device).eval().requires_grad_(False)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise memory_error(error) or SetupError(
            f"{folder}: not the Inception of FID ({str(error).splitlines()[0]})",
            hint="make the folder again: rsgen doctor --convert-inception FILE.pth --out FOLDER",
        ) from error
