"""JSON lines: the whole Sample there and back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rsgen.formats import read_dataset
from rsgen.formats.jsonl import JsonlWriter, to_json
from rsgen.geometry import Box
from rsgen.records import Geo, Instance, Provenance
from tests.formats_build import CLASSES, assert_counts_add_up, disk_mask, plane, sample_of, write


def test_a_sample_comes_back_whole(tmp_path: Path) -> None:
    mask = disk_mask(20, 16, 8, hole=4)
    rich = replace(
        sample_of(
            "9f1c2d3e-000007",
            Instance("water", mask=disk_mask(30, 30, 9)),
            plane(
                30,
                24,
                20,
                8,
                0.6,
                mask=mask,
                caption="a plane\u2028on\x85ice",
                attributes={"colour": "white"},
                scores={"contrast": 0.5},
                reasons=("low",),
                truncated=True,
            ),
            Instance("ship", Box(50, 40, 70.5, 60), origin="pool:17"),
            split="train",
        ),
        prompt="a satellite image of plane",
        attributes={"season": "dry"},
        geo=Geo("EPSG:32617", (0.5, 0, 100, 0, -0.5, 200)),
        provenance=Provenance("synthetic", "9f1c", None, 7, "tiny", sources=("real/1.png",)),
        scores={"integrity": 1.0},
        verdict="keep",
        reasons=("ok",),
    )
    write(JsonlWriter(), [rich], tmp_path)
    back = read_dataset(tmp_path)
    assert back.format == "jsonl"
    assert back.records == [replace(rich, image="images/train/9f1c2d3e-000007.png")]
    assert back.classes == CLASSES
    assert_counts_add_up(back)


def test_layouts_need_no_images(tmp_path: Path) -> None:
    sample = replace(sample_of("a", plane(30, 24, 20, 8, 0.6)), image=None)
    file = tmp_path / "layouts.jsonl"
    file.write_text(to_json(sample) + "\n\n")
    assert read_dataset(file, require_images=False).records == [sample]


def test_numbers_that_are_none_are_refused_on_writing() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        to_json(sample_of("a", Instance("ship", Box(0, 0, float("nan"), 1))))


def test_mask_codes_are_text(tmp_path: Path) -> None:
    line = to_json(sample_of("a", Instance("ship", mask=disk_mask(20, 16, 8))))
    mask = json.loads(line)["instances"][0]["mask"]
    assert set(mask) == {"x0", "y0", "height", "width", "counts"}
    assert isinstance(mask["counts"], str)
