"""One pydantic section a command, named like it; the only place where defaults live."""

from __future__ import annotations

from pydantic import Field

from rsgen.settings.base import ClassEntry, ExecutionConfig, Section
from rsgen.settings.learning import CompositionConfig, TrainConfig, TrainJudgeConfig
from rsgen.settings.made import FilterConfig, GenerateConfig, RuleConfig
from rsgen.settings.real import BuildMaskPoolConfig, ExtractMasksConfig, ScenesConfig
from rsgen.settings.results import EvaluateConfig, ExportConfig
from rsgen.settings.tuning import RewardConfig, RlTuneConfig

__all__ = [
    "BuildMaskPoolConfig",
    "ClassEntry",
    "CompositionConfig",
    "Config",
    "EvaluateConfig",
    "ExecutionConfig",
    "ExportConfig",
    "ExtractMasksConfig",
    "FilterConfig",
    "GenerateConfig",
    "RewardConfig",
    "RlTuneConfig",
    "RuleConfig",
    "ScenesConfig",
    "Section",
    "TrainConfig",
    "TrainJudgeConfig",
]


class Config(Section):
    """Everything a command may be told."""

    seed: int = Field(0, ge=0, description="all randomness follows from it")
    classes: tuple[ClassEntry, ...] | None = Field(None, description="class table, in order")
    on_finish: str | None = Field(
        None,
        description="shell command at the end, whatever it was: $RSGEN_SUMMARY (and $1) is the "
        "summary file",
    )
    on_finish_timeout_s: float = Field(600, gt=0, description="longest that on_finish may take")
    execution: ExecutionConfig = ExecutionConfig()
    scenes: ScenesConfig = ScenesConfig()
    extract_masks: ExtractMasksConfig = ExtractMasksConfig()
    build_mask_pool: BuildMaskPoolConfig = BuildMaskPoolConfig()
    train: TrainConfig = TrainConfig()
    train_judge: TrainJudgeConfig = TrainJudgeConfig()
    rl_tune: RlTuneConfig = RlTuneConfig()
    generate: GenerateConfig = GenerateConfig()
    filter: FilterConfig = FilterConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    export: ExportConfig = ExportConfig()
