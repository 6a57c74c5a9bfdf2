"""A repeated line makes something new each time; a killed turn is taken up again."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rsgen.errors import DataError, LockedError, Stopped, UsageError
from rsgen.pipeline import PipelineJob, run_command, run_pipeline
from rsgen.pipeline_file import read_pipeline
from rsgen.pipeline_folders import Folders, anew, read_record
from rsgen.registry import BUILT_IN
from rsgen.reporting import RunSummary
from rsgen.request import SPLIT_SEED, RunInfo, item_seed
from rsgen.runs import Control, Job
from rsgen.series import committed_turns, hold_series, next_turn
from rsgen.store import is_committed, open_samples
from tests.build import config, sample_run, tree
from tests.probe import TARGET


@pytest.fixture(autouse=True)
def _probes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("scenes", "generate", "filter"):
        monkeypatch.setitem(BUILT_IN["stages"], name, TARGET)


def job(out: Path, seed: int = 5, count: int = 6, series: str = "night") -> Job:
    keys = {"scenes.count": count, "execution.shard_size": 2, "seed": seed}
    return Job("generate", config(**keys), out, series=series)


def seeds(run: Path) -> set[str]:
    return {s.attributes["seed"] for s in open_samples(run)}


# ---------------------------------------------------------------- one command


def test_each_call_is_a_new_turn_with_new_seeds(tmp_path: Path) -> None:
    parent = tmp_path / "images"
    summaries = [run_command(job(parent)) for _ in range(3)]
    names = ["night-0001", "night-0002", "night-0003"]
    assert [Path(s.out).name for s in summaries] == names
    assert [s.series and s.series["number"] for s in summaries] == [1, 2, 3]
    found = [seeds(parent / name) for name in names]
    assert not (found[0] & found[1] | found[0] & found[2] | found[1] & found[2])
    prints = {RunInfo.load(parent / name).fingerprint8 for name in names}
    assert len(prints) == 3, "sample ids begin with it"


def test_the_seed_is_the_hash_of_seed_name_and_number(tmp_path: Path) -> None:
    run_command(job(tmp_path, seed=5))
    info = RunInfo.load(tmp_path / "night-0001")
    assert info.seed == item_seed(5, "series/night", "1")
    assert info.options[SPLIT_SEED] == 5, "splits are those of every turn"
    turns = {next_turn(tmp_path / "x", name, seed).seed for name in ("a", "b") for seed in (0, 1)}
    assert len(turns) == 4


def test_an_interrupted_turn_is_taken_up_again(tmp_path: Path) -> None:
    run_command(job(tmp_path))
    stopped = replace(job(tmp_path), control=Control(time.monotonic() - 1))
    with pytest.raises(Stopped):
        run_command(stopped)
    assert not is_committed(tmp_path / "night-0002")
    assert Path(run_command(job(tmp_path)).out).name == "night-0002"
    assert [t.number for t in committed_turns(tmp_path, "night", 5)] == [1, 2]


def test_an_interrupted_turn_of_another_line_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        run_command(replace(job(tmp_path), control=Control(time.monotonic() - 1)))
    with pytest.raises(UsageError, match="holds another request") as caught:
        run_command(job(tmp_path, seed=6))
    assert "finish it with that line" in str(caught.value.hint)
    assert "0001-2" not in str(caught.value.hint), "--out OUT-2 is no way out of a series"


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        ([], 1),
        (["night-0007"], 8),
        (["night-0002", "nightly-0009", "night-12", "night-0003x", "xnight-0004"], 3),
        (["night-9999", "night-10000"], 10001),
    ],
    ids=["none", "gap", "other names", "five digits"],
)
def test_the_number_is_the_highest_committed_plus_one(
    there: list[str], expected: int, tmp_path: Path
) -> None:
    for name in there:
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text('{"exit_code": 0}')
    (tmp_path / "night-0500").write_text("a file")
    assert next_turn(tmp_path, "night", 0).number == expected


def test_slices_work_on_the_same_turn_and_a_plain_run_commits_it(tmp_path: Path) -> None:
    for k in (1, 0):
        part = run_command(replace(job(tmp_path), slice_of=(k, 2)))
        assert (part.status, Path(part.out).name) == ("partial", "night-0001")
    assert run_command(job(tmp_path)).out.endswith("night-0001")
    whole = run_command(replace(job(tmp_path / "b"), series="night"))
    assert seeds(tmp_path / "night-0001") == seeds(Path(whole.out))


def test_two_turns_at_once_are_refused_and_two_series_are_not(tmp_path: Path) -> None:
    with hold_series(tmp_path, "night", job(tmp_path)):
        with pytest.raises(LockedError, match="night is held"):
            run_command(job(tmp_path))
        assert run_command(job(tmp_path, series="day")).status == "done"


def test_a_dry_run_names_the_turn_and_writes_nothing(tmp_path: Path) -> None:
    run_command(job(tmp_path / "a"))
    before = tree(tmp_path)
    summary = run_command(replace(job(tmp_path / "a"), dry_run=True))
    assert Path(summary.out).name == "night-0002" and summary.status == "dry-run"
    run_command(replace(job(tmp_path / "new"), dry_run=True))
    assert tree(tmp_path) == before and not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["", "../x", ".hidden", "a/b", "näh", "a b"])
def test_names_that_are_no_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--series"):
        run_command(job(tmp_path, series=name))
    assert not list(tmp_path.iterdir())


def test_a_run_is_no_parent_and_other_commands_have_no_series(tmp_path: Path) -> None:
    run = sample_run(tmp_path / "run").path
    with pytest.raises(UsageError, match="is a run"):
        run_command(job(run))
    assert not (run / "night.lock").exists()
    with pytest.raises(UsageError, match="--series is for generate and run, not scenes"):
        run_command(replace(job(tmp_path / "o"), command="scenes"))


# ---------------------------------------------------------------- pipelines

STAGES: Mapping[str, Any] = {
    "real": {"command": "scenes", "config": {"count": 3}},
    "other": {"command": "filter", "inputs": {"run": "real"}},
    "images": {"command": "generate", "inputs": {"checkpoint": "real"}},
    "kept": {"command": "filter", "inputs": {"run": "images", "real": "real"}},
}


def write(tmp_path: Path, stages: Mapping[str, Any] = STAGES, **more: Any) -> str:
    path = tmp_path / "p.yaml"
    path.write_text(json.dumps({"seed": 4, "scenes": {"count": 3}, **more, "stages": stages}))
    return str(path)


def run(tmp_path: Path, **more: Any) -> RunSummary:
    series = {"series": "night", **more}
    return run_pipeline(PipelineJob(write(tmp_path), tmp_path / "work", **series))


def folders(path: Path) -> list[str]:
    return sorted(p.name.rpartition("-")[0] for p in path.iterdir() if p.is_dir())


def test_what_a_series_makes_anew(tmp_path: Path) -> None:
    pipeline = read_pipeline(PipelineJob(write(tmp_path), None))
    assert anew(pipeline) == {"images", "kept"}


def test_nights_share_what_comes_before_generate(tmp_path: Path) -> None:
    work = tmp_path / "work"
    first, second = run(tmp_path), run(tmp_path)
    assert [Path(s.out).name for s in (first, second)] == ["night-0001", "night-0002"]
    assert folders(work) == ["night", "night", "other", "real"]
    assert folders(work / "night-0002") == ["images", "kept"]
    done = {n: str(v).split(",")[0] for n, v in second.tables["stages"].items()}
    assert done == {"real": "no-op", "other": "no-op", "images": "done", "kept": "done"}
    record = json.loads((work / "night-0002" / "run.json").read_text())
    assert (work / "night-0002" / record["stages"]["real"] / "manifest.json").is_file()
    assert record["series"]["number"] == 2
    assert set(read_record(work)) == {"real", "other"}


def test_only_generate_has_the_turns_seed(tmp_path: Path) -> None:
    """A split or a threshold drawn anew each night would move samples from val to train."""
    run(tmp_path)
    second = Path(run(tmp_path).out)
    found = {
        p.name.rpartition("-")[0]: RunInfo.load(p).seed for p in second.iterdir() if p.is_dir()
    }
    assert found["kept"] == 4 and found["images"] == item_seed(4, "series/night", "2")


def test_until_leaves_the_turn_open(tmp_path: Path) -> None:
    one = run(tmp_path, last="images")
    assert one.exit_code == 0 and not is_committed(Path(one.out))
    two = run(tmp_path)
    assert two.out == one.out and is_committed(Path(two.out))
    assert str(two.tables["stages"]["images"]).startswith("no-op")


def test_from_begins_a_turn_on_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'real' has not run yet"):
        run(tmp_path, first="images")
    run(tmp_path)
    assert Path(run(tmp_path, first="images").out).name == "night-0002"
    with pytest.raises(UsageError, match=r"'images' has not run yet in .*night-0003"):
        run(tmp_path, first="kept")


def test_a_missed_gate_ends_the_turn_and_from_goes_on_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a line that stands still for ever behind one bad night."""
    from tests import probe

    def finish(self: probe.ProbeStage, finished: Any) -> Any:
        from rsgen.execution import Finish

        return Finish(exit_code=7 if self._info.command == "generate" else 0)

    with monkeypatch.context() as patch:
        patch.setattr(probe.ProbeStage, "finish", finish)
        missed = run(tmp_path)
    assert missed.exit_code == 7 and missed.status == "gate-missed"
    assert [t.exit_code for t in committed_turns(tmp_path / "work", "night", 4)] == [7]
    forced = run(tmp_path, first="kept")
    assert forced.out == missed.out and forced.exit_code == 0
    assert [t.exit_code for t in committed_turns(tmp_path / "work", "night", 4)] == [0]
    assert Path(run(tmp_path).out).name == "night-0002"


