"""End-to-end `generate` against the bare denoising loop, on one model.

    python benchmarks/generate.py CHECKPOINT POOL [--count 64] [--steps 20] [--batch-size 8]

Both run in this process, alternating, one thread; the ratio of the two is the figure that
means something on a shared machine. The bare loop makes the network calls alone: no layouts,
no conditions, no decoding, no PNG, no records.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from rsgen.config import load_config
from rsgen.execution import run_stage
from rsgen.models.base import ModelRef, load_model, model_folder, read_card
from rsgen.models.sampling import SamplingSettings, draw_noise, sample
from rsgen.runs import Job


def bare_loop(folder: Path, count: int, steps: int, batch: int, side: int) -> float:
    """Seconds of the network calls for `count` images."""
    model = load_model(folder, base=folder, device="cpu", dtype="fp32", inference=True)
    shape = (model.latent_channels, side // model.factor, side // model.factor)
    channels = model.condition_channels
    card = read_card(folder)
    assert card is not None, "a checkpoint with rsgen.json"
    channels = card.encoding().channels
    condition = torch.zeros(batch, channels, side, side)
    text = model.encode_prompts(["a satellite image of plane"] * batch)
    negative = model.encode_prompts([""] * batch)
    settings = SamplingSettings("ddim", steps, 1.75, 1.75, 1.0)
    start = time.perf_counter()
    with torch.inference_mode():
        for first in range(0, count, batch):
            n = min(batch, count - first)
            sample(
                model,
                noise=draw_noise(range(first, first + n), shape),
                text=text[:n],
                negative=negative[:n],
                condition=condition[:n],
                settings=settings,
            )
    return time.perf_counter() - start


def end_to_end(folder: Path, pool: Path, count: int, steps: int, batch: int) -> float:
    """Seconds of a whole generate run: model loading, layouts, images, records, manifest."""
    options = [
        ("generate.count", count),
        ("generate.steps", steps),
        ("execution.batch_size", batch),
        ("execution.shard_size", count),
    ]
    with tempfile.TemporaryDirectory() as scratch:
        job = Job(
            "generate",
            load_config(options=options, environ={}),
            Path(scratch) / "out",
            inputs={"checkpoint": [folder], "pool": [pool]},
        )
        start = time.perf_counter()
        run_stage(job)
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", help="a model folder, a train OUT, or tiny")
    parser.add_argument("pool", type=Path, help="build-mask-pool OUT")
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--side", type=int, default=128, help="the model's image size")
    parser.add_argument("--repeat", type=int, default=3)
    a = parser.parse_args()
    torch.set_num_threads(1)
    folder = model_folder(ModelRef.parse(a.checkpoint))
    ratios = []
    for _ in range(a.repeat):
        bare = bare_loop(folder, a.count, a.steps, a.batch_size, a.side)
        whole = end_to_end(folder, a.pool, a.count, a.steps, a.batch_size)
        ratios.append(whole / bare)
        print(
            f"bare {a.count / bare:6.2f} images/s   end to end {a.count / whole:6.2f} images/s   "
            f"ratio {whole / bare:.2f}"
        )
    print(f"median ratio {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
