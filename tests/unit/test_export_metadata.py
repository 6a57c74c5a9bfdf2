"""What an export says of itself: how to make it again, Croissant, sums, licences, places."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import rasterio
import yaml
from rasterio.transform import Affine

from rsgen.export import export
from rsgen.export.georeference import world_file
from rsgen.export.licences import gather_licences
from rsgen.export.rebuild import pipeline_text, why_not
from rsgen.formats import read_dataset
from rsgen.records import Geo, Sample
from rsgen.request import InputRef, RunInfo
from rsgen.runs import Job
from tests import build
from tests.conftest import Result

Cli = Callable[..., Result]
UTM = rasterio.crs.CRS.from_epsg(32633).to_wkt()
GEO = Geo(UTM, (0.5, 0.01, 500000.25, 0.02, -0.5, 5400000.75))


def exported(tmp_path: Path, samples: list[Sample], *formats: str, **keys: Any) -> Path:
    run = build.sample_run(tmp_path / "run", samples)
    config = build.config(**{"export.format": list(formats), **keys})
    export(Job("export", config, tmp_path / "set", inputs={"run": [run.path]}))
    return tmp_path / "set" / "dataset"


def three() -> list[Sample]:
    empty = build.sample("c.png", build.layout(()), split="val", prompt=None)
    return [build.sample("a.png", prompt=None), build.sample("b.png"), empty]


# ---------------------------------------------------------------- made again


def same_set(a: Path, b: Path) -> bool:
    return build.tree(a) == build.tree(b)


def test_the_pipeline_file_makes_the_very_same_set(tmp_path: Path, cli_here: Cli) -> None:
    """From other folders, by one line: labels, pixels, card and sums, byte for byte."""
    lines = (
        ("scenes", "--count", 5, "--size", 96, "--seed", 3, "--out", "s"),
        ("extract-masks", "s", "--backend", "box", "--class-map", "plane=ship", "--out", "m"),
        ("export", "m", "--format", "coco,yolo-obb", "--split", "0.6/0.4/0", "--out", "e"),
    )
    for line in lines:
        assert cli_here(*line, "-q").code == 0, line
    pipeline = tmp_path / "e" / "dataset" / "pipeline.yaml"
    work = tmp_path / "elsewhere"
    again = cli_here("run", pipeline, "--work", work, "-q")
    assert again.code == 0, again
    (other,) = work.glob("export-*/dataset")
    assert same_set(other, tmp_path / "e" / "dataset")


def test_raw_data_and_corrections_are_looked_for_by_name(tmp_path: Path, cli_here: Cli) -> None:
    """No path of the machine is in the file; the card says what has to lie beside it."""
    raw = exported(tmp_path / "made", three(), "labelme")
    data = tmp_path / "far" / "away" / "harbours"
    data.parent.mkdir(parents=True)
    (raw / "labelme").rename(data)
    fixed = tmp_path / "far" / "fixed"
    fixed.mkdir()
    document = {"shapes": [], "imagePath": "a.png", "imageHeight": 64, "imageWidth": 64}
    (fixed / "a.json").write_text(json.dumps(document))
    extracted = cli_here("extract-masks", data, "--corrections", fixed, "--out", "m", "-q")
    assert extracted.code == 0, extracted
    assert cli_here("export", "m", "--format", "dota", "--out", "e", "-q").code == 0
    folder = tmp_path / "e" / "dataset"
    text = (folder / "pipeline.yaml").read_text()
    assert str(tmp_path) not in text + (folder / "README.md").read_text()
    stage = yaml.safe_load(text)["stages"]["extract-masks"]
    assert stage["inputs"] == {"corrections": "fixed", "dataset": "harbours"}
    assert "where `fixed` and `harbours` can be found" in (folder / "README.md").read_text()
    again = cli_here("run", folder / "pipeline.yaml", "--work", "w", "-q")
    assert again.code == 2, "the raw data is not here"
    assert "harbours" in again.err


def info(command: str, fingerprint: str, *inputs: InputRef, **keys: Any) -> RunInfo:
    options = keys.pop("options", {})
    return RunInfo(
        command,
        build.config(**keys),
        Path("nowhere") / command,
        fingerprint * 32,
        inputs,
        build.CLASSES,
        (),
        {},
        None,
        options,
    )


def test_stages_of_one_command_get_names_of_their_own() -> None:
    chain = [info("scenes", "a", **{"scenes.count": 3}), info("scenes", "b", seed=7)]
    stages = yaml.safe_load(pipeline_text(chain))["stages"]
    assert stages == {
        "scenes": {"command": "scenes", "seed": 0, "config": {"count": 3}},
        "scenes-2": {"command": "scenes", "seed": 7},
    }


def test_one_seed_stands_once() -> None:
    text = pipeline_text([info("scenes", "a", seed=7), info("filter", "b", seed=7)])
    assert yaml.safe_load(text) == {
        "seed": 7,
        "stages": {"scenes": {"command": "scenes"}, "filter": {"command": "filter"}},
    }


def test_what_a_pipeline_cannot_say_is_said() -> None:
    """A file that makes another set would be worse than none."""
    table = [{"name": "plane"}]
    assert why_not([info("scenes", "a")]) is None
    assert why_not([info("scenes", "a"), info("filter", "b", classes=table)]) is not None
    assert "series" in str(why_not([info("generate", "a", options={"split_seed": 0})]))
    assert "doctor" in str(why_not([info("doctor", "a")]))


# ---------------------------------------------------------------- sums and Croissant


def test_every_file_has_its_sum(tmp_path: Path) -> None:
    folder = exported(tmp_path, three(), "coco", "dota")
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "sha256sums.txt"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = (folder / "sha256sums.txt").read_text().splitlines()
    listed = {line.split("  ", 1)[1] for line in lines}
    assert set(build.tree(folder)) - listed == {"sha256sums.txt", "croissant.json"}


# rdflib and pandas, which mlcroissant stands on, are behind their own deprecations.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_croissant_is_valid_and_its_records_can_be_read(tmp_path: Path) -> None:
    """By the reference implementation, without a network: an empty split and an absent prompt
    are where its record sets break."""
    import mlcroissant

    folder = exported(tmp_path, three(), "coco", "jsonl", "dota", "yolo")
    data = mlcroissant.Dataset(jsonld=folder / "croissant.json")
    assert not data.metadata.issues.errors
    assert data.metadata.name.startswith("rsgen-")
    records = {s.id: list(data.records(record_set=s.id)) for s in data.metadata.record_sets}
    assert {name: len(rows) for name, rows in records.items()} == {
        "coco-categories": 3,
        "coco-train-images": 2,
        "coco-train-annotations": 6,
        "coco-val-images": 1,
        "jsonl-train": 2,
        "jsonl-val": 1,
    }
    coco = json.loads((folder / "coco/annotations/instances_train.json").read_text())
    key = "coco-train-annotations"
    assert [r[f"{key}/bbox"] for r in records[key]] == [a["bbox"] for a in coco["annotations"]]
    assert [r["jsonl-train/id"] for r in records["jsonl-train"]] == [b"a.png", b"b.png"]


def test_croissant_names_each_file_or_its_set(tmp_path: Path) -> None:
    folder = exported(tmp_path, three(), "coco", "dota")
    rows = json.loads((folder / "croissant.json").read_text())["distribution"]
    covered = set()
    for row in rows:
        if row["@type"] == "cr:FileObject":
            assert row["sha256"] == build.tree(folder)[row["contentUrl"]]
            covered.add(row["contentUrl"])
        else:
            covered |= {p.relative_to(folder).as_posix() for p in folder.glob(row["includes"])}
    assert covered == set(build.tree(folder)) - {"croissant.json"}


# ---------------------------------------------------------------- places on the ground


@pytest.mark.parametrize("coding", ["png", "jpg"])
def test_a_gis_opens_images_where_they_lie(tmp_path: Path, coding: str) -> None:
    """GDAL's order of the six numbers is not ours, and world files place pixel centres."""
    samples = [replace(build.sample("a.png"), geo=GEO), build.sample("b.png")]
    keys = {"export.image_format": coding}
    folder = exported(tmp_path, samples, "coco", "voc", **keys)
    (image,) = folder.glob(f"coco/images/train/a.{coding}")
    with rasterio.open(image) as raster:
        assert raster.crs == rasterio.crs.CRS.from_epsg(32633)
        assert tuple(raster.transform)[:6] == pytest.approx(GEO.affine)
    (image.with_name(image.name + ".aux.xml")).unlink()
    with rasterio.open(image) as raster:  # the world file alone
        assert tuple(raster.transform)[:6] == pytest.approx(GEO.affine)
    assert not list(folder.rglob("b.*gw"))
    table = json.loads((folder / "georeference.json").read_text())
    assert list(table["images"]) == [f"a.{coding}"]
    assert table["crs"][table["images"][f"a.{coding}"]["crs"]] == UTM
    assert table["images"][f"a.{coding}"]["affine"] == list(GEO.affine)
    assert len(read_dataset(folder / "voc")) == 2, "side files are no labels"
    assert "positions on the ground" not in (folder / "export.json").read_text()


