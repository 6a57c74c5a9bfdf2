"""How a set is made again: one pipeline file of every run that led to it.

The stages are those of `rsgen run`, whether the runs were made by it or one by one. Their keys
are the ones that make a request, so the same raw data gives the same fingerprints.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from rsgen.config import Config, section_name
from rsgen.registry import BUILT_IN
from rsgen.request import COUNT_KEYS, LEARNERS, RunInfo, request_keys
from rsgen.store import is_model_name, run_folder

__all__ = ["PIPELINE_FILE", "changed_keys", "pipeline_text", "raw_inputs", "why_not"]

PIPELINE_FILE = "pipeline.yaml"
LINE = f"rsgen run {PIPELINE_FILE} --work work"


def changed_keys(info: RunInfo) -> dict[str, Any]:
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


def why_not(chain: Sequence[RunInfo]) -> str | None:
    """What keeps these runs from standing in one pipeline file; None where nothing does."""
    stages = {*BUILT_IN["stages"], *BUILT_IN["programs"]}
    foreign = sorted({info.command for info in chain} - stages)
    if foreign:
        return f"{', '.join(foreign)} is no stage of a pipeline"
    if len({repr(info.config.classes) for info in chain}) > 1:
        return "its runs have different class tables"
    if any(info.options for info in chain):
        return (
            "one of its runs belongs to a series (run by itself it has the same layouts and "
            "seeds, and other sample ids)"
        )
    return None


def _stage_names(chain: Sequence[RunInfo]) -> dict[str, str]:
    """Fingerprint -> stage name: the command, numbered where it stands more than once."""
    found: dict[str, str] = {}
    for info in chain:
        name, number = info.command, 1
        while name in found.values():
            number += 1
            name = f"{info.command}-{number}"
        found[info.fingerprint] = name
    return found


def raw_inputs(chain: Sequence[RunInfo]) -> list[str]:
    """Names of what the runs read that no run made: it has to lie where the line is run."""
    names = {
        Path(ref.path).name
        for info in chain
        for ref in info.inputs
        if not is_model_name(ref.name, Path(ref.path)) and _made_by(ref.name, ref.path) is None
    }
    return sorted(names)


def _made_by(name: str, path: str) -> str | None:
    """The fingerprint of the run that an input is, or lies in."""
    if (
        name in {"corrections", "audit"}
        or is_model_name(name, Path(path))
        or not Path(path).exists()
    ):
        return None
    out = run_folder(Path(path))
    return None if out is None else RunInfo.load(out).fingerprint


def pipeline_text(chain: Sequence[RunInfo]) -> str:
    """The pipeline file of runs, each after those that it reads."""
    names = _stage_names(chain)
    stages: dict[str, Any] = {}
    head: dict[str, Any] = {}
    one_seed = len({info.seed for info in chain}) == 1
    for info in chain:
        keys = changed_keys(info)
        shared = ("seed", "classes") if one_seed else ("classes",)
        head |= {key: keys[key] for key in shared if key in keys}
        stage: dict[str, Any] = {"command": info.command}
        if not one_seed:
            stage["seed"] = info.seed
        inputs = _inputs(info, names)
        if inputs:
            stage["inputs"] = inputs
        config = _section(keys, section_name(info.command))
        if config:
            stage["config"] = config
        if info.command in LEARNERS:
            execution = _section(keys, "execution")
            if execution:
                stage["execution"] = execution
        stages[names[info.fingerprint]] = stage
    body = yaml.safe_dump(
        {**head, "stages": stages}, sort_keys=False, allow_unicode=True, width=sys.maxsize
    )
    return f"# {LINE}\n{body}"


def _inputs(info: RunInfo, names: Mapping[str, str]) -> dict[str, str | list[str]]:
    found: dict[str, list[str]] = {}
    for ref in info.inputs:
        made_by = names.get(_made_by(ref.name, ref.path) or "")
        by_name = is_model_name(ref.name, Path(ref.path))
        raw = ref.path if by_name else Path(ref.path).name
        found.setdefault(ref.name, []).append(made_by or raw)
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()}


def _section(keys: Mapping[str, Any], section: str) -> dict[str, Any]:
    prefix = f"{section}."
    return {k.removeprefix(prefix): v for k, v in keys.items() if k.startswith(prefix)}
