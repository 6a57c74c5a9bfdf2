"""The commands: their arguments and their options.

What a line then calls is in calls.py, the lines shown as examples in examples.py.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from .calls import Call, job_call, run_call
from .examples import EXAMPLES
from .options import EXECUTION, ConfigOption

__all__ = ["COMMANDS", "CommandSpec"]


@dataclass(frozen=True)
class CommandSpec:
    name: str
    help: str
    arguments: Sequence[inspect.Parameter]
    options: Sequence[ConfigOption]
    call: Call

    @property
    def example(self) -> str:
        """Example lines for the end of the help text."""
        return "\b\n" + "\n".join(["Examples:", *(f"  rsgen {e}" for e in EXAMPLES[self.name])])


def _positional(name: str, kind: Any, help_text: str, default: Any = ...) -> inspect.Parameter:
    required = inspect.Parameter.empty if default is ... else default
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=required,
        annotation=Annotated[
            kind, typer.Argument(help=help_text, show_default=False, metavar=name.upper())
        ],
    )


def _option(
    name: str, kind: Any, flag: str, help_text: str, metavar: str = "PATH"
) -> inspect.Parameter:
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[
            kind | None,
            typer.Option(flag, help=help_text, metavar=metavar),
        ],
    )


def _spec(
    name: str,
    text: str,
    arguments: Sequence[tuple[inspect.Parameter, str]] = (),
    options: Sequence[ConfigOption] = (),
) -> CommandSpec:
    inputs = {parameter.name: input_name for parameter, input_name in arguments if input_name}
    flags = {option.key: option.flag for option in (*options, *EXECUTION)}
    call = job_call(name, inputs, flags)
    return CommandSpec(name, text, [p for p, _ in arguments], options, call)


O = ConfigOption  # noqa: E741 - a short name keeps the table readable

COMMANDS: tuple[CommandSpec, ...] = (
    _spec(
        "scenes",
        "Make procedural labelled overhead scenes: sample data to try everything on.",
        options=[
            O("--count", "scenes.count", int),
            O("--size", "scenes.size", int),
            O("--style", "scenes.style"),
            O("--types", "scenes.types", shape="list"),
            O("--gsd", "scenes.gsd_m", float),
        ],
    ),
    _spec(
        "extract-masks",
        "Read labelled images in any format and give every instance one scored mask.",
        [
            (_positional("dataset", list[Path], "Folder, label file, or a sample run"), "dataset"),
            (_option("images", Path, "--images", "Images, when they lie elsewhere"), "images"),
            (_option("labels", Path, "--labels", "Labels, when they lie elsewhere"), "labels"),
            (
                _option(
                    "corrections",
                    Path,
                    "--corrections",
                    "Labels mended by hand (labelme, COCO ...): an image found there gets its "
                    "labels from there; headings and attributes of objects that are still there "
                    "are kept, missing ones are deleted, other images stay as they are",
                ),
                "corrections",
            ),
        ],
        [
            O("--format", "extract_masks.format", group="formats", use="read"),
            O("--backend", "extract_masks.backend", group="mask_backends"),
            O("--model", "extract_masks.model"),
            O("--detector", "extract_masks.detector"),
            O("--command", "extract_masks.command"),
            O("--classes", "extract_masks.classes"),
            O("--class-map", "extract_masks.class_map", shape="pairs"),
            O("--gsd", "extract_masks.gsd_m", float),
            O("--tile", "extract_masks.tile"),
        ],
    ),
    _spec(
        "build-mask-pool",
        "Collect good instance shapes, in one pose, for placing them anew.",
        [(_positional("run", list[Path], "Sample runs (extract-masks OUT)"), "run")],
        [O("--max-per-class", "build_mask_pool.max_per_class", int)],
    ),
    _spec(
        "train",
        "Teach a diffusion model to paint layouts: ControlNet, base, or autoencoder.",
        [(_positional("run", Path, "A sample run; only its train split is used"), "run")],
        [
            O("--base", "train.base"),
            O("--task", "train.task"),
            O("--init-from", "train.init_from"),
            O("--steps", "train.max_steps"),
            O("--method", "train.method"),
            O("--unet", "train.unet"),
            O("--condition", "train.condition"),
            O("--size", "train.size", int),
            O("--lr", "train.lr"),
        ],
    ),
    _spec(
        "train-judge",
        "Train two detectors on the images: A for filters and rewards, B to measure with.",
        [(_positional("run", Path, "A sample run; its train split, val for the report"), "run")],
        [
            O("--steps", "train_judge.max_steps"),
            O("--size", "train_judge.size", int),
            O("--lr", "train_judge.lr", float),
            O("--judges", "train_judge.judges"),
        ],
    ),
    _spec(
        "rl-tune",
        "Teach a checkpoint by rewards on images that it paints itself; layouts suffice.",
        [
            (_positional("checkpoint", str, "train OUT, a model folder, or tiny"), "checkpoint"),
            (_option("pool", Path, "--pool", "build-mask-pool OUT: new layouts"), "pool"),
            (
                _option("layouts", Path, "--layouts", "A sample run, or labels in any format"),
                "layouts",
            ),
            (
                _option(
                    "real",
                    Path,
                    "--real",
                    "Real images (a sample run): keep the model close to them, and what rewards "
                    "compare with",
                ),
                "real",
            ),
            (
                _option("judge", Path, "--judge", "train-judge OUT: A rewards, B measures once"),
                "judge",
            ),
        ],
        [
            O("--reward", "rl_tune.rewards", shape="weights", group="rewards"),
            O("--class-map", "rl_tune.class_map", shape="pairs"),
            O("--algorithm", "rl_tune.algorithm"),
            O("--epochs", "rl_tune.epochs", int),
            O("--learn", "rl_tune.learn"),
            O("--lr", "rl_tune.lr"),
            O("--steps", "rl_tune.steps", int),
            O("--size", "rl_tune.size", int),
            O("--control", "rl_tune.control"),
            O("--gate", "rl_tune.gate"),
        ],
    ),
    _spec(
        "generate",
        "Make new images from a mask pool with layout templates, or from given layouts.",
        [
            (
                _positional("checkpoint", str, "train OUT, a model folder, a ControlNet, or tiny"),
                "checkpoint",
            ),
            (_option("pool", Path, "--pool", "build-mask-pool OUT"), "pool"),
            (
                _option("layouts", Path, "--layouts", "A sample run, or labels in any format"),
                "layouts",
            ),
            (
                _option(
                    "series",
                    str,
                    "--series",
                    "New images each time, in OUT/NAME-0001 and on",
                    "NAME",
                ),
                "",
            ),
        ],
        [
            O("--count", "generate.count", int),
            O("--base", "generate.base"),
            O("--per-layout", "generate.per_layout", int),
            O("--per-class", "generate.per_class", shape="pairs"),
            O("--class-map", "generate.class_map", shape="pairs"),
            O("--empty", "generate.empty", float),
            O("--size", "generate.size", int),
            O("--scheduler", "generate.scheduler"),
            O("--steps", "generate.steps", int),
            O("--text-guidance", "generate.text_guidance", float),
            O("--layout-guidance", "generate.layout_guidance", float),
        ],
    ),
    _spec(
        "filter",
        "Score every image and instance, and say keep or drop, with reasons. Deletes nothing.",
        [
            (_positional("run", Path, "generate OUT, or an older filter OUT"), "run"),
            (_option("real", Path, "--real", "Real samples, for quantile thresholds"), "real"),
            (
                _option("checkpoint", str, "--model", "Its autoencoder finds near-duplicates"),
                "checkpoint",
            ),
            (
                _option("judge", Path, "--judge", "train-judge OUT; judge A looks for the objects"),
                "judge",
            ),
            (_option("clip", str, "--clip", "CLIP or kin, compares images with words"), "clip"),
            (_option("audit", Path, "--audit", "audit.csv with every verdict filled in"), "audit"),
        ],
        [
            O("--fail-under", "filter.fail_under", float),
            O("--rescore", "filter.rescore"),
            O("--task", "filter.task"),
            O("--draw-audit", "filter.draw_audit", int),
            O("--min-label-precision", "filter.min_label_precision", float),
            O("--confidence", "filter.confidence", float),
        ],
    ),
    _spec(
        "export",
        "Write kept samples as data sets for detectors, in any of the formats; each is verified.",
        [
            (_positional("run", list[Path], "Sample runs; filtered ones give kept samples"), "run"),
            (_option("with_real", Path, "--with-real", "Add real samples from this run"), "real"),
        ],
        [
            O("--format", "export.format", shape="list", group="formats", use="written"),
            O("--split", "export.split"),
            O("--ratio", "export.ratio"),
            O("--image-format", "export.image_format"),
            O("--category-ids", "export.category_ids"),
        ],
    ),
    _spec(
        "evaluate",
        "Measure generated images against held real ones, with judge B; figures and a page.",
        [
            (_positional("run", Path, "generate OUT, or filter OUT: kept samples"), "run"),
            (_option("real", Path, "--real", "Real samples; their test split measures"), "real"),
            (_option("judge", Path, "--judge", "train-judge OUT"), "judge"),
            (_option("against", Path, "--against", "An earlier evaluate OUT"), "against"),
        ],
        [
            O("--metrics", "evaluate.metrics", shape="list"),
            O("--features", "evaluate.features"),
        ],
    ),
    CommandSpec(
        "run",
        "Run a pipeline of stages, each in its own folder; only what changed is run again.",
        [
            _positional("pipeline", str, "YAML file or template (quickstart)"),
            _option("work", Path, "--work", "Folder of the stages' folders"),
            _option("from_stage", str, "--from", "First stage to run", "STAGE"),
            _option("until_stage", str, "--until", "Last stage to run", "STAGE"),
            _option(
                "series",
                str,
                "--series",
                "New images each time, in DIR/NAME-0001 and on; exports hold all so far",
                "NAME",
            ),
        ],
        [],
        run_call,
    ),
)
