"""pycocotools as the judge of what we write and read."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rsgen.formats import read_dataset
from rsgen.formats.coco_write import CocoWriter
from rsgen.mask import Mask
from rsgen.records import Instance
from tests.formats_build import CLASSES, HEIGHT, WIDTH, disk_mask, plane, sample_of, tank, write


def _load(path: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def _samples() -> list:
    rng = np.random.default_rng(3)
    noise = Mask.from_array(rng.random((12, 14)) < 0.5, 3, 30)
    both = Mask.from_array(
        disk_mask(12, 12, 6).to_array(WIDTH, HEIGHT) | disk_mask(50, 30, 7).to_array(WIDTH, HEIGHT)
    )
    assert noise is not None and both is not None
    return [
        sample_of(
            "a",
            Instance("ship", noise.box, mask=noise),
            tank(20, 16, 8, hole=4),
            tank(44, 30, 9),
            Instance("ship", both.box, mask=both),
            Instance("ship", disk_mask(30, 20, 9).box, mask=disk_mask(30, 20, 9), iscrowd=True),
            split="train",
        ),
        sample_of("b", plane(30, 24, 20, 8, 0.6), split="train"),
        sample_of("c", split="train"),
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(CocoWriter(), _samples(), tmp_path)
    return tmp_path


def test_pycocotools_decodes_the_very_masks_that_were_written(folder: Path) -> None:
    coco = _load(folder / "annotations/instances_train.json")
    found = [coco.annToMask(a).astype(bool) for a in coco.loadAnns(coco.getAnnIds(imgIds=1))]
    written = [i.mask.to_array(WIDTH, HEIGHT) for i in _samples()[0].layout.instances]
    assert len(found) == len(written)
    for ours, theirs in zip(written, found, strict=True):
        assert np.array_equal(ours, theirs)


def test_area_and_bbox_agree_with_the_mask(folder: Path) -> None:
    coco = _load(folder / "annotations/instances_train.json")
    for annotation in coco.loadAnns(coco.getAnnIds(imgIds=1, iscrowd=None)):
        pixels = coco.annToMask(annotation)
        assert annotation["area"] == pixels.sum()
        rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
        x, y, w, h = annotation["bbox"]
        assert (x, y) == (columns[0], rows[0])
        assert (x + w, y + h) == (columns[-1] + 1, rows[-1] + 1)


def test_images_without_labels_are_listed(folder: Path) -> None:
    coco = _load(folder / "annotations/instances_train.json")
    assert len(coco.getImgIds()) == 3
    assert min(coco.getImgIds()) == min(coco.getAnnIds()) == min(coco.getCatIds()) == 1


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_our_own_labels_as_detections_score_one(folder: Path, kind: str) -> None:
    """An off-by-one in boxes, or a half-pixel in masks, costs AP at the 0.95 threshold."""
    coco = _load(folder / "annotations/instances_train.json")
    back = read_dataset(folder, classes=CLASSES)
    names = {c["name"]: c["id"] for c in coco.loadCats(coco.getCatIds())}
    detections = []
    for number, sample in enumerate(back.records, start=1):
        for instance in sample.layout.instances:
            if instance.iscrowd or (kind == "segm" and instance.mask is None):
                continue
            box = instance.box
            record = {"image_id": number, "category_id": names[instance.label], "score": 0.9}
            if kind == "bbox":
                assert box is not None
                record["bbox"] = [box.x0, box.y0, box.width, box.height]
            else:
                record["segmentation"] = instance.mask.to_coco(WIDTH, HEIGHT)  # type: ignore[union-attr]
            detections.append(record)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(coco, coco.loadRes(detections), kind)
        evaluation.params.imgIds = [1] if kind == "segm" else coco.getImgIds()
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)
