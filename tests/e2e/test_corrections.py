"""Extract, look, fix in labelme or CVAT, extract again, build the pool: by the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from rsgen.mask import Mask
from rsgen.records import Instance, Sample
from rsgen.store import open_samples
from tests import build
from tests.conftest import Result

Cli = Callable[..., Result]
# Seven corners that no extraction would find, on the grid of pixels.
BOAT = [[20, 20], [44, 20], [50, 26], [44, 32], [30, 32], [30, 29], [20, 29]]


def shape_of(points: list[list[int]]) -> Mask:
    import numpy as np

    mask = Mask.from_polygons([np.array(points, float)], 96, 96)
    assert mask is not None
    return mask


@pytest.fixture
def masks(tmp_path: Path, cli_here: Cli) -> Path:
    """A run of tiles with masks from boxes, as after a first extraction."""
    made = cli_here("scenes", "--count", 6, "--size", 160, "--seed", 5, "--out", "scenes", "-q")
    assert made.code == 0, made
    options = ("--backend", "classical", "--tile", 96)
    done = cli_here("extract-masks", "scenes", *options, "--out", "masks", "-q")
    assert done.code == 0, done
    return tmp_path / "masks"


def by_id(run: Path) -> dict[str, Sample]:
    return {sample.id: sample for sample in open_samples(run)}


def busiest(run: Path) -> Sample:
    """A tile of the train split with enough objects to fix, delete and relabel."""
    train = [s for s in open_samples(run) if s.split == "train"]
    return max(train, key=lambda s: sum(i.box is not None for i in s.layout.instances))


def kinds(sample: Sample) -> dict[Mask | None, Instance]:
    return {i.mask: i for i in sample.layout.instances if i.box is not None}


def test_fixed_in_labelme(tmp_path: Path, cli_here: Cli, masks: Path) -> None:
    """One mask is redrawn, one object deleted, one added, one relabelled; the rest stays."""
    exported = cli_here("export", masks, "--format", "labelme", "--out", "fix", "-q")
    assert exported.code == 0, exported
    tile = busiest(masks)
    files = {
        json.loads(path.read_text())["sampleId"]: path
        for path in (tmp_path / "fix" / "dataset" / "labelme").rglob("*.json")
    }
    assert set(files) == set(by_id(masks)), "every tile can be opened"
    assert files[tile.id].with_suffix(".png").is_file(), "labelme finds the image beside the file"
    document = json.loads(files[tile.id].read_text())
    shapes: list[dict[str, Any]] = document["shapes"]
    assert len(shapes) >= 4
    del shapes[1]
    redrawn, renamed = shapes[:2]
    redrawn["points"] = [[x + 1, y + 1] for x, y in redrawn["points"]]
    renamed["label"] = "ship" if renamed["label"] != "ship" else "plane"
    shapes.append({"label": "boat", "points": BOAT, "shape_type": "polygon", "group_id": None})
    files[tile.id].write_text(json.dumps(document))

    fixed = cli_here(
        "extract-masks", masks, "--corrections", "fix/dataset/labelme", "--out", "masks-2", "--json"
    )

    assert fixed.code == 0, fixed
    counts = fixed.json["counts"]
    told = {k: v for k, v in counts.items() if k.startswith("corrections: objects")}
    assert told.pop("corrections: objects untouched") > 10
    assert told == {
        f"corrections: objects {what}": 1 for what in ("redrawn", "deleted", "added", "relabelled")
    }
    before, after = by_id(masks), by_id(tmp_path / "masks-2")
    assert {k for k in before if before[k] != after[k]} == {tile.id}
    old, new = kinds(before[tile.id]), kinds(after[tile.id])
    assert len(new) == len(old)
    drawn = [i for i in new.values() if i.origin == "correction"]
    assert {i.mask for i in drawn} >= {shape_of(BOAT)}
    assert len(drawn) == 2
    kept = [m for m in old if m in new]
    assert len(kept) == len(old) - 2, "one was redrawn, one deleted"
    assert len([m for m in kept if old[m].label != new[m].label]) == 1
    assert build.tree(tmp_path / "masks-2" / "images") == {}, "tiles are not written again"

    pooled = cli_here("build-mask-pool", "masks-2", "--out", "pool", "-q")
    assert pooled.code == 0, pooled
    rows = pq.read_table(tmp_path / "pool" / "pool.parquet").to_pylist()
    ships = [r for r in rows if r["label"] == "ship" and r["origin"] == "correction"]
    assert [r["sources"] for r in ships] == [[tile.parent]]
    assert ships[0]["score"] == 1.0
    assert abs(ships[0]["area"] - shape_of(BOAT).area) < 0.1 * shape_of(BOAT).area


def test_fixed_in_cvat(tmp_path: Path, cli_here: Cli, masks: Path) -> None:
    """A COCO file of one image, named by its file in the run, with a box that has no mask yet."""
    tile = busiest(masks)
    width, height = tile.layout.width, tile.layout.height
    flat = [v for point in BOAT for v in point]
    document = {
        "images": [{"id": 1, "file_name": tile.image, "width": width, "height": height}],
        "categories": [{"id": 7, "name": "boat"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 7, "segmentation": [flat], "iscrowd": 0,
             "bbox": [20, 20, 30, 12], "area": 300},
            {"id": 2, "image_id": 1, "category_id": 7, "segmentation": [], "iscrowd": 0,
             "bbox": [60, 60, 20, 10], "area": 200},
        ],
    }  # fmt: skip
    folder = tmp_path / "cvat" / "annotations"
    folder.mkdir(parents=True)
    (folder / "instances_default.json").write_text(json.dumps(document))
    line = ("extract-masks", masks, "--corrections", "cvat", "--out", "masks-2")
    fixed = cli_here(*line, "-q")
    assert fixed.code == 0, fixed
    before, after = by_id(masks), by_id(tmp_path / "masks-2")
    assert {k for k in before if before[k] != after[k]} == {tile.id}
    things = kinds(after[tile.id])
    assert len(things) == 2
    assert things[shape_of(BOAT)].origin == "correction"
    (other,) = [i for m, i in things.items() if m != shape_of(BOAT)]
    assert (other.label, other.mask is None) == ("ship", False)
    assert other.origin in ("classical", "box"), "the backend gave the box its mask"
    assert cli_here(*line, "--json").json["status"] == "no-op"


def test_what_fits_no_image_is_refused_by_name(tmp_path: Path, cli_here: Cli, masks: Path) -> None:
    folder = tmp_path / "fixed"
    folder.mkdir()
    document = {"shapes": [], "imagePath": "gone.png", "imageHeight": 96, "imageWidth": 96}
    (folder / "gone.json").write_text(json.dumps(document))
    done = cli_here("extract-masks", masks, "--corrections", folder, "--out", "masks-2")
    assert done.code == 3, done
    assert "none of 1 corrected images" in done.err
    assert "gone.png" in done.err
    assert not (tmp_path / "masks-2" / "manifest.json").exists()


def test_a_new_class_is_added_by_the_line_that_the_error_names(
    tmp_path: Path, cli_here: Cli, masks: Path
) -> None:
    """Catches --classes refused beside a sample run, when the error has just asked for it."""
    sample = busiest(masks)
    layout = sample.layout
    old = next(i for i in layout.instances if i.box is not None and i.mask is not None)
    assert old.mask is not None
    folder = tmp_path / "fixed"
    folder.mkdir()
    points = [list(map(float, p)) for p in old.mask.polygons()[0]]
    shape = {"label": "kiosk", "points": points, "shape_type": "polygon", "group_id": None}
    document = {"shapes": [shape], "imagePath": f"{sample.id}.png",
                "imageHeight": layout.height, "imageWidth": layout.width}  # fmt: skip
    (folder / "one.json").write_text(json.dumps(document))
    line = ("extract-masks", masks, "--corrections", folder, "--out", "masks-2")
    refused = cli_here(*line)
    assert refused.code == 3 and "--classes new.txt" in refused.err, refused
    (tmp_path / "new.txt").write_text("kiosk\n")
    done = cli_here(*line, "--classes", tmp_path / "new.txt")
    assert done.code == 0, done
    before, after = open_samples(masks).classes.names, open_samples(tmp_path / "masks-2").classes
    assert after.names == (*before, "kiosk"), "old classes keep their place"
    assert "kiosk" in {i.label for i in by_id(tmp_path / "masks-2")[sample.id].layout.instances}
    alone = cli_here("extract-masks", masks, "--classes", tmp_path / "new.txt", "--out", "other")
    assert alone.code == 2 and "leave --classes out" in alone.err
