"""Processes that die, and signals that reach a whole process group."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rsgen.store import is_committed
from tests.conftest import CommandLine, Result

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/task").exists(), reason="finds worker processes through /proc"
)
LINE = ("scenes", "--count", 40, "--size", 64, "--workers", 2, "-s", "execution.shard_size=2")


def workers_of(pid: int) -> list[int]:
    """Spawned worker processes of a running command."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        # The pool starts its processes from a thread of its own on some versions.
        threads = Path(f"/proc/{pid}/task").iterdir()
        text = " ".join([text, *((t / "children").read_text() for t in threads)])
    except OSError:
        return []
    return sorted({int(child) for child in text.split() if _is_worker(int(child))})


def _is_worker(pid: int) -> bool:
    try:
        return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


@pytest.fixture
def started(cli: CommandLine, tmp_path: Path) -> Iterator[Callable[[], Any]]:
    """Start the line in a process group of its own; nothing is left behind."""
    processes: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "rsgen_cli", *map(str, LINE), "--out", str(tmp_path / "o")],
            env=cli.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _until(ready: Callable[[], bool], limit_s: float = 60) -> None:
    end = time.monotonic() + limit_s
    while not ready():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.002)


def test_a_killed_worker_is_exit_4_and_the_same_line_goes_on(
    started: Callable[[], Any], cli_here: Callable[..., Result], tmp_path: Path
) -> None:
    """What the kernel does to the largest process when memory runs out."""
    process = started()
    _until(lambda: any((tmp_path / "o" / "parts").glob("*.parquet")))
    os.kill(workers_of(process.pid)[0], signal.SIGKILL)
    out, err = process.communicate(timeout=90)
    assert process.returncode == 4, (out, err)
    assert "a worker process died" in err and "run the same line again" in err
    assert not is_committed(tmp_path / "o")
    again = cli_here(*LINE[:5], *LINE[7:], "--out", tmp_path / "o", "--json")
    assert again.code == 0 and again.json["counts"]["samples"] == 40, again


def test_workers_end_with_a_killed_parent(started: Callable[[], Any], tmp_path: Path) -> None:
    """Catches orphans that go on writing and hold memory after an unclean end."""
    process = started()
    _until(lambda: any((tmp_path / "o" / "parts").glob("*.parquet")))
    workers = workers_of(process.pid)
    assert len(workers) == 2
    process.kill()
    process.wait()
    _until(lambda: not any(_is_worker(pid) for pid in workers), 20)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_signal_to_the_whole_group_stops_cleanly(
    number: signal.Signals, started: Callable[[], Any], tmp_path: Path
) -> None:
    """Ctrl-C and schedulers signal the group: also workers that are just starting up."""
    process = started()
    _until(lambda: len(workers_of(process.pid)) > 0)
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=90)
    assert process.returncode == 75, (out, err)
    assert "Traceback" not in err
    assert not is_committed(tmp_path / "o")
