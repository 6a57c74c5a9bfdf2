"""Rasters: headers, the 8-bit view of every number type, windows, damage and bounds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.transform import Affine

from rsgen.errors import DataError
from rsgen.geometry import Window
from rsgen.georaster import GeoRaster, ground_gsd, is_raster, probe_raster
from rsgen.images import image_size, open_scene, read_image, read_window, write_png
from tests.raster_build import GSD, NORTH_UP, UTM, noise, put_raster

RED, GREEN, BLUE = ColorInterp.red, ColorInterp.green, ColorInterp.blue
ALPHA, GREY, OTHER = ColorInterp.alpha, ColorInterp.gray, ColorInterp.undefined


def read(path: Path) -> tuple[Any, Any]:
    with GeoRaster(path) as raster:
        found = raster.read()
    return found.pixels, found.valid


def stretched(band: Any, counted: Any = None) -> Any:
    """The documented stretch, said a second time."""
    values = np.asarray(band, dtype=np.float64)
    low, high = np.percentile(values if counted is None else values[counted], (2, 98))
    return np.clip(np.round((values - low) / (high - low) * 255), 0, 255)


# ---------------------------------------------------------------- number types


def test_uint8_is_shown_unchanged(tmp_path: Path) -> None:
    """Catches a stretch of photographs, which would change every colour that a model learns."""
    bands = noise(3, 40, 50)
    pixels, valid = read(put_raster(tmp_path / "a.tif", bands))
    np.testing.assert_array_equal(pixels, np.moveaxis(bands, 0, -1))
    assert pixels.dtype == np.uint8 and pixels.shape == (40, 50, 3) and valid.all()


@pytest.mark.parametrize("dtype", ["uint16", "int16", "uint32", "int32", "float32", "float64"])
def test_other_numbers_are_stretched_band_by_band_by_percentiles(
    dtype: str, tmp_path: Path
) -> None:
    """Catches the low byte alone, a stretch by the extremes, and one over all bands."""
    bands = noise(3, 60, 70, dtype)
    bands[1] = bands[1] // 4
    bands[0, 0, 0] = np.finfo(dtype).max if dtype[0] == "f" else np.iinfo(dtype).max
    pixels, valid = read(put_raster(tmp_path / "a.tif", bands))
    assert valid.all()
    for band in range(3):
        off = np.abs(pixels[..., band].astype(float) - stretched(bands[band]))
        assert off.max() <= 1, "a half may round either way"
        assert pixels[..., band].min() == 0 and pixels[..., band].max() == 255


def test_a_constant_band_is_middle_grey_and_almost_constant_ones_show_their_extremes(
    tmp_path: Path,
) -> None:
    """Catches a division by zero where both percentiles are one value."""
    flat = np.full((1, 30, 30), 700, np.uint16)
    assert set(read(put_raster(tmp_path / "flat.tif", flat))[0].ravel()) == {128}
    flat[0, 0, 0] = 900
    pixels, _ = read(put_raster(tmp_path / "spot.tif", flat))
    assert pixels[0, 0, 0] == 255 and pixels[5, 5, 0] == 0


def test_complex_numbers_are_refused_by_name(tmp_path: Path) -> None:
    path = put_raster(tmp_path / "a.tif", np.ones((1, 8, 8), np.complex64))
    with pytest.raises(DataError, match="complex64"):
        read_image(path)


# ---------------------------------------------------------------- what has no data


def test_nan_and_infinity_are_black_invalid_and_not_counted(tmp_path: Path) -> None:
    """Catches NaN percentiles (a black picture), and NaN cast to an arbitrary grey."""
    bands = noise(1, 50, 50, "float32")
    bands[0, :20] = np.nan
    bands[0, 20:22] = np.inf
    bands[0, 22:24] = -np.inf
    pixels, valid = read(put_raster(tmp_path / "a.tif", bands))
    assert not valid[:24].any() and valid[24:].all()
    assert not pixels[:24].any()
    assert np.abs(pixels[24:, :, 0] - stretched(bands[0, 24:])).max() <= 1


def test_a_band_that_lacks_a_value_is_dark_there_and_the_pixel_stays(tmp_path: Path) -> None:
    bands = noise(3, 40, 40, "float32")
    bands[0, :10] = np.nan
    pixels, valid = read(put_raster(tmp_path / "a.tif", bands))
    assert valid.all() and not pixels[:10, :, 0].any() and pixels[:10, :, 1].any()


@pytest.mark.parametrize(
    ("dtype", "nodata"), [("int16", -9999), ("uint16", 0), ("float32", -3.4e38)]
)
def test_nodata_is_black_invalid_and_not_counted(dtype: str, nodata: float, tmp_path: Path) -> None:
    """Catches borders of -9999 that squeeze the picture into white, and float32 compared as
    double (-3.4e38 is not what the file holds)."""
    bands = noise(3, 50, 50, dtype)
    bands[:, :, :30] = nodata
    pixels, valid = read(put_raster(tmp_path / "a.tif", bands, nodata=nodata))
    assert not valid[:, :30].any() and valid[:, 30:].all()
    assert not pixels[:, :30].any()
    assert np.abs(pixels[:, 30:, 0] - stretched(bands[0, :, 30:])).max() <= 1


def test_one_band_at_the_nodata_value_is_a_colour_and_no_hole(tmp_path: Path) -> None:
    """Catches pure blue roofs cut out of a set whose nodata is 0."""
    bands = noise(3, 20, 20)
    bands[:2, 5, 5] = 0
    bands[:, 9, 9] = 0
    pixels, valid = read(put_raster(tmp_path / "a.tif", bands, nodata=0))
    assert valid[5, 5] and pixels[5, 5, 2] == bands[2, 5, 5]
    assert not valid[9, 9]


def test_white_as_nodata_stays_white_in_photographs(tmp_path: Path) -> None:
    """Catches black specks in saturated roofs: many 8-bit files name 255 as nodata."""
    bands = noise(3, 20, 20)
    bands[:, 3, 3] = 255
    pixels, valid = read(put_raster(tmp_path / "a.tif", bands, nodata=255))
    assert not valid[3, 3] and valid.sum() == 399
    assert pixels[3, 3].tolist() == [255, 255, 255]


def test_alpha_says_what_is_valid_and_is_not_shown(tmp_path: Path) -> None:
    bands = noise(4, 30, 30, "uint16")
    bands[3] = 65535
    bands[3, :10] = 0
    bands[:3, :10] = 60000  # what lies under alpha 0 may be anything
    path = put_raster(tmp_path / "a.tif", bands, colours=[BLUE, GREEN, RED, ALPHA])
    pixels, valid = read(path)
    assert not valid[:10].any() and valid[10:].all() and not pixels[:10].any()
    assert np.abs(pixels[10:, :, 0] - stretched(bands[2, 10:])).max() <= 1, "red is the third band"


def test_the_masks_inside_a_file_count_too(tmp_path: Path) -> None:
    mask = np.ones((30, 30), bool)
    mask[4:9] = False
    bands = noise(3, 30, 30)
    pixels, valid = read(put_raster(tmp_path / "a.tif", bands, mask=mask))
    np.testing.assert_array_equal(valid, mask)
    assert not pixels[~mask].any()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_nothing_but_nodata_is_a_black_picture_without_a_valid_pixel(
    dtype: str, tmp_path: Path
) -> None:
    """Catches percentiles of nothing, which warn (an error here) and give NaN."""
    path = put_raster(tmp_path / "a.tif", np.zeros((3, 40, 40), dtype), nodata=0)
    pixels, valid = read(path)
    assert not valid.any() and not pixels.any()


def test_a_small_valid_corner_of_a_large_scene_is_found(tmp_path: Path) -> None:
    """Catches a stretch taken from samples that all fell on nodata."""
    bands = np.zeros((1, 2100, 2100), np.uint16)
    bands[0, 80:100, 80:100] = noise(1, 20, 20, "uint16")[0]
    path = put_raster(tmp_path / "a.tif", bands, nodata=0, compress="deflate", tiled=True,
                      blockxsize=256, blockysize=256)  # fmt: skip
    found = read_window(path, Window(80, 80, 20, 20))
    assert found.valid.all()
    assert np.abs(found.pixels[..., 0] - stretched(bands[0, 80:100, 80:100])).max() <= 1


# ---------------------------------------------------------------- bands


def test_bands_shown() -> None:
    """Which bands are shown, by what the file says of them."""
    from rsgen.georaster.header import _colour_bands

    table = [
        ([GREY], None, (1,)),
        ([GREY, ALPHA], 2, (1,)),
        ([GREY, OTHER], None, (1,)),
        ([RED, GREEN, BLUE], None, (1, 2, 3)),
        ([BLUE, GREEN, RED, OTHER], None, (3, 2, 1)),
        ([GREY, OTHER, OTHER, OTHER], None, (1, 2, 3)),
        ([ALPHA, RED, GREEN, BLUE], 1, (2, 3, 4)),
        ([ALPHA, OTHER, OTHER, OTHER], 1, (2, 3, 4)),
    ]
    for kinds, alpha, expected in table:
        assert _colour_bands(kinds, alpha) == expected, kinds


def test_one_band_is_grey_and_four_show_three(tmp_path: Path) -> None:
    one = noise(1, 20, 20)
    pixels, _ = read(put_raster(tmp_path / "1.tif", one))
    assert all((pixels[..., k] == one[0]).all() for k in range(3))
    four = noise(4, 20, 20)
    path = put_raster(tmp_path / "4.tif", four, photometric="minisblack")
    with rasterio.open(path, "r+") as file:
        file.colorinterp = [GREY, OTHER, OTHER, OTHER]
    np.testing.assert_array_equal(read(path)[0], np.moveaxis(four[:3], 0, -1))


@pytest.mark.parametrize("mode", ["1", "P", "L", "CMYK", "RGBA"])
def test_plain_tiffs_look_as_pillow_shows_them(mode: str, tmp_path: Path) -> None:
    """Catches palette indices taken for grey, one-bit pictures that are black, inverted inks."""
    rng = np.random.default_rng(3)
    channels = {"CMYK": 4, "RGBA": 4}.get(mode)
    if mode == "P":
        image = Image.fromarray(rng.integers(0, 9, (20, 24)).astype(np.uint8), mode="P")
        image.putpalette(rng.integers(0, 255, 27).astype(np.uint8).tobytes())
    elif mode == "1":
        image = Image.fromarray(rng.integers(0, 2, (20, 24)).astype(bool))
    else:
        shape = (20, 24) if channels is None else (20, 24, channels)
        image = Image.fromarray(rng.integers(1, 255, shape).astype(np.uint8), mode=mode)
    image.save(tmp_path / "a.tif")
    expected = np.asarray(image.convert("RGB"), dtype=int)
    assert np.abs(read_image(tmp_path / "a.tif") - expected).max() <= (1 if mode == "CMYK" else 0)


# ---------------------------------------------------------------- where it lies


def test_header_of_a_georeferenced_raster(tmp_path: Path) -> None:
    info = probe_raster(put_raster(tmp_path / "a.tif", noise(3, 40, 50), nodata=7))
    assert (info.width, info.height, info.bands, info.dtype) == (50, 40, 3, "uint8")
    assert info.gsd_m == GSD and info.nodata == 7
    assert info.geo is not None and CRS.from_wkt(info.geo.crs) == CRS.from_string(UTM)
    assert info.geo.affine == tuple(NORTH_UP)[:6]


def test_without_a_crs_the_affine_stays_and_the_scale_is_unknown(tmp_path: Path) -> None:
    """Catches units that are guessed to be metres."""
    info = probe_raster(put_raster(tmp_path / "a.tif", noise(1, 9, 9), crs=None))
    assert info.geo is not None and info.geo.crs is None and info.gsd_m is None
    nowhere = probe_raster(put_raster(tmp_path / "b.tif", noise(1, 9, 9), crs=None, affine=None))
    assert nowhere.geo is None and nowhere.gsd_m is None


def test_a_world_file_places_a_plain_tiff(tmp_path: Path) -> None:
    put_raster(tmp_path / "a.tif", noise(1, 9, 9), crs=None, affine=None)
    (tmp_path / "a.tfw").write_text("2\n0\n0\n-2\n101\n199\n")
    assert probe_raster(tmp_path / "a.tif").affine == (2.0, 0.0, 100.0, 0.0, -2.0, 200.0)


TURNED = Affine.translation(5e5, 5.5e6) @ Affine.rotation(30) @ Affine.scale(0.5, -0.5)
GSDS = [
    ("projected", UTM, NORTH_UP, 0.5, 1e-12),
    ("rotated", UTM, TURNED, 0.5, 1e-9),
    ("not square", UTM, Affine(0.4, 0, 5e5, 0, -0.9, 5.5e6), 0.6, 1e-9),
    ("US feet", "EPSG:2263", Affine(1, 0, 1e6, 0, -1, 2e5), 0.3048006, 1e-6),
    # One degree of longitude at 40 degrees is 85.3937 km, of latitude 111.0347 km.
    ("degrees", "EPSG:4326", Affine(1e-5, 0, -106, 0, -1e-5, 40.0),
     math.sqrt(85393.7 * 111034.7) * 1e-5, 1e-4),
    ("degrees at the equator", "EPSG:4326", Affine(1e-5, 0, 10, 0, -1e-5, 0.0),
     math.sqrt(111319.5 * 110574.4) * 1e-5, 1e-4),
    # The metre of Web Mercator is cos(latitude) on the ground (the ellipsoid adds under 0.4 %).
    ("Web Mercator at 60 north", "EPSG:3857", Affine(1, 0, 0, 0, -1, 8399737.9), 0.5, 5e-3),
    ("Web Mercator at 0", "EPSG:3857", Affine(1, 0, 0, 0, -1, 0), 1.0, 5e-3),
]  # fmt: skip


@pytest.mark.parametrize(
    ("crs", "affine", "expected", "tolerance"), [row[1:] for row in GSDS], ids=[r[0] for r in GSDS]
)
def test_metres_a_pixel(crs: str, affine: Affine, expected: float, tolerance: float) -> None:
    """Catches degrees and feet taken for metres, x alone, rotated terms left out, and Web
    Mercator at face value (twice too coarse at 60 degrees)."""
    terms = tuple(affine)[:6]
    found = ground_gsd(CRS.from_string(crs), terms, (2, 2))
    assert found == pytest.approx(expected, rel=tolerance)


# ---------------------------------------------------------------- windows


@pytest.mark.parametrize("layout", ["stripes", "tiles"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_windows_are_crops_of_the_whole(dtype: str, layout: str, tmp_path: Path) -> None:
    """Catches a stretch by window, which shows one field in two greys in neighbouring tiles."""
    options: dict[str, Any] = (
        {"tiled": True, "blockxsize": 64, "blockysize": 64} if layout == "tiles" else {}
    )
    bands = noise(3, 1130, 300, dtype)
    bands[:, 600:] //= 4
    path = put_raster(tmp_path / "a.tif", bands, **options)
    whole = read_image(path)
    scene = open_scene(path)
    for window in (Window(0, 0, 100, 90), Window(250, 1100, 50, 30), Window(37, 501, 200, 300)):
        part = scene.read(window)
        rows = slice(window.y0, window.y0 + window.height)
        columns = slice(window.x0, window.x0 + window.width)
        np.testing.assert_array_equal(part.pixels, whole[rows, columns])
        assert part.valid.shape == (window.height, window.width)
    scene.close()
    np.testing.assert_array_equal(read_image(path), whole)


@pytest.mark.parametrize(
    "window",
    [Window(45, 0, 10, 10), Window(0, 35, 10, 10), Window(-1, 0, 5, 5), Window(0, 0, 0, 5)],
)
@pytest.mark.parametrize("kind", ["tif", "png"])
def test_a_window_over_the_border_is_refused(window: Window, kind: str, tmp_path: Path) -> None:
    """Catches windows that come back smaller than asked for, or wrapped around."""
    path = tmp_path / f"a.{kind}"
    if kind == "tif":
        put_raster(path, noise(3, 40, 50))
    else:
        write_png(path, np.zeros((40, 50, 3), np.uint8))
    with pytest.raises(DataError, match="reaches out of its 50 x 40 pixels"):
        read_window(path, window)


def test_other_images_have_windows_too(tmp_path: Path) -> None:
    pixels = np.moveaxis(noise(3, 40, 50), 0, -1)
    write_png(tmp_path / "a.png", pixels)
    found = read_window(tmp_path / "a.png", Window(40, 30, 10, 10))
    np.testing.assert_array_equal(found.pixels, pixels[30:40, 40:50])
    assert found.valid.all()


def test_a_huge_scene_is_read_by_windows_and_never_whole(tmp_path: Path) -> None:
    """Catches a limit on the scene instead of on what is decoded: 60,000 x 60,000 is legitimate."""
    path = tmp_path / "huge.tif"
    with rasterio.open(
        path, "w", driver="GTiff", width=60_000, height=60_000, count=3, dtype="uint16",
        tiled=True, blockxsize=256, blockysize=256, SPARSE_OK=True, BIGTIFF="YES",
        crs=UTM, transform=NORTH_UP, nodata=0,
    ):  # fmt: skip
        pass
    assert image_size(path) == (60_000, 60_000)
    with pytest.raises(DataError, match=r"60000 x 60000 pixels in one go, more than the limit"):
        read_image(path)
    with pytest.raises(DataError, match=r"blocks of 256 x 256 pixels, more than the limit of 999"):
        image_size(path, max_pixels=999)


# ---------------------------------------------------------------- damage


def test_kinds_are_told_by_content(tmp_path: Path) -> None:
    """Catches suffixes believed: a PNG called .tif is a PNG, a TIFF called .png a TIFF."""
    pixels = np.moveaxis(noise(3, 8, 8), 0, -1)
    write_png(tmp_path / "a.tif", pixels)
    put_raster(tmp_path / "b.png", noise(3, 8, 8))
    assert not is_raster(tmp_path / "a.tif") and is_raster(tmp_path / "b.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), read_image(tmp_path / "b.png"))
    assert not is_raster(tmp_path / "nowhere.tif")


def test_a_recipe_in_disguise_opens_no_other_file(tmp_path: Path) -> None:
    """Catches a VRT called .tif, which would read whatever file it names."""
    put_raster(tmp_path / "secret.tif", noise(1, 8, 8))
    source = (
        "<SimpleSource><SourceFilename>secret.tif</SourceFilename><SourceBand>1</SourceBand>"
        "</SimpleSource>"
    )
    (tmp_path / "a.tif").write_text(
        '<VRTDataset rasterXSize="8" rasterYSize="8"><VRTRasterBand dataType="Byte" band="1">'
        f"{source}</VRTRasterBand></VRTDataset>"
    )
    for call in (read_image, image_size, probe_raster):
        with pytest.raises(DataError, match=r"a\.tif"):
            call(tmp_path / "a.tif")


@pytest.mark.parametrize("compress", ["none", "deflate", "lzw"])
def test_a_truncated_file_is_a_named_error(compress: str, tmp_path: Path) -> None:
    """Catches grey or black filling of what is missing."""
    path = put_raster(tmp_path / "a.tif", noise(3, 200, 200, "uint16"), compress=compress)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=r"a\.tif") as caught:
        read_image(path)
    assert caught.value.hint


def test_mutated_files_give_pixels_or_a_data_error(tmp_path: Path) -> None:
    """Catches whatever else GDAL raises."""
    rng = np.random.default_rng(5)
    good = put_raster(tmp_path / "good.tif", noise(3, 24, 24, "uint16"), compress="deflate")
    data = np.frombuffer(good.read_bytes(), np.uint8)
    failed = 0
    for k in range(120):
        broken = data.copy()
        broken[rng.integers(4, len(data), 4)] = rng.integers(0, 256, 4)
        path = tmp_path / f"{k}.tif"
        path.write_bytes(broken.tobytes())
        try:
            assert read_image(path, max_pixels=10**6).ndim == 3
        except DataError:
            failed += 1
    assert failed > 10, "the mutations should hurt"
