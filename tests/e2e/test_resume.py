"""Killed, stopped, sliced, extended, run in parallel: the same bytes as in one go."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rsgen.data import TrainingImages
from rsgen.pool import MaskPool
from rsgen.records import Sample
from rsgen.store import is_committed, open_samples
from tests.build import data_of, instance, layout, sample, sample_run
from tests.conftest import CommandLine, Result

Here = Callable[..., Result]
SCENES = ("scenes", "--count", 14, "--size", 48, "-s", "execution.shard_size=3", "-q")


@pytest.fixture(scope="module")
def whole(cli: CommandLine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run that the others are held against."""
    out = tmp_path_factory.mktemp("whole") / "scenes"
    result = cli(*SCENES, "--out", out)
    assert result.code == 0, result
    return out


def kill_at_random(
    cli: CommandLine, line: tuple[object, ...], out: Path, kills: int, seed: int
) -> int:
    """Kill the command a few times, each at a random point of its work; returns the kills.

    A point is a number of files below OUT: inside a shard, between shards, before the manifest.
    """
    draw = random.Random(seed)
    done = 0
    for _ in range(kills):
        target = len(_files(out)) + draw.randint(1, 6)
        result = cli.stop_when(
            lambda wanted=target: len(_files(out)) >= wanted,  # type: ignore[misc]
            *line,
            number=signal.SIGKILL,
        )
        assert result.code in {-signal.SIGKILL, 0}, result
        done += result.code != 0
    return done


def _files(out: Path) -> list[Path]:
    return [p for folder in ("parts", "images") for p in (out / folder).rglob("*") if p.is_file()]


@pytest.mark.parametrize("workers", [1, 2], ids=["inline", "two workers"])
def test_killed_and_resumed_is_byte_identical(
    workers: int, whole: Path, cli: CommandLine, cli_here: Here, tmp_path: Path
) -> None:
    """SIGKILL leaves no trace: not in parts, images, manifest, and no temp file."""
    out = tmp_path / "scenes"
    line = (*SCENES, "--workers", workers, "--out", out)
    assert kill_at_random(cli, line, out, kills=2, seed=workers) > 0
    if workers == 2:
        # The workers of a killed parent end by themselves, and hold no lock.
        result = cli(*line)
    else:
        result = cli_here(*line)
    assert result.code == 0, result
    assert data_of(out) == data_of(whole)


def test_two_workers_stop_on_a_signal_and_go_on(
    whole: Path, cli: CommandLine, cli_here: Here, tmp_path: Path
) -> None:
    out = tmp_path / "scenes"
    line = (*SCENES, "--out", out)
    stopped = cli.stop_when(
        lambda: any((out / "parts").glob("*.parquet")),
        *line,
        "--workers",
        2,
        number=signal.SIGTERM,
    )
    assert stopped.code == 75, stopped
    assert not is_committed(out)
    assert cli_here(*line).code == 0
    assert data_of(out) == data_of(whole)


def test_slices_at_the_same_time_and_a_committing_run(
    whole: Path, cli: CommandLine, cli_here: Here, tmp_path: Path
) -> None:
    """A job array of two that start in the same moment, then the plain line."""
    out = tmp_path / "scenes"
    line = (*SCENES, "--out", out)
    slices = [cli.start(*line, "--slice", f"{k}/2", "--json") for k in range(2)]
    rows = []
    for process in slices:
        text, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        rows.append(json.loads(text))
    assert [row["status"] for row in rows] == ["partial", "partial"]
    assert sum(row["counts"]["items"] for row in rows) == 14
    assert not is_committed(out)
    done = cli_here(*line, "--json")
    assert done.code == 0 and done.json["status"] == "done"
    assert data_of(out) == data_of(whole)


def test_ten_then_twenty_five_is_twenty_five(cli_here: Here, tmp_path: Path) -> None:
    """Item k depends on (seed, k) alone; shards are cut elsewhere, nothing else differs."""
    size = ("--size", 32, "-q")
    for count in (10, 25):
        assert cli_here("scenes", "--count", count, *size, "--out", tmp_path / "grown").code == 0
    assert cli_here("scenes", "--count", 25, *size, "--out", tmp_path / "once").code == 0
    grown, once = open_samples(tmp_path / "grown"), open_samples(tmp_path / "once")
    assert len(grown) == 25
    assert [replace(s, image=None) for s in grown] == [replace(s, image=None) for s in once]
    assert grown.fingerprint == once.fingerprint


