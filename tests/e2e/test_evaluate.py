"""`evaluate` as its users meet it: a good set against bad ones, through the command line."""

from __future__ import annotations

import json
import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from rsgen.images import sha256_file
from rsgen.store import open_samples
from tests.build import data_of
from tests.conftest import CommandLine, Result
from tests.toy_world import samples, toy_run

Here = Callable[..., Result]
QUICK = ("--metrics", "layout,fidelity")


@dataclass(frozen=True)
class World:
    """Real images with all splits, judge B of their train images, and three generated sets."""

    real: Path
    judge: Path
    good: Path
    blurred: Path
    shifted: Path

    def line(self, made: Path, out: Path, *more: object) -> tuple[object, ...]:
        given = ("--real", self.real, "--judge", self.judge, "--out", out, "-q")
        return ("evaluate", made, *given, *(more or QUICK))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, cli: CommandLine) -> World:
    root = tmp_path_factory.mktemp("world")
    real = [*samples(96, 0, "train"), *samples(8, 1, "val"), *samples(24, 2, "test")]
    toy_run(root / "real", real)
    made = samples(24, 3, "train", "made")
    for name, look in (("good", "paint"), ("blurred", "blurred"), ("shifted", "shifted")):
        toy_run(root / name, made, look=look, command="generate")
    result = cli(
        "train-judge", root / "real", "--out", root / "judges", "--steps", 60, "--size", 64,
        "--batch-size", 8, "-s", "train_judge.judges=evaluation", "-q",
    )  # fmt: skip
    assert result.code == 0, result
    return World(root / "real", root / "judges", root / "good", root / "blurred", root / "shifted")


@pytest.fixture(scope="module")
def reports(
    world: World, tmp_path_factory: pytest.TempPathFactory, cli: CommandLine
) -> dict[str, tuple[Path, Result]]:
    """Each set's OUT and what `--json` printed."""
    root = tmp_path_factory.mktemp("reports")
    found = {}
    for name in ("good", "blurred", "shifted"):
        result = cli(*world.line(getattr(world, name), root / name), "--json")
        assert result.code == 0, result
        found[name] = (root / name, result)
    return found


def figures(out: Path, cell: str) -> dict[str, Any]:
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return dict(report["cells"][cell]["figures"])


@pytest.mark.parametrize("bad", ["blurred", "shifted"])
def test_a_good_set_beats_a_bad_one(bad: str, reports: dict[str, tuple[Path, Result]]) -> None:
    """The good set is drawn like the real one: near its ceiling and its floor."""
    good, worse = (figures(reports[name][0], "layout") for name in ("good", bad))
    assert good["AP50"] > worse["AP50"]
    assert good["recognised in the right class"] > worse["recognised in the right class"] + 0.5
    assert good["count error"] < worse["count error"]
    assert 0.8 < good["ratio to real"] < 1.25
    near, far = (figures(reports[name][0], "fidelity") for name in ("good", bad))
    for name in ("FD-judge", "KD-judge", "MMD-judge"):
        assert near[name] < far[name]
    assert near["FD-judge"] < 2 * near["FD-judge, real to real"] < far["FD-judge"]


def test_an_object_that_is_not_drawn_has_no_pose(reports: dict[str, tuple[Path, Result]]) -> None:
    """Catches NaN in JSON, and a nothing that is reported as 0: a perfect error."""
    found = figures(reports["blurred"][0], "layout")
    if found["recognised in the right class"] == 0:
        assert found["centre error, px (median)"] is None
    json.loads((reports["blurred"][0] / "report.json").read_text(), parse_constant=pytest.fail)