def test_a_world_file_places_the_first_pixels_centre() -> None:
    lines = [float(v) for v in world_file(GEO).split()]
    x, y = Affine(*GEO.affine) @ (0.5, 0.5)
    assert lines == pytest.approx([0.5, 0.02, 0.01, -0.5, x, y])


def test_images_that_lie_nowhere_have_no_side_files(tmp_path: Path) -> None:
    folder = exported(tmp_path, three(), "coco")
    assert not [n for n in build.tree(folder) if n.endswith((".xml", "gw", "georeference.json"))]
    assert "georeference" not in (folder / "README.md").read_text()


def test_an_image_without_a_crs_keeps_its_affine(tmp_path: Path) -> None:
    samples = [replace(build.sample("a.png"), geo=Geo(None, GEO.affine))]
    folder = exported(tmp_path, samples, "coco")
    with rasterio.open(folder / "coco/images/train/a.png") as raster:
        assert raster.crs is None
        assert tuple(raster.transform)[:6] == pytest.approx(GEO.affine)


# ---------------------------------------------------------------- licences

SAID = [
    ("a licence file", {"LICENSE.txt": "# CC BY 4.0\nlong text"}, "CC BY 4.0", "LICENSE.txt"),
    ("a versioned one", {"COPYING": "\n GNU GPL\n Version 3\n"}, "GNU GPL, Version 3", "COPYING"),
    ("a card", {"README.md": "---\nlicense: cc-by-4.0\n---\n# x"}, "cc-by-4.0", "README.md"),
    ("a plain readme", {"readme.txt": "pictures"}, None, "readme.txt may say more"),
    ("a broken card", {"README.md": "---\nlicense: [\n---\n"}, None, "README.md may say more"),
    ("nothing", {}, None, ""),
]


