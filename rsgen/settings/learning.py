"""What learns: train and train-judge."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rsgen.settings.base import Rate, Section

__all__ = [
    "CompositionConfig",
    "TrainConfig",
    "TrainJudgeConfig",
]


class CompositionConfig(Section):
    """Bounds and rates of `train.batch: cf-comp`: a reconstruction, no value is the paper's."""

    rate: Rate = Field(0.5, description="composites a real sample, at most (rho)")
    replace: bool = Field(
        False, description="composites take the place of their base instead of joining the batch"
    )
    group: Annotated[int, Field(ge=2, le=256)] | Literal["auto"] = Field(
        "auto",
        description="samples among which partners are sought, of one or more batches (auto: a "
        "batch, at least 8)",
    )
    class_pairs: Literal["shared", "seen"] | tuple[str, ...] = Field(
        "shared",
        description="whose objects are exchanged: shared classes; seen: also classes that stand "
        "in one training image together; or a list as [ship+harbor]",
    )
    max_overlap: Rate = Field(0.05, description="layout: greatest IoU of the two foregrounds")
    foreground: tuple[Rate, Rate] = Field(
        (0.002, 0.9), description="layout: least and greatest share of both foregrounds together"
    )
    max_radiometry: Rate = Field(
        0.15, description="pixel: greatest difference of the channels' means and deviations"
    )
    max_scale: float = Field(1.25, ge=1, description="pixel: greatest ratio of metres a pixel")
    weights: tuple[
        Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]
    ] = Field((1.0, 1.0, 1.0), description="of semantic, layout and pixel when pairs are ranked")
    feather_px: float = Field(
        0.0, ge=0, le=8, description="blur of the pasted pixels' border, never of labels (sigma)"
    )


