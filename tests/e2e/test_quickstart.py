"""The reduced quickstart through the real command line, held against what it promises."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REDUCED = [
    "-s", "scenes.count=60",
    "-s", "train.max_steps=3",
    "-s", "generate.count=12",
    "-s", "generate.steps=6",
    "-s", "rl_tune.epochs=1",
    "-s", "rl_tune.steps=5",
    "-s", "rl_tune.held_layouts=2",
]  # fmt: skip
ROOT = Path(__file__).parents[2]


def _rsgen(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "rsgen_cli", *arguments],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.mark.slow
def test_reduced_quickstart_makes_a_verified_set(tmp_path: Path) -> None:
    """Catches any break in the chain: a stage that cannot read its predecessor, an export that
    its own format's reader or pycocotools refuses, a verdict left unknown, a second run that
    works again instead of being a no-op."""
    first = _rsgen(tmp_path, "run", "quickstart", "--work", "run", *REDUCED)
    assert first.returncode == 0, first.stderr
    assert "contact sheet" in first.stdout
    again = _rsgen(tmp_path, "run", "quickstart", "--work", "run", "--json", *REDUCED)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["exit_code"] == 0
    (tmp_path / "again.json").write_text(again.stdout, encoding="utf-8")
    check = subprocess.run(
        [sys.executable, str(ROOT / ".ci" / "check_quickstart.py"), "run", "again.json", "8"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert check.returncode == 0, check.stdout + check.stderr
