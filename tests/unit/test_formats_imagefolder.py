"""Classification folders: what is a class, what a split, and which samples can be written."""

from __future__ import annotations

from pathlib import Path

import pytest

from rsgen.errors import DataError
from rsgen.formats import detect, read_dataset
from rsgen.formats.imagefolder import FORMAT, ImageFolderWriter, class_folder, scene_of
from rsgen.geometry import Box
from rsgen.records import ClassTable, Instance, Layout, Sample
from tests.formats_build import CLASSES, assert_counts_add_up, disk_mask, put_image, tank, write

PLACES = [
    ("airport/a.png", None, "airport"),
    ("train/airport/a.png", "train", "airport"),
    ("airport/train/a.png", None, "airport"),
    ("Images/airport/a.png", None, "airport"),
    ("val/images/airport/a.png", "val", "airport"),
    ("images/test/airport/a.png", "test", "airport"),
    ("training/storage tank/x/y/a.jpg", "train", "storage tank"),
]


@pytest.mark.parametrize(("name", "split", "scene"), PLACES, ids=[p[0] for p in PLACES])
def test_what_is_a_class(tmp_path: Path, name: str, split: str | None, scene: str) -> None:
    put_image(tmp_path / name)
    put_image(tmp_path / name.replace("airport", "beach").replace("storage tank", "beach"))
    assert detect(tmp_path).format == "imagefolder"
    dataset = read_dataset(tmp_path)
    found = {s.layout.scene: s for s in dataset}
    assert set(found) == {scene, "beach"}
    sample = found[scene]
    assert (sample.split, sample.id, sample.image) == (split, name, name)
    assert sample.layout.instances == ()
    assert not dataset.failures
    assert any("2 scene classes" in note for note in dataset.notes)


@pytest.mark.parametrize(
    "names",
    [["a.png", "b.png"], ["images/a.png", "images/b.png"], ["train/a.png", "test/b.png"],
     ["only/a.png", "only/b.png"]],
    ids=["flat", "images", "splits", "one folder"],
)  # fmt: skip
def test_what_is_no_classification_set(tmp_path: Path, names: list[str]) -> None:
    """Catches a claim on any unlabelled folder: its images would be read as classes."""
    for name in names:
        put_image(tmp_path / name)
    with pytest.raises(DataError, match="no labels of a known format"):
        detect(tmp_path)


def test_labels_of_any_kind_go_first(tmp_path: Path) -> None:
    for name in ("images/a.png", "previews/a.png"):
        put_image(tmp_path / name)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    assert detect(tmp_path).format == "yolo"


def test_bad_images_and_homeless_ones_fail_alone(tmp_path: Path) -> None:
    put_image(tmp_path / "airport/a.png")
    put_image(tmp_path / "train/b.png")
    (tmp_path / "airport/c.png").write_bytes(b"no image")
    dataset = read_dataset(tmp_path, format="imagefolder")
    assert [f.error for f in dataset.failures] == ["BadImage", "NoClass"]
    assert len(dataset) == 1
    assert_counts_add_up(dataset)


def test_scenes_are_renamed_by_the_class_map(tmp_path: Path) -> None:
    put_image(tmp_path / "Air_Port/a.png")
    dataset = read_dataset(tmp_path, format="imagefolder", class_map={"air port": "airport"})
    assert dataset.records[0].layout.scene == "airport"


def scenery(scene: str | None, *instances: Instance) -> Sample:
    return Sample("a", Layout(64, 48, instances, scene=scene), "a.png")


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        (scenery("harbour", tank(20, 20, 5)), "harbour"),
        (scenery(None, tank(20, 20, 5), tank(40, 20, 5)), "storage tank"),
        (scenery(None, Instance("water", mask=disk_mask(9, 9, 5)), tank(20, 20, 5)),
         "storage tank"),
        (scenery(None, Instance("water", mask=disk_mask(9, 9, 5))), "water"),
        (scenery(None, tank(20, 20, 5), Instance("ship", Box(1, 1, 5, 5))), None),
        (scenery(None), None),
    ],
    ids=["scene", "only class", "things before stuff", "stuff", "two classes", "nothing"],
)  # fmt: skip
def test_the_folder_of_a_sample(sample: Sample, expected: str | None) -> None:
    assert scene_of(sample) == expected
    assert FORMAT.leaves_out is not None
    assert (FORMAT.leaves_out(sample) is None) == (expected is not None)


@pytest.mark.parametrize(
    ("scene", "folder"),
    [
        ("storage tank", "storage tank"),
        ("Stadion München", "Stadion München"),
        ("a/b\\c", "a_b_c"),
        ("..", "scene"),
        (".hidden", "hidden"),
        ("train", "train_"),
        ("images", "images_"),
        ("x" * 200, "x" * 100),
    ],
)
def test_folder_names_are_safe(tmp_path: Path, scene: str, folder: str) -> None:
    assert class_folder(scene) == folder
    write(ImageFolderWriter(), [scenery(scene)], tmp_path)
    dataset = read_dataset(tmp_path, format="imagefolder", classes=CLASSES)
    (sample,) = dataset.records
    assert (sample.split, sample.layout.scene) == ("train", folder)
    assert FORMAT.compare is not None
    assert FORMAT.compare(scenery(scene), sample, CLASSES) is None
    assert FORMAT.compare(scenery("elsewhere"), sample, CLASSES) is not None


def test_without_a_table_there_are_no_object_classes(tmp_path: Path) -> None:
    put_image(tmp_path / "airport/a.png")
    assert read_dataset(tmp_path, format="imagefolder").classes == ClassTable(())