class TrainConfig(Section):
    """Fine-tune or train a diffusion model on samples."""

    task: Literal["controlnet", "base", "autoencoder"] = Field(
        "controlnet", description="which part learns"
    )
    base: str | None = Field(None, description="model to start from (default: tiny)")
    init_from: str | None = Field(None, description="checkpoint whose weights to go on from")
    method: Literal["plain", "of-diff"] = Field(
        "plain", description="training method (of-diff: real images guide the layout branch)"
    )
    distil_ramp: Literal["linear", "constant", "cosine"] = Field(
        "linear", description="of-diff: how the real image's weight grows over the steps"
    )
    distil_weight: float = Field(
        1.0, ge=0, description="of-diff: weight of following the branch that sees the image"
    )
    recon_augment: bool = Field(
        False, description="of-diff: learn from re-noised reconstructions too, after a third"
    )
    batch: Literal["plain", "cf-comp"] = Field(
        "plain",
        description="batch composition (cf-comp: images that exchange objects join the real ones)",
    )
    cf_comp: CompositionConfig = CompositionConfig()
    local_loss: Annotated[float, Field(ge=0)] | Literal["auto"] = Field(
        "auto",
        description="weight of the loss over the foreground alone, beside that over the image "
        "(auto: 1 with cf-comp, else 0)",
    )
    foreground: Literal["things", "all"] = Field(
        "things", description="foreground of local_loss and cf-comp (all: stuff classes too)"
    )
    category_weight: float = Field(
        0.0,
        ge=0,
        description="single-category views: how often each is drawn, relative to the whole view "
        "(1: as EarthSynth-180K's rows; 0: none)",
    )
    category_min_px: int = Field(
        16, ge=1, description="least pixels of a class that has a single-category view"
    )
    class_balance: Rate = Field(
        0.0,
        description="rare classes are drawn more often: 0 as they are, 0.5 by the square root, "
        "1 evened out",
    )
    max_steps: int | Literal["auto"] = Field(
        "auto", description="optimiser steps (auto: by epochs, or by the size of the set)"
    )
    epochs: int | None = Field(
        None, ge=1, description="passes over the set, where max_steps is auto (default: about 20)"
    )
    unet: Literal["auto", "frozen", "lora", "decoder", "full"] = Field(
        "auto",
        description="which UNet weights learn beside the ControlNet (auto: by images and weights; "
        "of-diff: the decoder)",
    )
    lora_rank: int = Field(16, ge=1, description="rank of LoRA layers")
    condition: Literal["binary", "index", "classes"] = Field(
        "classes", description="encoding of the layout"
    )
    size: int | None = Field(None, ge=32, description="training side in pixels (default: model's)")
    lr: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        "auto", description="peak learning rate (auto: 2e-4 where all of a small UNet learns)"
    )
    warmup_steps: int = Field(20, ge=0, description="linear warm-up steps")
    accumulate: int = Field(1, ge=1, description="batches an optimiser step")
    gradient_checkpointing: bool = Field(False, description="less memory, more time")
    clip_norm: float = Field(1.0, ge=0, description="gradient norm bound (0: none)")
    weight_decay: float = Field(0.01, ge=0, description="AdamW weight decay")
    beta2: float = Field(0.99, gt=0, lt=1, description="AdamW: memory of squared gradients")
    ema_decay: float = Field(0.998, ge=0, lt=1, description="0 switches EMA off")
    prompt: str | None = Field(
        None,
        description="prompt with {classes}, {counts}, {scene}, {captions}; '\"\"': no captions "
        "(default: a sample's own, else 'A satellite image of {classes}')",
    )
    caption_dropout: Rate = Field(0.1, description="share of empty prompts")
    hint_dropout: Rate = Field(0.05, description="share of empty conditions")
    object_weight: float = Field(2.0, ge=1, description="loss weight on object pixels")
    checkpoint_every: int = Field(200, ge=1, description="steps between saved states")
    validate_every: int = Field(0, ge=0, description="steps between validation grids (0: the end)")
    validation_samples: int = Field(8, ge=0, description="pictures in a validation grid")
    max_lost_labels: Rate = Field(
        0.1,
        description="images that lost a larger share of their labels on reading are left out",
    )
    augment: bool = Field(True, description="flips, turns, photometry, crops")
    rotate_degrees: float = Field(0.0, ge=0, le=180, description="free rotation, plus or minus")
    scale_range: tuple[float, float] = Field((1.0, 1.0), description="free scaling, least and most")
    photometry: float = Field(0.5, ge=0, le=1, description="strength of colour and light changes")
    # Off: what an object leaves behind is painted by rule, and whole images turn without that.
    shape_augment: Rate = Field(
        0.0, description="share of objects turned by themselves, with their labels"
    )
    views: int | Literal["auto"] = Field(
        "auto", description="augmented views cached an image (auto: by its size; 0: made anew)"
    )
    from_scratch: bool = Field(
        False, description="start from random weights of the base's architecture"
    )
    learn_text: bool | None = Field(
        None, description="train the text encoder (default: task base from scratch)"
    )
    lr_schedule: Literal["cosine", "constant"] = Field("cosine", description="after the warm-up")
    lr_floor: float = Field(0.05, ge=0, le=1, description="last learning rate / peak")
    timesteps: Literal["auto", "uniform", "logit-normal"] = Field(
        "auto", description="noise levels (auto: logit-normal for v-prediction)"
    )
    snr_gamma: float | None = Field(None, gt=0, description="min-SNR weighting (none: off)")
    crop: int = Field(64, ge=32, description="side of the autoencoder's training crops")
    kl_weight: float = Field(1e-6, ge=0, description="autoencoder: weight of the KL term")
    edge_weight: float = Field(1.0, ge=0, description="autoencoder: weight of the gradient term")


class TrainJudgeConfig(Section):
    """Detectors trained from scratch on the images themselves."""

    judges: Literal["both", "reward", "evaluation"] = Field(
        "both", description="which judge to train"
    )
    max_steps: int | Literal["auto"] = Field(
        "auto", description="optimiser steps a judge (auto: 40 views an image)"
    )
    size: int = Field(256, ge=32, description="side of the training views in pixels")
    lr: float = Field(3e-3, gt=0, description="peak learning rate")
    augment: float = Field(1.0, ge=0, le=1, description="strength of augmentation")
    max_lost_labels: Rate = Field(
        0.1,
        description="images that lost a larger share of their labels on reading are left out",
    )
    checkpoint_every: int = Field(200, ge=1, description="steps between saved states")
