"""`extract-masks --backend sam` from the command line, where torchvision cannot be imported."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rsgen.geometry import RotatedBox, rotated_box_to_quad
from rsgen.images import write_png
from rsgen.mask import Mask
from rsgen.store import open_samples
from tests import build_sam
from tests.conftest import CommandLine, Result

Here = Callable[..., Result]

SIZE = (120, 90)
SHIPS = [(30, 30, 16, 7, 0.4), (80, 60, 10, 6, 2.0), (95, 20, 6, 4, 1.2)]


def truth() -> list[Mask]:
    masks = [Mask.from_array(build_sam.ellipse(SIZE, *ship) >= 1) for ship in SHIPS]
    return [mask for mask in masks if mask is not None]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three DOTA images with the same three ships and other noise."""
    root = tmp_path_factory.mktemp("dataset")
    (root / "images").mkdir()
    (root / "labelTxt").mkdir()
    rows = []
    for cx, cy, a, b, angle in SHIPS:
        quad = rotated_box_to_quad(RotatedBox(cx, cy, 2 * a, 2 * b, angle))
        rows.append(" ".join(f"{v:.3f}" for point in quad for v in point) + " ship 0")
    for k in range(3):
        pixels = np.random.default_rng(k).normal(build_sam.DARK, 5, (SIZE[1], SIZE[0], 3))
        for mask in truth():
            mask.paint(pixels, build_sam.BRIGHT)
        write_png(root / "images" / f"{k}.png", pixels.clip(0, 255).astype(np.uint8))
        (root / "labelTxt" / f"{k}.txt").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_sam.save_sam(tmp_path_factory.mktemp("model"), "sam", build_sam.seeing_sam())


@pytest.fixture(scope="module")
def blocked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which importing torchvision fails, installed or not."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "sitecustomize.py").write_text("import sys\nsys.modules['torchvision'] = None\n")
    return {"PYTHONPATH": str(folder)}


def test_a_dataset_gets_its_masks_from_sam(
    cli: CommandLine,
    cli_here: Here,
    tmp_path: Path,
    dataset: Path,
    model: Path,
    blocked: dict[str, str],
) -> None:
    """Two workers or none: the same bytes; the same line again: nothing to do."""
    line = ("extract-masks", dataset, "--backend", "sam", "--model", model, "--device", "cpu")
    small = ("-s", "execution.shard_size=1", "--json")
    first = cli(*line, *small, "--workers", 2, "--out", tmp_path / "one", env=blocked)
    assert first.code == 0, first
    assert first.json["counts"]["masks: sam"] == 9
    assert "Loading weights" not in first.err
    for sample in open_samples(tmp_path / "one"):
        found = [i.mask for i in sample.layout.instances if i.mask is not None]
        assert len(found) == 3
        for mask in truth():
            assert max(mask.iou(other) for other in found) > 0.7
    second = cli_here(*line, *small, "--out", tmp_path / "two")
    assert second.code == 0, second
    parts = [(tmp_path / name / "parts" / "00002.parquet").read_bytes() for name in ("one", "two")]
    assert parts[0] == parts[1]
    again = cli_here(*line, *small, "--out", tmp_path / "one")
    assert again.code == 0 and again.json["status"] == "no-op"
    request = json.loads((tmp_path / "one" / "run.json").read_text())
    assert set(request["model_hashes"]) == {"sam"}
    assert str(model) not in (tmp_path / "one" / "manifest.json").read_text()


def test_sam2_runs_from_a_folder(
    cli_here: Here, tmp_path: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its image processor wants torchvision: ours does not. Random weights: classical helps."""
    monkeypatch.setitem(sys.modules, "torchvision", None)
    folder = build_sam.save_sam(tmp_path / "sam2", "sam2")
    out = tmp_path / "out"
    done = cli_here("extract-masks", dataset, "--backend", "sam", "--model", folder, "--out", out)
    assert done.code == 0, done
    assert "of the masks are not by sam" in (done.out + done.err).replace("\n", " ")
    reasons = [i.reasons for s in open_samples(out) for i in s.layout.instances]
    assert len(reasons) == 9
    assert all(not r or r[0].startswith("sam: ") for r in reasons)


def pickled(folder: Path) -> Path:
    build_sam.save_sam(folder, "sam")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    return folder


def other(folder: Path) -> Path:
    build_sam.save_sam(folder, "sam")
    (folder / "config.json").write_text('{"model_type": "detr"}')
    return folder


@pytest.mark.parametrize(
    ("model_of", "code", "says"),
    [
        (lambda _: "hub:facebook/sam-vit-base", 4, "hf download facebook/sam-vit-base"),
        (lambda _: "hub:sam-vit-base", 2, "hub:ORG/NAME"),
        (lambda _: "no/such-folder", 2, "hub:no/such-folder"),
        (lambda _: "tiny", 2, "facebook/sam-vit-base"),
        (other, 2, "'detr'"),
        (pickled, 4, "only pickle weights"),
        (None, 2, "--model hub:facebook/sam-vit-base"),
    ],
    ids=["hub offline", "no organisation", "no folder", "tiny", "detr", "pickle", "none"],
)
def test_models_that_will_not_do(
    cli_here: Here,
    tmp_path: Path,
    dataset: Path,
    model_of: Callable[[Path], object] | None,
    code: int,
    says: str,
) -> None:
    given = () if model_of is None else ("--model", model_of(tmp_path / "model"))
    line = ("extract-masks", dataset, "--backend", "sam", *given, "--out", tmp_path / "out")
    done = cli_here(*line)
    assert done.code == code, done
    assert says in done.err.replace("\n", " ")
    assert not (tmp_path / "out" / "parts").exists()
