"""The arrangements: each paints its ground and puts objects down until nothing more fits."""

from __future__ import annotations

import math

import numpy as np

from rsgen.layout.draws import Draws
from rsgen.layout.ground import Field, Ground, Piece
from rsgen.layout.template import (
    Extra,
    FreeTemplate,
    GridTemplate,
    LayoutTemplate,
    QuayTemplate,
    RowsTemplate,
    StreetTemplate,
)

__all__ = ["arrange"]

QUARTER = math.pi / 2


def arrange(template: LayoutTemplate, ground: Ground, draws: Draws) -> None:
    """Run a template's pattern, then its extras and its trees."""
    match template:
        case RowsTemplate():
            _rows(template, ground, draws)
        case QuayTemplate():
            _quay(template, ground, draws)
        case GridTemplate():
            _grid(template, ground, draws)
        case FreeTemplate():
            _free(template, ground, draws)
        case StreetTemplate():
            _street(template, ground, draws)
    capacity, ground.capacity = ground.capacity, 10 * ground.capacity
    for extra in template.extras:
        _extra(extra, ground, draws)
    ground.capacity = capacity
    _trees(template, ground)


def _extent(piece: Piece, facing: float) -> tuple[float, float]:
    """(along the frame's x, along its y) of a piece at a facing."""
    c, s = abs(math.cos(facing)), abs(math.sin(facing))
    return piece.length * c + piece.width * s, piece.length * s + piece.width * c


def _rows(template: RowsTemplate, ground: Ground, draws: Draws) -> None:
    ground.flood(template.ground)
    first = draws.next()
    base = QUARTER if template.facing == "across" else 0.0
    _, depth = _extent(first, base)
    spine = ground.span_px(template.spine_width_m) if template.spine else 0.0
    pack = 2 * depth * 1.06 + spine if template.pair else depth
    lane = ground.span(template.lane) * depth
    lane_width = min(ground.span_px(template.lane_width_m), 0.6 * depth)
    if template.lane_stuff is not None:
        lane = max(lane, 1.1 * lane_width)
    pitch = pack + lane
    start = ground.span((-0.35, 0.35)) * ground.half
    limit = _beside(template, ground)
    occupied = ground.span(template.occupied)
    reach = math.ceil((ground.radius + pitch) / pitch)
    for k in sorted(range(-reach, reach + 1), key=abs):
        middle = start + k * pitch
        if template.lane_stuff is not None and ground.rng.random() < template.lane_chance:
            edge = middle + pitch / 2
            ground.band(edge - lane_width / 2, edge + lane_width / 2, template.lane_stuff)
        if middle - pack / 2 < limit:
            continue
        if template.spine is not None:
            ground.band(middle - spine / 2, middle + spine / 2, template.spine)
        if template.pair:
            away = spine / 2 + depth * 0.03
            _row(template, ground, draws, (middle - away, -1.0), base, occupied, limit)
            _row(template, ground, draws, (middle + away, 1.0), base + math.pi, occupied, limit)
        else:
            turned = base + (math.pi if ground.rng.random() < 0.5 else 0.0)
            _row(template, ground, draws, (middle, 0.0), turned, occupied, limit)


def _beside(template: RowsTemplate, ground: Ground) -> float:
    """Paint another ground along one side; rows keep below the v that is returned."""
    side = template.side
    if side is None or ground.rng.random() >= side.chance:
        return -math.inf
    start = -ground.span(side.start) * ground.half
    ground.band(-math.inf, start, side.stuff)
    if side.road is not None:
        width = ground.span_px(side.road_width_m)
        gap = ground.px(3.0)
        ground.band(start - gap - width, start - gap, side.road)
    return start


