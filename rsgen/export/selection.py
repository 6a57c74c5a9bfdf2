"""Which samples are exported, and in which split: verdicts, learners, ratios, ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rsgen.errors import DataError, UsageError
from rsgen.records import Layout, Provenance, Sample
from rsgen.request import LEARNERS, RunInfo, item_seed
from rsgen.settings import ExportConfig
from rsgen.splits import SPLITS, assign_splits
from rsgen.store import SampleRun, run_folder

__all__ = [
    "Item",
    "Selection",
    "ancestry",
    "parse_ratio",
    "parse_split",
    "select",
]

# Runs that look at labels or pixels of a split; after them it can no longer be redrawn.
SPLIT_USERS = LEARNERS | {"build-mask-pool"}


@dataclass(frozen=True)
class Item:
    """One sample to export: where it comes from and where it goes."""

    source: int  # position of its run
    row: int  # position in that run
    id: str
    parent: str
    kind: str
    split: str | None


@dataclass
class Selection:
    """What is exported, and what is not, by reason."""

    items: list[Item]
    skipped: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)


# ---------------------------------------------------------------- options


def parse_split(text: str) -> tuple[float, float, float]:
    """`0.7/0.2/0.1` -> shares of train, val and test.

    Raises:
        UsageError: not three numbers, negative, or not adding up to 1.
    """
    try:
        parts = [float(part) for part in text.split("/")]
    except ValueError:
        parts = []
    if len(parts) != 3 or min(parts) < 0 or abs(sum(parts) - 1) > 1e-6:
        raise UsageError(
            f"--split {text!r} is not three shares that add up to 1",
            hint="write train/val/test, for example --split 0.7/0.2/0.1",
        )
    return parts[0], parts[1], parts[2]


def parse_ratio(text: str) -> tuple[float, float]:
    """`1:2` -> parts of real and of synthetic samples.

    Raises:
        UsageError: not two positive numbers.
    """
    try:
        parts = [float(part) for part in text.split(":")]
    except ValueError:
        parts = []
    if len(parts) != 2 or min(parts) <= 0:
        raise UsageError(
            f"--ratio {text!r} is not two positive numbers",
            hint="write real:synthetic, for example --ratio 1:1",
        )
    return parts[0], parts[1]


# ---------------------------------------------------------------- ancestry and learners


def ancestry(path: Path, seen: dict[str, RunInfo] | None = None) -> dict[str, RunInfo]:
    """Every run that led to this one, each after the runs that it read, by fingerprint.

    The run itself comes last; a folder that is gone ends its line.
    """
    found = {} if seen is None else seen
    out = run_folder(path) if path.exists() else None
    if out is None:
        return found
    info = RunInfo.load(out)
    if info.fingerprint not in found:
        for ref in info.inputs:
            if ref.name not in {"corrections", "audit"}:  # edited since, whatever run wrote them
                ancestry(Path(ref.path), found)
        found[info.fingerprint] = info
    return found


def _roots(path: Path) -> set[str]:
    """Fingerprints of a run, of the runs before it, and of the raw data they read."""
    runs = ancestry(path)
    return set(runs) | {ref.fingerprint for info in runs.values() for ref in info.inputs}


def learner_of(real: SampleRun, synthetic: Sequence[SampleRun]) -> RunInfo | None:
    """A run in the ancestry of the synthetic samples that has learned from these real ones."""
    ours = _roots(real.path)
    for run in synthetic:
        for info in ancestry(run.path).values():
            if info.command not in SPLIT_USERS:
                continue
            theirs = {ref.fingerprint for ref in info.inputs}
            if ours & (theirs | {f for ref in info.inputs for f in _roots(Path(ref.path))}):
                return info
    return None


def _painted_by(synthetic: Sequence[SampleRun]) -> str:
    """Who taught the model, where its run is still there."""
    for run in synthetic:
        for info in ancestry(run.path).values():
            if info.command == "train":
                return f", painted by what {info.out.name} (train) has learned"
    return ""


def _refuse_learned(runs: Sequence[SampleRun], items: Sequence[Item]) -> None:
    """`--split` redraws splits only where nothing has learned from the set."""
    kinds = {k: {i.kind for i in items if i.source == k} for k in range(len(runs))}
    synthetic = [runs[k] for k in kinds if "synthetic" in kinds[k]]
    keep_hint = "leave --split out: real samples keep the split they were given"
    if synthetic and not any("real" in found for found in kinds.values()):
        raise UsageError(
            f"--split: every sample is synthetic{_painted_by(synthetic)}; synthetic samples are "
            "for training only",
            hint="leave --split out, or add real samples for val and test with --with-real",
        )
    for k, run in enumerate(runs):
        learner = learner_of(run, synthetic) if "real" in kinds[k] else None
        if learner is not None:
            raise UsageError(
                f"--split: {learner.out.name} ({learner.command}) has learned from the train "
                f"split of {run.path.name}; a new split would put what it saw into val and test",
                hint=keep_hint,
            )
    used = _used_sources(runs, items)
    for item in items:
        if item.kind == "real" and (item.id in used or item.parent in used):
            raise UsageError(
                f"--split: {used.get(item.id) or used[item.parent]} (synthetic) was made with "
                f"shapes or the layout of {item.id}",
                hint=keep_hint,
            )


def _used_sources(runs: Sequence[SampleRun], items: Sequence[Item]) -> dict[str, str]:
    """Id or parent of a real sample -> a synthetic one that was made with it."""
    used: dict[str, str] = {}
    wanted = {(i.source, i.row) for i in items if i.kind == "synthetic"}
    for k, run in enumerate(runs):
        if any(source == k for source, _ in wanted):
            for row, sample in enumerate(run):
                if (k, row) in wanted:
                    for source in sample.provenance.sources:
                        used.setdefault(source, sample.id)
                        used.setdefault(source.split("#", 1)[0], sample.id)
    return used


# ---------------------------------------------------------------- selection


def select(runs: Sequence[SampleRun], settings: ExportConfig, seed: int) -> Selection:
    """Choose the samples of all runs, give each a distinct id and a split.

    Raises:
        UsageError: an option that cannot be met. DataError: nothing is left to export.
    """
    chosen = _by_verdict(runs, settings)
    if settings.split is not None:
        _refuse_learned(runs, chosen.items)
    _assign(runs, chosen, settings, seed)
    if settings.ratio is not None:
        _mix(chosen, parse_ratio(settings.ratio), seed)
    if not chosen.items:
        why = ", ".join(f"{n} {reason}" for reason, n in sorted(chosen.skipped.items()))
        raise DataError(
            f"nothing to export: {why or 'the runs are empty'}",
            hint="lower the filter's thresholds (filter --rescore none), or export its input",
        )
    return chosen


def _by_verdict(runs: Sequence[SampleRun], settings: ExportConfig) -> Selection:
    chosen = Selection([])
    first: dict[str, tuple[str | Path, int]] = {}
    for source, run in enumerate(runs):
        unfiltered = 0
        for row, sample in enumerate(run):
            reason = _left_out(sample, settings)
            if reason is None and first.get(sample.id, ("", 0))[0] == (sample.sha256 or run.path):
                reason = "given twice"
            if reason is not None:
                chosen.skipped[reason] += 1
                continue
            unfiltered += sample.verdict is None and sample.provenance.kind == "synthetic"
            name = sample.id
            if name in first:
                name = f"{run.fingerprint[:8]}-{sample.id}"
                if name in first:
                    name = f"{source}-{name}"
            first[name] = (sample.sha256 or run.path, source)
            chosen.items.append(
                Item(source, row, name, sample.parent, sample.provenance.kind, sample.split)
            )
        if unfiltered:
            chosen.notes.append(
                f"{unfiltered} synthetic samples of {run.path.name} were never filtered; all are in"
            )
    return chosen


def _left_out(sample: Sample, settings: ExportConfig) -> str | None:
    if sample.image is None:
        return "without an image"
    if sample.verdict == "drop":
        return "dropped by the filter"
    if sample.verdict == "unknown" and not settings.include_unknown:
        return "with verdict unknown"
    return None


def _assign(
    runs: Sequence[SampleRun], chosen: Selection, settings: ExportConfig, seed: int
) -> None:
    """Synthetic samples train; real ones keep their split or are grouped by parent scene."""
    ratios = (0.8, 0.1, 0.1) if settings.split is None else parse_split(settings.split)
    redraw = settings.split is not None
    origins = [_origin(run.path) for run in runs]
    regrouped = [i for i in chosen.items if i.kind == "real"]
    stubs = [_stub(i, None if redraw else i.split, origins[i.source]) for i in regrouped]
    splits = assign_splits(stubs, seed, ratios) if stubs else {}
    drawn = sum(stub.split is None for stub in stubs)
    if drawn:
        shares = "/".join(f"{r:g}" for r in ratios)
        chosen.notes.append(f"{drawn} real samples were split {shares} by parent scene")
    synthetic = len(chosen.items) - len(regrouped)
    if redraw and synthetic:
        chosen.notes.append(f"{synthetic} synthetic samples stay in train")
    chosen.items = [replace(i, split=splits.get(_key(i), "train")) for i in chosen.items]


def _key(item: Item) -> str:
    return f"{item.source}/{item.row}"


def _origin(path: Path) -> str:
    """What a run's scenes come from: the raw data it read, or itself.

    A scene that two runs hold is one scene; equal names in two data sets are two.
    """
    out = run_folder(path)
    if out is None:
        return str(path)
    info = RunInfo.load(out)
    sources = [ref for ref in info.inputs if ref.name in ("run", "dataset")]
    if not sources:
        return info.fingerprint
    found = {
        ref.fingerprint if run_folder(Path(ref.path)) is None else _origin(Path(ref.path))
        for ref in sources
    }
    return ",".join(sorted(found))


def _stub(item: Item, split: str | None, origin: str) -> Sample:
    provenance = Provenance("real", parent=f"{origin}/{item.parent}")
    return Sample(_key(item), Layout(1, 1), split=split, provenance=provenance)


def _mix(chosen: Selection, ratio: tuple[float, float], seed: int) -> None:
    """Thin out the kind that is in excess within train; val and test stay whole."""
    train = [i for i in chosen.items if i.split == "train"]
    real = [i for i in train if i.kind == "real"]
    synthetic = [i for i in train if i.kind == "synthetic"]
    if not real or not synthetic:
        raise UsageError(
            f"--ratio needs real and synthetic train samples, got {len(real)} and {len(synthetic)}",
            hint="add real ones with --with-real RUN, or leave --ratio out",
        )
    parts_real, parts_synthetic = ratio
    excess, wanted = real, round(len(synthetic) * parts_real / parts_synthetic)
    if wanted > len(real):
        excess, wanted = synthetic, round(len(real) * parts_synthetic / parts_real)
    wanted = max(1, wanted)
    ranked = sorted(excess, key=lambda i: (item_seed(seed, "export/ratio", i.id), i.id))
    gone = set(ranked[wanted:])
    if gone:
        chosen.skipped["left out for --ratio"] += len(gone)
        kind = "real" if excess is real else "synthetic"
        chosen.notes.append(f"--ratio: {wanted} of {len(excess)} {kind} train samples are in")
    chosen.items = [i for i in chosen.items if i not in gone]


def split_names(items: Iterable[Item]) -> list[str]:
    """The splits that hold anything, train, val, test first."""
    found = {i.split or "train" for i in items}
    return [s for s in SPLITS if s in found] + sorted(found - set(SPLITS))
