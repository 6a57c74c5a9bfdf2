"""What rl-tune is given: layouts with classes that the model calls otherwise, or does not know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rsgen.errors import DataError, UsageError
from rsgen.generation.naming import Renaming
from rsgen.records import ClassTable, ObjectClass
from rsgen.rl.opened import Opened
from rsgen.rl.session import Session
from rsgen.rl_tune import rl_tune
from tests.build import instance, layout, sample, sample_run
from tests.build_models import SIZE, save_model
from tests.build_rl import rows_of, tune_job

CANVAS = (SIZE, SIZE)
TABLE = ClassTable((ObjectClass("plane"), ObjectClass("vessel"), ObjectClass("raft")))


def _layout(*labels: str) -> Any:
    things = (instance(x, 9 + 12 * k, 12, 10, 6, 0.2, size=CANVAS) for k, x in enumerate(labels))
    return layout(tuple(things), size=CANVAS)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("rl-inputs") / "model").path


def _opened(folder: Path, model: Path, rows: Sequence[tuple[str, ...]], **keys: Any) -> Opened:
    samples = [
        sample(f"scene-{k}.png", _layout(*labels), split="train") for k, labels in enumerate(rows)
    ]
    run = sample_run(folder / "real", samples, classes=TABLE)
    return Opened.of(tune_job(folder / "out", model, run.path, **keys))


def test_layouts_that_cannot_be_used_are_counted_with_the_reason(
    tmp_path: Path, model: Path
) -> None:
    """Catches layouts with an unknown class that vanish in silence."""
    rows = [("plane",)] * 4 + [("plane", "vessel")] * 8
    layouts = _opened(tmp_path, model, rows, **{"rl_tune.held_layouts": 1}).layouts
    layouts.take(0, 8)
    (note,) = [n for n in layouts.notes if "cannot be used" in n]
    assert note.startswith("8 of the first 12 layouts")
    assert "does not know class 'vessel'" in note and "--class-map 'vessel=ITS'" in note
    with pytest.raises(DataError, match=r"12 cannot be used .*class 'vessel'") as caught:
        _opened(tmp_path / "none", model, [("vessel", "plane")] * 12)
    assert "--class-map" in str(caught.value.hint)


def test_a_class_map_names_them_as_the_model_and_its_judges_do(tmp_path: Path, model: Path) -> None:
    """Catches a map that the painter follows and the reward does not: judges know ITS names."""
    rows = [("plane", "vessel")] * 6
    keys = {"rl_tune.class_map": {"vessel": "ship"}}
    opened = _opened(tmp_path, model, rows, **keys)
    taken, _ = opened.layouts.take(0, 4)
    found = {i.label for d in (*taken, *opened.layouts.held) for i in d.layout.instances}
    assert found == {"plane", "ship"}
    assert opened.setup(None).classes.find("ship") is not None
    assert opened.painting.class_map == {}  # no name is translated twice
    with pytest.raises(UsageError, match="'shipp' is no class of the model"):
        _opened(tmp_path / "wrong", model, rows, **{"rl_tune.class_map": {"vessel": "shipp"}})


def test_real_images_are_renamed_with_the_layouts(tmp_path: Path, model: Path) -> None:
    """Catches real objects that stay under another name than those that they are compared with."""
    rows = [("plane", "vessel")] * 5 + [("plane", "raft")]
    keys: dict[str, Any] = {"rl_tune.class_map": {"vessel": "ship"}}
    real = tmp_path / "real"
    opened = _opened(tmp_path, model, rows, real=real, **keys)
    assert opened.real is not None
    labels = {i.label for s in opened.real.images.samples for i in s.layout.instances}
    assert labels == {"plane", "ship"} and len(opened.real.images) == 5
    assert any(n.startswith("1 of 6 real images show classes") for n in opened.notes)


def test_a_run_goes_through_with_mapped_classes(tmp_path: Path, model: Path) -> None:
    """Catches names that painter, reward or paired loss resolve in the wrong table."""
    samples = [sample(f"scene-{k}.png", _layout("plane", "vessel")) for k in range(6)]
    run = sample_run(tmp_path / "real", samples, classes=TABLE).path
    keys: dict[str, Any] = {
        "rl_tune.class_map": {"vessel": "ship"}, "rl_tune.epochs": 1, "rl_tune.paired_batch": 2,
        "rl_tune.rewards": [{"reward": "remask"}],
    }  # fmt: skip
    job = tune_job(tmp_path / "out", model, run, real=run, **keys)
    session = Session.start(Opened.of(job), Opened.of(job).plan, None)
    (drawn,), _ = session.opened.layouts.take(0, 1)
    painter = session.policy.painter
    plain = replace(painter, classes=TABLE, settings=painter.settings.model_copy(
        update={"class_map": {"vessel": "ship"}}
    ))  # fmt: skip
    assert np.array_equal(
        painter.condition(drawn.layout), plain.condition(_layout("plane", "vessel"))
    )
    assert "ship" in painter.prompt(drawn.layout)
    assert rl_tune(job).exit_code == 0
    assert rows_of(tmp_path / "out")[-1]["paired loss"] > 0


def test_renaming_swaps_and_merges() -> None:
    """Catches names that are translated one after another, and a table with a class twice."""
    model = ClassTable.of("plane", "ship")
    own = ClassTable.of("plane", "ship", "vessel")
    swap = Renaming.of(own, model, {"plane": "ship", "ship": "plane"})
    assert [i.label for i in swap(_layout("plane", "ship", "vessel")).instances] == [
        "ship", "plane", "vessel",
    ]  # fmt: skip
    merged = Renaming.of(own, model, {"vessel": "ship"})
    assert merged.classes.names == ("plane", "ship")
    assert [i.label for i in merged(_layout("vessel", "plane")).instances] == ["ship", "plane"]
    assert Renaming.of(own, model, {})(_layout("vessel")) == _layout("vessel")


def test_another_size_than_the_checkpoints_is_said(tmp_path: Path, model: Path) -> None:
    """Catches patterns at the size that images are made at, which nobody was warned of."""
    rows = [("plane",)] * 6
    larger = _opened(tmp_path / "larger", model, rows, **{"rl_tune.size": 2 * SIZE}).notes
    assert any(f"rl_tune.size {2 * SIZE}: the checkpoint paints {SIZE} px" in n for n in larger)
    assert not [n for n in _opened(tmp_path / "same", model, rows).notes if "rl_tune.size" in n]
