"""Scorers that look: a detector whose answers are known, by hand-made cases; filter --judge."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rsgen.errors import DataError, UsageError
from rsgen.execution import Job, run_stage
from rsgen.geometry import Box
from rsgen.images import write_png
from rsgen.judge.calibration import Calibration
from rsgen.judge.decoding import ClassHabits
from rsgen.judge.model import Judge, JudgeCard
from rsgen.judge.network import JudgeNetwork, NetworkShape
from rsgen.mask import Mask
from rsgen.records import ClassTable, Instance, Layout, ObjectClass, Sample
from rsgen.scorers.base import make_scorer
from rsgen.scorers.remask import Remask
from rsgen.store import open_samples
from tests.build import CLASSES, config, sample_run

SCRIPT = Path(__file__).parents[1] / "outside_worker.py"
THREE = ClassTable(
    (
        ObjectClass("plane", ("airplane",)),
        ObjectClass("ship"),
        ObjectClass("storage-tank"),
        ObjectClass("water", kind="stuff"),
    )
)
SIDE = 60


def eyes(name: str, **options: Any) -> Any:
    """A scorer whose detector sees red as planes, green as ships, with a score of 0.9."""
    line = "command: " + shlex.join([sys.executable, str(SCRIPT), "good"])
    look = {"look": "detection"} if name == "judge" else {}
    return make_scorer(name, {"detector": line, "classes": THREE, **look, **options})


def image(*boxes: tuple[int, tuple[int, int, int, int]]) -> np.ndarray:
    pixels = np.zeros((1, SIDE, SIDE, 3), np.uint8)
    for channel, (x0, y0, x1, y1) in boxes:
        pixels[0, y0:y1, x0:x1, channel] = 255
    return pixels


def asked(*things: Instance) -> list[Sample]:
    return [Sample("s", Layout(SIDE, SIDE, things))]


def thing(label: str, x0: float, y0: float, x1: float, y1: float, **more: Any) -> Instance:
    return Instance(label, Box(x0, y0, x1, y1), **more)


RED, GREEN = 0, 1
AT = (10, 10, 30, 30)
WATER = Instance("water", mask=Mask.from_array(np.ones((SIDE, SIDE), bool)))


@pytest.mark.parametrize(
    ("seen", "wanted", "score"),
    [
        pytest.param([(RED, AT)], thing("plane", *AT), 0.9, id="there"),
        pytest.param([(RED, AT)], thing("airplane", *AT), 0.9, id="by its alias"),
        pytest.param([(RED, AT)], thing("plane", 10, 10, 30, 26), 0.72, id="IoU 0.8"),
        pytest.param([(RED, AT)], thing("plane", 20, 10, 40, 30), 0.0, id="IoU a third"),
        pytest.param([(GREEN, AT)], thing("plane", *AT), 0.0, id="another class there"),
        pytest.param([], thing("plane", *AT), 0.0, id="nothing there"),
        pytest.param([(RED, AT)], thing("car", *AT), np.nan, id="a class it does not know"),
        pytest.param([(RED, AT)], WATER, np.nan, id="stuff"),
        pytest.param([(RED, AT)], thing("plane", *AT, iscrowd=True), np.nan, id="a crowd"),
        pytest.param([], thing("plane", 50, 10, 90, 30), np.nan, id="its centre lies outside"),
        pytest.param([], thing("plane", 10, 10, 10, 30), np.nan, id="no area"),
    ],
)
def test_an_object_is_seen_or_not(seen: Any, wanted: Instance, score: float) -> None:
    (scores,) = eyes("judge").score(image(*seen), asked(wanted))
    assert scores.dtype == np.float32 and scores.shape == (1,)
    assert scores[0] == pytest.approx(score, nan_ok=True)


def test_one_detection_vouches_for_one_object() -> None:
    """Catches ten labels on one plane that all count as found."""
    (scores,) = eyes("judge").score(image((RED, AT)), asked(*[thing("plane", *AT)] * 3))
    assert sorted(scores.tolist()) == pytest.approx([0, 0, 0.9])


@pytest.mark.parametrize(
    ("seen", "things", "score"),
    [
        pytest.param([(RED, AT)], [thing("plane", *AT)], 2 * 0.9 / 1.9, id="just so"),
        pytest.param([], [thing("plane", *AT)], 0.0, id="nothing there"),
        pytest.param([(GREEN, AT)], [thing("plane", *AT)], 0.0, id="another class"),
        pytest.param(
            [(RED, AT), (GREEN, (40, 40, 55, 55))], [thing("plane", *AT)], 1.8 / 2.8, id="one extra"
        ),
        pytest.param(
            [(RED, AT), (GREEN, (40, 40, 55, 55))],
            [thing("plane", *AT), thing("car", 40, 40, 55, 55)],
            1.8 / 1.9,
            id="what lies on an unknown object is no extra",
        ),
        pytest.param([], [], 1.0, id="empty, and nothing seen"),
        pytest.param([(RED, AT)], [], 1 / 1.9, id="empty, and something seen"),
        pytest.param([(RED, AT)], [WATER], 1 / 1.9, id="ground alone"),
        pytest.param([(RED, AT)], [thing("car", *AT)], np.nan, id="only unknown things"),
    ],
)
def test_an_image_is_as_labelled_or_not(seen: Any, things: list[Instance], score: float) -> None:
    scores = eyes("judge-image").score(image(*seen), asked(*things))
    assert scores.shape == (1,) and scores[0] == pytest.approx(score, nan_ok=True)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        pytest.param("judge", {}, "no judge was given", id="no judge"),
        pytest.param("judge-image", {}, "no judge was given", id="no judge, an image"),
        pytest.param("novelty", {}, "no judge was given", id="no judge, novelty"),
        pytest.param(
            "novelty",
            {"features": "latents", "judge": "j"},
            "no autoencoder",
            id="a judge has no latents",
        ),
        pytest.param("novelty", {"k": 0, "judge": "j"}, "k is 0", id="no neighbour"),
        pytest.param("judge", {"detector": "hub:a/b"}, "answers no questions", id="verification"),
        pytest.param("judge", {"look": "twice", "judge": "j"}, "look is 'twice'", id="look"),
        pytest.param("remask", {"backend": "box"}, "looks at no pixels", id="remask by boxes"),
        pytest.param("remask", {"backend": "sam"}, "needs a model", id="sam without weights"),
    ],
)
def test_what_cannot_work_is_refused_first(
    name: str, options: dict[str, Any], message: str
) -> None:
    scorer = make_scorer(name, options)
    with pytest.raises((UsageError, DataError), match=message):
        scorer.check()


# ---------------------------------------------------------------- a judge


def judge_in(folder: Path, role: Any = "reward", unlearned: tuple[str, ...] = ()) -> Path:
    """An untrained judge of plane, ship and storage-tank, as a train-judge OUT holds it."""
    things = [c.name for c in CLASSES.classes if c.kind == "thing"]
    habits = tuple(ClassHabits(n, True, False, int(n not in unlearned)) for n in things)
    shape = NetworkShape(len(things), 1)
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    card = JudgeCard(role, CLASSES, shape, habits, ("water",), Calibration(), 0.5, "run", 64)
    judge = Judge(JudgeNetwork(shape), card)
    torch.random.set_rng_state(state)
    judge.save(folder / ("judge_a" if role == "reward" else "judge_b"))
    return folder


def test_verification_is_a_chance_and_falls_silent_on_the_unknown(tmp_path: Path) -> None:
    """Catches rows that move to their neighbours when one object is not asked about."""
    judge = judge_in(tmp_path, unlearned=("ship",))
    scorer = make_scorer("judge", {"judge": str(judge), "look": "verification"})
    things = (
        WATER,
        thing("plane", *AT),
        thing("ship", 5, 5, 20, 9),
        thing("plane", 30, 30, 55, 44),
    )
    pixels = np.random.default_rng(0).integers(0, 255, (2, SIDE, SIDE, 3), dtype=np.uint8)
    both = [*asked(*things), *asked(things[3])]
    first, second = scorer.score(pixels, both)
    assert np.isnan(first[[0, 2]]).all() and not np.isnan(first[[1, 3]]).any()
    assert 0 < first[1] < 1 and 0 < second[0] < 1
    (alone,) = scorer.score(pixels[:1], asked(things[3]))
    assert alone[0] == pytest.approx(float(first[3]), abs=1e-5)
    half = make_scorer("judge", {"judge": str(judge)}).score(pixels, both)
    assert half[0][1] == pytest.approx(float(first[1]) / 2, abs=1e-5)  # nothing is detected


def test_a_judge_for_measuring_does_not_filter(tmp_path: Path) -> None:
    judge = judge_in(tmp_path, "evaluation")
    with pytest.raises(UsageError, match="judge for evaluation, asked for reward"):
        make_scorer("judge", {"judge": str(judge / "judge_b")}).check()
    with pytest.raises(DataError, match="no judge for reward"):
        make_scorer("judge", {"judge": str(judge)}).check()


def test_a_copy_is_no_news_to_the_judge(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (3, 64, 64, 3), dtype=np.uint8)
    pixels[2] = pixels[0]
    pixels[1] //= 4
    judge = str(judge_in(tmp_path))
    scores = make_scorer("novelty", {"judge": judge}).score(pixels, asked() * 3)
    assert np.isnan(scores[0]) and scores[1] > 0.01 and scores[2] < 1e-4
    second = make_scorer("novelty", {"judge": judge, "k": 2}).score(pixels, asked() * 3)
    assert np.isnan(second[:2]).all() and second[2] == scores[1]  # the darker image is second


def test_likeness_is_to_real_images_alone(tmp_path: Path) -> None:
    """Catches images that vouch for one another: two copies of one fault look alike."""
    judge = judge_in(tmp_path / "judge")
    pixels = np.random.default_rng(0).integers(0, 255, (4, 64, 64, 3), dtype=np.uint8)
    odd = np.stack([pixels[0] // 8, pixels[0] // 8, pixels[1]])
    for name, images in (("real", pixels), ("run", odd)):
        rows = []
        for k, one in enumerate(images):
            digest = write_png(tmp_path / name / f"images/{k}.png", one)
            layout = Layout(64, 64, (thing("plane", *AT),))
            rows.append(Sample(f"s{k}", layout, image=f"images/{k}.png", sha256=digest))
        sample_run(tmp_path / name, rows, images=False, command="generate")
    rules = [{"scorer": "likeness", "quantile": 0.0, "options": {"k": 1}}]
    keys = config(**{"filter.rules": rules})
    inputs = {"run": [tmp_path / "run"], "judge": [judge]}
    with pytest.raises(UsageError, match="--real"):
        run_stage(Job("filter", keys, tmp_path / "x", inputs))
    run_stage(Job("filter", keys, tmp_path / "kept", {**inputs, "real": [tmp_path / "real"]}))
    found = {s.id: s for s in open_samples(tmp_path / "kept")}
    assert [found[f"s{k}"].verdict for k in range(3)] == ["drop", "drop", "keep"]
    assert found["s0"].scores["likeness"] == found["s1"].scores["likeness"]
    assert found["s2"].scores["likeness"] == pytest.approx(1, abs=1e-4)


# ---------------------------------------------------------------- masks again


def painted(*shapes: tuple[Mask, int]) -> np.ndarray:
    """Dim ground with bright shapes on it."""
    pixels = np.random.default_rng(0).normal(60, 4, (64, 64, 3)).clip(0, 255).astype(np.uint8)
    for mask, grey in shapes:
        mask.paint(pixels, np.uint8(grey))
    return pixels[None]


def disc(cx: float, cy: float, radius: float) -> Mask:
    y, x = np.mgrid[0:64, 0:64] + 0.5
    mask = Mask.from_array((x - cx) ** 2 + (y - cy) ** 2 <= radius**2)
    assert mask is not None
    return mask


def tank(mask: Mask) -> Instance:
    return Instance("storage-tank", mask.box, mask=mask)


def test_a_mask_that_the_pixels_show_scores_high() -> None:
    one, other = disc(18, 20, 10), disc(45, 44, 12)
    samples = [Sample("s", Layout(64, 64, (tank(one), WATER, tank(other))))]
    (scores,) = Remask().score(painted((one, 210), (other, 200)), samples)
    assert np.isnan(scores[1]) and scores[0] > 0.85 and scores[2] > 0.85
    (missing,) = Remask().score(painted((one, 210)), samples)
    assert missing[0] > 0.85 and missing[2] == 0


def test_a_fall_back_scores_nothing() -> None:
    """The box's own outline would agree with the label whatever the image shows."""
    one = disc(30, 30, 12)
    (scores,) = Remask().score(painted(), [Sample("s", Layout(64, 64, (tank(one),)))])
    assert scores.tolist() == [0.0]


