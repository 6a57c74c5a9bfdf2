"""Plain tables on stdout for commands that look: aligned, never cut, readable in a pipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rsgen.hints import counted

if TYPE_CHECKING:
    from rsgen.models.clip_conversion import ConvertedClip
    from rsgen.models.fetch import Fetched
    from rsgen.models.inception_conversion import ConvertedInception
    from rsgen.status import RunStatus, Status
    from rsgen.why import Explained, Judged, ObjectExplained

__all__ = [
    "aligned",
    "converted_text",
    "duration",
    "fetched_text",
    "inception_text",
    "size_of",
    "status_text",
    "why_text",
]


HEAD = (
    *("", "command", "state", "done", "shards", "failed"),
    *("rate", "left", "last", "changed", "on disk"),
)
COUNTED = ("masks", "images", "samples")  # what a command without items has made


def aligned(rows: Sequence[Sequence[str]], indent: str = "") -> str:
    """Rows of texts as columns two spaces apart; columns without any text are left out."""
    used = [k for k in range(max(map(len, rows), default=0)) if any(row[k] for row in rows[1:])]
    widths = {k: max(len(row[k]) for row in rows) for k in used}
    lines = ["  ".join(row[k].ljust(widths[k]) for k in used).rstrip() for row in rows]
    return "".join(f"{indent}{line}\n" for line in lines)


def duration(seconds: float) -> str:
    """Seconds in the two largest fitting units: 45s, 3m 20s, 2h 05m, 4d 3h."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d {whole % 86400 // 3600}h"


def size_of(count: int) -> str:
    """Bytes in the unit that a person reads: 812 B, 3.4 MB."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def status_text(status: Status) -> str:
    """Where every run is, one line each, and what to do next where something ended early."""
    rows = [HEAD, *(_row(run) for run in status.runs)]
    text = f"{status.path}\n" + aligned(rows, "  ")
    for run in status.runs:
        if run.detail:
            text += f"  {run.name}: {run.detail}\n"
    for name, count in status.turns.items():
        last = "the latest above"
        if name in status.unfinished:
            state = "at work" if status.is_going else "not complete: run the same line again"
            last = f"the one above is {state}"
        text += f"  series {name}: {counted(count, 'complete turn')}, {last}\n"
    if status.older:
        size = size_of(status.older_bytes)
        folders = counted(status.older, "stage folder")
        text += f"  and {folders} of earlier requests, {size}\n"
    return text


def _row(run: RunStatus) -> tuple[str, ...]:
    done = next((f"{run.counts[name]} {name}" for name in COUNTED if name in run.counts), "")
    if run.total is not None:
        done = f"{run.done}/{run.total} {run.unit}s"
    rate = "" if run.rate is None else f"{run.rate:.3g}/s"
    metric = ""
    if run.metric is not None and run.state != "committed":
        name, value, step = run.metric
        metric = f"{name} {value:.4g}" + ("" if step is None else f" @ {step}")
    state = f"{run.state} ({run.phase})" if run.phase else run.state
    return (
        run.name,
        run.command if run.command != run.name else "",
        state,
        done,
        f"{run.shards_done}/{run.shards}" if run.shards else "",
        str(run.failed) if run.failed else "",
        rate,
        "" if run.eta_s is None else duration(run.eta_s),
        metric,
        "" if run.age_s is None else f"{duration(run.age_s)} ago",
        size_of(run.bytes) if run.bytes else "",
    )


def why_text(found: Explained) -> str:
    """Verdict first, then every score beside its bound, object by object, then the origin."""
    ground = "" if found.gsd_m is None else f", {found.gsd_m:.3g} m a pixel"
    facts = [
        ("verdict", found.verdict or f"none ({found.command} runs do not judge)"),
        *(("reason" if k == 0 else "", reason) for k, reason in enumerate(found.reasons)),
        ("image", found.image or f"none: {found.image_note}"),
        ("", f"{found.width} x {found.height} px{ground}, split {found.split or 'none'}"),
        ("scene", found.scene or ""),
        ("prompt", found.prompt or ""),
    ]
    facts = [fact for fact in facts if fact[1]]
    text = f"{found.id}\n" + aligned([("", ""), *facts], "  ").partition("\n")[2]
    if found.judged:
        rows = [(*_judged(entry), _tolerated(entry, found)) for entry in found.judged]
        text += "\nscores of the image (of objects: the worst)\n" + _body(rows, "  ")
    if found.objects:
        text += "\nobjects\n" + "".join(_object(entry) for entry in found.objects)
    origin = [(key.replace("_", " "), _joined(value)) for key, value in found.provenance.items()]
    text += "\norigin\n" + _body(origin, "  ")
    return text + "\nmade by\n" + "".join(f"  {line}\n" for line in found.chain)


def _body(rows: Sequence[Sequence[str]], indent: str) -> str:
    """Rows without a headline."""
    blank = [""] * max(map(len, rows), default=0)
    return aligned([blank, *rows], indent).partition("\n")[2]


def _joined(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _judged(entry: Judged) -> tuple[str, str, str, str]:
    mark = {None: "", True: "ok", False: "FAILS"}[entry.ok] if not entry.tolerated else "tolerated"
    return entry.rule, f"{entry.score:.4g}", f"({entry.bound})" if entry.bound else "", mark


def _tolerated(entry: Judged, found: Explained) -> str:
    share = found.tolerated.get(entry.rule)
    return "" if share is None else f"{share:.0%} of the objects may fail"


def _object(entry: ObjectExplained) -> str:
    place = "stuff"
    if entry.box is not None:
        x0, y0, x1, y1 = entry.box
        place = f"at {x0:.0f},{y0:.0f}, {x1 - x0:.0f} x {y1 - y0:.0f} px"
    cut = ", cut by the border" if entry.truncated else ""
    sources = f" of {', '.join(entry.sources)}" if entry.sources else ""
    head = f"  {entry.number} {entry.label} {place}{cut}; {entry.origin}{sources}\n"
    other = [r for r in entry.reasons if r.split(" ", 1)[0] not in entry.failed]
    notes = "".join(f"      {reason}\n" for reason in other)
    return head + _body([_judged(row) for row in entry.judged], "      ") + notes


def fetched_text(found: Fetched) -> str:
    """The line to write down comes first: it names the exact commit."""
    rows = [
        ("model", found.reference),
        ("folder", str(found.folder)),
        ("files", f"{found.files}, {size_of(found.bytes)}, every hash as the hub says"),
        ("fetched", f"{size_of(found.fetched_bytes)} just now"),
        ("use it", f"--base {found.reference}"),
    ]
    return _body(rows, "")


def converted_text(made: ConvertedClip) -> str:
    """What lies where; the activation is a choice that the file does not make."""
    activation = "quick GELU" if made.quick_gelu else "GELU"
    other = "--gelu" if made.quick_gelu else "--quick-gelu"
    rows = [
        ("folder", str(made.folder)),
        ("made of", f"{made.source}, {made.tensors} tensors, sha256 {made.sha256[:16]}..."),
        ("network", f"{made.image_size} px, vectors of {made.dimension}"),
        ("activation", f"{activation} (the file does not say; the other one: {other})"),
        ("use it", f"-s extract_masks.captions={made.folder}"),
    ]
    return _body(rows, "")


def inception_text(made: ConvertedInception) -> str:
    rows = [
        ("folder", str(made.folder)),
        ("made of", f"{made.source}, {made.tensors} tensors, sha256 {made.sha256[:16]}..."),
        ("use it", f"rsgen evaluate RUN --real RUN --judge J --features {made.folder}"),
    ]
    return _body(rows, "")
