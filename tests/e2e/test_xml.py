"""XML labels through the command line: found by themselves, extracted, exported again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from rsgen.formats import read_dataset
from rsgen.formats.voc import VocWriter
from rsgen.registry import resolve
from rsgen.store import open_samples
from tests.build import CLASSES, instance, layout, picture, sample
from tests.conftest import Result

THINGS = (instance("plane", 20, 24, 24, 10, 0.6), instance("ship", 44, 44, 26, 9, -2.0))
ROTATED = """
  <object><type>robndbox</type><name>{name}</name><difficult>0</difficult>
    <robndbox><cx>{cx}</cx><cy>{cy}</cy><w>{w}</w><h>{h}</h><angle>{angle}</angle></robndbox>
  </object>"""
HRSC = """
  <HRSC_Object><Class_ID>100000001</Class_ID><difficult>0</difficult>
    <mbox_cx>{cx}</mbox_cx><mbox_cy>{cy}</mbox_cy><mbox_w>{w}</mbox_w><mbox_h>{h}</mbox_h>
    <mbox_ang>{angle}</mbox_ang><header_x>{hx}</header_x><header_y>{hy}</header_y>
  </HRSC_Object>"""
NUMBERS = (
    {"name": "plane", "cx": 20, "cy": 24, "w": 24, "h": 10, "angle": 0.6, "hx": 29, "hy": 30},
    {"name": "ship", "cx": 44, "cy": 44, "w": 26, "h": 9, "angle": 1.14, "hx": 39, "hy": 33},
)


def _build(kind: str, folder: Path) -> Path:
    """Three images with the same two objects, in a folder of the format."""
    writer = resolve("formats", kind).writer() if kind in ("voc", "dior-r") else VocWriter()
    writer.open(folder, CLASSES, ["train"])
    for stem in "abc":
        of = sample(stem, of=layout(THINGS))
        path = folder / writer.image_path(f"{stem}.png", "train", of)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(of.layout)).save(path)
        writer.add(of, f"{stem}.png", "train")
        if kind == "rolabelimg":
            text = "".join(ROTATED.format(**n) for n in NUMBERS)
            _label(folder, stem).write_text(f"<annotation>{text}</annotation>")
        elif kind == "hrsc2016":
            text = "".join(HRSC.format(**n) for n in NUMBERS)
            text = f"<Img_Resolution>0.6</Img_Resolution><HRSC_Objects>{text}</HRSC_Objects>"
            _label(folder, stem).write_text(f"<HRSC_Image>{text}</HRSC_Image>")
    writer.close()
    return folder


def _label(folder: Path, stem: str) -> Path:
    return folder / "Annotations" / f"{stem}.xml"


@pytest.mark.parametrize("kind", ["voc", "dior-r", "rolabelimg", "hrsc2016"])
def test_labels_in_xml_become_masks_and_an_export(
    tmp_path: Path, cli_here: Callable[..., Result], kind: str
) -> None:
    data = _build(kind, tmp_path / "data")
    bad = _label(data, "c")
    bad.write_text("<!DOCTYPE annotation>" + bad.read_text())

    done = cli_here(
        "extract-masks", data, "--out", tmp_path / "samples", "--json",
        "-s", "execution.max_failure_rate=0.5",
    )  # fmt: skip

    assert done.code == 0, done
    assert any(f"format: {kind}, since" in note for note in done.json["notes"]), done
    found = list(open_samples(tmp_path / "samples"))
    assert [s.split for s in found] == ["train", "train"]
    for one in found:
        assert len(one.layout.instances) == 2
        assert all(i.mask is not None for i in one.layout.instances)
        assert all((i.quad is not None) == (kind != "voc") for i in one.layout.instances)
        headings = [i.heading_rad is not None for i in one.layout.instances]
        assert all(headings) if kind == "hrsc2016" else not any(headings)
    failures = (tmp_path / "samples/failures").glob("*.jsonl")
    assert "BadXml" in "".join(f.read_text() for f in failures)

    done = cli_here(
        "export", tmp_path / "samples", "--out", tmp_path / "set", "--format", "voc,dior-r,coco",
        "--json",
    )  # fmt: skip
    assert done.code == 0, done
    back = read_dataset(tmp_path / "set/dataset/voc")
    assert back.counts["labels_kept"] == 4
    assert not back.failures


def test_a_set_in_two_kinds_says_which_it_read(
    tmp_path: Path, cli_here: Callable[..., Result]
) -> None:
    data = _build("dior-r", tmp_path / "data")
    oriented = data / "Annotations" / "Oriented Bounding Boxes"
    upright = data / "Annotations" / "Horizontal Bounding Boxes"
    (data / "Annotations").rename(data / "other")
    oriented.parent.mkdir()
    (data / "other").rename(oriented)
    other = _build("voc", tmp_path / "other")
    (other / "Annotations").rename(upright)
    done = cli_here("extract-masks", data, "--out", tmp_path / "samples", "--json")
    assert done.code == 0, done
    assert done.json["counts"]["labels_kept"] == 6
    assert any("left alone" in note for note in done.json["notes"])