def test_another_shape_scores_less_than_the_asked_one() -> None:
    """A square plate where a disc was asked for, in the same box."""
    one = disc(30, 30, 14)
    box = one.box
    square = Mask.from_array(
        np.ones((int(box.height), int(box.width)), bool), int(box.x0), int(box.y0)
    )
    assert square is not None
    samples = [Sample("s", Layout(64, 64, (tank(one),)))]
    (right,) = Remask().score(painted((one, 210)), samples)
    (wrong,) = Remask().score(painted((square, 210)), samples)
    assert wrong[0] < right[0] - 0.05


def test_what_came_without_a_mask_is_not_asked() -> None:
    one = disc(30, 30, 12)
    bare = replace(tank(one), mask=None)
    (scores,) = Remask().score(painted((one, 210)), [Sample("s", Layout(64, 64, (bare,)))])
    assert np.isnan(scores).all()


# ---------------------------------------------------------------- filter


def filtered(out: Path, run: Path, **more: Any) -> Any:
    inputs = {"run": [run]}
    for name in ("judge", "real"):
        if name in more:
            inputs[name] = [more.pop(name)]
    return run_stage(Job("filter", config(**more), out, inputs))


RULES = [{"scorer": "judge", "min": 0.0}, {"scorer": "judge-image", "min": 0.0}]


