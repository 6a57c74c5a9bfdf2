"""New images, and which of them are kept: generate and filter."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from rsgen.settings.base import Rate, Section

__all__ = [
    "FilterConfig",
    "GenerateConfig",
    "RuleConfig",
]


class GenerateConfig(Section):
    """Layouts -> images."""

    count: int | None = Field(
        None, ge=1, description="how many images (default: 64 from a pool, else every layout's)"
    )
    base: str | None = Field(None, description="base model of a bare ControlNet")
    per_layout: int = Field(1, ge=1, description="images a given layout")
    layout_splits: tuple[str, ...] = Field(
        ("train",), description="splits whose layouts may be used (others are left out)"
    )
    per_class: dict[str, int] = Field(
        default_factory=dict, description="objects wanted by class: ship=500"
    )
    empty: Rate = Field(0.0, description="share of images without objects")
    templates: tuple[str, ...] = Field((), description="layout templates (default: by class)")
    mode: Literal["resample", "perturb"] = Field(
        "resample", description="what to do with given layouts"
    )
    prompt: str | None = Field(
        None,
        description="prompt with {classes}, {counts}, {scene}, {captions}; [parts] may be left "
        "out (default: as trained)",
    )
    negative_prompt: str = Field("", description="what to move away from")
    size: int | None = Field(None, ge=32, description="side in pixels (default: model's)")
    gsd_m: float | None = Field(None, gt=0, description="metres a pixel of the new images")
    scheduler: Literal["ddim", "unipc", "dpm++2m", "euler"] = Field(
        "ddim", description="diffusion sampler"
    )
    steps: int = Field(20, ge=1, le=1000, description="denoising steps")
    eta: Rate = Field(
        0.0, description="noise in ddim's steps, 0 to 1 (as rl_tune.eta, for a tuned checkpoint)"
    )
    window: tuple[Rate, Rate] = Field(
        (0.0, 1.0), description="share of the steps that eta is for: [0, 0.2] is the first fifth"
    )
    # layout_guidance 1 is what diffusers' pipeline does.
    text_guidance: float | None = Field(
        None,
        ge=0,
        description="classifier-free guidance on the prompt (default: 1.75, without captions 1)",
    )
    layout_guidance: float | None = Field(
        None,
        ge=0,
        description="guidance on the layout, 1: none (default: 1.75, without hint dropout 1)",
    )
    control_scale: float = Field(1.0, ge=0, description="weight of the ControlNet residuals")
    sensor_noise: Annotated[float, Field(ge=0, le=64)] | Literal["auto"] = Field(
        0.0,
        description="a camera's noise on the decoded images, in grey levels (0: none; auto: as "
        "much as the checkpoint's training images have)",
    )
    allow_same_source: bool = Field(
        False, description="let a sample reuse masks of the image whose layout it has"
    )
    condition: Literal["binary", "index", "classes"] | None = Field(
        None, description="encoding, for checkpoints without rsgen.json"
    )
    classes: str | None = Field(
        None,
        description="class list, for checkpoints without rsgen.json; the legend of layouts that "
        "are semantic masks",
    )
    class_map: dict[str, str] = Field(
        default_factory=dict,
        description="what the checkpoint calls your classes, in condition and prompt (labels keep "
        "your names): yours=its",
    )
    save_conditions: bool = Field(False, description="write a palette PNG beside each image")


class RuleConfig(Section):
    """A scorer with a bound: absolute (min, max), or a quantile of the real images' scores."""

    scorer: str = Field(description="name in the registry group scorers")
    name: str | None = Field(None, description="name in scores and reasons (default: the scorer's)")
    min: float | None = Field(None, description="least score")
    max: float | None = Field(None, description="greatest score")
    quantile: Rate | None = Field(None, description="least score, as a quantile over --real")
    at_most: float | None = Field(
        None, description="greatest lower bound that the quantile may set"
    )
    upper: Rate | None = Field(None, description="greatest score, as a quantile over --real")
    tolerate: Rate = Field(
        0.0, description="share of an image's objects that may fail before the image fails"
    )
    policy: Literal["reject", "drop", "difficult", "weight"] = Field(
        "reject",
        description="of object rules: reject the image beyond `tolerate`; or export the failing "
        "objects not at all or as difficult, and reject where all fail; of any rule: reject "
        "nothing, and give images and objects a weight in [0, 1]",
    )
    full: float | None = Field(
        None,
        description="policy weight: the score, or with `quantile` the quantile over --real "
        "(default 0.5), from which the weight is 1; it is 0 at min or `quantile`",
    )
    options: dict[str, Any] = Field(default_factory=dict, description="options of the scorer")


class FilterConfig(Section):
    """Scorers and rules -> verdicts."""

    rules: tuple[RuleConfig, ...] | None = Field(
        None, description="scorer, bound and options of each rule (default: by task and inputs)"
    )
    task: Literal["classification", "detection", "segmentation"] = Field(
        "detection", description="what the labels are for: chooses the default rules"
    )
    quotas: dict[str, Annotated[int, Field(ge=0)]] = Field(
        default_factory=dict,
        description="most objects by class; an image that would exceed one is dropped",
    )
    mask_quota: int | None = Field(
        None, ge=1, description="most kept objects that one mask of the pool may have given"
    )
    real_sample: int = Field(
        1000, ge=1, description="most real images scored for quantile bounds (a fair draw)"
    )
    fail_under: Rate | None = Field(None, description="exit 7 when fewer are kept (a share)")
    rescore: Literal["all", "none"] = Field(
        "all", description="none: only apply new thresholds to the scores of a filter run"
    )
    draw_audit: int | None = Field(
        None, ge=1, description="kept objects to draw for OUT/audit.csv, where people say right"
    )
    min_label_precision: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="least share of right labels among kept objects: with --audit a bound",
    )
    confidence: float = Field(
        0.9, gt=0, lt=1, description="how surely the bound of min_label_precision holds"
    )
