"""The train command on very small networks of the real classes."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rsgen.condition import ConditionEncoding, encode
from rsgen.errors import DataError, GateMissed, Stopped, UsageError
from rsgen.models.base import load_model, read_card
from rsgen.models.stable_diffusion import StableDiffusion
from rsgen.records import ClassTable, ObjectClass
from rsgen.store import open_samples
from rsgen.train import train
from rsgen.training import loop
from rsgen.training.validation import check_copies
from tests.build import CLASSES, layout, sample, sample_run
from tests.build_models import SIZE
from tests.build_training import STEPS, Told, history, splits, stop_later, train_job

job = partial(train_job, **{"train.crop": SIZE, "train.validation_samples": 2})


@pytest.mark.parametrize("task", ["autoencoder", "base", "controlnet"])
def test_each_task_leaves_a_checkpoint(tmp_path: Path, run: Path, base: Path, task: str) -> None:
    """Catches a task that saves the weights it started from, or no picture to look at."""
    reporter = Told()
    summary = train(job(tmp_path / "out", run, base, reporter, **{"train.task": task}))
    assert summary.exit_code == 0 and summary.counts["steps"] == STEPS
    model, before = load_model(tmp_path / "out"), load_model(base)
    assert isinstance(model, StableDiffusion) and isinstance(before, StableDiffusion)
    learned = {"autoencoder": "vae", "base": "unet", "controlnet": "controlnet"}[task]
    pairs = zip(
        model.networks()[learned].parameters(),
        before.networks()[learned].parameters(),
        strict=True,
    )
    assert any(not torch.equal(a, b) for a, b in pairs)
    assert (model.controlnet is not None) is (task == "controlnet")
    for name in ("loss.png", "model/README.md", "model/rsgen.json"):
        assert (tmp_path / "out" / name).is_file()
    assert any((tmp_path / "out" / "validation").glob("*.png"))
    assert any("GB and" in text for text in reporter.texts), "cost is said before the start"


def test_the_same_request_again_is_a_no_op(tmp_path: Path, run: Path, base: Path) -> None:
    """Catches a committed run that trains again."""
    first = train(job(tmp_path / "out", run, base))
    again = train(job(tmp_path / "out", run, base))
    assert (again.status, again.counts) == ("no-op", first.counts)


def test_an_interrupted_run_has_the_losses_of_an_uninterrupted_one(
    tmp_path: Path, run: Path, base: Path
) -> None:
    """Catches views, noise or levels that depend on how often the program was started."""
    whole = train(job(tmp_path / "whole", run, base))
    with pytest.raises(Stopped):
        train(job(tmp_path / "parts", run, base, control=stop_later(tmp_path / "parts")))
    parts = train(job(tmp_path / "parts", run, base))
    assert history(parts) == history(whole)
    weights = "model/controlnet/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "parts" / weights).read_bytes() == (
        tmp_path / "whole" / weights
    ).read_bytes()


def test_val_and_test_are_refused(tmp_path: Path, base: Path) -> None:
    """Catches a planted test image in a training batch."""
    rows = splits(3, "test", "val")
    built = sample_run(tmp_path / "run", rows)
    from rsgen.data import TrainingImages

    images = TrainingImages.from_runs([open_samples(built.path)], CLASSES)
    assert [s.split for s in images.samples] == ["train"] * 3
    assert images.refused == 2
    summary = train(job(tmp_path / "out", built.path, base))
    assert summary.counts["refused"] == 2


@pytest.mark.parametrize(
    ("rows", "keys", "error", "words"),
    [
        (splits(0, "test", "val"), {}, DataError, "none of 2 samples"),
        (splits(2), {"train.size": 96}, DataError, "smaller than 96"),
        (splits(2), {"execution.dtype": "fp16"}, UsageError, "fp16"),
        (splits(2), {"train.from_scratch": True}, UsageError, "from_scratch"),
    ],
    ids=["nothing to learn from", "images too small", "fp16 on a CPU", "unknown architecture"],
)
def test_what_cannot_be_trained_is_said(
    tmp_path: Path, base: Path, rows: Any, keys: dict[str, Any], error: Any, words: str
) -> None:
    """Catches a traceback where the user can mend the request."""
    built = sample_run(tmp_path / "run", rows)
    with pytest.raises(error, match=words):
        train(job(tmp_path / "out", built.path, base, **keys))


@pytest.mark.parametrize(
    ("mode", "moved"),
    [("frozen", set()), ("decoder", {"up_blocks", "conv_norm_out", "conv_out"}), ("full", None)],
)
def test_which_unet_weights_learn(
    tmp_path: Path, run: Path, base: Path, mode: str, moved: set[str] | None
) -> None:
    """Catches a UNet that learns though it should not, or the other way round."""
    train(job(tmp_path / "out", run, base, **{"train.unet": mode}))
    after, before = load_model(tmp_path / "out"), load_model(base)
    assert isinstance(after, StableDiffusion) and isinstance(before, StableDiffusion)
    old = dict(before.unet.named_parameters())
    changed = {
        name.split(".")[0]
        for name, value in after.unet.named_parameters()
        if not torch.equal(value, old[name])
    }
    assert changed == moved if moved is not None else "down_blocks" in changed


def test_lora_is_kept_apart_and_merged(tmp_path: Path, run: Path, base: Path) -> None:
    """Catches a checkpoint that needs peft to open, or that forgot its low-rank layers."""
    keys = {"train.unet": "lora", "train.lora_rank": 2, "train.lr": 1e-2}
    summary = train(job(tmp_path / "out", run, base, **keys))
    adapter = list((tmp_path / "out" / "adapter").glob("*.safetensors"))
    assert adapter and "adapter" in summary.artifacts
    after, before = load_model(tmp_path / "out"), load_model(base)
    assert isinstance(after, StableDiffusion) and isinstance(before, StableDiffusion)
    old = dict(before.unet.named_parameters())
    changed = [n for n, v in after.unet.named_parameters() if not torch.equal(v, old[n])]
    assert changed and all(".to_" in name for name in changed)


def test_number_types(tmp_path: Path, run: Path, base: Path) -> None:
    """Catches a bf16 run that saves bf16 weights or diverges at once."""
    keys = {"execution.dtype": "bf16", "train.gradient_checkpointing": True}
    summary = train(job(tmp_path / "bf16", run, base, **keys))
    model = load_model(tmp_path / "bf16")
    assert isinstance(model, StableDiffusion) and model.unet.dtype == torch.float32
    full = train(job(tmp_path / "fp32", run, base))
    assert history(summary) == pytest.approx(history(full), rel=0.05)
    assert history(summary) != history(full)


def test_a_loss_that_is_no_number_commits_the_last_good_weights(
    tmp_path: Path, run: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches exit 0, or poisoned weights, after a run that blew up."""
    genuine = loop._step

    def poisoned(*arguments: Any) -> tuple[float, bool]:
        return (float("nan"), False) if arguments[-1] == 3 else genuine(*arguments)

    monkeypatch.setattr(loop, "_step", poisoned)
    summary = train(job(tmp_path / "out", run, base))
    assert summary.exit_code == GateMissed.exit_code and summary.counts["steps"] == 2
    assert any("not a number" in note for note in summary.notes)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["exit_code"] == GateMissed.exit_code
    model = load_model(tmp_path / "out")
    assert isinstance(model, StableDiffusion) and model.controlnet is not None
    assert all(bool(torch.isfinite(p).all()) for p in model.controlnet.parameters())


