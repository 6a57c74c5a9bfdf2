"""What other people's readers ask of the files that `export` writes, their rules said again.

Sources, by behaviour: mmrotate 0.3 and 1.x (DOTADataset, DIORDataset), DOTA's devkit,
Ultralytics 8 (data.yaml and label check), Detectron2 and mmdetection (VOC). Each rule is a small
reader of its own here, so that a slip shared by our writer and our reader shows.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import yaml
from PIL import Image

from rsgen.export import export
from rsgen.geometry import as_array, box_quad
from rsgen.records import Instance, Sample
from rsgen.runs import Job
from tests.build import CLASSES, config, instance, layout, sample, sample_run, water

Array = npt.NDArray[np.float64]

FORMATS = ["dota", "dota-annfiles", "yolo", "yolo-obb", "yolo-seg", "voc", "dior-r"]
THINGS = [c.name for c in CLASSES.classes if c.kind == "thing"]
SIDE = 64


def _objects() -> list[tuple[Instance, ...]]:
    """Objects that readers have stumbled over: turned, over each border, thin, upright, none."""
    counter = instance("ship", 30, 30, 24, 8, 0.7)
    assert counter.quad is not None
    upright = instance("storage-tank", 20, 44, 12, 12)
    return [
        tuple(instance("plane", 24 + 2 * k, 32, 26, 10, k * math.pi / 4 - 3) for k in range(8)),
        (
            instance("ship", 2, 30, 20, 8, 0.4),
            instance("ship", 62, 30, 20, 8, -0.4),
            instance("plane", 30, 1, 16, 9, 2.0),
            instance("plane", 30, 63, 16, 9, -2.0),
            instance("ship", 1, 1, 30, 6, math.pi / 4),
        ),
        (water(), replace(upright, quad=None, heading_rad=None, mask=None, difficult=True)),
        (instance("ship", 32, 32, 40, 0.6, 0.3), replace(counter, mask=None)),
        (),
    ]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OUT/dataset with every format, three splits."""
    folder = tmp_path_factory.mktemp("exported")
    splits = ["train", "train", "val", "test", "val"]
    samples = [
        sample(f"scene {k}.png", of=layout(found), split=split)
        for k, (found, split) in enumerate(zip(_objects(), splits, strict=True))
    ]
    run = sample_run(folder / "run", samples)
    wanted = {"export.format": FORMATS}
    export(Job("export", config(**wanted), folder / "set", {"run": [run.path]}))
    return folder / "set" / "dataset"


def _written(exported: Path) -> dict[str, Sample]:
    """What was exported, by the stem of its image."""
    stems = sorted({p.stem for p in (exported / "dota").rglob("*.png")})
    return {stem: sample(of=layout(found)) for stem, found in zip(stems, _objects(), strict=True)}


def _things(of: Sample) -> list[Instance]:
    return [i for i in of.layout.instances if not CLASSES.is_stuff(i.label)]


def _turning(corners: Array) -> float:
    """Twice the signed area, positive for clockwise on screen (y down)."""
    following = np.roll(corners, -1, axis=0)
    return float((corners[:, 0] * following[:, 1] - following[:, 0] * corners[:, 1]).sum())


# ---------------------------------------------------------------- DOTA: devkit and mmrotate


def _dota_lines(file: Path) -> Iterator[tuple[Array, str, int]]:
    """mmrotate: every line is eight numbers, a class of the table and a whole number."""
    for line in file.read_text(encoding="utf-8").splitlines():
        fields = line.split()
        assert len(fields) == 10, line
        yield np.array(fields[:8], dtype=np.float32).reshape(4, 2), fields[8], int(fields[9])


def test_mmrotate_reads_annfiles_without_a_converter(exported: Path) -> None:
    """It takes each line for an object: a header line (`gsd:`) stops it with a ValueError."""
    wanted = _written(exported)
    seen = 0
    for split in ("train", "val", "test"):
        folder = exported / "dota-annfiles" / split
        files = sorted((folder / "annfiles").glob("*.txt"))
        assert {f.stem for f in files} == {f.stem for f in (folder / "images").glob("*.png")}
        for file in files:
            found = list(_dota_lines(file))
            assert len(found) == len(_things(wanted[file.stem]))
            for corners, name, difficult in found:
                assert name in THINGS and difficult in (0, 1)
                assert _turning(corners) > 0, "clockwise on screen"
                (_, _), (w, h), _ = cv2.minAreaRect(corners)
                assert min(w, h) > 0
            seen += len(found)
    assert seen == sum(len(_things(s)) for s in wanted.values())


