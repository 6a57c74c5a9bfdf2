"""Started as a script: runs a worker's command, and ends its whole group when rsgen is gone.

`launch.py FD COMMAND ...` in a process group of its own. FD is the read end of a pipe whose
other end rsgen holds: it closes however rsgen ends, also by SIGKILL. Standard library only.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

__all__ = ["main"]

PATIENCE_S = 2.0


def _watch(pipe: int) -> None:
    os.read(pipe, 1)
    os.killpg(0, signal.SIGTERM)
    time.sleep(PATIENCE_S)
    os.killpg(0, signal.SIGKILL)


def main() -> int:
    """Run the command; its exit code, or 128 + the signal that ended it."""
    pipe = int(sys.argv[1])
    worker = subprocess.Popen(sys.argv[2:])
    # Only after the start: an ignored signal stays ignored in a child.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.close(0)  # the worker alone reads and answers: its end is the end of the stream
    os.close(1)
    threading.Thread(target=_watch, args=(pipe,), daemon=True).start()
    code = worker.wait()
    os.killpg(0, signal.SIGTERM)  # what it started and left behind
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
