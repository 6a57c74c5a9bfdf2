"""`run`: a YAML list of stages, each in its own folder, only the changed ones run again."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from rsgen import __version__
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
from rsgen.errors import DataError, RsgenError, UsageError
from rsgen.hints import check_path, near_name
from rsgen.images import replace_bytes
from rsgen.registry import BUILT_IN, names, resolve
from rsgen.reporting import NullReporter, Reporter, RunSummary
from rsgen.request import MODEL_KEYS, digest, request_keys
from rsgen.runs import Control, Job, hold_lock
from rsgen.settings import Section
from rsgen.store import input_ref, is_model_name, run_folder

__all__ = [
    "PipelineJob",
    "print_pipeline",
    "read_layers",
    "run_command",
    "run_pipeline",
]


def run_command(job: Job) -> RunSummary:
    """Run one command: a stage through its driver, a program directly."""
    if job.command in BUILT_IN["stages"]:
        from rsgen.execution import run_stage

        return run_stage(job)
    if job.slice_of is not None:
        raise UsageError(
            f"--slice is for sample stages ({', '.join(names('stages'))}), not {job.command}"
        )
    program = resolve("programs", job.command)
    summary: RunSummary = program(job)
    return summary


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
    known = [p.stem for p in sorted((root / "pipelines").glob("*.yaml"))]
    near = near_name(name, known)
    raise UsageError(
        f"{name}: no such file or template; pipelines: {', '.join(known)}",
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
    """One stage of a pipeline file."""

    command: str
    inputs: dict[str, str | list[str]] = Field(default_factory=dict)
    config: dict[str, Any] = Field(default_factory=dict)
    execution: dict[str, Any] = Field(default_factory=dict)


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
        problems += [
            f"stages.{name}.inputs.{key}: no earlier stage and no path {value!r}"
            for key, value in _input_items(entry)
            if not (value in entries or Path(value).exists() or is_model_name(key, Path(value)))
        ]
        entries[str(name)] = entry
    if problems:
        raise UsageError(f"{path}:\n  " + "\n  ".join(problems))
    for asked in (job.first, job.last):
        if asked is not None and asked not in entries:
            raise UsageError(f"no stage {asked!r}; stages: {', '.join(entries)}")
    order = list(entries)
    if job.first and job.last and order.index(job.first) > order.index(job.last):
        raise UsageError(f"--from {job.first} comes after --until {job.last}")
    return Pipeline(entries, (data, *read_layers(job.layers)))


def _input_items(entry: StageEntry) -> list[tuple[str, str]]:
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
    data, *layers = pipeline.layers
    return load_config([data, own, *layers], options=job.options, settings=job.settings)


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


def stage_folder(work: Path, name: str, stage_job: Job) -> Path:
    """DIR/<stage>-<8 digits>: they change with the request and its inputs' contents."""
    refs = [
        input_ref(key, path) for key, paths in sorted(stage_job.inputs.items()) for path in paths
    ]
    keys = request_keys(stage_job.command, stage_job.config, refs, {}, stage_job.options)
    contents = [ref.manifest_hash for ref in refs] + _local_models(stage_job)
    return work / f"{name}-{digest([__version__, keys, contents])[:8]}"


def _local_models(stage_job: Job) -> list[str]:
    """Hashes of the weights in local folders that the stage's section names."""
    section = section_name(stage_job.command)
    values = getattr(stage_job.config, section).model_dump()
    named = [
        values.get(key.partition(".")[2])
        for key in sorted(MODEL_KEYS)
        if key.startswith(f"{section}.")
    ]
    local = [str(value) for value in named if value and Path(str(value)).is_dir()]
    if not local:
        return []
    from rsgen.models.base import ModelRef, model_folder, model_hash

    return [model_hash(model_folder(ModelRef.parse(value))) for value in local]


