"""status: what a folder tells of its runs; nothing is written, no lock is taken."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rsgen_cli.tables import status_text

from rsgen.errors import DataError
from rsgen.reporting import EventLog
from rsgen.status import RunStatus, Status, look
from tests.build import sample, sample_run, tree
from tests.conftest import CommandLine

Here = Callable[..., Any]


def events(out: Path, *rows: dict[str, Any]) -> None:
    """Rows a second apart, the last one now."""
    now = time.time()
    lines = [{"at": now - len(rows) + 1 + k, **row} for k, row in enumerate(rows)]
    (out / "events.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))


def progress(done: int, total: int, name: str = "extract-masks", **more: Any) -> dict[str, Any]:
    return {"kind": "progress", "name": name, "done": done, "total": total, "unit": "item", **more}


def half_done(out: Path) -> Path:
    """Two of three shards of 4 items are there."""
    samples = [sample(f"scene-{k}.png") for k in range(12)]
    sample_run(out, samples, committed=False)
    (out / "parts" / "00002.parquet").unlink()
    return out


def held(out: Path) -> Any:
    handle = (out / "run.lock").open("a")
    fcntl.flock(handle, fcntl.LOCK_EX)
    return handle


def one(path: Path) -> RunStatus:
    (run,) = look(path).runs
    return run


STOPPED = {"status": "stopped", "exit_code": 75, "error": "Stopped", "message": "SIGTERM"}
FAILED = {"status": "failed", "exit_code": 3, "error": "DataError", "message": "x.png: bad\nmore"}


@pytest.mark.parametrize(
    ("summary", "lock", "state", "detail"),
    [
        pytest.param(None, False, "stopped", "same line again", id="killed"),
        pytest.param(None, True, "running", "", id="at work"),
        pytest.param(STOPPED, False, "stopped", "SIGTERM", id="on request"),
        pytest.param(FAILED, False, "failed", "x.png: bad", id="failed"),
        pytest.param(FAILED, True, "running", "", id="failed before, at work again"),
        pytest.param({"error": None}, False, "stopped", "without", id="an odd summary"),
    ],
)
def test_state_of_an_uncommitted_run(
    summary: dict[str, Any] | None, lock: bool, state: str, detail: str, tmp_path: Path
) -> None:
    out = half_done(tmp_path / "out")
    events(out, {"kind": "note"}, progress(1, 4), {"at": "x"}, {"kind": "metric"})
    if summary is not None:
        (out / "summary.json").write_text(json.dumps(summary))
    handle = held(out) if lock else None
    found = one(out)
    assert found.state == state and detail in found.detail
    # What a live process has done of a shard counts; after its end only parts do.
    assert (found.done, found.total, found.left) == ((9, 12, 3) if lock else (8, 12, 4))
    assert (found.shards_done, found.shards) == (2, 3)
    if handle is not None:
        handle.close()
        assert one(out).state != "running", "a lock that was let go is no live run"


def test_rate_and_time_left_are_of_this_start(tmp_path: Path) -> None:
    """Catches a rate over the pause between two starts, and over another phase."""
    out = half_done(tmp_path / "out")
    rows = [progress(0, 12), progress(8, 12), progress(0, 4), progress(1, 4), progress(2, 4)]
    rows[0]["at"] = rows[1]["at"] = time.time() - 5000
    events(out, *rows)
    with held(out):
        found = one(out)
    assert found.rate == pytest.approx(1.0) and found.done == 10
    assert found.eta_s == pytest.approx(2.0) and found.phase == ""


def test_a_program_counts_by_its_events(tmp_path: Path) -> None:
    out = half_done(tmp_path / "out")
    record = json.loads((out / "run.json").read_text())
    record["plan"] |= {"shards": [], "count": 400}
    record["command"] = "train"
    (out / "run.json").write_text(json.dumps(record))
    events(
        out,
        progress(64, 64, "encoding training images"),
        progress(0, 400, "training", unit="step"),
        {"kind": "metric", "name": "loss", "value": 0.25, "step": 10},
        progress(10, 400, "training", unit="step"),
    )
    with held(out):
        found = one(out)
    assert (found.done, found.total, found.unit, found.phase) == (10, 400, "step", "training")
    assert found.metric == ("loss", 0.25, 10) and found.rate == pytest.approx(5.0)
    assert found.eta_s == pytest.approx(78.0)


@pytest.mark.parametrize("code", [0, 7])
def test_a_committed_run(code: int, tmp_path: Path) -> None:
    sample_run(tmp_path / "out", exit_code=code)
    found = one(tmp_path / "out" / "parts")
    assert found.state == "committed" and found.exit_code == code and found.left == 0
    assert (found.done, found.shards_done, bool(found.detail)) == (6, 2, code == 7)
    assert found.bytes > 1000 and found.age_s is not None and found.age_s < 60


def work_folder(work: Path, current: dict[str, str], **more: Any) -> Path:
    work.mkdir(exist_ok=True)
    row = {"schema": 1, "stages": current, **more}
    (work / "run.json").write_text(json.dumps(row))
    return work


def test_a_work_folder_shows_its_stages_in_order(tmp_path: Path) -> None:
    """Catches the stage at work left out (the record names it only at its end), and old folders
    of earlier requests shown as stages."""
    work = work_folder(tmp_path / "work", {"masks": "masks-2", "pool": "pool-1"})
    sample_run(work / "masks-1")
    sample_run(work / "masks-2")
    sample_run(work / "pool-1")
    half_done(work / "model-1")
    with held(work / "model-1"), held(work):
        found = look(work)
    assert [(r.name, r.state) for r in found.runs] == [
        ("masks", "committed"),
        ("pool", "committed"),
        ("model", "running"),
    ]
    assert found.older == 1 and found.older_bytes > 0 and found.is_going


def test_a_stage_that_runs_again_is_shown_by_its_new_folder(tmp_path: Path) -> None:
    work = work_folder(tmp_path / "work", {"masks": "masks-1"}, order=["masks", "pool"])
    sample_run(work / "masks-1")
    half_done(work / "masks-2")
    later = time.time() + 5
    os.utime(work / "masks-2" / "run.json", (later, later))
    found = look(work)
    assert [(r.name, r.state) for r in found.runs] == [("masks", "stopped"), ("pool", "waiting")]
    assert found.older == 1 and not found.is_going


def test_a_stage_whose_input_was_made_anew_is_outdated(tmp_path: Path) -> None:
    """Catches `committed` said of images that come from the model before this one."""
    work = work_folder(tmp_path / "work", {"m": "m-2", "i": "i-1", "k": "k-1"}, order=list("mik"))
    for name in ("m-1", "m-2", "i-1", "k-1"):
        sample_run(work / name)
    for name, source in (("i-1", "m-1"), ("k-1", "i-1")):
        path = work / name / "run.json"
        row = json.loads(path.read_text())
        row["inputs"] = [{"name": "run", "path": str((work / source).resolve())}]
        path.write_text(json.dumps(row))
    found = look(work)
    assert [r.state for r in found.runs] == ["committed", "outdated", "outdated"]
    assert "m-1" in found.runs[1].detail and found.older == 1


def test_the_latest_turn_of_a_series_is_shown(tmp_path: Path) -> None:
    work = work_folder(tmp_path / "work", {"model": "model-1"}, order=["model"])
    sample_run(work / "model-1")
    for number in (1, 2):
        stages = {"model": "../model-1", "images": f"images-{number}"}
        series = {"name": "night", "number": number, "seed": 1}
        turn = work_folder(work / f"night-000{number}", stages, order=["images", "set"],
                           series=series)  # fmt: skip
        sample_run(turn / f"images-{number}")
    (work / "night-0001" / "manifest.json").write_text('{"exit_code": 0}')
    found = look(work)
    assert [(r.name, r.state) for r in found.runs] == [
        ("model", "committed"),
        ("night-0002/images", "committed"),
        ("night-0002/set", "waiting"),
    ]
    assert found.turns == {"night": 1} and found.older == 0


@pytest.mark.parametrize(
    ("done", "going", "words"),
    [
        pytest.param(True, False, "2 complete turns, the latest above", id="complete"),
        pytest.param(False, False, "1 complete turn, the one above is not complete", id="killed"),
        pytest.param(False, True, "1 complete turn, the one above is at work", id="at work"),
    ],
)
def test_a_turn_that_is_not_complete_is_said(
    done: bool, going: bool, words: str, tmp_path: Path
) -> None:
    """Catches a killed night that is called the latest complete one."""
    work = work_folder(tmp_path / "work", {}, order=[])
    for number in (1, 2):
        series = {"name": "night", "number": number, "seed": 1}
        turn = work_folder(work / f"night-000{number}", {}, order=["images"], series=series)
        if number == 1 or done:
            (turn / "manifest.json").write_text('{"exit_code": 0}')
    if going:
        with held(work):
            found = look(work)
    else:
        found = look(work)
    assert words in status_text(found)
    assert found.to_json()["unfinished_turns"] == ([] if done else ["night"])


def test_a_folder_of_runs(tmp_path: Path) -> None:
    sample_run(tmp_path / "a")
    sample_run(work_folder(tmp_path / "work", {"masks": "masks-1"}) / "masks-1")
    found = look(tmp_path)
    assert found.kind == "folder" and [r.name for r in found.runs] == ["a", "work/masks"]


@pytest.mark.parametrize("there", [True, False])
def test_no_run_is_said(there: bool, tmp_path: Path) -> None:
    if there:
        (tmp_path / "x").mkdir()
    with pytest.raises(DataError, match="no run here" if there else "no such folder"):
        look(tmp_path / "x")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"fingerprint": 1}'])
def test_a_broken_record_is_no_crash(text: str, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "run.json").write_text(text)
    assert {r.state for r in look(tmp_path).runs} <= {"failed", "stopped"}


def test_event_log_says_progress_now_and_then(tmp_path: Path) -> None:
    """Catches a row an item, which would be gigabytes, and a missing last one."""
    log = EventLog(tmp_path / "events.jsonl")
    log.stage("train", 5, "step")
    for _ in range(5):
        log.advance()
    rows = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [row["done"] for row in rows] == [0, 5]
    assert all(abs(row["at"] - time.time()) < 60 for row in rows)


def test_status_changes_nothing_and_prints(tmp_path: Path, cli_here: Here) -> None:
    out = half_done(tmp_path / "out")
    before = tree(tmp_path)
    text = cli_here("status", out)
    rows = cli_here("status", out, "--json").json
    assert text.code == 0 and "8/12 items" in text.out and "2/3" in text.out
    assert rows["runs"][0]["left"] == 4 and rows["kind"] == "run" and rows["schema"] == 1
    assert tree(tmp_path) == before
    missing = cli_here("status", tmp_path / "ou")
    assert missing.code == 3 and "did you mean" in missing.err


def test_watch_ends_with_the_run(tmp_path: Path, cli_here: Here) -> None:
    sample_run(tmp_path / "out")
    assert cli_here("status", tmp_path / "out", "--watch", "0.2").code == 0


def test_status_of_a_live_run_and_after_its_stop(tmp_path: Path, cli: CommandLine) -> None:
    """End to end: a real process holds the lock; status sees it work, then stopped."""
    out = tmp_path / "scenes"
    seen: list[Status] = []

    def working() -> bool:
        if any(out.glob("parts/*.parquet")):
            seen.append(look(out))
        return bool(seen)

    line = ("scenes", "--count", "500", "--size", "64", "--out", out, "-s",
            "execution.shard_size=2")  # fmt: skip
    stopped = cli.stop_when(working, *line, number=signal.SIGTERM)
    assert stopped.code == 75, stopped
    (live,) = seen[0].runs
    assert live.state == "running" and live.total == 500 and live.done >= 2
    after = one(out)
    assert after.state == "stopped" and "SIGTERM" in after.detail
    assert after.left is not None and 0 < after.left < 500


def test_status_is_quick_and_loads_no_library(tmp_path: Path) -> None:
    sample_run(tmp_path / "out")
    code = (
        "import sys; sys.argv = ['rsgen', 'status', sys.argv[1]]\n"
        "from rsgen_cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "print(' '.join({n.split('.')[0] for n in sys.modules}), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(done.stderr.split())
    assert not loaded & {"torch", "diffusers", "scipy", "pyarrow"}
