"""Rules as configured, and the default ones."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from rsgen.errors import RsgenError
from rsgen.request import RunInfo
from rsgen.scorers.base import Rule
from rsgen.settings import RuleConfig

__all__ = ["Task", "default_rules", "rule_of", "rules_of"]

Task = Literal["classification", "detection", "segmentation"]


def default_rules(
    *,
    real: bool,
    checkpoint: bool,
    judge: bool = False,
    stuff: bool = False,
    clip: bool = False,
    task: Task = "detection",
) -> list[Rule]:
    """The rules for a task and what there is to look with; real images set bounds if given.

    R0 integrity and focus; R1 clip, or class-presence and likeness; R2 clip-objects, or judge; R3
    judge-image, of masks remask, of the ground stuff-areas, where the judge knows `stuff`; R4
    label-geometry; R5 extra-objects; R6 the copies; R7 novelty.
    Detection with a judge leaves R1 to judge-image, which sees it too, and R7 out.
    """
    # 0.9 is texture blurred by 1.1 pixels: new images may be softer than a sharp camera's
    soft = Rule("focus", quantile=0.01, at_most=0.9) if real else Rule("focus", min=0.7)
    rules = [Rule("integrity", min=0.5), soft]
    if task != "classification":
        # at the borders of real windows a tenth of the objects are slivers of their boxes
        # 3 CIELAB units are barely visible; of procedural scenes 0.5 % of the cars lie below
        rules += [
            Rule("label-geometry", quantile=0.01, at_most=0.3, tolerate=0.2)
            if real
            else Rule("label-geometry", min=0.3, tolerate=0.2),
            Rule("contrast", quantile=0.01, tolerate=0.3)
            if real
            else Rule("contrast", min=3.0, tolerate=0.3),
        ]
    # copies after JPEG, noise or blur stay under 0.07; of 400 lone boats on water the two
    # most alike are 0.18 apart
    rules.append(Rule("novelty-hash", min=0.1))
    if checkpoint:
        latent = Rule("novelty-latent", quantile=0.01) if real else Rule("novelty-latent", min=0.05)
        rules.append(latent)
    if clip:
        rules += _clip_rules(task)
    if judge and task == "classification":
        rules += _scene_rules(real=real, clip=clip)
    elif judge:
        rules += _judge_rules(real=real)
    if task == "segmentation" and judge and stuff:
        rules.append(
            Rule("stuff-areas", quantile=0.02, tolerate=0.5)
            if real
            else Rule("stuff-areas", min=0.1, tolerate=0.5)
        )
    if task == "segmentation":
        rules.append(
            Rule("remask", quantile=0.02, tolerate=0.5)
            if real
            else Rule("remask", min=0.2, tolerate=0.5)
        )
    return rules


def _clip_rules(task: Task) -> list[Rule]:
    """Every model has its own range of similarities: only real images can set the bounds."""
    rules = [Rule("clip", quantile=0.02)]
    if task != "classification":
        rules.append(Rule("clip-objects", quantile=0.05, tolerate=0.5))
    return rules


def _scene_rules(*, real: bool, clip: bool) -> list[Rule]:
    """What a judge says of an image whose labels are its classes alone."""
    if not real:
        return [] if clip else [Rule("class-presence", min=0.1)]
    rules = [Rule("novelty", quantile=0.01, options={"features": "judge"})]
    if clip:
        return rules
    return [Rule("class-presence", quantile=0.02), Rule("likeness", quantile=0.01), *rules]


def _judge_rules(*, real: bool) -> list[Rule]:
    """What judge A must see. Real images say what this judge can: a weak one asks for little.

    An object fails below what nine in ten real ones reach, an image when half of its objects
    do, or when it agrees with its labels less than all but 2 % of the real images.
    """
    if real:
        return [
            Rule("judge", quantile=0.1, tolerate=0.5),
            Rule("judge-image", quantile=0.02),
            Rule("extra-objects", quantile=0.02),
        ]
    # nine in ten true objects score over 0.18 (a judge of 99 images), moved labels 0.02
    return [
        Rule("judge", min=0.15, tolerate=0.5),
        Rule("judge-image", min=0.05),
        Rule("extra-objects", min=0.2),
    ]


def rule_of(settings: RuleConfig) -> Rule:
    """A rule as configured."""
    return Rule(
        settings.scorer,
        settings.name or "",
        settings.min,
        settings.max,
        settings.quantile,
        settings.tolerate,
        settings.options,
        settings.policy,
        settings.at_most,
        settings.full,
        settings.upper,
    )


def rules_of(info: RunInfo) -> list[Rule]:
    """The rules of a filter run: as configured, else the default ones for its inputs."""
    given = info.config.filter.rules
    if given is not None:
        return [rule_of(rule) for rule in given]
    task, judges = info.config.filter.task, info.paths("judge")
    return default_rules(
        real=bool(info.paths("real")),
        checkpoint=bool(info.paths("checkpoint")),
        judge=bool(judges),
        stuff=task == "segmentation" and bool(judges) and bool(_stuff_of(judges[0])),
        clip=bool(info.paths("clip")),
        task=task,
    )


def _stuff_of(judge: Path) -> tuple[str, ...]:
    from rsgen.scorers.ground import stuff_of

    try:
        return stuff_of(judge)
    except RsgenError:  # gone since: an old run can still be explained; a new one is refused
        return ()
