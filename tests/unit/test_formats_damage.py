"""No reader crashes, hangs, fills the memory or loses count on damaged files.

`pytest --hypothesis-profile=search tests/unit/test_formats_damage.py` reads 20 times as many;
FORMAT_MUTATIONS=N sets how many of each format. A row that failed is played again by
`python -m tests.format_damage ROW --seed S --first NUMBER --count 1 --keep FOLDER`.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from rsgen.errors import RsgenError
from rsgen.formats import read_dataset
from rsgen.formats.common import Format
from rsgen.registry import names, resolve
from tests.format_damage import IMAGE_KINDS, SOURCES, limits, read_case, valid_set
from tests.formats_build import CLASSES

ROOT = Path(__file__).parents[2]
SEARCHING = settings.get_current_profile_name() == "search"
MUTATIONS = int(os.environ.get("FORMAT_MUTATIONS", "400" if SEARCHING else "20"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The undamaged sets, a folder a row."""
    folder = tmp_path_factory.mktemp("whole")
    for row in SOURCES:
        valid_set(row, folder / row)
    return folder


@pytest.fixture(scope="module")
def reports() -> list[dict[str, Any]]:
    """What one process under limits says of every mutated set."""
    call = [sys.executable, "-m", "tests.format_damage", "--count", str(MUTATIONS)]
    done = subprocess.run(
        call, cwd=ROOT, capture_output=True, text=True, timeout=300 + 4 * MUTATIONS * len(SOURCES)
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"the process died in {found[-1:]}:\n{done.stderr[-3000:]}"
    return found


@pytest.mark.parametrize("row", SOURCES)
def test_mutated_sets_are_read_or_refused(row: str, reports: list[dict[str, Any]]) -> None:
    mine = [report for report in reports if report["row"] == row]
    assert [r for r in mine if "error" in r] == []
    assert mine[-1] == {"row": row, "ended": MUTATIONS}


@pytest.mark.parametrize("row", SOURCES)
def test_the_undamaged_set_is_whole(row: str, whole: Path) -> None:
    """Else the mutations would only show that a broken set stays broken."""
    folder = whole / row
    name = SOURCES[row][0]
    entry: Format = resolve("formats", name)
    if entry.read is None:
        assert entry.check is not None
        entry.check(folder, {"train": 3, "val": 1}, 7)
        return
    dataset = read_dataset(folder, format=name, classes=CLASSES, min_area_px=1)
    if entry.make_writer is not None:
        assert dataset.failures == []
    assert dataset.records


def test_every_format_has_a_row() -> None:
    assert {name for name, _ in SOURCES.values()} == set(names("formats"))


# ---------------------------------------------------------------- bombs


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _png(width: int, height: int, pixels: bytes = b"") -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = (_chunk(b"IHDR", head), _chunk(b"IDAT", pixels), _chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _text_png() -> bytes:
    """A small picture with 60 MB of text, a thousand times smaller when packed."""
    whole, bomb = _png(64, 48, zlib.compress(bytes(65 * 48))), zlib.compress(bytes(60_000_000))
    return whole[:33] + _chunk(b"zTXt", b"a\0\0" + bomb) + whole[33:]


def _tiff(width: int, height: int) -> bytes:
    """A TIFF header that declares one strip of so many pixels, and has none."""
    fields = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1),
              (278, height), (279, width * height % (1 << 32))]  # fmt: skip
    rows = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in fields)
    return struct.pack("<2sHI", b"II", 42, 8) + struct.pack("<H", len(fields)) + rows + bytes(4)


def _bmp(width: int, height: int) -> bytes:
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + head


def _gif(width: int, height: int) -> bytes:
    return (
        b"GIF89a"
        + struct.pack("<HH", width, height)
        + b"\x80\0\0"
        + bytes(6)
        + b",\0\0\0\0"
        + (struct.pack("<HH", width, height) + b"\0\x08\x01\0\0;")
    )