def test_filter_takes_its_judge_from_the_command_line(tmp_path: Path) -> None:
    """Another judge is another request; without one the rules are refused before any work."""
    run = sample_run(tmp_path / "run", command="generate").path
    judge = judge_in(tmp_path / "judges")
    with pytest.raises(UsageError, match="no judge was given"):
        filtered(tmp_path / "none", run, **{"filter.rules": RULES})
    assert not (tmp_path / "none").exists()
    filtered(tmp_path / "kept", run, judge=judge, **{"filter.rules": RULES})
    info = json.loads((tmp_path / "kept" / "run.json").read_text())
    assert set(info["model_hashes"]) == {"judge", "judge-image"}
    rows = list(open_samples(tmp_path / "kept"))
    assert all("judge-image" in s.scores for s in rows)
    planes = [i for s in rows for i in s.layout.instances if i.label == "plane"]
    assert planes and all("judge" in i.scores for i in planes)
    other = judge_in(tmp_path / "others", unlearned=("ship",))
    with pytest.raises(UsageError, match="judge"):
        filtered(tmp_path / "kept", run, judge=other, **{"filter.rules": RULES})


def test_a_judge_brings_its_own_rules(tmp_path: Path) -> None:
    """Real images set the bar: a judge that has learned nothing drops nothing."""
    run = sample_run(tmp_path / "run", command="generate").path
    judge = judge_in(tmp_path / "judges")
    filtered(tmp_path / "alone", run, judge=judge)
    frozen = json.loads((tmp_path / "alone/thresholds.json").read_text())["rules"]
    assert {name: frozen[name]["min"] for name in ("judge", "judge-image", "extra-objects")} == {
        "judge": 0.15, "judge-image": 0.05, "extra-objects": 0.2
    }  # fmt: skip
    real = sample_run(tmp_path / "real").path
    filtered(tmp_path / "beside", run, judge=judge, real=real)
    rows = list(open_samples(tmp_path / "beside"))
    assert not any("judge-image" in reason for s in rows for reason in s.reasons)