def test_a_copied_training_image_raises_the_alarm(tmp_path: Path, run: Path, base: Path) -> None:
    """Catches an alarm that never rings, and one that rings for any picture."""
    from rsgen.augment import AugmentSettings
    from rsgen.data import TrainingImages
    from rsgen.training.latents import LatentViews

    model = load_model(base)
    assert isinstance(model, StableDiffusion)
    pictures = np.random.default_rng(0).integers(0, 255, (40, 8, 8, 3), dtype=np.uint8)
    pictures = pictures.repeat(SIZE // 8, axis=1).repeat(SIZE // 8, axis=2)
    rows = [sample(f"{k}.png", layout([], (SIZE, SIZE))) for k in range(32)]
    images = TrainingImages(rows, lambda s: pictures[int(s.id[:-4])], CLASSES)
    views = LatentViews(
        images, model.vae, size=SIZE, seed=1, views=0, settings=AugmentSettings(flips=False)
    )
    reporter = Told()
    new, copied = pictures[35], pictures[17]
    report = check_copies(model, [new, copied], views, reporter, 7)
    assert report.copies == [1] and report.nearest[1] == 17
    alarms = [text for text in reporter.texts if text.startswith("warning")]
    assert len(alarms) == 1 and "17.png" in alarms[0]


def test_fine_tuning_keeps_the_slots_of_known_classes(tmp_path: Path, base: Path) -> None:
    """Catches a fine-tune that must learn again what a slot means."""
    table = ClassTable(
        (ObjectClass("vehicle"), ObjectClass("boat", ("ship",)), ObjectClass("plane"))
    )
    rows = [
        replace(
            s,
            layout=replace(
                s.layout,
                instances=tuple(
                    replace(i, label="boat") for i in s.layout.instances if i.label == "ship"
                ),
            ),
        )
        for s in splits(3)
    ]
    built = sample_run(tmp_path / "run", rows, classes=table)
    train(job(tmp_path / "out", built.path, base, **{"train.max_steps": 1}))
    old, new = read_card(base), read_card(tmp_path / "out" / "model")
    assert old is not None and new is not None
    assert new.slots["boat"] == old.slots["ship"]
    assert new.slots["plane"] == old.slots["plane"]
    assert new.slots["vehicle"] not in old.slots.values()


def test_the_checkpoint_opens_in_diffusers(tmp_path: Path, run: Path, base: Path) -> None:
    """Catches a folder that only rsgen can open."""
    from diffusers import StableDiffusionControlNetPipeline

    train(job(tmp_path / "out", run, base, **{"train.max_steps": 1}))
    folder = tmp_path / "out" / "model"
    card = read_card(folder)
    assert card is not None and card.image_size == SIZE
    assert card.sensor_noise is not None and card.sensor_noise.levels[-1] > 0
    pipeline = StableDiffusionControlNetPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    encoding = ConditionEncoding(card.condition, card.slots)  # type: ignore[arg-type]
    condition = encode(layout(), (SIZE, SIZE), encoding, card.classes)
    image = pipeline(
        "a satellite image of plane",
        image=torch.from_numpy(condition)[None],
        num_inference_steps=2,
        output_type="np",
    ).images[0]
    assert image.shape == (SIZE, SIZE, 3)
    assert not list(folder.rglob("*.bin"))


def test_a_dry_run_trains_nothing(tmp_path: Path, run: Path, base: Path) -> None:
    """Catches a plan that costs as much as the run."""
    summary = train(replace(job(tmp_path / "out", run, base), dry_run=True))
    assert summary.status == "dry-run" and summary.counts["steps"] == STEPS
    assert not (tmp_path / "out").exists()
