"""Airfields: aprons with stands, light-aircraft parks, military ramps, runways."""

from __future__ import annotations

import math

import numpy as np

from rsgen.geometry import Array
from rsgen.scenes.aircraft import (
    airliner,
    business_jet,
    fighter,
    helicopter,
    light_aircraft,
    turboprop,
)
from rsgen.scenes.canvas import Canvas
from rsgen.scenes.marks import dashes, line, path, scatter_trees
from rsgen.scenes.props import flat_hall
from rsgen.scenes.shapes import Colour, Drawing, ellipse, rectangle
from rsgen.scenes.vehicles import large_vehicle, van

__all__ = ["apron", "light_park", "military_ramp", "runway"]

YELLOW: Colour = (204.0, 172.0, 70.0)
WHITE: Colour = (222.0, 222.0, 218.0)


def _joints(canvas: Canvas, side_m: float) -> None:
    """Slab tones and dark joints of a concrete surface."""
    canvas.slabs(side_m, canvas.rng.uniform(0.008, 0.035))
    r = canvas.radius_m
    steps = np.arange(-r, r, side_m)
    lines = [line(x, -r, x, r) for x in steps] + [line(-r, y, r, y) for y in steps]
    canvas.strokes(lines, 0.12, (96.0, 94.0, 90.0), float(canvas.rng.uniform(0.12, 0.4)))


def _stains(canvas: Canvas, x: float, y: float, angle: float, length: float) -> None:
    """Oil and tyre traces where aircraft stand."""
    rng = canvas.rng
    tone = float(rng.uniform(0.06, 0.2))
    for _ in range(2):
        r = length * rng.uniform(0.05, 0.14)
        spot = ellipse(x + rng.normal(0, 2.0), y + rng.normal(0, 2.0), r, r * 0.6, 16, angle)
        canvas.paint([spot], (52.0, 50.0, 48.0), tone)


def apron(canvas: Canvas) -> None:
    """Airliners nose-in at a terminal, a taxiway behind them, service vehicles."""
    rng, style = canvas.rng, canvas.style
    r = canvas.radius_m
    canvas.flood("concrete" if rng.random() < 0.75 else "asphalt", "pavement")
    _joints(canvas, float(rng.choice((5.0, 7.5, 10.0))))
    canvas.wear(0.06)
    length = float(np.clip(rng.uniform(30, 58) * canvas.gsd_m, 25.0, 62.0))
    stand = float(rng.uniform(-0.3, 0.3)) * min(canvas.width, canvas.height) * canvas.gsd_m
    head = stand - length * 0.62
    taxi = stand + length * rng.uniform(0.95, 1.3)
    grass = taxi + length * rng.uniform(0.4, 0.6)
    canvas.fill([rectangle(-r, taxi - 9.0, r, taxi + 9.0)], "asphalt", "road")
    canvas.fill([rectangle(-r, grass, r, grass + 2 * r)], "grass", "grass")
    canvas.strokes([line(-r, taxi, r, taxi)], 0.5, YELLOW, 0.8)
    canvas.strokes([line(-r, grass - 1.5, r, grass - 1.5)], 0.4, YELLOW, 0.7)
    gate_road = rectangle(-r, head - 9.0, r, head - 2.0)
    canvas.fill([gate_road], "asphalt#2", "road")
    canvas.strokes(
        [line(-r, head - 9.0, r, head - 9.0), line(-r, head - 2.0, r, head - 2.0)], 0.3, WHITE, 0.7
    )
    hall = flat_hall(rng, style, 2.2 * r, 34.0, float(rng.uniform(9, 15)))
    canvas.place(hall, 0, head - 27.0, 0.0, layer="prop")
    pitch = length * rng.uniform(1.05, 1.25)
    first = float(rng.uniform(-pitch / 2, pitch / 2))
    lean = float(rng.normal(0, 0.05))
    count = math.ceil(r / pitch)
    for k in range(-count, count + 1):
        x = first + k * pitch
        canvas.strokes([path((x, taxi), (x, head + length * 0.12))], 0.45, YELLOW, 0.75)
        canvas.strokes(
            [line(x - pitch / 2, head, x - pitch / 2, stand + length * 0.5)],
            0.3,
            (196.0, 70.0, 58.0),
            0.5,
        )
        if rng.random() < 0.88:
            size = float(np.clip(length * rng.uniform(0.82, 1.04), 24, 64))
            maker = turboprop if rng.random() < 0.15 and size < 36 else airliner
            _stains(canvas, x, stand, 1.57, length)
            canvas.place(
                maker(rng, style, length=size), x, stand + rng.normal(0, 0.8), -math.pi / 2 + lean
            )
            for _ in range(int(rng.integers(0, 4))):
                vehicle = large_vehicle(rng, style) if rng.random() < 0.35 else van(rng, style)
                vx, vy = (
                    x + rng.uniform(-0.5, 0.5) * pitch,
                    stand + rng.uniform(-0.55, 0.45) * length,
                )
                canvas.place(vehicle, vx, vy, rng.uniform(-math.pi, math.pi))
    for _ in range(2):
        if rng.random() < 0.5:
            facing = 0.0 if rng.random() < 0.5 else math.pi
            canvas.place(
                airliner(rng, style, length=length * rng.uniform(0.85, 1.0)),
                rng.uniform(-r, r),
                taxi,
                facing,
                margin_m=2.0,
            )
    for _ in range(int(rng.integers(1, 5))):
        facing = 0.0 if rng.random() < 0.5 else math.pi
        canvas.place(large_vehicle(rng, style), rng.uniform(-r, r), head - 5.5, facing)