def _row(
    template: RowsTemplate,
    ground: Ground,
    draws: Draws,
    base: tuple[float, float],
    facing: float,
    occupied: float,
    limit: float,
) -> None:
    """Objects side by side along v = const, from one border of the canvas to the other.

    `base` is (v, side): the objects' middles lie on v (side 0), or their near ends do and
    they reach toward lower (-1) or higher (+1) v. None reaches below `limit`.
    """
    rng = ground.rng
    radius = ground.radius
    v, side = base
    if abs(v) > radius:
        return
    u = -math.sqrt(max(radius**2 - v**2, 0.0))
    end = -u
    u += float(rng.uniform(0, 0.15)) * radius
    gap = ground.span(template.gap)
    left = int(rng.integers(template.run[0], template.run[1] + 1)) if template.run else -1
    while u < end and len(ground.things) < ground.capacity:
        piece = draws.next()
        turn = facing + (math.pi if rng.random() < template.reverse else 0.0)
        turn += (
            math.radians(float(rng.normal(0, template.jitter_deg)))
            if (template.jitter_deg)
            else 0.0
        )
        along, across = _extent(piece, turn)
        if rng.random() >= occupied:
            u += along * (1 + gap)
            continue
        middle = v + side * across / 2
        on_rows = middle - across / 2 >= limit
        if on_rows and ground.put(piece, u + along / 2, middle, turn):
            u += along * (1 + gap)
            left -= 1
            if left == 0 and template.run:
                u += along * float(rng.uniform(0.6, 1.6))
                left = int(rng.integers(template.run[0], template.run[1] + 1))
        else:
            u += max(along * 0.2, 2.0)


def _quay(template: QuayTemplate, ground: Ground, draws: Draws) -> None:
    rng = ground.rng
    ground.flood(template.ground)
    edge = ground.span(template.edge) * ground.radius
    ground.band(-math.inf, edge, template.land)
    if template.road is not None:
        ground.band(edge - ground.px(24.0), edge - ground.px(16.0), template.road)
    occupied = ground.span(template.occupied)
    u = -ground.radius
    while u < ground.radius and len(ground.things) < ground.capacity:
        piece = draws.next()
        facing = 0.0 if rng.random() < 0.5 else math.pi
        v = edge + piece.width / 2 + ground.span_px(template.offset_m)
        if rng.random() >= occupied:
            u += piece.length * 0.7
        elif ground.put(piece, u + piece.length / 2, v, facing, on=template.ground):
            u += piece.length * (1 + ground.span(template.gap))
        else:
            u += max(piece.length * 0.15, 2.0)
    for _ in range(int(rng.integers(template.free[0], template.free[1] + 1))):
        _drop(ground, draws.next(), 0.0, "lane", template.ground)


def _grid(template: GridTemplate, ground: Ground, draws: Draws) -> None:
    ground.flood(template.ground)
    first = draws.next()
    pitch = max(first.length, first.width) * (1 + ground.span(template.gap))
    block = max(pitch * ground.span(template.block), 0.35 * ground.half)
    road = ground.span_px(template.road_width_m)
    step = block + road
    phase = ground.rng.uniform(0, step, size=2)
    reach = math.ceil(ground.radius / step) + 1
    cells = [
        (float(phase[0]) + i * step, float(phase[1]) + j * step)
        for i in range(-reach, reach + 1)
        for j in range(-reach, reach + 1)
    ]
    cells = [c for c in cells if math.hypot(*c) < ground.radius + block * 0.71]
    for x, y in cells:
        floor = template.grounds[int(ground.rng.integers(len(template.grounds)))]
        h = block / 2
        ground.rectangle(x - h, y - h, x + h, y + h, floor)
    if template.road is not None:
        for k in range(-reach, reach + 1):
            at = float(phase[0]) + (k + 0.5) * step
            ground.column(at - road / 2, at + road / 2, template.road)
            at = float(phase[1]) + (k + 0.5) * step
            ground.band(at - road / 2, at + road / 2, template.road)
    for x, y in sorted(cells, key=lambda c: math.hypot(*c)):
        _block(template, ground, draws, x, y, block)


