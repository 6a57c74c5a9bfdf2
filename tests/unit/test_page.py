"""The page of an evaluation: names are escaped, charts are drawn from tables, bars are shares."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from rsgen.evaluation.charts import chart_of
from rsgen.evaluation.page import Other, write_report
from rsgen.images import write_png
from tests.build import layout, picture


def report(value: float, rows: dict[str, Any] | None = None) -> dict[str, Any]:
    cell = {
        "figures": {"AP50": value, "FD-judge": 0.4, "heading": None},
        "tables": {"by class": rows or {"<plane>": {"AP50": value, "objects": 3}}},
        "counts": {"generated images": 5},
        "notes": ["a < b & c"],
        "pictures": {"worst": "worst.png", "lost": "lost.png"},
    }
    return {
        "schema": 1, "counts": {"images": 5}, "cells": {"layout": cell},
        "titles": {"layout": "layout: there?"},
    }  # fmt: skip


class Tags(HTMLParser):
    """Catches tags that are not closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in {"meta", "img", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        pass


def test_a_page_with_another_beside(tmp_path: Path) -> None:
    for name, seed in (("ours", 1), ("theirs", 2)):
        write_png(tmp_path / name / "layout" / "worst.png", picture(layout(), seed))
    other = Other(report(0.125), tmp_path / "theirs")
    page = write_report(tmp_path / "p.html", report(0.75), tmp_path / "ours", other).read_text()
    tags = Tags()
    tags.feed(page)
    assert not tags.open
    assert "&lt;plane&gt;" in page and "<plane>" not in page and "a &lt; b &amp; c" in page
    assert "0.75" in page and "0.125" in page and "+0.625" in page
    assert len(set(re.findall(r'base64,([^"]+)"', page))) == 2  # a lost picture is left out
    # 0.4 of FD-judge is no share; 0.75 and 0.125 are, as figure and in the table
    assert sorted(re.findall(r"width:([\d.]+)%", page)) == ["12.5", "12.5", "75.0", "75.0"]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ({"real": {"AP": 0.4, "AP +-": 0.1}, "a<b": {"AP": 0.5, "AP +-": None}}, ["a&lt;b", "0.3"]),
        ({"about 0.5": {"score": 0.5, "right": 0.4, "count": 9}}, ["reliability"]),
        ({"plane": {"AP": 0.5}}, []),
        ({"real": {"AP": 0.4, "AP +-": 0.1}}, []),
        ({"real": {"AP": None, "AP +-": None}, "more": {"AP": None, "AP +-": None}}, []),
    ],
    ids=["intervals", "reliability", "nothing to draw", "one row", "nothing known"],
)
def test_charts(rows: dict[str, Any], words: list[str]) -> None:
    drawn = chart_of(rows)
    assert all(word in drawn for word in words)
    assert bool(drawn) is bool(words) and "nan" not in drawn
