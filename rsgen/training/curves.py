"""The loss curve as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rsgen.pictures import write_figure

__all__ = ["smoothed", "write_loss_curve"]


def smoothed(values: Sequence[float], window: int) -> np.ndarray:
    """Trailing mean over at most `window` values, float64 of the same length."""
    sums = np.concatenate([[0.0], np.cumsum(np.asarray(values, dtype=np.float64))])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - window)
    return np.asarray((sums[ends] - sums[starts]) / (ends - starts), dtype=np.float64)


def write_loss_curve(path: Path, history: Sequence[float], title: str) -> Path:
    """A PNG of the loss of every step and its trailing mean; same input, same bytes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), dpi=100)
    axes = figure.add_subplot()
    steps = np.arange(1, len(history) + 1)
    axes.plot(steps, history, color="#b8c4d6", linewidth=0.6, label="each step")
    window = max(1, len(history) // 50)
    axes.plot(steps, smoothed(history, window), color="#1f4e8c", label=f"mean of {window}")
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.set_title(title)
    if len(history) and min(history) > 0:
        axes.set_yscale("log")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    return write_figure(figure, path)
