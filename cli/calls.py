"""What a command line comes to: the one library call that each command makes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsgen.errors import UsageError

from .options import Common

if TYPE_CHECKING:
    from rsgen.reporting import Reporter, RunSummary
    from rsgen.runs import Control

__all__ = ["Call", "Pairs", "job_call", "run_call"]

Pairs = list[tuple[str, Any]]
Call = Callable[[Common, dict[str, Any], Pairs, Pairs, "Reporter", "Control"], "RunSummary | None"]


def job_call(command: str, inputs: Mapping[str, str], flags: Mapping[str, str]) -> Call:
    """A call that builds the Job and runs the stage or program.

    `inputs`: argument -> name of the input; `flags`: config key -> option.
    """

    def call(
        common: Common,
        given: dict[str, Any],
        options: Pairs,
        settings: Pairs,
        reporter: Reporter,
        control: Control,
    ) -> RunSummary | None:
        from rsgen.config import dump_json, dump_yaml, load_config, section_name
        from rsgen.pipeline import read_layers, run_command
        from rsgen.runs import Job

        layers = read_layers(common.config)
        config = load_config(layers, options=options, settings=settings, flags=flags)
        if common.print_config:
            dump = dump_json if common.json else dump_yaml
            sys.stdout.write(dump(config, [section_name(command)]))
            return None
        if common.out is None:
            raise UsageError(f"rsgen {command} needs --out", hint="add --out FOLDER")
        job = Job(
            command=command,
            config=config,
            out=common.out,
            inputs={name: _paths(given[arg]) for arg, name in inputs.items() if given[arg]},
            reporter=reporter,
            control=control,
            slice_of=common.slice_of(),
            if_locked=common.locked_policy(),
            dry_run=common.dry_run,
            series=given.get("series"),
            allow_partial=common.allow_partial,
        )
        return run_command(job)

    return call


def run_call(
    common: Common,
    given: dict[str, Any],
    options: Pairs,
    settings: Pairs,
    reporter: Reporter,
    control: Control,
) -> RunSummary | None:
    from rsgen.pipeline import PipelineJob, print_pipeline, run_pipeline

    if common.slice_of() is not None:
        raise UsageError(
            "rsgen run has no --slice: its stages follow one another",
            hint="run one stage's command with --slice in a job array",
        )
    job = PipelineJob(
        pipeline=given["pipeline"],
        layers=tuple(common.config),
        work=given["work"] or common.out,
        options=tuple(options),
        settings=tuple(settings),
        first=given["from_stage"],
        last=given["until_stage"],
        reporter=reporter,
        control=control,
        if_locked=common.locked_policy(),
        dry_run=common.dry_run,
        series=given["series"],
    )
    if common.print_config:
        sys.stdout.write(print_pipeline(job, as_json=common.json))
        return None
    return run_pipeline(job)


def _paths(value: Any) -> list[Path]:
    if value is None:
        return []
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    return [_model_path(v) if isinstance(v, str) else v for v in values]


def _model_path(text: str) -> Path:
    """A model: `tiny` and `hub:...` stay names, folders get absolute (`./tiny` is a folder)."""
    return Path(text) if text == "tiny" or text.startswith("hub:") else Path(text).absolute()
