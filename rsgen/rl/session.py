"""Networks, rewards and everything else that a tuning run loads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator

from rsgen.devices import device_name
from rsgen.errors import UsageError
from rsgen.generation.painter import Painter
from rsgen.models.base import load_model
from rsgen.models.process import Process, Rule
from rsgen.models.sampling import SamplingSettings
from rsgen.models.stable_diffusion import DTYPES, StableDiffusion
from rsgen.request import Plan
from rsgen.rewards.combine import Rewards, open_rewards
from rsgen.rl.adapter import Learner
from rsgen.rl.epoch import EpochShape, epoch_shape
from rsgen.rl.estimate import Estimate, estimate
from rsgen.rl.opened import Opened
from rsgen.rl.policy import Policy
from rsgen.rl.selection import Held
from rsgen.training.plan import SMALL_UNET
from rsgen.training.setup import make_accelerator, place_weights

__all__ = ["Session"]

LORA_LR, FULL_LR = 3e-4, 1e-5  # where "auto" begins
SMALL_FACTOR = 3.0


@dataclass(frozen=True)
class Session:
    """Networks, rewards and everything else that is loaded."""

    opened: Opened
    plan: Plan
    model: StableDiffusion
    policy: Policy
    learner: Learner
    rewards: Rewards
    shape: EpochShape
    storage: torch.dtype
    lr: float

    @classmethod
    def start(
        cls,
        opened: Opened,
        plan: Plan,
        cache: Path | None,
        check_stop: Callable[[], None] = lambda: None,
    ) -> Session:
        """Load all of it. `check_stop` is asked while real images are encoded.

        Raises:
            UsageError: settings and networks do not fit. Stopped.
        """
        settings = opened.settings
        torch.set_num_threads(plan.threads)
        accelerator = make_accelerator(device_name(plan.device), plan.dtype)
        ranks, rank = accelerator.num_processes, accelerator.process_index
        shape = epoch_shape(settings.layouts, settings.samples, plan.batch_size, ranks, rank)
        model = load_model(opened.checkpoint, device="cpu", dtype="fp32")
        if not isinstance(model, StableDiffusion) or model.controlnet is None:
            raise UsageError(
                f"{opened.checkpoint}: rl-tune tunes models with a layout branch (ControlNet)",
                hint="train one on it: rsgen train RUN --base CHECKPOINT",
            )
        rule = Rule(settings.rule, settings.eta, settings.window)
        process = Process.from_config(model.scheduler_config, settings.steps, rule)
        if not process.stochastic:
            raise UsageError(
                f"rl_tune.window {settings.window} of {settings.steps} steps draws no noise",
                hint="use more steps, or a window that begins earlier",
            )
        learner = Learner(model, settings.learn, settings.lora_rank, opened.seed)
        place_weights(model, plan.device, plan.dtype, settings.gradient_checkpointing)
        learner.freeze_start()
        painting = opened.painting
        assert painting.text_guidance is not None and painting.layout_guidance is not None
        painter = Painter(
            model, opened.card.encoding(), opened.layouts.classes, opened.card.classes, painting
        )
        sampling = SamplingSettings(
            "ddim",
            settings.steps,
            painting.text_guidance,
            painting.layout_guidance,
            eta=settings.eta,
            window=settings.window,
            rule=settings.rule,
        )
        policy = Policy(painter, process, sampling, accelerator)
        storage = settings.storage
        if storage == "auto":
            storage = "fp32" if plan.device == "cpu" else "fp16"
        lr = settings.lr
        if lr == "auto":
            lr = FULL_LR if settings.learn == "full" else LORA_LR
            if sum(p.numel() for p in model.unet.parameters()) < SMALL_UNET:
                lr *= SMALL_FACTOR
        # of several GPUs this process has one: "cuda" alone is the first of them in every thread
        setup = replace(opened.setup(cache, check_stop), device=str(accelerator.device))
        rewards = open_rewards(opened.specs, setup, settings.control)
        return cls(opened, plan, model, policy, learner, rewards, shape, DTYPES[storage], lr)

    @property
    def accelerator(self) -> Accelerator:
        return self.policy.accelerator

    def held(self) -> Held:
        return Held(
            self.policy,
            self.opened.layouts.held,
            self.rewards,
            self.opened.judge,
            seed=self.opened.seed,
            batch_size=self.shape.batch_size,
        )

    def estimate(self) -> Estimate:
        """Cost of an epoch, from one batch that is painted, rewarded and learned from."""
        return estimate(
            self.policy,
            self.learner,
            self.rewards,
            self.opened.layouts,
            self.shape,
            self.storage,
            epochs=self.opened.settings.epochs,
            updates=self.opened.settings.updates,
            lag=self.opened.settings.lag,
        )
