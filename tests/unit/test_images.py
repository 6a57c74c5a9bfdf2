"""Image files: bounded decoding, named damage, deterministic bytes, whole writes."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rsgen import images
from rsgen.errors import DataError
from rsgen.images import (
    image_size,
    png_text,
    read_image,
    replace_bytes,
    sha256_file,
    write_png,
)

PIXELS = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


def png_header(width: int, height: int, depth: int = 8, kind: int = 2) -> bytes:
    """A PNG that declares a size and holds almost nothing."""

    def chunk(name: bytes, data: bytes) -> bytes:
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 9))


def sixteen_bit_rgb() -> bytes:
    """2 x 1 pixels of 16 bits a channel, which PIL opens as mode RGB."""

    def chunk(name: bytes, data: bytes) -> bytes:
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    row = b"\0" + struct.pack(">6H", 300, 600, 900, 1200, 1500, 65535)
    data = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


def test_png_round_trip_keeps_pixels_text_and_hash(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.png"
    sha = write_png(path, PIXELS, {"prompt": "ä plane", "id": "x"})
    np.testing.assert_array_equal(read_image(path), PIXELS)
    assert png_text(path) == {"prompt": "ä plane", "id": "x"}
    assert sha == sha256_file(path)
    assert image_size(path) == (6, 4), "width first"


def test_png_bytes_do_not_depend_on_order_or_memory_layout(tmp_path: Path) -> None:
    """Catches time chunks, dict order and strided arrays: parts must be byte-identical."""
    one = write_png(tmp_path / "1.png", PIXELS, {"a": "1", "b": "2"})
    strided = np.repeat(PIXELS, 2, axis=1)[:, ::2]
    assert write_png(tmp_path / "2.png", strided, {"b": "2", "a": "1"}) == one


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("L", (90, 90, 90)),
        ("1", (255, 255, 255)),
        ("P", (10, 200, 30)),
        ("RGBA", (10, 200, 30)),
        ("LA", (90, 90, 90)),
        ("RGB", (10, 200, 30)),
    ],
)
def test_every_eight_bit_mode_becomes_rgb(
    mode: str, expected: tuple[int, int, int], tmp_path: Path
) -> None:
    """Catches an alpha that darkens pixels, and palette indices taken for grey."""
    if mode == "P":
        image = Image.new("P", (3, 2), 1)
        image.putpalette([0, 0, 0, 10, 200, 30])
        image.info["transparency"] = b"\x00\x10"
    else:
        fill = {"L": 90, "1": 1, "LA": (90, 3), "RGBA": (10, 200, 30, 7), "RGB": (10, 200, 30)}
        image = Image.new(mode, (3, 2), fill[mode])
    image.save(tmp_path / "a.png")
    got = read_image(tmp_path / "a.png")
    assert got.dtype == np.uint8 and got.shape == (2, 3, 3)
    assert (got == expected).all()


def damaged(folder: Path) -> dict[str, Callable[[], Path]]:
    whole = folder / "whole.png"
    Image.effect_noise((64, 64), 50).convert("RGB").save(whole)
    Image.open(whole).save(folder / "whole.jpg")

    def write(name: str, data: bytes) -> Callable[[], Path]:
        (folder / name).write_bytes(data)
        return lambda: folder / name

    def grey16() -> Path:
        Image.fromarray(np.full((4, 4), 40000, np.uint16)).save(folder / "g16.png")
        return folder / "g16.png"

    png, jpg = whole.read_bytes(), (folder / "whole.jpg").read_bytes()
    return {
        "missing": lambda: folder / "nowhere.png",
        "a folder": lambda: folder,
        "empty": write("empty.png", b""),
        "text": write("text.png", b"not an image at all"),
        "truncated png": write("short.png", png[: len(png) // 2]),
        "truncated jpg": write("short.jpg", jpg[: len(jpg) // 2]),
        "flipped bytes": write("flip.png", png[:200] + bytes(40) + png[240:]),
        "huge": write("huge.png", png_header(60_000, 60_000)),
        "zero size": write("zero.png", png_header(0, 5)),
        "16-bit grey": grey16,
        "16-bit rgb": write("rgb16.png", sixteen_bit_rgb()),
    }


@pytest.mark.parametrize(
    "case",
    [
        "missing",
        "a folder",
        "empty",
        "text",
        "truncated png",
        "truncated jpg",
        "flipped bytes",
        "huge",
        "zero size",
        "16-bit grey",
        "16-bit rgb",
    ],
)
def test_bad_files_are_named_data_errors(case: str, tmp_path: Path) -> None:
    """Catches silent rescaling to 8 bits, grey padding of truncated files, and foreign errors."""
    path = damaged(tmp_path)[case]()
    with pytest.raises(DataError) as caught:
        read_image(path)
    assert str(path) in caught.value.message
    assert caught.value.hint


def test_the_pixel_limit_is_ours_and_not_the_librarys(tmp_path: Path) -> None:
    """A DOTA scene of 20,000 x 20,000 pixels is legitimate: its header must be readable."""
    path = tmp_path / "scene.png"
    path.write_bytes(png_header(20_000, 20_000))
    assert image_size(path) == (20_000, 20_000)
    with pytest.raises(DataError, match=r"20000 x 20000 pixels, more than the limit of 1000000"):
        image_size(path, max_pixels=1_000_000)


def test_a_failed_write_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches half-written parts: the disk fills up between write and rename."""
    path = tmp_path / "a.bin"
    replace_bytes(path, b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(images.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        replace_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_two_hosts_with_one_process_id_use_two_temp_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches temp names made of the pid alone: in containers every worker is pid 7."""
    seen: list[str] = []
    real = images.os.replace

    def spy(a: Path, b: Path) -> None:
        seen.append(Path(a).name)
        real(a, b)

    monkeypatch.setattr(images.os, "replace", spy)
    replace_bytes(tmp_path / "a", b"1")
    replace_bytes(tmp_path / "a", b"1")
    assert len(set(seen)) == 2
    assert all(name.startswith(".a.") and name.endswith(".tmp") for name in seen)


def test_noise_files_never_raise_anything_else(tmp_path: Path) -> None:
    """Mutated real files of several kinds: a DataError or pixels, nothing else."""
    rng = np.random.default_rng(4)
    source = Image.fromarray(rng.integers(0, 255, (24, 24, 3), dtype=np.uint8))
    for suffix in ("png", "jpg", "tif", "gif", "bmp", "webp"):
        good = tmp_path / f"good.{suffix}"
        source.save(good)
        data = np.frombuffer(good.read_bytes(), np.uint8)
        for k in range(25):
            broken = data.copy()
            spots = rng.integers(0, min(len(data), 160), 3)
            broken[spots] = rng.integers(0, 256, 3)
            path = tmp_path / f"{k}.{suffix}"
            path.write_bytes(broken.tobytes())
            try:
                assert read_image(path, max_pixels=10**6).ndim == 3
            except DataError:
                continue
