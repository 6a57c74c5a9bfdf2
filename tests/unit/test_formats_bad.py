"""Known-bad input: each rule ends in one named failure (or exit 3), and nothing else is lost.

Every fixture holds one good label beside the bad one, so a reader that drops a whole file for
one bad line, or swallows the line, fails here.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest

from rsgen.errors import DataError
from rsgen.formats import read_dataset
from rsgen.records import ClassTable
from tests.formats_build import assert_counts_add_up, copy_bad, put_image

CLASSES = ClassTable.of("plane", "ship")

# format, rule, failure, place in the message, images kept, labels kept
FAILURES = [
    ("dota", "unknown-class", "UnknownClass", "labelTxt/a.txt:2", 1, 1),
    ("dota", "three-coordinates", "FieldCount", "labelTxt/a.txt:2", 1, 1),
    ("dota", "not-finite", "NotFinite", "labelTxt/a.txt:2", 1, 1),
    ("dota", "infinite", "NotFinite", "labelTxt/a.txt:2", 1, 1),
    ("dota", "too-large", "TooLarge", "labelTxt/a.txt:2", 1, 1),
    ("dota", "zero-area", "ZeroArea", "labelTxt/a.txt:2", 1, 1),
    ("dota", "zero-area-oblique", "ZeroArea", "labelTxt/a.txt:2", 1, 1),
    ("dota", "self-crossing", "SelfCrossing", "labelTxt/a.txt:2", 1, 1),
    ("dota", "outside-image", "OutsideImage", "labelTxt/a.txt:2", 1, 1),
    ("dota", "bad-difficulty", "BadDifficulty", "labelTxt/a.txt:2", 1, 1),
    ("dota", "no-class", "FieldCount", "labelTxt/a.txt:2", 1, 1),
    ("dota", "word-for-number", "FieldCount", "labelTxt/a.txt:2", 1, 1),
    ("dota", "missing-image", "MissingImage", "labelTxt/b.txt", 1, 1),
    ("dota", "missing-labels", "MissingLabels", "images/b.png", 1, 1),
    ("dota", "duplicate-id", "DuplicateId", "labelTxt/a.txt", 1, 1),
    ("yolo", "unknown-class", "UnknownClass", "labels/a.txt:2", 1, 1),
    ("yolo", "three-numbers", "FieldCount", "labels/a.txt:2", 1, 1),
    ("yolo", "three-coordinates", "FieldCount", "labels/a.txt:2", 1, 1),
    ("yolo", "not-finite", "NotFinite", "labels/a.txt:2", 1, 1),
    ("yolo", "zero-area", "ZeroArea", "labels/a.txt:2", 1, 1),
    ("yolo", "self-crossing", "SelfCrossing", "labels/a.txt:2", 1, 1),
    ("yolo", "outside-image", "OutsideImage", "labels/a.txt:2", 1, 1),
    ("yolo", "not-normalised", "NotNormalised", "labels/a.txt:2", 1, 1),
    ("yolo", "word-for-number", "NotANumber", "labels/a.txt:2", 1, 1),
    ("yolo", "negative-class", "UnknownClass", "labels/a.txt:2", 1, 1),
    ("yolo", "missing-image", "MissingImage", "labels/b.txt", 1, 1),
    ("yolo", "duplicate-id", "DuplicateId", "labels/a.txt", 1, 1),
    ("coco", "unknown-category", "UnknownClass", "annotations[1] (id 2)", 1, 1),
    ("coco", "unknown-image", "UnknownImage", "annotations[1] (id 2)", 1, 1),
    ("coco", "duplicate-annotation-id", "DuplicateId", "annotations[1] (id 1)", 1, 1),
    ("coco", "three-coordinates", "FieldCount", "annotations[1] (id 2)", 1, 1),
    ("coco", "three-of-eight", "FieldCount", "annotations[1] (id 2)", 1, 1),
    ("coco", "odd-coordinates", "FieldCount", "annotations[1] (id 2)", 1, 1),
    ("coco", "not-finite", "NotFinite", "annotations[1] (id 2)", 1, 1),
    ("coco", "zero-area", "ZeroArea", "annotations[1] (id 2)", 1, 1),
    ("coco", "negative-width", "ZeroArea", "annotations[1] (id 2)", 1, 1),
    ("coco", "outside-image", "OutsideImage", "annotations[1] (id 2)", 1, 1),
    ("coco", "outside-polygon", "OutsideImage", "annotations[1] (id 2)", 1, 1),
    ("coco", "self-crossing", "SelfCrossing", "annotations[1] (id 2)", 1, 1),
    # The next five make pycocotools read past its buffer, or decode to noise.
    ("coco", "rle-too-long", "BadRle", "annotations[1] (id 2)", 1, 1),
    ("coco", "rle-negative", "BadRle", "annotations[1] (id 2)", 1, 1),
    ("coco", "rle-garbage", "BadRle", "annotations[1] (id 2)", 1, 1),
    ("coco", "rle-empty-text", "BadRle", "annotations[1] (id 2)", 1, 1),
    ("coco", "rle-other-size", "WrongSize", "annotations[1] (id 2)", 1, 1),
    ("coco", "rle-empty", "ZeroArea", "annotations[1] (id 2)", 1, 1),
    ("coco", "no-shape", "MissingField", "annotations[1] (id 2)", 1, 1),
    ("coco", "no-image-id", "MissingField", "annotations[1]", 1, 1),
    ("coco", "bad-obb", "FieldCount", "annotations[1] (id 2)", 1, 1),
    ("coco", "word-for-number", "NotANumber", "annotations[1] (id 2)", 1, 1),
    ("coco", "missing-image", "MissingImage", "'gone.png'", 1, 1),
    ("coco", "wrong-size", "WrongSize", "640 x 48", 1, 1),
    ("coco", "path-escape", "PathEscape", "'../../secret.png'", 1, 1),
    ("coco", "absolute-path", "PathEscape", "'/etc/secret.png'", 1, 1),
    ("coco", "huge-size", "TooManyPixels", "'b.png'", 1, 1),
    ("coco", "fractional-size", "BadSize", "'b.png'", 1, 1),
    # Nothing says whose the labels of a shared id are: neither image may keep them.
    ("coco", "duplicate-image-id", "DuplicateId", "a.png, b.png", 0, 0),
    ("jsonl", "unknown-class", "UnknownClass", "train.jsonl:2", 2, 2),
    ("jsonl", "three-coordinates", "FieldCount", "train.jsonl:2", 2, 2),
    ("jsonl", "three-of-eight", "FieldCount", "train.jsonl:2", 2, 2),
    ("jsonl", "not-finite", "NotFinite", "train.jsonl:2", 2, 2),
    ("jsonl", "zero-area", "ZeroArea", "train.jsonl:2", 2, 2),
    ("jsonl", "outside-image", "OutsideImage", "train.jsonl:2", 2, 2),
    ("jsonl", "self-crossing", "SelfCrossing", "train.jsonl:2", 2, 2),
    ("jsonl", "bad-mask", "BadRle", "train.jsonl:2", 2, 2),
    ("jsonl", "no-shape", "MissingField", "train.jsonl:2", 2, 2),
    ("jsonl", "missing-image", "MissingImage", "train.jsonl:2", 1, 1),
    ("jsonl", "no-image", "MissingImage", "train.jsonl:2", 1, 1),
    ("jsonl", "wrong-size", "WrongSize", "train.jsonl:2", 1, 1),
    ("jsonl", "path-escape", "PathEscape", "train.jsonl:2", 1, 1),
    ("jsonl", "huge-size", "TooManyPixels", "train.jsonl:2", 1, 1),
    ("jsonl", "duplicate-id", "DuplicateId", "'a'", 1, 1),
    ("jsonl", "cut-short", "BadJson", "train.jsonl:2", 1, 1),
    ("jsonl", "missing-field", "MissingField", "train.jsonl:2", 1, 1),
    ("voc", "unknown-class", "UnknownClass", "Annotations/a.xml:9 object 2", 1, 1),
    ("voc", "no-bndbox", "MissingField", "Annotations/a.xml:9 object 2", 1, 1),
    ("voc", "no-name", "MissingField", "Annotations/a.xml:9 object 2", 1, 1),
    ("voc", "no-ymax", "MissingField", "Annotations/a.xml:9 object 2", 1, 1),
    ("voc", "word-for-number", "NotANumber", "Annotations/a.xml:9 object 2", 1, 1),
    ("voc", "not-finite", "NotFinite", "Annotations/a.xml:9 object 2", 1, 1),
    ("voc", "infinite", "NotFinite", "Annotations/a.xml:9 object 2", 1, 1),
    ("voc", "too-large", "TooLarge", "Annotations/a.xml:9 object 2", 1, 1),
    ("voc", "zero-area", "ZeroArea", "Annotations/a.xml:9 object 2", 1, 1),
    ("voc", "outside-image", "OutsideImage", "Annotations/a.xml:9 object 2", 1, 1),
    ("voc", "missing-image", "MissingImage", "Annotations/b.xml", 1, 1),
    ("voc", "wrong-size", "WrongSize", "declared 640 x 48, the image is 64 x 48", 1, 1),
    ("voc", "swapped-size", "WrongSize", "declared 48 x 64", 1, 1),
    ("voc", "huge-size", "TooManyPixels", "Annotations/b.xml", 1, 1),
    ("voc", "fractional-size", "BadSize", "Annotations/b.xml", 1, 1),
    # What an XML file could do to its reader: expand without end, or fetch a file.
    ("voc", "cut-short", "BadXml", "Annotations/b.xml: line 3: not valid XML", 1, 1),
    ("voc", "not-xml", "BadXml", "Annotations/b.xml: line 1", 1, 1),
    ("voc", "empty-file", "BadXml", "Annotations/b.xml: line 1", 1, 1),
    ("voc", "doctype", "BadXml", "Annotations/b.xml: line 1", 1, 1),
    ("voc", "external-entity", "BadXml", "Annotations/b.xml: line 1", 1, 1),
    ("voc", "billion-laughs", "BadXml", "Annotations/b.xml: line 1", 1, 1),
    ("voc", "deep", "BadXml", "nested over 50 deep", 1, 1),
    ("voc", "not-utf8", "NotUtf8", "Annotations/b.xml: byte 133 in line 5", 1, 1),
    ("voc", "unknown-encoding", "BadXml", "unknown encoding 'klingon'", 1, 1),
    ("voc", "missing-labels", "MissingLabels", "images/b.png", 1, 1),
    ("voc", "duplicate-id", "DuplicateId", "labels/a.xml", 1, 1),
    ("rolabelimg", "degrees", "NotRadians", "Annotations/a.xml:9 object 2", 1, 1),
    ("rolabelimg", "no-angle", "MissingField", "Annotations/a.xml:9 object 2", 1, 1),
    ("rolabelimg", "zero-area", "ZeroArea", "Annotations/a.xml:9 object 2", 1, 1),
    ("rolabelimg", "not-finite", "NotFinite", "Annotations/a.xml:9 object 2", 1, 1),
    ("rolabelimg", "outside-image", "OutsideImage", "Annotations/a.xml:9 object 2", 1, 1),
    ("rolabelimg", "unknown-class", "UnknownClass", "Annotations/a.xml:9 object 2", 1, 1),
    ("dior-r", "three-corners", "MissingField", "Annotations/a.xml:9 object 2", 1, 1),
    ("dior-r", "self-crossing", "SelfCrossing", "Annotations/a.xml:9 object 2", 1, 1),
    ("dior-r", "zero-area", "ZeroArea", "Annotations/a.xml:9 object 2", 1, 1),
    ("dior-r", "outside-image", "OutsideImage", "Annotations/a.xml:9 object 2", 1, 1),
    ("dior-r", "unknown-class", "UnknownClass", "Annotations/a.xml:9 object 2", 1, 1),
    ("dior-r", "word-for-number", "NotANumber", "Annotations/a.xml:9 object 2", 1, 1),
    ("hrsc2016", "no-class", "MissingField", "Annotations/a.xml:16 object 2", 1, 1),
    ("hrsc2016", "no-angle", "MissingField", "Annotations/a.xml:16 object 2", 1, 1),
    ("hrsc2016", "zero-area", "ZeroArea", "Annotations/a.xml:16 object 2", 1, 1),
    ("hrsc2016", "word-for-number", "NotANumber", "Annotations/a.xml:16 object 2", 1, 1),
    ("hrsc2016", "outside-image", "OutsideImage", "Annotations/a.xml:16 object 2", 1, 1),
]

TWO_IMAGES = {"wrong-size", "huge-size", "fractional-size", "duplicate-image-id", "missing-labels"}
TWO_IMAGES |= {"swapped-size", "cut-short", "not-xml", "empty-file", "doctype", "external-entity"}
TWO_IMAGES |= {"billion-laughs", "deep", "not-utf8", "unknown-encoding"}


@pytest.mark.parametrize(
    ("kind", "rule", "failure", "place", "images", "labels"),
    FAILURES,
    ids=[f"{row[0]}-{row[1]}" for row in FAILURES],
)
def test_a_bad_label_or_image_is_one_named_failure(
    tmp_path: Path, kind: str, rule: str, failure: str, place: str, images: int, labels: int
) -> None:
    put = ["images/a.png"]
    if rule in TWO_IMAGES or kind == "jsonl":
        put.append("images/b.png")
    folder = copy_bad(kind, rule, tmp_path / "set", put)

    dataset = read_dataset(folder, format=kind, classes=CLASSES)

    assert {f.error for f in dataset.failures} == {failure}
    assert dataset.counts["images_kept"] == images
    assert dataset.counts["labels_kept"] == labels
    message = dataset.failures[0].message
    assert place in message
    assert "; fix: " in message
    assert str(tmp_path) not in message, "absolute paths make two runs of one request differ"
    assert_counts_add_up(dataset)


# format, rule, text of the message, text of the hint
REFUSED = [
    ("dota", "empty-set", "empty dota dataset", "--images"),
    ("yolo", "empty-set", "empty yolo dataset", "--images"),
    ("yolo", "names-and-nc", "nc is 3, but there are 2 names", "agree"),
    ("yolo", "bad-yaml", "data.yaml:2: not valid YAML", "--classes"),
    ("coco", "empty-set", "empty coco dataset", "--images"),
    ("coco", "no-categories", "needs the lists images, annotations, categories", "export"),
    ("coco", "duplicate-category", "two categories have the id 1", "own id"),
    ("coco", "cut-short", "instances_train.json:", "cut short"),
    ("jsonl", "empty-set", "empty jsonl dataset", "--images"),
    ("voc", "metadata-alone", "empty voc dataset", "--images"),
]


@pytest.mark.parametrize(
    ("kind", "rule", "message", "hint"), REFUSED, ids=[f"{row[0]}-{row[1]}" for row in REFUSED]
)
def test_what_cannot_be_read_at_all_is_a_data_error(
    tmp_path: Path, kind: str, rule: str, message: str, hint: str
) -> None:
    folder = copy_bad(kind, rule, tmp_path / "set")
    with pytest.raises(DataError) as caught:
        read_dataset(folder, format=kind)
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")
    assert caught.value.exit_code == 3


def _good_set(kind: str, folder: Path) -> Path:
    """A set of the images a and b; b is there to be broken."""
    label = {"dota": "4 4 20 6 18 16 2 14 plane 0\n", "yolo": "0 0.2 0.2 0.2 0.2\n"}
    if kind == "voc":
        copy_bad("voc", "missing-image", folder)
    elif kind in label:
        labels = folder / ("labelTxt" if kind == "dota" else "labels")
        labels.mkdir(parents=True)
        for name in "ab":
            (labels / f"{name}.txt").write_text(label[kind])
    else:
        rule = "wrong-size" if kind == "coco" else "missing-field"
        copy_bad(kind, rule, folder)
        file = next(folder.rglob("*.json*"))
        text = file.read_text()
        if kind == "coco":
            file.write_text(text.replace("640", "64"))
        else:
            first = text.splitlines()[0]
            second = first.replace('"a"', '"b"').replace("a.png", "b.png")
            file.write_text(f"{first}\n{second}\n")
    put_image(folder / "images" / "a.png")
    return folder


def _huge_png() -> bytes:
    """A PNG whose header declares 10^10 pixels and which has none."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


