"""What every training task shares: its session, what is said first, the loop, what is saved."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from accelerate import Accelerator

from rsgen.augment import AugmentSettings
from rsgen.condition import ConditionEncoding
from rsgen.data import TrainingImages, automatic_views, median_object_px
from rsgen.errors import GateMissed
from rsgen.models.base import ModelCard
from rsgen.models.image_hint import drop_image_slice
from rsgen.models.stable_diffusion import StableDiffusion
from rsgen.prompts import DEFAULT_TEMPLATE, make_prompt, unknown_words
from rsgen.records import Sample
from rsgen.reporting import RunSummary
from rsgen.request import item_seed
from rsgen.runs import ProgramRun
from rsgen.sensor import SensorNoise
from rsgen.settings import TrainConfig
from rsgen.store import SampleRun
from rsgen.training.curves import write_loss_curve
from rsgen.training.latents import LatentViews
from rsgen.training.loop import FitResult, LoopSettings, Objective, fit
from rsgen.training.plan import measure
from rsgen.training.result import write_checkpoint
from rsgen.training.setup import merge_lora

__all__ = [
    "COMPOSITES",
    "Session",
    "commit_model",
    "describe",
    "latent_views",
    "model_card",
    "optimise",
    "validation_samples",
]

NOISE_IMAGES = 64
COMPOSITES = "composites.png"
MOST_WORDS = 12  # unknown ones that are named


@dataclass
class Session:
    """What every task works with."""

    run: ProgramRun
    settings: TrainConfig
    accelerator: Accelerator
    model: StableDiffusion
    source: SampleRun
    images: TrainingImages
    size: int
    batch_size: int
    steps: int
    base_name: str
    lr: float

    @property
    def seed(self) -> int:
        return self.run.config.seed

    @property
    def prompt(self) -> str:
        """The template of prompts; empty: the model learns without captions."""
        asked = DEFAULT_TEMPLATE if self.settings.prompt is None else self.settings.prompt
        return asked.strip() if self.settings.caption_dropout < 1 else ""

    @property
    def state_folder(self) -> Path:
        return self.run.path / "state"

    def loop_settings(self) -> LoopSettings:
        settings = self.settings
        return LoopSettings(
            max_steps=self.steps,
            batch_size=self.batch_size,
            accumulate=settings.accumulate,
            lr=self.lr,
            warmup_steps=settings.warmup_steps,
            schedule=settings.lr_schedule,
            lr_floor=settings.lr_floor,
            weight_decay=settings.weight_decay,
            clip_norm=settings.clip_norm or math.inf,
            ema_decay=settings.ema_decay,
            checkpoint_every=settings.checkpoint_every,
            validate_every=settings.validate_every,
            seed=self.seed,
            beta2=settings.beta2,
        )


def describe(session: Session) -> None:
    """Say what is learned from, before anything is computed."""
    note, images = session.run.reporter.note, session.images
    if session.base_name == "tiny" and session.settings.base is None:
        note(
            "no --base was given: tiny is a demonstration model of 128 px; for real work "
            "--base hub:ORG/NAME or a folder with Stable Diffusion 1.5 in safetensors",
            "warning",
        )
    note(
        f"{len(images)} training images; {images.refused} others refused "
        "(val, test, dropped or without an image)"
    )
    if images.incomplete:
        note(
            f"{images.incomplete} more left out: over {session.settings.max_lost_labels:.0%} of "
            "their labels were lost on reading, so they show objects that their layouts lack; "
            "-s train.max_lost_labels=1 takes them all",
            "warning",
        )
    larger = sum(max(s.layout.width, s.layout.height) > session.size for s in images.samples)
    if larger:
        note(f"{larger} are larger than {session.size} px: cropped at their own scale, not shrunk")
    _describe_prompts(session)
    side = median_object_px(images.samples)
    if side is not None:
        cells = side / session.model.factor
        small = " (under 2: too small to be painted well)" if cells < 2 else ""
        note(f"median object: {side:.0f} px = {cells:.1f} latent cells{small}")


def _describe_prompts(session: Session) -> None:
    """Say how the model is prompted; a broken template ends here, before anything is computed."""
    note, classes = session.run.reporter.note, session.images.classes
    text = make_prompt(classes.names, classes, template=session.prompt)
    if session.settings.task == "autoencoder":
        return
    if not session.prompt:
        note("trained without captions: words will mean nothing to it")
        return
    own = " where a sample has none of its own" if session.settings.prompt is None else ""
    note(f"prompts: {session.prompt!r}{own}")
    vocabulary = session.model.vocabulary
    if vocabulary is None:
        return
    words = unknown_words(" ".join([text, *_texts(session)]), vocabulary)
    if words:
        more = f" and {len(words) - MOST_WORDS} more" if len(words) > MOST_WORDS else ""
        note(
            f"the base's vocabulary lacks {', '.join(words[:MOST_WORDS])}{more}: these words of "
            "the prompts mean nothing to it, only the layout can tell such classes",
            "warning",
        )


def _texts(session: Session) -> Iterator[str]:
    """What the training images are captioned with: their own prompts, else by the template."""
    own = session.settings.prompt is None
    for sample in session.images.samples:
        if own and sample.prompt is not None:
            yield sample.prompt
        else:
            yield make_prompt(sample.layout, session.images.classes, template=session.prompt)


def validation_samples(session: Session) -> list[Sample]:
    """Samples of the val split that fit, else training samples; they are looked at, not learned.

    Those with objects, where there are any.
    """
    count = session.settings.validation_samples
    held = [
        s
        for s in session.source
        if s.split == "val"
        and s.image is not None
        and min(s.layout.width, s.layout.height) >= session.size
    ]
    chosen = held or session.images.samples
    chosen = [s for s in chosen if s.layout.instances] or chosen
    places = np.linspace(0, len(chosen) - 1, min(count, len(chosen)), dtype=int)
    return [chosen[int(k)] for k in places]


def latent_views(session: Session) -> LatentViews:
    """The augmented views of the training images, as the settings ask for them."""
    settings = session.settings
    count = settings.views
    if count == "auto":
        changes = settings.augment or settings.shape_augment > 0
        count = automatic_views(session.images.samples, session.size, changes)
    augment = AugmentSettings(flips=False)
    if settings.augment:
        augment = AugmentSettings(
            True, settings.rotate_degrees, settings.scale_range, settings.photometry
        )
    augment = replace(augment, turned_shapes=settings.shape_augment)
    if settings.shape_augment > 0 and count == 1:
        session.run.reporter.note(
            f"train.shape_augment turns nothing in images of {session.size} px, whose one view "
            "is the image itself: use -s train.views=2 or more, or 0",
            "warning",
        )
    return LatentViews(
        session.images,
        session.model.vae,
        size=session.size,
        seed=session.seed,
        views=count,
        settings=augment,
        with_pixels=settings.method == "of-diff" or settings.batch == "cf-comp",
    )


def optimise(session: Session, objective: Objective, look: Callable[[int], float]) -> FitResult:
    settings = session.loop_settings()
    estimate = measure(objective, session.accelerator, session.batch_size, settings.accumulate)
    session.run.reporter.note(estimate.text(session.steps))
    result = fit(
        objective,
        settings,
        session.accelerator,
        session.state_folder,
        session.run.reporter,
        session.run.check_stop,
        (lambda step: void(look(step))) if session.settings.validation_samples else None,
    )
    if result.average is not None:
        result.average.copy_to(list(objective.parameters().values()))
    return result


def void(value: object) -> None:
    """Drops a result where a callback has none."""


def model_card(
    session: Session, encoding: ConditionEncoding | None, task: str, more: dict[str, str | float]
) -> ModelCard:
    gsds = [s.layout.gsd_m for s in session.images.samples if s.layout.gsd_m is not None]
    old = session.model.card
    return ModelCard(
        condition=session.settings.condition if encoding is None else encoding.name,
        classes=session.images.classes,
        slots={} if encoding is None else encoding.slots,
        image_size=session.size,
        gsd_range_m=(min(gsds), max(gsds)) if gsds else None,
        fingerprint=session.run.info.fingerprint,
        base=session.base_name,
        licence=() if old is None else old.licence,
        prompt=session.prompt,
        sensor_noise=_sensor_noise(session.images),
        training={
            "task": task,
            "steps": session.steps,
            "images": len(session.images),
            "seed": session.seed,
            "hint_dropout": session.settings.hint_dropout,
            "caption_dropout": session.settings.caption_dropout,
            **more,
        },
    )


def _sensor_noise(images: TrainingImages) -> SensorNoise | None:
    """Of at most 64 images, the same ones however many there are and in whatever order."""
    ranked = sorted(
        range(len(images)), key=lambda k: item_seed(0, "sensor-noise", images.samples[k].id)
    )
    return SensorNoise.measured(images.image(k) for k in ranked[:NOISE_IMAGES])


def commit_model(
    session: Session,
    objective: Objective,
    result: FitResult,
    card: ModelCard,
    look: Callable[[int], float],
    lora: bool = False,
) -> RunSummary:
    """Save the checkpoint, the curve and the last validation grid (first rank), then commit."""
    run, model = session.run, session.model
    failed = result.restored_step is not None
    counts = {
        "training images": len(session.images),
        "refused": session.images.refused,
        "incomplete": session.images.incomplete,
        "steps": result.steps,
    }
    notes = [] if not failed else [f"a loss was not a number; weights of step {result.steps}"]
    exit_code = GateMissed.exit_code if failed else 0
    if not session.accelerator.is_main_process:
        session.accelerator.wait_for_everyone()
        status = "gate-missed" if failed else "done"
        return RunSummary(
            run.info.command, str(run.path), status, counts=counts, exit_code=exit_code
        )
    artifacts: dict[str, Path] = {}
    if model.controlnet is not None:
        drop_image_slice(model.controlnet)  # a finished model sees no real images
    if lora:
        merge_lora(model.unet, run.path / "adapter")
        artifacts["adapter"] = run.path / "adapter"
    for network in model.networks().values():
        network.eval()
    score = look(session.steps) if session.settings.validation_samples else float("nan")
    artifacts["model"] = write_checkpoint(model, card, run.path / "model")
    artifacts["loss curve"] = write_loss_curve(
        run.path / "loss.png", result.history, f"{card.training['task']}, {result.steps} steps"
    )
    grid = run.path / "validation" / f"step-{session.steps:06d}.png"
    if grid.is_file():
        artifacts["validation"] = grid
    if (run.path / COMPOSITES).is_file():
        artifacts["composites"] = run.path / COMPOSITES
    session.accelerator.wait_for_everyone()
    recent = result.history[-50:]
    return run.commit(
        counts=counts,
        artifacts=artifacts,
        rates={
            "last loss": float(np.mean(recent)) if recent else float("nan"),
            "validation": score,
        },
        notes=notes,
        exit_code=exit_code,
    )
