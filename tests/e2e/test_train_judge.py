"""train-judge as a user meets it: small, reduced, and asked for everything it promises."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rsgen.errors import DataError, RsgenError, Stopped, UsageError
from rsgen.execution import Job, run_stage
from rsgen.geometry import Box
from rsgen.judge.decoding import ClassHabits
from rsgen.judge.model import Judge, load_judge
from rsgen.judge.network import ANSWERS, JudgeNetwork
from rsgen.judge.report import judge_report, look
from rsgen.judge.targets import objects_of
from rsgen.records import ClassTable, Instance, Layout, ObjectClass, Sample
from rsgen.runs import Control
from rsgen.scenes import SCENE_CLASSES, render_scene
from rsgen.store import open_samples
from rsgen.train_judge import train_judge
from tests.build import config, instance, layout, sample, sample_run, water

TINY: dict[str, Any] = {
    "train_judge.max_steps": 4,
    "train_judge.size": 32,
    "train_judge.checkpoint_every": 2,
    "execution.batch_size": 2,
    "execution.threads": 1,
}
ONLY_A: dict[str, Any] = {"train_judge.judges": "reward"}
ONLY_B: dict[str, Any] = {"train_judge.judges": "evaluation"}


def job(out: Path, run: Path, control: Control | None = None, **keys: Any) -> Job:
    settings = config(**{**TINY, **keys})
    return Job("train-judge", settings, out, {"run": [run]}, control=control or Control())


def weights(out: Path, name: str) -> bytes:
    return (out / name / "model.safetensors").read_bytes()


def scenes(count: int = 32, of: Callable[[int], Layout] | None = None) -> list[Sample]:
    """All but eight to learn from, the rest for val and test."""
    made = []
    for k in range(count):
        split = "train" if k < count - 8 else "val" if k < count - 4 else "test"
        made.append(sample(f"scene-{k}.png", of(k) if of else layout(), split=split))
    return made


# ---------------------------------------------------------------- it learns


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    """140 steps on thirty tank farms: about a dozen seconds of one core."""
    folder = tmp_path_factory.mktemp("judge")
    keys: dict[str, Any] = {
        "scenes.count": 40,
        "scenes.size": 128,
        "scenes.types": ["tank-farm"],
        "seed": 3,
    }
    run_stage(Job("scenes", config(**keys), folder / "scenes", {}))
    more: dict[str, Any] = {
        **ONLY_A,
        "train_judge.max_steps": 140,
        "train_judge.size": 64,
        "execution.batch_size": 8,
    }
    judges = folder / "judges"
    train_judge(job(judges, folder / "scenes", **more))
    return load_judge(judges, "reward")


@pytest.fixture(scope="module")
def held() -> dict[str, tuple[np.ndarray, Layout]]:
    """Tank farms of other seeds, and none of the training run's."""
    return {f"held-{k}": render_scene(90_000 + k, 128, scene="tank-farm") for k in range(12)}


def figures(judge: Judge, held: dict[str, tuple[np.ndarray, Layout]]) -> dict[str, Any]:
    samples = [Sample(name, scene[1]) for name, scene in held.items()]
    seen = look(judge, samples, lambda s: held[s.id][0], SCENE_CLASSES, 0)
    return judge_report(judge, seen)


def test_a_short_training_beats_none(
    trained: Judge, held: dict[str, tuple[np.ndarray, Layout]]
) -> None:
    state = torch.random.get_rng_state()
    torch.manual_seed(1)
    blank = Judge(JudgeNetwork(trained.card.shape), trained.card)
    torch.random.set_rng_state(state)
    before, after = figures(blank, held), figures(trained, held)
    assert (before["classes"]["storage-tank"]["AP50"] or 0) < 0.02
    assert after["classes"]["storage-tank"]["AP50"] > 0.12
    assert after["figures"]["questions right"] > before["figures"]["questions right"] + 0.2


