"""Semantic masks: what pixels mean, how masks and images meet, objects, writing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import rasterio
import yaml
from affine import Affine
from PIL import Image

from rsgen.classes import class_template_names, load_class_table, load_legend
from rsgen.errors import DataError, UsageError
from rsgen.formats import Dataset, detect, read_dataset
from rsgen.formats.common import Problem
from rsgen.formats.holding import as_held, losses
from rsgen.formats.mask_parts import cut_parts
from rsgen.formats.mask_pixels import classify, read_mask
from rsgen.formats.masks import FORMAT, same_classes
from rsgen.formats.masks_write import MasksWriter, distinct_colors
from rsgen.formats.names import LabelNames
from rsgen.legend import Legend, legend_to_yaml
from rsgen.records import ClassTable, Instance, ObjectClass
from rsgen.store import input_ref
from tests.formats_build import (
    CLASSES,
    HEIGHT,
    WIDTH,
    assert_counts_add_up,
    by_stem,
    disk_mask,
    plane,
    put_image,
    sample_of,
    tank,
    write,
)

HOUSE, WATER = ObjectClass("house"), ObjectClass("water", kind="stuff")


def legend(**more: Any) -> Legend:
    found = Legend.of([(HOUSE, 1, (255, 0, 0)), (WATER, 2, (0, 0, 255))], **more)
    assert found is not None
    return found


def drawn() -> npt.NDArray[np.uint8]:
    """Values on the usual canvas: two houses, water on the right, the rest 0."""
    values = np.zeros((HEIGHT, WIDTH), np.uint8)
    values[:, 44:] = 2
    values[4:12, 4:16] = 1
    values[20:40, 8:30] = 1
    return values


def colored(values: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.array([[0, 0, 0], [255, 0, 0], [0, 0, 255]], np.uint8)[values]


def put_mask(path: Path, pixels: npt.NDArray[Any] | None = None, **more: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(drawn() if pixels is None else pixels).save(path, **more)


def put_set(folder: Path, image: str = "images/a.png", mask: str = "masks/a.png") -> Path:
    put_image(folder / image)
    put_mask(folder / mask)
    return folder


def shapes(dataset: Dataset) -> list[tuple[str, int]]:
    """(class, pixels) of every instance."""
    return sorted(
        (i.label, 0 if i.mask is None else i.mask.area) for s in dataset for i in s.layout.instances
    )


EXPECTED = [("house", 96), ("house", 440), ("water", 48 * 20)]


# ---------------------------------------------------------------- kinds of pixels


def _palette(values: npt.NDArray[np.uint8]) -> Image.Image:
    image = Image.fromarray(values)
    image.putpalette([9, 9, 9, 255, 0, 0, 0, 0, 255])
    return image


def _with_alpha(values: npt.NDArray[np.uint8]) -> Image.Image:
    alpha = np.where(values > 0, 255, 0).astype(np.uint8)
    rgb = colored(values)
    rgb[values == 0] = 77  # a colour of no class where nothing is seen
    return Image.fromarray(np.dstack([rgb, alpha]))


KINDS: dict[str, Callable[[npt.NDArray[np.uint8]], Image.Image]] = {
    "index": lambda v: Image.fromarray(v),
    "index, 16 bits": lambda v: Image.fromarray(v.astype(np.uint16)),
    "index, 32 bits": lambda v: Image.fromarray(v.astype(np.int32)),
    "palette": _palette,
    "colours": lambda v: Image.fromarray(colored(v)),
    "colours and alpha": _with_alpha,
    "grey in three channels": lambda v: Image.fromarray(np.dstack([v, v, v])),
}


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_mask_says_the_same(tmp_path: Path, kind: str, suffix: str) -> None:
    """Catches palette indices read as colours, and 16-bit values cut to 8."""
    image = KINDS[kind](drawn())
    if suffix == ".png" and image.mode == "I":
        image = Image.fromarray(drawn().astype(np.uint16))
    put_image(tmp_path / "images/a.png")
    (tmp_path / "masks").mkdir()
    image.save(tmp_path / f"masks/a{suffix}")
    dataset = read_dataset(tmp_path, legend=legend())
    assert not dataset.failures
    assert shapes(dataset) == EXPECTED
    (sample,) = dataset.records
    assert (sample.id, sample.image) == ("images/a.png", "images/a.png")
    assert all((i.box is None) == (i.label == "water") for i in sample.layout.instances)
    assert sample.layout.instances[0].label == "water"  # stuff is painted first


@pytest.mark.parametrize(("bits", "top"), [(4, 15), (2, 3), (1, 1)])
def test_grey_of_few_bits_is_not_spread(tmp_path: Path, bits: int, top: int) -> None:
    """Pillow opens grey of 2 and 4 bits as 0..255: index 1 became 17, and no class at all."""
    import struct
    import zlib

    values = np.zeros((4, 8), np.uint8)
    values[1:3, 2:6] = top
    per = 8 // bits
    packed = sum(values[:, k::per].astype(int) << (8 - bits * (k + 1)) for k in range(per))
    rows = b"".join(b"\0" + bytes(row) for row in np.asarray(packed, np.uint8))

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 4, bits, 0, 0, 0, 0))
    (tmp_path / "m.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
    mask = read_mask(tmp_path / "m.png", "m.png", 1000)
    assert np.array_equal(mask.codes, values)


@pytest.mark.parametrize("kind", ["nodata", "palette", "tiles"])
def test_rasters_of_classes(tmp_path: Path, kind: str) -> None:
    """OpenEarthMap's labels are GeoTIFF: tiled, compressed, with a nodata value."""
    put_image(tmp_path / "images/a.png")
    (tmp_path / "labels").mkdir()
    values: npt.NDArray[Any] = drawn().astype(np.int16)
    more: dict[str, Any] = {"tiled": True, "blockxsize": 16, "blockysize": 16}
    if kind == "nodata":
        values[values == 0] = -1
        more["nodata"] = -1
    if kind == "palette":
        values = drawn()
    with rasterio.open(
        tmp_path / "labels/a.tif", "w", driver="GTiff", width=WIDTH, height=HEIGHT, count=1,
        dtype=values.dtype, compress="deflate", transform=Affine(0.5, 0, 9, 0, -0.5, 9), **more,
    ) as file:  # fmt: skip
        file.write(values, 1)
        if kind == "palette":
            file.write_colormap(1, {0: (9, 9, 9), 1: (255, 0, 0), 2: (0, 0, 255)})
    assert shapes(read_dataset(tmp_path, legend=legend())) == EXPECTED
    if kind == "palette":
        rows = [(HOUSE, None, (255, 0, 0)), (WATER, None, (0, 0, 255))]
        colours = Legend.of(rows, unlabelled=[(9, 9, 9)])
        assert shapes(read_dataset(tmp_path, legend=colours)) == EXPECTED


