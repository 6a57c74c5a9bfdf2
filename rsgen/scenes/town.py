"""Car parks, sports grounds, residential streets."""

from __future__ import annotations

import math

import numpy as np

from rsgen.geometry import Array
from rsgen.scenes.canvas import Canvas
from rsgen.scenes.facilities import basketball_court, swimming_pool, tennis_court
from rsgen.scenes.marks import dashes, line, path, scatter_trees
from rsgen.scenes.props import flat_hall, pitched_house, tree
from rsgen.scenes.shapes import Colour, ellipse, rectangle, rounded, shade
from rsgen.scenes.style import pick_colour
from rsgen.scenes.vehicles import bus, car, large_vehicle, truck, van

__all__ = ["car_park", "residential_street", "sports_ground"]

WHITE: Colour = (220.0, 220.0, 214.0)


def _traffic(canvas: Canvas, y: float, lane: float, density: float) -> None:
    """Vehicles on a road along x, right-hand traffic."""
    rng, style = canvas.rng, canvas.style
    r = canvas.radius_m
    for sign in (1.0, -1.0):
        x = -r + float(rng.uniform(0, 16))
        while x < r:
            if rng.random() < density:
                vehicle = large_vehicle(rng, style) if rng.random() < 0.14 else car(rng, style)
                facing = 0.0 if sign > 0 else math.pi
                canvas.place(vehicle, x, y + sign * lane, facing + rng.normal(0, 0.02))
            x += float(rng.uniform(9, 22))


def car_park(canvas: Canvas) -> None:
    """Double rows of stalls between lanes, islands with trees, a hall or a street beside."""
    rng = canvas.rng
    r = canvas.radius_m
    canvas.flood("asphalt" if rng.random() < 0.8 else "concrete", "pavement")
    canvas.wear()
    stall, depth, lane = float(rng.uniform(2.5, 2.8)), 5.2, float(rng.uniform(6.0, 7.2))
    occupied = float(rng.uniform(0.3, 0.9))
    top = -float(rng.uniform(0.35, 1.1)) * r
    _beside(canvas, top)
    heavy = rng.random() < 0.3
    y = top + lane * 0.6
    number = 0
    while y < r:
        if heavy and number == 1:
            _heavy_row(canvas, y + 8.0, occupied)
            y += 17.0 + lane
        else:
            _stall_row(canvas, y + depth / 2, stall, depth, occupied, 1.0)
            _stall_row(canvas, y + depth * 1.5, stall, depth, occupied, -1.0)
            canvas.strokes([line(-r, y + depth, r, y + depth)], 0.14, WHITE, 0.75)
            y += 2 * depth + lane
        _lane(canvas, y - lane / 2)
        number += 1


def _beside(canvas: Canvas, top: float) -> None:
    """What lies along the car park's upper edge: grass with trees and a street or hall."""
    rng, style = canvas.rng, canvas.style
    r = canvas.radius_m
    canvas.fill([rectangle(-r, -3 * r, r, top)], "grass", "grass")
    canvas.strokes([line(-r, top, r, top)], 0.3, (186.0, 184.0, 178.0), 0.9)
    if rng.random() < 0.5:
        hall = flat_hall(rng, style, 2.4 * r, 26.0, float(rng.uniform(5, 11)))
        canvas.place(hall, 0.0, top - 17.0, 0.0, layer="prop")
    else:
        middle = top - 9.0
        canvas.fill([rectangle(-r, middle - 4, r, middle + 4)], "asphalt#2", "road")
        canvas.strokes(dashes(-r, middle, r, middle, 3.0, 4.0), 0.16, WHITE, 0.85)
        _traffic(canvas, middle, 1.9, 0.5)
    scatter_trees(canvas, int(10 * r / 30), (1.2, 2.6), (-r, top - 4.0, r, top - 1.6))
    scatter_trees(canvas, int(12 * r / 30), (1.6, 3.6), (-r, top - 40.0, r, top - 15.0))


