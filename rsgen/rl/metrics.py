"""What an epoch of tuning tells: a row of metrics.jsonl, and facts for the safety rules."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rsgen.images import replace_bytes
from rsgen.rl.advantages import flat_groups
from rsgen.rl.epoch import Painted
from rsgen.rl.safety import EpochFacts
from rsgen.rl.selection import Look
from rsgen.rl.update import UpdateStats

__all__ = ["METRICS", "Row", "epoch_row", "facts_of", "is_plain", "look_row", "write_metrics"]

METRICS = "metrics.jsonl"
Row = dict[str, Any]


def epoch_row(
    painted: Painted,
    means: Mapping[str, float],
    stats: UpdateStats,
    look: Look | None,
    explained: float | None,
) -> Row:
    """One epoch; `means` are of its updates, `explained` is the critic's, where there is one."""
    rewards = painted.rewards
    row: Row = {
        "epoch": painted.epoch,
        "reward": float(rewards.plain.mean()),
        "reward deviation": float(rewards.plain.std()),
        "reward least": float(rewards.plain.min()),
        "reward most": float(rewards.plain.max()),
    }
    row |= {f"term {name}": value for name, value in rewards.means().items()}
    if look is not None:
        row |= look_row(look)
    row |= {"diversity": painted.diversity, "saturated": _saturated(painted), **means}
    if explained is not None:
        row["explained variance"] = explained
    row |= {name: count for name, count in rewards.counts.items() if count}
    if stats.left:
        row["updates left out"] = stats.left
    return row


def look_row(look: Look) -> Row:
    """Held layouts: what chooses, its standard error, and the reward."""
    return {"held score": look.score, "held error": look.error, "held reward": look.reward}


def facts_of(painted: Painted, row: Row, look: Look | None, skipped: int) -> EpochFacts:
    """An epoch as the safety rules see it: with the rewards of the control, if there is one."""
    shape = painted.shape
    groups = painted.rewards.total.reshape(shape.layouts, shape.samples).mean(axis=1)
    return EpochFacts(
        float(groups.mean()),
        math.hypot(groups.std() / math.sqrt(len(groups)), painted.rewards.error),
        painted.diversity,
        row["saturated"],
        row.get("kl", 0.0),
        skipped,
        None if look is None else look.score,
        painted.rewards.warming,
    )


def _saturated(painted: Painted) -> float:
    """Share of the layouts whose images all have one reward."""
    if painted.shape.samples < 2:
        return 0.0
    return float(flat_groups(painted.rewards.plain, painted.shape.groups).mean())


def write_metrics(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """One JSON object an epoch; the file is replaced as a whole."""
    known = [{k: v if is_plain(v) else None for k, v in row.items()} for row in rows]
    text = "".join(json.dumps(row) + "\n" for row in known)
    replace_bytes(path, text.encode("utf-8"))


def is_plain(value: Any) -> bool:
    """Whether JSON has it: no infinity, and nothing that is not a number."""
    return not isinstance(value, float) or math.isfinite(value)
