"""A table of measured cells: each a function of its name and seed, kept as soon as it is there.

A cell's answer is one JSON file in WORK/cells, written when it is done, so the same command goes
on with the next one after a kill; inside a cell the runs of rsgen go on by themselves. A cell
whose request (steps, sizes, inputs) has changed is another cell. What is not there yet is printed
as missing. The scripts of issue-sized evidence (tiny_quality.py, of_diff.py) are lists of cells.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import json
import math
import statistics
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rsgen.config import load_config, parse_pairs
from rsgen.errors import RsgenError
from rsgen.images import replace_bytes
from rsgen.models.stable_diffusion import silence_libraries
from rsgen.pipeline import run_command
from rsgen.runs import Job
from rsgen.store import is_committed

__all__ = [
    "Cell",
    "add_options",
    "add_set_options",
    "call",
    "common_settings",
    "given_sets",
    "report_figures",
    "run_cells",
]

Figures = Mapping[str, float | None]
REAL_SETS = ("airports", "ships")


@dataclass(frozen=True)
class Cell:
    """One row of a table, for one seed.

    request: whatever the answer depends on beside name and seed, JSON values. compute: its
    figures; it keeps what it makes in the folders that it is given by its script.
    """

    table: str
    name: str
    seed: int
    request: Mapping[str, Any]
    compute: Callable[[], Figures]

    @property
    def key(self) -> str:
        text = json.dumps([self.table, self.name, self.seed, self.request], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        return f"{self.table}-{self.name}-{self.seed}-{digest}".replace(" ", "-").replace("/", "-")

    @property
    def title(self) -> str:
        return f"{self.table}/{self.name}/{self.seed}"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that every table has."""
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps everything")
    parser.add_argument("--only", default="*", help="cells to compute: a pattern of their titles")
    parser.add_argument("--until", type=float, help="minutes after which no new cell is begun")
    parser.add_argument("--list", action="store_true", help="name the cells and what is there")
    parser.add_argument("--json", type=Path, help="write all figures")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--dtype", default="bf16", help="number type (bf16 where the CPU has it)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")


def add_set_options(parser: argparse.ArgumentParser) -> None:
    """Real sets, and judges B of the sets: made where they are not given."""
    for name in REAL_SETS:
        parser.add_argument(f"--{name}", type=Path, help="labelled folder, or extract-masks OUT")
    names = ", ".join(("scenes", *REAL_SETS))
    parser.add_argument("--judges", type=Path, help=f"train-judge OUTs: {names}")
    parser.add_argument("--judge-steps", type=int, default=1200, help="of judges made here")
    parser.add_argument("--seeds", type=int, default=3, help="seeds on the scenes")


def given_sets(options: argparse.Namespace) -> dict[str, Path]:
    """The real sets that were given, by name."""
    found = {name: getattr(options, name) for name in REAL_SETS}
    return {name: path for name, path in found.items() if path is not None}


def common_settings(options: argparse.Namespace, seed: int) -> tuple[str, ...]:
    """What every run of a cell is told."""
    return (
        f"seed={seed}",
        f"execution.threads={options.threads}",
        f"execution.device={options.device}",
    )


def call(
    command: str,
    out: Path,
    inputs: Mapping[str, Path | str | Sequence[Path]],
    settings: Iterable[str] = (),
) -> Path:
    """`rsgen COMMAND` into OUT through the library, unless it is there; returns OUT."""
    if is_committed(out):
        return out
    started, used = time.monotonic(), time.process_time()
    listed = {
        name: [Path(v) for v in ([value] if isinstance(value, str | Path) else value)]
        for name, value in inputs.items()
    }
    config = load_config(settings=parse_pairs(list(settings)))
    run_command(Job(command, config, out, listed))
    seconds, processor = time.monotonic() - started, time.process_time() - used
    print(f"  {command} {out.name}: {seconds:.0f} s, {processor:.0f} s of CPU", flush=True)
    return out


