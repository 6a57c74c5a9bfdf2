"""A rule's scorer, told what it takes from the run where its options do not say."""

from __future__ import annotations

import dataclasses
from typing import Any

from rsgen.records import ClassTable
from rsgen.registry import resolve
from rsgen.request import RunInfo
from rsgen.scorers.base import Rule, make_scorer
from rsgen.store import SampleRun

__all__ = ["scorer_of"]


def scorer_of(rule: Rule, info: RunInfo, real: SampleRun | None, classes: ClassTable) -> Any:
    """The scorer of a rule.

    What it does not say itself: inputs of the run that its class names in `from_inputs`, settings
    that the masks of the real run were made with (`from_real`), the device, the classes.

    Raises:
        UsageError: an unknown scorer, or options that it does not take.
    """
    kind, options = resolve("scorers", rule.scorer), dict(rule.options)
    fields = {f.name for f in dataclasses.fields(kind)}
    for option, name in getattr(kind, "from_inputs", {}).items():
        for path in info.paths(name):
            options.setdefault(option, str(path))
    if real is not None and real.info.command == "extract-masks":
        for option, key in getattr(kind, "from_real", {}).items():
            section, _, setting = key.partition(".")
            options.setdefault(option, getattr(getattr(real.info.config, section), setting))
    if "device" in fields and info.plan is not None:
        options.setdefault("device", info.plan.device)
    if "classes" in fields:
        options.setdefault("classes", classes)
    return make_scorer(rule.scorer, options)
