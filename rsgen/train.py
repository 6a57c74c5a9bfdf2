"""`train`: teach an autoencoder, a base model, or a ControlNet on the train split of a run.

The program reads top to bottom: open the data and the base, decide what learns, say what it
will cost, optimise, look at the result, save a folder that diffusers opens.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from rsgen.condition import ConditionEncoding, encode
from rsgen.data import CategorySettings, TrainingImages
from rsgen.devices import device_name
from rsgen.errors import UsageError
from rsgen.models.base import ModelRef, model_folder, model_hash
from rsgen.models.stable_diffusion import silence_libraries
from rsgen.prompts import make_prompt
from rsgen.records import Layout
from rsgen.reporting import RunSummary
from rsgen.request import Plan
from rsgen.runs import Job, check_request
from rsgen.store import SampleRun, input_ref, open_samples, run_folder
from rsgen.training.autoencoder import AutoencoderObjective, latent_scale
from rsgen.training.composites import (
    check_partners,
    composite_settings,
    draw_composites,
    most_composites,
)
from rsgen.training.diffusion import DiffusionObjective
from rsgen.training.distillation import DistillationObjective, DistillationSettings
from rsgen.training.latents import LatentViews
from rsgen.training.memory import StepShape, memory_note
from rsgen.training.pairs import PairSettings, TrainingPairs
from rsgen.training.plan import (
    LR,
    SMALL_UNET,
    automatic_lr,
    automatic_steps,
    automatic_unet,
    check_split,
)
from rsgen.training.session import default_threads, open_training
from rsgen.training.setup import (
    check_batch,
    check_method,
    choose_weights,
    make_accelerator,
    number_type,
    open_base,
    place_weights,
    prepare_controlnet,
)
from rsgen.training.task import (
    COMPOSITES,
    Session,
    commit_model,
    describe,
    latent_views,
    model_card,
    optimise,
    validation_samples,
)
from rsgen.training.validation import Validator, check_reconstructions, crop_of

__all__ = ["train"]

BATCH_SIZE = 8


def train(job: Job) -> RunSummary:
    """Train on the `run` input; the base is the input `base`, else `train.base`, else tiny.

    Returns a summary whose exit code is 7 when a loss was not a number (the weights of the
    last good state are saved). Raises DataError, UsageError, SetupError, Stopped.
    """
    silence_libraries()
    settings = job.config.train
    check_method(settings)
    check_batch(settings)
    source = _only_run(job)
    device = device_name(job.config.execution.device)
    dtype = number_type(job.config.execution.dtype, device)
    batch_size = job.config.execution.batch_size or BATCH_SIZE
    base, hashes = _base_of(job)
    images = TrainingImages.from_runs([source], source.classes, settings.max_lost_labels)
    check_partners(images, settings)
    steps = settings.max_steps
    if steps == "auto":
        steps = automatic_steps(len(images), batch_size * settings.accumulate, settings.epochs)
    threads = job.config.execution.threads or default_threads()
    plan = Plan(steps, (), batch_size, dtype, device, threads)
    inputs = [
        input_ref(name, path, allow_partial=job.allow_partial)
        for name, paths in sorted(job.inputs.items())
        for path in paths
    ]
    if job.dry_run:
        check_request(job, inputs=inputs, model_hashes=hashes)
        return _dry_run(job, plan, images, base)
    with open_training(
        job, inputs=inputs, classes=source.classes, model_hashes=hashes, plan=plan
    ) as run:
        if run.committed:
            return run.summary()
        # what the first start froze, not what this machine would choose
        frozen = run.info.plan or plan
        device, dtype = device_name(frozen.device), frozen.dtype
        torch.set_num_threads(frozen.threads)
        accelerator = make_accelerator(device, dtype)
        check_split(frozen.batch_size, accelerator.num_processes)
        model = open_base(settings, base, job.config.seed)
        size = settings.size or model.image_size
        images.check_size(size)
        session = Session(
            run,
            settings,
            accelerator,
            model,
            source,
            images,
            size,
            frozen.batch_size,
            frozen.count,
            str(base),
            LR if settings.lr == "auto" else settings.lr,
        )
        describe(session)
        if settings.task == "autoencoder":
            return _train_autoencoder(session)
        return _train_diffusion(session, device, dtype)


def _only_run(job: Job) -> SampleRun:
    paths = job.paths("run")
    if len(paths) != 1:
        raise UsageError(f"train needs one sample run, got {len(paths)}", hint="rsgen train RUN")
    return open_samples(paths[0], job.allow_partial)


def _base_of(job: Job) -> tuple[str | Path, dict[str, str]]:
    """The base as a reference, and its hash (a from-scratch start has none)."""
    settings = job.config.train
    given: list[tuple[str, str | Path]] = [
        (f"input {name}", path) for name in ("base", "init_from") for path in job.paths(name)
    ]
    if settings.base is not None:
        given.append(("--base", settings.base))
    if settings.init_from is not None:
        given.append(("--init-from", Path(settings.init_from)))
    if len(given) > 1:
        what = " and ".join(f"{name} {value}" for name, value in given)
        raise UsageError(f"train starts from one model, got {what}", hint="leave all but one out")
    reference = given[0][1] if given else "tiny"
    if settings.from_scratch:
        return reference, {}
    if isinstance(reference, Path):
        reference = run_folder(reference) or reference
    ref = (
        ModelRef("folder", str(reference))
        if isinstance(reference, Path)
        else ModelRef.parse(reference)
    )
    return reference, {"base": model_hash(model_folder(ref))}


def _dry_run(job: Job, plan: Plan, images: TrainingImages, base: str | Path) -> RunSummary:
    return RunSummary(
        job.command,
        str(job.out),
        "dry-run",
        counts={
            "training images": len(images),
            "refused": images.refused,
            "incomplete": images.incomplete,
            "steps": plan.count,
        },
        tables={
            "plan": {
                "base": str(base),
                "batch size": plan.batch_size,
                "dtype": plan.dtype,
                "device": plan.device,
            }
        },
    )


# ---------------------------------------------------------------- autoencoder


def _train_autoencoder(session: Session) -> RunSummary:
    settings, model = session.settings, session.model
    model.controlnet = None  # it was made for other latents
    objective = AutoencoderObjective(
        model.vae,
        session.images,
        seed=session.seed,
        crop=min(settings.crop, session.size),
        kl_weight=settings.kl_weight,
        edge_weight=settings.edge_weight,
    )
    samples = validation_samples(session)
    pictures = [crop_of(session.source.read_image(s), s.layout, session.size)[0] for s in samples]

    def look(step: int) -> float:
        path = session.run.path / "validation" / f"step-{step:06d}.png"
        error = check_reconstructions(model, pictures, path)
        session.run.reporter.metric("reconstruction error", error, step)
        return error

    result = optimise(session, objective, look)
    model.vae.register_to_config(
        scaling_factor=latent_scale(model.vae, session.images, session.size)
    )
    card = model_card(session, None, "autoencoder", {})
    return commit_model(session, objective, result, card, look)


# ---------------------------------------------------------------- diffusion


def _train_diffusion(session: Session, device: str, dtype: str) -> RunSummary:
    settings, model, classes = session.settings, session.model, session.images.classes
    encoding: ConditionEncoding | None = None
    unet_mode: str = settings.unet
    if settings.task == "base":
        model.controlnet = None
        unet_mode = "full" if unet_mode == "auto" else unet_mode
    else:
        encoding = prepare_controlnet(model, settings, classes, session.seed)
    count = sum(p.numel() for p in model.unet.parameters())
    two_branches = settings.method == "of-diff"
    if two_branches and unet_mode == "auto":
        unet_mode = "decoder"
    if unet_mode == "auto":
        unet_mode = automatic_unet(len(session.images), count)
        session.run.reporter.note(
            f"train.unet auto: {unet_mode} ({len(session.images)} images, "
            f"{count / 1e6:.0f} M UNet weights)"
        )
    if settings.lr == "auto" and settings.task == "controlnet":
        session.lr = automatic_lr(unet_mode, count)
        session.run.reporter.note(f"train.lr auto: {session.lr:g}")
    learn_text = settings.learn_text
    if learn_text is None:
        learn_text = settings.task == "base" and settings.from_scratch
    share = session.batch_size // session.accelerator.num_processes
    shape = StepShape(
        settings.method,
        share + most_composites(settings, session.batch_size, share),
        session.size,
        "fp32" if device == "cpu" else dtype,
        settings.gradient_checkpointing,
        bool(settings.ema_decay),
        settings.lora_rank,
        learn_text,
        settings.task,
    )
    large = device != "cpu" or count >= SMALL_UNET  # else the measured step says enough
    session.run.reporter.note(memory_note(model, unet_mode, shape, passes=large))
    choose_weights(
        model,
        settings.task,
        unet_mode,
        learn_text,
        settings.lora_rank,
        decoder_only=two_branches,
        seed=session.seed,
    )
    place_weights(model, device, dtype, settings.gradient_checkpointing)
    views = latent_views(session)
    views.fill(
        session.accelerator,
        session.state_folder / "latents.safetensors",
        session.run.reporter,
        session.run.check_stop,
    )
    objective = _diffusion_objective(session, views, encoding)
    composites = objective.pairs.composites
    if composites is not None and session.accelerator.is_main_process:
        draw_composites(composites, session.run.path / COMPOSITES)
    validator = Validator(
        model,
        session.source,
        validation_samples(session),
        encoding,
        classes,
        views,
        session.size,
        session.seed,
        session.run.reporter,
        session.prompt,
    )

    def look(step: int) -> float:
        return validator.look(step, session.run.path / "validation" / f"step-{step:06d}.png")

    result = optimise(session, objective, look)
    facts: dict[str, str | float] = {"unet": unet_mode, "lr": session.lr}
    if two_branches:
        facts["method"] = settings.method
    if settings.batch == "cf-comp":
        facts["batch"] = "cf-comp (reconstruction)"
    card = model_card(session, encoding, settings.task, facts)
    return commit_model(session, objective, result, card, look, lora=unet_mode == "lora")


def _diffusion_objective(
    session: Session, views: LatentViews, encoding: ConditionEncoding | None
) -> DiffusionObjective | DistillationObjective:
    settings, model, classes = session.settings, session.model, session.images.classes
    schedule = model.noise_schedule()
    timesteps = settings.timesteps
    if timesteps == "auto":
        by_velocity = schedule.config.prediction_type == "v_prediction"
        timesteps = "logit-normal" if by_velocity else "uniform"
    pixels = (session.size, session.size)
    local = settings.local_loss
    if local == "auto":
        local = 1.0 if settings.batch == "cf-comp" else 0.0
    categories = None
    if settings.category_weight > 0:
        categories = CategorySettings(settings.category_weight, settings.category_min_px)

    def encoded(layout: Layout) -> np.ndarray:
        assert encoding is not None
        return encode(layout, pixels, encoding, classes)

    pairs = TrainingPairs(
        views,
        classes,
        PairSettings(
            session.seed,
            session.size,
            settings.caption_dropout,
            settings.hint_dropout,
            settings.object_weight,
            timesteps,
            own_prompts=settings.prompt is None,
            with_images=settings.method == "of-diff",
            foreground=settings.foreground if local > 0 else None,
            categories=categories,
            class_balance=settings.class_balance,
            composites=composite_settings(
                settings,
                session.images.samples,
                classes,
                seed=session.seed,
                batch_size=session.batch_size,
            ),
        ),
        tokenize=model.tokens,
        prompt=lambda layout: make_prompt(layout, classes, template=session.prompt),
        encode=None if encoding is None else encoded,
        levels=int(schedule.config.num_train_timesteps),
    )
    if settings.method == "plain":
        return DiffusionObjective(
            pairs,
            unet=model.unet,
            text_encoder=model.text_encoder,
            controlnet=model.controlnet,
            noise_schedule=schedule,
            snr_gamma=settings.snr_gamma,
            local_weight=local,
        )
    assert model.controlnet is not None
    return DistillationObjective(
        pairs,
        DistillationSettings(
            session.steps,
            settings.distil_ramp,
            settings.distil_weight,
            settings.recon_augment,
            settings.snr_gamma,
            local,
        ),
        unet=model.unet,
        text_encoder=model.text_encoder,
        controlnet=model.controlnet,
        noise_schedule=schedule,
    )
