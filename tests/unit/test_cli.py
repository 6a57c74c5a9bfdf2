"""The command line: parse, one call, print. In this process; exit codes are told end to end."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from rsgen_cli.commands import COMMANDS
from rsgen_cli.console import ConsoleReporter, print_error, print_report, print_summary
from rsgen_cli.looking import LOOKING, LookSpec
from rsgen_cli.options import EXECUTION

from rsgen import __version__
from rsgen.config import Config
from rsgen.doctor import Check, Report
from rsgen.errors import UsageError
from rsgen.registry import BUILT_IN
from rsgen.reporting import RunSummary
from tests.probe import TARGET

Cli = Callable[..., Any]
NAMES = [spec.name for spec in COMMANDS]
REQUIRED = {
    "scenes": [],
    "extract-masks": ["x"],
    "build-mask-pool": ["x"],
    "train": ["x"],
    "generate": ["x"],
    "filter": ["x"],
    "export": ["x"],
}


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BUILT_IN["stages"], "scenes", TARGET)


def test_every_command_of_the_library_is_on_the_line() -> None:
    assert {*BUILT_IN["stages"], *BUILT_IN["programs"], "run"} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_help_shows_options_keys_and_examples(name: str, cli_here: Cli) -> None:
    """Catches an option bound to a key that does not exist."""
    text = cli_here(name, "--help").out
    assert "Examples:" in text and f"rsgen {name}" in text
    spec = next(spec for spec in COMMANDS if spec.name == name)
    flat = "".join(text.split())
    for option in (*spec.options, *EXECUTION):
        assert option.flag in text
        assert f"({option.key})" in flat
        section, _, leaf = option.key.rpartition(".")
        parent = Config().model_dump()
        assert leaf in (parent[section] if section else parent)
    for common in ("--out", "--config", "--dry-run", "--json", "--slice", "--max-time"):
        assert common in text


@pytest.mark.parametrize("look", LOOKING, ids=lambda look: look.name)
def test_help_of_commands_that_look_teaches(look: LookSpec, cli_here: Cli) -> None:
    text = cli_here(look.name, "--help").out
    assert "Examples:" in text and "--json" in text and look.examples
    assert all(f"rsgen {line}" in text for line in look.examples)


def test_top_level_help_and_version(cli_here: Cli) -> None:
    text = cli_here("--help").out
    assert all(f"  {name} " in text for name in (*NAMES, *(look.name for look in LOOKING)))
    assert "75 stopped" in text
    assert cli_here("--version").out.strip() == f"rsgen {__version__}"
    bare = cli_here()
    assert "Usage" in bare.out + bare.err


@pytest.mark.parametrize("name", list(REQUIRED))
def test_print_config_is_yaml_that_loads_to_itself(
    name: str, cli_here: Cli, tmp_path: Path
) -> None:
    first = cli_here(name, *REQUIRED[name], "--print-config", "--seed", 5)
    assert first.code == 0, first
    tree = yaml.safe_load(first.out)
    assert tree["seed"] == 5 and name.replace("-", "_") in tree
    (tmp_path / "c.yaml").write_text(first.out)
    again = cli_here(name, *REQUIRED[name], "--print-config", "-c", tmp_path / "c.yaml")
    assert again.out == first.out


@pytest.mark.parametrize("name", list(REQUIRED))
def test_print_config_needs_no_input_and_knows_json(name: str, cli_here: Cli) -> None:
    """Catches an argument that is asked for though nothing is read, and YAML under --json."""
    plain = cli_here(name, "--print-config")
    assert plain.code == 0, plain
    row = json.loads(cli_here(name, "--print-config", "--json").out)
    assert row == yaml.safe_load(plain.out)
    if REQUIRED[name]:  # and only then
        assert cli_here(name).code == 2


def test_a_pipeline_s_config_as_json_is_one_object_by_stage(cli_here: Cli) -> None:
    row = json.loads(cli_here("run", "quickstart", "--print-config", "--json").out)
    assert row["model"]["train"]["max_steps"] and "scenes" in row["scenes"]


@pytest.mark.parametrize(
    ("name", "flag", "values"),
    [
        ("train", "--unet", "[auto|frozen|lora|decoder|full]"),
        ("train", "--task", "[controlnet|base|autoencoder]"),
        ("train", "--steps", "N|auto"),
        ("train", "--device", "[auto|cpu|cuda]"),
        ("generate", "--scheduler", "[ddim|unipc|dpm++2m|euler]"),
        ("extract-masks", "--tile", "N|auto|none"),
        ("extract-masks", "--backend", "known: box, classical"),
        ("extract-masks", "--format", "known: coco, d"),
        ("export", "--format", "known: class-list, coco, d"),
        ("train", "--lr", "X|auto"),
        ("scenes", "--if-locked", "[fail|skip|wait]"),
        ("scenes", "--count", "N"),
    ],
)
def test_help_lists_fixed_choices(name: str, flag: str, values: str, cli_here: Cli) -> None:
    """Catches a choice that can only be found by getting it wrong."""
    text = " ".join(cli_here(name, "--help").out.split())
    after = text.split(f" {flag} ", 1)[1]
    assert values in after[:160]


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        (["scenes", "--types", "harbour, airfield"], "scenes.types", ["harbour", "airfield"]),
        (["scenes", "--gsd", "0.5"], "scenes.gsd_m", 0.5),
        (["scenes", "-s", "execution.workers=2"], "execution.workers", 2),
        (["scenes", "--batch-size", "4"], "execution.batch_size", 4),
        (["extract-masks", "x", "--class-map", "a=b,c=d"], "extract_masks.class_map.c", "d"),
        (["extract-masks", "x", "--class-map", "a=b", "--class-map", "c=d"],
         "extract_masks.class_map.c", "d"),
        (["extract-masks", "x", "--tile", "512"], "extract_masks.tile", 512),
        (["train", "x", "--steps", "40"], "train.max_steps", 40),
        (["train", "x", "--steps", "auto"], "train.max_steps", "auto"),
        (["train", "x", "--lr", "1e-4"], "train.lr", 1e-4),
        (["generate", "x", "--per-class", "ship=5"], "generate.per_class.ship", 5),
        (["export", "x", "--format", "coco,yolo-obb"], "export.format", ["coco", "yolo-obb"]),
        (["filter", "x", "--fail-under", "0.5"], "filter.fail_under", 0.5),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) and v and "-" in str(v) else "",
)  # fmt: skip
def test_options_set_their_keys(line: list[str], key: str, value: object, cli_here: Cli) -> None:
    result = cli_here(*line, "--print-config")
    assert result.code == 0, result
    got = yaml.safe_load(result.out)
    for part in key.split("."):
        got = got[part]
    assert got == value


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["scenes"], "needs --out"),
        (["scnes"], "No such command"),
        (["scenes", "--sizes", "3"], "No such option"),
        (["scenes", "--count", "many"], "Invalid value for '--count'"),
        (["scenes", "--count", "0", "--out", "o"], "scenes.count"),
        (["scenes", "--count", "1", "--count", "2", "--out", "o"], "--count is given twice"),
        (["scenes", "--count", "1", "-s", "scenes.count=1", "--out", "o"], "given twice"),
        (["scenes", "--out", "o", "--out", "p"], "--out is given twice"),
        (["scenes", "-s", "scenes.cuont=1", "--out", "o"], "did you mean 'count'"),
        (["scenes", "-s", "novalue", "--out", "o"], "expected key=value"),
        (["scenes", "-c", "nowhere.yaml", "--out", "o"], "no such file or template"),
        (["scenes", "--slice", "2/2", "--out", "o"], "expected i/n"),
        (["scenes", "--slice", "-1/2", "--out", "o"], "expected i/n"),
        (["scenes", "--slice", "0/0", "--out", "o"], "expected i/n"),
        (["scenes", "--max-time", "soon", "--out", "o"], "expected 90s"),
        (["scenes", "--if-locked", "maybe", "--out", "o"], "expected fail, skip or wait"),
        (["scenes", "--types", "moon", "--out", "o"], "unknown moon"),
        (["scenes", "--device", "tpu", "--out", "o"], "execution.device"),
        (["extract-masks", "x", "--class-map", "ab", "--out", "o"], "expected NAME=VALUE"),
        (["run", "quickstart"], "needs --work"),
        (["run", "quickstart", "--work", "w", "--slice", "0/2"], "has no --slice"),
        (["scenes", "--log-file", ".", "--out", "o"], "--log-file"),
        (["train"], "Missing argument"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_usage_errors_are_exit_2_and_write_nothing(
    line: list[str], message: str, cli_here: Cli, tmp_path: Path
) -> None:
    result = cli_here(*line)
    assert result.code == 2, result
    assert message in " ".join((result.out + result.err).split())
    assert not (tmp_path / "o").exists() and not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("1.5m", 90), ("2h", 7200), ("1d", 86400)],
)
def test_max_time(text: str, seconds: float) -> None:
    from rsgen_cli.options import Common

    fields = dict.fromkeys(Common.__dataclass_fields__)
    assert Common(**{**fields, "max_time": text}).max_seconds() == seconds  # type: ignore[arg-type]


@pytest.mark.usefixtures("probe")
def test_json_is_one_object_on_stdout_and_nothing_else(cli_here: Cli) -> None:
    result = cli_here("scenes", "--count", 3, "--out", "o", "--json")
    row = json.loads(result.out)
    assert result.out.count("\n") == 1
    assert row["schema"] == 1 and row["status"] == "done" and row["exit_code"] == 0
    assert row["counts"]["samples"] == 3 and Path(row["artifacts"]["table"]).is_file()
    assert "3 items to do" in result.err


def test_an_error_with_json_is_an_object_too(cli_here: Cli) -> None:
    result = cli_here("build-mask-pool", "nowhere", "--out", "o", "--json")
    row = json.loads(result.out)
    assert result.code == row["exit_code"] == 3
    assert row["error"] == "DataError" and row["fix"] and "nowhere" in row["message"]
    assert result.err.startswith("error: ")


@pytest.mark.usefixtures("probe")
def test_quiet_says_nothing_but_the_result(cli_here: Cli) -> None:
    result = cli_here("scenes", "--count", 3, "--out", "o[1]", "-q")
    assert result.err == ""
    assert "o[1]" in result.out, "a folder name is no markup"


@pytest.mark.usefixtures("probe")
def test_the_log_file_gets_every_line(cli_here: Cli, tmp_path: Path) -> None:
    cli_here("scenes", "--count", 3, "--out", "o", "-q", "--log-file", "logs/a.log")
    assert "scenes: 3 items to do" in (tmp_path / "logs" / "a.log").read_text()


@pytest.mark.usefixtures("probe")
def test_a_bug_is_one_line_and_its_traceback_is_kept(
    cli_here: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug(*_: object) -> None:
        raise ZeroDivisionError("a real bug")

    monkeypatch.setattr("tests.probe.ProbeStage.process", bug)
    result = cli_here("scenes", "--count", 3, "--out", "o")
    assert result.code == 1
    lines = result.err.strip().splitlines()
    assert lines[-2] == "error: ZeroDivisionError: a real bug"
    assert "this is a bug in rsgen; the traceback is in o/events.jsonl" in lines[-1]
    lines = (tmp_path / "o" / "events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    assert "ZeroDivisionError" in events[-1]["text"] and events[-1]["kind"] == "traceback"


@pytest.mark.usefixtures("probe")
def test_a_full_disk_is_exit_4(cli_here: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "o/parts/x")

    monkeypatch.setattr("rsgen.images.os.fsync", full)
    result = cli_here("scenes", "--count", 3, "--out", "o")
    assert result.code == 4
    assert "No space left on device" in result.err and "bug" not in result.err


@pytest.mark.usefixtures("probe")
def test_a_gate_missed_is_printed_and_exits_7(
    cli_here: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rsgen.execution import Finish

    monkeypatch.setattr(
        "tests.probe.ProbeStage.finish", lambda self, run: Finish(notes=("few",), exit_code=7)
    )
    result = cli_here("scenes", "--count", 3, "--out", "o")
    assert result.code == 7 and "gate-missed" in result.out and "note: few" in result.out
    again = cli_here("scenes", "--count", 3, "--out", "o")
    assert again.code == 7 and "no-op" in again.out


# ---------------------------------------------------------------- console


class GoneStream(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


def test_a_reporter_whose_listener_left_does_not_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches hours of work ended by `2>&1 | head`."""
    monkeypatch.setattr(sys, "stderr", GoneStream())
    reporter = ConsoleReporter(verbose=True)
    if Path("/dev/full").exists():
        reporter.log_to(Path("/dev/full"))
    reporter.stage("x", 3)
    reporter.advance(2)
    reporter.metric("loss", 0.5, 1)
    reporter.note("text", "warning")
    reporter.end()