def test_old_scores_need_no_judge(tmp_path: Path) -> None:
    run = sample_run(tmp_path / "run", command="generate").path
    filtered(tmp_path / "a", run, judge=judge_in(tmp_path / "j"), **{"filter.rules": RULES})
    again = filtered(
        tmp_path / "b", tmp_path / "a",
        **{"filter.rules": [{"scorer": "judge", "min": 2.0}], "filter.rescore": "none"},
    )  # fmt: skip
    assert again.counts["kept"] == 0


def test_remask_does_as_the_real_set_was_done(tmp_path: Path) -> None:
    """A real set whose masks came from boxes alone: refused, with the way out."""
    run = sample_run(tmp_path / "run", command="generate").path
    keys: dict[str, Any] = {"extract_masks.backend": "box"}
    real = sample_run(tmp_path / "real", **keys).path
    rules: list[dict[str, Any]] = [{"scorer": "remask", "min": 0.0}]
    with pytest.raises(UsageError, match="looks at no pixels"):
        filtered(tmp_path / "kept", run, real=real, **{"filter.rules": rules})
    rules[0]["options"] = {"backend": "classical"}
    assert filtered(tmp_path / "kept", run, real=real, **{"filter.rules": rules}).counts


def test_remask_asks_the_program_that_made_the_real_masks(tmp_path: Path) -> None:
    """Catches a filter that is refused, or masks by another backend, after `worker`."""
    run = sample_run(tmp_path / "run", command="generate").path
    line = shlex.join([sys.executable, str(SCRIPT.with_name("mask_worker.py")), "class"])
    keys: dict[str, Any] = {"extract_masks.backend": "worker", "extract_masks.command": line}
    real = sample_run(tmp_path / "real", **keys).path
    rules: list[dict[str, Any]] = [{"scorer": "remask", "min": 0.0}]
    counts = filtered(tmp_path / "kept", run, real=real, **{"filter.rules": rules}).counts
    assert counts["failures"] == 0
    options = {"backend": "worker", "command": line}
    one = disc(30, 30, 14)
    (scores,) = make_scorer("remask", options).score(
        painted((one, 210)), [Sample("s", Layout(64, 64, (tank(one),)))]
    )
    assert scores[0] > 0.9
    rules[0]["options"] = {"backend": "classical"}
    assert filtered(tmp_path / "other", run, real=real, **{"filter.rules": rules}).counts


