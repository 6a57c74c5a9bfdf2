"""The pool itself: an Arrow table of canonical masks with an index by class."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rsgen.classes import united
from rsgen.errors import DataError
from rsgen.mask import Mask
from rsgen.records import ClassTable

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["MaskPool", "PoolMask", "mask_id", "merge_rows", "pool_schema"]

BoolImage = npt.NDArray[np.bool_]
FLOATS = ("width_px", "height_px", "gsd_m", "score")
SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class PoolMask:
    """One drawn mask, in canonical pose (front at +x where `pose` is "heading").

    pixels: bool [h, w], tight, at the source's resolution. width_px x height_px: the size of
    its box in the source image; `gsd_m` metres a pixel there, or None. `sources`: ids of the
    real samples it was seen in. `flipped`: "", "x", "y" or "xy" (symmetric classes only).
    """

    id: str
    label: str
    pixels: BoolImage
    width_px: float
    height_px: float
    gsd_m: float | None
    sources: tuple[str, ...]
    score: float
    pose: str
    flipped: str = ""

    @property
    def source(self) -> str:
        """The first sample it was seen in."""
        return self.sources[0]

    @property
    def length_m(self) -> float | None:
        """Extent along x in metres, where the source's gsd is known."""
        return None if self.gsd_m is None else self.width_px * self.gsd_m

    @property
    def width_m(self) -> float | None:
        """Extent across x in metres, where the source's gsd is known."""
        return None if self.gsd_m is None else self.height_px * self.gsd_m

    @property
    def aspect(self) -> float:
        """Extent along x / extent across, at least 1 where no front is known."""
        return self.width_px / self.height_px

    def mask(self) -> Mask:
        """The same pixels as a Mask at (0, 0): its `rings()` are in the canonical frame."""
        found = Mask.from_array(self.pixels)
        if found is None:
            raise DataError(f"pool mask {self.id} is empty", hint="build the pool again")
        return found


def mask_id(label: str, width: int, height: int, counts: bytes) -> str:
    """16 hex digits that depend on the shape and its class alone."""
    head = f"{label}/{width}x{height}/".encode()
    return blake2b(head + counts, digest_size=8).hexdigest()


def pool_schema() -> pa.Schema:
    """Columns of OUT/pool.parquet."""
    import pyarrow as pa

    text, number, whole = pa.string(), pa.float64(), pa.int32()
    return pa.schema(
        [
            ("id", text),
            ("label", text),
            ("width", whole),
            ("height", whole),
            ("counts", pa.binary()),
            ("width_px", number),
            ("height_px", number),
            ("gsd_m", number),
            ("area", whole),
            ("score", number),
            ("solidity", number),
            ("pose", text),
            ("origin", text),
            ("sources", pa.list_(text)),
        ]
    )


def merge_rows(
    rows: Iterable[Mapping[str, Any]], into: dict[str, dict[str, Any]] | None = None
) -> tuple[dict[str, dict[str, Any]], int]:
    """Rows by mask id, equal shapes joined: their sources add up, the best score stays.

    Returns the rows and how many duplicates were joined.
    """
    kept: dict[str, dict[str, Any]] = {} if into is None else into
    duplicates = 0
    for row in rows:
        old = kept.get(row["id"])
        if old is None:
            kept[row["id"]] = {**row, "sources": list(row["sources"])}
            continue
        duplicates += 1
        old["sources"] = sorted({*old["sources"], *row["sources"]})
        old["score"] = max(old["score"], row["score"])
    return kept, duplicates


