"""The dataset card: what is in an export, where it comes from, and how to make it again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rsgen.config import Config, section_name
from rsgen.export.selection import ancestry
from rsgen.request import RunInfo
from rsgen.store import SampleRun, run_folder

__all__ = ["command_line", "dataset_card"]

HOW_TO_LOAD = {
    "coco": "`coco/annotations/instances_SPLIT.json`, images in `coco/images/SPLIT/` "
    "(pycocotools, or any detector that reads COCO)",
    "dota": "`dota/SPLIT/labelTxt/*.txt` beside `dota/SPLIT/images/`; the first edge of a quad is "
    "the object's front",
    "yolo": "`yolo/data.yaml`, boxes in `yolo/labels/SPLIT/`",
    "yolo-obb": "`yolo-obb/data.yaml`, four corners in `yolo-obb/labels/SPLIT/`",
    "yolo-seg": "`yolo-seg/data.yaml`, outlines in `yolo-seg/labels/SPLIT/`",
    "jsonl": "`jsonl/*.jsonl`, one whole sample a line with masks, prompts, scores and provenance",
}

POSITIONAL = frozenset({"run", "dataset", "checkpoint"})
FLAGS = {("export", "real"): "--with-real", ("filter", "checkpoint"): "--model"}


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ",".join(_plain(v) for v in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {_plain(v)}" for k, v in value.items()) + "}"
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def run_name(info: RunInfo) -> str:
    """A name that does not depend on where the run lies."""
    return f"{info.command}-{info.fingerprint8}"


def _input_name(path: Path) -> str:
    out = run_folder(path) if path.exists() else None
    return path.name if out is None else run_name(RunInfo.load(out))


def command_line(info: RunInfo) -> str:
    """The line that asks for a run again: command, inputs by name, keys that are not default."""
    words = ["rsgen", info.command]
    for ref in info.inputs:
        flag = FLAGS.get((info.command, ref.name), f"--{ref.name}")
        plain = flag == f"--{ref.name}" and ref.name in POSITIONAL
        words += [_input_name(Path(ref.path))] if plain else [flag, _input_name(Path(ref.path))]
    section = section_name(info.command)
    ours, default = info.config.model_dump(mode="json"), Config().model_dump(mode="json")
    pairs = {"seed": ours["seed"]} if ours["seed"] != default["seed"] else {}
    for key, value in ours.get(section, {}).items():
        if value != default[section][key]:
            pairs[f"{section}.{key}"] = value
    for key, value in pairs.items():
        words += ["-s", f"{key}={_plain(value)}"]
    return shlex.join([*words, "--out", run_name(info)])


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
        f"{sum(sum(row.values()) for row in objects.values())} objects of {len(objects)} classes. "
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
        *(f"- {HOW_TO_LOAD.get(name, f'`{name}/`')}" for name in formats),
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
