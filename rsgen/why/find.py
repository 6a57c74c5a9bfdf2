"""Which sample is meant, and in which run it is looked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rsgen.errors import DataError, UsageError
from rsgen.hints import check_path, near_name
from rsgen.records import Sample
from rsgen.request import RunInfo
from rsgen.store import SAMPLE_STAGES, SampleRun, open_samples, run_folder

__all__ = ["find_sample"]

# A sample lies in every run that it went through: the last one knows most.
LAST_FIRST = ("filter", "generate", "extract-masks", "scenes")
LOOKED_AT = 20_000  # names that a near miss is compared with
SHOWN = 5


def find_sample(path: Path, wanted: str) -> tuple[SampleRun, Sample]:
    """A sample of a run, or of the latest run in a work folder that has it.

    `wanted` is an id, the end of one id only, or the file name of its image.

    Raises:
        DataError: no sample run there.
        UsageError: no such sample, or several (they are named).
    """
    if not path.exists():
        raise DataError(f"{path}: no such folder", hint=check_path(path))
    known: list[str] = []
    for folder in _candidates(path):
        run = open_samples(folder, allow_partial=True)
        names = list(run.names())
        position = _position(names, wanted, folder)
        if position is not None:
            return run, run.rows(position, position + 1)[0]
        known += [name for name, _ in names[:LOOKED_AT]]
        known += [Path(image).name for _, image in names[:LOOKED_AT] if image]
    near = near_name(wanted, known)
    few = ", ".join(dict.fromkeys(known[:SHOWN])) or "none"
    raise UsageError(
        f"no sample {wanted!r} in {path} (it has {few}, ...)",
        hint=f"did you mean {near}?" if near else "give an id, its end, or an image's file name",
    )


def _candidates(path: Path) -> list[Path]:
    """Sample runs to look in: this one, those that a program read, or all of a work folder."""
    out = run_folder(path)
    if out is not None:
        found = list(_sample_runs(out))
    else:
        records = [*path.glob("*/run.json"), *path.glob("*/*/run.json")]
        found = [p.parent for p in records if _command(p.parent) in SAMPLE_STAGES]
    if not found:
        raise DataError(
            f"{path}: no run with samples here",
            hint="give the OUT of filter, generate or extract-masks, or a --work folder",
        )

    def newest_last_stage(folder: Path) -> tuple[int, float]:
        command = _command(folder)
        rank = LAST_FIRST.index(command) if command in LAST_FIRST else len(LAST_FIRST)
        return rank, -(folder / "run.json").stat().st_mtime

    return sorted(dict.fromkeys(found), key=newest_last_stage)


def _command(folder: Path) -> str:
    try:
        return str(json.loads((folder / "run.json").read_text(encoding="utf-8")).get("command"))
    except (OSError, ValueError, AttributeError):
        return ""


def _sample_runs(out: Path) -> Iterator[Path]:
    """The run itself, or for an export or a training the runs that it read."""
    if _command(out) in SAMPLE_STAGES:
        yield out
        return
    for ref in RunInfo.load(out).inputs:
        folder = run_folder(Path(ref.path)) if Path(ref.path).exists() else None
        if folder is not None and folder != out:
            yield from _sample_runs(folder)


def _position(names: Sequence[tuple[str, str | None]], wanted: str, folder: Path) -> int | None:
    """Where the sample is, by the first way of naming that fits any.

    An export names images of folders `folder_image.png`.
    """
    bare = wanted.rstrip("/")
    ways: tuple[Callable[[str, str | None], bool], ...] = (
        lambda name, image: bare in (name, image),
        lambda name, image: bare in (Path(name).name, Path(image or "").name),
        lambda name, image: bare in (Path(name).stem, Path(image or "").stem),
        lambda name, image: Path(bare).stem == str(Path(name).with_suffix("")).replace("/", "_"),
        lambda name, image: name.endswith(bare) or (image or "").endswith(bare),
    )
    for fits in ways:
        found = [k for k, (name, image) in enumerate(names) if fits(name, image)]
        if len(found) == 1:
            return found[0]
        if found:
            listed = ", ".join(names[k][0] for k in found[:SHOWN])
            more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
            raise UsageError(
                f"{wanted!r} fits {len(found)} samples of {folder}: {listed}{more}",
                hint="give more of the id",
            )
    return None