def test_true_boxes_are_believed_more_than_moved_ones(
    trained: Judge, held: dict[str, tuple[np.ndarray, Layout]]
) -> None:
    """The verification head looks at the box: moved by its own side it must say so."""
    true, moved, wrong = [], [], []
    for pixels, of in held.values():
        maps = trained.maps(pixels[None])
        found = objects_of(of, SCENE_CLASSES)
        things = [c.name for c in SCENE_CLASSES.classes if c.kind == "thing"]
        tanks = found.boxes[[things[k] == "storage-tank" for k in found.things]]
        owner, labels = [0] * len(tanks), ["storage-tank"] * len(tanks)
        true += trained.verify(maps, tanks, owner, labels)[:, 0].tolist()
        away = tanks + np.array([1.2, 0, 0, 0, 0], np.float32) * tanks[:, 2:3]
        answers = trained.verify(maps, away, owner, labels)
        moved += answers[:, 0].tolist()
        assert np.allclose(answers.sum(axis=1), 1) and answers.shape == (len(tanks), len(ANSWERS))
        wrong += trained.verify(maps, tanks, owner, ["large-vehicle"] * len(tanks))[:, 0].tolist()
    assert np.mean(true) > np.mean(moved) + 0.3
    assert np.mean(true) > np.mean(wrong) + 0.3


def test_the_scorer_tells_true_labels_from_moved_ones(
    trained: Judge, held: dict[str, tuple[np.ndarray, Layout]], tmp_path: Path
) -> None:
    from rsgen.scorers.base import make_scorer

    folder = trained.save(tmp_path / "judge_a")
    pixels = np.stack([scene[0] for scene in held.values()])
    true = [Sample(name, scene[1]) for name, scene in held.items()]
    moved = [replace(s, layout=shifted(s.layout, 14.0)) for s in true]
    for name, options in (("judge", {}), ("judge", {"look": "detection"}), ("judge-image", {})):
        scorer = make_scorer(name, {"judge": str(folder), **options})
        good, bad = scorer.score(pixels, true), scorer.score(pixels, moved)
        assert np.nanmean(np.hstack(good)) > 3 * np.nanmean(np.hstack(bad)) + 0.05


def shifted(of: Layout, by: float) -> Layout:
    def move(item: Instance) -> Instance:
        if item.quad is None:
            return item
        quad = tuple((x + by, y + by) for x, y in item.quad)
        return replace(item, quad=quad, box=None, mask=None)  # type: ignore[arg-type]

    return replace(of, instances=tuple(map(move, of.instances)))