def _block(
    template: GridTemplate, ground: Ground, draws: Draws, x: float, y: float, side: float
) -> None:
    """A grid of objects of one size in a block."""
    piece = draws.next()
    extent = max(piece.length, piece.width)
    pitch = extent * (1 + ground.span(template.gap))
    number = max(1, int((side - 2) / pitch))
    if number * extent > side:
        return
    occupied = ground.span(template.occupied)
    offsets = (np.arange(number) - (number - 1) / 2) * (side / number)
    for dx in offsets:
        for dy in offsets:
            if ground.rng.random() < occupied:
                facing = float(ground.rng.uniform(-math.pi, math.pi)) if piece.symmetric else 0.0
                ground.put(piece, x + float(dx), y + float(dy), facing)


def _free(template: FreeTemplate, ground: Ground, draws: Draws) -> None:
    ground.flood(template.ground)
    if template.shore is not None and ground.rng.random() < template.shore.chance:
        ground.beyond(_wavy(ground), template.shore.stuff)
    lane = float(ground.rng.uniform(-math.pi, math.pi))
    while len(ground.things) < ground.capacity:
        on = template.within or (template.ground if template.shore is not None else None)
        if not _drop(ground, draws.next(), lane, template.facing, on):
            break


def _wavy(ground: Ground) -> Field:
    """An uneven line along the frame's x: its v for every pixel."""
    edge: Field = np.full_like(ground.u, ground.span((0.25, 0.6)) * ground.radius)
    for k in (1.0, 2.0, 4.0, 7.0):
        size = 0.06 * ground.radius / k
        phase = float(ground.rng.uniform(0, 2 * math.pi))
        edge += np.float32(size) * np.sin(ground.u * np.float32(k * 2 / ground.radius) + phase)
    return edge


def _drop(ground: Ground, piece: Piece, lane: float, facing: str, on: str | None) -> bool:
    """Put a piece somewhere free; up to 12 places are tried."""
    rng = ground.rng
    for _ in range(12):
        turn = float(rng.uniform(-math.pi, math.pi))
        if facing == "lane":
            turn = lane + (math.pi if rng.random() < 0.4 else 0.0) + float(rng.normal(0, 0.3))
        u, v = _somewhere(ground)
        if ground.put(piece, u, v, turn, on=on):
            return True
    return False


def _somewhere(ground: Ground) -> tuple[float, float]:
    """An even draw from the canvas, in the frame."""
    x = float(ground.rng.uniform(-0.5, 0.5)) * ground.width
    y = float(ground.rng.uniform(-0.5, 0.5)) * ground.height
    c, s = math.cos(ground.turn_rad), math.sin(ground.turn_rad)
    return c * x + s * y, c * y - s * x


def _street(template: StreetTemplate, ground: Ground, draws: Draws) -> None:
    ground.flood(template.ground)
    half = ground.span_px(template.road_width_m) / 2
    depth = ground.span_px(template.depth_m)
    block = 2 * depth + 2 * half
    middle = ground.span((-0.9, 0.9)) * min(ground.radius * 0.8, block / 2)
    reach = math.ceil((ground.radius + block) / block)
    yards = draws.matching(template.yard_labels)
    for k in sorted(range(-reach, reach + 1), key=abs):
        v = middle + k * block
        if abs(v) > ground.radius + depth:
            continue
        walk = ground.px(2.5)
        ground.band(v - half - walk, v - half - walk * 0.4, template.walk)
        ground.band(v + half + walk * 0.4, v + half + walk, template.walk)
        ground.band(v - half, v + half, template.road)
        for side in (1.0, -1.0):
            _lots(template, ground, draws, v, side, half, depth, yards)
            _kerb(template, ground, draws, v, side, half, yards)


def _road_piece(draws: Draws, yards: list[str]) -> Piece | None:
    """A piece for the road: what belongs into yards is left out."""
    if draws.main not in yards:
        return draws.next()
    return draws.piece(draws.others[0]) if draws.others else None


def _kerb(
    template: StreetTemplate,
    ground: Ground,
    draws: Draws,
    v: float,
    side: float,
    half: float,
    yards: list[str],
) -> None:
    rng = ground.rng
    u = -ground.radius + float(rng.uniform(0, 0.2)) * ground.radius
    while u < ground.radius:
        piece = _road_piece(draws, yards)
        if piece is None or piece.width > 1.6 * half:
            return
        if rng.random() < template.kerb:
            facing = (0.0 if side > 0 else math.pi) + float(rng.normal(0, 0.03))
            ground.put(piece, u, v + side * (half - piece.width * 0.62), facing)
        u += piece.length * float(rng.uniform(1.3, 3.0))