IMAGES: dict[str, bytes] = {
    "100k x 100k png": _png(100_000, 100_000),
    "packed pixels png": _png(60_000, 60_000, zlib.compress(bytes(3_000_000))),
    "largest png": _png(2**31 - 1, 2**31 - 1),
    "text png": _text_png(),
    "100k x 100k tif": _tiff(100_000, 100_000),
    "largest tif": _tiff(2**32 - 1, 2**32 - 1),
    "100k x 100k bmp": _bmp(100_000, 100_000),
    "negative bmp": _bmp(100_000, -(2**31)),
    "largest gif": _gif(65_535, 65_535),
}
LABELS: dict[str, tuple[str, bytes]] = {
    "entities": (".xml", b'<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">'
        + b"".join(b'<!ENTITY %c "%s">' % (98 + k, b"&%c;" % (97 + k) * 10) for k in range(9))
        + b"]><annotation>&j;</annotation>"),
    "external entity": (
        ".xml", b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]><annotation>&x;</annotation>'
    ),
    "nested elements": (".xml", b"<annotation>" + b"<object>" * 500_000),
    "many attributes": (
        ".xml", b"<annotation " + b" ".join(b'a%d="1"' % k for k in range(200_000)) + b"/>"
    ),
    "nested lists": (".json", b"[" * 5_000_000),
    "nested features": (".geojson", b'{"type":"FeatureCollection","features":' + b"[" * 5_000_000),
    "nested lines": (".jsonl", b'{"instances":' + b"[" * 5_000_000 + b"\n"),
    "a long line": (".txt", b"0 " + b"0.5 " * 200_000),
    "a long number": (".txt", b"0 0.5 0.5 " + b"9" * 5_000_000 + b" 0.1\n"),
    "many lines": (".txt", b"9\n" * 5_000),
    "yaml aliases": (".yaml", b"a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + b"".join(
        b"a%d: &a%d [%s]\n" % (k, k, b",".join([b"*a%d" % (k - 1)] * 9)) for k in range(1, 10)
    ) + b"names: *a9\nclasses: *a9\nunlabelled: *a9\n"),
    "no database": (".gpkg", b"SQLite format 3\0" + b"\xff" * 100_000),
}  # fmt: skip


def _copied(whole: Path, row: str, folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Files with these suffixes in a copy of a set; skips the test where there are none."""
    shutil.copytree(whole / row, folder)
    files = [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in suffixes]
    if not files:
        pytest.skip(f"no {' '.join(suffixes)} among its files")
    return files


@pytest.mark.parametrize("row", SOURCES)
def test_image_bombs_are_not_unpacked(row: str, whole: Path, tmp_path: Path) -> None:
    """Neither an image nor a mask of 10^10 pixels may be decoded to be counted."""
    images = _copied(whole, row, tmp_path / "set", IMAGE_KINDS)
    for data in IMAGES.values():
        for one in (images[0], images[-1]):
            one.write_bytes(data)
        with limits():
            read_case(SOURCES[row][0], tmp_path / "set", auto=False)


@pytest.mark.parametrize("bomb", LABELS)
@pytest.mark.parametrize("row", SOURCES)
def test_a_label_bomb_is_refused(row: str, bomb: str, whole: Path, tmp_path: Path) -> None:
    suffix, data = LABELS[bomb]
    _copied(whole, row, tmp_path / "set", [suffix])[0].write_bytes(data)
    with limits():
        read_case(SOURCES[row][0], tmp_path / "set", auto=True)


# ---------------------------------------------------------------- tar files with odd members


def _member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info.tobuf(tarfile.GNU_FORMAT)


TARS: dict[str, bytes] = {
    "a link out": _member("s0.json", tarfile.SYMTYPE, "../../../../etc/hostname"),
    "a hard link": _member("s0.json", tarfile.LNKTYPE, "/etc/hostname"),
    "a device": _member("s0.json", tarfile.CHRTYPE),
    "a folder": _member("s0.json/", tarfile.DIRTYPE),
    "a path out": _member("../../s0.json", size=2) + b"{}".ljust(512, b"\0"),
    "a huge size": _member("s0.json", size=1 << 60),
    "a name without suffix": _member("s0", size=2) + b"{}".ljust(512, b"\0"),
    "no header": b"\xff" * 10240,
    "nothing": b"",
}


@pytest.mark.parametrize("odd", TARS)
@pytest.mark.parametrize(
    "row", [k for k, (name, _) in SOURCES.items() if resolve("formats", name).read is None]
)
def test_odd_members_of_a_tar_file_are_refused(
    row: str, odd: str, whole: Path, tmp_path: Path
) -> None:
    shards = _copied(whole, row, tmp_path / "set", [".tar"])
    shards[0].write_bytes(TARS[odd] + bytes(1024))
    check = resolve("formats", SOURCES[row][0]).check
    with limits(), pytest.raises(RsgenError):
        check(tmp_path / "set", {"train": 3, "val": 1}, 7)