def _stall_row(
    canvas: Canvas, y: float, stall: float, depth: float, occupied: float, side: float
) -> None:
    rng, style = canvas.rng, canvas.style
    r = canvas.radius_m
    start = -r - float(rng.uniform(0, stall))
    lines: list[Array] = []
    for k in range(int(2 * r / stall) + 2):
        x = start + k * stall
        lines.append(line(x, y - depth / 2, x, y + depth / 2))
        if k % 17 == 9 and rng.random() < 0.6:  # a planted island every so often
            island = rounded(x + 0.1, y - depth / 2, x + stall - 0.1, y + depth / 2, 0.9)
            canvas.fill([island], "grass", "grass")
            canvas.reserve(island)
            if rng.random() < 0.8:
                crown = tree(rng, style, float(rng.uniform(1.1, 2.0)))
                canvas.place(crown, x + stall / 2, y, 0.0, margin_m=-3.0, layer="crown")
            continue
        if canvas.sees(x, y, 3.5) and rng.random() < occupied:
            vehicle = van(rng, style) if rng.random() < 0.08 else car(rng, style)
            facing = side * math.pi / 2 * (1 if rng.random() < 0.72 else -1)
            canvas.place(
                vehicle,
                x + stall / 2 + rng.normal(0, 0.1),
                y + rng.normal(0, 0.22),
                facing + rng.normal(0, 0.025),
                margin_m=0.05,
            )
    canvas.strokes(lines, 0.13, WHITE, 0.8)


def _lane(canvas: Canvas, y: float) -> None:
    rng, style = canvas.rng, canvas.style
    r = canvas.radius_m
    if rng.random() < 0.5:
        for x in np.arange(-r, r, 14.0):
            for dy, turn in ((1.5, 1.0), (-1.5, -1.0)):
                arrow = np.array(
                    [
                        (x, y + dy - 0.1),
                        (x + turn * 1.6, y + dy - 0.1),
                        (x + turn * 1.6, y + dy - 0.45),
                        (x + turn * 2.6, y + dy),
                        (x + turn * 1.6, y + dy + 0.45),
                        (x + turn * 1.6, y + dy + 0.1),
                        (x, y + dy + 0.1),
                    ]
                )
                canvas.paint([arrow], WHITE, 0.7)
    for _ in range(int(rng.integers(0, 2)) + int(r / 60)):
        facing = 0.0 if rng.random() < 0.5 else math.pi
        side = 1.5 if facing == 0.0 else -1.5
        canvas.place(car(rng, style), rng.uniform(-r, r), y + side, facing)


def _heavy_row(canvas: Canvas, y: float, occupied: float) -> None:
    rng, style = canvas.rng, canvas.style
    r = canvas.radius_m
    pitch = 4.0
    lines = []
    for x in np.arange(-r + rng.uniform(0, pitch), r, pitch):
        lines.append(line(x - pitch / 2, y - 8, x - pitch / 2, y + 8))
        if rng.random() < occupied:
            vehicle = bus(rng, style) if rng.random() < 0.4 else truck(rng, style)
            facing = math.pi / 2 if rng.random() < 0.6 else -math.pi / 2
            canvas.place(vehicle, float(x), y + rng.normal(0, 0.5), facing + rng.normal(0, 0.02))
    canvas.strokes(lines, 0.15, WHITE, 0.75)


def sports_ground(canvas: Canvas) -> None:
    """Banks of courts with surrounds, paths, a pool, parked cars, a pitch."""
    rng, style = canvas.rng, canvas.style
    r = canvas.radius_m
    canvas.flood("grass", "grass")
    if rng.random() < 0.5:
        stripes = [rectangle(-r, y, r, y + 4) for y in np.arange(-r, r, 8.0)]
        canvas.paint(stripes, (112.0, 130.0, 78.0), 0.16)
    line_m = max(0.16, canvas.gsd_m * 0.75)
    across = float(rng.uniform(17.2, 19.0))
    along = float(rng.uniform(34, 38))
    per_row = int(rng.integers(1, 4))
    path_y = along / 2 + 4
    start_x = float(rng.uniform(-0.35, 0.35)) * across * per_row
    y = -float(rng.uniform(-0.2, 0.5)) * along - along * math.floor(r / (along + 12)) * 1.3
    while y < r + along / 2:
        pick = rng.random()
        x = start_x - r * 0.2 * float(rng.integers(0, 3))
        if pick < 0.78:
            _court_bank(canvas, x, y, per_row, across, along, line_m, tennis=rng.random() < 0.66)
            if r > 70:
                _court_bank(
                    canvas,
                    x + per_row * across + 14,
                    y,
                    per_row,
                    across,
                    along,
                    line_m,
                    tennis=rng.random() < 0.66,
                )
                _court_bank(
                    canvas,
                    x - per_row * across - 14,
                    y,
                    per_row,
                    across,
                    along,
                    line_m,
                    tennis=rng.random() < 0.66,
                )
        elif pick < 0.9:
            _public_pool(canvas, x, y)
        else:
            canvas.strokes(
                [
                    rectangle(x - 45, y - 30, x + 45, y + 30)[[0, 1, 2, 3, 0]],
                    ellipse(x, y, 9.15, steps=40),
                ],
                0.25,
                WHITE,
                0.8,
            )
        canvas.fill([rectangle(-r, y + path_y - 1.3, r, y + path_y + 1.3)], "gravel", "pavement")
        y += along + 10 + float(rng.uniform(0, 10))
    if rng.random() < 0.5:
        side = (0.45 + 0.4 * rng.random()) * r * float(rng.choice((-1.0, 1.0)))
        strip = rectangle(side - 6, -r, side + 6, r)
        canvas.fill([strip], "asphalt", "road")
        canvas.strokes(
            [line(side - 0.6, y0, side + 5, y0) for y0 in np.arange(-r, r, 2.6)], 0.13, WHITE, 0.8
        )
        for y0 in np.arange(-r, r, 2.6):
            if rng.random() < 0.5:
                canvas.place(
                    car(rng, style),
                    side + 2.4,
                    float(y0) + 1.3,
                    0.0 if rng.random() < 0.6 else math.pi,
                    margin_m=0.05,
                )
    scatter_trees(canvas, int(26 * (r / 40) ** 1.5), (1.4, 3.6))


