"""What composed images (`train.batch: cf-comp`) give: on and off, part by part, at equal steps.

    python benchmarks/cf_comp.py --work cf-comp-bench
    python benchmarks/cf_comp.py --work cf-comp-bench --airports DIR --ships DIR [--judges DIR]

Every cell starts from tiny as it ships; the layout branch and the UNet's decoder learn `--steps`
steps of 8 real images, on procedural scenes (three seeds) or on 128 px windows of real folders
(one seed). Each model then paints `--count` layouts of held images, which no training saw, and
`rsgen evaluate` measures them with judge B. Sets, held layouts and judges are those of of_diff.py:
in the same --work they are made once.

- off: plain batches of 8.
- off, 12: plain batches of 12, as many images a step as 8 and the 4 composites that may join them.
- CF-Comp: composites and the loss over the foreground, as `rsgen train -c cf-comp` has it.
- composites: without that loss. local loss: with it, without composites.
- CF-Comp, balance: rare classes are drawn more often as well (train.class_balance 0.5).

Columns: recognised (right class at IoU 0.5, all asked objects) and AP50 (mean of classes), beside
the judge's AP50 on held real images; masks: IoU of asked masks and those found anew; count error;
KD-judge. What was learned from: share of composites; even, the number of classes that equally many
objects of each would be (exp of the entropy of their shares); rarest, objects of the rarest class
in a thousand. Plain batches learn from the set as it is.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cells import (
    Cell,
    call,
    common_settings,
    report_figures,
    run_cells,
)
from of_diff import CLASSES, Ground, grounds, table_parser
from sets import held

from rsgen.models.base import ModelRef, model_folder
from rsgen.store import open_samples

FIGURES = {
    "recognised": ("layout", "figures", "recognised in the right class"),
    "AP50": ("layout", "figures", "AP50"),
    "AP50, real": ("layout", "figures", "AP50 of held real images"),
    "masks": ("failures", "figures", "structural distortion"),
    "count error": ("layout", "figures", "count error"),
    "KD": ("fidelity", "figures", "KD-judge"),
    "images": ("layout", "counts", "generated images"),
}
COLUMNS = ("steps", *FIGURES, "share", "even", "rarest")
COMPOSED = {"batch": "cf-comp"}


@dataclass(frozen=True)
class Variant:
    """What differs from plain batches."""

    name: str
    train: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 8


VARIANTS = (
    Variant("off"),
    Variant("CF-Comp", COMPOSED),
    Variant("off, 12", batch_size=12),
    Variant("composites", {**COMPOSED, "local_loss": 0.0}),
    Variant("local loss", {"local_loss": 1.0}),
    Variant("CF-Comp, balance", {**COMPOSED, "class_balance": 0.5}),
)


@dataclass(frozen=True)
class Trial:
    ground: Ground
    variant: Variant
    options: argparse.Namespace

    def compute(self) -> dict[str, float | None]:
        options, ground = self.options, self.ground
        common = (
            *common_settings(options, ground.seed),
            f"execution.dtype={options.dtype}",
        )
        name = re.sub("[ ,]+", "-", self.variant.name)
        folder = ground.folder / f"cf-comp-{name}-{digest(options)}"
        model = self.checkpoint(folder / "model", common)
        images = call(
            "generate",
            folder / "images",
            {"checkpoint": model, "layouts": ground.run},
            (
                *common,
                f"generate.count={min(options.count, held(ground.run))}",
                "generate.layout_splits=[test]",
                "generate.text_guidance=1.5",
                "generate.layout_guidance=1.5",
                f"generate.steps={options.denoising_steps}",
            ),
        )
        report = call(
            "evaluate",
            folder / "report",
            {"run": images, "real": ground.run, "judge": ground.judge},
            (*common_settings(options, ground.seed), "evaluate.metrics=[layout,fidelity,failures]"),
        )
        found = report_figures(report, FIGURES)
        return {"steps": float(options.steps), **found, **learned(model, ground.run)}

    def checkpoint(self, out: Path, common: Iterable[str]) -> Path:
        settings = {
            "max_steps": self.options.steps,
            "lr": self.options.lr,
            "unet": self.options.unet,
            "ema_decay": 0.98,
            "views": 1,
            "photometry": 0.0,
            "hint_dropout": 0.1,
            "checkpoint_every": 50,
            "validation_samples": 0,
            "prompt": CLASSES,
            **self.variant.train,
        }
        return call(
            "train",
            out,
            {"run": self.ground.run, "base": model_folder(ModelRef.parse("tiny"))},
            (
                *common,
                f"execution.batch_size={self.variant.batch_size}",
                *(f"train.{key}={json.dumps(value)}" for key, value in settings.items()),
            ),
        )


def learned(model: Path, run: Path) -> dict[str, float | None]:
    """What a training learned from: as it logged it, or for plain batches as the set has it."""
    samples = open_samples(run)
    things = {c.name for c in samples.classes.classes if c.kind == "thing"}
    names = {c.name for c in samples.classes.classes}
    notes = [row["text"] for row in events(model) if row["kind"] == "note"]
    composed = next((t for t in notes if t.startswith("objects in composites: ")), "")
    drawn = next((t for t in notes if "; objects in real samples: " in t), None)
    objects: Counter[str] = Counter()
    share = 0.0
    if drawn is None:
        for sample in samples:
            if sample.split == "train":
                objects.update(i.label for i in sample.layout.instances)
    else:
        found = re.search(r": (\d+) real samples(?: and (\d+) composites)?", drawn)
        assert found is not None, drawn
        real, made = (int(n or 0) for n in found.groups())
        share = made / (real + made)
        for text in (drawn, composed):
            for part in text.rpartition(": ")[2].split(", "):
                name, _, number = part.rpartition(" ")
                if name in names:
                    objects[name] += int(number)
    counts = [objects[name] for name in things if objects[name]]
    total = sum(counts)
    entropy = -sum(n / total * math.log(n / total) for n in counts)
    return {
        "share": share,
        "even": math.exp(entropy),
        "rarest": 1000 * min(counts) / total,
    }


def events(run: Path) -> list[dict[str, Any]]:
    lines = (run / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def request(options: argparse.Namespace) -> dict[str, Any]:
    """What all cells depend on."""
    keys = ("steps", "lr", "unet", "count", "scenes", "denoising_steps")
    return {key: getattr(options, key) for key in keys}


def digest(options: argparse.Namespace) -> str:
    return "-".join(f"{value}" for value in request(options).values())


def main() -> None:
    parser = table_parser(__doc__)
    parser.add_argument("--steps", type=int, default=200, help="optimiser steps a training")
    parser.add_argument("--lr", type=float, default=3e-4, help="peak learning rate from tiny")
    parser.add_argument("--unet", default="decoder", help="UNet weights that learn")
    options = parser.parse_args()
    # the first two columns of every set before the parts of any
    order = [
        (g, v) for some in (VARIANTS[:2], VARIANTS[2:]) for g in grounds(options) for v in some
    ]
    cells = [
        Cell(g.name, v.name, g.seed, request(options), Trial(g, v, options).compute)
        for g, v in order
    ]
    run_cells(cells, options, COLUMNS, "composed images on and off, at equal steps")


if __name__ == "__main__":
    main()
