"""What a scheduler leans on in every command: --if-locked, --log-file, --max-time."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from rsgen.config import Config
from rsgen.job import Job
from rsgen.locks import hold_lock
from rsgen.scenes import SCENE_CLASSES
from tests.build_models import save_model
from tests.conftest import Result

Here = Callable[..., Result]
STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} "


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scenes run, masks of it, a model: something for every command to read."""
    from rsgen_cli.app import app
    from typer.testing import CliRunner

    root = tmp_path_factory.mktemp("inputs")
    for line in (
        f"scenes --count 8 --size 32 -q --out {root}/scenes",
        f"extract-masks {root}/scenes -q --out {root}/masks",
    ):
        assert CliRunner().invoke(app, line.split()).exit_code == 0
    save_model(root / "model", SCENE_CLASSES)
    (root / "p.yaml").write_text("stages: {a: {command: scenes, config: {count: 2, size: 32}}}")
    return root


LINES = {
    "scenes": "scenes --count 2 --size 32 --out OUT",
    "extract-masks": "extract-masks IN/scenes --out OUT",
    "build-mask-pool": "build-mask-pool IN/masks --out OUT",
    "train": "train IN/masks --base IN/model --steps 1 --out OUT",
    "generate": "generate IN/model --layouts IN/masks --count 1 --out OUT",
    "filter": "filter IN/scenes --real IN/masks --out OUT",
    "export": "export IN/scenes --out OUT",
    "run": "run IN/p.yaml --work OUT",
    "run, a turn": "run quickstart --work OUT --series night",
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_a_held_folder(line: str, inputs: Path, cli_here: Here, tmp_path: Path) -> None:
    """fail: 6; skip: 0, also in JSON; wait: until --max-time, 75. Nothing is written."""
    out = tmp_path / "out"
    words = [w.replace("IN/", f"{inputs}/").replace("OUT", str(out)) for w in line.split()]
    with hold_lock(out, Job("scenes", Config(), out)):
        failed = cli_here(*words)
        assert failed.code == 6 and "--if-locked wait" in failed.err, failed
        skipped = cli_here(*words, "--if-locked", "skip", "--json")
        assert skipped.code == 0 and skipped.json["status"] == "skipped", skipped
        waited = cli_here(*words, "--if-locked", "wait", "--max-time", "0.3s")
        assert waited.code == 75, waited
        assert sorted(p.name for p in out.iterdir()) == ["run.lock"]


def test_wait_goes_on_when_the_folder_is_free(cli_here: Here, tmp_path: Path) -> None:
    out = tmp_path / "out"
    lock = hold_lock(out, Job("scenes", Config(), out))
    lock.__enter__()
    timer = threading.Timer(0.5, lambda: lock.__exit__(None, None, None))
    timer.start()
    line = ("scenes", "--count", 2, "--size", 32, "--out", out, "--if-locked", "wait")
    result = cli_here(*line)
    timer.join()
    assert result.code == 0 and (out / "manifest.json").is_file(), result


# ---------------------------------------------------------------- --log-file


def test_the_log_holds_notes_and_the_end_and_is_appended(cli_here: Here, tmp_path: Path) -> None:
    log = tmp_path / "new" / "folder" / "rsgen.log"
    line = ("scenes", "--count", 2, "--size", 32, "-q", "--out", tmp_path / "o", "--log-file", log)
    assert cli_here(*line).err == ""
    assert cli_here(*line).code == 0
    rows = log.read_text().splitlines()
    assert all(re.match(STAMP, row) for row in rows), rows
    ends = [row.split(" ", 1)[1] for row in rows if "exit code" in row]
    assert ends == ["rsgen scenes: done, exit code 0", "rsgen scenes: no-op, exit code 0"]


def test_errors_are_in_the_log_line_by_line(cli_here: Here, tmp_path: Path) -> None:
    """At night the log is all there is."""
    log = tmp_path / "rsgen.log"
    result = cli_here("filter", tmp_path / "gone", "--out", tmp_path / "o", "--log-file", log)
    assert result.code == 3
    rows = log.read_text().splitlines()
    assert all(re.match(STAMP, row) for row in rows)
    text = "\n".join(row.split(" ", 1)[1] for row in rows)
    assert "error: run: " in text and "fix: " in text and text.endswith("exit code 3")


def test_a_bug_leaves_its_traceback_in_the_log(
    cli_here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rsgen import execution

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(execution, "run_shards", broken)
    log, out = tmp_path / "rsgen.log", tmp_path / "o"
    result = cli_here("scenes", "--count", 2, "--out", out, "--log-file", log)
    assert result.code == 1 and str(log) in result.err
    assert "Traceback" in log.read_text() and "ZeroDivisionError: a bug" in log.read_text()
    row = json.loads((out / "summary.json").read_text())
    assert (row["status"], row["exit_code"], row["error"]) == ("failed", 1, "ZeroDivisionError")


def test_the_log_may_lie_in_out_and_not_where_nobody_may_write(
    cli_here: Here, tmp_path: Path
) -> None:
    """Catches a log that makes its own OUT a foreign folder."""
    line = ("scenes", "--count", 2, "--size", 32, "-q", "--out", tmp_path / "o", "--log-file")
    assert cli_here(*line, tmp_path / "o" / "run.log").code == 0
    (tmp_path / "file").write_text("")
    refused = cli_here(*line, tmp_path / "file" / "run.log")
    assert refused.code == 2 and "--log-file" in refused.err


# ---------------------------------------------------------------- options


def test_on_finish_by_option_environment_and_config(cli_here: Here, tmp_path: Path) -> None:
    line = ("scenes", "--count", 2, "--size", 32, "-q", "--out", tmp_path / "o")
    touch = f"touch {tmp_path}/option"
    assert cli_here(*line, "--on-finish", touch).code == 0 and (tmp_path / "option").exists()
    done = cli_here(*line, env={"RSGEN_ON_FINISH": f"touch {tmp_path}/variable"})
    assert done.code == 0 and (tmp_path / "variable").exists()
    (tmp_path / "c.yaml").write_text(f"on_finish: touch {tmp_path}/file\n")
    assert cli_here(*line, "-c", tmp_path / "c.yaml").code == 0 and (tmp_path / "file").exists()
    shown = cli_here(*line, "--on-finish", "true", "--print-config")
    assert "on_finish: 'true'" in shown.out


def test_its_output_leaves_stdout_alone(cli: Callable[..., Result], tmp_path: Path) -> None:
    """Catches a chatty on_finish inside the JSON that a script reads."""
    line = ("scenes", "--count", 2, "--size", 32, "--out", tmp_path / "o", "--json")
    result = cli(*line, "--on-finish", "echo chatter; exit 4")
    assert result.code == 0 and result.json["status"] == "done"
    assert "on_finish: chatter" in result.err and "exit code 4" in result.err


def test_series_is_an_option_of_generate_and_run_alone(cli_here: Here) -> None:
    for command in ("generate", "run"):
        assert "--series" in cli_here(command, "--help").out
    assert cli_here("filter", "x", "--out", "o", "--series", "n").code == 2
