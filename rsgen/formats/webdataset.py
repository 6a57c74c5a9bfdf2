"""WebDataset shards: SPLIT-000000.tar with KEY.png (or .jpg) and KEY.json, index.json beside.

KEY.json is the whole sample, as in a line of `jsonl`. Headers hold no time and no owner: the
same samples give the same bytes. A key has no dot: readers cut names at the first one.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from rsgen.errors import DataError
from rsgen.formats.common import (
    SAMPLE_FIELDS,
    Format,
    Holds,
    Problem,
    WriteOptions,
    WriteReport,
)
from rsgen.formats.jsonl import sample_from_json, to_json
from rsgen.images import DECODER_ERRORS, replace_bytes
from rsgen.records import ClassTable, Instance, Layout, Sample

__all__ = ["FORMAT", "WebDatasetWriter", "check_shards"]

INDEX = "index.json"


@dataclass
class _Shard:
    """A tar file being written, and a digest of the samples in it."""

    path: Path
    tar: tarfile.TarFile
    digest: Any
    samples: int = 0

    @property
    def temporary(self) -> Path:
        return self.path.with_name(f"{self.path.name}.tmp")


class WebDatasetWriter:
    """Shards of `samples_per_shard` samples, written one after another for each split."""

    name = "webdataset"
    places_images = False

    def __init__(self, options: WriteOptions) -> None:
        self._per_shard = options.samples_per_shard
        self._open: dict[str, _Shard] = {}
        self._count: dict[str, int] = {}
        self._done: list[dict[str, Any]] = []
        self._keys: set[str] = set()
        self._images = self._labels = 0

    def open(self, out_dir: Path, classes: ClassTable, splits: Sequence[str]) -> None:
        self._out = out_dir
        out_dir.mkdir(parents=True, exist_ok=True)
        text = json.dumps(classes.to_json(), indent=1, ensure_ascii=False)
        (out_dir / "classes.json").write_text(text + "\n", encoding="utf-8")

    def image_path(self, image_name: str, split: str, sample: Sample) -> str:
        """Images lie in the shards; this is the name in there."""
        return f"{_plain(image_name)}{Path(image_name).suffix.lower()}"

    def add(self, sample: Sample, image_name: str, split: str, image: Path | None = None) -> None:
        shard = self._shard(split)
        key = self._key(image_name)
        name = None if image is None else f"{key}{Path(image_name).suffix.lower()}"
        text = to_json(replace(sample, image=name, split=split)).encode("utf-8")
        if image is not None and name is not None:
            _put(shard, name, image.read_bytes())
        _put(shard, f"{key}.json", text)
        shard.samples += 1
        self._images += 1
        self._labels += len(sample.layout.instances)
        if shard.samples == self._per_shard:
            self._finish(split)

    def _key(self, image_name: str) -> str:
        """The file's stem without dots, made distinct."""
        stem = _plain(image_name)
        key, number = stem, 1
        while key in self._keys:
            number += 1
            key = f"{stem}-{number}"
        self._keys.add(key)
        return key

    def _shard(self, split: str) -> _Shard:
        if split not in self._open:
            number = self._count.get(split, 0)
            self._count[split] = number + 1
            path = self._out / f"{split}-{number:06d}.tar"
            # GNU headers: no name is too long, and none holds a time of its own.
            tar = tarfile.open(  # noqa: SIM115 - it stays open between samples
                path.with_name(f"{path.name}.tmp"), "w", format=tarfile.GNU_FORMAT
            )
            self._open[split] = _Shard(path, tar, hashlib.sha256())
        return self._open[split]

    def _finish(self, split: str) -> None:
        shard = self._open.pop(split)
        shard.tar.close()
        shard.temporary.replace(shard.path)
        self._done.append(
            {
                "url": shard.path.name,
                "nsamples": shard.samples,
                "filesize": shard.path.stat().st_size,
                "sha256_of_members": shard.digest.hexdigest(),
            }
        )

    def close(self) -> WriteReport:
        for split in sorted(self._open):
            self._finish(split)
        shards = sorted(self._done, key=lambda row: str(row["url"]))
        index = {"wids_version": 1, "name": "rsgen", "shardlist": shards}
        replace_bytes(self._out / INDEX, (json.dumps(index, indent=1) + "\n").encode("utf-8"))
        files = ("classes.json", INDEX, *(str(row["url"]) for row in shards))
        return WriteReport(files, self._images, self._labels, {})

    def abort(self) -> None:
        for shard in self._open.values():
            shard.tar.close()
            shard.temporary.unlink(missing_ok=True)


