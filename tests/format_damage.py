"""Damaged label sets: small valid ones of every format, mutated by seed, and a process that
reads them under limits.

`python -m tests.format_damage --seed 0 --count 40 FORMAT ...` prints one JSON line a case that
broke a rule, and one line a format at its end. A case is remade from (format, seed, number).
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import json
import random
import re
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rsgen.errors import RsgenError
from rsgen.formats import Dataset, SafeNames, read_dataset
from rsgen.formats.common import Format
from rsgen.images import read_image
from rsgen.records import Geo, Layout, Provenance, Sample
from rsgen.registry import names, resolve
from rsgen.tables import samples_to_table
from tests.formats_build import BAD, CLASSES, HEIGHT, WIDTH, disk_mask, plane, put_image, tank

__all__ = ["SOURCES", "damaged", "valid_set"]

SECONDS = 5.0  # of processor time that a case may take
GROWTH_MB = 500
ADDRESS_SPACE = 3 << 30  # beyond what is mapped at the start: an allocation fails, not the machine
HANG_SECONDS = 60.0  # of the clock, after which the process says where it hangs and ends
DECODED = 4_000_000  # pixels that an image may declare to be decoded here

GEO = Geo("EPSG:32633", (0.5, 0.0, 500000.0, 0.0, -0.5, 5400000.0))
IMAGE_KINDS = (".png", ".jpg", ".tif", ".webp", ".bmp", ".gif")

# ---------------------------------------------------------------- valid sets


def _samples() -> list[Sample]:
    from rsgen.records import Instance

    lake = Instance("water", mask=disk_mask(50, 40, 9))
    full = (lake, plane(20, 20, 20, 8, 0.6), tank(44, 12, 7, 3), plane(60, 44, 16, 6, -2.0))
    sets = [full, (tank(30, 20, 6), plane(12, 40, 9, 4, 0.0, difficult=True)), (), full[1:2]]
    return [
        Sample(
            f"s{k}.png",
            Layout(WIDTH, HEIGHT, found, 0.5, ("harbour", "field")[k % 2]),
            image=f"images/s{k}.png",
            prompt="a satellite image",
            attributes={"sensor": "x"},
            split=("train", "val")[k // 3],
            geo=GEO,
            provenance=Provenance("real"),
        )
        for k, found in enumerate(sets)
    ]


def _written(name: str, folder: Path) -> None:
    """As an export writes it, with images of several kinds."""
    entry: Format = resolve("formats", name)
    writer, file_names = entry.writer(), SafeNames()
    writer.open(folder, CLASSES, ("train", "val"))
    for k, sample in enumerate(_samples()):
        suffix = IMAGE_KINDS[k % len(IMAGE_KINDS)] if writer.places_images else ".png"
        file_name = file_names.name(sample.id, suffix)
        target = folder / writer.image_path(file_name, sample.split or "", sample)
        if not writer.places_images:
            target = folder.parent / file_name
        put_image(target, WIDTH, HEIGHT)
        writer.add(sample, file_name, sample.split or "", target)
    writer.close()


def _fixtures(name: str, folder: Path) -> None:
    """For a format that is read only: its known-bad sets side by side; each has a good label."""
    for rule in sorted(p for p in (BAD / name).iterdir() if p.is_dir())[:4]:
        for file in sorted(p for p in rule.rglob("*") if p.is_file()):
            inside = file.relative_to(rule)
            target = folder / inside.parent / f"{rule.name}-{inside.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
            put_image(folder / "images" / f"{target.stem}.png", WIDTH, HEIGHT)


def _geopackage(_: str, folder: Path) -> None:
    from pyogrio.raw import write
    from shapely import to_wkb
    from shapely.geometry import box

    _written("geotiff", folder)
    shutil.rmtree(folder / "labels")
    shapes = [box(500002, 5399980, 500010, 5399990), box(500015, 5399981, 500020, 5399995)]
    write(
        folder / "labels.gpkg",
        np.array([to_wkb(s) for s in shapes], dtype=object),
        [np.array(["plane", "ship"], dtype=object)],
        ["label"],
        crs="EPSG:32633",
        geometry_type="Polygon",
        driver="GPKG",
    )


def _sources() -> dict[str, tuple[str, Callable[[str, Path], None]]]:
    """What is damaged: name of the row -> (format, its builder)."""
    found: dict[str, tuple[str, Callable[[str, Path], None]]] = {}
    for name in names("formats"):
        found[name] = (name, _written if resolve("formats", name).make_writer else _fixtures)
    found["geotiff, GeoPackage"] = ("geotiff", _geopackage)
    return found


SOURCES = _sources()


def valid_set(row: str, folder: Path) -> None:
    """The undamaged set of a row of `SOURCES`."""
    folder.mkdir(parents=True)
    name, build = SOURCES[row]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        build(name, folder)


# ---------------------------------------------------------------- damage to bytes and text

NUMBERS = [
    b"nan", b"NaN", b"-inf", b"Infinity", b"1e308", b"-1e308", b"1e-320", b"1e999", b"9" * 40,
    b"9" * 5000, b"-1", b"0", b"-0", b"0.5", b"0x10", b"1_000", "\u0663".encode(), b"",
    b'"1"', b"null", b"true", b"[]", b"{}", b"[[]]", b"4294967296", b"9223372036854775808",
    b"2147483648", b"65536", b"-2147483649", b"1.5", b"99999", b"[1, 2]", b'"\\ud800"', b"1 2",
]  # fmt: skip
TEXTS = [
    b"", b"\0", b"..", b"../../etc/passwd", b"/etc/passwd", b"a/b", b"\xff\xfe", b"%s%n",
    "\u202e\u0000".encode(), "\U0001f6e9".encode(), b"x" * 70000, b"NaN", b"7", b"null", b"<",
    b"&amp;", b"\\ud800", b"\\u0000", b"\n", b"CON", b"polygon", b"circle", b"mask", b"water",
]  # fmt: skip
PIECES = [
    b"\0" * 8, b"\xef\xbb\xbf", b"\r\n", b"\r", b"\x1a", b"\xff" * 4, b"[" * 3000,
    b'{"a":' * 3000,
    b"(" * 3000, b"<a>" * 3000, b"<!DOCTYPE a [<!ENTITY b 'c'>]>", b"&b;", b"- " * 3000,
    b"&a [*a, *a]", b"9" * 6000, b" " * 20000, b",", b'"', b"\\", b"}", b"]", b"</", b"-->", b"\t",
]  # fmt: skip
NUMBER = re.compile(rb"(?<![\w.])-?\d+(?:\.\d+)?(?:e-?\d+)?", re.IGNORECASE)
QUOTED = re.compile(rb"\"[^\"\n]{0,200}\"|>[^<>\n]{1,200}<")


def _flip(data: bytes, dice: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(dice.choice([1, 1, 2, 8, 64])):
        if out:
            out[dice.randrange(len(out))] ^= 1 << dice.randrange(8)
    return bytes(out)


def _cut(data: bytes, dice: random.Random) -> bytes:
    return data[: dice.randrange(len(data) + 1)]


def _delete(data: bytes, dice: random.Random) -> bytes:
    start = dice.randrange(len(data) + 1)
    return data[:start] + data[start + dice.choice([1, 2, 7, 50, 500]) :]


def _insert(data: bytes, dice: random.Random) -> bytes:
    at = dice.choice([0, len(data), dice.randrange(len(data) + 1)])
    return data[:at] + dice.choice(PIECES) + data[at:]


def _repeat(data: bytes, dice: random.Random) -> bytes:
    a, b = sorted(dice.randrange(len(data) + 1) for _ in "ab")
    return data[:b] + data[a:b] * dice.choice([1, 1, 2, 20]) + data[b:]


def _overwrite(data: bytes, dice: random.Random) -> bytes:
    """Runs of one byte, or a huge number in a binary header."""
    out = bytearray(data)
    at = dice.randrange(len(out) + 1) if dice.random() < 0.5 else dice.randrange(64)
    new = dice.choice([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\x00\x01\x86\xa0", b"\x80"])
    out[at : at + len(new)] = new
    return bytes(out)


def _number(data: bytes, dice: random.Random) -> bytes:
    return _replaced(data, NUMBER, NUMBERS, dice)


def _text(data: bytes, dice: random.Random) -> bytes:
    found = list(QUOTED.finditer(data))
    if not found:
        return _number(data, dice)
    one = dice.choice(found)
    old = one.group()
    new = old[:1] + dice.choice(TEXTS) + old[-1:] if dice.random() < 0.7 else dice.choice(NUMBERS)
    return data[: one.start()] + new + data[one.end() :]


def _replaced(data: bytes, what: re.Pattern[bytes], by: list[bytes], dice: random.Random) -> bytes:
    found = list(what.finditer(data))
    if not found:
        return _insert(data, dice)
    for one in sorted(dice.sample(found, min(len(found), dice.choice([1, 1, 3]))), key=_end)[::-1]:
        data = data[: one.start()] + dice.choice(by) + data[one.end() :]
    return data


def _end(found: re.Match[bytes]) -> int:
    return found.end()


def _lines(data: bytes, dice: random.Random) -> bytes:
    """Lines swapped, repeated or dropped; other ends of line."""
    lines = data.split(b"\n")
    a, b = dice.randrange(len(lines)), dice.randrange(len(lines))
    how = dice.randrange(5)
    if how == 0:
        lines[a], lines[b] = lines[b], lines[a]
    elif how == 1:
        lines.insert(a, lines[b])
    elif how == 2:
        del lines[a]
    elif how == 3:
        lines[a] = lines[a] * dice.choice([2, 300])
    return (b"\r\n", b"\r", b"\n")[dice.randrange(3)].join(lines)


def _fields(data: bytes, dice: random.Random) -> bytes:
    """Two words swapped anywhere in the file."""
    words = re.split(rb"(\s+|[,:<>\"])", data)
    a, b = dice.randrange(len(words)), dice.randrange(len(words))
    words[a], words[b] = words[b], words[a]
    return b"".join(words)


def _json_node(data: bytes, dice: random.Random) -> bytes:
    """One value anywhere in a JSON document replaced by one of another type, removed or moved."""
    first, _, rest = data.partition(b"\n")
    by_line = rest.lstrip().startswith(b"{")
    try:
        document = json.loads(first if by_line else data)
    except (ValueError, RecursionError):
        return _number(data, dice)
    places = list(_places(document))
    if not places:
        return _number(data, dice)
    holder, key = dice.choice(places)
    other = dice.choice(places)
    values: list[Any] = [
        None, True, -1, 0, 1e308, float("nan"), 10**30, "", "x", [], {}, [[]], {"a": {}}, "\0", 0.5,
        "9" * 5000, [1] * 3, [0.5] * 8, [-1e300] * 8, [None] * 8, ["a"] * 4, "\ud800", 2**63,
        [[1, 2], [3, 4], [5, "6"]], {"size": [48, 64], "counts": [1, 2]}, other[0][other[1]],
    ]  # fmt: skip
    if dice.random() < 0.2:
        del holder[key]
    else:
        holder[key] = dice.choice(values)
    try:
        text = json.dumps(document).encode()
    except (ValueError, RecursionError):  # it was put into itself
        return _number(data, dice)
    return text + b"\n" + rest if by_line else text


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    keys = node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    for key in keys:
        yield node, key
        yield from _places(node[key])


BYTES = (_flip, _cut, _delete, _insert, _repeat, _overwrite)
TEXT = (_number, _number, _text, _text, _lines, _fields, _insert, _cut, _flip, _delete, _repeat)
JSON = (_json_node, _json_node, _json_node, *TEXT)
BINARY = (*IMAGE_KINDS, ".gpkg", ".tar")


def damaged(path: Path, data: bytes, dice: random.Random) -> tuple[str, bytes]:
    """(what was done, the damaged bytes) of a file."""
    suffix = path.suffix.lower()
    kinds = BYTES if suffix in BINARY else JSON if "json" in suffix else TEXT
    done = []
    for _ in range(dice.choice([1, 1, 1, 2, 4])):
        kind = dice.choice(kinds)
        done.append(kind.__name__)
        data = kind(data, dice)
    return "+".join(done), data


# ---------------------------------------------------------------- reading under limits


class Broken(Exception):
    """A rule that a reader broke."""


def _status(key: str) -> float:
    """A field of /proc/self/status in MB."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.findall(rf"^{key}:\s+(\d+) kB", text, re.MULTILINE)[0]) / 1024