def _lots(
    template: StreetTemplate,
    ground: Ground,
    draws: Draws,
    street: float,
    side: float,
    half: float,
    depth: float,
    yards: list[str],
) -> None:
    """Lots on one side: a house (no stuff), a drive, a yard."""
    rng, px = ground.rng, ground.px
    kerb = street + side * (half + px(2.5))
    u = -ground.radius - ground.span_px((0.0, 15.0))
    while u < ground.radius:
        width = ground.span_px(template.lot_m)
        setback, house = ground.span_px((5.0, 8.0)), ground.span_px((8.0, 10.5))
        front, back = kerb + side * setback, kerb + side * (setback + house)
        length = ground.span_px((11.0, 15.0)) / 2
        middle = u + width * 0.45
        low, high = sorted((front, back))
        ground.rectangle(middle - length, low, middle + length, high, None)
        drive = u + width - px(2.4)
        low, high = sorted((street + side * half, kerb + side * px(12.0)))
        ground.rectangle(drive - px(1.6), low, drive + px(1.6), high, template.walk)
        if rng.random() < template.drive:
            piece = _road_piece(draws, yards)
            if piece is not None and piece.width < px(4.0):
                facing = side * QUARTER * (1 if rng.random() < 0.7 else -1)
                place = kerb + side * (piece.length / 2 + ground.span_px((0.5, 4.0)))
                ground.put(piece, drive, place, facing)
        wanted = 0.8 if draws.main in yards else template.yard
        if yards and rng.random() < wanted:
            label = draws.main if draws.main in yards else yards[int(rng.integers(len(yards)))]
            piece = draws.piece(label)
            room = depth - setback - house
            for _ in range(3):
                turn = float(rng.choice((0.0, QUARTER))) + float(rng.normal(0, 0.04))
                place = back + side * room * ground.span((0.35, 0.65))
                shift = width * ground.span((-0.2, 0.2))
                if ground.put(piece, middle + shift, place, turn, on=template.ground):
                    break
        u += width


def _extra(extra: Extra, ground: Ground, draws: Draws) -> None:
    rng = ground.rng
    labels = draws.matching(extra.labels)
    number = int(rng.integers(extra.count[0], extra.count[1] + 1))
    if not labels or number == 0:
        return
    spots = (
        np.argwhere(ground.stuff == ground.code(extra.within))
        if (extra.within is not None and ground.has_stuff)
        else None
    )
    if spots is not None and len(spots) == 0:
        return
    for _ in range(number):
        piece = draws.piece(labels[int(rng.integers(len(labels)))])
        for _ in range(8):
            if spots is None:
                u, v = _somewhere(ground)
            else:
                row, column = spots[int(rng.integers(len(spots)))]
                u, v = float(ground.u[row, column]), float(ground.v[row, column])
            turns = (0.0, math.pi, QUARTER, -QUARTER)
            turn = turns[int(rng.integers(4))]
            if extra.facing == "any":
                turn = float(rng.uniform(-math.pi, math.pi))
            if ground.put(piece, u, v, turn, on=extra.within):
                break


def _trees(template: LayoutTemplate, ground: Ground) -> None:
    """Round gaps in the grass, as crowns leave them."""
    if not ground.has_stuff or template.trees[1] == 0:
        return
    rng = ground.rng
    spots = np.argwhere(ground.stuff == ground.code("grass"))
    share = ground.width * ground.height / 128**2
    number = round(int(rng.integers(template.trees[0], template.trees[1] + 1)) * share)
    if len(spots) == 0:
        return
    for _ in range(number):
        row, column = spots[int(rng.integers(len(spots)))].tolist()
        ground.disc(column + 0.5, row + 0.5, ground.span_px((1.3, 3.4)), None)
