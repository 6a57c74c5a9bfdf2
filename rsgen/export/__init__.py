"""The `export` command: kept samples -> data sets in detector formats, verified, published whole.

OUT/.dataset.tmp is written, read back and compared, then renamed to OUT/dataset. A run that
was stopped starts over: nothing of a data set is visible before all of it is right.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rsgen.classes import united
from rsgen.errors import DataError, UsageError
from rsgen.export.codec import (
    Codec,
    describe_codecs,
    donor,
    link_or_copy,
    place_image,
    survey,
)
from rsgen.export.georeference import Georeferences, place_on_ground
from rsgen.export.metadata import write_metadata
from rsgen.export.selection import (
    Item,
    Selection,
    parse_ratio,
    parse_split,
    select,
    split_names,
)
from rsgen.export.verify import Expected, check_format, refuse_empty, why_left_out
from rsgen.formats import Format, FormatWriter, SafeNames, WriteOptions, WriteReport
from rsgen.formats.holding import SAMPLE_WORDS, losses
from rsgen.images import replace_bytes
from rsgen.records import ClassTable, Instance, Sample
from rsgen.registry import resolve
from rsgen.reporting import RunSummary
from rsgen.runs import Job, ProgramRun, check_request, start_program
from rsgen.scorers.judging import failed_policy, failed_rules
from rsgen.settings import ExportConfig
from rsgen.store import SampleRun, input_ref, is_committed, open_samples

__all__ = ["export"]

SURVEYED = 400  # real images whose coding is looked at for match-real
REPORT = "export.json"
LOOSE_IMAGES = ".images"  # coded images that no format keeps as files


@dataclass(frozen=True)
class _Plan:
    """Everything that is decided before the first file is written."""

    runs: list[SampleRun]
    classes: ClassTable
    selection: Selection
    settings: ExportConfig
    donors: list[Codec]
    splits: list[str]


def export(job: Job) -> RunSummary:
    """Write OUT/dataset/FORMAT for every format asked for.

    Inputs: `run` (one or more sample runs), `real` (at most one, mixed in).

    Raises:
        UsageError: an option that cannot be met, or a split that something has learned from.
        DataError: nothing to export, or the data set read back is not what was to be written.
    """
    _check_options(job.config.export, job)
    paths = [("run", p) for p in job.paths("run")] + [("real", p) for p in job.paths("real")]
    inputs = [input_ref(name, path, allow_partial=job.allow_partial) for name, path in paths]
    runs = [open_samples(path, job.allow_partial) for _, path in paths]
    classes = united(run.classes for run in runs)
    done = is_committed(job.out)
    plan = None if done else _plan(job, runs, classes)
    if job.dry_run:
        check_request(job, inputs=inputs)
        return _dry_run(job, plan)
    with start_program(job, inputs=inputs, classes=classes) as run:
        if run.committed:
            return run.summary()
        dataset = run.path / "dataset"
        if not (dataset / REPORT).is_file():
            _publish(run, plan or _plan(job, runs, classes), dataset)
        return _commit(run, dataset)


def _check_options(settings: ExportConfig, job: Job) -> None:
    if not job.paths("run"):
        raise UsageError("export needs a sample run", hint="rsgen export RUN --out OUT")
    if len(set(settings.format)) < len(settings.format) or not settings.format:
        raise UsageError(
            f"--format {','.join(settings.format)!r} names a format twice, or none",
            hint="name each format once, for example --format coco,dota",
        )
    for name in settings.format:
        _format_writer(name, settings)
    if settings.split is not None:
        parse_split(settings.split)
    if settings.ratio is not None:
        parse_ratio(settings.ratio)


def _plan(job: Job, runs: list[SampleRun], classes: ClassTable) -> _Plan:
    settings = job.config.export
    selection = select(runs, settings, job.config.seed)
    donors = _donors(runs, selection.items) if settings.image_format == "match-real" else []
    plan = _Plan(runs, classes, selection, settings, donors, split_names(selection.items))
    written = (as_written(sample, item, classes, settings)[0] for item, sample in _samples(plan))
    refuse_empty(settings.format, written)  # before OUT is taken by this request
    return plan


def _donors(runs: Sequence[SampleRun], items: Sequence[Item]) -> list[Codec]:
    """The coding of up to SURVEYED real images, evenly over them."""
    real = [i for i in items if i.kind == "real"]
    if not real:
        raise UsageError(
            "--image-format match-real: there is no real sample to match",
            hint="add them with --with-real RUN, or use --image-format png or jpg",
        )
    step = max(1, len(real) // SURVEYED)
    paths = []
    for item in real[::step]:
        run = runs[item.source]
        paths.append(run.image_path(run.rows(item.row, item.row + 1)[0]))
    return survey(paths)


def _dry_run(job: Job, plan: _Plan | None) -> RunSummary:
    counts = {} if plan is None else _image_counts(plan.selection)
    notes = ("already done",) if plan is None else tuple(plan.selection.notes)
    return RunSummary(job.command, str(job.out), "dry-run", counts=counts, notes=notes)


def _image_counts(selection: Selection) -> dict[str, int]:
    kinds = Counter(item.kind for item in selection.items)
    skipped = {f"skipped, {reason}": n for reason, n in sorted(selection.skipped.items())}
    counts = {"read": len(selection.items) + sum(skipped.values()), "images": len(selection.items)}
    return {**counts, **dict(sorted(kinds.items())), **skipped}


# ---------------------------------------------------------------- writing


def _publish(run: ProgramRun, plan: _Plan, dataset: Path) -> None:
    """Write, read back, compare, then one rename."""
    staging = run.path / ".dataset.tmp"
    if staging.exists():
        shutil.rmtree(staging)  # ours: an export of this request that was stopped
    total = len(plan.selection.items)
    run.reporter.stage("export", total, "image")
    writer = _Writer(plan, staging)
    try:
        for item, sample in _samples(plan):
            writer.add(item, sample)
            run.reporter.advance()
            run.check_stop()
    finally:
        reports = writer.close()  # also after a stop: writers hold open files
    objects = _verify(run, plan, staging, writer)
    report = _report(plan, writer, reports, objects)
    text = json.dumps(report, indent=1, sort_keys=True) + "\n"
    replace_bytes(staging / REPORT, text.encode("utf-8"))
    write_metadata(
        staging,
        info=run.info,
        runs=plan.runs,
        formats=plan.settings.format,
        images=writer.images,
        objects=writer.objects,
        codecs=describe_codecs(writer.codecs),
        notes=report["notes"],
        places=writer.places,
    )
    if dataset.exists():
        raise UsageError(
            f"{dataset} exists, and this run did not write it",
            hint="move it away, or use another --out",
        )
    staging.rename(dataset)


def _samples(plan: _Plan) -> Iterator[tuple[Item, Sample]]:
    """Each item with its sample, run by run, as it will be written."""
    by_source: dict[int, dict[int, Item]] = {}
    for item in plan.selection.items:
        by_source.setdefault(item.source, {})[item.row] = item
    for source, wanted in sorted(by_source.items()):
        for row, sample in enumerate(plan.runs[source]):
            if row in wanted:
                yield wanted[row], sample


class _Writer:
    """Feeds every format's writer, and puts each image in place once, linked elsewhere."""

    def __init__(self, plan: _Plan, staging: Path) -> None:
        self._plan, self._staging = plan, staging
        self._names = SafeNames()
        self.file_names: dict[Item, str] = {}
        self.images: dict[str, Counter[str]] = {s: Counter() for s in plan.splits}
        self.objects: dict[str, Counter[str]] = {}
        self.skipped_objects: Counter[str] = Counter()
        self.lost: dict[str, Counter[str]] = {}
        self.left_out: dict[str, dict[str, list[str]]] = {}
        self.codecs: list[Codec] = []
        self.places = Georeferences()
        self._writers: dict[str, FormatWriter] = {}
        self._formats: dict[str, Format] = {}
        for name in plan.settings.format:
            writer = _format_writer(name, plan.settings)
            writer.open(staging / name, plan.classes, plan.splits)
            self._writers[name] = writer
            self._formats[name] = resolve("formats", name)
            self.lost[name] = Counter()
            self.left_out[name] = {}

    def add(self, item: Item, sample: Sample) -> None:
        source = self._plan.runs[item.source].image_path(sample)
        written, skipped = as_written(sample, item, self._plan.classes, self._plan.settings)
        self.skipped_objects.update(skipped)
        codec = self._wanted(sample, source)
        suffix = codec.suffix if codec is not None else _own_suffix(source)
        name = self._names.name(item.id, suffix)
        self.file_names[item] = name
        split = item.split or "train"
        coded: Path | None = None
        # Writers that take the image's bytes come last, when it lies in another's tree.
        for format_name, writer in sorted(
            self._writers.items(), key=lambda item: not item[1].places_images
        ):
            reason = why_left_out(self._formats[format_name], written)
            if reason is not None:
                self.left_out[format_name].setdefault(reason, []).append(item.id)
                continue
            target = self._staging / LOOSE_IMAGES / name
            if writer.places_images:
                target = self._staging / format_name / writer.image_path(name, split, written)
            if coded is None:
                place_image(source, target, sample, codec)
                self.codecs.append(survey([target])[0])
                coded = target
            elif writer.places_images:
                link_or_copy(coded, target)
            writer.add(written, name, split, coded)
            lost = losses(written, self._plan.classes, self._formats[format_name])
            if writer.places_images and place_on_ground(target, written.geo):
                lost.pop(SAMPLE_WORDS["geo"], None)
            self.lost[format_name] += lost
        (self._staging / LOOSE_IMAGES / name).unlink(missing_ok=True)
        self.places.add(name, split, written.geo)
        self.images[split][item.kind] += 1
        for instance in written.layout.instances:
            if not self._plan.classes.is_stuff(instance.label):
                self.objects.setdefault(instance.label, Counter())[split] += 1

    def _wanted(self, sample: Sample, source: Path) -> Codec | None:
        """The coding to write; None leaves JPEG as it is and makes PNG of the rest."""
        settings = self._plan.settings
        if settings.image_format == "png":
            return Codec("png")
        if settings.image_format == "jpg":
            return Codec("jpg", settings.jpg_quality)
        return (
            donor(sample.id, self._plan.donors) if sample.provenance.kind == "synthetic" else None
        )

    def close(self) -> dict[str, WriteReport]:
        loose = self._staging / LOOSE_IMAGES
        if loose.is_dir():
            shutil.rmtree(loose)
        return {name: writer.close() for name, writer in self._writers.items()}


