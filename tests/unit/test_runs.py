"""Starting a run: who may write, what the same request is, what a finished one says."""

from __future__ import annotations

import fcntl
import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rsgen.errors import LockedError, RsgenError, SetupError, Stopped, UsageError
from rsgen.job import Control, Job
from rsgen.locks import hold_lock
from rsgen.registry import BUILT_IN, resolve
from rsgen.request import InputRef, Plan, RunInfo
from rsgen.runs import _create_once, begin, start_program
from rsgen.store import is_committed, read_manifest
from tests.build import CLASSES, config, data_of, sample, sample_run, tree
from tests.build_judge import save_judges
from tests.build_models import SIZE, save_model
from tests.build_rl import REWARD

REF = InputRef("run", "/a", "f" * 32, "m" * 64)


def job(out: Path, command: str = "train", **keys: Any) -> Job:
    return Job(command, config(**keys), out)


def plan(batch: int = 8, count: int = 10, size: int = 4) -> Plan:
    return Plan(0, (), batch, "fp32", "cpu", 1).extended(count, size)


def start(a_job: Job, old_plan: Plan | None = None, **more: Any) -> RunInfo:
    with hold_lock(a_job.out, a_job):
        return begin(a_job, inputs=[REF], classes=CLASSES, plan=lambda old: old or old_plan, **more)


def dry_job(name: str, folder: Path) -> Job:
    """What any program can start from: 32 scenes, every fourth a test image, and judges."""
    samples = [sample(f"scene-{k}.png", split="train" if k % 4 else "test") for k in range(32)]
    inputs = {"run": [sample_run(folder / "run", samples).path]}
    if name == "evaluate":
        inputs |= {"real": inputs["run"], "judge": [save_judges(folder / "judges")]}
    keys = {"train.from_scratch": True, "train.max_steps": 1, "evaluate.metrics": ["layout"]}
    if name == "rl-tune":
        inputs = {"checkpoint": [save_model(folder / "model").path], "layouts": inputs["run"]}
        keys |= {"rl_tune.rewards": [REWARD], "rl_tune.size": SIZE, "rl_tune.steps": 5}
    return Job(name, config(**keys), folder / "out", inputs, dry_run=True)


@pytest.mark.parametrize("name", sorted(BUILT_IN["programs"]))
def test_no_program_writes_in_a_dry_run(name: str, tmp_path: Path) -> None:
    """Catches a program that forgets to look: it would build, train or publish, and commit."""
    dry = dry_job(name, tmp_path)
    before = tree(tmp_path)
    summary = resolve("programs", name)(dry)
    assert (summary.command, summary.status) == (name, "dry-run")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", sorted(BUILT_IN["programs"]))
def test_a_dry_run_refuses_what_the_run_would_refuse(name: str, tmp_path: Path) -> None:
    """Catches a dry run that promises work on a folder that the run itself then refuses."""
    dry = dry_job(name, tmp_path)
    program = resolve("programs", name)
    sample_run(dry.out, command=name)
    with pytest.raises(UsageError, match="holds another request"):
        program(dry)
    with pytest.raises(UsageError, match="holds a scenes run, not") as caught:
        program(replace(dry, out=sample_run(tmp_path / "scenes", command="scenes").path))
    assert "\n" not in caught.value.message
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "holiday.jpg").write_text("x")
    with pytest.raises(UsageError, match="is not empty and is no run directory"):
        program(replace(dry, out=tmp_path / "foreign"))


# ---------------------------------------------------------------- growth


def grow(out: Path, names: list[str], grown: int) -> RunInfo:
    """Start on inputs of these names, then again after one of them has grown."""
    refs = [InputRef(n, f"/{k}", f"{k}" * 32, "m" * 64) for k, n in enumerate(names)]
    a_job = job(out, "generate")
    with hold_lock(out, a_job):
        begin(a_job, inputs=refs, classes=CLASSES)
        refs[grown] = replace(refs[grown], manifest_hash="n" * 64)
        return begin(a_job, inputs=refs, classes=CLASSES, may_grow=True)


