"""`generate`: layouts in, labelled images out. The label of an image is its input layout."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rsgen.classes import load_class_table
from rsgen.condition import ConditionEncoding, palette_png
from rsgen.errors import DataError, UsageError
from rsgen.execution import Control, Finish, FinishedRun, Shard, ShardOutput
from rsgen.generation.defaults import guidance_notes, settled
from rsgen.generation.finish import finish_generate, unknown_words_note
from rsgen.generation.layouts import GivenLayouts, Item, LayoutSource, PoolLayouts, select
from rsgen.images import Pixels, write_png
from rsgen.models.architecture import check_channels, model_side, model_step
from rsgen.models.base import (
    ModelCard,
    ModelRef,
    load_model,
    model_folders,
    model_hash,
    read_card,
)
from rsgen.records import ClassTable, Failure, Provenance, Sample
from rsgen.request import SPLIT_SEED, RunInfo, item_seed
from rsgen.sensor import SensorNoise, add_noise, level
from rsgen.settings import GenerateConfig

__all__ = ["GenerateStage"]

# Batches that may wait for decoding and encoding while the next ones are denoised.
PENDING = 2


class GenerateStage:
    """Item k depends on (seed, k) alone: its layout, prompt, noise and name."""

    uses_torch = True
    batch_size = 8
    shard_size = 32

    def __init__(self, info: RunInfo) -> None:
        self._info = info
        self._settings: GenerateConfig = info.config.generate
        self._painter: Any = None
        self._said: set[str] = set()

    # ------------------------------------------------------------ what there is to do

    @cached_property
    def _folders(self) -> tuple[Path, Path]:
        """The checkpoint's folder, and that of the pipeline it runs in."""
        references = self._info.paths("checkpoint")
        if len(references) != 1:
            raise UsageError(
                f"generate needs one checkpoint, got {len(references)}",
                hint="rsgen generate CHECKPOINT --pool POOL --out OUT",
            )
        # A bare `tiny` or `hub:` name is no path; every local folder arrives absolute.
        base = self._settings.base
        return model_folders(
            ModelRef.parse(str(references[0])), None if base is None else ModelRef.parse(base)
        )

    @cached_property
    def _card(self) -> ModelCard:
        """The checkpoint's card, or one made of `generate.condition` and `generate.classes`."""
        checkpoint, base = self._folders
        card = read_card(checkpoint)
        if card is not None:
            return card
        settings = self._settings
        missing = [key for key in ("condition", "classes") if getattr(settings, key) is None]
        if missing:
            keys = " ".join(f"-s generate.{key}=..." for key in missing)
            raise UsageError(
                f"{checkpoint} has no rsgen.json, so its encoding and classes are not known",
                hint=f"say them: {keys} (EarthSynth: condition=index classes=earthsynth-67)",
            )
        assert settings.condition is not None and settings.classes is not None
        classes = load_class_table(settings.classes)
        encoding = ConditionEncoding.for_classes(settings.condition, classes)
        if checkpoint != base:
            check_channels(checkpoint, encoding.channels, encoding.name, str(checkpoint))
        return ModelCard(
            encoding.name, classes, encoding.slots, image_size=model_side(base), published=True
        )

    @cached_property
    def _painting(self) -> GenerateConfig:
        """The settings with what the checkpoint was trained with where nothing was asked for."""
        return settled(self._settings, self._card)

    @cached_property
    def _noise(self) -> SensorNoise | None:
        """What decoded images get."""
        wanted = self._settings.sensor_noise
        if wanted == "auto":
            if self._card.sensor_noise is None:
                raise UsageError(
                    "generate.sensor_noise auto: this checkpoint does not say how much noise its "
                    "training images have",
                    hint="give grey levels, -s generate.sensor_noise=3, or leave it out",
                )
            return self._card.sensor_noise
        return SensorNoise.of_level(wanted) if wanted else None

    def _check_steps(self) -> None:
        settings = self._settings
        if settings.eta and settings.scheduler != "ddim":
            raise UsageError(
                f"generate.eta {settings.eta:g}: the steps of {settings.scheduler} take no noise",
                hint="use --scheduler ddim, or eta 0",
            )
        if settings.window[0] > settings.window[1]:
            raise UsageError(
                f"generate.window {settings.window}: the first share is the larger one",
                hint="write -s 'generate.window=[0, 0.2]' for the first fifth of the steps",
            )

    @cached_property
    def _size(self) -> int:
        size = self._settings.size or self._card.image_size
        step = model_step(self._folders[1])
        if size % step:
            raise UsageError(
                f"generate.size {size}: this model needs a multiple of {step}",
                hint=f"use {max(step, round(size / step) * step)}",
            )
        return size

    @cached_property
    def _source(self) -> LayoutSource:
        info, settings = self._info, self._settings
        pools, layouts = info.paths("pool"), info.paths("layouts")
        shared = (settings, self._card.classes, self._size, info.seed)
        if layouts:
            partial = {Path(r.path) for r in info.inputs if r.manifest_hash == "partial"}
            # In a series every turn draws the same splits: val and test stay so.
            split_seed = int(info.options.get(SPLIT_SEED, info.seed))
            return GivenLayouts(layouts, pools, *shared, partial, split_seed=split_seed)
        if not pools:
            raise UsageError(
                "generate needs layouts",
                hint="add --pool POOL for new layouts, or --layouts LABELS for given ones",
            )
        return PoolLayouts(pools, *shared)

    @cached_property
    def _selection(self) -> tuple[Sequence[int], dict[str, int]]:
        return select(self._source, self._settings.count, self._settings.per_class)

    def count(self) -> int:
        _ = self._noise  # what cannot be done is said before any work
        self._check_steps()
        return len(self._selection[0])

    def classes(self) -> ClassTable:
        return self._source.classes

    def model_hashes(self) -> dict[str, str]:
        checkpoint, base = self._folders
        hashes = {"checkpoint": model_hash(checkpoint)}
        if base != checkpoint:
            hashes["base"] = model_hash(base)
        return hashes

    def describe(self) -> tuple[str, ...]:
        """Remarks for a dry run."""
        card, painting = self._card, self._painting
        return (
            f"{self.count()} images of {self._size} px, condition `{card.condition}`, "
            f"{painting.scheduler} {painting.steps} steps, prompt {painting.prompt!r}, "
            f"text guidance {painting.text_guidance:g}, layout guidance "
            f"{painting.layout_guidance:g}",
            *guidance_notes(self._settings, card),
            *self._source.notes,
        )

    # ------------------------------------------------------------ the work

    def open(self) -> None:
        from rsgen.generation.painter import Painter

        plan = self._info.plan
        assert plan is not None, "a stage always has a plan"
        checkpoint, base = self._folders
        model = load_model(
            checkpoint, base=base, device=plan.device, dtype=plan.dtype, inference=True
        )
        self._painter = Painter(
            model,
            self._card.encoding(),
            self._source.classes,
            self._card.classes,
            self._painting,
        )

    def process(self, shard: Shard, control: Control) -> ShardOutput:
        """Denoise batch after batch; a second thread decodes and writes the one before."""
        assert self._info.plan is not None
        size = self._info.plan.batch_size
        numbers = self._selection[0][shard.start : shard.stop]
        output = _Collected()
        self._say(guidance_notes(self._settings, self._card), control)
        calls, full = self._painter.calls, self._painter.full_calls
        with ThreadPoolExecutor(1) as finisher:
            waiting: deque[Future[list[Sample | Failure]]] = deque()
            for start in range(0, len(numbers), size):
                items = self._plan(numbers[start : start + size], output)
                output.plan(items)
                if items:
                    waiting.append(finisher.submit(self._denoised(items, control), shard))
                while len(waiting) > PENDING:
                    output.add(waiting.popleft().result())
                control.advance(len(numbers[start : start + size]))
                control.check()
            for future in waiting:
                output.add(future.result())
        output.counts["network calls"] = self._painter.calls - calls
        output.counts["network calls saved"] = (
            self._painter.full_calls - full - (self._painter.calls - calls)
        )
        return ShardOutput(output.samples, output.failures, output.counts)

    def _plan(self, numbers: Sequence[int], output: _Collected) -> list[Item]:
        """The items of a batch; one that cannot be planned is a failure row."""
        items = []
        for number in numbers:
            try:
                items.append(self._source.item(number))
            except DataError as error:
                output.failures.append(
                    Failure(self._name(number), "generate", "DataError", str(error))
                )
        return items

    def _denoised(
        self, items: list[Item], control: Control
    ) -> Callable[[Shard], list[Sample | Failure]]:
        """Denoise a batch; the returned function decodes it, writes it and makes the records."""
        painter = self._painter
        layouts = [item.layout for item in items]
        prompts = [painter.prompt(layout) for layout in layouts]
        seeds = [item_seed(self._info.seed, "generate", str(item.number)) for item in items]
        self._warn(painter.unknown_words(prompts), control)
        latents = painter.latents(layouts, prompts, seeds)

        def finish(shard: Shard) -> list[Sample | Failure]:
            images = painter.pictures(latents)
            rows = zip(items, prompts, seeds, images, strict=True)
            return [self._record(shard, *row) for row in rows]

        return finish

    def _warn(self, words: Sequence[str], control: Control) -> None:
        new = [word for word in words if word not in self._said]
        self._said.update(new)
        if new:
            control.note(unknown_words_note(new), "warning")

    def _say(self, notes: Sequence[str], control: Control) -> None:
        for note in notes:
            if note not in self._said:
                control.note(note, "warning")
        self._said.update(notes)

    def _name(self, number: int) -> str:
        return f"{self._info.fingerprint8}-{number:06d}"

    def _record(
        self, shard: Shard, item: Item, prompt: str, seed: int, image: Pixels | None
    ) -> Sample | Failure:
        name = self._name(item.number)
        if image is None:
            return Failure(
                name, "generate", "NotFinite", "the model gave pixels that are not finite"
            )
        attributes = {}
        if self._noise is not None:
            rng = np.random.default_rng(
                item_seed(self._info.seed, "sensor-noise", str(item.number))
            )
            wanted = self._noise.draw(rng)
            image = add_noise(image, wanted, rng)
            attributes["sensor_noise"] = f"{level(wanted):.2f}"
        provenance = Provenance(
            kind="synthetic",
            run=self._info.fingerprint,
            parent=item.parent,
            seed=seed,
            model=self._info.model_hashes.get("checkpoint"),
            prompt_template=self._painting.prompt,
            layout_template=item.template,
            sources=item.sources,
        )
        if self._settings.save_conditions:
            folder = self._info.out / "conditions" / f"{shard.index:05d}"
            write_png(folder / f"{name}.png", palette_png(item.layout, self._source.classes))
        text = png_text_chunks(name, prompt, provenance)
        return Sample(
            id=name,
            layout=item.layout,
            image=f"{shard.images_prefix}/{name}.png",
            sha256=write_png(shard.images_dir / f"{name}.png", image, text),
            prompt=prompt,
            attributes=attributes,
            split=item.split,
            provenance=provenance,
        )

    def finish(self, run: FinishedRun) -> Finish:
        notes = [*guidance_notes(self._settings, self._card), *self._source.notes]
        missing, pipeline = self._selection[1], self._folders[1]
        return finish_generate(run, self._source.classes, self._card, pipeline, missing, notes)


class _Collected:
    """What a shard has made so far; counts add up over its items."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self.failures: list[Failure] = []
        self.counts: dict[str, int] = {}

    def plan(self, items: Sequence[Item]) -> None:
        for item in items:
            for name, value in {**item.counts, "empty": int(_is_empty(item))}.items():
                self.counts[name] = self.counts.get(name, 0) + value

    def add(self, rows: Sequence[Sample | Failure]) -> None:
        for row in rows:
            if isinstance(row, Failure):
                self.failures.append(row)
            else:
                self.samples.append(row)


def _is_empty(item: Item) -> bool:
    return item.counts.get("placed", 0) == 0


def png_text_chunks(name: str, prompt: str, provenance: Provenance) -> dict[str, str]:
    """Text chunks of a generated PNG: enough to find and remake it, no place or time."""
    facts = {
        "id": name,
        "run": provenance.run,
        "seed": provenance.seed,
        "model": provenance.model,
        "layout_template": provenance.layout_template,
        "parent": provenance.parent,
    }
    kept = {key: value for key, value in facts.items() if value is not None}
    return {
        "Software": "rsgen",
        "Description": prompt,
        "Source": "synthetic image made by a diffusion model",
        "rsgen": json.dumps(kept, sort_keys=True),
    }