def run_pipeline(job: PipelineJob) -> RunSummary:
    """Run the stages in order; the first that does not exit 0 ends the run with its code.

    Raises:
        UsageError: before anything runs, for anything wrong in the file.
    """
    started = time.monotonic()
    if job.work is None:
        raise UsageError("rsgen run needs --work", hint="add --work FOLDER")
    pipeline = read_pipeline(job)
    configs = {name: stage_config(job, pipeline, name) for name in pipeline.stages}
    if job.dry_run:
        return _dry_run(job, pipeline)
    if (job.work / "run.json").is_file() and run_folder(
        job.work / "run.json"
    ) == job.work.absolute():
        raise UsageError(
            f"--work {job.work} is the OUT of another command", hint="give --work another folder"
        )
    lock_job = Job("run", Config(), job.work, control=job.control, if_locked=job.if_locked)
    with hold_lock(job.work, lock_job):
        return _run_stages(job, pipeline, configs, started)


def _dry_run(job: PipelineJob, pipeline: Pipeline) -> RunSummary:
    rows: dict[str, float | int | str] = {
        name: f"{entry.command} {' '.join(v for _, v in _input_items(entry))}".strip()
        for name, entry in pipeline.stages.items()
    }
    return RunSummary("run", str(job.work), "dry-run", tables={"stages": rows})


def _run_stages(
    job: PipelineJob, pipeline: Pipeline, configs: Mapping[str, Config], started: float
) -> RunSummary:
    assert job.work is not None
    record = job.work / "run.json"
    current: dict[str, str] = {}
    if record.is_file():
        current = _read_record(record)
    active = job.first is None
    rows: dict[str, float | int | str] = {}
    last = RunSummary("run", str(job.work), "done")
    artifacts: dict[str, str] = {}
    notes: list[str] = []
    for name, entry in pipeline.stages.items():
        active = active or name == job.first
        if not active:
            if name not in current:
                raise UsageError(
                    f"--from {job.first}: stage {name!r} has not run yet in {job.work}"
                )
            continue
        order = list(pipeline.stages)
        earlier = order[: order.index(name)]
        inputs = _stage_inputs(job.work, entry, earlier, current)
        stage_job = Job(
            entry.command,
            configs[name],
            job.work,
            inputs=inputs,
            reporter=job.reporter,
            control=job.control,
            if_locked=job.if_locked,
        )
        stage_job = replace(stage_job, out=stage_folder(job.work, name, stage_job))
        job.reporter.note(f"[{name}] rsgen {entry.command} -> {stage_job.out}")
        try:
            last = run_command(stage_job)
        except RsgenError as error:
            error.message = f"stage {name}: {error.message}"
            if error.hint and f"--out {stage_job.out}-2" in error.hint:
                error.hint = "undo that change, or start afresh in another --work folder"
            raise
        current[name] = stage_job.out.name
        replace_bytes(record, _record(current))
        rows[name] = f"{last.status}, {last.seconds:.1f} s"
        artifacts |= {f"{name}: {key}": path for key, path in last.artifacts.items()}
        notes += [f"{name}: {note}" for note in last.notes]
        if last.exit_code != 0 or name == job.last:
            break
    return RunSummary(
        "run",
        str(job.work),
        "done" if last.exit_code == 0 else "gate-missed",
        counts=last.counts,
        tables={"stages": rows, **last.tables},
        artifacts=artifacts,
        notes=tuple(notes),
        exit_code=last.exit_code,
        seconds=time.monotonic() - started,
    )


def _stage_inputs(
    work: Path, entry: StageEntry, earlier: Collection[str], current: Mapping[str, str]
) -> dict[str, list[Path]]:
    """Input name -> folders: an earlier stage's by its name, anything else as a path."""
    inputs: dict[str, list[Path]] = {}
    for key, value in _input_items(entry):
        path = work / current[value] if value in earlier else Path(value)
        inputs.setdefault(key, []).append(path)
    return inputs


def _read_record(path: Path) -> dict[str, str]:
    try:
        stages = json.loads(path.read_text(encoding="utf-8"))["stages"]
        return {str(name): str(folder) for name, folder in stages.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: not the record of a pipeline ({error})", hint="give --work another folder"
        ) from error


def _record(current: Mapping[str, str]) -> bytes:
    return (json.dumps({"schema": 1, "stages": dict(current)}, indent=1) + "\n").encode()