def test_the_last_input_of_its_name_may_grow(tmp_path: Path) -> None:
    assert grow(tmp_path / "a", ["layouts"], 0).inputs[0].manifest_hash == "n" * 64
    assert grow(tmp_path / "b", ["layouts", "layouts", "pool"], 1)
    with pytest.raises(UsageError, match=r"input layouts /0 has grown .*/1 comes after it"):
        grow(tmp_path / "c", ["layouts", "layouts", "pool"], 0)


# ---------------------------------------------------------------- control


def test_control_says_why_it_stops() -> None:
    control = Control()
    control.check()
    control.request_stop("SIGTERM")
    with pytest.raises(Stopped, match="SIGTERM"):
        control.check()
    with pytest.raises(Stopped, match="--max-time"):
        Control(deadline=time.monotonic() - 1).check()
    with pytest.raises(Stopped, match="stop requested"):
        Control(requested=lambda: True).check()
    Control(deadline=time.monotonic() + 60, requested=lambda: False).check()


def test_control_counts_finished_items() -> None:
    seen: list[int] = []
    control = Control()
    control.advance(3)
    control.on_advance = seen.append
    control.advance()
    control.advance(2)
    assert seen == [1, 2]


# ---------------------------------------------------------------- locks


def test_a_plain_run_shuts_out_everyone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with hold_lock(out, job(out)):
        for slice_of in (None, (0, 2)):
            with pytest.raises(LockedError, match="held by a live run") as caught:
                with hold_lock(out, replace(job(out), slice_of=slice_of)):
                    pass
            assert "--if-locked" in str(caught.value)
    with hold_lock(out, job(out)):
        pass


def test_slices_share_the_folder_but_not_their_slice(tmp_path: Path) -> None:
    """Catches an array job that is started twice, and a plain run beside slices."""
    out = tmp_path / "out"
    first = replace(job(out), slice_of=(0, 2))
    with hold_lock(out, first), hold_lock(out, replace(first, slice_of=(1, 2))):
        for other in (first, job(out)):
            with pytest.raises(LockedError), hold_lock(out, other):
                pass


def test_waiting_gets_the_lock_when_it_is_free(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with (out / "run.lock").open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        release = threading.Timer(0.3, lambda: fcntl.flock(handle, fcntl.LOCK_UN))
        release.start()
        with hold_lock(out, replace(job(out), if_locked="wait")):
            pass
        release.join()


def test_waiting_ends_when_a_stop_is_asked_for(tmp_path: Path) -> None:
    """Catches a scheduler's SIGTERM that a waiting run does not hear."""
    out = tmp_path / "out"
    waiting = Job("train", config(), out, if_locked="wait", control=Control(time.monotonic() + 0.3))
    with hold_lock(out, job(out)), pytest.raises(Stopped), hold_lock(out, waiting):
        pass


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda p: p.write_text("x"), UsageError),
        (lambda p: p.parent.joinpath("file").write_text("x"), UsageError),
        (lambda p: None, SetupError),
    ],
    ids=["out is a file", "out below a file", "kernel folder"],
)
def test_an_out_that_cannot_be_a_folder(make: Any, error: type[RsgenError], tmp_path: Path) -> None:
    out = tmp_path / "out"
    make(out)
    if error is SetupError:
        out = Path("/proc/rsgen-out")
    elif not out.exists():
        out = tmp_path / "file" / "out"
    with pytest.raises(error), hold_lock(out, job(out)):
        pass


# ---------------------------------------------------------------- begin