def test_a_palette_whose_legend_has_colours_alone(tmp_path: Path) -> None:
    put_image(tmp_path / "images/a.png")
    (tmp_path / "masks").mkdir()
    swapped = np.array([0, 2, 1], np.uint8)[drawn()]
    image = Image.fromarray(swapped)
    image.putpalette([0, 0, 0, 0, 0, 255, 255, 0, 0])
    image.save(tmp_path / "masks/a.png")
    colours = Legend.of([(HOUSE, None, (255, 0, 0)), (WATER, None, (0, 0, 255))])
    assert shapes(read_dataset(tmp_path, legend=colours)) == EXPECTED


def test_values_are_no_colours_that_are_a_little_off(tmp_path: Path) -> None:
    """DeepGlobe's masks as indices with its colour table: all would be black, and empty."""
    folder = put_set(tmp_path)
    (failure,) = read_dataset(folder, legend=load_legend("deepglobe")).failures
    assert failure.error == "UnknownValue"
    assert "it has colours alone" in failure.message
    binary = np.where(drawn() == 1, 255, 0).astype(np.uint8)
    put_mask(folder / "masks/a.png", binary)
    white = Legend.of([(HOUSE, None, (255, 255, 255))])
    assert shapes(read_dataset(folder, legend=white)) == EXPECTED[:2]


