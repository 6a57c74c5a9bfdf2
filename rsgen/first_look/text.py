"""What `init` says on stderr: the findings in lines that a person reads once."""

from __future__ import annotations

from rsgen.first_look.advice import Advice
from rsgen.first_look.findings import Findings
from rsgen.hints import counted

__all__ = ["describe"]

SHOWN = 8  # classes named that have no object


def describe(found: Findings, advice: Advice) -> list[tuple[str, str]]:
    """(level, line) pairs: info lines, then warnings."""
    lines = [
        f"format   {found.format}, since {found.why}",
        f"images   {_images(found)}",
        f"objects  {_objects(found)}",
        *(f"         {line}" for line in _classes(found)),
        f"splits   {_splits(found)}",
        f"ground   {ground(found)}",
    ]
    notes = [f"note     {note}" for note in found.notes]
    bad = []
    if found.bad:
        named = ", ".join(f"{n} {name}" for name, n in sorted(found.bad.items()))
        bad = [f"left out: {named}", *(f"  {text}" for text in found.bad_examples)]
    return [
        *(("info", line) for line in [*lines, *notes]),
        *(("warning", line) for line in [*bad, *advice.warnings]),
    ]


def _images(found: Findings) -> str:
    sizes = ", ".join(f"{w} x {h}" + (f" ({n})" if len(found.sizes) > 1 else "")
                      for w, h, n in found.sizes)  # fmt: skip
    more = f", {found.other_sizes} more sizes" if found.other_sizes else ""
    empty = f"; {found.empty_images} without objects" if found.empty_images else ""
    return f"{found.images} of {sizes}{more}{empty}"


def _objects(found: Findings) -> str:
    kinds = {
        "masks": f"{found.with_shape} with a shape of their own",
        "oriented": f"{found.turned} in turned boxes, {found.with_front} with a known front",
        "boxes": "all in upright boxes",
    }
    return f"{found.objects}: {kinds[found.label_kind]}"


def _classes(found: Findings) -> list[str]:
    there = [c for c in found.classes if c.objects]
    others = [c.name for c in found.classes if not c.objects]
    width = max((len(c.name) for c in there), default=0)
    lines = []
    for entry in there:
        size = "" if entry.median_px is None else f", median {entry.median_px:.0f} px"
        kind = " (stuff)" if entry.kind == "stuff" else ""
        where = f"{entry.objects} in {counted(entry.images, 'image')}"
        lines.append(f"{entry.name:<{width}}  {where}{size}{kind}")
    if others:
        named = ", ".join(others[:SHOWN]) + (", ..." if len(others) > SHOWN else "")
        lines.append(f"no object of {counted(len(others), 'class', 'classes')}: {named}")
    return lines


def _splits(found: Findings) -> str:
    shares = ", ".join(f"{name} {n}" for name, n in found.splits.items())
    return f"{shares} ({'as given' if found.splits_given else 'drawn 80/10/10 by scene'})"


def ground(found: Findings) -> str:
    """The ground sample distance, and how it is known."""
    if found.gsd_m is None:
        return f"metres a pixel unknown: {found.gsd_why}"
    about = "about " if found.gsd_from == "guess" else ""
    return f"{about}{found.gsd_m:g} m a pixel ({found.gsd_from}: {found.gsd_why})"
