"""rl-tune by the reward `distribution`: warm-up, resume with its bank, judges of other classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from rsgen.errors import Stopped, UsageError
from rsgen.job import Control
from rsgen.records import ClassTable, ObjectClass
from rsgen.reporting import NullReporter
from rsgen.rl.opened import Opened, other_layouts
from rsgen.rl_tune import rl_tune
from tests.build import CLASSES, instance, layout, sample, sample_run, water
from tests.build_judge import save_judges
from tests.build_models import SIZE, save_model
from tests.build_rl import rows_of, state_of, tune_job

CANVAS = (SIZE, SIZE)
# two layouts of four images an epoch: 8 of the 12 = 4 k that must be known
REWARD = {"reward": "distribution", "options": {"k": 3, "pca_dim": 4}}


@dataclass(frozen=True)
class Place:
    model: Path
    real: Path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    root = tmp_path_factory.mktemp("rl-distribution")
    samples = []
    for k in range(18):
        plane = instance("plane", 9, 9, 10 + k % 3, 6, 0.2 * k, size=CANVAS)
        samples.append(sample(f"scene-{k}.png", layout((water(CANVAS), plane), size=CANVAS)))
    return Place(save_model(root / "model").path, sample_run(root / "real", samples).path)


class Listener(NullReporter):
    """Keeps what is said, and asks for a stop once an epoch was told of."""

    def __init__(self, until: int) -> None:
        self.said: list[str] = []
        self.until = f"epoch {until}:"

    def note(self, text: str, level: str = "info") -> None:
        self.said.append(text)

    def reached(self) -> bool:
        return any(text.startswith(self.until) for text in self.said)


def test_it_warms_up_and_goes_on_bit_by_bit(place: Place, tmp_path: Path) -> None:
    """Catches a run that is ended by its own warm-up, and a bank that a resume forgets.

    Dossier test 16, with a bank: stopped while it is not full enough yet.
    """
    keys: dict[str, Any] = {
        "rl_tune.rewards": [REWARD], "rl_tune.epochs": 3, "rl_tune.evaluate_every": 1,
        "rl_tune.paired_weight": 0.0,
    }  # fmt: skip

    def run(name: str, **more: Any) -> Any:
        job = tune_job(tmp_path / name, place.model, place.real, real=place.real, **keys, **more)
        return rl_tune(job)

    listener = Listener(1)
    with pytest.raises(Stopped):
        run("parts", reporter=listener, control=Control(requested=listener.reached))
    said = "distribution: 8 images an epoch: 0 in the first 1 epochs, until 12 are known"
    assert said in listener.said
    assert not any("layouts are not those" in text for text in listener.said)
    first = state_of(tmp_path / "parts")
    assert first.epoch == 1 and len(first.tensors["rewards"]["distribution/bank"]) == 8
    assert [run(name).exit_code for name in ("parts", "whole")] == [0, 0]
    rows = [rows_of(tmp_path / name) for name in ("parts", "whole")]
    assert rows[0] == rows[1] and len(rows[0]) == 4
    cold, warm, last = rows[0][1:]
    assert (cold["distribution/warming"], cold["reward"], cold["saturated"]) == (8, 0.0, 1.0)
    for row in (warm, last):
        assert "distribution/warming" not in row
        assert row["reward deviation"] > 0 and row["saturated"] == 0
    assert all(row["held reward"] != 0 for row in rows[0])
    one, two = (state_of(tmp_path / name) for name in ("parts", "whole"))
    assert one.counters == two.counters
    assert one.tensors["rewards"]["distribution/bank_others"].tolist() == [[0, 15]]
    assert set(one.tensors) == set(two.tensors) > {"weights", "rewards"}
    for part, tensors in one.tensors.items():
        assert set(tensors) == set(two.tensors[part])
        assert all(torch.equal(t, two.tensors[part][n]) for n, t in tensors.items()), part


def opened(place: Place, out: Path, **more: Any) -> Opened:
    return Opened.of(tune_job(out, place.model, place.real, **more))


def test_too_few_images_are_refused_before_any_work(place: Place, tmp_path: Path) -> None:
    reward = {"reward": "distribution", "options": {"k": 9}}
    with pytest.raises(UsageError, match="8 images an epoch, remembered for 4 epochs, are 32"):
        opened(place, tmp_path / "out", real=place.real, **{"rl_tune.rewards": [reward]})


def table(*names: str) -> ClassTable:
    return ClassTable(tuple(ObjectClass(name) for name in names))


@pytest.mark.parametrize("reward", ["detector", "remask"])
def test_a_judge_of_other_classes_is_refused(place: Place, tmp_path: Path, reward: str) -> None:
    """Catches "nan on held layouts by judge A", as a reward and where it only chooses."""
    judge = save_judges(tmp_path / "judges", table("bridge", "dam"))
    keys = {"rl_tune.rewards": [{"reward": reward}]}
    with pytest.raises(UsageError, match="knows bridge, dam, and the layouts ask for plane") as e:
        opened(place, tmp_path / "out", judge=judge, **keys)
    assert e.value.exit_code == 2


def test_what_a_judge_does_not_know_is_said(tmp_path: Path, place: Place) -> None:
    ships = [
        sample(f"scene-{k}.png", layout((water(CANVAS), *_both()), size=CANVAS)) for k in range(6)
    ]
    run = sample_run(tmp_path / "run", ships).path
    job = tune_job(
        tmp_path / "out", place.model, run, judge=save_judges(tmp_path / "judges", table("ship"))
    )
    assert Opened.of(job).notes[-2:] == (
        "judge A has never seen plane: such objects are not counted",
        "judge B has never seen plane: such objects are not counted",
    )
    known = tune_job(
        tmp_path / "out", place.model, run, judge=save_judges(tmp_path / "all", CLASSES)
    )
    assert not any("never seen" in note for note in Opened.of(known).notes)


def _both() -> tuple[Any, Any]:
    return (
        instance("plane", 9, 9, 10, 6, 0.2, size=CANVAS),
        instance("ship", 21, 22, 13, 5, 0.5, size=CANVAS),
    )


def test_layouts_from_elsewhere_are_said(place: Place, tmp_path: Path) -> None:
    """Trap 7: the divergence then measures the layouts too."""
    here = tune_job(tmp_path / "out", place.model, place.real, real=place.real)
    assert other_layouts(here) == ()
    (note,) = other_layouts(tune_job(tmp_path / "out", place.model, tmp_path, real=place.real))
    assert "the layouts are not those of --real" in note
