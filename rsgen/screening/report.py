"""The filter's report: OUT/report.json, and OUT/report.html that needs nothing else."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from rsgen.errors import DataError
from rsgen.images import Pixels, replace_bytes
from rsgen.pictures import draw_layout
from rsgen.records import Instance, Sample
from rsgen.scorers.base import Rule
from rsgen.scorers.judging import failed_rules
from rsgen.screening.page import PAGE
from rsgen.screening.tally import IMAGE, Tally, histogram
from rsgen.screening.thresholds import Thresholds
from rsgen.stages import FinishedRun

__all__ = ["write_reports"]

SHOWN = 20
PICTURE_PX = 256
MOST_NAMED = 6
FAILING, SOUND = (255, 92, 64), (96, 220, 140)


def write_reports(
    run: FinishedRun, rules: Sequence[Rule], tally: Tally, frozen: Thresholds
) -> dict[str, Path]:
    """Write both; the pictures are of the worst images and of those nearest to a bound."""
    margins, failed = tally.margins()
    worst, border = _worst(margins, failed), _border(margins)
    rows = _samples(run, sorted({*worst, *border}))
    report = _report(rules, tally, frozen)
    for title, places in (("worst", worst), ("borderline", border)):
        report[title] = [
            {
                "sample": rows[k].id,
                "verdict": rows[k].verdict,
                "margin": round(float(margins[k]), 4),
                "reasons": list(rows[k].reasons),
            }
            for k in places
        ]
    data, page = run.path / "report.json", run.path / "report.html"
    text = json.dumps(report, indent=1, ensure_ascii=False)
    replace_bytes(data, (text + "\n").encode("utf-8"))
    shown = {k: _picture(run, sample) for k, sample in rows.items()}
    _write_page(page, report, [[shown[k] for k in worst], [shown[k] for k in border]])
    return {"report": data, "report page": page}


def _worst(margins: np.ndarray, failed: np.ndarray) -> list[int]:
    """The images that are rejected by most rules, and of these by most; none that passes."""
    ranked = np.lexsort((margins, -failed))
    return [int(k) for k in ranked if failed[k]][:SHOWN]


def _border(margins: np.ndarray) -> list[int]:
    """The images nearest to their bound on either side, from failing to passing."""
    ranked = np.argsort(np.abs(margins), kind="stable")
    nearest = [int(k) for k in ranked if np.isfinite(margins[k])][:SHOWN]
    return sorted(nearest, key=lambda k: (margins[k], k))


def _samples(run: FinishedRun, places: Sequence[int]) -> dict[int, Sample]:
    return dict(zip(places, run.at(places), strict=True))


def _report(rules: Sequence[Rule], tally: Tally, frozen: Thresholds) -> dict[str, Any]:
    named = {rule.name: rule for rule in rules}
    found: dict[str, Any] = {
        "schema": 1,
        "counts": {v: tally.verdicts[v] for v in ("keep", "drop", "unknown")},
        "reasons": dict(tally.reasons.most_common()),
        "rules": {},
        "classes": {
            name: {
                "objects": counts.total(),
                "in kept images": counts["keep"],
                "kept and sound": tally.sound[name],
            }
            for name, counts in sorted(tally.objects.items())
        },
        "label_precision": None if frozen.promise is None else frozen.promise.table(),
    }
    for name, bound in tally.bounds.items():
        passed = tally.passed(name)
        scored, good = (sum(row[k] for row in passed.values()) for k in (0, 1))
        values, _, _ = tally.scores[name].arrays()
        rule = named.get(name)
        found["rules"][name] = {
            "scorer": name if rule is None else rule.scorer,
            "bound": {
                "min": bound.low,
                "max": bound.high,
                "by_class": dict(bound.by_class),
                "high_by_class": dict(bound.high_by_class),
                **({} if bound.full is None else {"full": bound.full}),
            },
            "policy": "reject" if rule is None else rule.policy,
            "scored": scored,
            "passed": good,
            "rejected_images": tally.reasons[name],
            "failed_objects": tally.object_reasons[name],
            "by_class": {
                label: {"scored": row[0], "passed": row[1]}
                for label, row in sorted(passed.items())
                if label != IMAGE
            },
            "histogram": histogram(values, frozen.real_scores.get(name, ())) if scored else None,
        }
    return found


# ---------------------------------------------------------------- the page


def _picture(run: FinishedRun, sample: Sample) -> dict[str, Any]:
    """What the page shows of an image: failing objects in one colour, the others in another."""

    def color(instance: Instance) -> tuple[int, int, int]:
        return FAILING if failed_rules(instance) else SOUND

    try:
        layout = _bare(sample)
        named = len(layout.instances) <= MOST_NAMED  # more names hide what they name
        image = draw_layout(run.read_image(sample), layout, color_of=color, labels=named)
    except DataError:
        image = np.full((32, 32, 3), 128, np.uint8)
    return {
        "id": sample.id,
        "verdict": sample.verdict,
        "reasons": [reason[:120] for reason in sample.reasons[:3]],
        "data": _jpeg(_fit(image)),
    }


def _bare(sample: Sample) -> Any:
    """The layout without masks: their outlines would hide what is to be seen."""
    things = tuple(replace(i, mask=None) if i.box or i.quad else i for i in sample.layout.instances)
    return replace(sample.layout, instances=things)


def _fit(image: Pixels) -> Pixels:
    factor = PICTURE_PX / max(image.shape[:2])
    size = max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor))
    way = cv2.INTER_AREA if factor < 1 else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(image, size, interpolation=way), dtype=np.uint8)


def _jpeg(image: Pixels) -> str:
    done, data = cv2.imencode(
        ".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85]
    )
    if not done:
        raise DataError("a picture of the report cannot be encoded")
    return base64.b64encode(data.tobytes()).decode("ascii")


def _write_page(path: Path, report: Mapping[str, Any], groups: Sequence[Sequence[Any]]) -> None:
    from jinja2 import Environment

    environment = Environment(autoescape=True, trim_blocks=True)
    total = max(sum(report["counts"].values()), 1)
    rules = [
        {
            "name": name,
            **row,
            "bound_text": _bound_text(row["bound"]),
            "bars": _bars(row["histogram"], row["bound"]),
        }
        for name, row in report["rules"].items()
    ]
    text = environment.from_string(PAGE).render(
        report=report,
        kept=report["counts"]["keep"] / total,
        total=total,
        rules=rules,
        groups=[
            ("Worst", "Rejected by most rules, and by most. Failing objects are red.", groups[0]),
            (
                "Borderline",
                "The images nearest to a bound, from failing to passing: look here to see "
                "whether the bounds are right.",
                groups[1],
            ),
        ],
    )
    replace_bytes(path, text.encode("utf-8"))


def _bound_text(bound: Mapping[str, Any]) -> str:
    parts = [f"{k} {bound[k]:.4g}" for k in ("min", "max") if bound[k] is not None]
    if "full" in bound:
        parts = [f"weight 0 at {bound['min']:.4g}, 1 at {bound['full']:.4g}"]
    if bound["by_class"] or bound["high_by_class"]:
        parts.append("by class")
    return ", ".join(parts)


WIDTH, HEIGHT = 360, 90


def _bars(shares: Mapping[str, list[float]] | None, bound: Mapping[str, Any]) -> dict[str, Any]:
    """Places of a histogram's parts in an SVG of `WIDTH` x `HEIGHT`."""
    if shares is None:
        return {}
    edges, made, real = shares["edges"], shares["generated"], shares.get("real", [])
    top = max([*made, *real]) or 1.0
    step = WIDTH / len(made)

    def x(value: float) -> float:
        return (value - edges[0]) / (edges[-1] - edges[0]) * WIDTH

    line = []
    for k, share in enumerate(real):
        y = HEIGHT - HEIGHT * share / top
        line += [f"{k * step:.1f},{y:.1f}", f"{(k + 1) * step:.1f},{y:.1f}"]
    limits = [v for k, v in bound.items() if k in ("min", "max") and v is not None]
    return {
        "width": WIDTH,
        "height": HEIGHT,
        "bars": [
            (round(k * step, 1), round(HEIGHT - HEIGHT * s / top, 1), round(HEIGHT * s / top, 1))
            for k, s in enumerate(made)
        ],
        "step": round(step - 1, 1),
        "real": " ".join(line),
        "limits": [round(x(v), 1) for v in limits if 0 <= x(v) <= WIDTH],
        "ends": (f"{edges[0]:.3g}", f"{edges[-1]:.3g}"),
    }
