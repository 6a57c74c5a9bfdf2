"""How a run ends: OUT/summary.json, and the command that is told of it (`on_finish`).

The summary lies outside the manifest: it holds times, seconds and paths. A run that failed or
was stopped leaves one too, with its exit code and the error; one that was killed leaves none.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from rsgen.errors import RsgenError, Stopped, from_os_error
from rsgen.images import replace_bytes
from rsgen.reporting import Reporter, RunSummary
from rsgen.settings import Config

__all__ = ["Ending", "failed_summary", "recorded", "save_summary", "with_on_finish"]

SUMMARY = "summary.json"
SHOWN_LINES = 20


@dataclass
class Ending:
    """Where the run that is ending wrote its summary, for whoever is told of it."""

    path: Path | None = None


def summary_name(slice_of: tuple[int, int] | None = None) -> str:
    """`summary.json`, or a slice's own: slices of a job array end side by side."""
    return SUMMARY if slice_of is None else f"slice-{slice_of[0]}-{slice_of[1]}.json"


def save_summary(
    out: Path,
    summary: RunSummary,
    ending: Ending | None = None,
    slice_of: tuple[int, int] | None = None,
) -> None:
    """Write OUT/summary.json: what `--json` prints with absolute paths, and when it was (UTC)."""
    path = out / summary_name(slice_of)
    replace_bytes(path, _summary_bytes(summary))
    if ending is not None:
        ending.path = path


def _summary_bytes(summary: RunSummary) -> bytes:
    finished = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    full = replace(
        summary,
        out=_absolute(summary.out),
        artifacts={name: _absolute(path) for name, path in summary.artifacts.items()},
    )
    return (json.dumps({**full.to_json(), "finished": finished}, indent=1) + "\n").encode()


def _absolute(path: str) -> str:
    return str(Path(path).absolute())


def failed_summary(command: str, out: Path, error: Exception, seconds: float = 0.0) -> RunSummary:
    """The summary of a run that ended by an error; anything unknown is a bug, exit code 1."""
    known: RsgenError | None = from_os_error(error) if isinstance(error, OSError) else None
    if isinstance(error, RsgenError):
        known = error
    return RunSummary(
        command,
        str(out),
        "stopped" if isinstance(known, Stopped) else "failed",
        exit_code=1 if known is None else known.exit_code,
        seconds=seconds,
        error={
            "error": type(error if known is None else known).__name__,
            "message": str(error) if known is None else known.message,
            "fix": None if known is None else known.hint,
        },
    )


@contextmanager
def recorded(
    command: str,
    out: Path,
    ending: Ending,
    *,
    slice_of: tuple[int, int] | None = None,
    so_far: Callable[[RunSummary], RunSummary] = lambda summary: summary,
) -> Iterator[None]:
    """Inside, OUT is ours and locked: a failure or a stop leaves a summary of it.

    Args:
        so_far: adds to the summary how far it came.
    """
    started = time.monotonic()
    # That of an earlier attempt would speak for this one, should this one be killed.
    (out / summary_name(slice_of)).unlink(missing_ok=True)
    try:
        yield
    except Exception as error:
        summary = failed_summary(command, out, error, time.monotonic() - started)
        with suppress(OSError, RsgenError):  # a full disk must not hide what went wrong
            save_summary(out, so_far(summary), ending, slice_of)
        raise


# ---------------------------------------------------------------- on_finish


def with_on_finish(
    call: Callable[[], RunSummary],
    *,
    command: str,
    out: Path,
    config: Config,
    ending: Ending,
    reporter: Reporter,
    quiet: Callable[[Exception], bool] = lambda error: False,
) -> RunSummary:
    """Run a command, then `config.on_finish` with its summary; the outcome stays what it was.

    Args:
        quiet: errors that nobody is told of (a run that was skipped).
    """
    if config.on_finish is None:
        return call()
    try:
        summary = call()
    except Exception as error:
        if not quiet(error):
            _tell(config, ending.path, failed_summary(command, out, error), reporter)
        raise
    _tell(config, ending.path, summary, reporter)
    return summary


def _tell(config: Config, path: Path | None, summary: RunSummary, reporter: Reporter) -> None:
    """Call on_finish; that it did not go well is a warning, no more.

    A run that never came to own its OUT (a missing input, a held lock) has no file there:
    its summary lies in a temporary one while the command runs.
    """
    if path is None and summary.status == "no-op":
        path = Path(summary.out) / SUMMARY
    assert config.on_finish is not None
    if path is not None and path.is_file():
        problem = _call(config.on_finish, path.absolute(), config.on_finish_timeout_s, reporter)
    else:
        with tempfile.TemporaryDirectory(prefix="rsgen-") as folder:
            path = Path(folder) / SUMMARY
            path.write_bytes(_summary_bytes(summary))
            problem = _call(config.on_finish, path, config.on_finish_timeout_s, reporter)
    if problem is not None:
        reporter.note(f"on_finish {problem}; the exit code is the run's own", "warning")


def _call(line: str, path: Path, timeout_s: float, reporter: Reporter) -> str | None:
    # A command that calls rsgen must not be told of its own end, and so on without an end.
    kept = {key: value for key, value in os.environ.items() if key != "RSGEN_ON_FINISH"}
    problem: str | None = None
    # A file, not a pipe: what it leaves in the background would hold a pipe open.
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                ["/bin/sh", "-c", line, "on_finish", str(path)],
                env={**kept, "RSGEN_SUMMARY": str(path)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            return f"could not be started ({error.strerror})"
        try:
            code = process.wait(timeout_s)
            if code != 0:
                problem = f"ended with exit code {code}"
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            problem = f"took longer than {timeout_s:g} s and was ended"
        output.seek(0)
        lines = output.read().decode("utf-8", "replace").splitlines()
    for text in lines[-SHOWN_LINES:]:
        reporter.note(f"on_finish: {text}")
    return problem