KINDS = ["coco", "dota", "yolo", "jsonl", "voc"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damage", ["truncated", "header", "huge", "text", "empty"])
def test_a_damaged_image_fails_alone(tmp_path: Path, kind: str, damage: str) -> None:
    folder = _good_set(kind, tmp_path / "set")
    image = folder / "images" / "b.png"
    put_image(image)
    whole = image.read_bytes()
    content = {
        "truncated": whole[: len(whole) // 2],  # the header still says 64 x 48
        "header": whole[:20],
        "huge": _huge_png(),
        "text": b"not an image",
        "empty": b"",
    }[damage]
    image.write_bytes(content)

    dataset = read_dataset(folder, format=kind)

    expected = {"truncated": "TruncatedImage", "huge": "TooManyPixels"}.get(damage, "BadImage")
    assert [f.error for f in dataset.failures] == [expected]
    assert [Path(s.image or "").name for s in dataset] == ["a.png"]
    assert str(tmp_path) not in dataset.failures[0].message
    assert_counts_add_up(dataset)


@pytest.mark.parametrize(("suffix", "failure"), [(".jpg", "TruncatedImage"), (".webp", "BadImage")])
def test_a_truncated_lossy_image_is_seen_without_decoding(
    tmp_path: Path, suffix: str, failure: str
) -> None:
    folder = _good_set("yolo", tmp_path / "set")
    image = folder / "images" / f"b{suffix}"
    put_image(image, 256, 256)
    assert len(read_dataset(folder)) == 2
    image.write_bytes(image.read_bytes()[:-2000])
    dataset = read_dataset(folder)
    assert [f.error for f in dataset.failures] == [failure]


@pytest.mark.parametrize("kind", ["dota", "yolo"])
def test_a_label_file_that_is_not_utf8_fails_with_its_line(tmp_path: Path, kind: str) -> None:
    folder = _good_set(kind, tmp_path / "set")
    put_image(folder / "images" / "b.png")
    labels = next(folder.rglob("b.txt"))
    labels.write_bytes(labels.read_bytes() + b"4 4 20 4 20 16 4 16 caf\xe9 0\n")
    dataset = read_dataset(folder, format=kind)
    assert [f.error for f in dataset.failures] == ["NotUtf8"]
    assert "line 2" in dataset.failures[0].message
    assert len(dataset) == 1
    assert_counts_add_up(dataset)


@pytest.mark.parametrize("kind", ["coco", "jsonl"])
def test_a_json_file_that_is_not_utf8_is_refused_with_its_line(tmp_path: Path, kind: str) -> None:
    folder = _good_set(kind, tmp_path / "set")
    file = next(folder.rglob("*.json*"))
    file.write_bytes(file.read_bytes().replace(b"plane", b"pl\xe9ne", 1))
    with pytest.raises(DataError, match="not UTF-8"):
        read_dataset(folder, format=kind)


@pytest.mark.parametrize("kind", KINDS)
def test_two_files_of_one_name_are_not_guessed_at(tmp_path: Path, kind: str) -> None:
    """a.png and a.jpg: which one do the labels of 'a' belong to? One is left out by name."""
    folder = _good_set(kind, tmp_path / "set")
    put_image(folder / "images" / "b.png")
    put_image(folder / "images" / "b.jpg")
    dataset = read_dataset(folder, format=kind)
    expected = [] if kind in ("coco", "jsonl") else ["DuplicateId"]
    assert [f.error for f in dataset.failures] == expected
    assert_counts_add_up(dataset)


def test_a_names_file_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    """`path: /etc` and `train: ../../../images` of a foreign data.yaml are not followed."""
    put_image(tmp_path / "images" / "secret.png")
    folder = copy_bad("yolo", "path-escape", tmp_path / "deep" / "set", ["images/a.png"])
    dataset = read_dataset(folder)
    assert [s.id for s in dataset] == ["images/a.png"]
    assert [s.split for s in dataset] == ["train"]


def test_a_missing_path_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        read_dataset(tmp_path / "nowhere")