def test_a_tile_of_531_objects_goes_through(trained: Judge) -> None:
    """Catches limits and squares of 531: questions, suppression, matching, the report."""
    rng = np.random.default_rng(0)
    spots = [(12 + 21 * (k % 24), 12 + 21 * (k // 24)) for k in range(531)]
    things = [
        instance("storage-tank", x, y, 16, 16, 0.0, size=(512, 512), mask=None) for x, y in spots
    ]
    pixels = rng.integers(90, 110, (512, 512, 3), dtype=np.uint8)
    crowded = Sample("crowded", Layout(512, 512, tuple(things)))
    seen = look(trained, [crowded], lambda _: pixels, SCENE_CLASSES, 0)
    report = judge_report(trained, seen)
    assert report["objects"] == 531 and "over 100 objects" in report["counts"]


# ---------------------------------------------------------------- it keeps its word


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sample_run(tmp_path_factory.mktemp("source") / "run", scenes()).path


@pytest.fixture(scope="module")
def judges(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("judges") / "out"
    train_judge(job(out, source))
    return out


def test_the_folder_holds_what_is_promised(judges: Path) -> None:
    for name, role in (("judge_a", "reward"), ("judge_b", "evaluation")):
        names = {p.name for p in (judges / name).iterdir()}
        pictures = {"worst.png", "reliability.png", "loss.png"}
        assert names == {"model.safetensors", "judge.json", "report.json", *pictures}
        report = json.loads((judges / name / "report.json").read_text())
        assert (
            report["images"] == 4 and report["learned from"] == 9 and report["measured on"] == "val"
        )
        assert {"AP50", "AP50-95", "oriented AP50", "calibration error"} <= set(report["figures"])
        assert set(report["classes"]) == {"plane", "ship", "storage-tank"}
        assert load_judge(judges, role).card.role == role  # type: ignore[arg-type]
    assert weights(judges, "judge_a") != weights(judges, "judge_b")
    assert (judges / "manifest.json").is_file()


def test_the_same_seed_gives_the_same_weights(judges: Path, source: Path, tmp_path: Path) -> None:
    """And so does one judge alone; another seed does not."""
    train_judge(job(tmp_path / "b", source, **ONLY_B))
    assert weights(tmp_path / "b", "judge_b") == weights(judges, "judge_b")
    assert not (tmp_path / "b" / "judge_a").exists()
    other: dict[str, Any] = {**ONLY_B, "seed": 5}
    train_judge(job(tmp_path / "seed", source, **other))
    assert weights(tmp_path / "seed", "judge_b") != weights(judges, "judge_b")


@pytest.mark.parametrize("name", ["judge_a", "judge_b"])
def test_a_stop_changes_nothing(name: str, judges: Path, source: Path, tmp_path: Path) -> None:
    """Stopped inside a judge's training, after a saved state; then the same line again."""
    out = tmp_path / "out"

    def after_two_steps() -> bool:
        return (out / "state" / name / "step-00000002").is_dir()

    with pytest.raises(Stopped):
        train_judge(job(out, source, Control(requested=after_two_steps)))
    assert not (out / name).exists() and not (out / "manifest.json").exists()
    train_judge(job(out, source))
    for folder in ("judge_a", "judge_b"):
        for file in ("model.safetensors", "judge.json", "report.json"):
            assert (out / folder / file).read_bytes() == (judges / folder / file).read_bytes()


def test_what_measures_is_not_learned_from(judges: Path, tmp_path: Path) -> None:
    """Other pictures in val and test: the same weights and calibration to the last bit."""

    def paint(of: Layout, number: int) -> np.ndarray:
        from tests.build import picture

        return picture(of, number) if number < 24 else np.full((64, 64, 3), 128, np.uint8)

    run = sample_run(tmp_path / "run", scenes(), paint=paint).path
    train_judge(job(tmp_path / "out", run))
    for name in ("judge_a", "judge_b"):
        assert weights(tmp_path / "out", name) == weights(judges, name)
        assert (tmp_path / "out" / name / "report.json").read_bytes() != (
            judges / name / "report.json"
        ).read_bytes()


def test_the_judges_learn_from_other_scenes(judges: Path, tmp_path: Path) -> None:
    """One picture is changed: it is learned from, or calibrates, in one judge alone."""

    def paint_with(changed: int) -> Callable[[Layout, int], np.ndarray]:
        from tests.build import picture

        return lambda of, number: picture(of, number + 100 * (number == changed))

    for changed in (0, 1):
        run = sample_run(tmp_path / f"run-{changed}", scenes(), paint=paint_with(changed)).path
        out = tmp_path / f"out-{changed}"
        train_judge(job(out, run))
        touched = [
            name
            for name in ("judge_a", "judge_b")
            if weights(out, name) != weights(judges, name)
            or calibration(out / name) != calibration(judges / name)
        ]
        assert len(touched) <= 1


def calibration(folder: Path) -> Any:
    return json.loads((folder / "judge.json").read_text())["calibration"]


def test_tiles_of_one_scene_stay_together(tmp_path: Path) -> None:
    """Catches a scene whose left half teaches judge A and whose right half judge B."""
    from rsgen.train_judge import _shares

    tiles = [sample(f"scene-{k // 4}.png#{64 * (k % 4)},0") for k in range(160)]
    shares = _shares(tiles, ("reward", "evaluation"), 0)
    parents = [
        {s.parent for s in group}
        for share in shares.values()
        for group in (share.learn, share.calibrate)
    ]
    assert sum(map(len, parents)) == 40 and set.union(*parents) == {s.parent for s in tiles}


@pytest.mark.parametrize(
    ("path", "role", "error", "message"),
    [
        ("judge_a", "evaluation", UsageError, "judge for reward, asked for evaluation"),
        ("judge_b", "reward", UsageError, "judge for evaluation, asked for reward"),
        ("state", "reward", DataError, "holds no judge for reward"),
    ],
)
def test_a_judge_for_another_purpose_is_refused(
    path: str, role: Any, error: type[Exception], message: str, judges: Path
) -> None:
    with pytest.raises(error, match=message):
        load_judge(judges / path, role)
    if error is UsageError:
        assert load_judge(judges / path, role, force=True).card.role != role


def test_a_torn_judge_is_named(judges: Path, tmp_path: Path) -> None:
    folder = load_judge(judges, "reward").save(tmp_path / "judge_a")
    (folder / "model.safetensors").write_bytes(weights(judges, "judge_a")[:1000])
    with pytest.raises(DataError, match=r"model\.safetensors"):
        load_judge(tmp_path, "reward")
    (folder / "judge.json").write_text('{"role": "reward"}')
    with pytest.raises(DataError, match="no judge card"):
        load_judge(tmp_path, "reward")


# ---------------------------------------------------------------- sets of all kinds

STUFF = ClassTable((ObjectClass("water", kind="stuff"), ObjectClass("field", kind="stuff")))
ONE = ClassTable.of("plane")
FOUR = ClassTable.of("plane", "ship", "storage-tank", "unicorn")


def upright(_: int) -> Layout:
    return layout((Instance("plane", Box(10, 20, 40, 38)), Instance("ship", Box(44, 4, 60, 30))))


def only_planes(k: int) -> Layout:
    return layout((instance("plane", heading_rad=0.1 * k), instance("plane", 46, 44)))


def empty(_: int) -> Layout:
    return layout(())


def as_is(_: int) -> Layout:
    return layout((instance(), instance("ship", 44, 40, 26, 9), instance("storage-tank", 50, 14)))


@pytest.mark.parametrize(
    ("of", "classes", "habits"),
    [
        pytest.param(
            upright, ClassTable.of("plane", "ship"),
            (ClassHabits("plane", False, False, 14), ClassHabits("ship", False, False, 14)),
            id="axis-aligned boxes",
        ),
        pytest.param(only_planes, ONE, (ClassHabits("plane", True, True, 28),), id="one class"),
        pytest.param(empty, ONE, (ClassHabits("plane", False, False, 0),), id="no object at all"),
        pytest.param(
            as_is, FOUR,
            (ClassHabits("plane", True, True, 14), ClassHabits("ship", True, True, 14),
             ClassHabits("storage-tank", True, False, 14), ClassHabits("unicorn", True, False, 0)),
            id="a class without objects",
        ),
    ],
)  # fmt: skip
def test_sets_of_all_kinds(
    of: Callable[[int], Layout], classes: ClassTable, habits: tuple[ClassHabits, ...],
    tmp_path: Path,
) -> None:  # fmt: skip
    run = sample_run(tmp_path / "run", scenes(32, of), classes=classes).path
    train_judge(job(tmp_path / "out", run, **ONLY_A))
    judge = load_judge(tmp_path / "out", "reward")
    learned = json.loads((tmp_path / "out/judge_a/report.json").read_text())["learned from"]
    wanted = [h.objects * learned // 14 for h in habits]
    assert [h.objects for h in judge.card.habits] == wanted
    assert [replace(h, objects=0) for h in judge.card.habits] == [
        replace(h, objects=0) for h in habits
    ]
    assert judge.known == {h.name for h in habits if h.objects}
    source = open_samples(run)
    pixels = source.read_image(next(iter(source)))
    maps = judge.maps(pixels[None])
    boxes = np.array([[20, 20, 12, 8, 0.2]] * len(habits), np.float32)
    names = [h.name for h in habits]
    answers = judge.verify(maps, boxes, [0] * len(habits), names)
    assert np.isnan(answers).all(axis=1).tolist() == [not h.objects for h in habits]
    everything = judge.detect(pixels[None])[0]
    if of is upright:
        assert all(len({x for x, _ in q}) <= 4 for q in np.round(everything.quads, 6).tolist())


def test_ground_is_named_where_there_is_stuff(judges: Path) -> None:
    judge = load_judge(judges, "reward")
    pixels = np.zeros((2, 50, 60, 3), np.uint8)
    ground = judge.ground(judge.maps(pixels), 60, 50)
    assert ground.shape == (2, 50, 60) and set(np.unique(ground)) <= {0, 1}


@pytest.mark.parametrize(
    ("samples", "classes", "message", "hint"),
    [
        pytest.param(scenes(16), None, "it needs 8", "larger run", id="too few scenes"),
        pytest.param(
            [replace(s, split="val") for s in scenes()], None, "train", "", id="no train split"
        ),
        pytest.param(
            scenes(32, lambda _: layout((water(),))), STUFF, "no thing class", "things, not stuff",
            id="stuff alone",
        ),
        pytest.param(
            scenes(32, lambda _: Layout(24, 24, (Instance("plane", Box(2, 2, 20, 20)),))), ONE,
            "needs 32", "leave such images out", id="images too small",
        ),
    ],
)  # fmt: skip
def test_what_cannot_teach_is_refused_with_a_way_out(
    samples: list[Sample], classes: ClassTable | None, message: str, hint: str, tmp_path: Path
) -> None:
    more: dict[str, Any] = {} if classes is None else {"classes": classes}
    run = sample_run(tmp_path / "run", samples, **more).path
    with pytest.raises(RsgenError, match=message) as caught:
        train_judge(job(tmp_path / "out", run))
    assert caught.value.exit_code == 3 and hint in (caught.value.hint or "")
    assert not (tmp_path / "out" / "manifest.json").exists()
