"""What learning from rewards gives: before and after, beside controls, one part changed at a time.

    python benchmarks/rl_tune.py --work rl-bench
    python benchmarks/rl_tune.py --work rl-bench --airports DIR --ships DIR [--judges DIR]

Every cell tunes tiny on layouts of training images for `--epochs` epochs of `--layouts` x
`--samples` images, with the guidances and the number of steps that its images are painted with
afterwards. Then it paints `--count` held layouts, which no tuning saw, `--paintings` times with
other noise; `rsgen evaluate` measures each painting (figures are their means) with judge B, which
no tuning saw either (judge A rewards). The weights of the last epoch are measured, whatever held
layouts say, so that a control chooses nothing. All images have `--size` 64 px: with few objects an
image a reward says more about each, and an image costs a quarter of one of 128 px. Sets are made
as in of_diff.py. --judges DIR: train-judge OUTs with both judges, DIR/scenes and so on, or judges
A alone in --judges-a.

- start: tiny as it ships.
- detector: IoU and confidence of judge A (I-DRUID's reward), groups of a layout as baseline.
- negated, shuffled: the same with the reward turned round, or dealt to other images.
- untuned: painted and rewarded alike, but the rate is next to nothing.
- free walk: Adam, four times the way an epoch, and a price of leaving the start that shrinks.
- object credit: each place of an image is praised for the objects there; otherwise for the whole
  image's reward.
- all steps: noise in every step, and all of them learned from; otherwise the first fifth.
- critic: PPO with a critic in place of the groups (one epoch more, in which it alone learns).
- detector + remask: and the IoU of asked masks and those found anew.
- distribution: OF-Diff's reward alone, with its cap, against the training images.
- detector + distribution.

Columns: judge A, start and end, on the tuning's own held layouts; reward, the mean of the epochs of
the second half (cells of one seed have the same layouts and noise in each epoch, so it is compared
with that of `untuned`); AP50 and recognised (right class
at IoU 0.5, all asked objects) by judge B, masks, count error and KD-judge on the layouts that are
measured; spread, the variance of judge B's features over that of training images, in the 32
directions in which those vary most (1: as varied as they are); minutes of the tuning.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from cells import (
    Cell,
    call,
    common_settings,
    report_figures,
    run_cells,
)
from of_diff import FIGURES as OF_DIFF_FIGURES
from of_diff import Ground, grounds, table_parser
from sets import held, judges

from rsgen.judge.model import load_judge
from rsgen.store import SampleRun, open_samples

NAMES = ("AP50", "AP50, real", "recognised", "masks", "count error", "KD", "KD floor", "images")
FIGURES = {name: OF_DIFF_FIGURES[name] for name in NAMES}
COLUMNS = ("epochs", "judge A, start", "judge A, end", "reward", *FIGURES, "spread", "minutes")
DETECTOR, REMASK, SPREAD = {"reward": "detector"}, {"reward": "remask"}, {"reward": "distribution"}
DIRECTIONS = 32
OTHER_NOISE = 1000  # added to the seed of each further painting
TUNING = ("epochs", "layouts", "samples", "held", "denoising_steps", "count", "scenes", "size")
FREE = {"optimizer": "adamw", "step_nats": 0.2, "beta": 0.01, "kl_target": "auto"}


@dataclass(frozen=True)
class Variant:
    """What a cell tunes with; `start` tunes nothing."""

    name: str
    rewards: tuple[Mapping[str, Any], ...] = (DETECTOR,)
    keys: Mapping[str, Any] = field(default_factory=dict)


VARIANTS = (
    Variant("start", ()),
    Variant("detector"),
    Variant("negated", keys={"control": "negated"}),
    Variant("shuffled", keys={"control": "shuffled"}),
    Variant("untuned", keys={"lr": 1e-12}),
    Variant("free walk", keys=FREE),
    Variant("object credit", keys={"credit": "objects"}),
    Variant("all steps", keys={"window": [0, 1]}),
    Variant("critic", keys={"algorithm": "ppo"}),
    Variant("detector + remask", (DETECTOR, REMASK)),
    Variant("distribution", (SPREAD,)),
    Variant("detector + distribution", (DETECTOR, {**SPREAD, "weight": 0.1})),
)


@dataclass(frozen=True)
class Trial:
    ground: Ground
    variant: Variant
    options: argparse.Namespace

    @property
    def common(self) -> tuple[str, ...]:
        dtype = f"execution.dtype={self.options.dtype}"
        return (*common_settings(self.options, self.ground.seed), dtype)

    @property
    def folder(self) -> Path:
        name = self.variant.name.replace(" + ", "-").replace(" ", "-")
        values = "-".join(str(getattr(self.options, key)) for key in TUNING)
        return self.ground.folder / f"{name}-{values}"

    def tuned(self) -> Path:
        options, ground = self.options, self.ground
        run = ground.run
        judge = judges(
            options.work, ground.name, options.judges_a or options.judges, ground.whole,
            options.judge_steps, options.threads, role="reward",
        )  # fmt: skip
        inputs: dict[str, Path | str] = {"checkpoint": "tiny", "layouts": run, "judge": judge}
        if SPREAD["reward"] in (row["reward"] for row in self.variant.rewards):
            inputs["real"] = run
        settings = {
            "rewards": list(self.variant.rewards),
            "epochs": options.epochs,
            "layouts": options.layouts,
            "samples": options.samples,
            "steps": options.denoising_steps,
            "size": options.size,
            "held_layouts": options.held,
            "evaluate_every": options.epochs,
            "paired_weight": 0,  # one part at a time: no anchor
            "gate": "none",
            "keep": "last",
            **self.variant.keys,
        }
        written = (f"rl_tune.{key}={json.dumps(value)}" for key, value in settings.items())
        return call("rl-tune", self.folder / "tuned", inputs, (*self.common, *written))

    def compute(self) -> dict[str, float | None]:
        tuned = self.tuned() if self.variant.rewards else None
        checkpoint = "tiny" if tuned is None else tuned / "model"
        paintings = [self.painted(checkpoint, k) for k in range(self.options.paintings)]
        found: dict[str, float | None] = {}
        for name in paintings[0]:
            values = [row[name] for row in paintings]
            known = [value for value in values if value is not None]
            found[name] = float(np.mean(known)) if len(known) == len(values) else None
        return found if tuned is None else {**found, **tuning_figures(tuned)}

    def painted(self, checkpoint: Path | str, number: int) -> dict[str, float | None]:
        """What judge B says of one painting of the held layouts."""
        options, ground = self.options, self.ground
        more = f"-{number}" if number else ""
        common = common_settings(options, ground.seed + OTHER_NOISE * number)
        images = call(
            "generate",
            self.folder / f"images{more}",
            {"checkpoint": checkpoint, "layouts": ground.run},
            (
                *common,
                f"execution.dtype={options.dtype}",
                f"generate.count={min(options.count, held(ground.run))}",
                "generate.layout_splits=[test]",
                f"generate.steps={options.denoising_steps}",
                f"generate.size={options.size}",
            ),
        )
        report = call(
            "evaluate",
            self.folder / f"report{more}",
            {"run": images, "real": ground.run, "judge": ground.judge},
            (*common, "evaluate.metrics=[layout,fidelity,shape,failures]"),
        )
        found: dict[str, float | None] = dict(report_figures(report, FIGURES))
        found["spread"] = spread(ground.judge, open_samples(images), open_samples(ground.run))
        return found


def tuning_figures(tuned: Path) -> dict[str, float]:
    """Judge A's score at the start and the end of a tuning, its reward, epochs and minutes."""
    lines = (tuned / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    summary = json.loads((tuned / "summary.json").read_text(encoding="utf-8"))
    looks = [row["held score"] for row in rows if "held score" in row]
    painted = [row["reward"] for row in rows if "reward" in row]
    return {
        "epochs": float(rows[-1]["epoch"]),
        "judge A, start": looks[0],
        "judge A, end": looks[-1],
        "reward": float(np.mean(painted[len(painted) // 2 :])),
        "minutes": summary["seconds"] / 60,
    }


def spread(judges_out: Path, made: SampleRun, real: SampleRun) -> float:
    """Variance of generated images over that of training images, in judge B's features."""
    judge = load_judge(judges_out, "evaluation")

    def features(run: SampleRun, split: str | None) -> np.ndarray[Any, np.dtype[np.float64]]:
        rows = [s for s in run if s.image is not None and split in (None, s.split)]
        pixels = [run.read_image(s) for s in rows]
        parts = [judge.features(np.stack(pixels[k : k + 16])) for k in range(0, len(pixels), 16)]
        return np.concatenate(parts).astype(np.float64)

    known = features(real, "train")
    values, vectors = np.linalg.eigh(np.cov(known.T))
    scale = vectors[:, -DIRECTIONS:] / np.sqrt(values[-DIRECTIONS:])
    return float(np.var((features(made, None) - known.mean(axis=0)) @ scale, axis=0).mean())


def request(options: argparse.Namespace) -> dict[str, Any]:
    """What all cells depend on."""
    return {key: getattr(options, key) for key in (*TUNING, "paintings")}


def main() -> None:
    parser = table_parser(__doc__)
    parser.set_defaults(count=240)  # images of 64 px hold a few objects each
    parser.add_argument("--judges-a", type=Path, help="train-judge OUTs of judges A alone")
    parser.add_argument("--epochs", type=int, default=12, help="of a tuning")
    parser.add_argument("--layouts", type=int, default=64, help="an epoch")
    parser.add_argument("--samples", type=int, default=4, help="images a layout")
    parser.add_argument("--held", type=int, default=64, help="layouts that judge A looks at")
    parser.add_argument("--paintings", type=int, default=3, help="of the measured layouts")
    parser.add_argument("--size", type=int, default=64, help="side of all images")
    options = parser.parse_args()
    cells = [
        Cell(ground.name, v.name, ground.seed, request(options), Trial(ground, v, options).compute)
        for v in VARIANTS
        for ground in grounds(options, options.size)
    ]
    run_cells(cells, options, COLUMNS, "learning from rewards, beside its controls", upright=True)


if __name__ == "__main__":
    main()