def _format_writer(name: str, settings: ExportConfig) -> FormatWriter:
    chosen: Format = resolve("formats", name, "written")
    return chosen.writer(
        WriteOptions(
            category_ids=settings.category_ids, samples_per_shard=settings.samples_per_shard
        )
    )


def _own_suffix(source: Path) -> str:
    return survey([source])[0].suffix


def as_written(
    sample: Sample, item: Item, classes: ClassTable, settings: ExportConfig
) -> tuple[Sample, Counter[str]]:
    """The sample with its id and split, canonical class names, and objects worth writing.

    Returns it with the objects that were left out, by reason.
    """
    skipped: Counter[str] = Counter()
    instances: list[Instance] = []
    for instance in sample.layout.instances:
        box = instance.bounds()
        size = sample.layout.width, sample.layout.height
        if box is None or box.clip(*size).area <= 0:
            skipped["outside the image"] += 1
            continue
        instance = replace(instance, label=classes.resolve(instance.label).name)
        policy = failed_policy(instance) or settings.failed_objects
        if failed_rules(instance) and policy != "keep":
            if policy == "drop":
                skipped["failed a filter rule"] += 1
                continue
            instance = replace(instance, difficult=True)
        instances.append(instance)
    layout = replace(sample.layout, instances=tuple(instances))
    return replace(sample, id=item.id, layout=layout, split=item.split), skipped


