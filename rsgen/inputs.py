"""What lies at a path, a run, a raw data set or a model's name, and how it enters a request."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from rsgen.errors import DataError
from rsgen.hints import check_path
from rsgen.images import IMAGE_SUFFIXES, sha256_file
from rsgen.legend import may_be_mask
from rsgen.listing import walk_files
from rsgen.request import InputRef, RunInfo, digest

__all__ = ["input_ref", "is_committed", "is_model_name", "run_folder"]

LARGE_FILE_BYTES = 256 * 1024**2


def run_folder(path: Path) -> Path | None:
    """OUT for OUT itself or for a thing inside it; None where there is no run.

    What an export has put into OUT/dataset/FORMAT is labels of that format, no run.
    """
    path = path.absolute()
    for folder in (path, *list(path.parents)[:4]):
        inside = path.relative_to(folder).parts
        if len(inside) > 1 and inside[0] == "dataset":
            return None
        record = folder / "run.json"
        # A pipeline's folder has a run.json too; only a command's names its fingerprint.
        if record.is_file() and '"fingerprint"' in record.read_text(encoding="utf-8"):
            return folder
    return None


def is_committed(out: Path) -> bool:
    return (out / "manifest.json").is_file()


def _listing(path: Path, *, labels: bool = False) -> list[list[Any]]:
    """One row a file of a raw data set, sorted; hidden ones left out.

    Labels count by their bytes, masks too: a corrected digit leaves the size as it was. Images
    count by their size, hundreds of gigabytes are not read for a hash.
    """
    if path.is_file():
        return [[path.name, path.stat().st_size, sha256_file(path)]]
    rows: list[list[Any]] = []
    for full in walk_files(path):
        size = full.stat().st_size if full.exists() else -1  # a link to nothing
        row: list[Any] = [full.relative_to(path).as_posix(), size]
        is_image = full.suffix.lower() in IMAGE_SUFFIXES
        if size >= 0 and (not is_image or labels or may_be_mask(row[0])):
            row.append(_content_hash(full, size))
        rows.append(row)
    return sorted(rows)


def _content_hash(path: Path, size: int) -> str:
    """The file's hash; of a very large one (weights, archives) its two ends alone."""
    if size <= LARGE_FILE_BYTES:
        return sha256_file(path)
    with path.open("rb") as handle:
        head = handle.read(1 << 20)
        handle.seek(size - (1 << 20))
        return hashlib.sha256(head + handle.read()).hexdigest()


def is_model_name(name: str, path: Path) -> bool:
    """Whether an input is a model by name (`tiny`, `hub:ORG/NAME`) and no folder."""
    return name in {"checkpoint", "base", "clip"} and (
        str(path) == "tiny" or str(path)[:4] == "hub:"
    )


def input_ref(name: str, path: Path, *, allow_partial: bool = False) -> InputRef:
    """How an input enters the request: a run by its fingerprint, raw files by their listing.

    Raises:
        DataError: missing, or an uncommitted run without `allow_partial`.
    """
    if is_model_name(name, path):
        # A model by name: its hash enters the request beside the inputs.
        return InputRef(name, str(path), digest(str(path)), digest(str(path)))
    if not path.exists():
        raise DataError(f"{name}: {path} does not exist", hint=check_path(path))
    # Corrections and audits are edited where they are, often in a run's folder: their bytes count.
    out = None if name in {"corrections", "audit"} else run_folder(path)
    if out is None:
        rows = _listing(path, labels=name == "labels")
        listing = digest(rows)
        files = tuple(tuple(row) for row in rows)
        return InputRef(name, str(path.resolve()), listing, listing, files)
    info = RunInfo.load(out)
    if not is_committed(out):
        if not allow_partial:
            raise DataError(
                f"{name}: {out} is not complete (no manifest.json)",
                hint="run its command again to finish it, or pass --allow-partial",
            )
        return InputRef(name, str(path.resolve()), info.fingerprint, "partial")
    return InputRef(name, str(path.resolve()), info.fingerprint, sha256_file(out / "manifest.json"))