# ---------------------------------------------------------------- evaluate


def test_other_eyes_measure_a_layout(tmp_path: Path) -> None:
    """`evaluate.detector`: perfect answers to what was asked, whatever the judge knows."""
    from rsgen.evaluation.base import Evaluation, Images
    from rsgen.evaluation.layout import LayoutCell
    from rsgen.judge.eyes import EyesRef
    from rsgen.judge.model import load_judge
    from rsgen.reporting import NullReporter
    from rsgen.settings import EvaluateConfig

    line = "command: " + shlex.join([sys.executable, str(SCRIPT), "good"])
    boxes = {f"s{k}": (6 + k, 8, 30 + k, 28) for k in range(3)}
    samples = tuple(
        Sample(name, Layout(SIDE, SIDE, (thing("plane", *box),))) for name, box in boxes.items()
    )
    images = Images("generated", samples, lambda s: image((RED, boxes[s.id]))[0])
    others = replace(images, name="real")
    evaluation = Evaluation(
        images, others, others, THREE,
        load_judge(judge_in(tmp_path, "evaluation", ("plane",)), "evaluation"),
        EvaluateConfig(), 0, "cpu", tmp_path, NullReporter(), lambda: None,
        EyesRef.parse(line).open(THREE, "evaluation"),
    )  # fmt: skip
    assert evaluation.threshold == 0.5
    assert evaluation.visible.names == ("plane", "ship", "storage-tank")
    (tmp_path / "cell").mkdir()
    found = LayoutCell().compute(evaluation, tmp_path / "cell").figures
    assert found["AP50"] == 1.0 and found["recognised in the right class"] == 1.0
    blind = replace(evaluation, eyes=None)
    assert blind.visible.names == ("ship", "storage-tank")
