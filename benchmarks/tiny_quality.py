"""How good `tiny` is, as shipped, on layouts that it has not seen; and fine-tuned on real images.

    python benchmarks/tiny_quality.py --work tiny-bench
    python benchmarks/tiny_quality.py --work tiny-bench --airports DIR --ships DIR [--judges DIR]

Scenes: layouts of scenes of other seeds than those that tiny learned from, and layouts planned
from a pool of masks of such scenes; three seeds. Real folders: tiny is fine-tuned on 128 px windows
of the train split (`--steps`), and paints the layouts of the test split's windows, and layouts
planned from a pool of train masks; one seed. All figures are those of `rsgen evaluate` with
judge B:

- right class: share of asked objects found in the right class at IoU 0.5; real: the same judge's
  share of the labelled objects of held real images.
- AP, AP50: of the judge's detections against the asked layout (YOLOScore's form); real: on held
  real images; ratio: of the two.
- mask IoU: of asked masks and those that the classical backend finds anew in the pixels (a
  fall-back counts 0), mean of classes; real: of held real images, where their masks are not
  from that backend.
- count error: mean of |found - asked| / asked. axis: median error of the axis of slender objects.
- copies: generated images that are a training image to the eye; near: share that is nearer to a
  training image than 95 % of held real ones are (judge features; 0.05 is what new images have).
  On scenes the audit is against the first `--audit` of tiny's own training scenes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

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
from sets import held, judges, labelled, scenes, test_and_train, windows

TINY_SEED = 11  # of templates/pipelines/tiny-pretrain.yaml
SIZE = 128
WINDOWS = {"train": 4, "val": 2, "test": 8}
PRECISION = ("layout", "tables", "precision")
FIGURES = {
    "right class": ("layout", "figures", "recognised in the right class"),
    "right class, real": ("layout", "figures", "recognised, held real images"),
    "AP": (*PRECISION, "generated", "AP"),
    "AP, real": (*PRECISION, "real", "AP"),
    "AP50": ("layout", "figures", "AP50"),
    "AP50, real": ("layout", "figures", "AP50 of held real images"),
    "AP50 ratio": ("layout", "figures", "ratio to real"),
    "mask IoU": ("failures", "figures", "structural distortion"),
    "mask IoU, real": ("failures", "figures", "structural distortion, real"),
    "count error": ("layout", "figures", "count error"),
    "axis, degrees": ("layout", "figures", "axis error, degrees (median)"),
    "axis, degrees, real": ("layout", "tables", "poses", "real", "axis error, degrees (median)"),
    "copies": ("copies", "figures", "copies (correlation over 0.95)"),
    "near, judge": ("copies", "figures", "nearer than 95 % of held real images, judge"),
    "images": ("layout", "counts", "generated images"),
    "objects": ("layout", "counts", "generated objects"),
}
COLUMNS = ("steps", *(name for name in FIGURES if name != "images"), "AP ratio", "images")


@dataclass(frozen=True)
class Trial:
    """What one cell is measured on: opened when the cell is computed, not before."""

    folder: Path
    checkpoint: Callable[[], Path | str]
    real: Callable[[], Path]
    pool_of: Callable[[], Path]
    judge: Callable[[], Path]
    from_pool: bool
    seed: int
    steps: int
    options: argparse.Namespace

    def compute(self) -> dict[str, float | None]:
        options, real = self.options, self.real()
        common = common_settings(options, self.seed)
        layouts: dict[str, Path] = {"layouts": real}
        if self.from_pool:
            pool = call(
                "build-mask-pool", self.folder.parent / "pool", {"run": self.pool_of()}, common[:1]
            )
            layouts = {"pool": pool}
        count = options.count if self.from_pool else min(options.count, held(real))
        images = call(
            "generate",
            self.folder / "images",
            {"checkpoint": self.checkpoint(), **layouts},
            (
                *common,
                f"generate.count={count}",
                "generate.layout_splits=[test]",
                f"execution.dtype={options.dtype}",
            ),
        )
        report = call(
            "evaluate",
            self.folder / "report",
            {"run": images, "real": real, "judge": self.judge()},
            (*common, "evaluate.metrics=[layout,failures,copies]"),
        )
        figures = report_figures(report, FIGURES)
        made, ceiling = figures["AP"], figures["AP, real"]
        figures["AP ratio"] = made / ceiling if made is not None and ceiling else None
        return {"steps": float(self.steps), **figures}


def scene_cells(options: argparse.Namespace) -> list[Cell]:
    work = options.work

    def own() -> Path:
        return scenes(work, TINY_SEED, options.audit)

    def judge() -> Path:
        # where none is given it learns from scenes that neither tiny nor the tables know
        given = options.judges
        run = work if given is not None else scenes(work, 900, 600, 256)
        return judges(work, "scenes", given, run, options.judge_steps, options.threads)

    def real(seed: int) -> Path:
        name = f"real-{options.count}-{options.audit}"
        return test_and_train(folder(seed) / name, scenes(work, seed, options.count), own())

    def folder(seed: int) -> Path:
        return Path(work / "scenes" / f"seed-{seed}")

    return [
        Cell(
            "scenes",
            kind,
            seed,
            request(options, 0),
            Trial(
                folder(seed) / kind.replace(" ", "-"),
                lambda: "tiny",
                partial(real, seed),
                partial(scenes, work, seed, options.count),
                judge,
                kind != "held layouts",
                seed,
                0,
                options,
            ).compute,
        )
        for seed in (901 + k for k in range(options.seeds))
        for kind in ("held layouts", "layouts from a pool")
    ]


def real_cells(options: argparse.Namespace, name: str, given: Path) -> list[Cell]:
    work, folder = options.work, options.work / name

    def whole() -> Path:
        return labelled(work, name, given)

    def parts() -> Path:
        return windows(folder / "windows", whole(), SIZE, WINDOWS)

    def judge() -> Path:
        return judges(work, name, options.judges, whole(), options.judge_steps, options.threads)

    def checkpoint() -> Path:
        return call(
            "train",
            folder / f"tuned-{options.steps}",
            {"run": parts()},  # from tiny
            (
                f"train.max_steps={options.steps}",
                f"execution.threads={options.threads}",
                f"execution.dtype={options.dtype}",
                f"execution.device={options.device}",
                "train.checkpoint_every=50",
            ),
        )

    return [
        Cell(
            name,
            kind,
            0,
            request(options, options.steps),
            Trial(
                folder / f"{kind.replace(' ', '-')}-{options.steps}",
                checkpoint,
                parts,
                parts,
                judge,
                kind != "held layouts",
                0,
                options.steps,
                options,
            ).compute,
        )
        for kind in ("held layouts", "layouts from a pool")
    ]


def request(options: argparse.Namespace, steps: int) -> dict[str, Any]:
    """What a cell depends on beside its name and seed."""
    return {"count": options.count, "audit": options.audit, "steps": steps}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_options(parser)
    add_set_options(parser)
    parser.add_argument("--count", type=int, default=100, help="images a cell")
    parser.add_argument("--steps", type=int, default=300, help="of fine-tuning on real images")
    parser.add_argument("--audit", type=int, default=1500, help="training scenes of the copy audit")
    options = parser.parse_args()
    cells = scene_cells(options)
    for name, given in given_sets(options).items():
        cells += real_cells(options, name, given)
    run_cells(cells, options, COLUMNS, "tiny on layouts that it has not seen", upright=True)


if __name__ == "__main__":
    main()