def light_park(canvas: Canvas) -> None:
    """Rows of light aircraft or business jets on asphalt, hangars, cars."""
    rng, style = canvas.rng, canvas.style
    r = canvas.radius_m
    on_grass = rng.random() < 0.2
    if on_grass:
        canvas.flood("grass", "grass")
    else:
        canvas.flood("asphalt" if rng.random() < 0.65 else "concrete", "pavement")
        if rng.random() < 0.6:
            _joints(canvas, 6.0)
        canvas.wear(0.08)
    jets = rng.random() < 0.3
    spacing, depth = (22.0, 26.0) if jets else (13.5, 12.5)
    spacing *= rng.uniform(0.95, 1.2)
    edge = float(rng.uniform(0.2, 0.8)) * r * 0.8
    if rng.random() < 0.7:
        canvas.fill([rectangle(-r, edge, r, edge + 2 * r)], "grass#2", "grass")
        canvas.strokes([line(-r, edge - 1, r, edge - 1)], 0.25, YELLOW, 0.7)
    wall = -float(rng.uniform(0.35, 0.75)) * r
    if rng.random() < 0.65:
        x = -r
        while x < r:
            length = float(rng.uniform(16, 30))
            hall = flat_hall(rng, style, length, 18.0, float(rng.uniform(6, 9)))
            canvas.place(hall, x + length / 2, wall - 9.0, 0.0, layer="prop")
            x += length + rng.uniform(1, 6)
    row = wall + depth * 0.9
    facing = math.pi / 2 if rng.random() < 0.5 else -math.pi / 2
    slant = float(rng.choice((0.0, 0.0, 0.5, -0.5)))
    number = 0
    while row < edge - depth * 0.5:
        lane = number % 2 == 1 and rng.random() < 0.6
        if lane and not on_grass:
            canvas.strokes([line(-r, row, r, row)], 0.25, YELLOW, 0.8)
        else:
            _light_row(canvas, row, spacing, facing + slant, jets)
            facing = -facing
        row += depth
        number += 1
    for _ in range(int(rng.integers(0, 4))):
        canvas.place(
            van(rng, style), rng.uniform(-r, r), rng.uniform(wall, edge), rng.uniform(-3.1, 3.1)
        )


def _light_row(canvas: Canvas, y: float, spacing: float, facing: float, jets: bool) -> None:
    rng, style = canvas.rng, canvas.style
    r = canvas.radius_m
    x = -r + float(rng.uniform(0, spacing))
    while x < r:
        tie = [line(x - 1.0, y + 3.5, x + 1.0, y + 3.5), line(x, y - 3.0, x, y + 3.5)]
        canvas.strokes(tie, 0.2, WHITE, 0.5)
        if rng.random() < 0.84:
            drawing: Drawing
            if jets and rng.random() < 0.8:
                drawing = business_jet(rng, style)
            elif rng.random() < 0.08:
                drawing = helicopter(rng, style, canvas.gsd_m)
            else:
                drawing = light_aircraft(rng, style)
            canvas.place(
                drawing,
                x + rng.normal(0, 0.5),
                y + rng.normal(0, 0.5),
                facing + rng.normal(0, 0.07),
            )
        x += spacing


