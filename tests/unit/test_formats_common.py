"""Detection of formats, safe names, safe paths, joins, class names."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from rsgen.errors import DataError, UsageError
from rsgen.formats import SafeNames, detect, read_dataset, write_dataset
from rsgen.formats.common import Format, Found, Problem, Source, split_of_path
from rsgen.formats.files import ImageFolder, join_key, list_files, safe_relative
from rsgen.formats.jsonl import JsonlWriter
from rsgen.formats.names import LabelNames
from rsgen.records import Geo
from rsgen.registry import names, resolve
from tests.formats_build import CLASSES, copy_bad, plane, put_image, sample_of, write

PLACE = Geo(None, (0.5, 0.0, 1000.0, 0.0, -0.5, 2000.0))  # what GeoTIFF needs
WRITTEN = [kind for kind in names("formats") if resolve("formats", kind).make_writer is not None]


# imagefolder has no objects, and a single class folder is claimed by nothing
@pytest.mark.parametrize(
    "kind", [k for k in WRITTEN if resolve("formats", k).read is not None and k != "imagefolder"]
)
def test_what_is_written_is_detected_and_read(tmp_path: Path, kind: str) -> None:
    entry: Format = resolve("formats", kind)
    assert entry.name == kind
    outline = plane(30, 24, 20, 8, 0.6)
    write(entry.writer(), [replace(sample_of("a", outline), geo=PLACE)], tmp_path)
    # A quad without a mask is four corners in both.
    expected = {"yolo-seg": "yolo-obb", "dota-annfiles": "dota"}.get(kind, kind)
    dataset = read_dataset(tmp_path)
    assert dataset.format == expected
    assert dataset.notes[0].startswith(f"format: {expected}, since ")
    assert len(dataset.records[0].layout.instances) == 1


def test_several_formats_side_by_side_are_not_guessed_at(tmp_path: Path) -> None:
    copy_bad("coco", "unknown-category", tmp_path / "set")
    (tmp_path / "set" / "labels").mkdir()
    (tmp_path / "set" / "labels" / "a.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    with pytest.raises(DataError, match="several formats") as caught:
        detect(tmp_path / "set")
    assert "--format coco" in (caught.value.hint or "")
    assert detect(tmp_path / "set", tmp_path / "set" / "labels").format == "yolo"


@pytest.mark.parametrize(
    ("beside", "format"),
    [
        pytest.param(None, "masks", id="alone"),
        pytest.param("data.yaml", "masks", id="names of classes"),
        pytest.param("notes.txt", "masks", id="some text"),
        pytest.param("a.toml", "toml", id="labels of a plug-in"),
    ],
)
def test_masks_are_meant_where_nothing_else_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beside: str | None, format: str
) -> None:
    """Catches formats that must know the label files of all others, to give way to them."""

    def found(source: Source) -> Found | None:
        return Found("a TOML file", "toml") if source.files(".toml") else None

    plugin, known = Format("toml", "", None, detect=found), resolve
    detection = sys.modules["rsgen.formats.detect"]  # the package has a function of that name
    monkeypatch.setattr(detection, "names", lambda group: [*names(group), "toml"])
    monkeypatch.setattr(
        detection, "resolve", lambda group, name: plugin if name == "toml" else known(group, name)
    )
    write(
        resolve("formats", "masks").writer(), [sample_of("a", plane(30, 24, 20, 8, 0.6))], tmp_path
    )
    if beside is not None:
        (tmp_path / beside).write_text("names: [plane, ship]\n")
    assert detect(tmp_path).format == format


def test_an_unknown_folder_says_what_is_in_it(tmp_path: Path) -> None:
    put_image(tmp_path / "a.png")
    (tmp_path / "a.xml").write_text("<metadata/>")
    with pytest.raises(DataError, match="1 images, 1 text files"):
        detect(tmp_path)


def test_an_unknown_format_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'coco'"):
        read_dataset(tmp_path, format="cocoo")


def test_a_run_folder_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(DataError, match="run folder"):
        detect(tmp_path)


def test_names_are_safe_and_distinct() -> None:
    given = ["train/a b.png", "train_a b.jpg", "TRAIN/A_B.png", "../x", "P1.tif#0,512", "ü", "."]
    safe = SafeNames()
    made = [safe.name(item, ".png") for item in given]
    assert made == [
        "train_a_b.png",
        "train_a_b-2.png",
        "TRAIN_A_B-3.png",  # one file on a file system that ignores case
        "x.png",
        "P1_0_512.png",
        "image.png",
        "image-2.png",
    ]


ESCAPES = ["../a.png", "a/../../b.png", "/etc/passwd", "C:\\a.png", "..\\a.png", "", "a\0b", "."]


@pytest.mark.parametrize("text", ESCAPES)
def test_paths_cannot_leave_the_folder(text: str) -> None:
    with pytest.raises(Problem, match="leaves the dataset folder"):
        safe_relative(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a.png", "a.png"), ("./x/../a.png", "a.png"), ("x\\a.png", "x/a.png"), (" a.png", "a.png")],
)
def test_paths_are_cleaned(text: str, expected: str) -> None:
    assert safe_relative(text) == expected


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("images/train/a.png", "train"),
        ("annotations/instances_val2017.json", "val"),
        ("valid/a.png", "val"),
        ("images/a_train.png", None),  # an image's own name says nothing
        ("trains/a.png", None),
        ("all.json", None),
    ],
)
def test_splits_from_paths(path: str, split: str | None) -> None:
    assert split_of_path(path) == split


def test_join_keys_ignore_only_the_names_of_kinds() -> None:
    root = Path("r")
    same = {join_key(root / p, root) for p in ("train/images/a.b.png", "labels/train/a.b.txt")}
    assert same == {"train/a.b"}
    assert join_key(root / "north/a.txt", root) != join_key(root / "south/a.png", root)


def test_equal_stems_in_two_folders_are_not_mixed_up(tmp_path: Path) -> None:
    put_image(tmp_path / "north" / "a.png")
    put_image(tmp_path / "south" / "a.png")
    folder = ImageFolder(tmp_path)
    assert folder.find("a", stem_is_unique=True) is None
    assert folder.find("north/a", stem_is_unique=True) == "north/a"


def test_a_folder_that_links_to_itself_ends(tmp_path: Path) -> None:
    put_image(tmp_path / "a.png")
    (tmp_path / "again").symlink_to(tmp_path)
    assert [p.name for p in list_files(tmp_path, {".png"})] == ["a.png"]


def test_class_names_meet_through_aliases_and_the_map() -> None:
    labels = LabelNames(CLASSES, {"vessel": "ship"})
    assert [labels.resolve(n) for n in ("Airplane", "storage_tank", "vessel", "BOAT")] == [
        "plane",
        "storage tank",
        "ship",
        "ship",
    ]
    with pytest.raises(Problem, match="known: plane, storage tank, water, ship"):
        labels.resolve("car")


def test_without_a_table_equal_spellings_are_one_class() -> None:
    labels = LabelNames(None, {})
    assert labels.resolve("small vehicle") == labels.resolve("Small-Vehicle") == "small vehicle"
    assert labels.table().names == ("small vehicle",)


def test_a_split_that_is_not_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="split 'test'"):
        write_dataset(JsonlWriter(), [sample_of("a", split="test")], CLASSES, tmp_path)


@pytest.mark.parametrize("kind", ["coco", "dota", "yolo", "yolo-obb"])
def test_a_label_wholly_outside_is_left_out_and_counted(tmp_path: Path, kind: str) -> None:
    """Written, it would come back as a failure; dropped unseen, the counts would not add up."""
    far = plane(300, 200, 20, 8, 0.6)
    report = write(resolve("formats", kind).writer(), [sample_of("a", far)], tmp_path)
    assert (report.labels, report.skipped) == (0, {"outside the image": 1})
    assert read_dataset(tmp_path, format=kind).records[0].layout.instances == ()


@pytest.mark.parametrize("kind", WRITTEN)
def test_an_error_half_way_leaves_no_temporary_file(tmp_path: Path, kind: str) -> None:
    first = replace(sample_of("a", plane(30, 24, 20, 8, 0.6)), geo=PLACE)
    samples = [first, sample_of("b", split="elsewhere")]
    with pytest.raises(UsageError, match="not among"):
        write(resolve("formats", kind).writer(), samples, tmp_path)
    assert not list(tmp_path.rglob("*.tmp"))