def test_dotas_devkit_reads_labeltxt_with_its_two_headers(exported: Path) -> None:
    for file in (exported / "dota").rglob("labelTxt/*.txt"):
        source, gsd, *objects = file.read_text(encoding="utf-8").splitlines()
        assert source.startswith("imagesource:")
        name, _, value = gsd.partition(":")
        assert name == "gsd" and (value == "null" or float(value) > 0)
        assert all(len(line.split(" ")) == 10 for line in objects)


def test_dota_class_names_have_no_white_space(tmp_path: Path) -> None:
    """A space would shift the fields: `small vehicle 0` has difficulty 'vehicle'."""
    table = replace(CLASSES, classes=(replace(CLASSES.classes[0], name="small vehicle"),))
    things = (replace(instance(), label="small vehicle"),)
    run = sample_run(tmp_path / "run", [sample("a.png", of=layout(things))], classes=table)
    wanted = {"export.format": ["dota-annfiles"]}
    export(Job("export", config(**wanted), tmp_path / "set", {"run": [run.path]}))
    (file,) = (tmp_path / "set/dataset/dota-annfiles").rglob("annfiles/*.txt")
    assert [name for _, name, _ in _dota_lines(file)] == ["small-vehicle"]


# ---------------------------------------------------------------- Ultralytics


def _label_file(image: Path) -> Path:
    """The last `/images/` of the path becomes `/labels/`, the suffix `.txt`."""
    before, _, after = str(image).rpartition("/images/")
    return Path(f"{before}/labels/{after}").with_suffix(".txt")


def _data_yaml(folder: Path) -> tuple[dict[str, list[Path]], dict[int, str]]:
    """Images by split and names by index, as data.yaml leads to them.

    train and val must be there; folders are relative to the file; names count from 0 without
    a gap, and `nc` agrees with them.
    """
    data = yaml.safe_load((folder / "data.yaml").read_text(encoding="utf-8"))
    assert {"train", "val", "names"} <= set(data)
    names = data["names"]
    assert sorted(names) == list(range(len(names)))
    assert data.get("nc", len(names)) == len(names)
    splits = {k: sorted((folder / data[k]).iterdir()) for k in ("train", "val", "test")}
    return splits, names


def _rows(image: Path) -> list[list[float]]:
    file = _label_file(image)
    assert file.is_file(), "an image without a label file counts as missing"
    text = file.read_text(encoding="utf-8").strip()
    return [[float(v) for v in line.split()] for line in text.splitlines() if line]


@pytest.mark.parametrize("kind", ["yolo", "yolo-obb", "yolo-seg"])
def test_ultralytics_finds_every_image_and_label(exported: Path, kind: str) -> None:
    splits, names = _data_yaml(exported / kind)
    wanted = _written(exported)
    assert names == dict(enumerate(THINGS))
    seen = 0
    for image in (image for found in splits.values() for image in found):
        with Image.open(image) as opened:
            assert min(opened.size) > 9, "it refuses images under 10 pixels"
        rows = _rows(image)
        assert len(rows) == len(_things(wanted[image.stem]))
        for row in rows:
            assert row[0] in names
            assert min(row[1:]) >= 0 and max(row[1:]) <= 1
        assert len({tuple(row) for row in rows}) == len(rows), "it removes repeated rows"
        seen += 1
    assert seen == len(wanted)


def test_ultralytics_reads_boxes_of_five_columns(exported: Path) -> None:
    splits, _ = _data_yaml(exported / "yolo")
    wanted = _written(exported)
    for image in (image for found in splits.values() for image in found):
        rows = _rows(image)
        assert all(len(row) == 5 for row in rows)
        edges = sorted(
            [round(v * SIDE, 3) for v in (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)]
            for _, cx, cy, w, h in rows
        )
        boxes = [i.bounds() for i in _things(wanted[image.stem])]
        inside = sorted(
            [round(v, 3) for v in (b.x0, b.y0, b.x1, b.y1)]
            for b in (b.clip(SIDE, SIDE) for b in boxes if b is not None)
        )
        assert np.allclose(edges, inside, atol=2e-3)