def _plain(image_name: str) -> str:
    return Path(image_name).stem.replace(".", "_")


def _put(shard: _Shard, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mode = 0o644
    shard.tar.addfile(info, io.BytesIO(data))
    shard.digest.update(f"{name}\0{len(data)}\0".encode())
    shard.digest.update(data)


# ---------------------------------------------------------------- checking


def check_shards(folder: Path, images: Mapping[str, int], objects: int) -> None:
    """Open every shard again: members, samples and images must be those that were written.

    Each image is decoded and of its sample's size; each JSON is a sample again.

    Raises:
        DataError: what differs, with shard and member.
    """
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        rows = {str(row["url"]): row for row in index["shardlist"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{INDEX} cannot be read ({error})") from error
    found = {path.name for path in folder.glob("*.tar")}
    if found != set(rows):
        raise DataError(f"shards {sorted(found)}, {INDEX} lists {sorted(rows)}")
    seen: dict[str, int] = {}
    labels = 0
    for name in sorted(rows):
        split = name.rpartition("-")[0]
        samples, digest = 0, hashlib.sha256()
        for key, members in _groups(folder / name, digest):
            labels += _check_sample(f"{name}: {key}", key, split, members)
            samples += 1
        if digest.hexdigest() != rows[name].get("sha256_of_members"):
            raise DataError(f"{name}: its members are not what was written")
        if samples != rows[name].get("nsamples"):
            told = rows[name].get("nsamples")
            raise DataError(f"{name}: {samples} samples, {INDEX} says {told}")
        seen[split] = seen.get(split, 0) + samples
    for split in sorted({*seen, *(s for s, n in images.items() if n)}):
        if seen.get(split, 0) != images.get(split, 0):
            raise DataError(f"{split}: {seen.get(split, 0)} samples, expected {images.get(split)}")
    if labels != objects:
        raise DataError(f"{labels} objects, expected {objects}")


def _groups(path: Path, digest: Any) -> Iterator[tuple[str, dict[str, bytes]]]:
    """(key, suffix -> bytes) of consecutive members with one key, as WebDataset groups them."""
    key, members = "", dict[str, bytes]()
    try:
        with tarfile.open(path) as tar:
            for info in tar:
                handle = tar.extractfile(info) if info.isreg() else None
                if handle is None or info.size > path.stat().st_size:
                    raise DataError(f"{path.name}: {info.name} is no file, or ends too early")
                data = handle.read()
                digest.update(f"{info.name}\0{len(data)}\0".encode())
                digest.update(data)
                now, _, suffix = info.name.partition(".")
                if members and now != key:
                    yield key, members
                    members = {}
                key = now
                members[suffix] = data
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(f"{path.name}: not a readable tar file ({error})") from error
    if members:
        yield key, members


def _check_sample(where: str, key: str, split: str, members: dict[str, bytes]) -> int:
    """How many instances the sample has."""
    text = members.pop("json", None)
    if text is None:
        raise DataError(f"{where} has no .json")
    try:
        sample, instances = sample_from_json(text.decode("utf-8"))
    except (Problem, UnicodeDecodeError) as error:
        raise DataError(f"{where}.json is no sample ({error})") from error
    if sample.split != split:
        raise DataError(f"{where}.json says split {sample.split!r}")
    names = {f"{key}.{suffix}" for suffix in members}
    if names != ({sample.image} if sample.image is not None else set()):
        raise DataError(f"{where}.json names the image {sample.image!r}, beside it {names}")
    for data in members.values():
        try:
            with Image.open(io.BytesIO(data)) as image:
                image.load()
                size = image.size
        except DECODER_ERRORS as error:
            raise DataError(f"{where}: not a readable image ({error})") from error
        if size != (sample.layout.width, sample.layout.height):
            raise DataError(f"{where}: the image is {size[0]} x {size[1]}, not as its sample says")
    return len(instances)


def _held(instance: Instance, layout: Layout, classes: ClassTable) -> Instance:
    return instance


FORMAT = Format(
    "webdataset",
    "`SPLIT-000000.tar`, a sample as `KEY.png` and `KEY.json` (the line of `jsonl`), shards "
    "listed in index.json; classes in classes.json",
    None,
    WebDatasetWriter,
    None,
    Holds(_held, SAMPLE_FIELDS),
    check=check_shards,
)