@pytest.mark.parametrize(
    ("files", "text", "where"), [s[1:] for s in SAID], ids=[s[0] for s in SAID]
)
def test_what_a_data_set_says_of_its_licence(
    tmp_path: Path, files: dict[str, str], text: str | None, where: str
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    ref = InputRef("dataset", str(tmp_path), "0", "0")
    (found,) = gather_licences([info("extract-masks", "a", ref)])
    assert (found.what, found.name, found.text) == ("real data", tmp_path.name, text)
    assert where in found.where
    assert ("unknown" in found.line()) == (text is None)
    told = info("extract-masks", "a", ref, **{"extract_masks.license": "CC0-1.0"})
    assert [f.text for f in gather_licences([told])] == ["CC0-1.0"]


def test_models_are_named_with_what_they_say(tmp_path: Path) -> None:
    base = tmp_path / "sd15"
    base.mkdir()
    (base / "README.md").write_text("---\nlicense: creativeml-openrail-m\n---\n")
    refs = [InputRef("checkpoint", "tiny", "0", "0")]
    chain = [
        info("train", "a", **{"train.base": str(base)}),
        info("train", "b", **{"train.base": "hub:nobody/nothing"}),
        info("train", "c"),
        info("generate", "d", *refs),
        info("scenes", "e"),
    ]
    lines = [licence.line() for licence in gather_licences(chain)]
    assert lines == [
        "model sd15: creativeml-openrail-m (its README.md)",
        "model hub:nobody/nothing: unknown",
        "model tiny: Apache-2.0 (part of rsgen)",
        "scenes of rsgen: free of others' rights (drawn by the program)",
    ]


def test_the_licence_is_a_remark_not_a_request(tmp_path: Path, cli_here: Cli) -> None:
    """Told later, it must not ask for all masks again."""
    data = exported(tmp_path / "made", three(), "coco") / "coco"
    data.rename(tmp_path / "harbours")
    line = ("extract-masks", "harbours", "--out", "m")
    assert cli_here(*line, "-q").code == 0
    told = cli_here(*line, "-s", "extract_masks.license=CC-BY-4.0", "--json")
    assert told.json["status"] == "no-op", told
    assert cli_here("export", "m", "--format", "coco", "--out", "e", "-q").code == 0
    card = (tmp_path / "e" / "dataset" / "README.md").read_text()
    assert "- real data harbours: CC-BY-4.0 (extract_masks.license)" in card
    croissant = json.loads((tmp_path / "e" / "dataset" / "croissant.json").read_text())
    assert croissant["license"] == ["CC-BY-4.0"]


def test_a_data_set_that_is_gone_is_unknown(tmp_path: Path) -> None:
    ref = InputRef("dataset", str(tmp_path / "gone"), "0", "0")
    (found,) = gather_licences([info("extract-masks", "a", ref)])
    assert found.line() == "real data gone: unknown"
