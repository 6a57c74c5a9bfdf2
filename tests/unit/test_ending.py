"""summary.json for every end, and the command that is told of it."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rsgen.ending import failed_summary, recorded
from rsgen.errors import DataError, LockedError, RsgenError, Stopped, UsageError
from rsgen.job import Control, Job
from rsgen.locks import hold_lock
from rsgen.pipeline import PipelineJob, run_command, run_pipeline
from rsgen.registry import BUILT_IN
from rsgen.reporting import NullReporter
from rsgen.request import RunInfo
from tests.build import config
from tests.probe import TARGET

COPY = 'cp "$RSGEN_SUMMARY" told.json; echo "$1" > where.txt'


@pytest.fixture(autouse=True)
def _probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BUILT_IN["stages"], "scenes", TARGET)


class Notes(NullReporter):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str, level: str = "info") -> None:
        self.texts.append(text)


def job(out: Path, count: int = 6, on_finish: str | None = COPY, **options: Any) -> Job:
    keys = {"scenes.count": count, "execution.shard_size": 2, "on_finish": on_finish}
    return Job("scenes", config(**keys), out, options=options, reporter=Notes())


def summary_of(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "summary.json").read_text()))


def told() -> dict[str, Any]:
    return dict(json.loads(Path("told.json").read_text()))


def test_a_finished_run_is_told_with_its_own_file() -> None:
    """Relative --out: the path that is handed on must work from any folder."""
    summary = run_command(job(Path("o")))
    assert summary.status == "done"
    row = summary_of(Path("o"))
    assert (row["status"], row["exit_code"], row["command"]) == ("done", 0, "scenes")
    assert row["finished"].endswith("Z") and Path(row["out"]) == Path("o").absolute()
    assert told() == row
    assert Path("where.txt").read_text().strip() == str(Path("o/summary.json").absolute())


def test_a_no_op_is_told_too_and_leaves_the_file(tmp_path: Path) -> None:
    run_command(job(tmp_path / "o"))
    before = (tmp_path / "o" / "summary.json").read_bytes()
    Path("told.json").unlink()
    assert run_command(job(tmp_path / "o")).status == "no-op"
    assert (tmp_path / "o" / "summary.json").read_bytes() == before
    assert told()["status"] == "done"


def test_on_finish_is_no_part_of_the_request(tmp_path: Path) -> None:
    """It may hold a secret, and another one tomorrow must not be another request."""
    run_command(job(tmp_path / "o", on_finish="curl https://example.org/token; true"))
    assert run_command(job(tmp_path / "o", on_finish=None)).status == "no-op"
    assert "token" not in (tmp_path / "o" / "run.json").read_text()
    assert RunInfo.load(tmp_path / "o").config.on_finish is None


def test_too_many_failures_leave_a_summary(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.touch()
    failing = job(tmp_path / "o", fail=[0, 1, 2, 3], broken=str(broken))
    with pytest.raises(RsgenError):
        run_command(failing)
    row = summary_of(tmp_path / "o")
    assert (row["status"], row["exit_code"]) == ("failed", 5)
    assert row["error"] == "TooManyFailures" and "max_failure_rate" in row["message"] + row["fix"]
    assert row["counts"] == {"shards": 3, "shards done": 3}
    assert told() == row
    broken.unlink()
    assert run_command(failing).status == "done"
    assert summary_of(tmp_path / "o")["status"] == "done" and "error" not in told()


def test_a_stop_leaves_a_summary_with_75(tmp_path: Path) -> None:
    control = Control(time.monotonic() - 1)
    with pytest.raises(Stopped) as caught:
        run_command(replace(job(tmp_path / "o"), control=control))
    assert caught.value.message == (
        "--max-time reached: stopped, before the first part was finished"
    )
    assert "more time" in str(caught.value.hint), "the same line alone would not get further"
    row = told()
    assert (row["status"], row["exit_code"], row["error"]) == ("stopped", 75, "Stopped")
    assert row["counts"] == {"shards": 3, "shards done": 0}


def test_a_missed_gate_is_told_with_7(tmp_path: Path) -> None:
    assert run_command(job(tmp_path / "o", gate=7)).exit_code == 7
    assert (told()["status"], told()["exit_code"]) == ("gate-missed", 7)


def test_a_run_that_never_began_is_told_with_a_file_that_goes_away(tmp_path: Path) -> None:
    """A disk that is not mounted at night is what one wants to be told of."""
    lost = replace(job(tmp_path / "o"), inputs={"run": [tmp_path / "gone"]})
    with pytest.raises(DataError):
        run_command(lost)
    assert (told()["exit_code"], told()["error"]) == (3, "DataError")
    assert not (tmp_path / "o").exists()
    assert not Path(Path("where.txt").read_text().strip()).exists()


def test_another_request_does_not_touch_the_summary(tmp_path: Path) -> None:
    out = tmp_path / "o"
    run_command(job(out))
    before = (out / "summary.json").read_bytes()
    with pytest.raises(UsageError, match="holds another request"):
        run_command(job(out, weights="other"))
    assert (out / "summary.json").read_bytes() == before
    assert told()["exit_code"] == 2


@pytest.mark.parametrize(("policy", "is_told"), [("fail", True), ("skip", False)])
def test_a_locked_folder(policy: str, is_told: bool, tmp_path: Path) -> None:
    """Who skips says nothing: the run that holds the folder speaks for itself."""
    out = tmp_path / "o"
    with hold_lock(out, job(out)), pytest.raises(LockedError):
        run_command(replace(job(out), if_locked=policy))
    assert Path("told.json").exists() == is_told
    assert not (out / "summary.json").exists()


def test_a_bug_is_told_with_1(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), recorded("scenes", tmp_path, job(tmp_path).ending):
        raise ZeroDivisionError("x")
    row = summary_of(tmp_path)
    assert (row["status"], row["exit_code"], row["fix"]) == ("failed", 1, None)
    full = failed_summary("scenes", tmp_path, OSError(28, "No space left on device"))
    assert full.exit_code == 4


def test_a_killed_attempt_leaves_no_summary_of_an_earlier_one(tmp_path: Path) -> None:
    """Catches a file that says `stopped` although the last attempt was killed."""
    (tmp_path / "summary.json").write_text('{"status": "stopped"}')
    with recorded("scenes", tmp_path, job(tmp_path).ending):
        assert not (tmp_path / "summary.json").exists()


def test_slices_have_a_summary_each(tmp_path: Path) -> None:
    for k in (0, 1):
        run_command(replace(job(tmp_path / "o"), slice_of=(k, 2)))
        assert told()["status"] == "partial"
        assert Path(Path("where.txt").read_text().strip()).name == f"slice-{k}-2.json"
    assert not (tmp_path / "o" / "summary.json").exists()
    assert run_command(job(tmp_path / "o")).status == "done"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("exit 3", "ended with exit code 3"),
        ("no-such-command-anywhere", "ended with exit code 127"),
        ("sleep 30", "took longer than 0.3 s and was ended"),
        ("sleep 30 & true", None),
        ("kill -9 $$", "ended with exit code -9"),
        ("cat", None),
    ],
    ids=["fails", "absent", "hangs", "leaves a child", "killed", "reads stdin"],
)
def test_what_goes_wrong_in_it_is_a_remark(line: str, problem: str | None, tmp_path: Path) -> None:
    began = time.monotonic()
    a_job = job(tmp_path / "o", on_finish=line)
    seconds = 0.3 if "30" in line else 20
    limited = a_job.config.model_copy(update={"on_finish_timeout_s": seconds})
    summary = run_command(replace(a_job, config=limited))
    assert summary.exit_code == 0 and time.monotonic() - began < 15
    assert isinstance(a_job.reporter, Notes)
    remarks = [text for text in a_job.reporter.texts if text.startswith("on_finish ")]
    assert len(remarks) == (problem is not None)
    assert not problem or problem in remarks[0]


def test_its_words_are_notes_and_it_may_call_rsgen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches an endless chain: a rsgen called by on_finish must not call it again."""
    monkeypatch.setenv("RSGEN_ON_FINISH", "true")
    a_job = job(tmp_path / "o", on_finish='echo hello; env | grep "^RSGEN" | sort')
    run_command(a_job)
    assert isinstance(a_job.reporter, Notes)
    words = [t for t in a_job.reporter.texts if t.startswith("on_finish: ")]
    assert words == ["on_finish: hello", f"on_finish: RSGEN_SUMMARY={tmp_path}/o/summary.json"]
    monkeypatch.delenv("RSGEN_ON_FINISH")
    monkeypatch.setenv("RSGEN_SUMMARY", "x")
    from rsgen.config import load_config

    assert load_config().on_finish is None, "RSGEN_SUMMARY is no configuration"
    assert os.environ["RSGEN_SUMMARY"] == "x"


