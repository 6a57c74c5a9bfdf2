"""`train-judge`: two detectors on disjoint source images, one to optimise against, one to measure.

For each judge: choose its images, optimise, measure the network's normalisation anew, calibrate
on images that were held back, report on the run's val split.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from accelerate import Accelerator

from rsgen.data import TrainingImages
from rsgen.devices import device_name
from rsgen.errors import DataError, UsageError
from rsgen.images import replace_bytes
from rsgen.judge.calibration import Calibration, fit_scores, fit_temperature
from rsgen.judge.model import ROLES, Judge, JudgeCard, Role
from rsgen.judge.report import (
    Seen,
    hits,
    judge_report,
    look,
    working_threshold,
    write_pictures,
    write_reliability,
)
from rsgen.records import ClassTable, Sample
from rsgen.reporting import RunSummary
from rsgen.request import Plan
from rsgen.runs import Job, ProgramRun, check_request
from rsgen.settings import TrainJudgeConfig
from rsgen.store import SampleRun, input_ref, open_samples
from rsgen.training.curves import write_loss_curve
from rsgen.training.detector import (
    Recipe,
    class_habits,
    new_objective,
    optimise,
    stuff_names,
    view_side,
)
from rsgen.training.session import default_threads, open_training
from rsgen.training.setup import make_accelerator, number_type

__all__ = ["train_judge"]

BATCH_SIZE = 16
VIEWS_AN_IMAGE = 40
STEP_RANGE = (300, 20_000)
LEAST_IMAGES = 8


@dataclass(frozen=True)
class _Share:
    """The images of one judge: to learn from, and held back to calibrate on."""

    learn: tuple[Sample, ...]
    calibrate: tuple[Sample, ...]


@dataclass(frozen=True)
class _Session:
    run: ProgramRun
    source: SampleRun
    accelerator: Accelerator
    plan: Plan
    side: int

    @property
    def settings(self) -> TrainJudgeConfig:
        return self.run.config.train_judge

    @property
    def seed(self) -> int:
        return self.run.config.seed

    @property
    def recipe(self) -> Recipe:
        settings, plan = self.settings, self.plan
        return Recipe(
            plan.count, plan.batch_size, self.side, settings.lr, settings.augment,
            settings.checkpoint_every, self.seed,
        )  # fmt: skip

    @property
    def classes(self) -> ClassTable:
        return self.source.classes


def train_judge(job: Job) -> RunSummary:
    """Train the judges on the `run` input; OUT/judge_a and OUT/judge_b.

    Raises:
        UsageError, DataError: too few images or no thing class; Stopped: run the line again.
    """
    paths = job.paths("run")
    if len(paths) != 1:
        raise UsageError(
            f"train-judge needs one sample run, got {len(paths)}", hint="rsgen train-judge RUN"
        )
    source = open_samples(paths[0], job.allow_partial)
    settings = job.config.train_judge
    images = TrainingImages.from_runs(
        [source], source.classes, settings.max_lost_labels, "train_judge"
    )
    shares = _shares(images.samples, _roles(settings), job.config.seed)
    side = view_side(settings.size, images.samples)
    plan = _plan(job, min(len(share.learn) for share in shares.values()))
    inputs = [input_ref("run", paths[0], allow_partial=job.allow_partial)]
    if job.dry_run:
        check_request(job, inputs=inputs)
        rows: dict[str, dict[str, float | int | str]] = {
            ROLES[role]: {"learn from": len(share.learn), "calibrate on": len(share.calibrate)}
            for role, share in shares.items()
        }
        counts = {
            "training images": len(images),
            "refused": images.refused,
            "incomplete": images.incomplete,
            "steps": plan.count,
        }
        return RunSummary(job.command, str(job.out), "dry-run", counts=counts, tables=rows)
    with open_training(
        job, inputs=inputs, classes=source.classes, model_hashes={}, plan=plan
    ) as run:
        if run.committed:
            return run.summary()
        frozen = run.info.plan or plan
        torch.set_num_threads(frozen.threads)
        accelerator = make_accelerator(device_name(frozen.device), frozen.dtype)
        session = _Session(run, source, accelerator, frozen, side)
        if images.incomplete:
            run.reporter.note(
                f"{images.incomplete} images left out: over {settings.max_lost_labels:.0%} of "
                "their labels were lost on reading, so they show objects that their layouts "
                "lack; -s train_judge.max_lost_labels=1 takes them all",
                "warning",
            )
        reports = {role: _train_one(session, role, share) for role, share in shares.items()}
        return _commit(session, reports)


def _roles(settings: TrainJudgeConfig) -> list[Role]:
    known: tuple[Role, ...] = get_args(Role)
    return [role for role in known if settings.judges in ("both", role)]


def _shares(samples: Sequence[Sample], roles: Sequence[Role], seed: int) -> dict[Role, _Share]:
    """Disjoint source scenes for the two judges, whether or not both are trained.

    The judges see other scenes, and what calibrates is no scene that was learned from.
    """
    parents = sorted(
        {s.parent for s in samples},
        key=lambda p: blake2b(f"{seed}/judge/{p}".encode(), digest_size=8).digest(),
    )
    every: tuple[Role, ...] = get_args(Role)
    shares = {}
    for number, role in enumerate(every):
        own = parents[number :: len(every)]
        held = set(own[:: max(4, min(8, len(own) // 4))])
        learn = tuple(s for s in samples if s.parent in set(own) - held)
        shares[role] = _Share(learn, tuple(s for s in samples if s.parent in held))
    least = min(len(shares[role].learn) for role in roles)
    if least < LEAST_IMAGES:
        raise DataError(
            f"{len(parents)} training scenes leave a judge {least} images to learn from, "
            f"it needs {LEAST_IMAGES}",
            hint="give a larger run: the judges learn from scenes of their own",
        )
    return {role: shares[role] for role in roles}


def _plan(job: Job, images: int) -> Plan:
    execution, asked = job.config.execution, job.config.train_judge.max_steps
    device = device_name(execution.device)
    batch_size = execution.batch_size or BATCH_SIZE
    automatic = round(VIEWS_AN_IMAGE * images / batch_size)
    automatic = min(max(automatic, STEP_RANGE[0]), STEP_RANGE[1])
    steps = automatic if asked == "auto" else int(asked)
    threads = execution.threads or default_threads()
    return Plan(steps, (), batch_size, number_type(execution.dtype, device), device, threads)


# ---------------------------------------------------------------- one judge


def _train_one(session: _Session, role: Role, share: _Share) -> dict[str, Any]:
    name, run = ROLES[role], session.run
    folder = run.path / name
    if (folder / "report.json").is_file():  # finished before the run was stopped
        done: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        return done
    run.reporter.note(
        f"{name} (for {role}): {len(share.learn)} images to learn from, "
        f"{len(share.calibrate)} to calibrate on"
    )
    images = TrainingImages(share.learn, session.source.read_image, session.classes)
    habits = class_habits(share.learn, session.classes)
    objective = new_objective(images, len(habits), session.recipe, name)
    history = optimise(
        objective, session.recipe, session.accelerator, run.path / "state" / name,
        run.reporter, run.check_stop, name,
    )  # fmt: skip
    network, stuff = objective.network, stuff_names(session.classes)
    judge = Judge(
        network,
        JudgeCard(
            role, session.classes, network.shape, habits, stuff, Calibration(), 0.5,
            run.info.fingerprint, session.side,
        ),
        session.accelerator.device,
    )  # fmt: skip
    judge.card = _calibrated(session, judge, share.calibrate)
    judge.save(folder)
    report = _report(session, judge, share, folder)
    write_loss_curve(folder / "loss.png", history, f"{name}: loss")
    text = json.dumps(report, indent=1, sort_keys=True) + "\n"
    replace_bytes(folder / "report.json", text.encode("utf-8"))
    return report


def _look(session: _Session, judge: Judge, samples: Sequence[Sample]) -> list[Seen]:
    return look(judge, samples, session.source.read_image, session.classes, session.seed)


def _calibrated(session: _Session, judge: Judge, held: Sequence[Sample]) -> JudgeCard:
    """The card with the calibration that these images ask for."""
    seen = _look(session, judge, held)
    knots, values = fit_scores(*hits(seen))
    logits, answers = np.concatenate([s.logits for s in seen]), [s.answers for s in seen]
    fitted = Calibration(knots, values, fit_temperature(logits, np.concatenate(answers)))
    scaled = [replace(s, found=replace(s.found, scores=fitted.scores(s.found.scores)))
              for s in seen]  # fmt: skip
    return replace(judge.card, calibration=fitted, threshold=working_threshold(scaled))


def _report(session: _Session, judge: Judge, share: _Share, folder: Path) -> dict[str, Any]:
    """Figures on the val split; without one on the calibration images, and it says so."""
    held = [s for s in session.source if s.split == "val" and s.image is not None]
    seen = _look(session, judge, held or share.calibrate)
    report = judge_report(judge, seen)
    report["measured on"] = "val" if held else "the calibration images (there is no val split)"
    report["learned from"] = len(share.learn)
    write_pictures(judge, seen, session.source.read_image, folder / "worst.png")
    write_reliability(
        report["reliability"], folder / "reliability.png", f"{folder.name}: {len(seen)} images"
    )
    return report


def _commit(session: _Session, reports: dict[Role, dict[str, Any]]) -> RunSummary:
    run = session.run
    tables: dict[str, dict[str, float | int | str]] = {}
    artifacts, notes = {}, []
    for role, report in reports.items():
        name = ROLES[role]
        figures = {k: v if v is not None else "-" for k, v in report["figures"].items()}
        tables[f"{name} ({role})"] = {
            "images": report["images"], "objects": report["objects"], **figures
        }  # fmt: skip
        tables[f"{name}: AP50 by class"] = {
            label: row["AP50"] if row["AP50"] is not None else "-"
            for label, row in report["classes"].items()
        }
        for artifact in ("model.safetensors", "judge.json", "report.json", "worst.png",
                         "reliability.png", "loss.png"):  # fmt: skip
            artifacts[f"{name}/{artifact}"] = run.path / name / artifact
        if report["images"] < 50:
            notes.append(f"{name} was measured on {report['images']} images: figures are rough")
        if report["measured on"] != "val":
            notes.append(f"{name} was measured on {report['measured on']}")
    counts = {
        "judges": len(reports),
        "steps": session.plan.count,
        "training images": sum(report["learned from"] for report in reports.values()),
    }
    return run.commit(counts=counts, artifacts=artifacts, tables=tables, notes=notes)
