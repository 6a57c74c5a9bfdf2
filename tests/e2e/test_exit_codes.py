"""The exit-code table: one real command a row, in a process of its own."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rsgen.images import write_png
from rsgen.store import is_committed, read_failures
from tests.build import layout, picture, sample, sample_run
from tests.conftest import CommandLine, Result

SMALL = ("--count", 2, "--size", 32)


def dota_folder(folder: Path, broken: int) -> Path:
    """Four labelled images; the first `broken` ones are cut short."""
    (folder / "images").mkdir(parents=True)
    (folder / "labelTxt").mkdir()
    for k in range(4):
        path = folder / "images" / f"p{k}.png"
        write_png(path, picture(layout(), k))
        if k < broken:
            path.write_bytes(path.read_bytes()[:900])
        text = "gsd:0.5\n10 10 30 10 30 22 10 22 plane 0\n40 30 55 30 55 50 40 50 ship 0\n"
        (folder / "labelTxt" / f"p{k}.txt").write_text(text)
    return folder


def test_0_done_and_done_again(cli: CommandLine, tmp_path: Path) -> None:
    first = cli("scenes", *SMALL, "--out", tmp_path / "o", "--json")
    assert first.code == 0, first
    assert first.json["counts"]["samples"] == 2
    again = cli("scenes", *SMALL, "--out", tmp_path / "o", "--json")
    assert (again.code, again.json["status"]) == (0, "no-op"), again


def test_1_a_bug(cli_here: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    """The only row with a planted fault: there is no bug to show otherwise."""

    def bug(*_: object, **__: object) -> None:
        raise AssertionError("a planted bug")

    monkeypatch.setattr("rsgen.scenes.stage.render_scene", bug)
    result = cli_here("scenes", *SMALL, "--out", "o")
    assert result.code == 1 and "this is a bug in rsgen" in result.err, result


def test_2_usage_names_every_problem(cli: CommandLine, tmp_path: Path) -> None:
    result = cli("scenes", "--count", 0, "-s", "scenes.syle=alt", "--out", tmp_path / "o")
    assert result.code == 2, result
    assert "scenes.count" in result.err and "did you mean 'style'" in result.err
    assert not (tmp_path / "o").exists()


def test_3_data_names_the_place_and_the_fix(cli: CommandLine, tmp_path: Path) -> None:
    result = cli("build-mask-pool", tmp_path / "nowhere", "--out", tmp_path / "o")
    assert result.code == 3, result
    assert "nowhere" in result.err and "fix:" in result.err


def test_4_environment(cli: CommandLine) -> None:
    """A folder that no user may write to: the kernel's own."""
    result = cli("scenes", *SMALL, "--out", "/proc/rsgen/out")
    assert result.code == 4, result
    assert "cannot be made" in result.err and "fix:" in result.err


def test_5_too_many_failures_and_the_line_that_allows_them(
    cli: CommandLine, tmp_path: Path
) -> None:
    data, out = dota_folder(tmp_path / "data", broken=2), tmp_path / "o"
    line = ("extract-masks", data, "--out", out, "-s", "execution.shard_size=1")
    result = cli(*line)
    assert result.code == 5, result
    assert "2 failures in 4 items" in result.err and "fix:" in result.err
    assert not is_committed(out) and len(list(read_failures(out))) == 2
    lenient = cli(*line, "-s", "execution.max_failure_rate=0.5", "--json")
    assert lenient.code == 0, lenient
    counts = lenient.json["counts"]
    assert (counts["items"], counts["samples"], counts["failures"]) == (4, 2, 2)


def test_7_a_missed_gate_is_committed_and_said_again(cli: CommandLine, tmp_path: Path) -> None:
    """Flat grey images have no contrast: none is kept."""
    flat = [sample(f"s{k}.png", provenance=_synthetic(k)) for k in range(3)]
    run = sample_run(tmp_path / "run", flat, command="generate").path
    for path in run.glob("images/*/*.png"):
        write_png(path, np.full((64, 64, 3), 128, np.uint8))
    line = ("filter", run, "--fail-under", 0.5, "--out", tmp_path / "o", "--json")
    for status in ("gate-missed", "no-op"):
        result = cli(*line)
        assert result.code == 7, result
        assert result.json["status"] == status
    assert is_committed(tmp_path / "o")


def _synthetic(k: int) -> Any:
    from rsgen.records import Provenance

    return Provenance("synthetic", run="f" * 32, seed=k)


def test_6_locked_75_stopped_and_the_same_line_completes(
    cli: CommandLine, cli_here: Callable[..., Result], tmp_path: Path
) -> None:
    """One writer, held still while another tries; then stopped, then finished."""
    out = tmp_path / "o"
    line = ("scenes", "--count", 24, "--size", 64, "-s", "execution.shard_size=2", "--out", out)
    writer = cli.start(*line)
    _until(lambda: any((out / "parts").glob("*.parquet")), writer)
    writer.send_signal(signal.SIGSTOP)
    locked = cli_here(*line)
    assert locked.code == 6 and "held by a live run" in locked.err, locked
    skipped = cli_here(*line, "--if-locked", "skip")
    assert skipped.code == 0 and "skipped" in skipped.err, skipped
    timed = cli_here(*line, "--if-locked", "wait", "--max-time", "1s")
    assert timed.code == 75, timed
    sliced = cli_here(*line, "--slice", "0/2")
    assert sliced.code == 6, sliced
    writer.send_signal(signal.SIGTERM)
    writer.send_signal(signal.SIGCONT)
    _, err = writer.communicate(timeout=120)
    assert writer.returncode == 75, err
    assert "SIGTERM: stopping after the current batch" in err and "run the same line" in err
    assert not is_committed(out)
    done = cli_here(*line, "--json")
    assert done.code == 0 and done.json["counts"]["samples"] == 24


def test_75_no_time_left(cli_here: Callable[..., Result], tmp_path: Path) -> None:
    result = cli_here("scenes", *SMALL, "--out", tmp_path / "o", "--max-time", "0s")
    assert result.code == 75 and "--max-time reached" in result.err, result


@pytest.mark.parametrize(
    ("second", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["130", "143"]
)
def test_a_second_signal_ends_at_once(
    second: signal.Signals, code: int, cli: CommandLine, tmp_path: Path
) -> None:
    """One very large scene: the batch that a first signal waits for takes seconds."""
    process = cli.start("scenes", "--count", 1, "--size", 3000, "--out", tmp_path / "o")
    _until(lambda: (tmp_path / "o" / "run.json").exists(), process)
    time.sleep(0.2)
    heard = threading.Event()
    said: list[str] = []

    def listen() -> None:
        assert process.stderr is not None
        for row in process.stderr:
            said.append(row)
            if "stopping after the current batch" in row:
                heard.set()

    listener = threading.Thread(target=listen)
    listener.start()
    process.send_signal(signal.SIGUSR1)
    assert heard.wait(60), said
    process.send_signal(second)
    assert process.wait(60) == code, said
    listener.join()
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    process.stderr.close()
    assert not list((tmp_path / "o").glob("parts/*"))


def _until(ready: Callable[[], bool], process: Any, limit_s: float = 90) -> None:
    end = time.monotonic() + limit_s
    while not ready():
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            raise AssertionError(process.communicate())
        time.sleep(0.002)
