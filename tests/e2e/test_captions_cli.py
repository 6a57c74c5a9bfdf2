"""Captions from the command line: a CLIP folder describes objects, prompts say what it found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rsgen.images import write_png
from rsgen.records import Sample
from rsgen.store import open_samples
from tests import build_clip
from tests.conftest import Result

Here = Callable[..., Result]
ROW = "{0} {1} {2} {1} {2} {3} {0} {3} {4} 0"  # corners clockwise


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three DOTA images with two ships and a plane each, of other colours each."""
    root = tmp_path_factory.mktemp("dataset")
    (root / "images").mkdir()
    (root / "labelTxt").mkdir()
    boxes = [(10, 10, 40, 30, "ship"), (60, 50, 90, 60, "ship"), (20, 50, 45, 75, "plane")]
    for k in range(3):
        rng = np.random.default_rng(k)
        image = rng.normal(90, 5, (90, 120, 3))
        for x0, y0, x1, y1, _ in boxes:
            image[y0:y1, x0:x1] = rng.uniform(0, 255, 3)
        write_png(root / "images" / f"{k}.png", image.clip(0, 255).astype(np.uint8))
        rows = "\n".join(ROW.format(*box) for box in boxes)
        (root / "labelTxt" / f"{k}.txt").write_text(rows + "\n")
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_clip.clip(tmp_path_factory.mktemp("clip") / "model")


def captions(samples: list[Sample]) -> list[str]:
    return [i.caption or "" for s in samples for i in s.layout.instances]


def test_objects_are_described_and_prompts_say_so(
    cli_here: Here, tmp_path: Path, dataset: Path, model: Path
) -> None:
    """Shards of one or of three images: the same; other phrases are another request; the prompt
    of a generated image has the captions of the layout that it fills."""
    line = ("extract-masks", dataset, "-s", f"extract_masks.captions={model}", "--device", "cpu")
    small = ("-s", "execution.shard_size=1", "--json")
    first = cli_here(*line, *small, "--out", tmp_path / "one")
    assert first.code == 0, first
    assert first.json["counts"]["captions"] == 9
    found = list(open_samples(tmp_path / "one"))
    assert all(text.endswith((" ship", " plane")) for text in captions(found))
    assert len(set(captions(found))) > 2
    assert all(0 <= i.scores["caption"] <= 1 for s in found for i in s.layout.instances)
    assert cli_here(*line, "--out", tmp_path / "two").code == 0
    assert captions(list(open_samples(tmp_path / "two"))) == captions(found)
    assert cli_here(*line, *small, "--out", tmp_path / "one").json["status"] == "no-op"
    (tmp_path / "mine.yaml").write_text("phrases: ['{class} A', '{class} B']\n")
    other = ("-s", f"extract_masks.phrases={tmp_path / 'mine.yaml'}")
    refused = cli_here(*line, *other, *small, "--out", tmp_path / "one")
    assert refused.code == 2 and "extract_masks.phrases" in refused.err.replace("\n", " ")
    third = cli_here(*line, *other, *small, "--out", tmp_path / "three")
    assert third.code == 0, third
    assert set(captions(list(open_samples(tmp_path / "three")))) <= {
        f"{name} {end}" for name in ("ship", "plane") for end in "AB"
    }
    prompt = "A satellite image of {classes}[: {captions}]"
    done = cli_here(
        *("generate", "tiny", "--layouts", tmp_path / "one", "--device", "cpu", "--count", 1),
        *("--steps", 1, "-s", f"generate.prompt='{prompt}'", "--out", tmp_path / "images"),
        *("-s", "generate.allow_same_source=true"),
    )
    assert done.code == 0, done
    (made,) = open_samples(tmp_path / "images")
    assert made.prompt is not None and ": " in made.prompt
    said = made.prompt.partition(": ")[2].split(", ")
    assert set(said) <= set(captions(found)) and said


@pytest.mark.parametrize(
    ("settings", "code", "says"),
    [
        (["extract_masks.captions=tiny"], 2, "a diffusion pipeline, no CLIP"),
        (["extract_masks.captions=hub:openai/clip-vit-base-patch32"], 4, "hf download openai"),
        (["extract_masks.captions={model}", "extract_masks.phrases=color"], 2, "colours"),
    ],
    ids=["tiny", "hub offline", "phrases"],
)
def test_what_will_not_do_is_said_before_any_work(
    cli_here: Here,
    tmp_path: Path,
    dataset: Path,
    model: Path,
    settings: list[str],
    code: int,
    says: str,
) -> None:
    given = [part for text in settings for part in ("-s", text.format(model=model))]
    done = cli_here("extract-masks", dataset, *given, "--out", tmp_path / "out")
    assert done.code == code, done
    assert says in done.err.replace("\n", " ")
    assert not (tmp_path / "out" / "parts").exists()
