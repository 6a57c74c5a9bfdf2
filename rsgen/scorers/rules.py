"""Rules as configured, the default ones, and their frozen bounds."""

from __future__ import annotations

from rsgen.request import RunInfo
from rsgen.scorers.base import Rule
from rsgen.settings import RuleConfig

__all__ = ["default_rules", "rule_of", "rules_of"]


def default_rules(*, real: bool, checkpoint: bool, judge: bool = False) -> list[Rule]:
    """The rules that need no other model; the real images set bounds where there are any."""
    rules = [
        Rule("integrity", min=0.5),
        Rule("label-geometry", min=0.3, tolerate=0.2),
        # 3 CIELAB units are barely visible; of procedural scenes 0.5 % of the cars lie below
        Rule("contrast", quantile=0.01, tolerate=0.3)
        if real
        else Rule("contrast", min=3.0, tolerate=0.3),
        # copies after JPEG, noise or blur stay under 0.07; of 400 lone boats on water the two
        # most alike are 0.18 apart
        Rule("novelty-hash", min=0.1),
    ]
    if checkpoint:
        latent = Rule("novelty-latent", quantile=0.01) if real else Rule("novelty-latent", min=0.05)
        rules.append(latent)
    if judge:
        rules += _judge_rules(real=real)
    return rules


def _judge_rules(*, real: bool) -> list[Rule]:
    """What judge A must see. Real images say what this judge can: a weak one asks for little.

    An object fails below what nine in ten real ones reach, an image when half of its objects
    do, or when it agrees with its labels less than all but 2 % of the real images.
    """
    if real:
        return [
            Rule("judge", quantile=0.1, tolerate=0.5),
            Rule("judge-image", quantile=0.02),
        ]
    # nine in ten true objects score over 0.18 (a judge of 99 images), moved labels 0.02
    return [Rule("judge", min=0.15, tolerate=0.5), Rule("judge-image", min=0.05)]


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
    )


def rules_of(info: RunInfo) -> list[Rule]:
    """The rules of a filter run: as configured, else the default ones for its inputs."""
    given = info.config.filter.rules
    if given is not None:
        return [rule_of(rule) for rule in given]
    return default_rules(
        real=bool(info.paths("real")),
        checkpoint=bool(info.paths("checkpoint")),
        judge=bool(info.paths("judge")),
    )
