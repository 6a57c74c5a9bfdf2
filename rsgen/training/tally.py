"""What batches were really made of: composites a sample, objects by class, refused pairs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rsgen.records import ClassTable, Layout
from rsgen.reporting import Reporter

__all__ = ["Tally"]

REASONS = ("matched", "left", "source", "semantic", "layout", "pixel")
WORDS = {
    "matched": "went together",
    "left": "had better partners",
    "source": "are of one image",
    "semantic": "share no class",
    "layout": "overlap or are too empty or full",
    "pixel": "look or measure too different",
}


class Tally:
    """Counts of this process since it was told to forget; sums of all ranks are told."""

    def __init__(self, classes: ClassTable, composed: bool) -> None:
        self.classes, self.composed = classes, composed
        count = 2 + 2 * len(classes.classes) + len(REASONS)
        self._new = torch.zeros(count, dtype=torch.float64)
        self.forget()

    def forget(self) -> None:
        """Begin anew: what was drawn to time a step is not learned from.

        Pairs stay: the group that was made for it is kept, and its composites are learned from.
        """
        self._new[: -len(REASONS)] = 0
        self._all = torch.zeros_like(self._new)
        self._first: int | None = None

    def add(self, step: int, layout: Layout, composed: bool) -> None:
        """Count a sample of a batch and its objects."""
        self._first = step if self._first is None else min(step, self._first)
        count = len(self.classes.classes)
        self._new[int(composed)] += 1
        for instance in layout.instances:
            self._new[2 + composed * count + self.classes.index(instance.label) - 1] += 1

    def add_pairs(self, matched: int, refused: Mapping[str, int]) -> None:
        """Count the pairs of a group, by what kept them apart."""
        for name, number in {"matched": matched, **refused}.items():
            self._new[REASONS.index(name) - len(REASONS)] += number

    def take(self) -> Tensor:
        """Counts since the last call, float64 [M]; the order is the tally's own."""
        taken, self._new = self._new, torch.zeros_like(self._new)
        return taken

    def tell(self, sums: Tensor, step: int, last: bool, reporter: Reporter) -> None:
        """Log the counts of all ranks since the last time, at the end those of all steps."""
        self._all += sums
        if self.composed and float(sums[0] + sums[1]) > 0:
            reporter.metric("composite share", float(sums[1] / (sums[0] + sums[1])), step)
        if last and self._first is not None:
            self._tell_all(self._first + 1, step, reporter)

    def _tell_all(self, first: int, step: int, reporter: Reporter) -> None:
        samples, composites = (int(n) for n in self._all[:2])
        count = len(self.classes.classes)
        text = f"steps {first} to {step}: {samples} real samples"
        if self.composed:
            share = composites / max(samples + composites, 1)
            text += f" and {composites} composites ({share:.0%} of what was learned from)"
        reporter.note(f"{text}; objects in real samples: {self._histogram(2)}")
        if not self.composed:
            return
        reporter.note(f"objects in composites: {self._histogram(2 + count)}")
        pairs = self._all[-len(REASONS) :]
        every = max(float(pairs.sum()), 1.0)
        shares = [
            f"{number / every:.0%} {WORDS[name]}"
            for name, number in zip(REASONS, pairs.tolist(), strict=True)
        ]
        reporter.note(f"of {int(pairs.sum())} pairs looked at {', '.join(shares)}")
        if not composites:
            reporter.note(
                "no composite was made: the bounds of train.cf_comp keep every pair apart "
                "(class_pairs, max_overlap, foreground, max_radiometry, max_scale)",
                "warning",
            )

    def _histogram(self, start: int) -> str:
        numbers = self._all[start : start + len(self.classes.classes)].tolist()
        found = [(name, int(n)) for name, n in zip(self.classes.names, numbers, strict=True) if n]
        return ", ".join(f"{name} {n}" for name, n in found) or "none"
