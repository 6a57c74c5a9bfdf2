"""`rl-tune`: a checkpoint learns from rewards on the images that it paints itself.

The program reads top to bottom: open the checkpoint, layouts, rewards and judges; say what it
will cost; tune; measure; save a folder like the one that it started from.
"""

from __future__ import annotations

import math

from rsgen.devices import memory_error
from rsgen.job import Job
from rsgen.models.stable_diffusion import silence_libraries
from rsgen.reporting import RunSummary
from rsgen.rl.credit import credit_of
from rsgen.rl.loop import Tuner
from rsgen.rl.opened import Opened
from rsgen.rl.optimizer import make_optimizer
from rsgen.rl.pace import step_nats
from rsgen.rl.paired import paired_of
from rsgen.rl.result import commit_tuned, follow
from rsgen.rl.session import Session
from rsgen.rl.update import Updater, UpdateSettings
from rsgen.runs import ProgramRun, check_request
from rsgen.training.session import open_training

__all__ = ["rl_tune"]


def rl_tune(job: Job) -> RunSummary:
    """Tune the `checkpoint` input on layouts of `pool` or `layouts`.

    Returns a summary whose exit code is 7 when a safety rule ended the run, or judge B did not
    find the result better; the best weights are saved all the same. Raises UsageError,
    DataError, SetupError, Stopped.
    """
    silence_libraries()
    opened = Opened.of(job)
    plan = opened.plan
    if job.dry_run:
        check_request(job, inputs=opened.inputs, model_hashes=opened.hashes)
        return _dry_run(opened)
    with open_training(
        job,
        inputs=opened.inputs,
        classes=opened.classes,
        model_hashes=opened.hashes,
        plan=plan,
    ) as run:
        if run.committed:
            return run.summary()
        # what the first start froze, not what this machine would choose
        cache = run.path / "state" / "rewards"
        session = Session.start(opened, run.info.plan or plan, cache, run.check_stop)
        try:
            return _tune(session, run)
        except (RuntimeError, MemoryError) as error:
            lack = memory_error(error)
            if lack is None:
                raise
            lack.hint = "use a smaller --batch-size, in a new --out: memory goes with it"
            raise lack from error
        finally:
            session.rewards.close()


def _dry_run(opened: Opened) -> RunSummary:
    job = opened.job
    cache = job.out / "state" / "rewards"  # of a run that was stopped; nothing is written there
    session = Session.start(opened, opened.plan, cache, job.control.check)
    try:
        found = session.estimate()
    finally:
        session.rewards.close()
    return RunSummary(
        job.command,
        str(job.out),
        "dry-run",
        counts=found.counts(),
        tables={"plan": {"checkpoint": str(opened.checkpoint), **_plan_row(session)}},
        notes=(found.text(), *opened.notes, *session.rewards.notes),
    )


def _plan_row(session: Session) -> dict[str, float | int | str]:
    settings = session.opened.settings
    return {
        "algorithm": settings.algorithm,
        "reward": " + ".join(f"{s.weight:g} x {s.name}" for s in session.opened.specs),
        "learns": settings.learn,
        "steps": f"{len(session.policy.window)} of {settings.steps} are learned from",
        "batch size": session.shape.batch_size,
        "held layouts": len(session.opened.layouts.held),
        "dtype": session.plan.dtype,
        "device": session.plan.device,
    }


def _tune(session: Session, run: ProgramRun) -> RunSummary:
    opened, settings = session.opened, session.opened.settings
    note = run.reporter.note
    for line in (*opened.notes, *session.rewards.notes):
        note(line)
    note(session.estimate().text())
    policy, learner = session.policy, session.learner
    optimizer = make_optimizer(settings, list(learner.parameters().values()), session.lr)
    update = UpdateSettings(
        updates=settings.updates,
        clip_nats=settings.clip_nats,
        ratio=settings.ratio,
        clip_norm=settings.clip_norm,
        step_limit=2 * step_nats(settings) if settings.lr == "auto" else math.inf,
        paired_weight=settings.paired_weight,
        seed=opened.seed,
    )
    paired = None
    if opened.real is not None and settings.paired_weight > 0:
        paired = paired_of(opened.real, session.model, opened.card, policy, settings, run)
    tuner = Tuner(
        policy=policy,
        learner=learner,
        rewards=session.rewards,
        layouts=opened.layouts,
        held=session.held(),
        updater=Updater(policy, learner, optimizer, update, paired),
        credit=credit_of(settings, policy, opened.seed),
        settings=settings,
        shape=session.shape,
        storage=session.storage,
        seed=opened.seed,
        lr=session.lr,
        folder=run.path,
        reporter=run.reporter,
        check_stop=run.check_stop,
    )
    outcome = tuner.run()
    if not session.accelerator.is_main_process:
        return follow(session, run, outcome)
    return commit_tuned(session, run, tuner, outcome)
