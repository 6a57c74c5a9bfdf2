"""Drivers: plan, shards, failures, memory, extension; with a real stage that draws nothing."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rsgen.errors import RsgenError, SetupError, Stopped, TooManyFailures, UsageError
from rsgen.execution import Control, Job, run_stage
from rsgen.registry import BUILT_IN
from rsgen.request import RunInfo
from rsgen.store import is_committed, open_samples, part_path, read_failures, read_manifest
from tests.build import config, data_of
from tests.probe import TARGET


@pytest.fixture(autouse=True)
def _probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe is the stage `filter` here, so that its samples can be opened."""
    monkeypatch.setitem(BUILT_IN["stages"], "filter", TARGET)


def job(out: Path, count: int = 10, **options: Any) -> Job:
    keys = {k.replace("__", "."): options.pop(k) for k in list(options) if "__" in k}
    settings = config(**{"scenes.count": count, **keys})
    return Job("filter", settings, out, options=options)


def attempt(a_job: Job) -> RsgenError:
    with pytest.raises(RsgenError) as caught:
        run_stage(a_job)
    return caught.value


def test_counts_add_up_and_everything_is_there(tmp_path: Path) -> None:
    summary = run_stage(job(tmp_path / "o"))
    assert summary.status == "done" and summary.exit_code == 0
    assert summary.counts == {"items": 10, "samples": 10, "failures": 0, "instances": 20}
    assert summary.tables == {"probe": {"samples": 10}} and summary.notes == ("a note",)
    assert summary.artifacts == {"table": str(tmp_path / "o" / "table.txt")}
    assert [s.id for s in open_samples(tmp_path / "o")] == [f"p-{k}" for k in range(10)]
    manifest = read_manifest(tmp_path / "o")
    assert [p["rows"] for p in manifest["parts"]] == [4, 4, 2]
    assert RunInfo.load(tmp_path / "o").model_hashes == {"probe": "w"}