def test_ultralytics_reads_oriented_boxes_of_nine_columns(exported: Path) -> None:
    """Four corners, clockwise; it fits a rectangle to them, so they must span one."""
    splits, _ = _data_yaml(exported / "yolo-obb")
    wanted = _written(exported)
    compared = 0
    for image in (image for found in splits.values() for image in found):
        quads = []
        for row in _rows(image):
            assert len(row) == 9
            corners = np.array(row[1:]).reshape(4, 2) * SIDE
            assert _turning(corners) > 0, "clockwise on screen"
            fitted = cv2.boxPoints(cv2.minAreaRect(corners.astype(np.float32)))
            quads.append(fitted)
        for thing in _things(wanted[image.stem]):
            box = thing.bounds()
            assert box is not None
            own = as_array(thing.quad or box_quad(box))
            if own.min() < 0 or own.max() > SIDE:
                continue  # cut at the border
            off = min(_corner_distance(own, quad) for quad in quads)
            assert off < 0.01, "the rectangle that it fits is the object's"
            compared += 1
    assert compared >= 10


def _corner_distance(a: Array, b: npt.NDArray[np.float32]) -> float:
    """The largest distance from a corner to the nearest of the other quad."""
    return float(np.linalg.norm(a[:, None] - b[None], axis=2).min(axis=1).max())


def test_ultralytics_reads_segments_of_three_points_or_more(exported: Path) -> None:
    """Every row of a segment file is a polygon: it drops boxes among segments."""
    splits, _ = _data_yaml(exported / "yolo-seg")
    for image in (image for found in splits.values() for image in found):
        for row in _rows(image):
            assert len(row) > 6 and len(row) % 2 == 1
            points = np.array(row[1:]).reshape(-1, 2)
            assert np.ptp(points, axis=0).min() > 0, "its box has an area"


# ---------------------------------------------------------------- VOC: Detectron2, mmdetection


def _voc_split(folder: Path, split: str) -> list[str]:
    return (folder / "ImageSets/Main" / f"{split}.txt").read_text(encoding="utf-8").split()


def test_voc_readers_find_the_pixels(exported: Path) -> None:
    """Detectron2: xmin and ymin less 1 are edges, xmax and ymax as they are; mmdetection takes
    whole numbers and a size from <size>."""
    folder, wanted = exported / "voc", _written(exported)
    stems = [stem for split in ("train", "val", "test") for stem in _voc_split(folder, split)]
    assert sorted(stems) == sorted(wanted)
    for stem in stems:
        root = ElementTree.parse(folder / "Annotations" / f"{stem}.xml").getroot()
        name = root.findtext("filename") or ""
        with Image.open(folder / "JPEGImages" / name) as opened:
            assert [int(root.findtext(f"size/{k}") or 0) for k in ("width", "height")] == [
                *opened.size
            ]
        assert Path(name).stem == stem
        found = []
        for node in root.findall("object"):
            assert node.findtext("name") in THINGS
            assert node.findtext("difficult") in ("0", "1")
            x0, y0, x1, y1 = (
                int(node.findtext(f"bndbox/{k}") or "") for k in ("xmin", "ymin", "xmax", "ymax")
            )
            assert 1 <= x0 <= x1 <= SIDE and 1 <= y0 <= y1 <= SIDE
            found.append([x0 - 1, y0 - 1, x1, y1])
        boxes = [i.bounds() for i in _things(wanted[stem])]
        inside = [[b.x0, b.y0, b.x1, b.y1] for b in (b.clip(SIDE, SIDE) for b in boxes if b)]
        assert len(found) == len(inside)
        for edges in inside:
            off = min(np.abs(np.array(other) - edges).max() for other in found)
            assert off <= 1, "to the nearest pixel (a sliver grows to a whole one)"


# ---------------------------------------------------------------- DIOR-R: mmrotate

CORNERS = ("left_top", "right_top", "right_bottom", "left_bottom")


def test_mmrotate_reads_dior_r(exported: Path) -> None:
    folder, wanted = exported / "dior-r", _written(exported)
    for split in ("train", "val", "test"):
        for stem in _voc_split(folder, split):
            root = ElementTree.parse(folder / "Annotations" / f"{stem}.xml").getroot()
            assert int(root.findtext("size/width") or 0) == SIDE
            nodes = root.findall("object")
            assert len(nodes) == len(_things(wanted[stem]))
            for node in nodes:
                assert node.findtext("name") in THINGS
                texts = [node.findtext(f"robndbox/{a}_{c}") for c in CORNERS for a in "xy"]
                corners = np.array(texts, dtype=np.float32).reshape(4, 2)
                assert _turning(corners) > 0
                (_, _), (w, h), _ = cv2.minAreaRect(corners)
                assert min(w, h) > 0
