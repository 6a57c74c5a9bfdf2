"""The `extract-masks` command: labelled images -> samples with a scored mask an instance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rsgen.errors import DataError, SetupError, from_os_error
from rsgen.execution import Control, Finish, FinishedRun, Shard, ShardOutput
from rsgen.extraction.backends import (
    BackendSetup,
    backend_class,
    check_backend,
    open_backend,
)
from rsgen.extraction.base import CORRECTION, MaskBackend, Pixels
from rsgen.extraction.overlay import survey, write_overlay
from rsgen.extraction.phrases import load_phrases
from rsgen.extraction.sources import Item, Sources, check_size, open_sources
from rsgen.formats.tiling import cut_sample
from rsgen.georaster import Scene
from rsgen.images import IMAGE_SUFFIXES, open_scene, replace_bytes, sha256_file, write_png
from rsgen.records import ClassTable, Failure, Instance, Sample, with_instances
from rsgen.registry import names
from rsgen.request import RunInfo, canonical_json
from rsgen.settings import ExtractMasksConfig
from rsgen.stages import stage_option
from rsgen.store import failure_lines, failures_path

if TYPE_CHECKING:
    from rsgen.extraction.captions import Captioner

__all__ = ["ExtractMasksStage", "annotate_sample"]

COMMAND = "extract-masks"
MANY_FALLBACKS = 0.2
NO_DATA = "images and tiles without data"
KEEPS_GIVEN = ("auto", "polygon")


def annotate_sample(
    image: Pixels,
    known: Sequence[Instance],
    classes: ClassTable,
    backend: str | MaskBackend = "auto",
) -> list[Instance]:
    """Masks for the labels of one image, by an opened backend or the name of one.

    `auto` keeps masks that came with the label (`polygon`) and makes the others by
    `classical`. A backend that is named makes every thing's mask anew; stuff
    keeps its own, and so does what a person has corrected.
    """
    if isinstance(backend, str):
        backend = open_backend(BackendSetup(ExtractMasksConfig(backend=backend)))
    if backend.name not in KEEPS_GIVEN:
        known = [i if _stays(i, classes) else replace(i, mask=None) for i in known]
    return backend.annotate(image, known, classes)


def _stays(instance: Instance, classes: ClassTable) -> bool:
    """Whether no backend makes its mask anew: stuff, and what a person has drawn."""
    return classes.is_stuff(instance.label) or instance.origin == CORRECTION


class ExtractMasksStage:
    """One item a sample, or a tile of one where the scene is large."""

    shard_size = 16

    def __init__(self, info: RunInfo) -> None:
        self._info = info
        self._settings = info.config.extract_masks
        check_backend(self._settings)
        kind = backend_class(self._settings.backend)
        self.uses_torch = bool(stage_option(kind, "uses_torch", False))
        self.batch_size = int(stage_option(kind, "batch_size", 16))
        self._instead: str | None = stage_option(kind, "instead", None)
        self._may_be_unsure = hasattr(kind, "open")
        if self._settings.captions is not None:
            load_phrases(self._settings.phrases)
            self.uses_torch = True
        self._backend: MaskBackend | None = None
        self._captioner: Captioner | None = None
        self._last: tuple[str, Path, Scene] | None = None

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

    def model_hashes(self) -> dict[str, str]:
        kind = backend_class(self._settings.backend)
        found: dict[str, str] = stage_option(kind, "model_hashes", _no_hashes)(self._settings)
        if self._settings.captions is not None:
            from rsgen.extraction.captions import caption_hashes

            found = {**found, **caption_hashes(self._settings)}
        return found

    def still_holds(
        self, shard: Shard, samples: Sequence[Sample], changed: Collection[Path]
    ) -> bool:
        """Whether a shard made before some files changed is what it would be now.

        Labels may have changed in any way; of images, only those of the shard matter.
        """
        if any(path.suffix.lower() not in IMAGE_SUFFIXES for path in changed):
            return False
        items = self._sources.items[shard.start : shard.stop]
        if [(s.id, s.split) for s in samples] != [(i.id, i.sample.split) for i in items]:
            return False
        touched = {path.name for path in changed}
        return not any(Path(item.sample.image or "").name in touched for item in items)

    def open(self) -> None:
        plan = self._info.plan
        assert plan is not None, "a stage always has a plan"
        self._backend = open_backend(
            BackendSetup(
                self._settings, plan.device, plan.dtype, plan.batch_size, self._sources.classes
            )
        )
        if self._settings.captions is not None:
            from rsgen.extraction.captions import Captioner

            self._captioner = Captioner.open(
                self._settings, self._sources.classes, plan.device, plan.dtype, plan.batch_size
            )

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
                sample, failed = self._sample(item, index, shard)
            except (MemoryError, SetupError):
                raise
            except Exception as error:
                if isinstance(error, OSError) and from_os_error(error) is not None:
                    raise  # a full disk is the machine's state, no item is to blame
                failures.append(Failure(item.sample.id, COMMAND, type(error).__name__, str(error)))
            else:
                if failed is not None:
                    failures.append(failed)
                if sample is None:
                    counts[NO_DATA] += 1
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

    def _sample(self, item: Item, index: int, shard: Shard) -> tuple[Sample | None, Failure | None]:
        """The annotated sample (None where not one pixel has data), and what went wrong."""
        path, scene = self._scene(item)
        check_size(item, scene.height, scene.width)
        sample = item.sample
        found = scene.read(item.window)
        if not found.valid.any():
            return None, None
        pixels = found.pixels
        if sample.provenance.kind == "real" and sample.provenance.run is None:
            sample = replace(
                sample, provenance=replace(sample.provenance, run=self._info.fingerprint)
            )
        if item.window is not None:
            sample = cut_sample(sample, item.window, self._settings.tile_keep)
            name = f"tile-{index:06d}.png"
            digest = write_png(shard.images_dir / name, pixels)
            sample = replace(sample, image=f"{shard.images_prefix}/{name}", sha256=digest)
        elif sample.sha256 is None:
            sample = replace(sample, sha256=sha256_file(path))
        made, failed = self._annotated(pixels, sample)
        if self._captioner is not None:
            made = self._captioner.captioned(pixels, made, self._sources.classes)
        return with_instances(sample, made), failed

    def _annotated(self, pixels: Pixels, sample: Sample) -> tuple[list[Instance], Failure | None]:
        """Masks by the backend; where it has none for the image, by the one it names instead."""
        assert self._backend is not None, "a stage is opened before it works"
        known, classes = sample.layout.instances, self._sources.classes
        try:
            return annotate_sample(pixels, known, classes, self._backend), None
        except DataError as error:
            if self._instead is None:
                raise
            text = f"{error}; the masks of this image are by {self._instead}"
            failure = Failure(sample.id, COMMAND, type(error).__name__, text)
        reason = f"{self._backend.name}: no usable answer for the image"
        made = annotate_sample(pixels, known, classes, self._instead)
        return [
            new if new.mask is old.mask else replace(new, reasons=(reason, *new.reasons))
            for old, new in zip(known, made, strict=True)
        ], failure

    def _scene(self, item: Item) -> tuple[Path, Scene]:
        """(file, opened scene); tiles of one scene follow each other, so the last stays open."""
        if self._last is None or self._last[0] != item.sample.id:
            if self._last is not None:
                self._last[2].close()
                self._last = None
            path = item.image
            self._last = (item.sample.id, path, open_scene(path))
        return self._last[1:]

    def finish(self, run: FinishedRun) -> Finish:
        sources = self._sources
        report = survey(run.samples(), sources.classes, self._settings.overlay)
        if not report.rows and not len(run):
            if not sources.items:  # no shard ran that would have written them
                self._write_rows(failures_path(self._info.out, 0).name, sources.dropped)
                self._write_rows("labels.jsonl", sources.bad_labels)
            if run.counts.get(NO_DATA, 0) == len(sources.items) > 0:
                raise DataError(
                    "not one pixel of the images has data (nodata, NaN or alpha 0)",
                    hint="look at the images, and at the nodata value that they declare",
                )
            raise DataError(
                "no image could be used:\n  " + "\n  ".join(failure_lines(self._info.out)),
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
        if run.counts.get(NO_DATA):
            notes.append(f"{run.counts[NO_DATA]} {NO_DATA} were left out (nodata, NaN or alpha 0)")
        objects = sum(int(row["objects"]) for row in report.rows.values())
        fallen = sum(int(row.get("box", 0)) for row in report.rows.values())
        if objects and fallen > MANY_FALLBACKS * objects and self._settings.backend != "box":
            notes.append(
                f"{fallen / objects:.0%} of the masks are class-typical shapes, not the objects' "
                "own: look at overlay.html before building a pool"
            )
        named = self._settings.backend
        other = sum(int(row.get("classical", 0)) for row in report.rows.values()) + fallen
        if self._may_be_unsure and other > MANY_FALLBACKS * objects:
            notes.append(
                f"{other / objects:.0%} of the masks are not by {named}, which was unsure: each "
                "says why in overlay.html"
            )
        return Finish(artifacts, {f"masks: {k}": v for k, v in report.rows.items()}, notes)


def _no_hashes(_: ExtractMasksConfig) -> dict[str, str]:
    return {}


def _tally(sample: Sample, classes: ClassTable) -> Counter[str]:
    counts: Counter[str] = Counter()
    for instance in sample.layout.instances:
        if classes.is_stuff(instance.label):
            counts["stuff masks"] += 1
            continue
        counts["instances"] += 1
        if "caption" in instance.scores:
            counts["captions"] += 1
        origin = instance.origin if instance.mask is not None else "none"
        counts[f"masks: {origin}"] += 1
    return counts