def test_the_same_line_again_does_nothing(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    first = run_stage(job(tmp_path / "o", trace=str(trace)))
    before, ran = data_of(tmp_path / "o"), trace.read_text()
    again = run_stage(job(tmp_path / "o", trace=str(trace)))
    assert again.status == "no-op" and again.counts == first.counts
    assert trace.read_text() == ran and data_of(tmp_path / "o") == before


def test_a_stage_is_opened_once_a_worker(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    run_stage(job(tmp_path / "o", trace=str(trace)))
    words = [line.split()[0] for line in trace.read_text().splitlines()]
    assert words == ["open", "shard", "shard", "shard"]


@pytest.mark.parametrize("gone", [[0], [1, 2], [0, 1, 2]], ids=str)
def test_resume_computes_what_is_missing_and_nothing_else(gone: list[int], tmp_path: Path) -> None:
    out, whole, trace = tmp_path / "o", tmp_path / "whole", tmp_path / "trace"
    run_stage(job(whole, trace=str(trace)))
    run_stage(job(out, trace=str(trace)))
    (out / "manifest.json").unlink()
    for k in gone:
        part_path(out, k).unlink()
    (out / "parts" / ".00000.parquet.1-ab.tmp").write_bytes(b"half")
    trace.unlink()
    assert run_stage(job(out, trace=str(trace))).status == "done"
    assert [w.split()[1] for w in trace.read_text().splitlines() if w[0] == "s"] == [
        str(k) for k in gone
    ]
    assert data_of(out) == data_of(whole), "leftovers of a killed writer are gone too"


def test_a_stop_keeps_finished_shards_and_the_same_line_ends_it(tmp_path: Path) -> None:
    out = tmp_path / "o"
    control = Control()
    seen: list[int] = []

    class Watcher:
        def stage(self, *_: object) -> None: ...
        def metric(self, *_: object) -> None: ...
        def note(self, *_: object) -> None: ...
        def advance(self, count: int = 1) -> None:
            seen.append(count)
            if sum(seen) == 6:
                control.request_stop("SIGTERM")

    error = attempt(replace(job(out), control=control, reporter=Watcher()))
    assert isinstance(error, Stopped) and error.exit_code == 75
    assert part_path(out, 0).is_file() and not part_path(out, 1).is_file()
    assert run_stage(job(out)).status == "done"
    run_stage(job(tmp_path / "whole"))
    assert data_of(out) == data_of(tmp_path / "whole")


def test_no_time_left_stops_before_the_first_shard(tmp_path: Path) -> None:
    error = attempt(replace(job(tmp_path / "o"), control=Control(time.monotonic() - 1)))
    assert isinstance(error, Stopped) and not list((tmp_path / "o").glob("parts/*"))


# ---------------------------------------------------------------- extension


def test_ten_then_twenty_five_is_twenty_five(tmp_path: Path) -> None:
    run_stage(job(tmp_path / "a", 10))
    first = part_path(tmp_path / "a", 0).read_bytes()
    summary = run_stage(job(tmp_path / "a", 25))
    run_stage(job(tmp_path / "b", 25))
    assert summary.counts["samples"] == 25
    assert list(open_samples(tmp_path / "a")) == list(open_samples(tmp_path / "b"))
    assert part_path(tmp_path / "a", 0).read_bytes() == first
    assert "24" in (tmp_path / "a" / "table.txt").read_text()


def test_an_extension_at_a_shard_border_is_byte_identical(tmp_path: Path) -> None:
    run_stage(job(tmp_path / "a", 8))
    run_stage(job(tmp_path / "a", 12))
    run_stage(job(tmp_path / "b", 12))
    assert data_of(tmp_path / "a") == data_of(tmp_path / "b")


def test_a_short_first_shard_does_not_set_the_size_of_the_rest(tmp_path: Path) -> None:
    """Catches a trial of one item that makes the real run one file an item."""
    run_stage(job(tmp_path / "o", 1))
    run_stage(job(tmp_path / "o", 9))
    plan = RunInfo.load(tmp_path / "o").plan
    assert plan is not None and plan.shards == ((0, 1), (1, 5), (5, 9))


def test_readers_see_the_old_run_until_the_extension_is_committed(tmp_path: Path) -> None:
    run_stage(job(tmp_path / "o", 4))
    stopped = replace(job(tmp_path / "o", 12), control=Control(time.monotonic() - 1))
    assert isinstance(attempt(stopped), Stopped)
    assert len(open_samples(tmp_path / "o")) == 4
    run_stage(job(tmp_path / "o", 12))
    assert len(open_samples(tmp_path / "o")) == 12


def test_fewer_items_are_refused(tmp_path: Path) -> None:
    run_stage(job(tmp_path / "o", 8))
    error = attempt(job(tmp_path / "o", 7))
    assert isinstance(error, UsageError) and "already has 8 items, 7 asked for" in error.message


# ---------------------------------------------------------------- failures


def test_failures_above_the_limit_leave_it_open_and_only_they_are_done_again(
    tmp_path: Path,
) -> None:
    out, broken, trace = tmp_path / "o", tmp_path / "broken", tmp_path / "trace"
    broken.touch()
    line = job(out, fail=[1, 9], broken=str(broken), trace=str(trace))
    error = attempt(line)
    assert isinstance(error, TooManyFailures) and error.exit_code == 5
    assert "2 failures in 10 items" in error.message
    assert "DataError (2), first: 1: broken" in error.message, "what is wrong, without a search"
    assert not is_committed(out)
    assert [f.item for f in read_failures(out)] == ["1", "9"]
    assert isinstance(attempt(line), TooManyFailures), "nothing mended: the same again"
    broken.unlink()
    trace.unlink()
    summary = run_stage(line)
    assert summary.counts["failures"] == 0 and summary.counts["samples"] == 10
    shards = [w.split()[1] for w in trace.read_text().splitlines() if w.startswith("shard")]
    assert shards == ["0", "2"]
    assert not list(read_failures(out))


def test_failures_below_the_limit_are_rows_in_a_committed_run(tmp_path: Path) -> None:
    (tmp_path / "broken").touch()
    line = job(
        tmp_path / "o", fail=[3], broken=str(tmp_path / "broken"), execution__max_failure_rate=0.1
    )
    summary = run_stage(line)
    assert summary.counts["items"] == summary.counts["samples"] + summary.counts["failures"] == 10
    assert [f.item for f in read_failures(tmp_path / "o")] == ["3"]
    assert run_stage(line).status == "no-op", "committed failures are not tried again"


def test_a_failed_extension_can_be_mended(tmp_path: Path) -> None:
    """Catches an extension that stays above the limit for ever; old parts stay untouched."""
    out, broken = tmp_path / "o", tmp_path / "broken"
    broken.touch()
    more: dict[str, Any] = {"fail": [0, 9, 10, 11], "broken": str(broken)}
    limit = {"execution__max_failure_rate": 0.25}
    run_stage(job(out, 8, **more, **limit))
    first = part_path(out, 0).read_bytes()
    assert isinstance(attempt(job(out, 12, **more, **limit)), TooManyFailures)
    broken.unlink()
    summary = run_stage(job(out, 12, **more, **limit))
    assert summary.counts["failures"] == 1, "the committed failure stays"
    assert part_path(out, 0).read_bytes() == first


def test_a_gate_that_was_missed_is_committed_and_remembered(tmp_path: Path) -> None:
    line = job(tmp_path / "o", gate=7)
    first = run_stage(line)
    assert (first.exit_code, first.status) == (7, "gate-missed") and is_committed(tmp_path / "o")
    again = run_stage(line)
    assert (again.exit_code, again.status) == (7, "no-op")


# ---------------------------------------------------------------- slices


def test_slices_share_the_work_and_a_plain_run_commits(tmp_path: Path) -> None:
    out, trace = tmp_path / "o", tmp_path / "trace"
    line = job(out, trace=str(trace))
    for k in (1, 0):
        part = run_stage(replace(line, slice_of=(k, 2)))
        assert part.status == "partial" and part.exit_code == 0 and not is_committed(out)
    assert part.counts == {"shards": 2, "items": 6}
    ran = trace.read_text()
    assert run_stage(line).status == "done"
    assert trace.read_text() == ran, "the committing run had nothing to compute"
    run_stage(job(tmp_path / "whole", trace=str(trace)))
    assert data_of(out) == data_of(tmp_path / "whole")


def test_a_slice_mends_its_own_failures_only(tmp_path: Path) -> None:
    """Catches a slice that throws away the parts of another one."""
    out, broken = tmp_path / "o", tmp_path / "broken"
    broken.touch()
    line = job(out, fail=[1, 5], broken=str(broken))
    for k in (0, 1):
        run_stage(replace(line, slice_of=(k, 2)))
    broken.unlink()
    run_stage(replace(line, slice_of=(0, 2)))
    assert part_path(out, 1).is_file()
    assert [f.item for f in read_failures(out)] == ["5"]
    run_stage(replace(line, slice_of=(1, 2)))
    assert run_stage(line).counts["failures"] == 0


# ---------------------------------------------------------------- plans


def test_out_of_memory_halves_the_batch_for_the_whole_run(tmp_path: Path) -> None:
    line = job(tmp_path / "o", memory=3, execution__batch_size=16)
    assert run_stage(line).status == "done"
    plan = RunInfo.load(tmp_path / "o").plan
    assert plan is not None and plan.batch_size == 2
    assert run_stage(line).status == "no-op", "the line that asked for 16 is still this run's"


def test_out_of_memory_later_names_the_line_to_type(tmp_path: Path) -> None:
    error = attempt(job(tmp_path / "o", memory_at=1))
    assert isinstance(error, SetupError) and error.exit_code == 4
    assert "parts made with it exist" in error.message
    assert error.hint and f"--out {tmp_path / 'o'}-2 --batch-size 4" in error.hint


def test_out_of_memory_with_one_item_gives_up(tmp_path: Path) -> None:
    error = attempt(job(tmp_path / "o", memory=0))
    assert isinstance(error, SetupError) and "batch size 1" in error.message


def test_a_rate_is_of_what_was_made_by_this_line(tmp_path: Path) -> None:
    """Catches an old speed shown as new by a no-op, and all items counted for an extension."""
    first = run_stage(job(tmp_path / "o", 10))
    assert first.rates["items a second"] == pytest.approx(10 / first.seconds, rel=0.5)
    assert run_stage(job(tmp_path / "o", 10)).rates == {}
    more = run_stage(job(tmp_path / "o", 11))
    assert more.rates["items a second"] == pytest.approx(1 / more.seconds, rel=0.5)


def test_dry_run_writes_nothing_and_tells_the_plan(tmp_path: Path) -> None:
    summary = run_stage(replace(job(tmp_path / "o"), dry_run=True))
    assert summary.status == "dry-run" and not (tmp_path / "o").exists()
    wanted = {"items": 10, "items left": 10, "shards": 3, "shards already done": 0}
    assert summary.counts == wanted
    assert summary.notes == ("a probe",)
    run_stage(job(tmp_path / "o"))
    done = run_stage(replace(job(tmp_path / "o"), dry_run=True))
    assert done.counts["shards already done"] == 3 and done.counts["items left"] == 0
    more = run_stage(replace(job(tmp_path / "o", scenes__count=13), dry_run=True))
    assert more.counts["items left"] == 3, "items of a partial run, not shards alone"
    error = attempt(replace(job(tmp_path / "o", gate=7), dry_run=True))
    assert isinstance(error, UsageError) and "option gate" in error.message


def test_a_device_that_is_not_there_is_an_environment_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr("tests.probe.ProbeStage.uses_torch", True, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    error = attempt(job(tmp_path / "o", execution__device="cuda"))
    assert isinstance(error, SetupError) and "no CUDA device" in error.message
    assert not (tmp_path / "o" / "parts").exists()


@pytest.mark.parametrize("held", ["file", "folder"])
def test_a_foreign_out_is_refused_before_anything_is_written(held: str, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    if held == "file":
        out.write_text("x")
    else:
        out.mkdir()
        (out / "holiday.jpg").write_text("x")
    assert isinstance(attempt(job(out)), UsageError)
    assert held == "file" or [p.name for p in out.iterdir()] == ["holiday.jpg"]


def test_out_inside_a_raw_data_set_is_refused(tmp_path: Path) -> None:
    """Catches a run that changes its own input, so that the same line is another request."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "labels.txt").write_text("x")
    line = Job("extract-masks", config(), data / "masks", inputs={"dataset": [data]})
    with pytest.raises(UsageError, match="lies inside the input"):
        run_stage(line)
    assert not (data / "masks").exists()
