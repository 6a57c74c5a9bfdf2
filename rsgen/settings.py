"""One pydantic section a command, named like it; the only place where defaults live."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

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
    "ScenesConfig",
    "Section",
    "TrainConfig",
    "TrainJudgeConfig",
]


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


class ScenesConfig(Section):
    """Procedural labelled scenes."""

    count: int = Field(200, ge=1, description="how many scenes")
    size: int = Field(256, ge=32, le=8192, description="side in pixels")
    style: Literal["default", "alt"] = Field("default", description="palette and texture set")
    types: tuple[str, ...] = Field((), description="scene types (default: all in turn)")
    gsd_m: float | None = Field(None, gt=0, description="metres a pixel (default: by scene)")


class ExtractMasksConfig(Section):
    """Labelled images in any format -> samples with one scored mask an instance."""

    format: str = Field("auto", description="input format (auto: by content)")
    backend: str = Field(
        "auto", description="auto (polygon where the label has a shape, else classical), or a name"
    )
    model: str | None = Field(
        None,
        description="model of backends sam (SAM, SAM 2) and text-prompted (CLIPSeg; SAM with a "
        "detector): a folder or hub:ORG/NAME",
    )
    detector: str | None = Field(
        None,
        description="text-prompted, SAM: zero-shot detector that makes loose boxes tight first "
        "(Grounding DINO, OWL-ViT): a folder or hub:ORG/NAME",
    )
    command: str | None = Field(
        None, description="backend worker: the program that makes masks, as 'python worker.py'"
    )
    command_limit_s: float = Field(
        300.0, gt=0, description="seconds the program may take for an image (5 times for the first)"
    )
    object_px: int = Field(
        96,
        ge=16,
        le=256,
        description="least long side of an object in SAM's input; more: finer masks, more crops",
    )
    classes: str | None = Field(None, description="class list file or template name")
    class_map: dict[str, str] = Field(
        default_factory=dict, description="rename classes on reading: their=ours"
    )
    gsd_m: float | None = Field(None, gt=0, description="metres a pixel of the input")
    min_area_px: int = Field(
        16, ge=1, description="semantic masks: least pixels of an object (a connected part)"
    )
    label_key: str | None = Field(
        None, description="property of vector labels that names the class (default: found)"
    )
    label_name: str | None = Field(
        None, description="class of features of vector labels that name none"
    )
    voc_base: Literal["auto", 0, 1] = Field(
        "auto", description="VOC boxes: 1 = pixels from 1 (VOC), 0 = edges from 0 (auto: by zeros)"
    )
    captions: str | None = Field(
        None,
        description="model that gives objects captions: CLIP or SigLIP, a folder or hub:ORG/NAME",
    )
    phrases: str = Field(
        "colours",
        description="candidate phrases of captions: a template's name or a YAML file",
    )
    tile: int | Literal["auto", "none"] = Field(
        "auto", description="tile side for large scenes (auto: 1024)"
    )
    tile_gap: int = Field(
        128, ge=0, description="overlap of neighbouring tiles in pixels (at most half a tile)"
    )
    tile_keep: float = Field(
        0.3, gt=0, le=1, description="least share of an object's area that a tile must hold"
    )
    overlay: int = Field(60, ge=0, description="pictures on the overlay page, worst first")
    license: str | None = Field(
        None, description="licence of images and labels (SPDX id or URL), for data set cards"
    )


class BuildMaskPoolConfig(Section):
    """Samples -> pool of instance shapes."""

    min_score: float = Field(0.25, ge=0, le=1, description="least mask score")
    min_area_px: int = Field(24, ge=1, description="least mask area in pixels")
    min_solidity: float = Field(0.35, ge=0, le=1, description="least area / convex hull area")
    max_hole_share: float = Field(0.25, ge=0, le=1, description="most holes / filled area")
    allow_truncated: bool = Field(False, description="keep objects cut by the border")
    allow_fallback: bool = Field(
        False, description="keep class-typical shapes that stand in for a mask (origin box)"
    )
    max_per_class: int = Field(20000, ge=1, description="cap a class (a fair draw by seed)")


Rate = Annotated[float, Field(ge=0, le=1)]


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
    save_conditions: bool = Field(False, description="write a palette PNG beside each image")


class RuleConfig(Section):
    """A scorer with a bound: absolute (min, max), or a quantile of the real images' scores."""

    scorer: str = Field(description="name in the registry group scorers")
    name: str | None = Field(None, description="name in scores and reasons (default: the scorer's)")
    min: float | None = Field(None, description="least score")
    max: float | None = Field(None, description="greatest score")
    quantile: Rate | None = Field(None, description="least score, as a quantile over --real")
    tolerate: Rate = Field(
        0.0, description="share of an image's objects that may fail before the image fails"
    )
    policy: Literal["reject", "drop", "difficult"] = Field(
        "reject",
        description="of object rules: reject the image beyond `tolerate`; or export the failing "
        "objects not at all or as difficult, and reject where all fail",
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


METRICS = (
    "layout",
    "fidelity",
    "classification",
    "shape",
    "suspicion",
    "copies",
    "failures",
)


class EvaluateConfig(Section):
    """Generated images against held real ones."""

    metrics: tuple[str, ...] = Field(
        METRICS, description="what to measure (downstream is asked for by name: it trains)"
    )
    features: str = Field(
        "judge",
        description="feature network of distances: judge, or a vision model such as CLIP",
    )
    detector: str = Field(
        "judge",
        description="who looks for objects: judge, a transformers detector (folder, hub:ORG/NAME) "
        "or 'command: PROGRAM'",
    )
    detector_limit_s: float = Field(60.0, gt=0, description="seconds a program may look")
    force_judge: bool = Field(False, description="measure with a judge made for rewards")
    downstream_steps: int = Field(400, ge=1, description="training steps of a downstream cell")
    downstream_seeds: int = Field(3, ge=1, description="repetitions of a downstream cell")
    downstream_ratios: tuple[float, ...] = Field(
        (0.5, 1.0), description="synthetic images a real one in downstream cells"
    )


class ExportConfig(Section):
    """Kept samples -> data sets on disk."""

    format: tuple[str, ...] = Field(("coco", "dota"), description="formats to write")
    split: str | None = Field(None, description="regroup by parent scene: 0.7/0.2/0.1")
    ratio: str | None = Field(None, description="real to synthetic, as 1:1 (with --with-real)")
    image_format: Literal["png", "jpg", "match-real"] = Field("png", description="image codec")
    jpg_quality: int = Field(92, ge=50, le=100, description="quality for jpg")
    include_unknown: bool = Field(False, description="export samples whose verdict is unknown")
    failed_objects: Literal["difficult", "keep", "drop"] = Field(
        "difficult",
        description="objects of kept images that failed a filter rule: mark, keep or leave out",
    )
    category_ids: str = Field("start=1", description="COCO ids: start=N or from=FILE")
    samples_per_shard: int = Field(1000, ge=1, description="samples a tar file of webdataset")


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
    generate: GenerateConfig = GenerateConfig()
    filter: FilterConfig = FilterConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    export: ExportConfig = ExportConfig()
