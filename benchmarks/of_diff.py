"""What each part of OF-Diff gives: one part changed at a time, at equal steps.

    python benchmarks/of_diff.py --work of-diff-bench
    python benchmarks/of_diff.py --work of-diff-bench --airports DIR --ships DIR [--judges DIR]

Every cell with condition classes starts from tiny as it ships, which knows that encoding from
shape masks of other scenes (that may favour masks over boxes). A start without layout branch, or
with a new hint network, paints blobs after the few hundred steps that two cores allow; encodings
can only be compared so, and that pair of cells says "new" and starts from tiny with a new hint
network (random weights, zero at its end). The layout branch and the UNet's decoder learn,
`--steps` steps of 8, on procedural scenes (three seeds) or on 128 px windows of real folders (one
seed). Each model then paints `--count` layouts of held images (or as many as there are), which no
training saw, and `rsgen evaluate` measures them with judge B.

- baseline: method of-diff (lambda 1), condition classes, shape masks, captions that name
  the classes, text and layout guidance 1.5.
- boxes only: the layouts have no masks, in training and in generating; measured against the
  masks all the same.
- L_c off: of-diff with lambda 0: images still train the layout branch that both hints share,
  but nothing asks the student to follow the branch that sees them. plain: no second branch, the
  same steps (0.56 of the time).
- new, classes and new, binary: the two encodings, each with a new hint network.
- text 1, text 3, layout 1, layout 3: the baseline's checkpoint, painted with another guidance.
- captions none, captions full: trained and painted without captions, or with counts and
  scene type. Both guidances are equal in every cell, so the layout is followed with the same
  strength: nothing + 1.5 x (layout and text - nothing).

Columns: AP50 and recognised (right class at IoU 0.5) of asked objects, beside the judge's
AP50 on held real images; shape: edge IoU with the asked outline, mean of classes, real: of real
images and theirs (scenes alone have masks that no backend made); masks: IoU of asked masks and
those found anew; count error; KD-judge at equal N, floor: of two halves of the real images.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from cells import (
    Cell,
    add_options,
    add_set_options,
    call,
    common_settings,
    given_sets,
    report_figures,
    run_cells,
)
from diffusers import ControlNetModel
from sets import bare, held, judges, labelled, scenes, test_and_train, windows, with_layouts

from rsgen.condition import ConditionEncoding
from rsgen.models.base import ModelRef, model_folder

SIZE = 128
WINDOWS = {"train": 4, "val": 2, "test": 8}
CLASSES = "A satellite image of {classes}"
FULL = "A satellite image of {counts}[, {scene}]"
FIGURES = {
    "AP50": ("layout", "figures", "AP50"),
    "AP50, real": ("layout", "figures", "AP50 of held real images"),
    "recognised": ("layout", "figures", "recognised in the right class"),
    "shape": ("shape", "figures", "IoU, asked outline"),
    "shape, real": ("shape", "figures", "IoU, real images and their outlines"),
    "masks": ("failures", "figures", "structural distortion"),
    "count error": ("layout", "figures", "count error"),
    "KD": ("fidelity", "figures", "KD-judge"),
    "KD floor": ("fidelity", "figures", "KD-judge, real to real"),
    "leakage": ("failures", "figures", "control leakage"),
    "images": ("layout", "counts", "generated images"),
}
COLUMNS = ("steps", *FIGURES)


@dataclass(frozen=True)
class Variant:
    """What differs from the baseline. `model` names the training: several variants may share it."""

    name: str
    model: str
    train: Mapping[str, Any] = field(default_factory=dict)
    boxes_only: bool = False
    new_hint: bool = False
    prompt: str = CLASSES
    text: float = 1.5
    layout: float = 1.5


VARIANTS = (
    Variant("baseline", "baseline"),
    Variant("boxes only", "boxes", boxes_only=True),
    Variant("L_c off", "no-distillation", {"distil_weight": 0.0}),
    Variant("plain", "plain", {"method": "plain"}),
    Variant("new, classes", "new-classes", new_hint=True),
    Variant("new, binary", "new-binary", {"condition": "binary"}, new_hint=True),
    Variant("text 1", "baseline", text=1.0),
    Variant("text 3", "baseline", text=3.0),
    Variant("layout 1", "baseline", layout=1.0),
    Variant("layout 3", "baseline", layout=3.0),
    Variant("captions none", "captions-none", prompt=""),
    Variant("captions full", "captions-full", prompt=FULL),
)


@dataclass(frozen=True)
class Ground:
    """A data set of one seed: what is learned from, what is held, and who looks."""

    name: str
    seed: int
    options: argparse.Namespace
    given: Path | None = None
    size: int = SIZE

    @property
    def folder(self) -> Path:
        name = f"seed-{self.seed}" if self.size == SIZE else f"seed-{self.seed}-{self.size}"
        return Path(self.options.work / self.name / name)

    @cached_property
    def run(self) -> Path:
        """Samples of one size with a train and a test split."""
        options = self.options
        if self.given is None:
            asked = scenes(options.work, 710 + self.seed, options.count, self.size)
            learned = scenes(options.work, 700 + self.seed, options.scenes, self.size)
            return test_and_train(self.folder / "real", asked, learned)
        return windows(self.folder / "real", self.whole, self.size, WINDOWS)

    @cached_property
    def whole(self) -> Path:
        """What the judge learns from."""
        if self.given is not None:
            return labelled(self.options.work, self.name, self.given)
        if self.options.judges is not None:
            return self.folder
        return scenes(self.options.work, 900, 600, 256)

    @cached_property
    def judge(self) -> Path:
        options = self.options
        steps = options.judge_steps
        return judges(options.work, self.name, options.judges, self.whole, steps, options.threads)


@dataclass(frozen=True)
class Trial:
    ground: Ground
    variant: Variant
    options: argparse.Namespace

    @property
    def common(self) -> tuple[str, ...]:
        return common_settings(self.options, self.ground.seed)

    def layouts(self) -> Path:
        ground = self.ground
        return bare(ground.folder / "boxes", ground.run) if self.variant.boxes_only else ground.run

    def start(self) -> Path:
        if not self.variant.new_hint:
            return model_folder(ModelRef.parse("tiny"))
        encoding = str(self.variant.train.get("condition", "classes"))
        channels = ConditionEncoding(encoding).channels  # type: ignore[arg-type]
        return start(self.options.work / f"start-{channels}", channels)

    def checkpoint(self) -> Path:
        options, variant = self.options, self.variant
        settings = {
            "max_steps": options.steps,
            "lr": options.new_lr if variant.new_hint else options.lr,
            "unet": options.unet,
            "method": "of-diff",
            "ema_decay": 0.98,
            "views": 1,
            "photometry": 0.0,
            "object_weight": 3.0,
            "hint_dropout": 0.1,
            "checkpoint_every": 50,
            "prompt": variant.prompt,
            **variant.train,
        }
        return call(
            "train",
            self.ground.folder / f"{variant.model}-{digest(request(options))}",
            {"run": self.layouts(), "base": self.start()},
            (
                *self.common,
                f"execution.dtype={options.dtype}",
                "execution.batch_size=8",
                *(f"train.{key}={json.dumps(value)}" for key, value in settings.items()),
            ),
        )

    def compute(self) -> dict[str, float | None]:
        options, variant, ground = self.options, self.variant, self.ground
        folder = (
            ground.folder
            / f"{variant.name.replace(', ', '-').replace(' ', '-')}-{digest(request(options))}-out"
        )
        images = call(
            "generate",
            folder / "images",
            {"checkpoint": self.checkpoint(), "layouts": self.layouts()},
            (
                *self.common,
                f"generate.count={min(options.count, held(ground.run))}",
                "generate.layout_splits=[test]",
                f"generate.prompt={json.dumps(variant.prompt)}",
                f"generate.text_guidance={variant.text}",
                f"generate.layout_guidance={variant.layout}",
                f"generate.steps={options.denoising_steps}",
                f"execution.dtype={options.dtype}",
            ),
        )
        if variant.boxes_only:
            images = with_layouts(folder / "asked", images, ground.run)
        report = call(
            "evaluate",
            folder / "report",
            {"run": images, "real": ground.run, "judge": ground.judge},
            (*self.common, "evaluate.metrics=[layout,fidelity,shape,failures]"),
        )
        return {"steps": float(options.steps), **report_figures(report, FIGURES)}


def start(out: Path, channels: int) -> Path:
    """tiny with a layout branch whose hint network is new, for so many condition channels."""
    index = out / "model_index.json"
    if index.is_file():
        return out
    tiny = model_folder(ModelRef.parse("tiny"))
    # no rsgen.json: the slots of its encoding mean nothing to a new hint network
    left_out = shutil.ignore_patterns("controlnet", "rsgen.json", "training", index.name)
    shutil.copytree(tiny, out, ignore=left_out, dirs_exist_ok=True)
    network: Any = ControlNetModel
    own = network.from_pretrained(tiny / "controlnet")
    torch.manual_seed(0)
    new = network.from_config({**own.config, "conditioning_channels": channels})
    hint = "controlnet_cond_embedding."
    kept = {key: value for key, value in own.state_dict().items() if not key.startswith(hint)}
    kept |= {key: value for key, value in new.state_dict().items() if key.startswith(hint)}
    new.load_state_dict(kept)
    new.save_pretrained(out / "controlnet")
    shutil.copy(tiny / index.name, index)
    return out


def request(options: argparse.Namespace) -> dict[str, Any]:
    """What all cells depend on."""
    keys = ("steps", "lr", "new_lr", "unet", "count", "scenes", "denoising_steps")
    return {key: getattr(options, key) for key in keys}


def digest(row: Mapping[str, Any]) -> str:
    return "-".join(f"{value}" for value in row.values())


def table_parser(about: str | None) -> argparse.ArgumentParser:
    """The options of every table over the grounds: sets, judges, images a cell."""
    parser = argparse.ArgumentParser(description=(about or "").splitlines()[0])
    add_options(parser)
    add_set_options(parser)
    parser.add_argument("--count", type=int, default=80, help="images a cell")
    parser.add_argument("--denoising-steps", type=int, default=12, help="of each image")
    parser.add_argument("--scenes", type=int, default=500, help="scenes (80 %% are learned from)")
    return parser


def grounds(options: argparse.Namespace, size: int = SIZE) -> list[Ground]:
    """The scenes of every seed and the real sets, after the first seed.

    So a table that is cut short has some of each.
    """
    found = [Ground("scenes", seed, options, size=size) for seed in range(options.seeds)]
    for name, given in given_sets(options).items():
        found.insert(1, Ground(name, 0, options, given, size))
    return found


def main() -> None:
    parser = table_parser(__doc__)
    parser.add_argument("--steps", type=int, default=300, help="optimiser steps a training")
    parser.add_argument("--lr", type=float, default=3e-4, help="peak learning rate from tiny")
    parser.add_argument("--new-lr", type=float, default=1e-3, help="with a new hint network")
    parser.add_argument("--unet", default="decoder", help="UNet weights that learn")
    options = parser.parse_args()
    cells = [
        Cell(ground.name, v.name, ground.seed, request(options), Trial(ground, v, options).compute)
        for ground in grounds(options)
        for v in VARIANTS
    ]
    run_cells(cells, options, COLUMNS, "one part changed at a time, at equal steps")


if __name__ == "__main__":
    main()
