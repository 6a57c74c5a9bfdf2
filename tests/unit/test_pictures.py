"""Pictures for people: the right frame, nothing lost, pages that open anywhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rsgen.geometry import Box, box_quad
from rsgen.images import read_image
from rsgen.pictures import (
    PageRow,
    _text_width,
    _title_lines,
    contact_sheet,
    draw_layout,
    label_color,
    palette,
    write_page,
)
from rsgen.records import Instance, Layout
from tests.build import layout, picture, water

BLACK = np.zeros((40, 40, 3), np.uint8)


def test_colours_are_distinct_and_stable() -> None:
    colours = [palette(k) for k in range(20)]
    assert colours[0] == (0, 0, 0)
    assert len(set(colours)) == 20
    assert label_color("plane") == label_color("plane") != label_color("ship")


def test_outlines_lie_on_the_boxs_border_pixels() -> None:
    """Catches the half-pixel shift between edge coordinates and OpenCV's pixel centres."""
    box = Box(10, 12, 30, 25)
    drawn = draw_layout(BLACK, Layout(40, 40, (Instance("ship", box=box),)), labels=False)
    rows, columns = np.nonzero(drawn.sum(axis=2) > 200)
    assert rows.min() in (11, 12) and rows.max() in (24, 25)
    assert columns.min() in (9, 10) and columns.max() in (29, 30)
    assert BLACK.sum() == 0, "the input is not drawn on"


def test_the_front_edge_is_white() -> None:
    quad = box_quad(Box(10.5, 10.5, 30.5, 20.5))
    facing_up = Instance("ship", quad=quad, heading_rad=-np.pi / 2)
    drawn = draw_layout(BLACK, Layout(40, 40, (facing_up,)), labels=False)
    assert (drawn[10, 15:25] > 225).all(), "an edge at y = 10.5 runs through row 10's centres"
    assert not (drawn[20, 15:25] > 225).all(axis=1).any()


def test_stuff_is_left_undrawn_and_scale_enlarges() -> None:
    drawn = draw_layout(BLACK, Layout(40, 40, (water((40, 40)),)), scale=3)
    assert drawn.shape == (120, 120, 3) and drawn.sum() == 0


def test_drawing_a_full_layout_changes_pixels_near_objects_only() -> None:
    of = layout()
    image = picture(of)
    drawn = draw_layout(image, of)
    changed = (drawn != image).any(axis=2)
    assert changed.any() and not changed[:, :2].all()


@pytest.mark.parametrize(
    ("count", "columns", "shape"),
    [(0, 8, (40, 40)), (1, 8, (28, 38)), (5, 3, (52, 106))],
    ids=["none", "one", "last row short"],
)
def test_contact_sheet_size(
    count: int, columns: int, shape: tuple[int, int], tmp_path: Path
) -> None:
    tiles = [np.full((20, 30, 3), 200, np.uint8)] * count
    sheet = read_image(contact_sheet(tiles, tmp_path / "deep" / "s.png", columns=columns))
    assert sheet.shape[:2] == shape
    assert (sheet == 200).all(axis=2).sum() == count * 600


def test_contact_sheet_shrinks_large_tiles_and_names_them(tmp_path: Path) -> None:
    tiles = [np.full((400, 800, 3), 90, np.uint8), np.full((8, 8, 3), 90, np.uint8)]
    path = contact_sheet(tiles, tmp_path / "s.png", titles=["a long name of a tile"], max_side=100)
    assert read_image(path).shape[:2] == (50 + 14 + 8, 2 * 104 + 4)
    assert (
        path.read_bytes()
        == contact_sheet(
            tiles, tmp_path / "t.png", titles=["a long name of a tile"], max_side=100
        ).read_bytes()
    )


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("ship 25x7", ["ship 25x7"]),
        ("storage-tank 22x22", ["storage-tank", "22x22"]),
        ("baseball-diamond 61x60", ["baseball-", "diamond 61x60"]),
        ("supercalifragilistic", 2),
        ("ground-track-field with-stands-and-floodlights 999x999", 3),
        ("", []),
    ],
)
def test_titles_are_broken_not_cut(text: str, lines: list[str] | int) -> None:
    """Catches captions that end where the tile does: which class, which size?"""
    found = _title_lines(text, 64)
    assert all(_text_width(line) <= 64 for line in found)
    if isinstance(lines, int):
        assert len(found) == lines
        whole = "".join(found).replace(" ", "")
        assert whole == text.replace(" ", "") or found[-1].endswith("..")
    else:
        assert found == lines


def test_page_escapes_text_and_needs_no_other_file(tmp_path: Path) -> None:
    """Catches a file name that becomes markup, and links to pictures that move away."""
    row = PageRow(BLACK, "<b>a & b</b>", ("score 0.5", "<script>"))
    html = write_page(tmp_path / "p.html", "Über", [row, row], ["an intro"]).read_text("utf-8")
    assert "<script>" not in html and "&lt;script&gt;" in html
    assert html.count("data:image/png;base64,") == 2
    assert "Über" in html and "an intro" in html and "http" not in html