def military_ramp(canvas: Canvas) -> None:
    """Fighters in a slanted row or helicopters on pads."""
    rng, style = canvas.rng, canvas.style
    r = canvas.radius_m
    pads = rng.random() < 0.55
    canvas.flood("grass" if pads else "concrete", "grass" if pads else "pavement")
    if not pads:
        _joints(canvas, 7.5)
        canvas.wear(0.08)
    spacing = float(rng.uniform(19, 26))
    first = float(rng.uniform(-spacing, spacing)) / 2
    if pads:
        lane = spacing * 0.75
        canvas.fill([rectangle(-r, lane - 4, r, lane + 4)], "asphalt", "road")
        canvas.strokes([line(-r, lane, r, lane)], 0.4, YELLOW, 0.8)
    else:
        edge = float(rng.uniform(0.3, 0.8)) * r
        canvas.fill([rectangle(-r, edge, r, edge + 2 * r)], "grass", "grass")
        canvas.strokes([line(-r, edge - 2, r, edge - 2)], 0.4, YELLOW, 0.8)
    slant = float(rng.choice((0.0, 0.6, -0.6)))
    rows = (
        (0.0, -spacing * 1.5, spacing * 1.5) if not pads else (0.0, -spacing * 1.15, spacing * 1.5)
    )
    pad_outlines: list[Array] = []
    for row in rows:
        facing = -math.pi / 2 + slant + (math.pi if rng.random() < 0.5 else 0.0)
        count = math.ceil(r / spacing)
        for k in range(-count, count + 1):
            x = first + k * spacing
            if pads:
                pad_outlines.append(_helipad(canvas, x, row))
            if rng.random() < 0.86:
                _stains(canvas, x, row, facing, 14)
                drawing = helicopter(rng, style, canvas.gsd_m) if pads else fighter(rng, style)
                turn = rng.normal(0, 0.5 if pads else 0.04)
                canvas.place(drawing, x, row + rng.normal(0, 0.4), facing + turn)
    for _ in range(int(rng.integers(0, 4))):
        vehicle = large_vehicle(rng, style) if rng.random() < 0.6 else van(rng, style)
        canvas.place(vehicle, rng.uniform(-r, r), rng.uniform(-r, r), rng.choice((0.0, math.pi)))
    if pads:
        canvas.reserve(rectangle(-r, lane - 5, r, lane + 5))
        for pad in pad_outlines:
            canvas.reserve(pad)
        scatter_trees(canvas, 6, (1.8, 4.0))


def _helipad(canvas: Canvas, x: float, y: float) -> Array:
    """A marked pad; returns its outline."""
    square = rectangle(x - 8, y - 8, x + 8, y + 8)
    outline = ellipse(x, y, 8.5) if canvas.rng.random() < 0.5 else square
    canvas.fill([outline], "concrete", "pavement")
    canvas.strokes([ellipse(x, y, 6.0, steps=32)], 0.5, WHITE, 0.8)
    legs = [line(x + k, y - 2, x + k, y + 2) for k in (-1.2, 1.2)]
    canvas.strokes([*legs, line(x - 1.2, y, x + 1.2, y)], 0.6, WHITE, 0.8)
    return outline


def runway(canvas: Canvas) -> None:
    """A runway or taxiway across grass with aircraft on it."""
    rng, style = canvas.rng, canvas.style
    r = canvas.radius_m
    canvas.flood("grass", "grass")
    half = float(rng.uniform(15, 23))
    y = float(rng.uniform(-0.3, 0.3)) * r
    side = y + half + float(rng.uniform(26, 44))
    canvas.fill([rectangle(-r, y - half, r, y + half)], "asphalt", "road")
    x = float(rng.uniform(-0.5, 0.5)) * r
    link = np.array([(x - 9, side), (x + 9, side), (x + 16, y), (x - 16, y)])
    canvas.fill([link, rectangle(-r, side - 9, r, side + 9)], "asphalt#2", "road")
    canvas.strokes([path((-r, side), (r, side)), path((x, side), (x, y))], 0.5, YELLOW, 0.85)
    canvas.strokes(dashes(-r, y, r, y, 30.0, 20.0), 0.9, WHITE, 0.85)
    canvas.strokes(
        [line(-r, y - half + 1, r, y - half + 1), line(-r, y + half - 1, r, y + half - 1)],
        0.9,
        WHITE,
        0.8,
    )
    for _ in range(int(rng.integers(3, 9))):  # rubber
        a, off = rng.uniform(-r, r), rng.normal(0, half * 0.2)
        canvas.strokes(
            [line(a, y + off, a + rng.uniform(20, 80), y + off)], 0.9, (40.0, 40.0, 42.0), 0.3
        )
    if rng.random() < 0.4:
        start = float(rng.uniform(-0.4, 0.4)) * r
        keys = [
            rectangle(start, y + k * 3.4 - 0.9, start + 26, y + k * 3.4 + 0.9)
            for k in range(-4, 5)
            if k
        ]
        canvas.paint(keys, WHITE, 0.8)
    size = float(np.clip(rng.uniform(28, 58) * canvas.gsd_m, 10.0, 60.0))

    def aircraft() -> Drawing:
        if size < 22:
            return business_jet(rng, style) if rng.random() < 0.5 else light_aircraft(rng, style)
        if size < 34 and rng.random() < 0.5:
            return turboprop(rng, style, length=size)
        return airliner(rng, style, length=max(size * rng.uniform(0.85, 1.05), 24))

    for lane in (y, side, side, y, y, side):
        if rng.random() < 0.8:
            facing = 0.0 if rng.random() < 0.5 else math.pi
            canvas.place(
                aircraft(),
                rng.uniform(-0.8, 0.8) * r,
                lane + rng.normal(0, 0.6),
                facing + rng.normal(0, 0.02),
                margin_m=4.0,
            )
    for _ in range(2):
        canvas.place(van(rng, style), rng.uniform(-r, r), side + rng.uniform(-5, 5), 0.0)
