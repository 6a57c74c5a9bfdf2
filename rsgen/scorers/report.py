"""Pictures of a filter run: what was kept, and what was not and why."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rsgen.errors import DataError
from rsgen.execution import FinishedRun
from rsgen.images import Pixels
from rsgen.pictures import contact_sheet, draw_layout
from rsgen.records import Layout, Sample
from rsgen.scorers.judging import failed_rules

__all__ = ["verdict_sheets"]

SHEET_IMAGES = 48


def verdict_sheets(run: FinishedRun) -> dict[str, Path]:
    """One picture page of the first kept samples, one of the others with their first reason."""
    tiles: dict[str, list[Pixels]] = {"kept": [], "dropped": []}
    titles: dict[str, list[str]] = {"kept": [], "dropped": []}
    verdicts = [v for t in run.tables(("verdict",)) for v in t.column("verdict").to_pylist()]
    for page in tiles:
        mine = [k for k, verdict in enumerate(verdicts) if (verdict == "keep") == (page == "kept")]
        for sample in run.at(mine):
            try:
                image = run.read_image(sample)
            except DataError:
                continue  # it is among the failures, with its reason
            tiles[page].append(draw_layout(image, _failing(sample), labels=False))
            reason = "" if page == "kept" else f" {sample.reasons[0]}"
            titles[page].append(f"{sample.id}{reason}")
            if len(tiles[page]) == SHEET_IMAGES:
                break
    return {
        f"contact sheet {page}": contact_sheet(
            tiles[page], run.path / f"{page}.png", titles=titles[page]
        )
        for page in tiles
        if tiles[page]
    }


def _failing(sample: Sample) -> Layout:
    """The layout to draw: all of a kept sample, only the failing objects of another (if any)."""
    failing = tuple(i for i in sample.layout.instances if failed_rules(i))
    if sample.verdict == "keep" or not failing:
        return sample.layout
    return replace(sample.layout, instances=failing)
