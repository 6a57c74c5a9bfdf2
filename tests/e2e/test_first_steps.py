"""As a new user goes: init, run, status while it runs, why, and an exported set."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rsgen.images import write_png
from tests.conftest import CommandLine

QUICK = (
    *("-s", "execution.workers=1", "-s", "train.max_steps=2", "-s", "train.size=64"),
    *("-s", "train.validation_samples=1", "-s", "train.views=1", "-s", "generate.count=4"),
    *("-s", "generate.steps=2", "-s", "filter.rules=[{scorer: contrast, min: 30}]"),
    *("-s", "export.include_unknown=true"),
)


def boats(folder: Path) -> Path:
    """Bright boats on dark water, with YOLO boxes."""
    rng = np.random.default_rng(3)
    for k in range(12):
        pixels = rng.integers(30, 60, (96, 96, 3), dtype=np.uint8)
        x, y = (int(v) for v in rng.integers(8, 50, 2))
        pixels[y : y + 14, x : x + 32] = 200
        write_png(folder / "images" / f"{k}.png", pixels)
        label = folder / "labels" / f"{k}.txt"
        label.parent.mkdir(exist_ok=True)
        label.write_text(f"0 {(x + 16) / 96} {(y + 7) / 96} {32 / 96} {14 / 96}\n")
    (folder / "classes.txt").write_text("boat\n")
    return folder


@pytest.mark.slow
def test_from_a_folder_to_a_set_in_four_commands(tmp_path: Path, cli: CommandLine) -> None:
    """Catches a generated file that a stage refuses, paths that only work elsewhere, and a
    status or a why that needs the names of hashed folders."""
    boats(tmp_path / "boats")
    first = cli("init", "boats", cwd=tmp_path)
    assert first.code == 0, first
    (tmp_path / "factory.yaml").write_text(first.out)
    run = cli("run", "factory.yaml", "--work", "work", *QUICK, "--json", cwd=tmp_path)
    assert run.code == 0, run
    status = cli("status", "work", "--json", cwd=tmp_path).json
    assert [r["name"] for r in status["runs"]] == [
        "masks", "pool", "model", "images", "kept", "set"
    ]  # fmt: skip
    assert {r["state"] for r in status["runs"]} == {"committed"} and not status["older_folders"]
    why = cli("why", "work", "000002", "--out", "why.png", "--json", cwd=tmp_path)
    assert why.code == 0 and why.json["command"] == "filter", why
    assert {row["rule"] for row in why.json["judged"]} == {"contrast"}
    assert why.json["objects"][0]["sources"], "the real image that a shape was cut from"
    assert "extract-masks" in " ".join(why.json["chain"]) and (tmp_path / "why.png").is_file()
    (exported,) = (tmp_path / "work").glob("set-*/dataset")
    assert json.loads(next(exported.rglob("instances_train.json")).read_text())["categories"]
    assert (exported / "yolo").is_dir()