def _court_bank(
    canvas: Canvas,
    x: float,
    y: float,
    count: int,
    across: float,
    along: float,
    line_m: float,
    *,
    tennis: bool,
) -> None:
    """Courts side by side, long side along y, on one fenced surround."""
    rng, style = canvas.rng, canvas.style
    pitch = across if tennis else across + 1.5
    depth = along if tennis else 33.0
    width = pitch * count + (0 if tennis else 1)
    surround = rounded(x - width / 2, y - depth / 2, x + width / 2, y + depth / 2, 1.5)
    canvas.fill([surround], "asphalt#3", "pavement")
    outer, inner = pick_colour(rng, style.courts), pick_colour(rng, style.courts)
    canvas.paint([surround], outer, 0.82)
    if rng.random() < 0.3:
        inner = shade(outer, float(rng.uniform(0.9, 1.12)))
    fence = [np.concatenate([surround, surround[:1]])]
    canvas.strokes([f + 0.5 for f in fence], 0.35, (36.0, 40.0, 38.0), 0.3)
    canvas.strokes(fence, 0.25, (58.0, 70.0, 62.0), 0.8)
    for k in range(count):
        cx = x - width / 2 + (k + 0.5) * (width / count)
        maker = tennis_court if tennis else basketball_court
        canvas.place(maker(rng, style, inner, line_m), cx, y, math.pi / 2, margin_m=0.5)
    canvas.reserve(surround)


def _public_pool(canvas: Canvas, x: float, y: float) -> None:
    rng, style = canvas.rng, canvas.style
    length, width = float(rng.choice((25.0, 25.0, 33.0))), float(rng.uniform(11, 16))
    deck = rounded(
        x - length / 2 - 7, y - width / 2 - 6, x + length / 2 + 7, y + width / 2 + 6, 1.0
    )
    canvas.fill([deck], "concrete", "pavement")
    canvas.place(swimming_pool(rng, style, length, width, "lanes"), x, y, 0.0)
    canvas.place(
        swimming_pool(rng, style, 8.0, 5.0, "kidney"), x + length / 2 + 1, y + width / 2 + 3.4, 0.3
    )
    for k in np.arange(-length / 2, length / 2, 3.0):
        canvas.paint(
            [rectangle(x + k, y - width / 2 - 4.2, x + k + 0.8, y - width / 2 - 2.4)],
            (226.0, 226.0, 220.0),
        )
    canvas.reserve(deck)


def residential_street(canvas: Canvas) -> None:
    """A street with houses on both sides: drives, gardens, pools, trees, parked cars."""
    rng = canvas.rng
    r = canvas.radius_m
    canvas.flood("grass", "grass")
    lot_depth = float(rng.uniform(33, 40))
    half = float(rng.uniform(3.2, 4.2))
    block = 2 * lot_depth + 2 * half + 4
    middle = float(rng.uniform(-0.9, 0.9)) * min(r * 0.8, block / 2)
    first = middle - block * math.ceil((r + block) / block)
    y = first
    while y < r + block:
        if abs(y) < r + block / 2 + 8:
            _street(canvas, y, half)
            for side in (1.0, -1.0):
                _lots(canvas, y, side, half, lot_depth)
            _street_life(canvas, y, half)
        y += block
    scatter_trees(canvas, int(22 * (r / 32) ** 2), (1.2, 3.4))


