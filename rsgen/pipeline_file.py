"""Pipeline files: a YAML list of stages, read and checked whole before anything runs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from rsgen.config import (
    Config,
    config_data,
    dump_yaml,
    load_config,
    problem_lines,
    read_yaml,
    section_name,
    templates_root,
)
from rsgen.ending import Ending
from rsgen.errors import UsageError
from rsgen.hints import check_path, near_name
from rsgen.job import Control
from rsgen.registry import BUILT_IN
from rsgen.reporting import NullReporter, Reporter
from rsgen.settings import Section
from rsgen.store import is_model_name

__all__ = [
    "Pipeline",
    "PipelineJob",
    "StageEntry",
    "find_config",
    "input_items",
    "print_pipeline",
    "read_layers",
    "read_pipeline",
    "stage_config",
    "whole_config",
]


def find_config(name: str) -> Path:
    """A YAML file by path, or a template by name (`quickstart`, `train/paper`).

    Raises:
        UsageError: neither; the known templates are listed.
    """
    path = Path(name)
    if path.is_file():
        return path
    root = templates_root()
    found = sorted(
        p for p in root.rglob("*.yaml") if p.stem == name or str(p.relative_to(root))[:-5] == name
    )
    if len(found) == 1:
        return found[0]
    known, train, tune = (
        [p.stem for p in sorted((root / kind).glob("*.yaml"))]
        for kind in ("pipelines", "train", "tune")
    )
    near = near_name(name, known + train + tune)
    raise UsageError(
        f"{name}: no such file or template; pipelines: {', '.join(known)}; "
        f"for train: {', '.join(train)}; for rl-tune: {', '.join(tune)}",
        hint=f"did you mean {near}?" if near and not path.suffix else check_path(path),
    )


def read_layers(configs: Sequence[str]) -> list[dict[str, Any]]:
    """The mappings of `-c` files and templates, lowest priority first, without stages."""
    layers = []
    for name in configs:
        data = read_yaml(find_config(name))
        data.pop("stages", None)
        layers.append(data)
    return layers


class StageEntry(Section):
    """One stage of a pipeline file; one that is not enabled stands for its first input."""

    command: str
    enabled: bool = True
    inputs: dict[str, str | list[str]] = Field(default_factory=dict)
    config: dict[str, Any] = Field(default_factory=dict)
    execution: dict[str, Any] = Field(default_factory=dict)
    seed: int | None = Field(None, ge=0)  # of this stage alone; default: the file's


@dataclass(frozen=True)
class PipelineJob:
    """One `run` command line."""

    pipeline: str
    work: Path | None
    layers: tuple[str, ...] = ()
    options: tuple[tuple[str, Any], ...] = ()
    settings: tuple[tuple[str, Any], ...] = ()
    first: str | None = None
    last: str | None = None
    reporter: Reporter = field(default_factory=NullReporter)
    control: Control = field(default_factory=Control)
    if_locked: str = "fail"
    dry_run: bool = False
    series: str | None = None
    ending: Ending = field(default_factory=Ending)


@dataclass(frozen=True)
class Pipeline:
    stages: Mapping[str, StageEntry]
    layers: tuple[dict[str, Any], ...]


def read_pipeline(job: PipelineJob) -> Pipeline:
    """Read and check the whole pipeline before anything runs."""
    path = find_config(job.pipeline)
    data = read_yaml(path)
    stages = data.pop("stages", None)
    if not isinstance(stages, dict) or not stages:
        raise UsageError(f"{path}: a pipeline needs a mapping `stages:`")
    problems, entries = [], {}
    passed: dict[str, str] = {}  # stage that is switched off -> what it stands for
    for name, row in stages.items():
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", str(name)):
            problems.append(f"stages.{name}: a name is letters, digits, '-', '_' and '.'")
            continue
        try:
            entry = StageEntry.model_validate(row)
        except ValidationError as error:
            problems += problem_lines(error, StageEntry, row, prefix=f"stages.{name}")
            continue
        if entry.command not in {*BUILT_IN["stages"], *BUILT_IN["programs"]}:
            near = near_name(entry.command, {*BUILT_IN["stages"], *BUILT_IN["programs"]})
            guess = f"; did you mean {near!r}?" if near else ""
            problems.append(f"stages.{name}: unknown command {entry.command!r}{guess}")
        entry = entry.model_copy(update={"inputs": _passed_on(entry, passed)})
        problems += [
            f"stages.{name}.inputs.{key}: no earlier stage and no path {value!r}"
            for key, value in input_items(entry)
            if not (value in entries or Path(value).exists() or is_model_name(key, Path(value)))
        ]
        if entry.enabled:
            entries[str(name)] = entry
        else:
            passed[str(name)] = next((value for _, value in input_items(entry)), str(name))
    if problems:
        raise UsageError(f"{path}:\n  " + "\n  ".join(problems))
    for asked in (job.first, job.last):
        if asked is not None and asked not in entries:
            near = near_name(asked, entries)
            raise UsageError(
                f"no stage {asked!r}; stages: {', '.join(entries)}",
                hint=f"did you mean {near}?" if near else "name one of them",
            )
    _refuse_stage_keys(job, entries)
    order = list(entries)
    if job.first and job.last and order.index(job.first) > order.index(job.last):
        raise UsageError(f"--from {job.first} comes after --until {job.last}")
    return Pipeline(entries, (data, *read_layers(job.layers)))


def _passed_on(entry: StageEntry, passed: Mapping[str, str]) -> dict[str, str | list[str]]:
    """A stage's inputs, with what stands for stages that are switched off."""
    return {
        key: passed.get(value, value)
        if isinstance(value, str)
        else [passed.get(v, v) for v in value]
        for key, value in entry.inputs.items()
    }


