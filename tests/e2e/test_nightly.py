"""Nights from cron and job arrays from Slurm, as the shipped scripts run them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from pycocotools.coco import COCO

from rsgen.request import RunInfo
from rsgen.scenes import SCENE_CLASSES
from rsgen.shipped import shipped_text
from rsgen.store import is_committed, open_samples
from tests.build import data_of
from tests.build_models import save_model

PROGRAM = Path(sys.executable).parent / "rsgen"
COUNT = 6


def edited(text: str, **values: object) -> str:
    """A job script with its settings `name=value` replaced, as its reader is told to do."""
    for name, value in values.items():
        text, changes = re.subn(rf"(?m)^{name}=\S*", f"{name}={value}", text)
        assert changes == 1, name
    return text


# ---------------------------------------------------------------- cron


@dataclass(frozen=True)
class Factory:
    """A pipeline in a folder, and the crontab's command for it."""

    root: Path
    line: str

    @property
    def work(self) -> Path:
        return self.root / "work"

    def night(self, number: int) -> Path:
        return self.work / f"nightly-{number:04d}"

    def stage(self, number: int, name: str) -> Path:
        (folder,) = self.night(number).glob(f"{name}-*")
        return folder

    def start(self) -> subprocess.Popen[str]:
        """What cron does: a shell, next to no environment, some other folder."""
        return subprocess.Popen(
            ["env", "-i", "/bin/sh", "-c", self.line],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self) -> None:
        process = self.start()
        out, err = process.communicate(timeout=200)
        assert process.returncode == 0, err
        assert out == "", "cron would mail it"

    def summary(self, number: int) -> dict[str, Any]:
        return dict(json.loads((self.night(number) / "summary.json").read_text()))

    def ids(self, number: int) -> set[str]:
        return {sample.id for sample in open_samples(self.stage(number, "kept"))}

    def exported(self, number: int) -> set[str]:
        """File names of the night's COCO set, read by pycocotools."""
        dataset = self.stage(number, "set") / "dataset" / "coco"
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO(str(dataset / "annotations" / "instances_train.json"))
        for image in coco.dataset["images"]:
            assert (dataset / "images" / "train" / image["file_name"]).is_file()
        assert all(coco.annToMask(row).any() for row in coco.dataset["annotations"])
        return {Path(image["file_name"]).stem for image in coco.dataset["images"]}


@pytest.fixture
def factory(tmp_path: Path) -> Factory:
    root = tmp_path / "factory"
    root.mkdir()
    save_model(root / "weights", SCENE_CLASSES)
    loose = {"min_area_px": 1, "min_solidity": 0.0, "min_score": 0.0}
    pipeline = {
        "seed": 3,
        "on_finish": f'cp "$RSGEN_SUMMARY" "{root}/told-$$.json"; exit 9',
        "execution": {"shard_size": 1, "batch_size": 1},
        "stages": {
            "scenes": {"command": "scenes", "config": {"count": 8, "size": 32}},
            "masks": {"command": "extract-masks", "inputs": {"dataset": "scenes"}},
            "pool": {"command": "build-mask-pool", "inputs": {"run": "masks"}, "config": loose},
            "images": {
                "command": "generate",
                "inputs": {"checkpoint": "weights", "pool": "pool"},
                "config": {"count": COUNT, "steps": 1},
            },
            "kept": {
                "command": "filter",
                "inputs": {"run": "images", "real": "masks"},
                "config": {"rules": [{"scorer": "integrity", "min": 0.0}]},
            },
            "set": {"command": "export", "inputs": {"run": "kept"}, "config": {"format": ["coco"]}},
        },
    }
    (root / "factory.yaml").write_text(yaml.safe_dump(pipeline, sort_keys=False))
    script = edited(
        shipped_text("jobs/nightly.sh"),
        rsgen=PROGRAM,
        pipeline=root / "factory.yaml",
        work=root / "work",
    )
    (root / "nightly.sh").write_text(script)
    crontab = shipped_text("jobs/cron.txt").splitlines()[-1]
    line = crontab.split(maxsplit=5)[5].replace("/srv/rsgen", str(root))
    return Factory(root, line)


