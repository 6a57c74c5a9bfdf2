"""The judge's network: a small dense detector whose object maps are half of the image's side.

For every cell it gives a centre score a thing class, where the centre lies in the cell, the
object's length and width, its axis, its heading, and for every pixel the stuff class. A second
head looks at a given (oriented) box and says whether an object of a class is what is there.
Source: centre heat maps after Zhou et al. 2019, "Objects as Points"; differs in: oriented
Gaussians, axis as a doubled angle, the verification head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

__all__ = [
    "ANSWERS",
    "COARSEST",
    "GROUND_STRIDE",
    "STRIDE",
    "JudgeNetwork",
    "Maps",
    "NetworkShape",
    "in_channels_last",
    "to_input",
]

STRIDE = 2  # of the object maps: parked cars lie five pixels apart
GROUND_STRIDE = 4  # of the stuff map and of the features
COARSEST = 32
GRID = 7  # points a side that the verification head looks at
REACH = 1.5  # how far around a box it looks, in box sides
SIZE_UNIT = 16.0
ANSWERS = ("right", "wrong class", "moved", "resized", "nothing there")


@dataclass(frozen=True)
class NetworkShape:
    """What the network is built from; kept beside its weights."""

    things: int
    stuff: int
    widths: tuple[int, int, int, int, int] = (24, 40, 72, 112, 144)
    neck: int = 64
    fine: int = 32

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "widths": list(self.widths)}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> NetworkShape:
        a, b, c, d, e = row["widths"]
        numbers = (int(row[key]) for key in ("neck", "fine"))
        return cls(int(row["things"]), int(row["stuff"]), (a, b, c, d, e), *numbers)


@dataclass(frozen=True)
class Maps:
    """Raw outputs: objects on cells of 2 pixels, stuff and features on cells of 4.

    heat: logits a thing class. offset: centre within the cell, in cells from its middle.
    size: log(length / 16), log(width / 16) in pixels. axis: (cos, sin) of twice the angle of
    the length. heading: (cos, sin) of the front's direction. stuff: logits, background first.
    features: what the verification head reads.
    """

    heat: Tensor
    offset: Tensor
    size: Tensor
    axis: Tensor
    heading: Tensor
    stuff: Tensor
    features: Tensor


def to_input(images: Tensor) -> Tensor:
    """uint8 [N, H, W, 3] -> float [N, 3, H, W], about zero mean and unit spread."""
    return (images.permute(0, 3, 1, 2).float() / 255 - 0.45) / 0.25


def in_channels_last(network: JudgeNetwork) -> JudgeNetwork:
    """The network with its weights in the memory order that is quick on CPUs and GPUs alike."""
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return network


class _Block(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _convolution(width, width)
        self.second = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        )

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x + self.second(self.first(x)))


def _convolution(inside: int, outside: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inside, outside, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outside),
        nn.ReLU(inplace=True),
    )


class JudgeNetwork(nn.Module):
    """Images -> `Maps`; features and boxes -> answers."""

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        self.shape = shape
        stem, *widths = shape.widths
        self.stem = _convolution(3, stem, 2)
        self.levels = nn.ModuleList()
        inside = stem
        for width, blocks in zip(widths, (1, 2, 2, 1), strict=True):
            layers = [_convolution(inside, width, 2), *(_Block(width) for _ in range(blocks))]
            self.levels.append(nn.Sequential(*layers))
            inside = width
        self.lateral = nn.ModuleList(nn.Conv2d(width, shape.neck, 1) for width in widths)
        self.smooth = _convolution(shape.neck, shape.neck)
        self.sharpen = nn.Conv2d(stem, shape.fine, 1)
        self.lift = nn.Conv2d(shape.neck, shape.fine, 1)
        self.before_heads = _convolution(shape.fine, shape.fine)
        self.heat = nn.Conv2d(shape.fine, shape.things, 1)
        self.boxes = nn.Conv2d(shape.fine, 8, 1)
        self.stuff = nn.Conv2d(shape.neck, shape.stuff + 1, 1)
        self.reduce = nn.Conv2d(shape.neck, 24, 1)
        self.verify = nn.Sequential(
            nn.Linear(24 * GRID * GRID + 2, 128), nn.ReLU(inplace=True), nn.Linear(128, 128),
            nn.ReLU(inplace=True),
        )  # fmt: skip
        self.answers = nn.Linear(128, shape.things * len(ANSWERS))
        nn.init.constant_(self.heat.bias, -4.0)  # type: ignore[arg-type]  # few cells are centres

    def forward(self, x: Tensor) -> Maps:
        """float [N, 3, H, W] with H and W multiples of 32."""
        fine = x = self.stem(x)
        found = []
        for level in self.levels:
            x = level(x)
            found.append(x)
        merged = self.lateral[-1](found[-1])
        for k in range(len(found) - 2, -1, -1):
            merged = functional.interpolate(merged, scale_factor=2.0, mode="nearest")
            merged = merged + self.lateral[k](found[k])
        features = self.smooth(merged)
        lifted = functional.interpolate(self.lift(features), scale_factor=2.0, mode="nearest")
        ready = self.before_heads(self.sharpen(fine) + lifted)
        boxes = self.boxes(ready)
        return Maps(
            self.heat(ready),
            boxes[:, 0:2],
            boxes[:, 2:4],
            boxes[:, 4:6],
            boxes[:, 6:8],
            self.stuff(features),
            features,
        )

    def judge_boxes(self, features: Tensor, boxes: Tensor, owner: Tensor, thing: Tensor) -> Tensor:
        """Logits of `ANSWERS`, float [B, 5], for given boxes.

        Args:
            features: float [N, C, H/4, W/4]. boxes: float [B, 5], centre x and y, length, width
            in pixels, angle in radians. owner: int64 [B], image of each. thing: int64 [B], class.
        """
        points = box_points(boxes) / GROUND_STRIDE
        height, width = features.shape[-2:]
        scale = torch.tensor([width, height], dtype=points.dtype, device=points.device)
        where = points / scale * 2 - 1
        reduced = self.reduce(features)
        crops = reduced.new_zeros(len(boxes), reduced.shape[1], GRID, GRID)
        for image in sorted(set(owner.tolist())):
            rows = (owner == image).nonzero().squeeze(1)
            count = len(rows)
            grid = where[rows].reshape(1, count * GRID, GRID, 2).to(reduced.dtype)
            taken = functional.grid_sample(reduced[image : image + 1], grid, align_corners=False)
            taken = taken.reshape(reduced.shape[1], count, GRID, GRID).permute(1, 0, 2, 3)
            crops = crops.index_copy(0, rows, taken)
        sides = torch.log(boxes[:, 2:4].clamp_min(1) / SIZE_UNIT).to(crops.dtype)
        hidden = self.verify(torch.cat([crops.flatten(1), sides], dim=1))
        every = self.answers(hidden).reshape(len(boxes), self.shape.things, len(ANSWERS))
        chosen: Tensor = every[torch.arange(len(boxes), device=every.device), thing]
        return chosen


def box_points(boxes: Tensor) -> Tensor:
    """Pixel positions that are looked at, float [B, 7, 7, 2] (x, y); rows run across."""
    steps = torch.linspace(-0.5, 0.5, GRID, device=boxes.device, dtype=boxes.dtype) * REACH
    along = boxes[:, 2, None, None] * steps[None, None, :]
    across = boxes[:, 3, None, None] * steps[None, :, None]
    cos, sin = boxes[:, 4].cos()[:, None, None], boxes[:, 4].sin()[:, None, None]
    x = boxes[:, 0, None, None] + along * cos - across * sin
    y = boxes[:, 1, None, None] + along * sin + across * cos
    return torch.stack([x, y], dim=-1)