@contextlib.contextmanager
def limits() -> Iterator[None]:
    """At most SECONDS of processor time and GROWTH_MB above what is resident now.

    Raises:
        Broken: more was used.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew
    before, start = _status("VmRSS"), time.process_time()
    faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()
    spent, grown = time.process_time() - start, _status("VmHWM") - before
    if spent > SECONDS:
        raise Broken(f"it took {spent:.1f} s")
    if grown > GROWTH_MB:
        raise Broken(f"it grew by {grown:.0f} MB")


def read_case(name: str, folder: Path, *, auto: bool) -> None:
    """Read a damaged set by every means.

    Raises:
        Broken: a count or a failure that says too little.
    """
    entry: Format = resolve("formats", name)
    if entry.read is None:
        assert entry.check is not None
        with contextlib.suppress(RsgenError):
            entry.check(folder, {"train": 3, "val": 1}, sum(map(_objects, _samples())))
        return
    if auto:
        with contextlib.suppress(RsgenError):
            check_dataset(read_dataset(folder), folder)
    with contextlib.suppress(RsgenError):
        dataset = read_dataset(folder, format=name, classes=CLASSES, min_area_px=1)
        check_dataset(dataset, folder)
        samples_to_table(dataset.records)  # every field is of its type
        for sample in dataset:
            with contextlib.suppress(RsgenError):
                read_image(dataset.image_path(sample), DECODED)
    with contextlib.suppress(RsgenError):
        check_dataset(read_dataset(folder, format=name, heading=True), folder)


def _objects(sample: Sample) -> int:
    return len(sample.layout.instances)


def check_dataset(dataset: Dataset, folder: Path) -> None:
    """Counts add up, and every failure names a file of the set and nothing outside."""
    counts = dataset.counts
    for what in ("images", "labels"):
        skipped = sum(n for key, n in counts.items() if key.startswith(f"{what}_skipped."))
        if counts[f"{what}_read"] != counts[f"{what}_kept"] + skipped:
            raise Broken(f"{what} do not add up: {counts}")
    reasons = {key.split(".", 1)[1] for key in counts if "_skipped." in key}
    if reasons != {failure.error for failure in dataset.failures}:
        raise Broken(f"reasons {sorted(reasons)} are not those of the failures")
    if counts["images_kept"] != len(dataset.records):
        raise Broken(f"{len(dataset.records)} records: {counts}")
    files = {part for p in folder.rglob("*") if p.is_file() for part in (p.name, p.stem)}
    for failure in dataset.failures:
        if not any(name in failure.item for name in files):
            raise Broken(f"a failure names no file: {failure.message[:300]}")
        if str(folder) in failure.message:
            raise Broken(f"a failure names this machine's folders: {failure.message[:300]}")
        if len(failure.message) > 5000:
            raise Broken(f"a message of {len(failure.message)} characters")


def run_case(row: str, source: Path, folder: Path, seed: int, number: int) -> str:
    """Damage a copy of a valid set and read it; returns what was done.

    Raises:
        Broken: or anything that a reader lets through.
    """
    dice = random.Random(f"{row} {seed} {number}")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder)
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    labels = [
        p for p in files if p.suffix.lower() not in IMAGE_KINDS or "mask" in p.parent.as_posix()
    ]
    pool = labels if labels and dice.random() < 0.75 else files
    done = []
    for path in sorted({dice.choice(pool) for _ in range(dice.choice([1, 1, 2]))}):
        what, data = damaged(path, path.read_bytes(), dice)
        path.write_bytes(data)
        done.append(f"{path.relative_to(folder)}: {what}")
    try:
        with limits():
            read_case(SOURCES[row][0], folder, auto=number % 4 == 0)
    except BaseException as error:
        error.add_note("; ".join(done))
        raise
    return "; ".join(done)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("rows", nargs="*")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="a folder for the sets that broke a rule")
    given = parser.parse_args()
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", ".*__array__.*copy.*", DeprecationWarning)  # pycocotools
    Image.init()
    with tempfile.TemporaryDirectory(dir=_memory()) as name:
        limited = False
        for row in given.rows or SOURCES:
            source, folder = Path(name) / "valid" / row, Path(name) / "set"
            valid_set(row, source)
            with contextlib.suppress(RsgenError):  # what is loaded once is no growth
                read_case(SOURCES[row][0], source, auto=True)
            if not limited:
                most = int(_status("VmSize") * (1 << 20)) + ADDRESS_SPACE
                resource.setrlimit(resource.RLIMIT_AS, (most, most))
                limited = True
            for number in range(given.first, given.first + given.count):
                say(row=row, started=number)
                try:
                    run_case(row, source, folder, given.seed, number)
                except Exception as error:  # noqa: BLE001 - whatever a reader lets through
                    done = getattr(error, "__notes__", [""])[0]
                    say(row=row, number=number, done=done, error=repr(error)[:600], at=_at(error))
                    if given.keep is not None:
                        shutil.copytree(folder, given.keep / f"{row}-{given.seed}-{number}")
            say(row=row, ended=given.count)


def _at(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(frames[-6:]))


def _memory() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def say(**row: Any) -> None:
    sys.stdout.write(json.dumps(row) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
