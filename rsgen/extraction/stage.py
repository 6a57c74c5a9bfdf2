"""The `extract-masks` command: labelled images -> samples with a scored mask an instance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from rsgen.errors import DataError, SetupError, from_os_error
from rsgen.execution import Control, Finish, FinishedRun, Shard, ShardOutput
from rsgen.extraction.base import MaskBackend, Pixels
from rsgen.extraction.overlay import survey, write_overlay
from rsgen.extraction.sources import Item, Sources, check_size, open_sources
from rsgen.formats.tiling import cut_sample
from rsgen.images import read_image, replace_bytes, sha256_file, write_png
from rsgen.records import ClassTable, Failure, Instance, Sample, with_instances
from rsgen.registry import names, resolve
from rsgen.request import RunInfo, canonical_json
from rsgen.store import failures_path

__all__ = ["ExtractMasksStage", "annotate_sample"]

COMMAND = "extract-masks"
MANY_FALLBACKS = 0.2


def annotate_sample(
    image: Pixels, known: Sequence[Instance], classes: ClassTable, backend: str = "auto"
) -> list[Instance]:
    """Masks for the labels of one image by a backend's name.

    `auto` keeps masks that came with the label (`polygon`) and makes the others by
    `classical`. A backend that is named makes every thing's mask anew; stuff keeps its own.
    """
    if backend in ("auto", "polygon"):
        given = _backend("polygon").annotate(image, known, classes)
        if backend == "polygon":
            return given
        kept = [g if k.mask is not None else k for g, k in zip(given, known, strict=True)]
        if all(k.mask is not None for k in known):
            return kept
        return _backend("classical").annotate(image, kept, classes)
    bare = [i if classes.is_stuff(i.label) else replace(i, mask=None) for i in known]
    return _backend(backend).annotate(image, bare, classes)


def _backend(name: str) -> MaskBackend:
    made: MaskBackend = resolve("mask_backends", name)()
    return made


class ExtractMasksStage:
    """One item a sample, or a tile of one where the scene is large."""

    shard_size = 16

    def __init__(self, info: RunInfo) -> None:
        self._info = info
        self._settings = info.config.extract_masks
        if self._settings.backend != "auto":
            resolve("mask_backends", self._settings.backend)
        self._last: tuple[str, Path, Pixels] | None = None

    @property
    def _sources(self) -> Sources:
        return open_sources(self._info)

    def count(self) -> int:
        return len(self._sources.items)

    def classes(self) -> ClassTable:
        return self._sources.classes

    def image_roots(self) -> list[Path]:
        return list(self._sources.roots)

    def describe(self) -> tuple[str, ...]:
        return (
            *self._sources.notes,
            f"backend {self._settings.backend} (known: auto, {', '.join(names('mask_backends'))})",
        )

    def open(self) -> None:
        return

    def process(self, shard: Shard, control: Control) -> ShardOutput:
        """Annotate the items of a shard; the first shard also carries the readers' failures."""
        sources, samples, failures = self._sources, list[Sample](), list[Failure]()
        counts: Counter[str] = Counter()
        if shard.start == 0:
            failures += sources.dropped
            counts.update(sources.counts)
            self._write_rows("labels.jsonl", sources.bad_labels)
        for index in range(shard.start, shard.stop):
            item = sources.items[index]
            try:
                sample = self._sample(item, index, shard)
            except (MemoryError, SetupError):
                raise
            except Exception as error:
                if isinstance(error, OSError) and from_os_error(error) is not None:
                    raise  # a full disk is the machine's state, no item is to blame
                failures.append(Failure(item.sample.id, COMMAND, type(error).__name__, str(error)))
            else:
                samples.append(sample)
                counts.update(_tally(sample, sources.classes))
            control.advance()
            control.check()
        return ShardOutput(samples, failures, dict(counts))

    def _write_rows(self, name: str, failures: Sequence[Failure]) -> None:
        """OUT/failures/NAME; labels.jsonl are single labels, skipped while their images go on."""
        rows = b"".join(canonical_json(f.to_json()) + b"\n" for f in failures)
        if rows:
            replace_bytes(self._info.out / "failures" / name, rows)

    def _sample(self, item: Item, index: int, shard: Shard) -> Sample:
        path, pixels = self._pixels(item)
        check_size(item, *pixels.shape[:2])
        sample = item.sample
        if sample.provenance.kind == "real" and sample.provenance.run is None:
            sample = replace(
                sample, provenance=replace(sample.provenance, run=self._info.fingerprint)
            )
        if item.window is not None:
            window = item.window
            sample = cut_sample(sample, window, self._settings.tile_keep)
            rows = slice(window.y0, window.y0 + window.height)
            pixels = np.ascontiguousarray(pixels[rows, window.x0 : window.x0 + window.width])
            name = f"tile-{index:06d}.png"
            digest = write_png(shard.images_dir / name, pixels)
            sample = replace(sample, image=f"{shard.images_prefix}/{name}", sha256=digest)
        elif sample.sha256 is None:
            sample = replace(sample, sha256=sha256_file(path))
        made = annotate_sample(
            pixels, sample.layout.instances, self._sources.classes, self._settings.backend
        )
        return with_instances(sample, made)

    def _pixels(self, item: Item) -> tuple[Path, Pixels]:
        """(file, decoded pixels); tiles of one scene follow each other, so the last is kept."""
        if self._last is None or self._last[0] != item.sample.id:
            path = item.image
            self._last = (item.sample.id, path, read_image(path))
        return self._last[1:]

    def finish(self, run: FinishedRun) -> Finish:
        sources = self._sources
        report = survey(run.samples(), sources.classes, self._settings.overlay)
        if not report.rows and not len(run):
            if not sources.items:  # no shard ran that would have written them
                self._write_rows(failures_path(self._info.out, 0).name, sources.dropped)
                self._write_rows("labels.jsonl", sources.bad_labels)
            raise DataError(
                "no image could be used",
                hint=f"see {self._info.out / 'failures'} for what was wrong with each",
            )
        if sources.bad_labels and not any(s.layout.instances for s in run.samples()):
            self._write_rows("labels.jsonl", sources.bad_labels)
            raise DataError(
                f"not one label could be used; the first of {len(sources.bad_labels)}: "
                f"{sources.bad_labels[0].message}",
                hint=f"see {self._info.out / 'failures' / 'labels.jsonl'}; check --classes and "
                "--class-map",
            )
        artifacts = write_overlay(run.path, report, run.samples(), run.read_image)
        notes = list(sources.notes)
        if sources.bad_labels:
            notes.append(f"{len(sources.bad_labels)} labels were skipped: failures/labels.jsonl")
        objects = sum(int(row["objects"]) for row in report.rows.values())
        fallen = sum(int(row.get("box", 0)) for row in report.rows.values())
        if objects and fallen > MANY_FALLBACKS * objects and self._settings.backend != "box":
            notes.append(
                f"{fallen / objects:.0%} of the masks are class-typical shapes, not the objects' "
                "own: look at overlay.html before building a pool"
            )
        for note in notes:
            run.reporter.note(note)
        return Finish(artifacts, {f"masks: {k}": v for k, v in report.rows.items()}, notes)


def _tally(sample: Sample, classes: ClassTable) -> Counter[str]:
    counts: Counter[str] = Counter()
    for instance in sample.layout.instances:
        if classes.is_stuff(instance.label):
            counts["stuff masks"] += 1
            continue
        counts["instances"] += 1
        origin = instance.origin if instance.mask is not None else "none"
        counts[f"masks: {origin}"] += 1
    return counts