def test_a_dry_run_tells_nobody(tmp_path: Path) -> None:
    run_command(replace(job(tmp_path / "o"), dry_run=True))
    assert not Path("told.json").exists()


# ---------------------------------------------------------------- pipelines


def pipeline(tmp_path: Path, second: dict[str, Any] | None = None) -> str:
    tree = {
        "on_finish": "echo x >> calls.txt; " + COPY,
        "stages": {
            "a": {"command": "scenes", "config": {"count": 2}},
            "b": second or {"command": "scenes", "config": {"count": 3}},
        },
    }
    path = tmp_path / "p.yaml"
    path.write_text(json.dumps(tree))
    return str(path)


def test_a_pipeline_tells_once_with_its_own_summary(tmp_path: Path) -> None:
    run_pipeline(PipelineJob(pipeline(tmp_path), tmp_path / "work"))
    row = summary_of(tmp_path / "work")
    assert told() == row and row["command"] == "run" and row["exit_code"] == 0
    assert list(row["tables"]["stages"]) == ["a", "b"]
    assert Path("calls.txt").read_text() == "x\n", "once, not once a stage"


def test_a_failed_stage_is_in_the_pipelines_summary(tmp_path: Path) -> None:
    rules = {"rules": [{"scorer": "no-such-scorer", "min": 0}]}
    path = pipeline(tmp_path, {"command": "filter", "inputs": {"run": "a"}, "config": rules})
    with pytest.raises(RsgenError):
        run_pipeline(PipelineJob(path, tmp_path / "work"))
    row = told()
    assert row["status"] == "failed" and row["message"].startswith("stage b: ")
    assert list(row["tables"]["stages"]) == ["a"], "what was done before"
