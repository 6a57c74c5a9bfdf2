"""Words and pictures as filter rules, on CLIP's real classes; class presence and extra objects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rsgen.errors import UsageError
from rsgen.execution import Job, run_stage
from rsgen.geometry import Box
from rsgen.images import write_png
from rsgen.models.clip import Clip
from rsgen.records import Instance, Layout, Sample
from rsgen.scorers.base import make_scorer
from rsgen.scorers.clip import crop_of
from rsgen.scorers.rules import default_rules
from rsgen.store import open_samples
from tests import build_clip
from tests.build import CLASSES, config, sample_run
from tests.unit.test_scorers_detection import AT, GREEN, RED, asked, eyes, image, thing

SIDE = 96
TEXTS = [f"a satellite image of {name}" for name in ("plane", "ship", "storage tank", "water")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_clip.clip(tmp_path_factory.mktemp("clip") / "model")


def pictures(count: int = 3) -> np.ndarray:
    coarse = np.random.default_rng(1).integers(0, 255, (count, 12, 12, 3), dtype=np.uint8)
    return coarse.repeat(8, axis=1).repeat(8, axis=2)


def samples() -> list[Sample]:
    one = Instance("airplane", Box(4, 4, 24, 16))
    two = Instance("ship", Box(60, 50, 92, 60))
    return [
        Sample("a", Layout(SIDE, SIDE, (one, two))),
        Sample("b", Layout(SIDE, SIDE, (two,))),
        Sample("c", Layout(SIDE, SIDE)),
    ]


def scorer(name: str, folder: Path, **options: Any) -> Any:
    return make_scorer(name, {"model": str(folder), "classes": CLASSES, **options})


def test_an_image_is_compared_with_the_words_for_its_classes(folder: Path) -> None:
    """By hand from the model's own vectors: order of the table, aliases, the best of the absent."""
    clip = Clip.load(folder)
    seen = clip.embed_images(list(pictures()))
    both = clip.embed_texts(["a satellite image of plane, ship"])[0]
    words = clip.embed_texts(TEXTS)
    found = scorer("clip", folder).score(pictures(), samples())
    assert found[0] == pytest.approx(seen[0] @ both, abs=1e-4)
    assert found[1] == pytest.approx(seen[1] @ words[1], abs=1e-4) and np.isnan(found[2])
    likeness = seen @ words.T
    margin = scorer("clip", folder, look="margin").score(pictures(), samples())
    assert margin[0] == pytest.approx(likeness[0, :2].min() - likeness[0, 2:].max(), abs=2e-4)
    assert margin[1] == pytest.approx(likeness[1, 1] - np.delete(likeness[1], 1).max(), abs=2e-4)


def test_an_object_is_compared_with_every_class_of_things(folder: Path) -> None:
    clip = Clip.load(folder)
    crops = [crop_of(pictures()[0], i.bounds(), 1.4, 64) for i in samples()[0].layout.instances]  # type: ignore[arg-type]
    likeness = clip.embed_images(crops) @ clip.embed_texts(TEXTS[:3]).T
    found = scorer("clip-objects", folder).score(pictures(), samples())
    wanted = [likeness[0, 0] - likeness[0, 1:].max(), likeness[1, 1] - likeness[1, [0, 2]].max()]
    assert found[0] == pytest.approx(np.array(wanted), abs=2e-4)
    assert len(found[2]) == 0
    cosine = scorer("clip-objects", folder, look="cosine").score(pictures(), samples())
    assert cosine[0] == pytest.approx(likeness[[0, 1], [0, 1]], abs=2e-4)


@pytest.mark.parametrize("name", ["clip", "clip-objects"])
def test_batches_change_nothing(folder: Path, name: str) -> None:
    one = scorer(name, folder)
    whole = one.score(pictures(), samples())
    for k, sample in enumerate(samples()):
        alone = one.score(pictures()[k : k + 1], [sample])
        assert np.array_equal(np.asarray(alone[0]), np.asarray(whole[k]), equal_nan=True)


@pytest.mark.parametrize(
    ("box", "shape", "corner"),
    [
        (Box(40, 40, 50, 50), (64, 64), (13, 13)),
        (Box(0, 0, 10, 10), (64, 64), (0, 0)),
        (Box(80, 90, 96, 96), (64, 64), (32, 32)),
        (Box(10, 10, 90, 20), (96, 96), (0, 0)),
    ],
    ids=["inside", "corner", "other corner", "larger than the image"],
)
def test_a_crop_stays_in_the_image(
    box: Box, shape: tuple[int, int], corner: tuple[int, int]
) -> None:
    places = np.indices((SIDE, SIDE)).transpose(1, 2, 0)
    crop = crop_of(places.astype(np.uint8), box, 1.4, 64)
    assert crop.shape[:2] == shape and tuple(crop[0, 0]) == corner


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": ""}, "--clip"),
        ({"template": "of a thing"}, "no single place"),
        ({"look": "hard"}, "look is 'hard'"),
    ],
)
def test_refused_first(folder: Path, options: dict[str, Any], message: str) -> None:
    for name in ("clip", "clip-objects"):
        with pytest.raises(UsageError, match=message):
            scorer(name, folder, **options).check()