def _refuse_stage_keys(job: PipelineJob, entries: Mapping[str, StageEntry]) -> None:
    """`-s` takes keys of the settings: a stage's name in its place is told the section."""
    for key, value in job.settings:
        name, _, leaf = key.partition(".")
        if name not in entries or name in Config.model_fields:
            continue
        section = section_name(entries[name].command)
        raise UsageError(
            f"-s {key}: {name} is a stage, and -s takes sections of the settings",
            hint=f"-s {section}.{leaf or 'KEY'}={value} (for every {entries[name].command} stage "
            f"of the run), or stages.{name}.config in the file (for this one)",
        )


def input_items(entry: StageEntry) -> list[tuple[str, str]]:
    return [
        (key, value)
        for key, values in entry.inputs.items()
        for value in ([values] if isinstance(values, str) else values)
    ]


def stage_config(job: PipelineJob, pipeline: Pipeline, name: str) -> Config:
    """A stage's configuration: the file's sections, its own, then environment and options."""
    entry = pipeline.stages[name]
    own: dict[str, Any] = {section_name(entry.command): entry.config}
    if entry.execution:
        own["execution"] = entry.execution
    if entry.seed is not None:
        own["seed"] = entry.seed
    data, *layers = pipeline.layers
    return load_config([data, own, *layers], options=job.options, settings=job.settings)


def whole_config(job: PipelineJob, pipeline: Pipeline) -> Config:
    """What holds for the run as a whole: its seed, and what is called at its end."""
    return load_config(pipeline.layers, options=job.options, settings=job.settings)


def print_pipeline(job: PipelineJob, *, as_json: bool = False) -> str:
    """The resolved configuration of every stage: YAML documents, or one JSON object by stage."""
    pipeline = read_pipeline(job)
    if as_json:
        rows = {
            name: config_data(stage_config(job, pipeline, name), [section_name(entry.command)])
            for name, entry in pipeline.stages.items()
        }
        return json.dumps(rows) + "\n"
    parts = []
    for name, entry in pipeline.stages.items():
        config = stage_config(job, pipeline, name)
        parts.append(f"# stage {name}\n" + dump_yaml(config, [section_name(entry.command)]))
    return "---\n".join(parts)
