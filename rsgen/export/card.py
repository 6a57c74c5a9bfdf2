"""The dataset card: what is in an export, where it comes from, and how to make it again."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from rsgen.export.croissant import CROISSANT_FILE, SUMS_FILE
from rsgen.export.georeference import FILE as PLACES_FILE
from rsgen.export.licences import Licence
from rsgen.export.rebuild import LINE, PIPELINE_FILE, changed_keys, pipeline_text, raw_inputs
from rsgen.hints import counted
from rsgen.registry import resolve
from rsgen.request import RunInfo
from rsgen.store import is_model_name, run_folder

__all__ = ["command_line", "dataset_card"]

POSITIONAL = frozenset({"run", "dataset", "checkpoint"})
FLAGS = {("export", "real"): "--with-real", ("filter", "checkpoint"): "--model"}


def _yaml(value: Any) -> str:
    """A value as `-s` reads it: YAML on one line, with quotes where 1:1 would be a number."""
    text = yaml.safe_dump(
        value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=sys.maxsize
    )
    return text.removesuffix("...\n").strip()


def run_name(info: RunInfo) -> str:
    """A name that does not depend on where the run lies."""
    return f"{info.command}-{info.fingerprint8}"


def _input_name(name: str, path: Path) -> str:
    if is_model_name(name, path):
        return str(path)
    if name == "corrections":
        return path.name
    out = run_folder(path) if path.exists() else None
    return path.name if out is None else run_name(RunInfo.load(out))


def command_line(info: RunInfo) -> str:
    """The line that asks for a run again: command, inputs by name, keys that are not default."""
    words = ["rsgen", info.command]
    for ref in info.inputs:
        flag = FLAGS.get((info.command, ref.name), f"--{ref.name}")
        plain = flag == f"--{ref.name}" and ref.name in POSITIONAL
        value = _input_name(ref.name, Path(ref.path))
        words += [value] if plain else [flag, value]
    for key, value in changed_keys(info).items():
        words += ["-s", f"{key}={_yaml(value)}"]
    return shlex.join([*words, "--out", run_name(info)])


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return lines + ["| " + " | ".join(str(v) for v in row) + " |" for row in rows]


def dataset_card(
    *,
    chain: Sequence[RunInfo],
    formats: Sequence[str],
    images: Mapping[str, Mapping[str, int]],
    objects: Mapping[str, Mapping[str, int]],
    codecs: str,
    notes: Sequence[str],
    licences: Sequence[Licence],
    obstacle: str | None,
    on_ground: bool,
) -> str:
    """README.md of an export.

    Args:
        chain: every run that led to it, itself last.
        images: split -> kind (real, synthetic) -> count. objects: class -> split -> count.
        obstacle: why there is no pipeline file; None where there is one.
    """
    splits = list(images)
    total = sum(sum(kinds.values()) for kinds in images.values())
    synthetic = sum(kinds.get("synthetic", 0) for kinds in images.values())
    lines = [
        "# Data set card",
        "",
        f"{total} images ({total - synthetic} real, {synthetic} synthetic), "
        f"{counted(sum(sum(row.values()) for row in objects.values()), 'object')} of "
        f"{counted(len(objects), 'class', 'classes')}. "
        "Written by rsgen, read back and compared before it was published.",
        "",
        "Synthetic images were painted by a diffusion model over given labels: the labels were "
        "its input. Use them for training; measure on real images.",
        "",
        "## Images",
        "",
        *_table(
            ["split", "real", "synthetic"],
            [[s, images[s].get("real", 0), images[s].get("synthetic", 0)] for s in splits],
        ),
        "",
        f"Coding: {codecs}.",
        "",
        "## Objects by class",
        "",
        *_table(
            ["class", *splits, "all"],
            [[c, *(row.get(s, 0) for s in splits), sum(row.values())]
             for c, row in objects.items()],
        ),
        "",
        "## Files",
        "",
        *(f"- `{name}/`: {resolve('formats', name).files}" for name in formats),
        f"- `{CROISSANT_FILE}`: Croissant metadata; `{SUMS_FILE}`: for `sha256sum -c`",
        *([f"- `{PLACES_FILE}`, world files and `.aux.xml` beside images: where they lie"]
          if on_ground else []),
        "",
        "## Licences",
        "",
        "What its sources say; nobody has looked at what their licences allow together.",
        "",
        *(f"- {licence.line()}" for licence in licences),
        "",
    ]  # fmt: skip
    if notes:
        lines += ["## Notes", "", *(f"- {note}" for note in notes), ""]
    lines += [
        "## How it was made",
        "",
        *_how(chain, obstacle),
        "Runs are named by command and fingerprint; the same lines with the same inputs make the "
        "same data.",
        "",
        "```",
        *(command_line(run) for run in chain),
        "```",
        "",
        *_table(
            ["run", "command", "fingerprint", "seed"],
            [[run_name(r), r.command, r.fingerprint, r.seed] for r in chain[:-1]],
        ),
        "",
    ]
    return "\n".join(lines)


def _how(chain: Sequence[RunInfo], obstacle: str | None) -> list[str]:
    """The one line that makes the set again, and the pipeline file that it runs."""
    if obstacle is not None:
        return [f"One by one, since {obstacle}.", ""]
    raw = raw_inputs(chain)
    beside = f", where {' and '.join(f'`{name}`' for name in raw)} can be found" if raw else ""
    text = pipeline_text(chain).split("\n", 1)[1].rstrip("\n")
    return [
        f"Made again by one line, in this folder{beside}:",
        "",
        "```",
        LINE,
        "```",
        "",
        f"`{PIPELINE_FILE}`:",
        "",
        "```yaml",
        text,
        "```",
        "",
    ]
