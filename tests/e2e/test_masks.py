"""Semantic masks from a LoveDA-like folder through the command line, and out again."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rsgen.store import open_samples
from tests.conftest import CommandLine

COLORS = np.array([[0, 0, 0], [120, 120, 110], [190, 90, 80], [90, 90, 95], [40, 70, 120]])


def put_loveda(folder: Path) -> Path:
    """Two regions with two images each: water, a road, three buildings and no data; no masks
    for the test split."""
    rng = np.random.default_rng(0)
    for place in ("Train/Urban", "Val/Rural"):
        for k in range(2):
            values = np.ones((96, 96), np.uint8)
            values[:4] = 0
            values[60:] = 4
            values[40:48] = 3
            for x in (8, 40, 70):
                values[10 + k : 30, x : x + 14] = 2
            noise = rng.integers(-15, 15, (96, 96, 3))
            pixels = np.clip(COLORS[values] + noise, 0, 255).astype(np.uint8)
            for name, array in (("images_png", pixels), ("masks_png", values)):
                path = folder / place / name / f"{k}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
    spare = folder / "Test/Urban/images_png"
    spare.mkdir(parents=True)
    shutil.copy(folder / "Train/Urban/images_png/0.png", spare / "9.png")
    return folder


@pytest.fixture
def loveda(tmp_path: Path) -> Path:
    return put_loveda(tmp_path / "loveda")


def test_the_table_of_loveda(cli: CommandLine, tmp_path: Path, loveda: Path) -> None:
    result = cli("extract-masks", loveda, "--classes", "loveda", "--out", tmp_path / "o", "--json")
    assert result.code == 0, result
    assert result.json["counts"]["images_kept"] == 4
    assert result.json["counts"]["stuff masks"] == 16
    samples = list(open_samples(tmp_path / "o"))
    assert {s.split for s in samples} == {"train", "val"}
    for sample in samples:
        labels = [i.label for i in sample.layout.instances]
        assert labels == ["background", "building", "road", "water"]


def test_without_a_legend_the_message_is_a_start(
    cli: CommandLine, tmp_path: Path, loveda: Path
) -> None:
    """Catches a guess: value 2 is a building here and something else elsewhere."""
    refused = cli("extract-masks", loveda, "--out", tmp_path / "o")
    assert refused.code == 3, refused
    assert "2 (" in refused.err and "--classes deepglobe, earthsynth-67, loveda" in refused.err
    table = tmp_path / "own.yaml"
    table.write_text(refused.err[refused.err.index("classes:\n") :])
    result = cli("extract-masks", loveda, "--classes", table, "--out", tmp_path / "p", "--json")
    assert result.code == 0, result
    # NAME_2 are the buildings: three things an image
    found = [i.label for s in open_samples(tmp_path / "p") for i in s.layout.instances]
    assert found.count("NAME_2") == 12


def test_masks_out_and_in_again(cli: CommandLine, tmp_path: Path, loveda: Path) -> None:
    table = tmp_path / "own.yaml"
    table.write_text(
        "classes:\n- {name: background, value: 1, kind: stuff}\n- {name: house, value: 2}\n"
        "- {name: road, value: 3, kind: stuff}\n- {name: water, value: 4, kind: stuff}\n"
    )
    run, again = tmp_path / "run", tmp_path / "again"
    assert cli("extract-masks", loveda, "--classes", table, "--out", run).code == 0
    names = "masks,earthsynth-180k,webdataset,imagefolder,coco"
    done = cli("export", run, "--format", names, "--out", tmp_path / "set", "--json")
    assert done.code == 0, done
    notes = " ".join(done.json["notes"])
    assert "of background (no class of EarthSynth-67)" in notes
    back = cli("extract-masks", tmp_path / "set/dataset/masks", "--out", again, "--json")
    assert back.code == 0, back
    one, other = (
        [s.layout for s in sorted(open_samples(p), key=lambda s: s.id)] for p in (run, again)
    )
    assert [[(i.label, i.mask) for i in a.instances] for a in one] == [
        [(i.label, i.mask) for i in a.instances] for a in other
    ]


def test_small_parts(cli: CommandLine, tmp_path: Path, loveda: Path) -> None:
    """Catches a key that never reaches the reader: of 12 houses 6 have 280 pixels, 6 have 266."""
    table = tmp_path / "own.yaml"
    table.write_text("classes: [{name: house, value: 2}]\nunlabelled: [1, 3, 4]\n")
    key = "extract_masks.min_area_px=275"
    result = cli("extract-masks", loveda, "--classes", table, "--out", "o", "-s", key, "--json")
    assert result.code == 0, result
    assert result.json["counts"]["instances"] == 6
