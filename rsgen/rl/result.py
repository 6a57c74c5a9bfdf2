"""How a tuning run ends: what is measured, said, saved and committed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from rsgen.errors import GateMissed
from rsgen.models.base import load_model
from rsgen.models.lora import add_adapter
from rsgen.models.stable_diffusion import StableDiffusion
from rsgen.reporting import RunSummary
from rsgen.rl.loop import METRICS, Outcome, Tuner
from rsgen.rl.page import write_curves, write_page
from rsgen.rl.selection import Measure
from rsgen.rl.session import Session
from rsgen.runs import ProgramRun
from rsgen.settings import RlTuneConfig
from rsgen.training.result import write_checkpoint

__all__ = ["commit_tuned", "follow"]


def follow(session: Session, run: ProgramRun, outcome: Outcome) -> RunSummary:
    """What the ranks say that write nothing; their exit code is the first rank's."""
    told = torch.zeros(1, device=session.accelerator.device)
    code = int(session.accelerator.reduce(told, "sum"))
    status = "done" if code == 0 else "gate-missed"
    return RunSummary(run.info.command, str(run.path), status, exit_code=code)


def commit_tuned(session: Session, run: ProgramRun, tuner: Tuner, outcome: Outcome) -> RunSummary:
    opened, settings = session.opened, session.opened.settings
    measure = _measured(session, tuner)
    notes, missed = _verdict(settings, outcome, measure, bool(opened.judge))
    artifacts = _save(session, run, tuner, outcome)
    rows = outcome.progress.rows
    curves = write_curves(run.path / "curves.png", rows)
    figures = _figures(outcome, measure)
    grids = sorted((run.path / "validation").glob("epoch-*.png"))
    shown = {"The same layouts and noise, at the start and now": grids[-1]} if grids else {}
    page = write_page(
        run.path / "page.html",
        title=f"rl-tune: {settings.algorithm}, {' + '.join(s.name for s in opened.specs)}",
        rows=rows,
        figures=figures,
        notes=notes,
        curves=curves,
        pictures=shown,
    )
    artifacts |= {"page": page, "curves": curves, "metrics": run.path / METRICS}
    if grids:
        artifacts["validation"] = grids[-1]
    exit_code = GateMissed.exit_code if missed else 0
    told = torch.tensor([float(exit_code)], device=session.accelerator.device)
    session.accelerator.reduce(told, "sum")
    shape = session.shape
    done = outcome.progress.epoch
    return run.commit(
        counts={
            "epochs": done,
            "images painted": done * shape.images,
            "layouts held back": len(opened.layouts.held),
        },
        artifacts=artifacts,
        tables={"held layouts": _held_table(outcome, measure)},
        notes=[*notes, *session.rewards.notes],
        exit_code=exit_code,
    )


def _measured(session: Session, tuner: Tuner) -> Measure | None:
    """Judge B, which has chosen nothing, once: the start against the weights that are saved."""
    judge = session.opened.judge
    if not judge or session.opened.settings.gate == "none":
        return None
    return tuner.held.measured(Path(judge), tuner.first, tuner.held.pictures())


def _verdict(
    settings: RlTuneConfig, outcome: Outcome, measure: Measure | None, judged: bool
) -> tuple[list[str], bool]:
    """What is said, and whether the gate was missed."""
    notes = []
    missed = False
    end, start = outcome.end, outcome.start
    chosen = outcome.kept
    notes.append(
        f"the weights of epoch {chosen} are saved: {end.score:.3f} on held layouts by {end.by}, "
        f"{start.score:.3f} at the start"
    )
    if outcome.alarm is not None and outcome.alarm.stop:
        notes.append(f"stopped early: {outcome.alarm.sentence}")
        missed = True
    if measure is None:
        why = "rl_tune.gate is none" if judged else "no --judge was given"
        notes.append(f"no independent judge measured the result ({why})")
    else:
        before, after = measure.ap50
        notes.append(
            f"judge B, once: AP50 {before:.3f} before, {after:.3f} after, on {measure.images} held "
            f"layouts with {measure.objects} objects"
        )
        if not measure.improved:
            notes.append("judge B does not find the result better: keep the checkpoint as it was")
            missed = True
    if settings.gate == "none":
        notes.append("rl_tune.gate is none: the exit code says nothing of the result")
        missed = False
    return notes, missed


def _figures(outcome: Outcome, measure: Measure | None) -> dict[str, str]:
    figures = {
        f"held layouts by {outcome.end.by}, at the start": f"{outcome.start.score:.3f}",
        f"the same after epoch {outcome.kept}": f"{outcome.end.score:.3f}",
    }
    if measure is not None:
        figures |= {
            "AP50 by judge B, before": f"{measure.ap50[0]:.3f}",
            "AP50 by judge B, after": f"{measure.ap50[1]:.3f}",
        }
    return figures


def _held_table(outcome: Outcome, measure: Measure | None) -> dict[str, float | int | str]:
    row: dict[str, float | int | str] = {
        f"{outcome.end.by}, start": round(outcome.start.score, 4),
        f"{outcome.end.by}, epoch {outcome.kept}": round(outcome.end.score, 4),
        "reward, start": round(outcome.start.reward, 4),
        f"reward, epoch {outcome.kept}": round(outcome.end.reward, 4),
    }
    if measure is not None:
        row |= {
            "judge B AP50, start": round(measure.ap50[0], 4),
            "judge B AP50, end": round(measure.ap50[1], 4),
        }
    return row


def _save(session: Session, run: ProgramRun, tuner: Tuner, outcome: Outcome) -> dict[str, Path]:
    """OUT/model, merged in full precision, and OUT/adapter where low-rank layers learned."""
    opened, learner = session.opened, session.learner
    artifacts: dict[str, Path] = {}
    base_hash = opened.hashes["checkpoint"]
    networks = learner.save_adapter(run.path / "adapter", base_hash)
    whole = load_model(opened.checkpoint, device="cpu", dtype="fp32")
    assert isinstance(whole, StableDiffusion)
    settings = opened.settings
    card = replace(
        opened.card,
        fingerprint=run.info.fingerprint,
        training={
            **opened.card.training,
            "tuned": f"rl-tune {settings.algorithm}",
            "tuned epochs": outcome.kept,
            "tuned rewards": "+".join(s.name for s in opened.specs),
        },
    )
    if networks:
        card.write(run.path / "adapter")
        add_adapter(whole.networks(), run.path / "adapter", networks)
        artifacts["adapter"] = run.path / "adapter"
    else:
        learner.copy_to(whole)
    artifacts["model"] = write_checkpoint(whole, card, run.path / "model")
    return artifacts
