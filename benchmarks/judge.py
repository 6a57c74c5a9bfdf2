"""What judge B reaches on procedural scenes from another seed, after a step budget.

600 scenes at 256 px are made, all of them for learning: no val and test split, for what measures
is of another seed. The judge learns from its share of them (the other judge's half and the
calibration scenes are not its own) and is measured on 300 scenes of the other seed. AP50 is
pycocotools' over the thing classes, upright boxes; the worst class is printed. An untrained judge
of the same shape is the floor.

    python benchmarks/judge.py --work judge-bench --steps 1200

Everything is kept in the work folder: the same line goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from rsgen.config import load_config, parse_pairs
from rsgen.execution import run_stage
from rsgen.judge.model import Judge, load_judge
from rsgen.judge.network import JudgeNetwork
from rsgen.judge.report import judge_report, look
from rsgen.runs import Job
from rsgen.store import SampleRun, is_committed, open_samples
from rsgen.train_judge import train_judge


def scenes(out: Path, count: int, size: int, seed: int) -> SampleRun:
    pairs = [
        f"seed={seed}", f"scenes.count={count}", f"scenes.size={size}", "scenes.held_out=false",
    ]  # fmt: skip
    if not is_committed(out):
        run_stage(Job("scenes", load_config(settings=parse_pairs(pairs)), out))
    return open_samples(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for everything")
    parser.add_argument("--count", type=int, default=600, help="scenes to learn from")
    parser.add_argument("--held", type=int, default=300, help="scenes to measure on")
    parser.add_argument("--size", type=int, default=256, help="side in pixels")
    parser.add_argument("--steps", type=int, default=1200, help="optimiser steps")
    parser.add_argument("--dtype", default="bf16", help="number type (bf16 where the CPU has it)")
    parser.add_argument("--threads", type=int, default=2, help="torch threads")
    arguments = parser.parse_args()
    run = scenes(arguments.work / "scenes", arguments.count, arguments.size, 31)
    held = scenes(arguments.work / "held", arguments.held, arguments.size, 32)
    out = arguments.work / f"judges-{arguments.steps}"
    pairs = [
        f"train_judge.max_steps={arguments.steps}",
        "train_judge.judges=evaluation",
        f"execution.dtype={arguments.dtype}",
        f"execution.threads={arguments.threads}",
    ]
    started, used = time.monotonic(), time.process_time()
    config = load_config(settings=parse_pairs(pairs))
    train_judge(Job("train-judge", config, out, {"run": [run.path]}))
    seconds, processor = time.monotonic() - started, time.process_time() - used
    torch.set_num_threads(arguments.threads)
    judge = load_judge(out, "evaluation")
    floor = Judge(JudgeNetwork(judge.card.shape), judge.card)
    for name, one in (("trained", judge), ("untrained", floor)):
        report = judge_report(one, look(one, held, held.read_image, held.classes, 0))
        figures = report["figures"]
        rows = {n: row["AP50"] for n, row in report["classes"].items()}
        worst = min(rows, key=lambda n: rows[n])
        print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in figures.items()))
        print(f"  worst class: {worst} {rows[worst]}; all: {rows}")
        print(f"  counts: {report['counts']}")
    print(f"{arguments.steps} steps: {seconds:.0f} s, {processor:.0f} s of CPU (0 when kept)")


if __name__ == "__main__":
    main()
