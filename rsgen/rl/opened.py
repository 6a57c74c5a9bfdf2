"""What a tuning run was asked to do: inputs that are there and fit each other, nothing loaded."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rsgen.classes import united
from rsgen.devices import device_name
from rsgen.errors import UsageError
from rsgen.generation.defaults import settled
from rsgen.job import Job
from rsgen.judge.model import judge_hash
from rsgen.models.base import ModelCard, ModelRef, model_folder, model_hash, read_card
from rsgen.records import ClassTable
from rsgen.request import InputRef, Plan
from rsgen.rewards.base import RealImages, RewardSetup
from rsgen.rewards.combine import RewardSpec, check_rewards, reward_hashes, reward_specs
from rsgen.rewards.known import unseen_by_judge
from rsgen.rl.epoch import epoch_shape
from rsgen.rl.layouts import TuningLayouts, open_layouts
from rsgen.rl.paired import Real, open_real
from rsgen.settings import GenerateConfig, RewardConfig, RlTuneConfig
from rsgen.store import input_ref
from rsgen.training.session import default_threads
from rsgen.training.setup import number_type

__all__ = ["Opened"]

DEFAULT_DETECTOR, DEFAULT_BLIND = "detector", "remask"
DISTRIBUTION = "distribution"


@dataclass(frozen=True)
class Opened:
    """Inputs that are there and fit each other; nothing is loaded yet."""

    job: Job
    checkpoint: Path
    card: ModelCard
    painting: GenerateConfig
    layouts: TuningLayouts
    real: Real | None
    judge: str
    specs: tuple[RewardSpec, ...]
    inputs: tuple[InputRef, ...]
    hashes: dict[str, str]
    plan: Plan

    @property
    def settings(self) -> RlTuneConfig:
        return self.job.config.rl_tune

    @property
    def classes(self) -> ClassTable:
        return self.layouts.classes

    @classmethod
    def of(cls, job: Job) -> Opened:
        """Read and check everything.

        Raises:
            UsageError: an input is missing, or does not fit a setting. DataError, SetupError.
        """
        settings = job.config.rl_tune
        check_settings(settings)
        checkpoint = _checkpoint(job)
        card = read_card(checkpoint)
        if card is None:
            raise UsageError(
                f"{checkpoint} has no rsgen.json, so its encoding and classes are not known",
                hint="rl-tune goes on from the OUT of rsgen train, or from tiny",
            )
        size = settings.size or card.image_size
        painting = settled(
            GenerateConfig(
                size=size,
                prompt=settings.prompt,
                text_guidance=settings.text_guidance,
                layout_guidance=settings.layout_guidance,
                steps=settings.steps,
                gsd_m=settings.gsd_m,
                templates=settings.templates,
            ),
            card,
        )
        pools, given = job.paths("pool"), job.paths("layouts")
        if not pools and not given:
            raise UsageError(
                "rl-tune needs layouts",
                hint="add --pool POOL for new layouts, or --layouts LABELS for given ones",
            )
        inputs = tuple(
            input_ref(name, path, allow_partial=job.allow_partial)
            for name, paths in sorted(job.inputs.items())
            for path in paths
        )
        layouts = open_layouts(
            pools=pools,
            layouts=given,
            settings=painting,
            model_classes=card.classes,
            size=size,
            seed=job.config.seed,
            held=settings.held_layouts,
            class_map=settings.class_map,
            partial=frozenset(Path(r.path) for r in inputs if r.manifest_hash == "partial"),
        )
        real = open_real(job, card.classes, settings.class_map) if job.paths("real") else None
        judge = str(job.paths("judge")[0]) if job.paths("judge") else ""
        specs = reward_specs(settings.rewards or (_default_reward(judge),))
        hashes = {"checkpoint": model_hash(checkpoint)}
        if judge:
            hashes["judge A"] = judge_hash(Path(judge), "reward")
            if settings.gate != "none":
                hashes["judge B"] = judge_hash(Path(judge), "evaluation")
        device = device_name(job.config.execution.device)
        ranks = int(os.environ.get("WORLD_SIZE", "1"))  # torchrun's
        asked = job.config.execution.batch_size
        shape = epoch_shape(settings.layouts, settings.samples, asked, ranks)
        plan = Plan(
            settings.epochs,
            (),
            shape.batch_size,
            number_type(job.config.execution.dtype, device),
            device,
            job.config.execution.threads or default_threads(),
        )
        judge_notes(judge, layouts, settings.gate != "none")
        opened = cls(
            job, checkpoint, card, painting, layouts, real, judge, specs, inputs, hashes, plan
        )
        setup = opened.setup(None)
        check_rewards(specs, setup)
        hashes |= {f"reward {name}": v for name, v in reward_hashes(specs, setup).items()}
        return opened

    def setup(
        self, cache: Path | None, check_stop: Callable[[], None] = lambda: None
    ) -> RewardSetup:
        """What rewards look with."""
        real: RealImages | None = None
        tables = [self.layouts.classes]
        if self.real is not None:
            size = self.painting.size
            assert size is not None
            real = RealImages.of(self.real.images, size, self.seed, self.real.fingerprint)
            tables.append(self.real.images.classes)
        return RewardSetup(
            classes=united(tables),
            judge=self.judge,
            checkpoint=str(self.checkpoint),
            real=real,
            real_options={} if self.real is None else self.real.options,
            asked=asked_classes(self.layouts),
            images=self.settings.layouts * self.settings.samples,
            device=self.plan.device,
            seed=self.seed,
            cache=cache,
            check_stop=check_stop,
            preview=self.job.dry_run,
        )

    @property
    def seed(self) -> int:
        return self.job.config.seed

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of the inputs."""
        size, trained = self.painting.size, self.card.image_size
        notes = [*self.layouts.notes, *(() if self.real is None else self.real.notes)]
        if size != trained:
            notes.append(
                f"rl_tune.size {size}: the checkpoint paints {trained} px otherwise; what it "
                f"learns at one size may show as a grid at another, so generate at {size} px too"
            )
        notes += judge_notes(self.judge, self.layouts, self.settings.gate != "none")
        if any(spec.reward == DISTRIBUTION for spec in self.specs):
            notes += other_layouts(self.job)
        return tuple(notes)


