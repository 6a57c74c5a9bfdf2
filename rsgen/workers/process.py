"""A worker process: one JSON line in, one JSON line out.

The program is started with the first question, in a process group of its own, and started
again once when it dies or is silent for too long over a question. What it writes on stderr
is kept for messages. It ends with rsgen, however that ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rsgen.errors import DataError, SetupError, UsageError

__all__ = ["Worker"]

LAUNCH = Path(__file__).with_name("launch.py")
START_FACTOR = 5  # the first answer may take this much longer: weights are loaded
MOST_BYTES = 64 * 1024**2
MOST_LOST = 3  # questions in a row that killed it: then it is not the questions
PATIENCE_S = 2.0


class _Lost(Exception):
    """The process died, or was ended because it was silent for too long."""


@dataclass
class _Process:
    process: subprocess.Popen[bytes]
    guard: int
    errors: IO[bytes]
    buffer: bytes = b""
    answered: bool = False

    @property
    def said(self) -> str:
        """The end of what it wrote on stderr."""
        size = os.fstat(self.errors.fileno()).st_size
        tail = os.pread(self.errors.fileno(), 2000, max(0, size - 2000))
        lines = tail.decode("utf-8", "replace").strip().splitlines()
        return " | ".join(lines[-4:]) or "nothing"


def _end(running: list[_Process]) -> None:
    """End the worker's whole group; it may leave by itself at the end of its input first."""
    while running:
        one = running.pop()
        process = one.process
        with contextlib.suppress(OSError):
            if process.stdin is not None:
                process.stdin.close()
        if one.answered:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE_S)
        if process.poll() is None:  # not waited for yet: the group is surely its own
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
        os.close(one.guard)
        one.errors.close()


class Worker:
    """A program that answers questions.

    `command` is split like a shell line, and no shell sees it. `time_limit_s` is for one
    answer; the first after a start may take five times that.
    """

    def __init__(self, command: str, time_limit_s: float = 60.0) -> None:
        try:
            self._command = shlex.split(command)
        except ValueError as error:
            raise UsageError(
                f"worker command {command!r}: {error}", hint="close every quotation mark"
            ) from error
        if not self._command:
            raise UsageError("empty worker command", hint="write 'command: python worker.py'")
        if shutil.which(self._command[0]) is None:
            raise SetupError(
                f"worker command {command!r}: no program {self._command[0]!r}",
                hint="give its path, or activate the environment that has it",
            )
        self.name = command
        self._limit_s = time_limit_s
        self._running: list[_Process] = []
        self._lost = 0
        self._finalizer = weakref.finalize(self, _end, self._running)

    def ask(self, question: Mapping[str, Any]) -> Any:
        """The JSON value of its answer.

        Raises:
            DataError: no JSON, or it died (or was silent) twice over this question.
            SetupError: it cannot be started, or dies over every question.
        """
        line = json.dumps(question, ensure_ascii=False).encode() + b"\n"
        lost = ""
        for _ in range(2):
            worker = self._started()
            try:
                answer = self._exchange(worker, line)
            except _Lost as error:
                lost = f"{error}; on stderr: {worker.said}"
                self.close()
                continue
            self._lost = 0
            return self._parsed(worker, answer)
        self._lost += 1
        if self._lost >= MOST_LOST:
            raise SetupError(
                f"worker {self.name!r} failed on {self._lost} questions in a row ({lost})",
                hint="try it by hand: it reads one JSON line and prints one JSON line",
            )
        raise DataError(f"worker {self.name!r} failed twice over one question ({lost})")

    def close(self) -> None:
        """End the process; the next question starts it anew."""
        _end(self._running)

    def _started(self) -> _Process:
        if self._running:
            return self._running[0]
        theirs, ours = os.pipe()
        errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the process is ended
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(LAUNCH), str(theirs), *self._command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                pass_fds=(theirs,),
                start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        except OSError as error:
            os.close(ours)
            raise SetupError(
                f"worker {self.name!r} cannot be started ({error})", hint="check the command"
            ) from error
        finally:
            os.close(theirs)
        self._running.append(_Process(process, ours, errors))
        return self._running[0]

    def _exchange(self, worker: _Process, line: bytes) -> bytes:
        assert worker.process.stdin is not None and worker.process.stdout is not None
        stream = worker.process.stdout.fileno()
        if not worker.buffer and select.select([stream], [], [], 0)[0]:
            worker.buffer = os.read(stream, 65536)
            if not worker.buffer:
                raise _Lost(_ending(worker))
        if worker.buffer:
            extra = worker.buffer
            self.close()
            raise DataError(
                f"worker {self.name!r} wrote more than one line for a question: {_short(extra)}",
                hint="print answers alone on stdout, and remarks on stderr",
            )
        try:
            worker.process.stdin.write(line)
            worker.process.stdin.flush()
        except OSError as error:
            raise _Lost(_ending(worker)) from error
        answer = self._line(worker)
        worker.answered = True
        return answer

    def _line(self, worker: _Process) -> bytes:
        assert worker.process.stdout is not None
        stream = worker.process.stdout.fileno()
        limit = self._limit_s * (1 if worker.answered else START_FACTOR)
        until = time.monotonic() + limit
        while b"\n" not in worker.buffer:
            left = until - time.monotonic()
            if left <= 0:
                raise _Lost(f"no answer within {limit:g} s")
            if not select.select([stream], [], [], left)[0]:
                continue
            part = os.read(stream, 65536)
            if not part:
                raise _Lost(_ending(worker))
            worker.buffer += part
            if len(worker.buffer) > MOST_BYTES:
                raise _Lost(f"an answer of over {MOST_BYTES >> 20} MiB")
        answer, _, worker.buffer = worker.buffer.partition(b"\n")
        return answer

    def _parsed(self, worker: _Process, answer: bytes) -> Any:
        try:
            return json.loads(answer)
        except ValueError as error:
            self.close()  # what it writes next may belong to this question
            raise DataError(
                f"worker {self.name!r} answered no JSON: {_short(answer)}",
                hint="print one JSON line an answer on stdout, and remarks on stderr",
            ) from error


def _ending(worker: _Process) -> str:
    try:
        code = worker.process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        return "it closed its output"
    return f"it ended with code {code}"


def _short(text: bytes) -> str:
    return repr(text[:120].decode("utf-8", "replace"))