@pytest.mark.slow
@pytest.mark.timeout(900)  # three processes that import torch, on a busy machine
def test_three_nights_one_of_them_killed(
    factory: Factory, cli_here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only new ids each night; every export holds all earlier ones; the killed one goes on.

    The third night needs no bare environment again: it runs here, the script's line by hand.
    """
    factory.run()
    shared = {p.name for p in factory.work.iterdir() if (p / "manifest.json").is_file()}
    model = (factory.work / next(n for n in shared if n.startswith("pool"))).stat().st_mtime_ns

    process = factory.start()
    deadline = time.monotonic() + 100
    while not list(factory.night(2).glob("images-*/parts/*.parquet")):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not is_committed(factory.night(2)) and not factory.night(3).exists()
    assert not (factory.night(2) / "summary.json").exists(), "nobody could write it"
    done = {p: p.stat().st_mtime_ns for p in factory.night(2).glob("images-*/parts/*.parquet")}

    factory.run()
    assert is_committed(factory.night(2)) and not factory.night(3).exists()
    assert {p: p.stat().st_mtime_ns for p in done} == done, "its parts were kept"
    monkeypatch.chdir(factory.root)
    words = ["--series", "nightly", "--log-file", factory.work / "nightly.log", "--quiet"]
    third = cli_here("run", "factory.yaml", "--work", factory.work, *words)
    assert third.code == 0, third
    assert {p.name for p in factory.work.iterdir() if p.is_dir()} == {
        *shared,
        "nightly-0002",
        "nightly-0003",
    }, "nothing before generate was made again"
    assert (factory.work / next(n for n in shared if n.startswith("pool"))).stat().st_mtime_ns == (
        model
    )

    ids = [factory.ids(k) for k in (1, 2, 3)]
    assert [len(found) for found in ids] == [COUNT] * 3 and len(set.union(*ids)) == 3 * COUNT
    seeds = {RunInfo.load(factory.stage(k, "images")).seed for k in (1, 2, 3)}
    assert len(seeds) == 3
    everything: set[str] = set()
    for k in (1, 2, 3):
        everything |= ids[k - 1]
        assert factory.exported(k) == everything

    for k in (1, 2, 3):
        row = factory.summary(k)
        assert (row["status"], row["exit_code"], row["series"]["number"]) == ("done", 0, k)
        assert Path(row["artifacts"]["set: coco"]).is_dir()
    told = [json.loads(p.read_text()) for p in factory.root.glob("told-*.json")]
    assert sorted(row["series"]["number"] for row in told) == [1, 2, 3]
    log = (factory.work / "nightly.log").read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} ", text) for text in log)
    assert sum("on_finish ended with exit code 9" in text for text in log) == 3


# ---------------------------------------------------------------- Slurm


@dataclass(frozen=True)
class Cluster:
    """Stands in for Slurm: `scontrol` and `sbatch` that write down how they were called."""

    folder: Path
    script: Path

    @classmethod
    def make(cls, folder: Path, line: str, tasks: int) -> Cluster:
        (folder / "bin").mkdir()
        for name, answer in (("sbatch", "echo 17"), ("scontrol", ":")):
            program = folder / "bin" / name
            program.write_text(f'#!/bin/sh\necho "{name} $@" >> "{folder}/calls.txt"\n{answer}\n')
            program.chmod(0o755)
        text = edited(shipped_text("jobs/slurm-array.sh"), tasks=tasks)
        text = re.sub(r"(?m)^line=\(.*\)$", f"line=({line})", text)
        script = folder / "array.sh"
        script.write_text(text)
        return cls(folder, script)

    def start(self, *words: str, **variables: object) -> subprocess.Popen[str]:
        given = {f"SLURM_{name}": str(value) for name, value in variables.items()}
        path = f"{self.folder / 'bin'}:/usr/bin:/bin"
        return subprocess.Popen(
            ["/bin/bash", str(self.script), *words],
            env={"PATH": path, "OMP_NUM_THREADS": "1", **given},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str, **variables: object) -> int:
        process = self.start(*words, **variables)
        process.communicate(timeout=200)
        return process.returncode

    @property
    def calls(self) -> list[str]:
        path = self.folder / "calls.txt"
        return path.read_text().splitlines() if path.exists() else []


def test_the_array_does_its_slices_and_the_last_job_commits(tmp_path: Path) -> None:
    line = f"{PROGRAM} scenes --count 10 --size 48 -s execution.shard_size=2 -q"
    cluster = Cluster.make(tmp_path, f"{line} --out out", 3)
    assert cluster.run() == 0
    assert cluster.calls == [
        f"sbatch --parsable --array=0-2 {cluster.script} slice",
        f"sbatch --dependency=afterok:17 {cluster.script} commit",
    ]
    out = tmp_path / "out"
    for k in (2, 0, 1):
        assert cluster.run("slice", JOB_ID=k, ARRAY_TASK_ID=k, ARRAY_TASK_COUNT=3) == 0
        assert not is_committed(out)
    assert cluster.run("commit", JOB_ID=18) == 0 and is_committed(out)
    assert len(cluster.calls) == 2, "nothing was queued again"
    assert subprocess.run([*line.split(), "--out", "whole"], check=False).returncode == 0
    assert data_of(out) == data_of(tmp_path / "whole")


def test_a_task_near_its_limit_is_queued_again(tmp_path: Path) -> None:
    """SIGUSR1 goes to the script alone: rsgen must get it, and its 75 must be seen."""
    line = f"{PROGRAM} scenes --count 400 --size 64 -s execution.shard_size=2 -q --out out"
    cluster = Cluster.make(tmp_path, line, 1)
    process = cluster.start("slice", JOB_ID=23, ARRAY_TASK_ID=0, ARRAY_TASK_COUNT=1)
    deadline = time.monotonic() + 100
    while not list((tmp_path / "out").glob("parts/*.parquet")):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGUSR1)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert cluster.calls == ["scontrol requeue 23"]
    row = json.loads((tmp_path / "out" / "slice-0-1.json").read_text())
    assert (row["status"], row["exit_code"]) == ("stopped", 75)
    assert 0 < row["counts"]["shards done"] < row["counts"]["shards"]