def test_console_and_report_say_the_same(reports: dict[str, tuple[Path, Result]]) -> None:
    out, result = reports["good"]
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    for name, cell in report["cells"].items():
        shown = result.json["tables"][report["titles"][name]]
        on = shown.pop("measured on")
        assert shown == {k: "-" if v is None else v for k, v in cell["figures"].items()}
        assert "24 generated images" in on and "24 real images" in on
    assert report["counts"] == result.json["counts"]
    assert report["counts"]["generated images"] == 24
    assert report["counts"]["real test images"] == 24


def test_the_page_needs_nothing_else(reports: dict[str, tuple[Path, Result]]) -> None:
    """A page that is mailed must show all it has: no file, font or script from elsewhere."""
    page = (reports["good"][0] / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|<script[^>]+src|<link|@import|url\(", page)
    sources = re.findall(r"<img[^>]*src=\"([^\"]{0,30})", page)
    assert sources and all(s.startswith("data:image/png;base64,") for s in sources)
    for name, value in figures(reports["good"][0], "layout").items():
        assert name in page
        assert f"{value:.4g}" in page


def test_few_images_are_said_to_be_few(reports: dict[str, tuple[Path, Result]]) -> None:
    notes = " ".join(reports["good"][1].json["notes"])
    assert "24 images on a side" in notes and "under 200" in notes
    assert "12 images a side" in notes


def test_progress_and_notes_are_said_once(world: World, cli_here: Here, tmp_path: Path) -> None:
    """Catches a stage that is announced for every metric, and notes that stand twice."""
    given = ("--real", world.real, "--judge", world.judge, "--out", tmp_path / "out")
    result = cli_here("evaluate", world.good, *given, *QUICK)
    assert result.code == 0, result
    assert result.err.count("2 metrics to do") == 1
    assert (result.out + result.err).count("rough under 200; compare") == 1


def test_the_same_line_again_does_nothing(
    world: World, reports: dict[str, tuple[Path, Result]], cli_here: Here
) -> None:
    out = reports["good"][0]
    before = data_of(out)
    result = cli_here(*world.line(world.good, out), "--json")
    assert result.code == 0, result
    assert result.json["status"] == "no-op"
    assert data_of(out) == before


def test_another_request_does_not_overwrite(
    world: World, reports: dict[str, tuple[Path, Result]], cli_here: Here
) -> None:
    result = cli_here(*world.line(world.shifted, reports["good"][0]))
    assert result.code == 2, result


def test_killed_between_metrics_it_goes_on(
    world: World, reports: dict[str, tuple[Path, Result]], cli: CommandLine, tmp_path: Path
) -> None:
    """What was measured is kept, and the report is that of an uninterrupted run."""
    out = tmp_path / "report"
    line = world.line(world.good, out)
    first = out / "cells" / "layout.json"
    killed = cli.stop_when(first.is_file, *line, number=signal.SIGKILL)
    assert killed.code == -signal.SIGKILL, killed
    assert not (out / "report.json").exists()
    kept = first.stat().st_mtime_ns
    result = cli(*line)
    assert result.code == 0, result
    assert first.stat().st_mtime_ns == kept
    whole = reports["good"][0]
    assert (out / "report.json").read_bytes() == (whole / "report.json").read_bytes()
    assert (out / "report.html").read_bytes() == (whole / "report.html").read_bytes()


def test_order_of_images_does_not_matter(
    world: World, reports: dict[str, tuple[Path, Result]], cli_here: Here, tmp_path: Path
) -> None:
    """Catches draws by position: the same images in another order are the same set."""
    shutil.copytree(world.good, tmp_path / "turned")
    part, manifest = (tmp_path / "turned" / n for n in ("parts/00000.parquet", "manifest.json"))
    table, before = pq.read_table(part), sha256_file(part)
    pq.write_table(table.take(list(range(len(table)))[::-1]), part)
    manifest.write_text(manifest.read_text().replace(before, sha256_file(part)))
    turned = open_samples(tmp_path / "turned")
    assert [s.id for s in turned] == [s.id for s in open_samples(world.good)][::-1]
    result = cli_here(*world.line(tmp_path / "turned", tmp_path / "out"))
    assert result.code == 0, result
    for cell in ("layout", "fidelity"):
        assert figures(tmp_path / "out", cell) == figures(reports["good"][0], cell)


def test_batches_and_workers_do_not_matter(
    world: World, reports: dict[str, tuple[Path, Result]], cli_here: Here, tmp_path: Path
) -> None:
    line = world.line(world.good, tmp_path / "out")
    result = cli_here(*line, "--batch-size", 3, "--workers", 2)
    assert result.code == 0, result
    for cell in ("layout", "fidelity"):
        assert figures(tmp_path / "out", cell) == figures(reports["good"][0], cell)


def test_train_images_are_never_the_reference(
    world: World, reports: dict[str, tuple[Path, Result]], cli_here: Here, tmp_path: Path
) -> None:
    """Other train and val images, the same test images: the same figures."""
    held = [s for s in open_samples(world.real) if s.split == "test"]
    shutil.copytree(world.real, tmp_path / "real")
    changed = [s for s in open_samples(world.real) if s.split != "test"]
    for sample in changed:
        assert sample.image is not None
        (tmp_path / "real" / sample.image).unlink()
    assert len(held) == 24
    other = replace(world, real=tmp_path / "real")
    result = cli_here(*other.line(world.good, tmp_path / "out"))
    assert result.code == 0, result
    for cell in ("layout", "fidelity"):
        assert figures(tmp_path / "out", cell) == figures(reports["good"][0], cell)


def test_a_judge_for_rewards_may_not_measure(world: World, cli_here: Here, tmp_path: Path) -> None:
    folder = tmp_path / "judges" / "judge_b"
    shutil.copytree(world.judge / "judge_b", folder)
    card = json.loads((folder / "judge.json").read_text(encoding="utf-8"))
    (folder / "judge.json").write_text(json.dumps({**card, "role": "reward"}), encoding="utf-8")
    other = replace(world, judge=folder)
    result = cli_here(*other.line(world.good, tmp_path / "out"))
    assert result.code == 2, result
    assert "reward" in result.err and "fix:" in result.err
    assert not (tmp_path / "out").exists()
    forced = cli_here(*other.line(world.good, tmp_path / "out"), "-s", "evaluate.force_judge=true",
                      "--dry-run")  # fmt: skip
    assert forced.code == 0, forced


def test_without_a_test_split_nothing_is_measured(
    world: World, cli_here: Here, tmp_path: Path
) -> None:
    toy_run(tmp_path / "real", [*samples(6, 0, "train"), *samples(3, 1, "val")])
    other = replace(world, real=tmp_path / "real")
    result = cli_here(*other.line(world.good, tmp_path / "out"))
    assert result.code == 3, result
    assert "test split" in result.err and "fix:" in result.err


def test_two_runs_side_by_side(
    world: World, reports: dict[str, tuple[Path, Result]], cli_here: Here, tmp_path: Path
) -> None:
    """The other run's figures stand beside; and do not change this run's own."""
    other = reports["shifted"][0]
    line = world.line(world.good, tmp_path / "out", *QUICK, "--against", other)
    result = cli_here(*line, "--json")
    assert result.code == 0, result
    assert figures(tmp_path / "out", "layout") == figures(reports["good"][0], "layout")
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    ours, theirs = (figures(o, "layout")["AP50"] for o in (tmp_path / "out", other))
    assert f"{ours:.4g}" in page and f"{theirs:.4g}" in page
    shown = next(iter(result.json["tables"].values()))["AP50"]
    assert str(ours) in str(shown) and str(theirs) in str(shown)


def test_against_must_be_a_report(world: World, cli_here: Here, tmp_path: Path) -> None:
    line = world.line(world.good, tmp_path / "out", *QUICK, "--against", world.real)
    result = cli_here(*line)
    assert result.code == 3, result
    assert "report" in result.err
