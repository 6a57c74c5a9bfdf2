"""The audit of a filter run: a stratified draw of kept objects, the page, verdicts read back.

    OUT/audit.csv    run,sample,instance,class,stratum,verdict   (one kept object a row)
    OUT/audit.html   its pictures, in the same order

`instance` counts from 0 in the sample's own order; `verdict` is to be filled with right or wrong.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from rsgen.errors import DataError
from rsgen.images import Pixels, replace_bytes
from rsgen.pictures import PageRow, draw_layout, write_page
from rsgen.records import Instance, Layout, Sample
from rsgen.request import item_seed
from rsgen.scorers.base import is_thing
from rsgen.scorers.judging import failed_rules

__all__ = [
    "AuditRow",
    "NameOf",
    "audited_set",
    "draw_audit",
    "kept_objects",
    "read_audit",
    "strata_of",
    "write_audit",
    "write_audit_page",
]

COLUMNS = ("run", "sample", "instance", "class", "stratum", "verdict")
RIGHT, WRONG = "right", "wrong"
LEAST_A_STRATUM = 80  # 0.95 at 0.9 needs 45 without a fault, 77 with one
OTHERS = "others"
CROP_PX, CONTEXT = 320, 3.0
NameOf = Callable[[str], str]
Place = tuple[str, int, str]  # sample id, instance, class


@dataclass(frozen=True)
class AuditRow:
    """One object to be looked at; `right` is None until somebody has."""

    sample: str
    instance: int
    label: str
    stratum: str
    right: bool | None = None


def audited_set(fingerprint: str, count: int) -> str:
    """What an audit is of: a run, at the size that it had."""
    return f"{fingerprint[:16]}/{count}"


def kept_objects(sample: Sample) -> list[int]:
    """Positions of the things of a kept image that failed no rule: what a promise is about."""
    if sample.verdict != "keep":
        return []
    things = enumerate(sample.layout.instances)
    return [k for k, i in things if is_thing(i) and not failed_rules(i)]


def strata_of(objects: Mapping[str, int], count: int) -> dict[str, str]:
    """Class -> stratum: the commonest classes alone as far as the audit reaches, then `others`."""
    most = max(1, count // LEAST_A_STRATUM)
    ranked = sorted(objects, key=lambda name: (-objects[name], name))
    alone = ranked if len(ranked) <= most else ranked[: most - 1]
    return {name: name if name in alone else OTHERS for name in ranked}


def draw_audit(samples: Iterable[Sample], name_of: NameOf, count: int, seed: int) -> list[AuditRow]:
    """A simple random sample of each stratum's kept objects, the strata of equal size.

    The order is random too: who stops early has still drawn fairly.
    """
    places: list[Place] = [
        (sample.id, k, name_of(sample.layout.instances[k].label))
        for sample in samples
        for k in kept_objects(sample)
    ]
    if not places:
        raise DataError(
            "--draw-audit: no object was kept, so there is none to audit",
            hint="lower the filter's thresholds first",
        )
    strata = strata_of(Counter(label for _, _, label in places), count)
    found: list[AuditRow] = []
    for stratum, size in _shares(Counter(strata[p[2]] for p in places), count).items():
        inside = [p for p in places if strata[p[2]] == stratum]
        ranked = sorted(inside, key=lambda p: _draw_seed(seed, p))
        found += [AuditRow(sample, k, label, stratum) for sample, k, label in ranked[:size]]
    return sorted(found, key=lambda r: _draw_seed(seed, (r.sample, r.instance, r.label)))


def _draw_seed(seed: int, place: Place) -> int:
    return item_seed(seed, "filter/audit", f"{place[0]} {place[1]}")


def _shares(sizes: Mapping[str, int], count: int) -> dict[str, int]:
    """Equal parts of `count`; what a small stratum cannot fill goes to the others."""
    shares: dict[str, int] = {}
    left = count
    for position, name in enumerate(sorted(sizes, key=lambda n: (sizes[n], n))):
        shares[name] = min(sizes[name], left // (len(sizes) - position))
        left -= shares[name]
    return dict(sorted(shares.items()))


# ---------------------------------------------------------------- files


def write_audit(path: Path, rows: Sequence[AuditRow], run: str) -> Path:
    """The table with empty verdicts."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow([run, row.sample, row.instance, row.label, row.stratum, ""])
    replace_bytes(path, text.getvalue().encode("utf-8"))
    return path


