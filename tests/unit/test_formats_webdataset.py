"""WebDataset shards: what readers of that format expect, same bytes each time, and the check."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from rsgen.errors import DataError
from rsgen.export import export
from rsgen.formats.common import WriteOptions, WriteReport
from rsgen.formats.jsonl import sample_from_json, to_json
from rsgen.formats.webdataset import FORMAT, WebDatasetWriter, check_shards
from rsgen.records import ClassTable, Sample
from rsgen.runs import Job
from tests.build import config, sample, sample_run
from tests.formats_build import CLASSES, plane, put_image, sample_of, tank

SAMPLES = [
    sample_of("a", plane(30, 24, 20, 8, 0.6), tank(10, 10, 6, 3)),
    sample_of("b"),
    sample_of("c", tank(40, 30, 8)),
    sample_of("d", tank(20, 30, 8), split="val"),
]


def build(out: Path, samples: list[Sample] = SAMPLES, per_shard: int = 2) -> WriteReport:
    writer = WebDatasetWriter(WriteOptions(samples_per_shard=per_shard))
    writer.open(out, CLASSES, ("train", "val"))
    picture = out.parent / "picture.png"
    put_image(picture)
    for item in samples:
        writer.add(item, f"{item.id}.png", item.split or "train", picture)
    return writer.close()


def grouped(path: Path) -> dict[str, dict[str, bytes]]:
    """The rule of WebDataset's readers: consecutive members up to the first dot are a sample."""
    found: dict[str, dict[str, bytes]] = {}
    last = None
    with tarfile.open(path) as tar:
        for info in tar:
            key, _, suffix = info.name.partition(".")
            assert key == last or key not in found, "members of a sample lie apart"
            last = key
            handle = tar.extractfile(info)
            assert handle is not None
            found.setdefault(key, {})[suffix] = handle.read()
    return found


def test_shards_hold_whole_samples(tmp_path: Path) -> None:
    report = build(tmp_path / "set")
    names = ["train-000000.tar", "train-000001.tar", "val-000000.tar"]
    assert report.files == ("classes.json", "index.json", *names)
    found: dict[str, dict[str, bytes]] = {}
    for name in names:
        found |= grouped(tmp_path / "set" / name)
    assert list(found) == ["a", "b", "c", "d"]
    for item in SAMPLES:
        members = found[item.id]
        assert set(members) == {"png", "json"}
        written = json.loads(members["json"])
        expected = json.loads(to_json(item))
        assert written == {**expected, "image": f"{item.id}.png", "split": written["split"]}
        assert sample_from_json(members["json"].decode())[0].layout.width == 64
        assert Image.open(io.BytesIO(members["png"])).size == (64, 48)
    index = json.loads((tmp_path / "set/index.json").read_text())
    assert [(r["url"], r["nsamples"]) for r in index["shardlist"]] == list(
        zip(names, (2, 1, 1), strict=True)
    )
    table = json.loads((tmp_path / "set/classes.json").read_text())
    assert ClassTable.from_json(table) == CLASSES
    check_shards(tmp_path / "set", {"train": 3, "val": 1}, 4)


def test_the_same_samples_give_the_same_bytes(tmp_path: Path) -> None:
    """Catches headers with the time, the user or the order of a set."""
    for name in ("one", "two"):
        build(tmp_path / name)
    for path in sorted((tmp_path / "one").iterdir()):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    with tarfile.open(tmp_path / "one/train-000000.tar") as tar:
        assert {(i.mtime, i.uid, i.gid, i.uname, i.gname, i.mode) for i in tar} == {
            (0, 0, 0, "", "", 0o644)
        }


def test_keys_have_no_dot_and_stay_distinct(tmp_path: Path) -> None:
    names = ["P1.v2", "P1_v2", "x" * 100]
    build(tmp_path / "set", [sample_of(n) for n in names], per_shard=9)
    assert list(grouped(tmp_path / "set/train-000000.tar")) == ["P1_v2", "P1_v2-2", "x" * 100]
    check_shards(tmp_path / "set", {"train": 3}, 0)


