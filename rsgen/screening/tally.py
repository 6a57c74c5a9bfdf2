"""One pass over a finished filter run: counts, scores by rule and class, distance to the bounds."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from rsgen.records import WEIGHT, Sample
from rsgen.scorers.base import Bound, Rule, is_thing
from rsgen.scorers.judging import failed_rules
from rsgen.scorers.weights import sample_weight
from rsgen.screening.audit import NameOf
from rsgen.screening.columns import Columns, first_word

__all__ = ["IMAGE", "RuleScores", "Tally", "histogram"]

Floats = npt.NDArray[np.float64]
IMAGE = ""


@dataclass
class RuleScores:
    """Scores of a rule with the image and class that each belongs to ("" for images)."""

    values: array[float] = field(default_factory=lambda: array("d"))
    images: array[int] = field(default_factory=lambda: array("q"))
    classes: array[int] = field(default_factory=lambda: array("q"))

    def add(self, value: float, image: int, label: int) -> None:
        self.values.append(value)
        self.images.append(image)
        self.classes.append(label)

    def extend(
        self, values: Floats, images: npt.NDArray[np.int64], labels: npt.NDArray[np.int64]
    ) -> None:
        """Several at once, each float64 or int64 [n]; a value that is NaN does not count."""
        there = ~np.isnan(values)
        self.values.frombytes(values[there].tobytes())
        self.images.frombytes(images[there].tobytes())
        self.classes.frombytes(labels[there].tobytes())

    def arrays(self) -> tuple[Floats, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """(scores [n], image positions [n], class numbers [n])."""
        values = np.frombuffer(self.values, dtype=np.float64)
        images = np.frombuffer(self.images, dtype=np.int64)
        return values, images, np.frombuffer(self.classes, dtype=np.int64)


class Tally:
    """Fill with `add`, in order; then ask."""

    def __init__(
        self,
        rules: Sequence[Rule],
        bounds: Mapping[str, Bound],
        levels: Mapping[str, str],
        name_of: NameOf,
    ) -> None:
        self.bounds, self._levels, self._name_of = bounds, levels, name_of
        self._rules = {rule.name: rule for rule in rules}
        self.verdicts: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()  # of images that were not kept, by rule
        self.object_reasons: Counter[str] = Counter()
        self.objects: dict[str, Counter[str]] = {}  # class -> verdicts of its images
        self.sound: Counter[str] = Counter()  # class -> objects of kept images that failed no rule
        self.scores = {name: RuleScores() for name in bounds}
        self._object_rules = [name for name in bounds if levels.get(name) == "instance"]
        self.names = [IMAGE]
        self._numbers = {IMAGE: 0}
        self.count = 0
        self.weight = 0.0  # of kept images, in all

    def add(self, sample: Sample) -> None:
        verdict = str(sample.verdict)
        self.verdicts[verdict] += 1
        if sample.verdict == "keep":
            self.weight += sample_weight(sample)
        else:
            self.reasons.update({reason.split(" ", 1)[0] for reason in sample.reasons})
        for name, score in sample.scores.items():
            if self._levels.get(name) == "image" and name in self.scores:
                self.scores[name].add(score, self.count, 0)
        for instance in sample.layout.instances:
            thing = is_thing(instance)
            scores = {n: s for n, s in instance.scores.items() if n in self._object_rules}
            if not thing and not scores:
                continue
            label = self._name_of(instance.label)
            failed = failed_rules(instance) if instance.reasons else []
            self.object_reasons.update(failed)
            if thing:
                self.objects.setdefault(label, Counter())[verdict] += 1
                self.sound[label] += sample.verdict == "keep" and not failed
            number = self._number(label)
            for name, score in scores.items():
                self.scores[name].add(score, self.count, number)
        self.count += 1

    def add_columns(self, columns: Columns) -> None:
        """What `add` does for each sample of a table with the columns `COUNTED`."""
        verdicts = columns.verdicts
        self.verdicts.update(verdicts)
        for row, texts in columns.reasons.items():
            if verdicts[row] != "keep":
                self.reasons.update({first_word(text) for text in texts})
        for verdict, scores in zip(verdicts, columns.scores, strict=True):
            if verdict == "keep":
                self.weight += scores.get(WEIGHT, 1.0)
        rows = np.arange(len(columns))
        for name, kept in self.scores.items():
            if self._levels.get(name) == "image":
                kept.extend(columns.values(name), rows + self.count, np.zeros_like(rows))
        self._add_objects(columns, np.array(verdicts, dtype=object))
        self.count += len(columns)

    def _add_objects(self, columns: Columns, verdicts: npt.NDArray[np.object_]) -> None:
        things, labels = columns.things, columns.label_numbers
        values = {name: columns.object_values(name) for name in self._object_rules}
        counted = np.any([things, *(~np.isnan(found) for found in values.values())], axis=0)
        sound = things & (verdicts[columns.owners] == "keep")
        for place, texts in columns.object_reasons.items():
            words = (first_word(text) for text in texts)
            failed = [word for word in words if word in columns.object_scores[place]]
            if failed and counted[place]:
                self.object_reasons.update(failed)
                sound[place] = False
        numbers = np.zeros(len(columns.labels), dtype=np.int64)
        seen, first = np.unique(labels[counted], return_index=True)
        for label in seen[np.argsort(first)].tolist():
            name, mine = self._name_of(columns.labels[label]), things & (labels == label)
            numbers[label] = self._number(name)
            if mine.any():
                kept = self.objects.setdefault(name, Counter())
                kept.update(verdicts[columns.owners[mine]].tolist())
                self.sound[name] += int((sound & mine).sum())
        owners, of = columns.owners[counted] + self.count, numbers[labels[counted]]
        for name, found in values.items():
            self.scores[name].extend(found[counted], owners, of)

    def _number(self, label: str) -> int:
        if label not in self._numbers:
            self._numbers[label] = len(self.names)
            self.names.append(label)
        return self._numbers[label]

    def passed(self, rule: str) -> dict[str, tuple[int, int]]:
        """Class ("" for images) -> (scored, passed)."""
        values, _, classes = self.scores[rule].arrays()
        low, high = self._limits(rule, classes)
        good = (values >= low) & (values <= high)
        found = {}
        for number in np.unique(classes).tolist():
            mine = classes == number
            found[self.names[number]] = (int(mine.sum()), int(good[mine].sum()))
        return found

    def _limits(self, rule: str, classes: npt.NDArray[np.int64]) -> tuple[Floats, Floats]:
        bound = self.bounds[rule]
        if bound.full is not None:  # gives weights, and rejects nothing
            return np.full(len(classes), -np.inf), np.full(len(classes), np.inf)
        own = [bound.of(name) for name in self.names]
        lows = np.array([-np.inf if o.low is None else o.low for o in own])
        highs = np.array([np.inf if o.high is None else o.high for o in own])
        return lows[classes], highs[classes]

    def margins(self) -> tuple[Floats, npt.NDArray[np.int64]]:
        """How far each image is from being rejected, float64 [images], and by how many rules it is.

        Of a score, the share of the rule's scores between it and its bound: over 0 where it
        passes, under 0 where it fails. Of an image and an object rule, that of the object whose
        failure would be one too many. Of an image, the least; NaN without a score.
        """
        margins = np.full(self.count, np.inf)
        failed = np.zeros(self.count, dtype=np.int64)
        for name, rule in self._rules.items():
            values, images, classes = self.scores[name].arrays()
            if len(values) and rule.policy != "weight":
                places, found = _of_images(
                    _margin(values, *self._limits(name, classes)), images, rule
                )
                margins[places] = np.minimum(margins[places], found)
                failed[places] += found < 0
        return np.where(np.isinf(margins), np.nan, margins), failed


def _of_images(
    margins: Floats, images: npt.NDArray[np.int64], rule: Rule
) -> tuple[npt.NDArray[np.int64], Floats]:
    """(image positions, the margin that decides on each) from those of its scores."""
    order = np.lexsort((margins, images))
    places, starts, counts = np.unique(images[order], return_index=True, return_counts=True)
    allowed = np.array([rule.allowed(n) for n in range(int(counts.max()) + 1)])[counts]
    deciding = margins[order][starts + np.minimum(allowed, counts - 1)]
    return places, np.where(allowed >= counts, np.inf, deciding)


def _margin(values: Floats, low: Floats, high: Floats) -> Floats:
    ordered = np.sort(values)

    def below(limit: Floats) -> Floats:
        return np.searchsorted(ordered, limit, side="left") / len(ordered)

    def up_to(limit: Floats) -> Floats:
        return np.searchsorted(ordered, limit, side="right") / len(ordered)

    over = np.where(values >= low, up_to(values) - below(low), below(values) - below(low))
    under = np.where(values <= high, up_to(high) - below(values), up_to(high) - up_to(values))
    return np.asarray(np.minimum(over, under))


def histogram(
    values: Sequence[float] | Floats, real: Sequence[float], bins: int = 24
) -> dict[str, list[float]]:
    """Shares of the set's scores in `bins`, and of real ones, whose ascending quantiles these are.

    The range covers all but the outer half percent of either; those count in the end bins.
    """
    ends = [np.quantile(values, (0.005, 0.995))]
    if len(real):
        ends.append(np.quantile(real, (0.005, 0.995)))
    low, high = float(np.min(ends)), float(np.max(ends))
    edges = np.linspace(low, high if high > low else low + 1e-6, bins + 1)
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    found = {"edges": edges.tolist(), "generated": (counts / max(len(values), 1)).tolist()}
    if len(real):
        counts, _ = np.histogram(np.clip(real, edges[0], edges[-1]), edges)
        found["real"] = (counts / len(real)).tolist()
    return found
