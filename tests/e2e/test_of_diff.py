"""What a user needs of a model trained with two branches, proved on one by the command line.

Small networks of the real classes and 32 px scenes: what is looked at are records, notes and
exact pixels, not how well the model paints.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionControlNetPipeline

from rsgen.condition import encode
from rsgen.geometry import heading_of, wrap_angle
from rsgen.models.base import read_card
from rsgen.models.sampling import draw_noise
from rsgen.pool import MaskPool
from rsgen.records import Sample
from rsgen.store import open_samples
from tests.build import instance, layout, sample, sample_run, water
from tests.build_models import SIZE, save_model
from tests.conftest import Result

Here = Callable[..., Result]
CANVAS = (SIZE, SIZE)
QUICK = ("--steps", "2", "--device", "cpu", "--json")
TRAIN = (
    "--method", "of-diff", "--size", SIZE, "--steps", "3", "--batch-size", "2", "--lr", "1e-3",
    "--device", "cpu", "-s", "train.validation_samples=0", "-s", "execution.threads=1", "--json",
)  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Real samples whose images are gone, their pool, and two checkpoints."""

    real: Path
    samples: tuple[Sample, ...]
    pool: Path
    ours: Path
    parity: Path  # no captions, no hint dropout, binary


def scene(k: int) -> Sample:
    plane = instance("plane", 9, 9, 10 + k % 3, 6, 0.7 * k - 3, size=CANVAS)
    ship = instance("ship", 21, 22, 13, 5 + k % 2, 0.5 + 0.4 * k, size=CANVAS)
    tank = instance("storage-tank", 24, 8, 7 + k % 2, 7 + k % 2, 0.0, size=CANVAS)
    split = "train" if k < 6 else ("val", "test")[k - 6]
    of = layout((water(CANVAS), plane, ship, tank), size=CANVAS)
    return sample(f"scene-{k}.png", of, split=split)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Trained once; then every real image is deleted."""
    from rsgen_cli.app import app
    from typer.testing import CliRunner

    root = tmp_path_factory.mktemp("of-diff")
    run = sample_run(root / "real", [scene(k) for k in range(8)])
    base = save_model(root / "base").path

    def call(*words: object) -> None:
        done = CliRunner().invoke(app, [str(w) for w in words])
        assert done.exit_code == 0, (words, done.stderr)

    pool_keys = ("-s", "build_mask_pool.min_area_px=8", "-s", "build_mask_pool.min_score=0")
    call("build-mask-pool", run.path, "--out", root / "pool", *pool_keys)
    line = ("train", run.path, "--base", base, *TRAIN)
    dropped = ("-s", "train.hint_dropout=0.1")
    call(*line, *dropped, "--out", root / "ours")
    plain = ('train.prompt=""', "train.hint_dropout=0", "train.condition=binary")
    call(*line, *(word for key in plain for word in ("-s", key)), "--out", root / "parity")
    for image in (root / "real").rglob("*.png"):
        image.unlink()
    return Place(run.path, run.samples, root / "pool", root / "ours", root / "parity")


def made(path: Path) -> list[Sample]:
    return list(open_samples(path))


def test_no_real_image_is_needed(place: Place, cli_here: Here, tmp_path: Path) -> None:
    """Catches a checkpoint that still wants the image that taught it: all of them are gone."""
    assert not list(place.real.rglob("*.png"))
    for name, source in (("a", ("--pool", place.pool, "--count", "4")), ("b", ())):
        given = source or ("--layouts", place.real)
        done = cli_here("generate", place.ours, *given, *QUICK, "--out", tmp_path / name)
        assert done.code == 0, done
        assert len(made(tmp_path / name)) == (4 if source else 6)


def test_no_mask_comes_from_the_image_whose_layout_is_painted(
    place: Place, cli_here: Here, tmp_path: Path
) -> None:
    """The leakage guard: a real object never stands in its own place again."""
    given = ("--layouts", place.real, "--pool", place.pool, "--per-layout", "3")
    done = cli_here("generate", place.ours, *given, *QUICK, "--out", tmp_path / "out")
    assert done.code == 0, done
    table = MaskPool.load(place.pool).table.select(["id", "sources"]).to_pylist()
    sources = {row["id"]: set(row["sources"]) for row in table}
    seen = 0
    for one in made(tmp_path / "out"):
        assert one.parent in {s.id for s in place.samples}
        for item in one.layout.instances:
            if item.origin.startswith("pool:"):
                seen += 1
                assert one.parent not in sources[item.origin.removeprefix("pool:")]
    assert seen > 12
    assert done.json["counts"].get("same_source", 0) == 0


def test_layouts_that_were_not_learned_from(place: Place, cli_here: Here, tmp_path: Path) -> None:
    """Layouts of val and test are left out and said so; asked for, they keep their split."""
    line = ("generate", place.ours, "--layouts", place.real, *QUICK)
    plain = cli_here(*line, "--out", tmp_path / "a")
    assert plain.code == 0, plain
    held = {s.id for s in place.samples if s.split != "train"}
    assert len(held) == 2
    assert held.isdisjoint(s.parent for s in made(tmp_path / "a"))
    assert any("2 layouts" in note for note in plain.json["notes"]), plain.json["notes"]
    asked = cli_here(*line, "-s", "generate.layout_splits=[val,test]", "--out", tmp_path / "b")
    assert asked.code == 0, asked
    assert {(s.parent, s.split) for s in made(tmp_path / "b")} == {
        (s.id, s.split) for s in place.samples if s.split != "train"
    }
    refused = cli_here(
        "train", tmp_path / "b", "--base", place.ours, *TRAIN, "--out", tmp_path / "c"
    )
    assert refused.code == 3, refused


def test_guidance_that_was_not_learned_is_said(
    place: Place, cli_here: Here, tmp_path: Path
) -> None:
    """Without captions and empty layouts, guidance is off by default, and a word when asked for."""
    line = ("generate", place.parity, "--layouts", place.real, *QUICK)
    quiet = cli_here(*line, "--out", tmp_path / "a")
    assert quiet.code == 0, quiet
    # six images, two steps, one call each: nothing is computed to be thrown away
    assert quiet.json["counts"]["network calls"] == 12
    assert quiet.json["counts"]["network calls saved"] == 0
    assert {s.prompt for s in made(tmp_path / "a")} == {""}
    text = cli_here(*line, "--text-guidance", "9", "--out", tmp_path / "b")
    assert text.json["counts"]["network calls"] == 12
    assert any("text_guidance 9 changes nothing" in note for note in text.json["notes"])
    assert pixels(tmp_path / "a") == pixels(tmp_path / "b")
    bare = cli_here(*line, "--layout-guidance", "2", "--out", tmp_path / "c")
    assert any("has not seen empty layouts" in note for note in bare.json["notes"])
    assert bare.json["counts"]["network calls"] == 24
    told = cli_here(*line, "--text-guidance", "9", "--dry-run", "--out", tmp_path / "d")
    assert "changes nothing" in told.out + told.err


def test_layout_guidance_is_an_axis(place: Place, cli_here: Here, tmp_path: Path) -> None:
    """Trained with empty layouts, the same noise gives other pictures as guidance grows."""
    line = ("generate", place.ours, "--layouts", place.real, "--text-guidance", "1", *QUICK)
    pictures = []
    for strength in ("1", "2", "4"):
        out = tmp_path / strength
        done = cli_here(*line, "--layout-guidance", strength, "--out", out)
        assert done.code == 0 and not any("guidance" in n for n in done.json["notes"]), done
        pictures.append(np.stack([open_samples(out).read_image(s) for s in made(out)]).astype(int))
    one, two, four = (np.abs(p - pictures[0]).mean() for p in pictures)
    assert one == 0 < two < four


def pixels(out: Path) -> list[bytes]:
    run = open_samples(out)
    return [run.read_image(s).tobytes() for s in run]


def test_headings_come_out_in_label_and_export(
    place: Place, cli_here: Here, tmp_path: Path
) -> None:
    """Catches a first edge that is lost on its way from label to condition to label."""
    out = tmp_path / "out"
    given = ("--layouts", place.real, "--pool", place.pool)
    assert cli_here("generate", place.ours, *given, *QUICK, "--out", out).code == 0
    wanted = {(s.id, i.label): i.heading_rad for s in place.samples for i in s.layout.instances}
    samples = {s.id: s for s in made(out)}
    for one in samples.values():
        for item in one.layout.instances:
            heading = wanted[one.parent, item.label]
            if heading is None:
                assert item.heading_rad is None
            elif not item.truncated:
                assert item.heading_rad is not None and item.quad is not None
                assert abs(wrap_angle(item.heading_rad - heading)) < 1e-6
                assert abs(wrap_angle(heading_of(item.quad) - heading)) < 1e-6
    done = cli_here("export", out, "--format", "coco,dota", "--json", "--out", tmp_path / "set")
    assert done.code == 0, done
    data = json.loads(
        (tmp_path / "set/dataset/coco/annotations/instances_train.json").read_text("utf-8")
    )
    names = {row["id"]: row["file_name"] for row in data["images"]}
    labels = {row["id"]: row["name"] for row in data["categories"]}
    headings = [
        (next(k for k in samples if k in names[row["image_id"]]), labels[row["category_id"]], row)
        for row in data["annotations"]
        if row.get("heading") is not None
    ]
    assert len(headings) >= 10
    for sample_id, label, row in headings:
        heading = wanted[samples[sample_id].parent, label]
        assert heading is not None and abs(wrap_angle(row["heading"] - heading)) < 1e-4
    lines = [
        line.split()
        for path in (tmp_path / "set/dataset/dota").rglob("labelTxt/*.txt")
        for line in path.read_text("utf-8").splitlines()
        if ":" not in line
    ]
    fronts = [heading_of(np.asarray(w[:8], float)) for w in lines if w[8] == "plane"]  # type: ignore[arg-type]
    planes = [h for (_, label), h in wanted.items() if label == "plane" and h is not None]
    assert fronts and all(min(abs(wrap_angle(f - h)) for h in planes) < 0.05 for f in fronts)


def test_diffusers_paints_the_same(place: Place, cli_here: Here, tmp_path: Path) -> None:
    """Catches a folder with a slice for real images left in, or weights other than those used."""
    out = tmp_path / "out"
    line = ("generate", place.ours, "--layouts", place.real, *QUICK, "--count", "2")
    guidance = ("--text-guidance", "1.5", "--layout-guidance", "1", "--scheduler", "ddim")
    done = cli_here(*line, *guidance, "-s", "execution.dtype=fp32", "--out", out)
    assert done.code == 0, done
    folder = place.ours / "model"
    card = read_card(folder)
    assert card is not None and card.training["method"] == "of-diff"
    pipeline = StableDiffusionControlNetPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    from diffusers import DDIMScheduler

    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    run = open_samples(out)
    for one in run:
        assert one.provenance.seed is not None
        condition = encode(one.layout, CANVAS, card.encoding(), card.classes)
        picture = pipeline(
            one.prompt,
            image=torch.from_numpy(condition)[None],
            latents=draw_noise([one.provenance.seed], (4, SIZE // 4, SIZE // 4)),
            num_inference_steps=2,
            guidance_scale=1.5,
            output_type="np",
        ).images[0]
        assert np.abs(run.read_image(one).astype(float) - picture * 255).max() <= 1.0