def test_colours_that_are_a_little_off(tmp_path: Path) -> None:
    """DeepGlobe's masks are cut at 128; without a tolerance most pixels are of no class."""
    rng = np.random.default_rng(0)
    noisy = colored(drawn()).astype(int) + rng.integers(-100, 100, (HEIGHT, WIDTH, 3))
    put_image(tmp_path / "1_sat.jpg")
    put_mask(tmp_path / "1_mask.png", np.clip(noisy, 0, 255).astype(np.uint8))
    assert shapes(read_dataset(tmp_path, legend=legend(tolerance=127))) == EXPECTED
    (failure,) = read_dataset(tmp_path, legend=legend()).failures
    assert failure.error == "UnknownColor"


def test_a_few_stray_colours_are_remarked_and_more_fail(tmp_path: Path) -> None:
    folder = put_set(tmp_path)
    pixels = colored(drawn())
    pixels[0, :2] = (1, 2, 3)
    put_mask(folder / "masks/a.png", pixels)
    dataset = read_dataset(folder, legend=legend())
    assert "taken as unlabelled (2 times)" in dataset.notes[-1]
    pixels[0, :40] = (1, 2, 3)
    put_mask(folder / "masks/a.png", pixels)
    (failure,) = read_dataset(folder, legend=legend()).failures
    assert "[1, 2, 3] (40 pixels)" in failure.message
    assert "40 of 3072 pixels" in failure.message


def test_unlabelled_values(tmp_path: Path) -> None:
    folder = put_set(tmp_path)
    values = drawn()
    values[40:, :10] = 255
    put_mask(folder / "masks/a.png", values)
    assert shapes(read_dataset(folder, legend=legend(unlabelled=[255]))) == EXPECTED
    (failure,) = read_dataset(folder, legend=legend()).failures
    assert failure.error == "UnknownValue"
    assert "255 (80 pixels); it has 1, 2" in failure.message


# ---------------------------------------------------------------- finding pairs

PLACES = [
    ("images/a.png", "masks/a.png"),
    ("images/a.jpg", "labels/a.png"),
    ("images/a.tif", "labels/a.tif"),
    ("images_png/3.png", "masks_png/3.png"),
    ("JPEGImages/a.jpg", "SegmentationClass/a.png"),
    ("img_dir/a.png", "ann_dir/a.png"),
    ("119_sat.jpg", "119_mask.png"),
    ("a.png", "a_mask.png"),
    ("a.png", "a_lab.png"),
    ("train/images/a.png", "train/masks/a.png"),
    ("images/train/a.png", "masks/train/a.png"),
    ("images/a.png", "masks/a_mask.png"),
    ("images/x_image_3.png", "masks/x_mask_3.png"),
    ("aachen/images/aachen_1.tif", "aachen/labels/aachen_1.tif"),
]


@pytest.mark.parametrize(("image", "mask"), PLACES, ids=[m for _, m in PLACES])
def test_layouts_of_folders(tmp_path: Path, image: str, mask: str) -> None:
    folder = put_set(tmp_path, image, mask)
    assert detect(folder).format == "masks"
    dataset = read_dataset(folder, legend=legend())
    assert [s.id for s in dataset] == [image]
    assert not dataset.failures
    assert dataset.records[0].split == ("train" if "train" in image else None)


def test_masks_that_lie_apart(tmp_path: Path) -> None:
    put_image(tmp_path / "pictures/a.png")
    put_mask(tmp_path / "elsewhere/a.png")
    dataset = read_dataset(
        tmp_path / "pictures", images=tmp_path / "pictures", labels=tmp_path / "elsewhere",
        legend=legend(),
    )  # fmt: skip
    assert dataset.format == "masks"
    assert shapes(dataset) == EXPECTED


@pytest.mark.parametrize("channels", [1, 3])
def test_masks_alone_are_layouts(channels: int, tmp_path: Path) -> None:
    """Also as EarthSynth's demo has them: an index three times."""
    put_mask(tmp_path / "masks/a.png")
    if channels == 3:
        with Image.open(tmp_path / "masks/a.png") as image:
            grey = np.asarray(image)
        Image.fromarray(np.stack([grey] * 3, axis=-1)).save(tmp_path / "masks/a.png")
    dataset = read_dataset(tmp_path, legend=legend(), require_images=False)
    assert dataset.format == "masks"
    assert shapes(dataset) == EXPECTED
    assert dataset.records[0].image is None
    (failure,) = read_dataset(tmp_path, format="masks", legend=legend()).failures
    assert failure.error == "MissingImage"