def test_the_same_request_in_other_shards_gives_the_same_samples(
    whole: Path, cli_here: Here, tmp_path: Path
) -> None:
    """Catches anything that depends on where a shard begins."""
    for size in (1, 7, 64):
        line = ("scenes", "--count", 14, "--size", 48, "-s", f"execution.shard_size={size}", "-q")
        assert cli_here(*line, "--out", tmp_path / f"s{size}").code == 0
        got = [replace(s, image=None) for s in open_samples(tmp_path / f"s{size}")]
        assert got == [replace(s, image=None) for s in open_samples(whole)]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("--seed", 3), "seed: 0 -> 3"),
        (("--size", 64), "scenes.size: 48 -> 64"),
        (("--count", 13), "already has 14 items, 13 asked for"),
        (("--batch-size", 3), "execution.batch_size: 16 -> 3"),
        (("-s", "execution.shard_size=5"), "execution.shard_size: 3 -> 5"),
        (("--style", "alt"), "scenes.style: 'default' -> 'alt'"),
    ],
    ids=["seed", "size", "fewer", "batch size", "shard size", "style"],
)
def test_another_request_on_a_used_out_is_refused(
    change: tuple[object, ...], named: str, whole: Path, cli_here: Here
) -> None:
    """Exit 2 naming what differs, and the run stays as it is."""
    before = data_of(whole)
    options = {"--count": 14, "--size": 48, "-s": "execution.shard_size=3"}
    options[str(change[0])] = change[1]  # type: ignore[assignment]
    line = [word for pair in options.items() for word in pair]
    result = cli_here("scenes", *line, "--out", whole)
    assert result.code == 2, result
    assert named in result.err and "fix:" in result.err
    assert data_of(whole) == before


def test_another_command_on_a_used_out_is_refused(whole: Path, cli_here: Here) -> None:
    result = cli_here("build-mask-pool", whole, "--out", whole)
    assert result.code == 2 and "holds a scenes run, not build-mask-pool" in result.err, result


# ---------------------------------------------------------------- the test split


def test_an_image_planted_in_test_is_learned_from_by_no_one(cli_here: Here, tmp_path: Path) -> None:
    """One scene in `test` with a shape and a colour that nothing else has."""
    planted_shape = instance("ship", 32, 32, 50, 5, 0.0)
    planted = sample("planted.png", layout((planted_shape,)), split="test")
    others = [_train_scene(k) for k in range(8)]
    unused = [
        replace(_train_scene(20), id="val.png", split="val"),
        replace(_train_scene(21), id="none.png", split=None),
    ]
    run = sample_run(tmp_path / "run", [*others[:4], planted, *unused, *others[4:]])
    result = cli_here("build-mask-pool", run.path, "--out", tmp_path / "pool", "--json")
    assert result.code == 0, result
    pool = MaskPool.load(tmp_path / "pool")
    sources = {source for row in pool.table.to_pylist() for source in row["sources"]}
    assert sources == {s.id for s in others}
    opened = open_samples(run.path)
    images = TrainingImages.from_runs([opened], opened.classes)
    assert {s.id for s in images.samples} == {s.id for s in others}
    assert images.refused == 3
    forbidden = opened.read_image(run.samples[4])
    assert not any(np.array_equal(images.image(k), forbidden) for k in range(len(images)))


def _train_scene(k: int) -> Sample:
    plane = instance("plane", 20 + k, 20, 18 + k % 5, 10 + k % 3, 0.1 * k)
    return sample(f"scene-{k}.png", layout((plane, instance("ship", 40, 44, 24, 8 + k % 4, 0.2))))


# ---------------------------------------------------------------- generate, with a real model


@pytest.mark.slow
def test_generate_killed_and_resumed_is_byte_identical(
    cli: CommandLine, cli_here: Here, tmp_path: Path
) -> None:
    """SIGKILL at a random point; resumed by another process, held against a third folder."""
    from tests.build_models import SIZE, save_model

    canvas = (SIZE, SIZE)
    model = save_model(tmp_path / "model").path
    planes = [instance("plane", 14, 16, 14, 8, 0.4 * k, size=canvas) for k in range(10)]
    scenes = [sample(f"s{k}.png", layout((p,), canvas)) for k, p in enumerate(planes)]
    labels = sample_run(tmp_path / "labels", scenes, images=False).path
    line = (
        "generate", model, "--layouts", labels, "--steps", 2, "--batch-size", 2,
        "-s", "execution.shard_size=3", "-q",
    )  # fmt: skip
    out = tmp_path / "killed"
    assert kill_at_random(cli, (*line, "--out", out), out, kills=1, seed=3) == 1
    resumed = cli_here(*line, "--out", out)
    assert resumed.code == 0, resumed
    once = cli_here(*line, "--out", tmp_path / "deep" / "once")
    assert once.code == 0, once
    assert data_of(out) == data_of(tmp_path / "deep" / "once")
    assert [s.layout for s in open_samples(out)] == [s.layout for s in scenes]
