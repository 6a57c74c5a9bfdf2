"""The two looks: base colours of grounds and the ranges of light and sensor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rsgen.errors import UsageError
from rsgen.scenes.shapes import Colour

__all__ = ["STYLES", "Style", "muted", "pick_colour", "style_named"]

Palette = tuple[Colour, ...]
Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Style:
    """Palettes are RGB 0..255; ranges are drawn from uniformly, one draw a scene."""

    name: str
    grounds: dict[str, Palette]
    paint: Palette  # cars
    livery: Palette  # accents on aircraft, ships, trucks
    roofs: Palette
    trees: Palette
    courts: Palette
    pools: Palette
    hulls: Palette
    sun_elevation_deg: Range
    haze: Range
    blur_px: Range
    noise: Range
    contrast: Range
    warmth: Range
    saturation: Range


DEFAULT = Style(
    name="default",
    grounds={
        "asphalt": ((84, 84, 86), (98, 97, 97), (70, 71, 74), (112, 109, 105), (92, 90, 86)),
        "concrete": ((168, 165, 158), (182, 178, 170), (152, 151, 148), (176, 174, 172)),
        "grass": ((78, 92, 56), (92, 102, 62), (66, 84, 54), (108, 108, 70), (84, 98, 70)),
        "dry": ((134, 120, 88), (146, 130, 98), (122, 114, 84)),
        "soil": ((140, 122, 98), (152, 136, 112), (128, 112, 92), (164, 150, 130)),
        "gravel": ((150, 146, 138), (136, 132, 124), (164, 158, 146)),
        "water": (
            (28, 48, 62),
            (34, 56, 58),
            (22, 34, 52),
            (44, 66, 66),
            (30, 60, 78),
            (40, 54, 44),
        ),
    },
    paint=(
        (228, 228, 226),
        (228, 228, 226),
        (214, 216, 218),
        (180, 182, 184),
        (160, 163, 166),
        (52, 54, 58),
        (38, 40, 44),
        (96, 99, 104),
        (150, 34, 34),
        (42, 64, 116),
        (110, 28, 34),
        (66, 86, 112),
        (174, 162, 136),
        (52, 78, 66),
        (196, 192, 180),
    ),
    livery=(
        (188, 34, 40),
        (30, 62, 136),
        (24, 110, 160),
        (226, 150, 30),
        (30, 108, 72),
        (60, 62, 70),
        (214, 216, 220),
        (112, 40, 110),
        (226, 196, 44),
    ),
    roofs=(
        (150, 88, 68),
        (128, 76, 62),
        (104, 100, 98),
        (132, 126, 120),
        (86, 84, 86),
        (150, 138, 124),
        (116, 96, 84),
        (168, 160, 150),
    ),
    trees=((52, 74, 40), (62, 84, 46), (44, 66, 42), (74, 90, 52), (56, 72, 50)),
    courts=((56, 104, 84), (60, 96, 138), (158, 84, 66), (88, 120, 84), (84, 104, 118)),
    pools=((74, 178, 200), (92, 192, 206), (58, 156, 188), (110, 200, 204)),
    hulls=((118, 44, 38), (38, 44, 58), (34, 62, 96), (60, 66, 70), (40, 84, 66), (150, 60, 40)),
    sun_elevation_deg=(30.0, 64.0),
    haze=(0.0, 0.2),
    blur_px=(0.3, 0.62),
    noise=(1.2, 4.5),
    contrast=(0.92, 1.2),
    warmth=(-0.05, 0.05),
    saturation=(0.68, 1.06),
)

ALTERNATIVE = Style(
    name="alt",
    grounds={
        "asphalt": ((120, 114, 106), (104, 100, 98), (134, 126, 116), (88, 86, 88)),
        "concrete": ((196, 186, 166), (184, 172, 152), (206, 198, 182), (160, 156, 150)),
        "grass": ((126, 116, 74), (112, 114, 66), (142, 126, 86), (96, 104, 70)),
        "dry": ((176, 152, 112), (186, 164, 126), (164, 140, 104)),
        "soil": ((188, 160, 122), (176, 142, 106), (166, 118, 84), (200, 178, 142)),
        "gravel": ((182, 168, 142), (170, 156, 132), (156, 146, 130)),
        "water": ((38, 84, 92), (58, 98, 98), (24, 62, 88), (76, 100, 84), (18, 44, 60)),
    },
    paint=(
        (236, 232, 222),
        (236, 232, 222),
        (206, 200, 188),
        (60, 58, 60),
        (136, 132, 126),
        (186, 146, 44),
        (74, 104, 58),
        (48, 96, 150),
        (168, 60, 40),
        (92, 70, 60),
        (120, 150, 160),
    ),
    livery=(
        (20, 130, 120),
        (230, 110, 40),
        (90, 40, 120),
        (200, 180, 60),
        (150, 20, 60),
        (70, 130, 60),
        (40, 40, 44),
        (120, 170, 200),
    ),
    roofs=(
        (186, 168, 142),
        (170, 116, 84),
        (200, 190, 172),
        (140, 120, 104),
        (96, 110, 124),
        (178, 150, 118),
        (120, 92, 84),
    ),
    trees=((74, 84, 48), (90, 94, 56), (60, 78, 44), (98, 96, 62)),
    courts=((176, 104, 72), (112, 92, 134), (70, 120, 150), (104, 128, 76), (146, 130, 100)),
    pools=((60, 150, 160), (124, 206, 196), (84, 168, 214), (70, 140, 140)),
    hulls=(
        (70, 54, 48),
        (160, 112, 44),
        (52, 100, 112),
        (130, 130, 126),
        (104, 40, 60),
        (24, 30, 40),
    ),
    sun_elevation_deg=(20.0, 50.0),
    haze=(0.05, 0.32),
    blur_px=(0.35, 0.8),
    noise=(2.5, 7.0),
    contrast=(0.85, 1.12),
    warmth=(-0.1, 0.12),
    saturation=(0.5, 0.95),
)

STYLES = {style.name: style for style in (DEFAULT, ALTERNATIVE)}


def style_named(name: str) -> Style:
    """A style by name; UsageError when unknown."""
    if name not in STYLES:
        raise UsageError(f"unknown scene style {name!r}", hint=f"use one of {', '.join(STYLES)}")
    return STYLES[name]


def pick_colour(rng: np.random.Generator, palette: Palette, spread: float = 6.0) -> Colour:
    """A palette entry with a little variation of tone and hue."""
    base = np.array(palette[int(rng.integers(len(palette)))])
    varied = base * rng.uniform(0.94, 1.06) + rng.uniform(-spread, spread, 3) * 0.5
    r, g, b = np.clip(varied, 0, 255).tolist()
    return (r, g, b)


def muted(colour: Colour, share: float) -> Colour:
    """The colour with a share of its saturation taken away, as sun and salt do."""
    grey = sum(colour) / 3
    r, g, b = (c + (grey - c) * share for c in colour)
    return (r, g, b)