def test_the_first_start_writes_run_json_and_the_next_reads_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    info = start(job(out), plan())
    assert info == RunInfo.load(out)
    before = (out / "run.json").read_bytes()
    assert start(job(out), plan(batch=99)) == info, "the plan is frozen"
    assert (out / "run.json").read_bytes() == before


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"seed": 3}, "seed: 0 -> 3"),
        ({"train.lr": 0.5}, "train.lr"),
        ({"execution.dtype": "bf16"}, "execution.dtype"),
    ],
    ids=["seed", "section", "learner's dtype"],
)
def test_another_request_is_refused(keys: dict[str, Any], named: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    start(job(out), plan())
    with pytest.raises(UsageError, match=named):
        start(job(out, **keys))
    with pytest.raises(UsageError, match="holds a train run, not export"):
        start(job(out, "export"))


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"execution.batch_size": 4}, r"execution\.batch_size: 8 -> 4"),
        ({"execution.threads": 2}, r"execution\.threads: 1 -> 2"),
        ({"execution.dtype": "bf16"}, r"execution\.dtype: fp32 -> bf16"),
        ({"execution.device": "cuda"}, r"execution\.device: cpu -> cuda"),
        ({"execution.shard_size": 2}, r"execution\.shard_size: 4 -> 2"),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else "",
)
def test_the_plan_is_frozen(keys: dict[str, Any], named: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    start(job(out, "scenes"), plan())
    with pytest.raises(UsageError, match=named):
        start(job(out, "scenes", **keys))


@pytest.mark.parametrize(
    "keys",
    [
        {"execution.batch_size": 8, "execution.dtype": "fp32", "execution.shard_size": 4},
        {"execution.workers": 3, "execution.max_failure_rate": 0.5},
        {"execution.device": "cpu"},
    ],
    ids=["as planned", "free keys", "device as planned"],
)
def test_what_agrees_with_the_plan_is_taken(keys: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    start(job(out, "scenes"), plan())
    start(job(out, "scenes", **keys))


@pytest.mark.parametrize(
    ("keys", "became"),
    [
        ({"execution.batch_size": 16}, plan(batch=4)),
        ({"execution.device": "cuda"}, plan()),
        ({"execution.shard_size": 50}, plan(count=10, size=50).extended(25, 10)),
    ],
    ids=["halved for want of memory", "a device the command does not use", "short first shard"],
)
def test_the_same_line_always_resumes(keys: dict[str, Any], became: Plan, tmp_path: Path) -> None:
    """Catches a run that refuses the very line that started it."""
    out = tmp_path / "out"
    start(job(out, "scenes", **keys), became)
    assert start(job(out, "scenes", **keys)).plan == became


def test_an_input_that_grew(tmp_path: Path) -> None:
    """A sample stage extends; every other command names the input."""
    out = tmp_path / "out"
    start(job(out), plan())
    grown = [replace(REF, manifest_hash="new")]
    with hold_lock(out, job(out)):
        with pytest.raises(UsageError, match="input run has changed"):
            begin(job(out), inputs=grown, classes=CLASSES)
        info = begin(
            job(out),
            inputs=grown,
            classes=CLASSES,
            may_grow=True,
            plan=lambda old: old.extended(12, 4) if old else None,
        )
    assert info.plan is not None and info.plan.count == 12
    assert RunInfo.load(out).inputs[0].manifest_hash == "new"


def test_the_loser_of_a_race_is_held_to_the_winners_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches two slices of one array that start in the same moment with different batches."""
    out = tmp_path / "out"
    start(job(out, "scenes"), plan())
    other = replace(job(out, "scenes", **{"execution.batch_size": 4}), slice_of=(1, 2))
    real, seen = Path.exists, []

    def not_yet(self: Path, **options: Any) -> bool:
        if self.name == "run.json" and not seen:
            seen.append(1)
            return False
        return real(self, **options)

    monkeypatch.setattr(Path, "exists", not_yet)
    with pytest.raises(UsageError, match="planned otherwise"):
        start(other, plan(batch=4))
    assert not list(out.glob(".run.json*")), "no litter"


def test_file_systems_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a crash on network and flash file systems, and a second writer let through."""

    def none(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("rsgen.runs.os.link", none)
    out = tmp_path / "out"
    info = start(job(out), plan())
    assert RunInfo.load(out) == info
    assert _create_once(out / "run.json", b"other") is False
    assert RunInfo.load(out) == info


def test_file_systems_without_locks_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("rsgen.locks.fcntl.flock", none)
    with pytest.raises(SetupError, match="has no file locks"), hold_lock(tmp_path, job(tmp_path)):
        pass


# ---------------------------------------------------------------- programs


def program(out: Path, **options: Any) -> Any:
    with start_program(job(out), inputs=[REF], classes=CLASSES) as run:
        if run.committed:
            return run.summary()
        (run.path / "model").mkdir()
        (run.path / "model" / "w.bin").write_bytes(b"weights")
        run.reporter.metric("loss", 0.5, 3)
        return run.commit(
            counts={"steps": 4},
            artifacts={"model": run.path / "model"},
            tables={"loss": {"first": 1.0}},
            rates={"last loss": 0.5, "steps a second": 2.0},
            notes=("well",),
            **options,
        )


@pytest.mark.parametrize("code", [0, 7])
def test_a_program_commits_once_and_repeats_itself_after(code: int, tmp_path: Path) -> None:
    """Catches a no-op that forgets its missed gate."""
    out = tmp_path / "out"
    first = program(out, exit_code=code)
    assert first.status == ("done" if code == 0 else "gate-missed")
    before = data_of(out)
    again = program(out, exit_code=code)
    assert (again.status, again.exit_code) == ("no-op", code)
    for name in ("counts", "tables", "artifacts", "notes", "command", "out"):
        assert getattr(again, name) == getattr(first, name), name
    assert again.rates == {"last loss": 0.5}, "a speed is of the run that had it"
    assert data_of(out) == before


def test_the_manifest_holds_no_path_or_time(tmp_path: Path) -> None:
    program(tmp_path / "one")
    program(tmp_path / "two" / "deep")
    one, two = tmp_path / "one", tmp_path / "two" / "deep"
    assert (one / "manifest.json").read_bytes() == (two / "manifest.json").read_bytes()
    manifest = read_manifest(one)
    assert manifest["artifact_names"] == {"model": "model"}
    assert manifest["artifacts"][0]["files"] == 1
    assert str(tmp_path) not in (one / "manifest.json").read_text()
    events = [json.loads(line) for line in (one / "events.jsonl").read_text().splitlines()]
    rows = [{k: v for k, v in row.items() if k != "at"} for row in events]
    assert {"kind": "metric", "name": "loss", "value": 0.5, "step": 3} in rows


def test_a_program_that_fails_leaves_no_commit(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ZeroDivisionError), start_program(job(out), inputs=[REF]) as run:
        raise ZeroDivisionError
    assert not is_committed(out) and run.path == out
    with pytest.raises(Stopped), start_program(job(out), inputs=[REF]) as run:
        run.control.request_stop("SIGTERM")
        run.check_stop()


@pytest.mark.parametrize("name", ["holiday.jpg", "parts", ".hidden"])
def test_a_foreign_folder_is_refused_and_left_as_it_was(name: str, tmp_path: Path) -> None:
    """Catches a run.lock planted among the user's own files."""
    out = tmp_path / "mine"
    out.mkdir()
    (out / name).write_text("x")
    with pytest.raises(UsageError, match="is not empty"), start_program(job(out), inputs=[REF]):
        pass
    assert [p.name for p in out.iterdir()] == [name]


def test_a_pipelines_folder_is_no_out(tmp_path: Path) -> None:
    """Catches a KeyError, or a pipeline's record overwritten."""
    (tmp_path / "run.json").write_text('{"schema": 1, "stages": {"a": "a-1"}}')
    with pytest.raises(UsageError, match="in use"), start_program(job(tmp_path), inputs=[REF]):
        pass
    assert json.loads((tmp_path / "run.json").read_text())["stages"] == {"a": "a-1"}
