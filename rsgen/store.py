"""The run directory: parts, manifest, and reading samples back.

    OUT/run.json              what was asked for, and the plan frozen at the first start
    OUT/parts/00000.parquet   one a shard; its existence means done
    OUT/failures/00000.jsonl  items of that shard that could not be processed
    OUT/manifest.json         written last; its presence means committed

Parts, images and the manifest hold no time, host or absolute path.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rsgen.errors import DataError
from rsgen.images import Pixels, read_image, replace_bytes, sha256_file
from rsgen.inputs import input_ref, is_committed, is_model_name, run_folder
from rsgen.records import ClassTable, Failure, Sample
from rsgen.request import InputRef, Plan, RunInfo, canonical_json, item_seed
from rsgen.tables import samples_from_table, samples_to_table

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "InputRef",
    "Plan",
    "RunInfo",
    "SampleRun",
    "input_ref",
    "is_committed",
    "is_model_name",
    "item_seed",
    "open_samples",
    "run_folder",
]

SAMPLE_STAGES = frozenset({"scenes", "extract-masks", "generate", "filter"})


# ---------------------------------------------------------------- parts


def part_path(out: Path, index: int) -> Path:
    return out / "parts" / f"{index:05d}.parquet"


def failures_path(out: Path, index: int) -> Path:
    return out / "failures" / f"{index:05d}.jsonl"


def write_part(
    out: Path,
    index: int,
    samples: Iterable[Sample] | pa.Table,
    failures: Sequence[Failure],
    counts: Mapping[str, int],
) -> None:
    """Write a shard's failures, then its part: the part's existence means done.

    A table of samples has the schema of `samples_to_table`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = "".join(json.dumps(f.to_json(), sort_keys=True) + "\n" for f in failures)
    if rows:
        replace_bytes(failures_path(out, index), rows.encode("utf-8"))
    else:
        failures_path(out, index).unlink(missing_ok=True)
    table = samples if isinstance(samples, pa.Table) else samples_to_table(samples)
    # A sample whose scorer failed is a row and a failure; an unreadable image only the latter.
    lost = {f.item for f in failures} - set(table.column("id").to_pylist())
    metadata = {
        **(table.schema.metadata or {}),
        b"rsgen_counts": canonical_json(dict(counts)),
        b"rsgen_failures": str(len(failures)).encode(),
        b"rsgen_lost": str(len(lost)).encode(),
    }
    sink = _buffer()
    pq.write_table(table.replace_schema_metadata(metadata), sink, compression="zstd")
    replace_bytes(part_path(out, index), sink.getvalue().to_pybytes())


def _buffer() -> Any:
    import pyarrow as pa

    return pa.BufferOutputStream()


