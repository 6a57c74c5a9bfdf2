"""The shipped list of filter rules: it loads, every rule can be made, and none is left out."""

from __future__ import annotations

import re

import pytest
import yaml

from rsgen.config import load_config, templates_root
from rsgen.pipeline_file import read_layers
from rsgen.registry import names
from rsgen.scorers.base import make_scorer
from rsgen.scorers.rules import rule_of
from rsgen.screening.checks import check_rules
from rsgen.settings import RuleConfig

TEXT = (templates_root() / "filter/every-rule.yaml").read_text(encoding="utf-8")
OFF = [yaml.safe_load(row) for row in re.findall(r"(?m)^ *# - (\{.*\})", TEXT)]


def test_it_is_a_configuration_and_its_rules_are_rules() -> None:
    """Catches a preset that names a scorer, option or bound that no longer exists."""
    config = load_config(files=read_layers(["every-rule"]), environ={})
    rules = [rule_of(rule) for rule in config.filter.rules or ()]
    assert len(rules) > 10
    levels = {r.name: make_scorer(r.scorer, r.options).level for r in rules}
    check_rules(rules, levels, real=True)


@pytest.mark.parametrize("row", OFF, ids=[str(row.get("scorer")) for row in OFF])
def test_what_is_switched_off_would_work(row: dict[str, object]) -> None:
    rule = rule_of(RuleConfig(**row))
    make_scorer(rule.scorer, rule.options)


def test_no_scorer_is_left_out() -> None:
    """Catches a new scorer that nobody learns of."""
    told = set(re.findall(r"scorer: ([a-z-]+)", TEXT))
    assert told == set(names("scorers"))
