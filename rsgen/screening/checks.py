"""What a filter run refuses before any work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rsgen.errors import DataError, UsageError
from rsgen.records import WEIGHT
from rsgen.request import RunInfo
from rsgen.scorers.base import Rule
from rsgen.scorers.judging import FAILED, POLICIES, QUOTA
from rsgen.screening.audit import NameOf
from rsgen.screening.columns import NAMES, Columns
from rsgen.screening.promise import GATE
from rsgen.screening.promising import audited_promise
from rsgen.screening.thresholds import THRESHOLDS
from rsgen.store import SampleRun

__all__ = ["check_audit", "check_promise", "check_rescore", "check_rules", "failed_rule"]


def check_rules(rules: Sequence[Rule], levels: Mapping[str, str], *, real: bool) -> None:
    """Names that would be mixed up, quantiles without real images, policies that cannot be."""
    names = [rule.name for rule in rules]
    twice = sorted({name for name in names if names.count(name) > 1})
    reserved = sorted({FAILED, QUOTA, GATE, WEIGHT} & set(names))
    if twice or reserved or any(" " in name for name in names):
        raise UsageError(
            f"filter.rules: names must be distinct, without spaces, and not {FAILED}, {QUOTA}, "
            f"{GATE} or {WEIGHT}; got {', '.join(names)}",
            hint="give a second rule of one scorer its own name",
        )
    quantiles = [rule.name for rule in rules if rule.of_real]
    if quantiles and not real:
        raise UsageError(
            f"filter rules {', '.join(quantiles)} take quantiles of real images, "
            "and there are none",
            hint="add --real RUN, or give the rules a fixed min",
        )
    for rule in rules:
        if rule.policy in POLICIES and levels[rule.name] == "image":
            raise UsageError(
                f"filter rule {rule.name!r} has policy {rule.policy}, and scores whole images",
                hint="an image can be rejected, or given a weight: leave the policy out, or say "
                "policy: weight",
            )


def check_rescore(run: SampleRun, rules: Sequence[Rule]) -> None:
    """`--rescore none` reads the scores of a filter run with these rules."""
    if run.info.command != "filter":
        raise UsageError(
            f"--rescore none: {run.path} is a {run.info.command} run, not a filter run",
            hint="leave --rescore none out to compute the scores",
        )
    have, wanted = set[str](), {rule.name for rule in rules}
    for table in run.tables(NAMES):
        have.update(_score_names(Columns(table)))
        if wanted <= have:
            return
    lacking = [rule.name for rule in rules if rule.name not in have]
    if lacking and len(run):
        raise UsageError(
            f"--rescore none: {run.path} has no scores for {', '.join(lacking)}; it "
            f"has: {', '.join(sorted(have)) or 'none'}",
            hint="leave --rescore none out, or drop these rules",
        )


def _score_names(columns: Columns) -> Iterator[str]:
    for scores in (*columns.scores, *columns.object_scores):
        yield from scores
    for reasons in columns.reasons.values():
        yield from (failed_rule(r)[0] for r in reasons if r.startswith(f"{FAILED} "))


def failed_rule(reason: str) -> tuple[str, str]:
    """(rule, what went wrong) of a reason that says that a rule could not be applied."""
    name, _, text = reason[len(FAILED) + 1 :].partition(": ")
    return name, text


def check_promise(info: RunInfo, run: SampleRun) -> None:
    """A promise is about a set whose scores and verdicts are known.

    Raises:
        UsageError: it has no ground to stand on. DataError: an audit of another kind of run.
    """
    settings, audits = info.config.filter, info.paths("audit")
    if audits and run.info.command != "filter":
        raise DataError(
            f"--audit: {run.path} is a {run.info.command} run; an audit is of the filter run that "
            "drew it",
            hint="rsgen filter OUT --rescore none --audit OUT/audit.csv "
            "--min-label-precision 0.95 --out NEW",
        )
    if settings.min_label_precision is None:
        if audits:
            raise UsageError(
                "--audit without --min-label-precision changes nothing",
                hint="add --min-label-precision 0.95",
            )
        return
    if settings.rescore != "none":
        raise UsageError(
            "--min-label-precision is set on scores that are there already",
            hint="filter first, then: rsgen filter OUT --rescore none "
            "--min-label-precision 0.95 --out NEW",
        )
    if settings.quotas or settings.mask_quota is not None:
        raise UsageError(
            "--min-label-precision and quotas in one run: what a quota leaves was not "
            "what the precision is about",
            hint="give the quotas to the run before",
        )
    if not audits and not info.paths("real"):
        raise UsageError(
            "--min-label-precision needs an audit, or real images to estimate with",
            hint="add --audit FILE (drawn with --draw-audit 200) or --real RUN",
        )


def check_audit(info: RunInfo, run: SampleRun, levels: Mapping[str, str], name_of: NameOf) -> None:
    """An audit that carries no promise is refused while OUT is still free for a mended one.

    Args:
        levels: of each rule: image or instance.

    Raises:
        DataError, UsageError: as `audited_promise`.
    """
    if info.paths("audit") and not (info.out / THRESHOLDS).is_file():
        rules = [name for name, level in levels.items() if level == "instance"]
        audited_promise(info, run, rules, name_of)