def read_part(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """The table of a part file, or some columns of it (nested ones by their path in the file)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            return file.read(columns=None if columns is None else list(columns))
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, why: object) -> DataError:
    return DataError(
        f"{path}: missing or damaged part ({why})",
        hint="make its run again in a new folder, or restore the file from a copy",
    )


class PartCounts(NamedTuple):
    """What a part's footer says; `lost` items failed and have no row."""

    rows: int
    failures: int
    counts: dict[str, int]
    lost: int


def part_counts(path: Path) -> PartCounts:
    """The counts of a part, from its footer alone."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        footer = pq.read_metadata(path)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, error) from error
    metadata = footer.metadata or {}
    counts = json.loads(metadata.get(b"rsgen_counts", b"{}"))
    failures = int(metadata.get(b"rsgen_failures", b"0"))
    lost = int(metadata.get(b"rsgen_lost", b"0"))
    return PartCounts(footer.num_rows, failures, {k: int(v) for k, v in counts.items()}, lost)


def part_samples(path: Path) -> list[Sample]:
    """The samples of a part file."""
    return list(samples_from_table(read_part(path)))


def remove_part(out: Path, index: int) -> None:
    """Take back a shard of an uncommitted run: its part first, then what it told and painted."""
    part_path(out, index).unlink(missing_ok=True)
    failures_path(out, index).unlink(missing_ok=True)
    if index == 0:
        (out / "failures" / "labels.jsonl").unlink(missing_ok=True)
    for path in (out / "images" / f"{index:05d}").glob("*.png"):
        path.unlink()


def remove_leftovers(out: Path) -> None:
    """Delete the temp files of killed writers; the caller holds OUT's lock alone."""
    for folder in ("parts", "failures", "images"):
        for path in (out / folder).rglob(".*.tmp"):
            path.unlink(missing_ok=True)
    for path in out.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def read_failures(out: Path) -> Iterator[Failure]:
    """Every failure row of a run, by shard."""
    for path in sorted((out / "failures").glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            yield Failure(**json.loads(line))


def failure_lines(out: Path, kinds: int = 3) -> list[str]:
    """The first failed item of each kind of failure, most frequent kinds first."""
    first: dict[str, Failure] = {}
    count: dict[str, int] = {}
    for path in sorted((out / "failures").glob("[0-9]*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            failure = Failure(**json.loads(line))
            first.setdefault(failure.error, failure)
            count[failure.error] = count.get(failure.error, 0) + 1
    rows = sorted(first.values(), key=lambda f: (-count[f.error], f.error))
    lines = []
    for row in rows[:kinds]:
        text = " ".join(row.message.split())
        text = text if text.startswith(row.item) else f"{row.item}: {text}"
        lines.append(f"{row.error} ({count[row.error]}), first: {text}")
    more = sum(count[row.error] for row in rows[kinds:])
    return [*lines, f"{more} of other kinds"] if more else lines


# ---------------------------------------------------------------- reading samples


class SampleRun:
    """The samples of a run directory, in order."""

    def __init__(
        self,
        out: Path,
        info: RunInfo,
        parts: Sequence[Path],
        manifest_hash: str,
        sha256: Mapping[str, str] | None = None,
    ):
        self.path = out
        self.info = info
        self.manifest_hash = manifest_hash
        self._parts = list(parts)
        self._unchecked = dict(sha256 or {})  # part name -> the manifest's hash
        self._rows = [part_counts(path)[0] for path in self._parts]

    @property
    def fingerprint(self) -> str:
        return self.info.fingerprint

    @property
    def classes(self) -> ClassTable:
        return self.info.classes

    @property
    def image_roots(self) -> list[Path]:
        """Folders that `Sample.image` may be relative to, the run itself first."""
        return [self.path, *(Path(root) for root in self.info.image_roots)]

    def __len__(self) -> int:
        return sum(self._rows)

    def __iter__(self) -> Iterator[Sample]:
        for path in self._parts:
            yield from samples_from_table(self._read(path))

    def names(self) -> Iterator[tuple[str, str | None]]:
        """(id, image) of every sample, in order; nothing else is decoded."""
        for path in self._parts:
            table = read_part(path, ("id", "image"))
            yield from zip(*(table.column(k).to_pylist() for k in range(2)), strict=True)

    def _read(self, path: Path) -> pa.Table:
        """A part's table; at its first reading held against the manifest."""
        table = read_part(path)
        wanted = self._unchecked.pop(path.name, None)
        if wanted is not None and sha256_file(path) != wanted:
            raise _damaged(path, "it differs from the hash in manifest.json")
        return table

    def rows(self, start: int, stop: int) -> list[Sample]:
        """Samples start..stop-1, reading only the parts that hold them."""
        return list(samples_from_table(self.table(start, stop)))

    def table(self, start: int, stop: int) -> pa.Table:
        """Samples start..stop-1 as a table, reading only the parts that hold them."""
        import pyarrow as pa

        found: list[pa.Table] = []
        first = 0
        for path, rows in zip(self._parts, self._rows, strict=True):
            low, high = max(start, first), min(stop, first + rows)
            if low < high:
                found.append(self._read(path).slice(low - first, high - low))
            first += rows
        return pa.concat_tables(found) if found else samples_to_table(())

    def at(self, positions: Sequence[int]) -> Iterator[Sample]:
        """The samples at ascending positions; each part that holds some is read once."""
        first = 0
        for path, rows in zip(self._parts, self._rows, strict=True):
            mine = positions[bisect_left(positions, first) : bisect_left(positions, first + rows)]
            if mine:
                yield from samples_from_table(self._read(path).take([k - first for k in mine]))
            first += rows

    def tables(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Some columns of every part, in order; of nested ones by their path in the file."""
        for path in self._parts:
            yield read_part(path, columns)

    def image_path(self, sample: Sample) -> Path:
        """Where the sample's pixels lie; of several roots the one whose file has its hash.

        Raises:
            DataError: it has no image, or the file is gone.
        """
        if sample.image is None:
            raise DataError(f"{sample.id}: this sample has a layout but no image")
        # Data sets may hold different images of one name: only the bytes tell them apart.
        checked = len(self.info.image_roots) > 1 and sample.sha256 is not None
        for root in self.image_roots:
            path = root / sample.image
            if path.is_file() and (not checked or sha256_file(path) == sample.sha256):
                return path
        what = "with the bytes that the run saw " if checked else ""
        raise DataError(
            f"{sample.id}: image {sample.image} not found {what}under "
            f"{', '.join(str(root) for root in self.image_roots)}",
            hint="put the data set back where run.json says it was",
        )

    def read_image(self, sample: Sample) -> Pixels:
        """uint8 [H, W, 3] RGB."""
        return read_image(self.image_path(sample))


def open_samples(path: Path, allow_partial: bool = False) -> SampleRun:
    """Open the samples of OUT, or of a thing inside it.

    Raises:
        DataError: no run, no samples in it, or uncommitted without `allow_partial`.
    """
    out = run_folder(path)
    if out is None:
        raise DataError(
            f"{path}: not a run directory (no run.json)",
            hint="make one from labelled images: rsgen extract-masks DATASET --out OUT",
        )
    info = RunInfo.load(out)
    if info.command not in SAMPLE_STAGES:
        raise DataError(f"{out}: a {info.command} run holds no samples")
    if is_committed(out):
        manifest = read_manifest(out)
        parts = [out / "parts" / part["name"] for part in manifest["parts"]]
        hashes = {part["name"]: part["sha256"] for part in manifest["parts"]}
        return SampleRun(out, info, parts, sha256_file(out / "manifest.json"), hashes)
    if not allow_partial:
        raise DataError(
            f"{out}: not complete (no manifest.json)",
            hint="run its command again to finish it, or pass --allow-partial",
        )
    return SampleRun(out, info, sorted((out / "parts").glob("*.parquet")), "partial")


def read_manifest(out: Path) -> dict[str, Any]:
    """OUT/manifest.json as a mapping."""
    path = out / "manifest.json"
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error


def artifact_row(out: Path, path: Path) -> dict[str, Any]:
    """One artifact of the manifest: a file by its hash, a folder by its files' hashes."""
    name = path.relative_to(out).as_posix()
    if path.is_file():
        return {"name": name, "sha256": sha256_file(path)}
    files = sorted(p for p in path.rglob("*") if p.is_file())
    rows = [[p.relative_to(path).as_posix(), sha256_file(p)] for p in files]
    return {
        "name": name,
        "files": len(rows),
        "sha256": hashlib.sha256(canonical_json(rows)).hexdigest(),
    }


def write_manifest(out: Path, manifest: Mapping[str, Any]) -> None:
    text = json.dumps(dict(manifest), sort_keys=True, indent=1) + "\n"
    replace_bytes(out / "manifest.json", text.encode("utf-8"))