def test_an_export_reads_every_complete_turn_that_met_its_gates(tmp_path: Path) -> None:
    work = tmp_path / "work"
    stages = {**STAGES, "set": {"command": "export", "inputs": {"run": "kept", "real": "real"}}}
    nights = [Path(run(tmp_path).out) for _ in range(4)]
    manifest = json.loads((nights[1] / "manifest.json").read_text())
    (nights[1] / "manifest.json").write_text(json.dumps({**manifest, "exit_code": 7}))
    (nights[3] / "manifest.json").unlink()
    pipeline = read_pipeline(PipelineJob(write(tmp_path, stages), None))
    here = Folders(work, pipeline, next_turn(work, "night", 4))
    inputs = here.inputs(pipeline.stages["set"], "set")
    assert [p.parent.name for p in inputs["run"]] == ["night-0001", "night-0003", "night-0004"]
    assert [p.parent for p in inputs["real"]] == [work]
    (gone,) = nights[0].glob("kept-*")
    gone.rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="its stage kept is gone"):
        here.inputs(pipeline.stages["set"], "set")


@pytest.mark.parametrize(
    ("stages", "name", "message"),
    [
        ({"real": STAGES["real"]}, "night", "no generate stage"),
        (STAGES, "kept", "a stage has that name"),
        (STAGES, "../x", "letters, digits"),
    ],
    ids=["nothing new", "a stage's name", "a path"],
)
def test_what_is_refused(
    stages: Mapping[str, Any], name: str, message: str, tmp_path: Path
) -> None:
    path = write(tmp_path, stages)
    with pytest.raises(UsageError, match=message):
        run_pipeline(PipelineJob(path, tmp_path / "work", series=name))
    assert not (tmp_path / "work").exists()


def test_a_dry_run_of_a_pipeline_names_the_turn(tmp_path: Path) -> None:
    summary = run(tmp_path, dry_run=True)
    assert Path(summary.out).name == "night-0001" and "images, kept" in summary.notes[0]
    assert not (tmp_path / "work").exists()
