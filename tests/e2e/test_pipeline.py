"""`rsgen run` over real stages: what changed runs again, a missed gate can be passed."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.conftest import CommandLine, Result

Here = Callable[..., Result]
STAGES = {
    "scenes": {"command": "scenes", "config": {"count": 8, "size": 64}},
    "masks": {"command": "extract-masks", "inputs": {"dataset": "scenes"}},
    "pool": {
        "command": "build-mask-pool",
        "inputs": {"run": "masks"},
        "config": {"min_area_px": 8},
    },
    "kept": {"command": "filter", "inputs": {"run": "masks", "real": "masks"}},
    "set": {
        "command": "export",
        "inputs": {"run": "kept"},
        "config": {"format": ["coco"], "include_unknown": True},
    },
}
ORDER = list(STAGES)


@pytest.fixture(scope="module")
def factory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline file; its work folder is beside it and shared by the tests of this module."""
    path = tmp_path_factory.mktemp("factory") / "factory.yaml"
    path.write_text(yaml.safe_dump({"seed": 3, "stages": STAGES}, sort_keys=False))
    return path


def states(result: Result) -> dict[str, str]:
    """Stage -> done, no-op or gate-missed."""
    return {name: row.split(",")[0] for name, row in result.json["tables"]["stages"].items()}


def current(work: Path) -> dict[str, str]:
    return dict(json.loads((work / "run.json").read_text())["stages"])


@pytest.fixture(scope="module")
def first(factory: Path, cli: CommandLine) -> dict[str, str]:
    """The first run, in a process of its own: every stage is done."""
    result = cli("run", factory, "--work", factory.parent / "work", "--json")
    assert result.code == 0, result
    assert states(result) == dict.fromkeys(ORDER, "done")
    assert all(Path(path).exists() for path in result.json["artifacts"].values())
    return current(factory.parent / "work")


def test_again_is_a_no_op(factory: Path, first: dict[str, str], cli_here: Here) -> None:
    result = cli_here("run", factory, "--work", factory.parent / "work", "--json")
    assert result.code == 0, result
    assert states(result) == dict.fromkeys(ORDER, "no-op")
    assert current(factory.parent / "work") == first


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ("export.category_ids=start=0", ["set"]),
        ("build_mask_pool.min_area_px=9", ["pool"]),
        ("extract_masks.overlay=3", ["masks", "pool", "kept", "set"]),
        ("scenes.count=9", ORDER),
        ("execution.workers=2", []),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_a_changed_key_runs_its_stage_and_what_follows(
    change: str,
    again: list[str],
    factory: Path,
    first: dict[str, str],
    cli_here: Here,
    tmp_path: Path,
) -> None:
    """Catches a stage that is not made anew, and one that is made for nothing."""
    work = tmp_path / "work"
    shutil.copytree(factory.parent / "work", work)
    result = cli_here("run", factory, "--work", work, "-s", change, "--json")
    assert result.code == 0, result
    assert [name for name, state in states(result).items() if state == "done"] == again
    extended = {"scenes"} if change.startswith("scenes.count") else set()
    moved = [name for name in ORDER if current(work)[name] != first[name]]
    assert set(moved) == set(again) - extended, "a larger count extends its folder"
    assert all((work / folder).is_dir() for folder in first.values()), "old folders stay"


def test_until_and_from(factory: Path, cli_here: Here) -> None:
    work = factory.parent / "steps"
    early = cli_here("run", factory, "--work", work, "--until", "masks", "--json")
    assert early.code == 0 and list(states(early)) == ["scenes", "masks"], early
    refused = cli_here("run", factory, "--work", work, "--from", "set")
    assert refused.code == 2 and "has not run yet" in refused.err, refused
    late = cli_here("run", factory, "--work", work, "--from", "pool", "--until", "pool", "--json")
    assert late.code == 0 and list(states(late)) == ["pool"], late


def test_a_missed_gate_ends_the_run_and_from_next_goes_on(
    factory: Path, first: dict[str, str], cli_here: Here
) -> None:
    """Exit 7 is committed; the same line says 7 again; `--from` the next stage passes it."""
    work = factory.parent / "gate"
    shutil.copytree(factory.parent / "work", work)
    strict = ("-s", "filter.fail_under=1.0", "-s", "filter.quotas={ship: 0, small-vehicle: 0}")
    for state in ("gate-missed", "no-op"):
        result = cli_here("run", factory, "--work", work, *strict, "--json")
        assert result.code == 7, result
        assert list(states(result)) == ["scenes", "masks", "pool", "kept"]
        assert states(result)["kept"] == state
    assert current(work)["set"] == first["set"], "nothing after the gate has run"
    passed = cli_here("run", factory, "--work", work, *strict, "--from", "set", "--json")
    assert passed.code == 0, passed
    assert states(passed) == {"set": "done"}


def test_a_pipeline_stops_on_a_signal_and_the_same_line_ends_it(
    factory: Path, cli: CommandLine, cli_here: Here
) -> None:
    work = factory.parent / "stopped"
    line = ("run", factory, "--work", work, "-s", "execution.shard_size=1")
    stopped = cli.stop_when(
        lambda: any(work.glob("scenes-*/parts/*.parquet")), *line, number=signal.SIGTERM
    )
    assert stopped.code == 75, stopped
    assert "stage scenes: SIGTERM" in stopped.err
    result = cli_here(*line, "--until", "masks", "--json")
    assert result.code == 0 and states(result)["scenes"] == "done", result


def test_an_error_names_its_stage(factory: Path, cli_here: Here) -> None:
    work = factory.parent / "bad"
    result = cli_here("run", factory, "--work", work, "-s", "scenes.types=[moon]")
    assert result.code == 2 and "stage scenes: scenes.types: unknown moon" in result.err, result


def test_a_work_folder_is_for_one_run_at_a_time(factory: Path, cli_here: Here) -> None:
    import fcntl

    work = factory.parent / "held"
    work.mkdir()
    with (work / "run.lock").open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        assert cli_here("run", factory, "--work", work).code == 6
