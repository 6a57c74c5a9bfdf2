"""How a tuning run ends: what is measured, said, saved and committed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from rsgen.errors import GateMissed, Stopped
from rsgen.models.base import load_model
from rsgen.models.lora import add_adapter
from rsgen.models.stable_diffusion import StableDiffusion
from rsgen.reporting import RunSummary
from rsgen.rl.loop import Outcome, Tuner
from rsgen.rl.metrics import METRICS
from rsgen.rl.opened import Opened
from rsgen.rl.page import show
from rsgen.rl.selection import Measure
from rsgen.rl.session import Session
from rsgen.runs import ProgramRun
from rsgen.settings import GenerateConfig, RlTuneConfig
from rsgen.training.result import write_checkpoint

__all__ = ["commit_tuned", "follow"]


def follow(session: Session, run: ProgramRun, outcome: Outcome) -> RunSummary:
    """What the ranks say that write nothing; their exit code is the first rank's."""
    code = _told(session, 0)
    if code == Stopped.exit_code:
        raise Stopped("the first rank was asked to stop", hint="run the same line")
    status = "done" if code == 0 else "gate-missed"
    return RunSummary(run.info.command, str(run.path), status, exit_code=code)


def commit_tuned(session: Session, run: ProgramRun, tuner: Tuner, outcome: Outcome) -> RunSummary:
    opened = session.opened
    try:
        measure = _measured(session, tuner, run.check_stop)
    except Stopped:
        _told(session, Stopped.exit_code)
        raise
    notes, missed = _verdict(opened, run.path, outcome, measure)
    artifacts = _save(session, run, tuner, outcome)
    artifacts |= show(
        run.path,
        tuner.title,
        outcome.progress.rows,
        figures=_figures(outcome, measure),
        notes=notes,
        kept=outcome.kept,
    )
    artifacts["metrics"] = run.path / METRICS
    exit_code = GateMissed.exit_code if missed else 0
    _told(session, exit_code)
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
        notes=[*notes, *opened.notes, *session.rewards.notes],
        exit_code=exit_code,
    )


def _told(session: Session, code: int) -> int:
    """The first rank's exit code, which the others wait for with 0."""
    told = torch.tensor([float(code)], device=session.accelerator.device)
    return int(session.accelerator.reduce(told, "sum"))


def _measured(session: Session, tuner: Tuner, check_stop: Callable[[], None]) -> Measure | None:
    """Judge B, which has chosen nothing, once: the start against the weights that are saved."""
    judge = session.opened.judge
    if not judge or session.opened.settings.gate == "none":
        return None
    return tuner.held.measured(Path(judge), tuner.first, tuner.held.pictures(check_stop))


def _verdict(
    opened: Opened, out: Path, outcome: Outcome, measure: Measure | None
) -> tuple[list[str], bool]:
    """What is said, and whether the gate was missed."""
    settings, notes = opened.settings, []
    missed = False
    end, start = outcome.end, outcome.start
    chosen = outcome.kept
    if chosen == 0:
        notes.append(
            f"nothing was better than the start ({start.score:.3f} on held layouts by "
            f"{start.by}): {out / 'model'} equals {opened.checkpoint}"
        )
    else:
        notes.append(
            f"the weights of epoch {chosen} are saved: {end.score:.3f} on held layouts by "
            f"{end.by}, {start.score:.3f} at the start"
        )
    if outcome.alarm is not None and outcome.alarm.stop:
        notes.append(f"stopped early: {outcome.alarm.sentence}")
        missed = True
    if measure is None:
        why = "rl_tune.gate is none" if opened.judge else "no --judge was given"
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
            **sampler_row(opened.painting, settings),
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


def sampler_row(painting: GenerateConfig, settings: RlTuneConfig) -> dict[str, Any]:
    """How held layouts were painted, for the card: `generate` says where it does otherwise."""
    return {
        "tuned steps": settings.steps,
        "tuned size": painting.size,
        "tuned text_guidance": painting.text_guidance,
        "tuned layout_guidance": painting.layout_guidance,
        "tuned window": list(settings.window),
        "tuned rule": settings.rule,
        "tuned eta": settings.eta,
    }