def read_audit(path: Path, run: str, drawn: Sequence[AuditRow]) -> list[AuditRow]:
    """The verdicts of exactly the rows that were drawn, in any order.

    Raises:
        DataError: no such table, of another run, an id that was not drawn or is missing, a blank
        or unknown verdict.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            table = list(csv.DictReader(handle))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    lacking = [name for name in COLUMNS if not table or name not in table[0]]
    if lacking:
        raise DataError(
            f"{path}: no audit; it lacks {', '.join(lacking) if table else 'rows'}",
            hint="draw one with: rsgen filter RUN --draw-audit 200 --out OUT",
        )
    _refuse_other_run(path, table, run)
    rows = [_row(path, number, row) for number, row in enumerate(table, start=2)]
    _refuse_other_rows(path, rows, drawn)
    return rows


def _refuse_other_run(path: Path, table: Sequence[Mapping[str, str]], run: str) -> None:
    for number, row in enumerate(table, start=2):
        if row["run"] != run:
            raise DataError(
                f"{path}:{number}: drawn from {row['run']!r} (run/samples), this set is {run!r}",
                hint="an audit speaks of the filter run that drew it, at its size: give that OUT "
                "as the run, or draw anew with --draw-audit",
            )


def _row(path: Path, number: int, row: Mapping[str, str | None]) -> AuditRow:
    said = (row["verdict"] or "").strip().lower()
    if said not in (RIGHT, WRONG):
        what = f"unknown verdict {said!r}" if said else "no verdict"
        raise DataError(
            f"{path}:{number}: {what} for {row['sample']}",
            hint=f"write {RIGHT} or {WRONG} in every row; an audit with gaps proves nothing",
        )
    try:
        position = int(row["instance"] or "")
    except ValueError as error:
        raise DataError(f"{path}:{number}: instance is {row['instance']!r}, no number") from error
    texts = [row[name] or "" for name in ("sample", "class", "stratum")]
    return AuditRow(texts[0], position, texts[1], texts[2], said == RIGHT)


def _refuse_other_rows(path: Path, rows: Sequence[AuditRow], drawn: Sequence[AuditRow]) -> None:
    """A bound holds for a fair draw: no row may be added, left out, or changed."""
    given = Counter(replace(row, right=None) for row in rows)
    unknown, missing = given - Counter(drawn), Counter(drawn) - given
    for what, some in (("was not drawn", unknown), ("is missing", missing)):
        if some:
            row = next(iter(some))
            raise DataError(
                f"{path}: object {row.instance} ({row.label}, stratum {row.stratum}) of "
                f"{row.sample} {what} ({some.total()} such rows)",
                hint="change the verdict column alone, and fill it in every row",
            )


# ---------------------------------------------------------------- pictures


def write_audit_page(
    path: Path,
    rows: Sequence[AuditRow],
    samples: Iterable[Sample],
    read_image: Callable[[Sample], Pixels],
) -> Path:
    """One crop a row with the object's outline, in the table's order."""
    wanted: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        wanted.setdefault(row.sample, []).append(place)
    pictures: dict[int, PageRow] = {}
    for sample in samples:
        for place in wanted.get(sample.id, ()):
            row = rows[place]
            crop = object_crop(read_image(sample), sample.layout.instances[row.instance])
            title = f"{place + 1}. {row.label}"
            lines = (f"{row.sample}, object {row.instance}", f"stratum {row.stratum}")
            pictures[place] = PageRow(crop, title, lines)
    intro = (
        f"{len(rows)} kept objects. Write {RIGHT} or {WRONG} in the verdict column of audit.csv: "
        "right if the outlined object is one of its class and the outline fits it.",
        "Then: rsgen filter OUT --rescore none --audit OUT/audit.csv --min-label-precision 0.95 "
        "--out NEW",
    )
    return write_page(path, "Audit of labels", [pictures[k] for k in sorted(pictures)], intro)


def object_crop(image: Pixels, instance: Instance) -> Pixels:
    """The object with its outline and surroundings, enlarged; long side about `CROP_PX`."""
    height, width = image.shape[:2]
    box = instance.bounds()
    assert box is not None, "only things are audited"
    side = max(48.0, CONTEXT * max(box.x1 - box.x0, box.y1 - box.y0))
    x, y = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
    x0, x1 = (int(np.clip(v, 0, width)) for v in (x - side / 2, x + side / 2 + 1))
    y0, y1 = (int(np.clip(v, 0, height)) for v in (y - side / 2, y + side / 2 + 1))
    if x1 <= x0 or y1 <= y0:
        x0, y0, x1, y1 = 0, 0, width, height
    scale = max(1, CROP_PX // max(x1 - x0, y1 - y0))
    layout = Layout(width, height, (instance,))
    if scale > 1 and width * height * scale * scale <= 64_000_000:
        drawn = draw_layout(image, layout, masks=False, labels=False, scale=scale)
        return drawn[y0 * scale : y1 * scale, x0 * scale : x1 * scale]
    part = draw_layout(image, layout, masks=False, labels=False)[y0:y1, x0:x1]
    factor = CROP_PX / max(part.shape[:2])
    if factor >= 1:
        return part
    size = max(1, round(part.shape[1] * factor)), max(1, round(part.shape[0] * factor))
    return np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
