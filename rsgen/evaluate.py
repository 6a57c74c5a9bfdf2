"""`evaluate`: how good a generated set is, by every metric that is asked for.

Each metric is a cell whose answer is kept in OUT/cells as soon as it is there: a run that was
stopped goes on with the next one. The report puts them together, beside another one's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rsgen.classes import united
from rsgen.devices import device_name
from rsgen.errors import DataError, UsageError
from rsgen.evaluation.base import FEW, Cell, CellResult, Evaluation, Images
from rsgen.evaluation.page import Other, write_report
from rsgen.images import replace_bytes
from rsgen.judge.eyes import EyesRef
from rsgen.judge.model import judge_folder, load_judge
from rsgen.models.base import ModelRef, model_folder, model_hash
from rsgen.registry import names, resolve
from rsgen.reporting import RunSummary
from rsgen.request import Plan
from rsgen.runs import Job, ProgramRun, check_request, start_program
from rsgen.splits import train_only
from rsgen.store import SampleRun, input_ref, open_samples, run_folder
from rsgen.training.session import default_threads

__all__ = ["evaluate"]

REPORT = "report.json"
MEASURED_ON = "measured on"


@dataclass(frozen=True)
class _Opened:
    generated: SampleRun
    real: SampleRun
    judge: Path
    against: Other | None


def evaluate(job: Job) -> RunSummary:
    """Inputs: `run` (generated samples), `real` (a sample run with test and train splits),
    `judge` (train-judge OUT), and optionally `against` (an earlier evaluate OUT).

    Raises:
        UsageError: an input is missing, or a judge for rewards was given. DataError: there are
        no generated images, or no real ones of the test split. Stopped: run the line again.
    """
    settings = job.config.evaluate
    cells = _cells(settings.metrics)
    opened = _open(job)
    device = device_name(job.config.execution.device)
    threads = job.config.execution.threads or default_threads()
    plan = Plan(len(cells), (), 1, "fp32", device, threads)
    inputs = [
        input_ref(name, path, allow_partial=job.allow_partial)
        for name in ("run", "real", "judge", "against")
        for path in job.paths(name)
    ]
    classes = united([opened.real.classes, opened.generated.classes])
    generated, real, train = _images(opened)
    eyes = EyesRef.parse(settings.detector, str(opened.judge))
    hashes = {} if eyes.kind == "judge" else {"detector": eyes.identity("evaluation")}
    if settings.features != "judge":
        hashes["features"] = model_hash(model_folder(ModelRef.parse(settings.features)))
    if job.dry_run:
        check_request(job, inputs=inputs, model_hashes=hashes)
        counts = {"generated": len(generated), "real test": len(real), "real train": len(train)}
        return RunSummary(job.command, str(job.out), "dry-run", counts=counts)
    with start_program(job, inputs=inputs, classes=classes, model_hashes=hashes, plan=plan) as run:
        if run.committed:
            return run.summary()
        torch.set_num_threads((run.info.plan or plan).threads)
        evaluation = Evaluation(
            generated,
            real,
            train,
            classes,
            load_judge(opened.judge, "evaluation", device=device, force=settings.force_judge),
            settings,
            job.config.seed,
            device,
            run.path,
            run.reporter,
            run.check_stop,
            None
            if eyes.kind == "judge"
            else eyes.open(classes, "evaluation", device, settings.detector_limit_s),
        )
        results = _compute(run, evaluation, cells)
        return _commit(run, evaluation, cells, results, opened.against)


def _cells(wanted: tuple[str, ...]) -> list[Cell]:
    if len(set(wanted)) < len(wanted) or not wanted:
        raise UsageError(
            f"evaluate.metrics {','.join(wanted)!r} names a metric twice, or none",
            hint=f"known: {', '.join(names('metrics'))}",
        )
    return [resolve("metrics", name) for name in wanted]


def _open(job: Job) -> _Opened:
    for name, flag in (("run", "RUN"), ("real", "--real RUN"), ("judge", "--judge JUDGES")):
        if len(job.paths(name)) != 1:
            raise UsageError(
                f"evaluate needs {flag} once, got {len(job.paths(name))}",
                hint="rsgen evaluate IMAGES --real MASKS --judge JUDGES --out OUT",
            )
    judge = job.paths("judge")[0]
    judge_folder(judge, "evaluation", force=job.config.evaluate.force_judge)
    against = None
    for path in job.paths("against"):
        folder = run_folder(path) or path
        against = Other(_read_report(folder), folder / "cells")
    return _Opened(
        open_samples(job.paths("run")[0], job.allow_partial),
        open_samples(job.paths("real")[0], job.allow_partial),
        judge,
        against,
    )


def _read_report(out: Path) -> Mapping[str, Any]:
    try:
        found: Mapping[str, Any] = json.loads((out / REPORT).read_text(encoding="utf-8"))
        return found
    except (OSError, ValueError) as error:
        raise DataError(
            f"{out / REPORT}: no report of an evaluation ({error})",
            hint="give --against the OUT of an earlier rsgen evaluate",
        ) from error


def _images(opened: _Opened) -> tuple[Images, Images, Images]:
    """(generated ones that no filter dropped, real test ones, real train ones).

    By id, so that draws do not depend on the order in which a run holds them.
    """
    made, real = (sorted(run, key=lambda s: s.id) for run in (opened.generated, opened.real))
    generated = tuple(s for s in made if s.image is not None and s.verdict != "drop")
    test = tuple(s for s in real if s.split == "test" and s.image is not None)
    train = tuple(s for s in train_only(real) if s.image is not None)
    if not generated:
        raise DataError(
            f"{opened.generated.path}: none of {len(made)} samples has an image that was kept",
            hint="give a run of generate, or of filter",
        )
    if not test:
        raise DataError(
            f"{opened.real.path}: no image of the test split among {len(real)}",
            hint="what was learned from cannot measure: give a run with a test split",
        )
    return (
        Images("generated", generated, opened.generated.read_image),
        Images("real", test, opened.real.read_image),
        Images("real train", train, opened.real.read_image),
    )


def _compute(run: ProgramRun, evaluation: Evaluation, cells: list[Cell]) -> dict[str, CellResult]:
    results: dict[str, CellResult] = {}
    announced = False
    for done, cell in enumerate(cells):
        if not announced:
            run.reporter.stage("evaluate", len(cells), "metric")
            run.reporter.advance(done)
        announced = not getattr(cell, "stages", False)
        kept = run.path / "cells" / f"{cell.name}.json"
        folder = run.path / "cells" / cell.name
        if kept.is_file():
            results[cell.name] = CellResult.from_json(json.loads(kept.read_text("utf-8")))
        else:
            folder.mkdir(parents=True, exist_ok=True)
            result = _answered(cell, evaluation, folder)
            # in the order of the cell: headline figures first, also when they are read again
            text = json.dumps(result.to_json(), indent=1, allow_nan=False) + "\n"
            replace_bytes(kept, text.encode("utf-8"))
            results[cell.name] = result
        if announced:
            run.reporter.advance()
        run.check_stop()
    return results


def _answered(cell: Cell, evaluation: Evaluation, folder: Path) -> CellResult:
    """A metric that these images do not allow is an answer too; the others go on."""
    try:
        return cell.compute(evaluation, folder)
    except DataError as error:
        return CellResult({}, notes=(f"not measured: {error.message}",))


def _commit(
    run: ProgramRun,
    evaluation: Evaluation,
    cells: list[Cell],
    results: Mapping[str, CellResult],
    against: Other | None,
) -> RunSummary:
    counts = {
        "generated images": len(evaluation.generated),
        "real test images": len(evaluation.real),
        "metrics": len(results),
    }
    report = {
        "schema": 1,
        "counts": counts,
        "cells": {name: result.to_json() for name, result in results.items()},
        "titles": {cell.name: cell.title for cell in cells},
    }
    text = json.dumps(report, indent=1, allow_nan=False) + "\n"
    replace_bytes(run.path / REPORT, text.encode("utf-8"))
    page = write_report(run.path / "report.html", report, run.path / "cells", against)
    notes = [f"{name}: {note}" for name, result in results.items() for note in result.notes]
    fewest = min(len(evaluation.generated), len(evaluation.real))
    if fewest < FEW:
        notes.append(f"{fewest} images on a side: figures of distributions are rough under {FEW}")
    tables = {cell.title: _column(results[cell.name], against, cell.name) for cell in cells}
    artifacts = {"report": page, "figures": run.path / REPORT}
    return run.commit(counts=counts, artifacts=artifacts, tables=tables, notes=notes)


def _column(result: CellResult, against: Other | None, name: str) -> dict[str, float | int | str]:
    """A cell's figures for the console, with the other report's in brackets, and what they were
    measured on."""
    other = {} if against is None else against.cell(name).get("figures", {})
    column: dict[str, float | int | str] = {}
    for key, value in result.figures.items():
        shown = _shown(value)
        column[key] = shown if against is None else f"{shown} (against: {_shown(other.get(key))})"
    if result.counts:
        column[MEASURED_ON] = ", ".join(f"{n} {key}" for key, n in result.counts.items())
    return column


def _shown(value: Any) -> float | int | str:
    return "-" if value is None else value
