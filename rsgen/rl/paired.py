"""The usual loss on real images beside the reward: an anchor, where real data is given.

Source: I-DRUID, eq. 12: the joint loss of the paired and the unpaired samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from rsgen.augment import AugmentSettings
from rsgen.data import TrainingImages, automatic_views
from rsgen.errors import DataError, UsageError
from rsgen.generation.naming import Renaming, known_classes
from rsgen.job import Job
from rsgen.models.card import ModelCard
from rsgen.models.stable_diffusion import StableDiffusion
from rsgen.records import ClassTable
from rsgen.rl.policy import Policy
from rsgen.rl.update import Paired
from rsgen.runs import ProgramRun
from rsgen.settings import RlTuneConfig
from rsgen.store import open_samples
from rsgen.training.diffusion import DiffusionObjective
from rsgen.training.latents import LatentViews
from rsgen.training.pairs import PairSettings, TrainingPairs

__all__ = ["Real", "open_real", "paired_of"]

MAX_LOST_LABELS = 0.1
DROPOUT = 0.05  # of captions and hints, where the card does not say what it was trained with


@dataclass(frozen=True)
class Real:
    """The train split of --real. `options`: settings of the run that made it, by dotted key."""

    images: TrainingImages
    fingerprint: str
    options: Mapping[str, Any]
    notes: tuple[str, ...] = ()


def open_real(job: Job, model: ClassTable, class_map: Mapping[str, str]) -> Real:
    """Open --real; images with objects of classes that the model does not know are left out.

    Classes of `class_map` get the model's names, as those of the layouts do.

    Raises:
        UsageError: more than one. DataError: no train images.
    """
    paths = job.paths("real")
    if len(paths) != 1:
        raise UsageError(f"--real takes one run, got {len(paths)}", hint="leave the others out")
    run = open_samples(paths[0], job.allow_partial)
    whole = TrainingImages.from_runs([run], run.classes, MAX_LOST_LABELS, "train")
    known = {entry.name for entry in known_classes(run.classes, model, class_map).classes}
    samples = [
        s
        for s in whole.samples
        if all(run.classes.resolve(i.label).name in known for i in s.layout.instances)
    ]
    if not samples:
        raise DataError(
            f"{paths[0]}: every image shows a class that the model does not know; it knows "
            f"{', '.join(model.names)}",
            hint="fine-tune the model on these classes first (rsgen train RUN --base CHECKPOINT), "
            "or say what it calls them: --class-map YOURS=ITS",
        )
    renaming = Renaming.of(run.classes, model, class_map)
    renamed = [replace(s, layout=renaming(s.layout)) for s in samples]
    images = TrainingImages(renamed, run.read_image, renaming.classes)
    lost = len(whole.samples) - len(samples)
    notes = (
        f"{lost} of {len(whole.samples)} real images show classes that the model does not know: "
        "left out",
    )
    options = {
        f"{section}.{key}": value
        for section, keys in run.info.config.model_dump(mode="json").items()
        if isinstance(keys, dict)
        for key, value in keys.items()
    }
    return Real(images, run.info.fingerprint, options, notes if lost else ())


def paired_of(
    real: Real,
    model: StableDiffusion,
    card: ModelCard,
    policy: Policy,
    settings: RlTuneConfig,
    run: ProgramRun,
) -> Paired:
    """The loss that `train` would have on these images, for the weights that learn here.

    Raises:
        UsageError: the ranks cannot share the batch.
    """
    ranks = policy.accelerator.num_processes
    if settings.paired_batch % ranks:
        raise UsageError(
            f"rl_tune.paired_batch {settings.paired_batch} cannot be shared by {ranks} processes",
            hint=f"use -s rl_tune.paired_batch={-(-settings.paired_batch // ranks) * ranks}",
        )
    images, size = real.images, policy.size
    images.check_size(size)
    augment = AugmentSettings()
    views = LatentViews(
        images,
        model.vae,
        size=size,
        seed=run.config.seed,
        views=automatic_views(images.samples, size, True),
        settings=augment,
    )
    store = run.path / "state" / "latents.safetensors"
    views.fill(policy.accelerator, store, run.reporter, run.check_stop)
    schedule = model.noise_schedule()
    by_velocity = schedule.config.prediction_type == "v_prediction"
    # labels of the real set may have other names than those of the layouts
    painter = replace(policy.painter, classes=images.classes)
    pairs = TrainingPairs(
        views,
        images.classes,
        PairSettings(
            run.config.seed,
            size,
            float(card.training.get("caption_dropout", DROPOUT)),
            float(card.training.get("hint_dropout", DROPOUT)),
            object_weight=1.0,
            timesteps="logit-normal" if by_velocity else "uniform",
            own_prompts=settings.prompt is None,
            with_images=False,
        ),
        tokenize=model.tokens,
        prompt=painter.prompt,
        encode=painter.condition,
        levels=int(schedule.config.num_train_timesteps),
    )
    objective = DiffusionObjective(
        pairs,
        unet=model.unet,
        text_encoder=model.text_encoder,
        controlnet=model.controlnet,
        noise_schedule=schedule,
        snr_gamma=None,
    )
    return Paired(objective, settings.paired_batch, policy)