def _street(canvas: Canvas, y: float, half: float) -> None:
    rng = canvas.rng
    r = canvas.radius_m
    walks = [
        rectangle(
            -r, y + s * (half + 1.0) - 0.75 + s * 0.75, r, y + s * (half + 1.0) + 0.75 + s * 0.75
        )
        for s in (1, -1)
    ]
    canvas.fill(walks, "concrete", "pavement")
    canvas.fill([rectangle(-r, y - half, r, y + half)], "asphalt", "road")
    kerbs = [line(-r, y - half, r, y - half), line(-r, y + half, r, y + half)]
    canvas.strokes(kerbs, 0.2, (176.0, 174.0, 168.0), 0.8)
    if rng.random() < 0.55:
        canvas.strokes(dashes(-r, y, r, y, 3.0, 4.5), 0.15, WHITE, 0.75)


def _street_life(canvas: Canvas, y: float, half: float) -> None:
    rng, style = canvas.rng, canvas.style
    r = canvas.radius_m
    for sign in (1.0, -1.0):
        x = -r + float(rng.uniform(0, 12))
        while x < r:
            if rng.random() < 0.34:
                facing = 0.0 if sign > 0 else math.pi
                vehicle = van(rng, style) if rng.random() < 0.15 else car(rng, style)
                canvas.place(vehicle, x, y + sign * (half - 1.2), facing + rng.normal(0, 0.03))
            x += float(rng.uniform(6.5, 14))
    if rng.random() < 0.7:
        vehicle = large_vehicle(rng, style) if rng.random() < 0.5 else car(rng, style)
        canvas.place(vehicle, rng.uniform(-0.7, 0.7) * r, y + 0.9, 0.0)


def _lots(canvas: Canvas, street: float, side: float, half: float, depth: float) -> None:
    """Lots along one side: `side` +1 lies toward +y."""
    rng, style = canvas.rng, canvas.style
    r = canvas.radius_m
    x = -r - float(rng.uniform(0, 15))
    kerb = street + side * (half + 2.5)
    while x < r + 10:
        width = float(rng.uniform(17, 23))
        setback = float(rng.uniform(5.0, 8.0))
        length, house = float(rng.uniform(11, 15)), float(rng.uniform(8, 10.5))
        hx, hy = x + width * 0.45, kerb + side * (setback + house / 2)
        turn = 0.0 if side < 0 else math.pi
        if not canvas.sees(hx, hy + side * 8, width + 16):
            x += width
            continue
        home = pitched_house(rng, style, length, house)
        drive_x = x + width - 2.4
        drive = rectangle(
            drive_x - 1.6,
            min(street + side * half, kerb + side * 12),
            drive_x + 1.6,
            max(street + side * half, kerb + side * 12),
        )
        canvas.fill([drive], "concrete" if rng.random() < 0.6 else "gravel", "pavement")
        canvas.place(home, hx, hy, turn, margin_m=0.2, layer="prop")
        if rng.random() < 0.6:
            facing = side * math.pi / 2 * (1 if rng.random() < 0.7 else -1)
            canvas.place(
                car(rng, style),
                drive_x,
                kerb + side * float(rng.uniform(3.2, 8.5)),
                facing,
                margin_m=0.1,
            )
        back = kerb + side * (setback + house)
        yard = depth - setback - house - 4
        if rng.random() < 0.5 and yard > 8:
            _garden_pool(
                canvas,
                x + width * float(rng.uniform(0.35, 0.6)),
                back + side * (yard * 0.55 + 1.5),
                min(width - 5, 13.0),
            )
        far = kerb + side * (depth - 2.2)
        fence = [line(x, back, x, far), path((x, far), (x + width, far))]
        canvas.strokes([f + 0.35 for f in fence], 0.3, (52.0, 52.0, 44.0), 0.35)
        canvas.strokes(fence, 0.22, (158.0, 142.0, 118.0), 0.8)
        x += width


def _garden_pool(canvas: Canvas, x: float, y: float, room: float) -> None:
    rng, style = canvas.rng, canvas.style
    kind = ("rectangular", "rounded", "oval", "kidney", "ell")[int(rng.integers(5))]
    length = float(rng.uniform(7.5, min(room, 12.0)))
    width = length * float(rng.uniform(0.45, 0.62))
    turn = float(rng.choice((0.0, math.pi, math.pi / 2, rng.uniform(-0.3, 0.3))))
    pool = swimming_pool(rng, style, length, width, kind)
    if not canvas.place(pool, x, y, turn, margin_m=0.9):
        return
    c, s = math.cos(turn), math.sin(turn)
    reach = rounded(-length / 2 - 1.4, -width / 2 - 1.4, length / 2 + 1.4, width / 2 + 1.4, 0.8)
    deck = reach @ np.array([[c, s], [-s, c]]) + np.array([x, y])
    canvas.fill([deck], "concrete" if rng.random() < 0.7 else "gravel", "pavement")