def check_settings(settings: RlTuneConfig) -> None:
    """Raise UsageError where settings exclude each other."""
    first, last = settings.window
    if not first < last:
        raise UsageError(
            f"rl_tune.window is {first:g} to {last:g}: nothing to learn from",
            hint="use -s 'rl_tune.window=[0, 0.2]'",
        )
    if settings.credit == "objects" and settings.algorithm == "ppo":
        raise UsageError(
            "rl_tune.credit objects compares images of one layout, and ppo's critic knows images "
            "as wholes",
            hint="use -s rl_tune.credit=image, or -s rl_tune.algorithm=ddpo",
        )
    if settings.samples < 2 and settings.algorithm == "ddpo":
        raise UsageError(
            f"rl_tune.samples {settings.samples}: ddpo compares images of one layout",
            hint="use 2 or more, or -s rl_tune.algorithm=ppo",
        )


def asked_classes(layouts: TuningLayouts) -> tuple[str, ...]:
    """The thing classes that the held layouts show, by their names in the class table."""
    table = layouts.classes
    labels = {i.label for drawn in layouts.held for i in drawn.layout.instances}
    return tuple(sorted({table.resolve(n).name for n in labels if not table.is_stuff(n)}))


def judge_notes(judge: str, layouts: TuningLayouts, measures: bool) -> tuple[str, ...]:
    """What judge A (which chooses) and judge B (which measures) cannot see of the layouts.

    Raises:
        UsageError: one of them knows none of the classes.
    """
    if not judge:
        return ()
    asked, path = asked_classes(layouts), Path(judge)
    unseen = {"judge A": unseen_by_judge(path, "reward", asked)}
    if measures:
        unseen["judge B"] = unseen_by_judge(path, "evaluation", asked)
    return tuple(
        f"{name} has never seen {', '.join(classes)}: such objects are not counted"
        for name, classes in unseen.items()
        if classes
    )


def other_layouts(job: Job) -> tuple[str, ...]:
    """What is said where the reward `distribution` compares with images of other layouts."""
    given = job.paths("layouts") if not job.paths("pool") else []
    real = {path.resolve() for path in job.paths("real")}
    if given and {path.resolve() for path in given} <= real:
        return ()
    return (
        "reward distribution: the layouts are not those of --real, so it also measures how they "
        "differ from these, which no image can mend",
    )


def _checkpoint(job: Job) -> Path:
    references = job.paths("checkpoint")
    if len(references) != 1:
        raise UsageError(
            f"rl-tune needs one checkpoint, got {len(references)}",
            hint="rsgen rl-tune CHECKPOINT --pool POOL --out OUT",
        )
    folder = model_folder(ModelRef.parse(str(references[0])))
    if not (folder / "model_index.json").is_file():
        raise UsageError(
            f"{folder} is no whole model: rl-tune goes on from one with a layout branch",
            hint="give the OUT of rsgen train, or the merged model OUT/model of rl-tune",
        )
    return folder


def _default_reward(judge: str) -> RewardConfig:
    return RewardConfig(reward=DEFAULT_DETECTOR if judge else DEFAULT_BLIND)
