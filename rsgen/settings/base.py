"""What every section is, and what all commands share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "ClassEntry",
    "ExecutionConfig",
    "Rate",
    "Section",
]


Rate = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """Unknown keys are errors; values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ClassEntry(Section):
    """One class of the table, in order."""

    name: str
    aliases: tuple[str, ...] = ()
    kind: Literal["thing", "stuff"] = "thing"
    symmetric: bool = False
    value: int | None = Field(None, ge=0, le=65535, description="its pixels in an index mask")
    color: tuple[int, int, int] | None = Field(None, description="its pixels in a colour mask")


class ExecutionConfig(Section):
    """Where and how a run computes; frozen in the plan at its first start."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where tensors live")
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="number type of the networks (auto: fp32 on CPU, bf16 on CUDA)"
    )
    batch_size: int | None = Field(
        None, ge=1, description="items a batch (default: by command and model)"
    )
    threads: int | None = Field(
        None, ge=1, description="torch threads a worker (default: 1; more cores: --workers)"
    )
    workers: int = Field(1, ge=1, description="processes on this machine")
    shard_size: int | None = Field(None, ge=1, description="items a part file")
    max_failure_rate: float = Field(
        0.05, ge=0, le=1, description="above this share of failed items the run exits 5"
    )
