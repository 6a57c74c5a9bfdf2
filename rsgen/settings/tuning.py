"""Learning from rewards: rl-tune."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from rsgen.settings.base import Rate, Section

__all__ = ["RewardConfig", "RlTuneConfig"]


class RewardConfig(Section):
    """One term of the reward."""

    reward: str = Field(description="name in the registry group rewards, or of a scorer")
    weight: float = Field(1.0, description="factor in the sum, not 0")
    name: str | None = Field(None, description="name in logs (default: the reward's)")
    options: dict[str, Any] = Field(default_factory=dict, description="options of the reward")


class RlTuneConfig(Section):
    """A checkpoint learns from rewards on the images that it paints itself."""

    algorithm: Literal["ddpo", "ppo"] = Field(
        "ddpo",
        description="where advantages come from (ddpo: other samples of the layout, ppo: a critic)",
    )
    epochs: int = Field(20, ge=1, description="rounds of painting, rewarding and learning")
    rewards: tuple[RewardConfig, ...] | None = Field(
        None,
        description="terms of the reward, added up; any scorer is one too: remask (masks found "
        "anew), integrity ... (default: detector with a judge, else remask)",
    )
    learn: Literal["lora", "lora+controlnet", "full"] = Field(
        "lora",
        description="what learns: LoRA on the UNet decoder's attention, on the ControlNet's too, "
        "or all weights of both",
    )
    lora_rank: int = Field(16, ge=1, description="rank of LoRA layers")
    lr: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        "auto",
        description="learning rate (auto: adapted after every epoch, so that the next one changes "
        "the model by rl_tune.step_nats)",
    )
    optimizer: Literal["one-scale", "adamw"] = Field(
        "one-scale",
        description="one-scale: weights move as far as their gradients say, all by one scale; "
        "adamw: each by a scale of its own, so that those that no reward depends on walk as far",
    )
    layouts: int = Field(32, ge=1, description="layouts an epoch")
    samples: int = Field(8, ge=1, description="images a layout (a group)")
    updates: int = Field(2, ge=1, description="optimiser steps an epoch")
    lag: Literal[0, 1] = Field(
        0, description="1: images of the epoch before are learned from once more"
    )
    # ------------------------------------------------------------ painting
    steps: int = Field(20, ge=1, le=1000, description="denoising steps, as generate will use")
    window: tuple[Rate, Rate] = Field(
        (0.0, 0.2), description="share of the steps that draw noise and are learned from"
    )
    rule: Literal["ddim", "ddpm"] = Field("ddim", description="stochastic step in the window")
    eta: float = Field(1.0, gt=0, le=1, description="noise of a ddim step in the window")
    text_guidance: float | None = Field(
        None, ge=0, description="as of generate (default: as generate's)"
    )
    layout_guidance: float | None = Field(
        None, ge=0, description="as of generate (default: as generate's)"
    )
    prompt: str | None = Field(None, description="as of generate (default: as trained)")
    size: int | None = Field(None, ge=32, description="side in pixels (default: model's)")
    gsd_m: float | None = Field(None, gt=0, description="metres a pixel of layouts from a pool")
    templates: tuple[str, ...] = Field(
        (), description="layout templates for a pool (default: by class)"
    )
    class_map: dict[str, str] = Field(
        default_factory=dict,
        description="what the checkpoint and the judges call classes of the layouts and of --real: "
        "yours=its",
    )
    # ------------------------------------------------------------ the update
    baseline: Literal["group", "leave-one-out"] = Field(
        "leave-one-out", description="ddpo: what a reward is compared with, within its layout"
    )
    credit: Literal["image", "objects"] = Field(
        "image",
        description="what noise is praised for (image: all places for the image's reward, as in "
        "the papers; objects: with ddpo and a reward that tells its parts by object, as detector "
        "and remask do, each place for the objects there)",
    )
    advantage_clip: float = Field(5.0, gt=0, description="largest advantage")
    std_floor: float = Field(
        1e-3, gt=0, description="least deviation that advantages are divided by, in reward units"
    )
    clip_nats: float = Field(
        1.6,
        gt=0,
        description="how much likelier or less likely an image may get in one denoising step "
        "before an epoch stops pushing it: largest log-ratio, in nats",
    )
    ratio: Literal["center", "plain", "norm"] = Field(
        "center",
        description="importance ratio: centred, as it is, or normalised (GRPO-Guard's RatioNorm)",
    )
    beta: float = Field(
        0.05,
        ge=0,
        description="price of moving away from the start: what a nat of KL (a denoising step) "
        "costs, in standard deviations of the reward within a layout",
    )
    kl_target: Annotated[float, Field(gt=0)] | Literal["auto", "none"] = Field(
        "none",
        description="how far from its start the model is wanted: beta grows beyond it and shrinks "
        "within (KL in nats a denoising step, larger: more changed; auto: where the mean of a step "
        "has moved by a tenth of the step's noise; none: beta stays)",
    )
    kl_max: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        "auto",
        description="how far from its start the model may get before the run ends (KL in nats a "
        "denoising step; auto: where the mean of a step has moved by half of the step's noise)",
    )
    step_nats: float | None = Field(
        None,
        gt=0,
        description="with lr auto: how far one epoch should move the model from where it was (KL "
        "in nats a denoising step, larger: more changed); once it has moved twice as far, what is "
        "left of its updates is skipped, and what it went too far is taken back (default: 0.05)",
    )
    clip_norm: float = Field(1.0, ge=0, description="gradient norm bound (0: none)")
    weight_decay: float = Field(0.0, ge=0, description="weight decay")
    paired_weight: float = Field(
        1.0,
        ge=0,
        description="pull of the usual loss on real images, where --real is given, beside the "
        "reward's (1: gradients of one length)",
    )
    paired_batch: int = Field(8, ge=1, description="real images an optimiser step")
    gradient_checkpointing: bool = Field(False, description="less memory, more time")
    storage: Literal["auto", "fp32", "fp16", "bf16"] = Field(
        "auto", description="number type of stored latents (auto: fp32 on a CPU, else fp16)"
    )
    # ------------------------------------------------------------ the critic
    critic_warmup: int = Field(1, ge=0, description="ppo: epochs in which the critic alone learns")
    critic_updates: int = Field(5, ge=1, description="ppo: critic updates an optimiser step")
    critic_lr: float = Field(1e-3, gt=0, description="ppo: the critic's learning rate")
    # ------------------------------------------------------------ looking and stopping
    control: Literal["none", "negated", "shuffled"] = Field(
        "none",
        description="for a study, to see what is gained without the reward's help: negated (bad "
        "images are rewarded), shuffled (rewards are dealt to other images)",
    )
    held_layouts: int = Field(
        32, ge=1, description="layouts that are not tuned on; checkpoints are chosen by them"
    )
    evaluate_every: int = Field(2, ge=1, description="epochs between looks at held layouts")
    gate: Literal["improve", "none"] = Field(
        "improve", description="improve: exit 7 unless judge B finds the result better"
    )
    keep: Literal["best", "last"] = Field(
        "best",
        description="weights that are saved: of the best look at held layouts, or of the last "
        "epoch (studies; a safety stop always goes back to the best)",
    )
    patience: int = Field(
        3, ge=1, description="looks in which the held score may fall while the reward grows"
    )
    grid: int = Field(8, ge=0, description="held layouts in the grid of images")