# ---------------------------------------------------------------- checking and reporting


def _verify(run: ProgramRun, plan: _Plan, staging: Path, writer: _Writer) -> Counter[str]:
    """Compare every format with the samples; returns objects by class."""
    objects: Counter[str] = Counter()
    images = len(plan.selection.items) * len(plan.settings.format)
    run.reporter.stage("reading back", images, "image")

    def expected() -> Iterator[Expected]:
        for item, sample in _samples(plan):
            run.reporter.advance()
            run.check_stop()
            written, _ = as_written(sample, item, plan.classes, plan.settings)
            yield writer.file_names[item], item.split or "train", written

    for number, name in enumerate(plan.settings.format):
        found = check_format(staging / name, name, plan.classes, expected(), set(plan.splits))
        objects = found if number == 0 else objects
    return objects


def _report(
    plan: _Plan, writer: _Writer, reports: Mapping[str, WriteReport], objects: Counter[str]
) -> dict[str, Any]:
    notes = list(plan.selection.notes)
    if writer.skipped_objects:
        parts = ", ".join(f"{n} {why}" for why, n in sorted(writer.skipped_objects.items()))
        notes.append(f"objects left out: {parts}")
    for name, report in reports.items():
        left = {k: v for k, v in report.skipped.items() if k != "stuff class"}
        if left:
            notes.append(f"{name}: left out {', '.join(f'{n} {why}' for why, n in left.items())}")
        lost = ", ".join(f"{n} {what}" for what, n in sorted(writer.lost[name].items()))
        if lost:
            notes.append(f"{name} cannot hold {lost}")
        notes += [
            f"{name}: left out {len(ids)} images {why}, such as {ids[0]} (all are in {REPORT})"
            for why, ids in writer.left_out[name].items()
        ]
        notes += [f"{name}: {note}" for note in report.notes]
    splits = {s: kinds.total() for s, kinds in writer.images.items()}
    by_class = {c: row.total() for c, row in sorted(writer.objects.items())}
    return {
        "counts": {**_image_counts(plan.selection), "objects": sum(by_class.values()),
                   "classes": len(by_class)},
        "tables": {"images": splits, "objects": by_class},
        "notes": notes,
        "formats": list(plan.settings.format),
        "left out": {name: reasons for name, reasons in writer.left_out.items() if reasons},
    }  # fmt: skip


def _commit(run: ProgramRun, dataset: Path) -> RunSummary:
    try:
        report = json.loads((dataset / REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{dataset / REPORT}: cannot be read ({error})") from error
    artifacts = {"dataset": dataset, "card": dataset / "README.md"}
    for name in report["formats"]:
        artifacts[name] = dataset / name
    return run.commit(
        counts=report["counts"],
        artifacts=artifacts,
        tables=report["tables"],
        notes=report["notes"],
    )
