"""Time of `rsgen --help` as a whole process, against a bare interpreter.

python benchmarks/startup.py [--repeat 10]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=10)
    repeat = parser.parse_args().repeat
    rows = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "rsgen --help": [sys.executable, "-m", "rsgen_cli", "--help"],
        "rsgen train --help": [sys.executable, "-m", "rsgen_cli", "train", "--help"],
    }
    for name, command in rows.items():
        times = [seconds(command) for _ in range(repeat)]
        print(
            f"{name:20s} min {min(times):.3f} s  median {statistics.median(times):.3f} s  "
            f"max {max(times):.3f} s"
        )


if __name__ == "__main__":
    main()