def report_figures(
    evaluation: Path, wanted: Mapping[str, tuple[str, ...]]
) -> dict[str, float | None]:
    """Figures of an evaluation's report: name -> path in its cells (None where not measured)."""
    cells = json.loads((evaluation / "report.json").read_text(encoding="utf-8"))["cells"]
    found: dict[str, float | None] = {}
    for name, path in wanted.items():
        value: Any = cells
        for step in path:
            value = value.get(step) if isinstance(value, Mapping) else None
        found[name] = None if value is None else float(value)
    return found


def run_cells(
    cells: Sequence[Cell],
    options: argparse.Namespace,
    columns: Sequence[str],
    about: str,
    *,
    upright: bool = False,
) -> None:
    """Compute what is missing, in order, and print a Markdown table for each table's name.

    `upright`: a row a figure, for few cells with many figures.
    """
    silence_libraries()
    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    deadline = math.inf if options.until is None else time.monotonic() + 60 * options.until
    troubles: dict[str, str] = {}
    for cell in cells:
        there = _kept(options.work, cell) is not None
        if options.list:
            print(f"{'done   ' if there else 'missing'} {cell.title}")
        elif not there and fnmatch.fnmatch(cell.title, options.only):
            if time.monotonic() >= deadline:
                break
            _compute(cell, options.work, troubles)
    if options.list:
        return
    for table in dict.fromkeys(cell.table for cell in cells):
        rows = [cell for cell in cells if cell.table == table]
        grid = _grid(rows, options.work, columns)
        lines = list(zip(*grid, strict=True)) if upright else grid
        print(f"\n### {table}: {about}\n\n{_markdown(lines)}", flush=True)
    for title, why in troubles.items():
        print(f"\nnot measured: {title}: {why}")
    if options.json:
        found = {cell.title: _kept(options.work, cell) for cell in cells}
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _compute(cell: Cell, work: Path, troubles: dict[str, str]) -> None:
    print(cell.title, flush=True)
    started, used = time.monotonic(), time.process_time()
    try:
        figures = dict(cell.compute())
    except Exception as error:  # noqa: BLE001 - hours of other cells can still be measured
        troubles[cell.title] = f"{type(error).__name__}: {error}"
        if not isinstance(error, RsgenError):
            traceback.print_exc()
        print(f"  {troubles[cell.title]}", flush=True)
        return
    row = {
        "title": cell.title,
        "request": dict(cell.request),
        "figures": figures,
        "seconds": round(time.monotonic() - started),  # of its last start
        "processor seconds": round(time.process_time() - used),
    }
    path = _path(work, cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_bytes(path, (json.dumps(row, indent=1) + "\n").encode("utf-8"))
    print(f"  {row['seconds']} s: " + ", ".join(f"{k} {_short(v)}" for k, v in figures.items()))


def _path(work: Path, cell: Cell) -> Path:
    return work / "cells" / f"{cell.key}.json"


def _kept(work: Path, cell: Cell) -> dict[str, float | None] | None:
    path = _path(work, cell)
    if not path.is_file():
        return None
    figures: dict[str, float | None] = json.loads(path.read_text(encoding="utf-8"))["figures"]
    return figures


# ---------------------------------------------------------------- tables


def _grid(cells: Sequence[Cell], work: Path, columns: Sequence[str]) -> list[list[str]]:
    rows = [["cell", "seeds", *columns]]
    for name in dict.fromkeys(cell.name for cell in cells):
        members = [cell for cell in cells if cell.name == name]
        found = [row for cell in members if (row := _kept(work, cell)) is not None]
        seeds = f"{len(found)}" if len(found) == len(members) else f"{len(found)} of {len(members)}"
        rows.append([name, seeds, *(_spread([r.get(c) for r in found]) for c in columns)])
    return rows


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def _spread(values: Sequence[float | None]) -> str:
    """Mean, and the standard deviation over seeds (n - 1) where there are several."""
    known = [value for value in values if value is not None]
    if not known:
        return "missing" if not values else "-"
    if len(known) == 1:
        return _short(known[0])
    return f"{_short(statistics.mean(known))} ± {_short(statistics.stdev(known))}"


def _short(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