def test_abort_leaves_no_half_shard(tmp_path: Path) -> None:
    writer = WebDatasetWriter(WriteOptions(samples_per_shard=1))
    writer.open(tmp_path / "set", CLASSES, ("train",))
    put_image(tmp_path / "p.png")
    writer.add(SAMPLES[0], "a.png", "train", tmp_path / "p.png")
    writer._per_shard = 5
    writer.add(SAMPLES[1], "b.png", "train", tmp_path / "p.png")
    writer.abort()
    assert sorted(p.name for p in (tmp_path / "set").glob("*.tar*")) == ["train-000000.tar"]


def _rewrite(
    name: str, change: Callable[[str, bytes], tuple[str, bytes] | None]
) -> Callable[[Path], None]:
    """Pack a shard again with some members changed or left out."""

    def spoil(folder: Path) -> None:
        path = folder / name
        with tarfile.open(path) as tar:
            members = [(i.name, tar.extractfile(i).read()) for i in tar]  # type: ignore[union-attr]
        with tarfile.open(path, "w") as tar:
            for member in members:
                kept = change(*member)
                if kept is not None:
                    info = tarfile.TarInfo(kept[0])
                    info.size = len(kept[1])
                    tar.addfile(info, io.BytesIO(kept[1]))

    return spoil


def _cut(folder: Path) -> None:
    path = folder / "train-000000.tar"
    path.write_bytes(path.read_bytes()[:1500])


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "a digit": (
        _rewrite("train-000000.tar", lambda n, d: (n, d.replace(b'"gsd_m": 0.5', b'"gsd_m": 0.6'))),
        "not what was written",
    ),
    "no json": (
        _rewrite("train-000000.tar", lambda n, d: None if n == "b.json" else (n, d)),
        "b has no .json",
    ),
    "no image": (
        _rewrite("train-000000.tar", lambda n, d: None if n == "b.png" else (n, d)),
        "names the image 'b.png'",
    ),
    "half an image": (
        _rewrite("train-000000.tar", lambda n, d: (n, d[:300] if n == "a.png" else d)),
        "not a readable image",
    ),
    "half a json": (
        _rewrite("val-000000.tar", lambda n, d: (n, d[:30] if n.endswith("json") else d)),
        "is no sample",
    ),
    "cut": (_cut, "train-000000.tar: "),
    "a shard is gone": (lambda f: (f / "val-000000.tar").unlink(), "index.json lists"),
    "no index": (lambda f: (f / "index.json").unlink(), "cannot be read"),
}


@pytest.mark.parametrize("rule", BAD)
def test_the_check_sees(tmp_path: Path, rule: str) -> None:
    build(tmp_path / "set")
    spoil, text = BAD[rule]
    spoil(tmp_path / "set")
    with pytest.raises(DataError) as caught:
        check_shards(tmp_path / "set", {"train": 3, "val": 1}, 4)
    assert text in caught.value.message


@pytest.mark.parametrize(
    ("images", "objects", "text"),
    [({"train": 2, "val": 1}, 4, "train: 3 samples, expected 2"), ({"train": 3}, 4, "val"),
     ({"train": 3, "val": 1}, 5, "4 objects, expected 5"),
     ({"train": 3, "val": 1, "test": 2}, 4, "test: 0 samples, expected 2")],
)  # fmt: skip
def test_the_check_counts(tmp_path: Path, images: dict[str, int], objects: int, text: str) -> None:
    build(tmp_path / "set")
    with pytest.raises(DataError, match=text):
        check_shards(tmp_path / "set", images, objects)


def test_it_is_written_only() -> None:
    assert FORMAT.read is None
    assert FORMAT.check is check_shards


def test_the_size_of_shards_is_a_setting(tmp_path: Path) -> None:
    run = sample_run(tmp_path / "run", [sample(f"s{k}.png") for k in range(5)])
    keys = {"export.format": ["webdataset"], "export.samples_per_shard": 2}
    export(Job("export", config(**keys), tmp_path / "set", {"run": [run.path]}))
    folder = tmp_path / "set/dataset/webdataset"
    shards = sorted(folder.glob("*.tar"))
    assert [len(grouped(path)) for path in shards] == [2, 2, 1]
    assert (folder / "classes.json").is_file()