# ---------------------------------------------------------------- in a run


def test_the_rules_join_by_task_and_bounds_are_of_real_images(folder: Path, tmp_path: Path) -> None:
    rows = []
    for k, (pixels, sample) in enumerate(zip(pictures(), samples(), strict=True)):
        name = f"images/{k}.png"
        for out in ("run", "real"):
            digest = write_png(tmp_path / out / name, pixels)
        rows.append(Sample(sample.id, sample.layout, image=name, sha256=digest, split="train"))
    for out in ("run", "real"):
        sample_run(tmp_path / out, rows, images=False, command="generate")
    inputs = {"run": [tmp_path / "run"], "clip": [folder]}
    keys = {"filter.task": "classification"}
    with pytest.raises(UsageError, match="quantiles of real images"):
        run_stage(Job("filter", config(**keys), tmp_path / "x", inputs))
    inputs["real"] = [tmp_path / "real"]
    run_stage(Job("filter", config(**keys), tmp_path / "kept", inputs))
    frozen = json.loads((tmp_path / "kept/thresholds.json").read_text())["rules"]
    assert list(frozen) == ["clip", "focus", "integrity", "novelty-hash"]
    found = {s.id: s.scores for s in open_samples(tmp_path / "kept")}
    low = min(found["a"]["clip"], found["b"]["clip"])
    assert low <= frozen["clip"]["min"] < max(found["a"]["clip"], found["b"]["clip"])
    info = json.loads((tmp_path / "kept/run.json").read_text())
    assert list(info["model_hashes"]) == ["clip"]


@pytest.mark.parametrize(
    ("task", "given", "names"),
    [
        ("detection", {}, "integrity focus label-geometry contrast novelty-hash"),
        (
            "detection",
            {"judge": True, "clip": True},
            "integrity focus label-geometry contrast novelty-hash clip clip-objects judge "
            "judge-image extra-objects",
        ),
        ("segmentation", {}, "integrity focus label-geometry contrast novelty-hash remask"),
        (
            "classification",
            {"judge": True},
            "integrity focus novelty-hash class-presence likeness novelty",
        ),
        (
            "classification",
            {"judge": True, "clip": True},
            "integrity focus novelty-hash clip novelty",
        ),
    ],
)
def test_the_task_chooses_the_rules(task: Any, given: dict[str, bool], names: str) -> None:
    """Catches boxes that are judged where only the image's class is used."""
    rules = default_rules(real=True, checkpoint=False, task=task, **given)
    assert [rule.name for rule in rules] == names.split()


# ---------------------------------------------------------------- a detector's image rules


@pytest.mark.parametrize(
    ("seen", "things", "score"),
    [
        pytest.param([(RED, AT)], [thing("plane", 40, 40, 50, 50)], 0.9, id="somewhere else"),
        pytest.param([(GREEN, AT)], [thing("plane", *AT)], 0.0, id="another class"),
        pytest.param([(RED, AT)], [thing("plane", *AT), thing("ship", *AT)], 0.0, id="one of two"),
        pytest.param([(RED, AT)], [thing("car", *AT)], np.nan, id="unknown"),
        pytest.param([(RED, AT)], [], np.nan, id="no label"),
    ],
)
def test_classes_are_present(seen: Any, things: list[Instance], score: float) -> None:
    found = eyes("class-presence").score(image(*seen), asked(*things))
    assert found[0] == pytest.approx(score, nan_ok=True)


@pytest.mark.parametrize(
    ("seen", "things", "score"),
    [
        pytest.param([(RED, AT)], [thing("plane", *AT)], 1.0, id="as labelled"),
        pytest.param([(RED, AT)], [thing("ship", *AT)], 1.0, id="named otherwise"),
        pytest.param([(RED, AT)], [], 0.1, id="one extra"),
        pytest.param([(RED, AT)], [thing("plane", 40, 40, 50, 50)], 0.1, id="not there"),
        pytest.param(
            [(RED, AT)], [thing("plane", 0, 0, 60, 60, iscrowd=True)], 1.0, id="in a crowd"
        ),
        pytest.param([], [thing("plane", *AT)], 1.0, id="missing is no extra"),
        pytest.param([(RED, AT), (GREEN, (40, 40, 55, 55))], [], 0.1, id="two weigh as the surest"),
        pytest.param([(RED, AT)], [thing("plane", 10, 10, 19, 20)], 1.0, id="badly outlined"),
    ],
)
def test_extra_objects_are_seen(seen: Any, things: list[Instance], score: float) -> None:
    found = eyes("extra-objects").score(image(*seen), asked(*things))
    assert found[0] == pytest.approx(score)
