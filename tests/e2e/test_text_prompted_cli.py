"""`extract-masks --backend text-prompted` from the command line, without torchvision."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rsgen.images import write_png
from rsgen.store import open_samples
from tests import build_clip, build_detectors, build_sam
from tests.conftest import Result
from tests.unit.test_segmenters import larger, oriented, picture, truth, upright

Here = Callable[..., Result]


@pytest.fixture(autouse=True)
def _no_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)


def data_set(root: Path, loose: bool) -> Path:
    """Two DOTA images with the same three ships, by tight quads or by loose boxes."""
    (root / "images").mkdir(parents=True)
    (root / "labelTxt").mkdir()
    rows = []
    for instance in upright(0.5) if loose else oriented():
        box, quad = instance.box, instance.quad
        if box is not None:
            quad = ((box.x0, box.y0), (box.x1, box.y0), (box.x1, box.y1), (box.x0, box.y1))
        assert quad is not None
        rows.append(" ".join(f"{v:.3f}" for point in quad for v in point) + " ship 0")
    for k in range(2):
        write_png(root / "images" / f"{k}.png", picture())
        (root / "labelTxt" / f"{k}.txt").write_text("\n".join(rows) + "\n")
    return root


def test_masks_by_clipseg(cli_here: Here, tmp_path: Path) -> None:
    """The masks are the ships'; shards of any size give the same; other weights are another run."""
    model = build_clip.clipseg(tmp_path / "model", build_clip.seeing_clipseg(), build_sam.SIDE)
    line = ("extract-masks", data_set(tmp_path / "set", loose=False), "--backend", "text-prompted")
    given = (*line, "--model", model, "--device", "cpu", "--json")
    done = cli_here(*given, "--out", tmp_path / "out")
    assert done.code == 0, done
    assert done.json["counts"]["masks: text-prompted"] == 6
    for sample in open_samples(tmp_path / "out"):
        for instance, mask in zip(sample.layout.instances, truth(), strict=True):
            assert instance.mask is not None and instance.mask.iou(mask) > 0.6
    assert cli_here(*given, "-s", "execution.shard_size=1", "--out", tmp_path / "two").code == 0
    pairs = zip(open_samples(tmp_path / "out"), open_samples(tmp_path / "two"), strict=True)
    assert all(a.layout == b.layout for a, b in pairs)
    assert cli_here(*given, "--out", tmp_path / "out").json["status"] == "no-op"
    build_clip.clipseg(model, side=build_sam.SIDE)
    changed = cli_here(*given, "--out", tmp_path / "out")
    assert changed.code == 2 and "model segmenter" in changed.err
    assert set(json.loads((tmp_path / "out" / "run.json").read_text())["model_hashes"]) == {
        "segmenter"
    }


def test_masks_by_sam_and_a_detector(cli_here: Here, tmp_path: Path) -> None:
    sam = build_sam.save_sam(tmp_path / "sam", "sam", build_sam.seeing_sam())
    dino = larger(build_detectors.grounding_dino(tmp_path / "dino"))
    line = ("extract-masks", data_set(tmp_path / "set", loose=True), "--backend", "text-prompted")
    given = (*line, "--model", sam, "--detector", dino, "--device", "cpu", "--json")
    done = cli_here(*given, "--out", tmp_path / "out")
    assert done.code == 0, done
    instances = [i for s in open_samples(tmp_path / "out") for i in s.layout.instances]
    assert len(instances) == 6 and all(i.mask is not None for i in instances)
    assert cli_here(*given, "--out", tmp_path / "out").json["status"] == "no-op"
    row = json.loads((tmp_path / "out" / "run.json").read_text())
    assert set(row["model_hashes"]) == {"segmenter", "detector"}
    other = ("--model", sam, "--out", tmp_path / "three")
    refused = cli_here(*line, *other)
    assert refused.code == 2 and "--detector hub:" in refused.err.replace("\n", " ")
    refused = cli_here(*line[:2], "--detector", dino, *other[2:])
    assert refused.code == 2 and "asks no detector" in refused.err.replace("\n", " ")