class MaskPool:
    """Canonical masks by class. Immutable; `draw` is a pure function of its generator."""

    def __init__(self, table: pa.Table, classes: ClassTable) -> None:
        self.table = table
        self.classes = classes
        rows: dict[str, list[int]] = {}
        for k, label in enumerate(table.column("label").to_pylist()):
            rows.setdefault(label, []).append(k)
        self._rows = {name: np.array(found, dtype=np.int64) for name, found in rows.items()}
        self._numbers = {name: _floats(table, name) for name in FLOATS}
        self._sources: list[tuple[str, ...]] = [
            tuple(row) for row in table.column("sources").to_pylist()
        ]
        self._seen_in: dict[str, list[int]] = {}  # rows by sample id and by its parent scene
        for k, names in enumerate(self._sources):
            for name in {part for s in names for part in (s, s.split("#", 1)[0])}:
                self._seen_in.setdefault(name, []).append(k)

    @classmethod
    def load(cls, path: Path) -> MaskPool:
        """From OUT or OUT/pool.parquet.

        Raises:
            DataError: there is no pool, or it cannot be read.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        file = path / "pool.parquet" if path.is_dir() else path
        try:
            table = pq.read_table(file)
        except (OSError, pa.ArrowException) as error:
            raise DataError(
                f"{file}: no readable mask pool ({error})",
                hint="make one: rsgen build-mask-pool RUN --out OUT",
            ) from error
        metadata = table.schema.metadata or {}
        if b"rsgen_classes" not in metadata or "counts" not in table.column_names:
            raise DataError(
                f"{file}: a Parquet file, but no mask pool",
                hint="give the OUT folder of a build-mask-pool run",
            )
        return cls(table, ClassTable.from_json(json.loads(metadata[b"rsgen_classes"])))

    @classmethod
    def of_rows(cls, rows: Iterable[Mapping[str, Any]], classes: ClassTable) -> MaskPool:
        """From plain rows, put in the order of class and id."""
        import pyarrow as pa

        order = {name: k for k, name in enumerate(classes.names)}
        listed = sorted(rows, key=lambda r: (order.get(r["label"], len(order)), r["id"]))
        schema = pool_schema().with_metadata(
            {
                "rsgen_schema": str(SCHEMA_VERSION),
                "rsgen_classes": json.dumps(classes.to_json(), sort_keys=True),
            }
        )
        return cls(pa.Table.from_pylist(listed, schema=schema), classes)

    @classmethod
    def merge(cls, pools: Sequence[MaskPool]) -> MaskPool:
        """One pool of all; equal shapes are joined, class tables united in order of appearance."""
        classes = united(pool.classes for pool in pools)
        kept: dict[str, dict[str, Any]] = {}
        for pool in pools:
            for row in pool.table.to_pylist():
                label = classes.resolve(row["label"]).name
                if label != row["label"]:
                    row["id"] = mask_id(label, row["width"], row["height"], row["counts"])
                    row["label"] = label
                merge_rows([row], kept)
        return cls.of_rows(kept.values(), classes)

    def save(self, path: Path) -> Path:
        """Write a Parquet file whole; the same pool gives the same bytes."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        from rsgen.images import replace_bytes

        sink = pa.BufferOutputStream()
        pq.write_table(self.table, sink, compression="zstd")
        replace_bytes(path, sink.getvalue().to_pybytes())
        return path

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def labels(self) -> tuple[str, ...]:
        """Classes with at least one mask, in table order."""
        return tuple(name for name in self.classes.names if name in self._rows)

    def count(self, label: str) -> int:
        """Masks of a class."""
        return len(self._rows.get(label, ()))

    def sizes_m(self, label: str) -> npt.NDArray[np.float64]:
        """(along, across) in metres, float64 [N, 2], of the masks whose gsd is known."""
        rows = self._rows.get(label, np.empty(0, dtype=np.int64))
        gsd = self._numbers["gsd_m"][rows]
        size = np.stack([self._numbers[n][rows] for n in ("width_px", "height_px")], axis=1)
        return np.asarray((size * gsd[:, None])[np.isfinite(gsd)], dtype=np.float64)

    def get(self, row: int) -> PoolMask:
        """The mask of a table row."""
        values = self.table.slice(row, 1).to_pylist()[0]
        crop = Mask(0, 0, values["height"], values["width"], values["counts"]).crop()
        return PoolMask(
            id=values["id"],
            label=values["label"],
            pixels=crop,
            width_px=values["width_px"],
            height_px=values["height_px"],
            gsd_m=values["gsd_m"],
            sources=tuple(values["sources"]),
            score=values["score"],
            pose=values["pose"],
        )

    def draw(
        self,
        label: str,
        rng: np.random.Generator,
        size_px: float | None = None,
        aspect: float | None = None,
        exclude_source: str | Iterable[str] | None = None,
    ) -> PoolMask:
        """A random mask of a class.

        Args:
            size_px: wanted extent along x; masks of a similar native size are likelier, and
                small ones are not blown up where larger ones exist.
            aspect: wanted extent along x / across; masks that need little bending are
                likelier.
            exclude_source: sample ids whose masks must not be drawn (also by parent scene).

        Raises:
            DataError: the class has no mask, or none from another source.
        """
        name = self.classes.resolve(label).name
        rows = self._rows.get(name)
        if rows is None:
            raise DataError(
                f"the pool has no mask of class {name!r}; it has {', '.join(self.labels)}",
                hint="leave the class out, or build the pool from samples that show it",
            )
        rows = self._allowed(name, rows, exclude_source)
        weight = np.ones(len(rows))
        if aspect is not None:
            own = self._numbers["width_px"][rows] / self._numbers["height_px"][rows]
            weight *= np.exp(-0.5 * (np.log(own / aspect) / 0.15) ** 2) + 1e-9
        if size_px is not None:
            ratio = np.log(self._numbers["width_px"][rows] / size_px)
            weight *= np.exp(-0.5 * (ratio / np.where(ratio < 0, 0.35, 0.5)) ** 2) + 1e-6
        edges = np.cumsum(weight)
        pick = int(np.searchsorted(edges, rng.random() * edges[-1], side="right"))
        chosen = self.get(int(rows[min(pick, len(rows) - 1)]))
        flip = int(rng.integers(4))
        return _flipped(chosen, flip) if self.classes.resolve(name).symmetric else chosen

    def _allowed(
        self, label: str, rows: npt.NDArray[np.int64], exclude: str | Iterable[str] | None
    ) -> npt.NDArray[np.int64]:
        if exclude is None:
            return rows
        banned = {exclude} if isinstance(exclude, str) else set(exclude)
        banned |= {name.split("#", 1)[0] for name in banned}
        seen = [row for name in banned for row in self._seen_in.get(name, ())]
        left: npt.NDArray[np.int64] = rows[~np.isin(rows, seen)] if seen else rows
        if len(left) == 0:
            raise DataError(
                f"every mask of class {label!r} comes from {', '.join(sorted(banned))}",
                hint="add images to the pool, or allow it: -s generate.allow_same_source=true",
            )
        return left


def _floats(table: pa.Table, name: str) -> npt.NDArray[np.float64]:
    column = table.column(name).to_numpy(zero_copy_only=False)
    return np.asarray(column, dtype=np.float64)


def _flipped(mask: PoolMask, turn: int) -> PoolMask:
    """Mirrored along x (bit 0) and across (bit 1); both together are half a turn."""
    pixels = mask.pixels
    if turn & 1:
        pixels = pixels[:, ::-1]
    if turn & 2:
        pixels = pixels[::-1]
    name = ("x" if turn & 1 else "") + ("y" if turn & 2 else "")
    return replace(mask, pixels=np.ascontiguousarray(pixels), flipped=name)
