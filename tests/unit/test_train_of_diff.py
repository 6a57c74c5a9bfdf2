"""`train.method: of-diff` as a command: what it refuses, what it leaves, how it goes on."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import load_file

from rsgen.augment import AugmentSettings
from rsgen.data import TrainingImages
from rsgen.errors import Stopped, UsageError
from rsgen.execution import run_stage
from rsgen.models.base import load_model, read_card
from rsgen.models.stable_diffusion import StableDiffusion
from rsgen.reporting import NullReporter
from rsgen.runs import Job
from rsgen.train import train
from rsgen.training import latents
from rsgen.training.distillation import DistillationObjective
from rsgen.training.latents import LatentViews
from rsgen.training.setup import choose_weights
from tests.build import CLASSES, config, layout, sample, sample_run
from tests.build_models import SIZE, small_model
from tests.build_training import Told, history, stop_later, train_job

STEPS = 6
job = partial(
    train_job,
    **{
        "train.method": "of-diff",
        "train.max_steps": STEPS,
        "train.lr": 1e-3,
        "execution.threads": 1,
    },
)


def opened(path: Path) -> StableDiffusion:
    model = load_model(path)
    assert isinstance(model, StableDiffusion)
    return model


def changed(after: Any, before: Any) -> set[str]:
    """First names of the parameters that differ."""
    old = dict(before.named_parameters())
    return {
        name.split(".")[0]
        for name, value in after.named_parameters()
        if not torch.equal(value, old[name])
    }


DECODER = {"up_blocks", "conv_norm_out", "conv_out"}


@pytest.mark.parametrize(
    ("mode", "moved"),
    [("auto", DECODER), ("decoder", DECODER), ("frozen", set()), ("lora", {"up_blocks"})],
)
def test_which_unet_weights_learn(
    tmp_path: Path, run: Path, base: Path, mode: str, moved: set[str]
) -> None:
    """Catches an encoder that learns, and low-rank layers outside the decoder."""
    keys = {"train.unet": mode, "train.lora_rank": 2, "train.max_steps": 2}
    summary = train(job(tmp_path / "out", run, base, **keys))
    after, before = opened(tmp_path / "out"), opened(base)
    assert changed(after.unet, before.unet) == moved
    assert changed(after.controlnet, before.controlnet)
    for part in ("vae", "text_encoder"):
        assert not changed(after.networks()[part], before.networks()[part])
    if mode == "lora":
        with safe_open(next(Path(summary.artifacts["adapter"]).iterdir()), "pt") as layers:
            assert all(".up_blocks." in name for name in layers.keys())  # noqa: SIM118


def test_low_rank_layers_start_from_the_seed() -> None:
    """Catches ranks that each draw their own layers, and a run that is another when repeated."""
    drawn = []
    for global_seed, seed in ((1, 5), (2, 5), (1, 6)):
        torch.manual_seed(global_seed)
        model = small_model()
        choose_weights(model, "controlnet", "lora", False, 2, decoder_only=True, seed=seed)
        drawn.append([p for n, p in model.unet.named_parameters() if "lora_A" in n])
    first, again, other = drawn
    assert first and all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("condition", ["binary", "classes"])
def test_the_result_is_a_standard_folder(
    tmp_path: Path, run: Path, base: Path, condition: str
) -> None:
    """Catches a saved model that wants a real image, and a state that forgot how to read one."""
    reporter = Told()
    keys = {"train.condition": condition, "train.recon_augment": True, "reporter": reporter}
    train(job(tmp_path / "out", run, base, **keys, **{"train.validation_samples": 2}))
    channels = 35 if condition == "classes" else 3
    model = opened(tmp_path / "out")
    assert model.condition_channels == channels
    assert model.controlnet is not None
    weight = model.controlnet.state_dict()["controlnet_cond_embedding.conv_in.weight"]
    assert weight.shape[1] == channels
    card = read_card(tmp_path / "out" / "model")
    assert card is not None and card.training["method"] == "of-diff"
    newest = sorted((tmp_path / "out" / "state").glob("step-*"))[-1]
    kept = load_file(newest / "weights.safetensors")
    joint = "controlnet.controlnet_cond_embedding.conv_in"
    if condition == "classes":
        widths = [kept[f"{joint}.{part}.weight"].shape[1] for part in ("code", "image")]
        assert widths == [35, 3]
    else:
        assert kept[f"{joint}.weight"].shape[1] == 3
    assert {"loss", "L_s", "L_m", "L_c", "L_reg"} <= reporter.metrics.keys()
    values = {
        "seed": 1,
        "generate.steps": 2,
        "generate.per_layout": 2,
        "generate.layout_splits": ["train"],
    }
    bare = sample_run(tmp_path / "bare", [sample("a.png")], images=False)
    painted = run_stage(
        Job(
            "generate",
            config(**values),
            tmp_path / "painted",
            inputs={"checkpoint": [tmp_path / "out"], "layouts": [bare.path]},
            reporter=NullReporter(),
        )
    )
    assert painted.exit_code == 0 and len(list((tmp_path / "painted").rglob("*.png"))) >= 2


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"train.unet": "full"}, "encoder"),
        ({"train.task": "base"}, "layout branch"),
        ({"train.task": "autoencoder"}, "layout branch"),
        ({"train.learn_text": True}, "text encoder"),
        ({"train.method": "plain", "train.recon_augment": True}, "recon_augment"),
    ],
    ids=["full", "base", "autoencoder", "text", "reconstruction without the method"],
)
def test_what_excludes_the_method_is_said(
    tmp_path: Path, run: Path, base: Path, keys: dict[str, Any], words: str
) -> None:
    """Catches a setting that does nothing, and a traceback where the user can mend it."""
    with pytest.raises(UsageError, match=words):
        train(job(tmp_path / "out", run, base, **keys))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_an_interrupted_run_has_the_losses_of_an_uninterrupted_one(
    tmp_path: Path, run: Path, base: Path, accumulate: int
) -> None:
    """Catches a ramp that starts again, and a new image slice after each start."""
    keys = {"train.recon_augment": True, "train.accumulate": accumulate, "train.views": 2}
    whole = train(job(tmp_path / "whole", run, base, **keys))
    with pytest.raises(Stopped):
        control = stop_later(tmp_path / "parts", checks=3)
        train(job(tmp_path / "parts", run, base, control=control, **keys))
    parts = train(job(tmp_path / "parts", run, base, **keys))
    assert history(parts) == history(whole) and len(history(whole)) == STEPS
    for part in ("unet", "controlnet"):
        name = f"model/{part}/diffusion_pytorch_model.safetensors"
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_progress_counts_optimiser_steps(tmp_path: Path, run: Path, base: Path) -> None:
    """Catches a ramp that rises by batches, by samples or by epochs."""
    seen: list[tuple[int, float]] = []
    genuine = DistillationObjective.batch

    def watched(self: Any, step: int, *arguments: Any) -> Any:
        batch = genuine(self, step, *arguments)
        seen.append((step, float(batch["progress"])))
        return batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DistillationObjective, "batch", watched)
        train(job(tmp_path / "out", run, base, **{"train.accumulate": 3, "train.max_steps": 4}))
    assert set(seen) == {(0, 0.0), (1, 0.25), (2, 0.5), (3, 0.75)}
    assert seen[-3:] == [(3, 0.75)] * 3


def test_number_types(tmp_path: Path, run: Path, base: Path) -> None:
    """Catches passes that share weights cast for another graph, with recomputed layers too."""
    keys = {"train.recon_augment": True, "train.gradient_checkpointing": True}
    full = train(job(tmp_path / "fp32", run, base, **keys))
    half = train(job(tmp_path / "bf16", run, base, **keys, **{"execution.dtype": "bf16"}))
    assert history(half) == pytest.approx(history(full), rel=0.05)
    assert history(half) != history(full)


# ---------------------------------------------------------------- pixels


@pytest.mark.parametrize("budget", [latents.PIXEL_BYTES, 2 * SIZE * SIZE * 3, 0])
@pytest.mark.parametrize("views", [0, 2])
def test_views_come_with_the_pixels_that_were_encoded(
    tmp_path: Path, base: Path, views: int, budget: int
) -> None:
    """Catches an image hint of another view than the latents, or one that is not kept."""
    pictures = np.random.default_rng(0).integers(0, 255, (3, 48, 48, 3), dtype=np.uint8)
    rows = [sample(f"{k}.png", layout([], (48, 48))) for k in range(3)]
    images = TrainingImages(rows, lambda s: pictures[int(s.id[:-4])], CLASSES)
    vae = opened(base).vae
    built = LatentViews(
        images,
        vae,
        size=SIZE,
        seed=1,
        views=views,
        settings=AugmentSettings(flips=True),
        with_pixels=True,
        pixel_bytes=budget,
    )
    accelerator = Accelerator(cpu=True)
    built.fill(accelerator, tmp_path / "latents.safetensors", NullReporter(), lambda: None)
    for view in built.get([(0, 5), (1, 2), (2, 3)]):
        assert view.pixels is not None and view.pixels.shape == (SIZE, SIZE, 3)
        again = latents.encode_pixels(vae, view.pixels[None])[0].numpy()
        np.testing.assert_allclose(again, view.latent, atol=1e-4)
    if views:
        kept = [v for v in built._kept.values() if v.pixels is not None]
        assert len(kept) == min(6, budget // (SIZE * SIZE * 3))
