"""The dataset card: what is in an export, where it comes from, and how to make it again."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from rsgen.config import Config, section_name
from rsgen.export.selection import ancestry
from rsgen.hints import counted
from rsgen.registry import resolve
from rsgen.request import COUNT_KEYS, RunInfo, request_keys
from rsgen.store import SampleRun, is_model_name, run_folder

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
    for key, value in _changed_keys(info).items():
        words += ["-s", f"{key}={_yaml(value)}"]
    return shlex.join([*words, "--out", run_name(info)])


def _changed_keys(info: RunInfo) -> dict[str, Any]:
    """Dotted keys that enter the fingerprint, and counts, where they are not default."""
    ours = request_keys(info.command, info.config, (), {})
    default = request_keys(info.command, Config(), (), {})
    changed = [key for key, value in ours.items() if value != default[key]]
    section = section_name(info.command)
    changed += [f"{section}.{key}" for key in sorted(COUNT_KEYS.get(info.command, ()))]
    # Without defaults: an entry of a class table is then as short as it was written.
    data = info.config.model_dump(mode="json", exclude_defaults=True)
    values = {key: _value(data, key) for key in changed}
    return {key: _placeless(value) for key, value in values.items() if value is not None}


def _value(data: Any, dotted: str) -> Any:
    """The value of a dotted key; None where it is left at its default."""
    for part in dotted.split("."):
        data = data.get(part) if isinstance(data, dict) else None
    return data


def _placeless(value: Any) -> Any:
    """A file by its name: where it lies on this machine is nobody else's business."""
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return lines + ["| " + " | ".join(str(v) for v in row) + " |" for row in rows]


def dataset_card(
    *,
    info: RunInfo,
    runs: Sequence[SampleRun],
    formats: Sequence[str],
    images: Mapping[str, Mapping[str, int]],
    objects: Mapping[str, Mapping[str, int]],
    codecs: str,
    notes: Sequence[str],
) -> str:
    """README.md of an export.

    Args:
        images: split -> kind (real, synthetic) -> count. objects: class -> split -> count.
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
        "",
    ]  # fmt: skip
    if notes:
        lines += ["## Notes", "", *(f"- {note}" for note in notes), ""]
    chain: dict[str, RunInfo] = {}
    for run in runs:
        ancestry(run.path, chain)
    lines += [
        "## How it was made",
        "",
        "Runs are named by command and fingerprint; the same lines with the same inputs make the "
        "same data.",
        "",
        "```",
        *(command_line(run) for run in chain.values()),
        command_line(info),
        "```",
        "",
        *_table(
            ["run", "command", "fingerprint", "seed"],
            [[run_name(r), r.command, r.fingerprint, r.seed] for r in chain.values()],
        ),
        "",
    ]
    return "\n".join(lines)