def test_equal_names_in_two_folders_do_not_mix(tmp_path: Path) -> None:
    """LoveDA numbers urban and rural images apart."""
    for place in ("Urban", "Rural"):
        put_set(tmp_path, f"Train/{place}/images_png/0.png", f"Train/{place}/masks_png/0.png")
    put_mask(tmp_path / "Train/Urban/masks_png/0.png", np.full((HEIGHT, WIDTH), 2, np.uint8))
    put_image(tmp_path / "Test/Urban/images_png/9.png")
    dataset = read_dataset(tmp_path, legend=legend())
    found = {s.id.split("/")[1]: len(s.layout.instances) for s in dataset}
    assert found == {"Urban": 1, "Rural": 3}
    assert any("folders without any mask (1 times)" in note for note in dataset.notes)
    assert not dataset.failures


def test_other_labels_beside_masks_go_first(tmp_path: Path) -> None:
    """VOC folders hold both: the boxes are what `auto` means, masks are asked for by name."""
    folder = put_set(tmp_path, "images/a.png", "masks/a.png")
    (folder / "labels").mkdir()
    (folder / "labels/a.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    assert detect(folder).format == "yolo"
    assert shapes(read_dataset(folder, format="masks", legend=legend())) == EXPECTED


# ---------------------------------------------------------------- what is wrong


def _jpeg(folder: Path) -> None:
    (folder / "masks/b.png").unlink()
    put_mask(folder / "masks/b.jpg", colored(drawn()))


def _jpeg_in_tiff(folder: Path) -> None:
    (folder / "masks/b.png").unlink()
    put_mask(folder / "masks/b.tif", colored(drawn()), compression="jpeg")


def _float(folder: Path) -> None:
    (folder / "masks/b.png").unlink()
    put_mask(folder / "masks/b.tif", drawn().astype(np.float32))


def _deep(folder: Path) -> None:
    deep = np.full((HEIGHT, WIDTH, 3), 256, np.uint16)
    assert cv2.imwrite(str(folder / "masks/b.png"), deep)


def _negative(folder: Path) -> None:
    (folder / "masks/b.png").unlink()
    put_mask(folder / "masks/b.tif", drawn().astype(np.int32) - 1)


def _truncated(folder: Path) -> None:
    whole = (folder / "masks/b.png").read_bytes()
    (folder / "masks/b.png").write_bytes(whole[: len(whole) // 2])


def _garbage(folder: Path) -> None:
    whole = bytearray((folder / "masks/b.png").read_bytes())
    at = whole.index(b"IDAT")
    whole[at + 6 : at + 20] = b"\xff" * 14
    (folder / "masks/b.png").write_bytes(bytes(whole))


BAD = {
    "another size": (
        lambda f: put_mask(f / "masks/b.png", np.zeros((8, 9), np.uint8)),
        "WrongSize", "the mask is 9 x 8, the image 64 x 48",
    ),
    "jpeg": (_jpeg, "LossyMask", "the mask is a JPEG"),
    "jpeg in tiff": (_jpeg_in_tiff, "LossyMask", "the mask is a TIFF"),
    "float": (_float, "BadMask", "kind 1 bands of float32"),
    # Pillow drops the low bytes of 16-bit colours: (256, 256, 256) would be (1, 1, 1).
    "16-bit colours": (_deep, "BadMask", "kind RGB RGB;16B"),
    "negative": (_negative, "BadMask", "values from -1 to 1"),
    "truncated": (_truncated, "TruncatedImage", "ends too early"),
    "garbage": (_garbage, "BadMask", "damaged mask"),
    "empty": (lambda f: (f / "masks/b.png").write_bytes(b""), "BadMask", "not a readable image"),
    "no mask": (lambda f: (f / "masks/b.png").unlink(), "MissingLabels", "no mask for this image"),
    "no image": (lambda f: (f / "images/b.png").unlink(), "MissingImage", "no image for the key"),
    "two masks": (
        lambda f: put_mask(f / "masks/b.tif"), "DuplicateId", "is of the same image",
    ),
    "two images": (lambda f: put_image(f / "images/b.jpg"), "DuplicateId", "has the same name"),
    "unknown value": (
        lambda f: put_mask(f / "masks/b.png", np.full((HEIGHT, WIDTH), 7, np.uint8)),
        "UnknownValue", "7 (3072 pixels)",
    ),
    "unknown colour": (
        lambda f: put_mask(f / "masks/b.png", np.full((HEIGHT, WIDTH, 3), (1, 2, 9), np.uint8)),
        "UnknownColor", "[1, 2, 9] (3072 pixels)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("rule", BAD)
def test_a_bad_mask_fails_alone(tmp_path: Path, rule: str) -> None:
    folder = put_set(tmp_path / "set")
    put_set(folder, "images/b.png", "masks/b.png")
    spoil, error, text = BAD[rule]
    spoil(folder)  # type: ignore[no-untyped-call]
    dataset = read_dataset(folder, format="masks", legend=legend())
    assert [f.error for f in dataset.failures] == [error]
    message = dataset.failures[0].message
    assert text in message
    assert "; fix: " in message
    assert str(tmp_path) not in message
    assert by_stem(dataset)["a"].layout.instances
    assert_counts_add_up(dataset)


def test_a_class_outside_the_table_fails_alone(tmp_path: Path) -> None:
    folder = put_set(tmp_path)
    dataset = read_dataset(folder, legend=legend(), classes=ClassTable.of("house"))
    assert [f.error for f in dataset.failures] == ["UnknownClass"]
    assert shapes(dataset) == EXPECTED[:2]
    mapped = read_dataset(
        folder, legend=legend(), classes=ClassTable.of("house"), class_map={"water": "house"}
    )
    assert [label for label, _ in shapes(mapped)] == ["house"] * 3


def test_a_mask_of_too_many_pixels_is_not_decoded(tmp_path: Path) -> None:
    put_mask(tmp_path / "m.png")
    with pytest.raises(Problem) as caught:
        read_mask(tmp_path / "m.png", "m.png", 1000)
    assert caught.value.name == "TooManyPixels"


def test_nothing_says_what_pixels_mean(tmp_path: Path) -> None:
    """The message can be pasted: the YAML in it is a legend."""
    folder = put_set(tmp_path)
    with pytest.raises(DataError) as caught:
        read_dataset(folder)
    assert "1 of them have 0 (" in caught.value.message
    hint = caught.value.hint or ""
    (tmp_path / "own.yaml").write_text(hint[hint.index("classes:") :])
    found = load_legend(tmp_path / "own.yaml")
    assert found is not None
    assert found.values == {1: "NAME_1", 2: "NAME_2"}
    put_mask(folder / "masks/a.png", colored(drawn()))
    with pytest.raises(DataError) as caught:
        read_dataset(folder)
    assert "color: [0, 0, 255]" in (caught.value.hint or "")


def test_the_folders_own_legend_goes_first(tmp_path: Path) -> None:
    folder = put_set(tmp_path)
    own = Legend.of([(WATER, 1, None), (HOUSE, 2, None)])
    assert own is not None
    (folder / "legend.yaml").write_text(yaml.safe_dump(legend_to_yaml(own)))
    assert [label for label, _ in shapes(read_dataset(folder))] == ["house", "water"]
    dataset = read_dataset(folder, legend=legend(), classes=legend().table)
    assert [label for label, _ in shapes(dataset)] == ["house", "water"]
    assert any("legend.yaml" in note for note in dataset.notes)
    (folder / "legend.yaml").write_text("classes: [{name: a, value: 1}, {name: b, value: 1}]")
    with pytest.raises(DataError, match=r"legend\.yaml: value 1 belongs to both 'a' and 'b'"):
        read_dataset(folder)


# ---------------------------------------------------------------- legends


@pytest.mark.parametrize(
    ("name", "key", "expected"),
    [
        ("loveda", 7, "agriculture"),
        ("loveda", (159, 129, 183), "barren"),
        ("openearthmap", 8, "building"),
        ("openearthmap", (0, 255, 36), "rangeland"),
        ("deepglobe", (255, 0, 255), "rangeland"),
        ("deepglobe", (0, 255, 255), "urban land"),
        ("earthsynth-67", 25, "storage tank"),
        ("earthsynth-67", 66, "warship"),
    ],
)
def test_class_tables_have_legends(name: str, key: Any, expected: str) -> None:
    found = load_legend(name)
    assert found is not None
    names: dict[Any, str] = {**found.values, **found.colors}
    assert names[key] == expected
    assert found.table == load_class_table(name)


def test_every_legend_survives_yaml(tmp_path: Path) -> None:
    checked = 0
    for name in class_template_names():
        found = load_legend(name)
        if found is None:
            continue
        checked += 1
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(legend_to_yaml(found)))
        assert load_legend(path) == found
    assert checked == 4


def test_a_table_without_values_is_no_legend() -> None:
    assert load_legend("dior-r") is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("classes: [{name: a, value: 1}, {name: b, value: 1}]", "value 1 belongs to both"),
        ("classes: [{name: a, color: [1, 2, 3]}, {name: b, color: [1, 2, 3]}]", "[1, 2, 3]"),
        ("classes: [{name: a, value: 1}]\nunlabelled: [1]", "both unlabelled and 'a'"),
        ("classes: [{name: a, value: 1}]\nunlabelled: 255", "expected a list"),
        ("classes: [{name: a, value: 1}]\nunlabelled: [x]", "'x' in `unlabelled:`"),
        ("classes: [{name: a, color: [1, 2, 300]}]", "out of range"),
        ("classes: [{name: a, color: [1, 2]}]", "color"),
        ("classes: [{name: a, value: 70000}]", "value"),
        ("classes: [{name: a, value: 1}]\ntolerance: 200", "tolerance 200"),
        ("classes: [{name: a, value: 1}]\nunlabeled: [0]", "one key"),
    ],
)
def test_legends_with_mistakes(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        load_legend(path)
    assert problem in caught.value.message
    assert str(path) in caught.value.message


# ---------------------------------------------------------------- objects


def test_small_parts_are_left_out_and_counted(tmp_path: Path) -> None:
    folder = put_set(tmp_path)
    dataset = read_dataset(folder, legend=legend(), min_area_px=97)
    assert shapes(dataset) == EXPECTED[1:]
    assert "parts of masks under 97 pixels left out (1 times)" in dataset.notes


def test_parts_that_touch_at_a_corner_are_one() -> None:
    places = np.zeros((8, 8), np.uint16)
    places[:4, :4] = places[4:, 4:] = 1
    parts = cut_parts(places, ("house",), LabelNames(None, {}), 1)
    assert len(parts.instances) == 1


def test_a_hundred_thousand_parts_end_in_time() -> None:
    """Catches a pass over the whole mask for each part: this took hours."""
    places = np.zeros((1000, 1000), np.uint16)
    places[::3, ::3] = 1
    parts = cut_parts(places, ("house",), LabelNames(None, {}), 2)
    assert (len(parts.instances), parts.small) == (0, 334 * 334)
    places[1::3, ::3] = 1
    places[300:] = 0
    parts = cut_parts(places, ("house",), LabelNames(None, {}), 2)
    assert len(parts.instances) == 100 * 334


def test_a_labyrinth_is_refused_by_name() -> None:
    """Nested angles: the boxes of their parts add up to many times the mask."""
    rows, columns = np.mgrid[0:2400, 0:2400]
    places = (np.minimum(rows, columns) % 2).astype(np.uint16)
    parts = cut_parts(places, ("house",), LabelNames(None, {}), 1)
    assert [problem.name for _, problem in parts.problems] == ["TooManyParts"]


# ---------------------------------------------------------------- writing


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    water = Instance("water", mask=disk_mask(40, 30, 16))
    samples = [
        sample_of("a", water, plane(20, 20, 16, 8, 0.4), tank(50, 12, 8, 4)),
        sample_of("b", plane(2, 40, 20, 9, 2.0), split="val"),
        sample_of("c"),
    ]
    report = write(MasksWriter(), samples, tmp_path)
    assert (report.images, report.files) == (3, ("legend.yaml", "masks"))
    dataset = read_dataset(tmp_path, classes=CLASSES)
    assert not dataset.failures
    read = by_stem(dataset)
    assert {name: s.split for name, s in read.items()} == {"a": "train", "b": "val", "c": "train"}
    for sample in samples:
        held = as_held(sample, CLASSES, FORMAT)
        assert same_classes(held, read[sample.id], CLASSES) is None
    with Image.open(tmp_path / "masks/train/a.png") as image:
        assert image.mode == "P"
        assert set(np.unique(np.asarray(image))) == {0, 1, 2, 3}
    # without a table the legend brings the classes, with kinds and aliases
    assert read_dataset(tmp_path).classes == CLASSES


def test_what_is_lost_is_said(tmp_path: Path) -> None:
    def ship(cx: float, cy: float, radius: float) -> Instance:
        mask = disk_mask(cx, cy, radius)
        return Instance("ship", mask.box, mask=mask)

    hidden, cover = ship(30, 24, 3), tank(30, 24, 4)
    small = Instance("storage tank", tank(50, 24, 3).box, mask=disk_mask(50, 24, 3))
    layout = (ship(50, 24, 5), small, cover, hidden, ship(10, 10, 4), ship(17.5, 10, 4))
    sample = sample_of("a", *layout)
    # painted in the layout's order, whatever the list says: the small ship lies on the tank
    report = write(MasksWriter(), [sample], tmp_path)
    assert report.notes == (
        "2 objects touch another of their class and come back as one with it",
        "2 objects are covered in part by others, and come back without that part",
    )
    found = losses(sample_of("a", plane(20, 20, 16, 8, 0.4)), CLASSES, FORMAT)
    assert found["headings"] == found["oriented boxes"] == 1


def test_many_classes_need_sixteen_bits(tmp_path: Path) -> None:
    many = ClassTable(tuple(ObjectClass(f"class {k}") for k in range(300)))
    box = tank(20, 20, 6).box
    sample = sample_of("a", Instance("class 299", box), Instance("class 3", tank(40, 20, 4).box))
    writer = MasksWriter()
    writer.open(tmp_path, many, ("train",))
    put_image(tmp_path / writer.image_path("a.png", "train", sample))
    writer.add(sample, "a.png", "train")
    writer.close()
    dataset = read_dataset(tmp_path, classes=many)
    assert [label for label, _ in shapes(dataset)] == ["class 299", "class 3"]


def test_written_colours_are_distinct() -> None:
    assert len(set(distinct_colors(255)) | {(0, 0, 0)}) == 256


def test_another_pixel_is_a_difference() -> None:
    a = sample_of("a", Instance("ship", mask=disk_mask(20, 20, 6)))
    b = sample_of("a", Instance("ship", mask=disk_mask(20, 20, 7)))
    assert same_classes(a, a, CLASSES) is None
    assert "pixels of another class" in (same_classes(a, b, CLASSES) or "")


def test_classify_returns_places_of_the_table(tmp_path: Path) -> None:
    put_mask(tmp_path / "m.png", colored(drawn()))
    places, stray = classify(read_mask(tmp_path / "m.png", "m", 10_000), legend())
    assert (places == drawn()).all()
    assert stray == 0


def test_a_redrawn_mask_is_another_input(tmp_path: Path) -> None:
    """Images count by size alone; a corrected mask of the same size was taken for done."""
    folder = put_set(tmp_path)
    before = input_ref("dataset", folder)
    mask = folder / "masks/a.png"
    data = bytearray(mask.read_bytes())
    data[-20] ^= 1
    mask.write_bytes(bytes(data))
    assert input_ref("dataset", folder) != before
    after = input_ref("dataset", folder)
    image = folder / "images/a.png"
    image.write_bytes(image.read_bytes()[::-1])
    assert input_ref("dataset", folder) == after
