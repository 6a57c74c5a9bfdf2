"""The end of a filter run: counts, pictures, the report, and the audit if one is asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from rsgen.scorers.base import Rule
from rsgen.scorers.report import verdict_sheets
from rsgen.screening.audit import NameOf, audited_set, draw_audit, write_audit, write_audit_page
from rsgen.screening.columns import COUNTED, Columns
from rsgen.screening.promise import GATE, gate
from rsgen.screening.report import write_reports
from rsgen.screening.tally import Tally
from rsgen.screening.thresholds import Thresholds
from rsgen.stages import Finish, FinishedRun

__all__ = ["finish_filter"]


def finish_filter(
    run: FinishedRun,
    rules: Sequence[Rule],
    levels: Mapping[str, str],
    name_of: NameOf,
    by_columns: bool = True,
) -> Finish:
    """Tables, notes and artifacts; exit 7 under `fail_under`.

    by_columns: count from the columns of the parts; else from samples, with the same outcome.
    """
    settings = run.info.config.filter
    thresholds = run.path / "thresholds.json"
    frozen = Thresholds.from_json(json.loads(thresholds.read_text(encoding="utf-8")))
    applied = [*rules, *([] if frozen.promise is None else [gate()])]
    tally = Tally(applied, frozen.applied, {**levels, GATE: "instance"}, name_of)
    if by_columns:
        for table in run.tables(COUNTED):
            tally.add_columns(Columns(table))
    else:
        for sample in run.samples():
            tally.add(sample)
    tables, kept, total = _tables(tally), tally.verdicts["keep"], tally.count
    notes = _real_notes(frozen)
    if any(rule.policy == "weight" for rule in rules):
        notes.append(f"kept images weigh {tally.weight:.1f} of {kept}")
    artifacts = {
        "thresholds": thresholds,
        **verdict_sheets(run),
        **write_reports(run, applied, tally, frozen),
    }
    if settings.draw_audit is not None:
        artifacts.update(_audit(run, settings.draw_audit, name_of))
        notes.append(
            f"fill in the verdicts of {run.path / 'audit.csv'}, then filter {run.path} with "
            "--rescore none --audit FILE --min-label-precision"
        )
    if frozen.promise is not None:
        tables["label precision"] = dict(frozen.promise.table())
        notes += frozen.promise.notes()
    tables = {name: rows for name, rows in tables.items() if rows}
    wanted = settings.fail_under
    if wanted is None or kept >= wanted * total:
        return Finish(artifacts, tables, notes)
    note = f"kept {kept} of {total}, under the asked share {wanted:g}: exit 7"
    return Finish(artifacts, tables, [*notes, note], exit_code=7)


def _tables(tally: Tally) -> dict[str, dict[str, float | int | str]]:
    verdicts, objects = tally.verdicts, tally.objects
    return {
        "verdicts": {v: verdicts[v] for v in ("keep", "drop", "unknown")},
        "reasons": dict(sorted(tally.reasons.items())),
        "objects kept": {k: f"{objects[k]['keep']} of {objects[k].total()}" for k in
                         sorted(objects)},
        "thresholds": {name: str(bound) for name, bound in tally.bounds.items()},
    }  # fmt: skip


def _audit(run: FinishedRun, count: int, name_of: NameOf) -> dict[str, Path]:
    rows = draw_audit(run.samples(), name_of, count, run.info.seed)
    of = audited_set(run.info.fingerprint, len(run))
    return {
        "audit": write_audit(run.path / "audit.csv", rows, of),
        "audit page": write_audit_page(
            run.path / "audit.html", rows, run.samples(), run.read_image
        ),
    }


def _real_notes(thresholds: Thresholds) -> list[str]:
    """What is said of real images that had no part in the bounds or the comparison."""
    failed = thresholds.real_failed
    if not failed:
        return []
    names = ", ".join(failed[:3]) + (", ..." if len(failed) > 3 else "")
    return [
        f"{len(failed)} of {thresholds.real_count} real images could not be read or scored "
        f"({names}): they set no bound, and nothing was compared with them"
    ]