def test_plain_progress_comes_every_ten_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [100.0]
    monkeypatch.setattr("rsgen_cli.console.time.monotonic", lambda: clock[0])
    reporter = ConsoleReporter()
    reporter.stage("generate", 10)
    for _ in range(5):
        clock[0] += 4
        reporter.advance()
    reporter.advance(0)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["generate: 10 items to do", "generate: 3/10 items, 0.25/s, 28 s left"]


@pytest.mark.parametrize(
    ("quiet", "verbose", "expected"),
    [
        (False, False, ["hello", "warning: careful"]),
        (True, False, ["warning: careful"]),
        (False, True, ["hello", "warning: careful", "loss = 0.5 @ 3"]),
    ],
    ids=["usual", "quiet", "verbose"],
)
def test_what_is_said(
    quiet: bool, verbose: bool, expected: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    reporter = ConsoleReporter(quiet=quiet, verbose=verbose)
    reporter.note("hello")
    reporter.note("careful", "warning")
    reporter.metric("loss", 0.5, 3)
    assert capsys.readouterr().err.splitlines() == expected


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    reporter = ConsoleReporter()
    reporter.stage("train", 4, "step")
    reporter.advance(2)
    reporter.metric("loss", 0.25)
    reporter.note("between")
    reporter.stage("next", None)
    reporter.close()
    assert "train" in screen.getvalue() and "between" in screen.getvalue()


def test_the_summary_shows_every_number_and_path(capsys: pytest.CaptureFixture[str]) -> None:
    path = "/a/very/long/path/" + "x" * 150
    summary = RunSummary(
        "generate",
        "/out",
        "done",
        counts={"samples": 64},
        rates={"samples a second": 1.23456},
        tables={"objects": {"plane": 3}, "sizes": {"plane": 2.5}},
        artifacts={"contact sheet": path},
        notes=("look at it",),
        seconds=3.21,
    )
    print_summary(summary, as_json=False)
    text = capsys.readouterr().out
    for expected in ("rsgen generate", "3.2 s", "64", "1.235", "plane", "2.5", path, "look at it"):
        assert expected in text, expected


def test_reports_and_errors_are_printed_both_ways(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report((Check("a", True, "fine"), Check("b", False, "gone", "pip install b")))
    print_report(report, as_json=False)
    text = capsys.readouterr().out
    assert "ok   a: fine" in text and "MISS b: gone" in text and "pip install b" in text
    print_report(report, as_json=True)
    assert json.loads(capsys.readouterr().out)["checks"][1]["fix"] == "pip install b"
    print_error(UsageError("wrong", hint="right"), as_json=False)
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err == "error: wrong\n  fix: right\n"


def test_the_entry_point_sets_thread_waiting_before_torch(
    cli_here: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    import rsgen_cli

    for name in ("OMP_WAIT_POLICY", "NO_ALBUMENTATIONS_UPDATE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "argv", ["rsgen", "--version"])
    with pytest.raises(SystemExit) as caught:
        rsgen_cli.main()
    assert caught.value.code == 0
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    assert os.environ["NO_ALBUMENTATIONS_UPDATE"] == "1"
