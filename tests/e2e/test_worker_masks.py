"""`extract-masks --backend worker` from the command line, with a worker that may be sick."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rsgen.geometry import RotatedBox, rotated_box_to_quad
from rsgen.images import write_png
from rsgen.mask import Mask
from rsgen.store import open_samples, read_failures
from tests.conftest import CommandLine, Result

Here = Callable[..., Result]
SCRIPT = Path(__file__).parents[1] / "mask_worker.py"
SHIPS = [(30, 30, 32, 12, 0.4), (80, 60, 20, 10, 2.0), (95, 20, 14, 8, 1.2)]
SIZE = (120, 90)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three DOTA images with the same three ships; in the second they are darker."""
    root = tmp_path_factory.mktemp("dataset")
    (root / "images").mkdir()
    (root / "labelTxt").mkdir()
    quads = [rotated_box_to_quad(RotatedBox(*ship)) for ship in SHIPS]
    lines = [" ".join(f"{v:.3f}" for point in q for v in point) + " ship 0" for q in quads]
    for k, bright in enumerate((220, 120, 220)):
        pixels = np.random.default_rng(k).normal(50, 3, (SIZE[1], SIZE[0], 3))
        for quad in quads:
            mask = Mask.from_polygons([np.array(quad)], *SIZE)
            assert mask is not None
            mask.paint(pixels, bright)
        write_png(root / "images" / f"{k}.png", pixels.clip(0, 255).astype(np.uint8))
        (root / "labelTxt" / f"{k}.txt").write_text("\n".join(lines) + "\n")
    return root


def command(mode: str, file: str | Path = "") -> str:
    return shlex.join([sys.executable, str(SCRIPT), mode, str(file)])


def line(dataset: Path, out: Path, told: str, *more: object) -> tuple[object, ...]:
    named = ("--backend", "worker", "--command", told)
    return ("extract-masks", dataset, *named, "--out", out, "--json", *more)


LENIENT = ("-s", "execution.max_failure_rate=0.5")


def origins(out: Path) -> dict[str, set[str]]:
    return {s.id: {i.origin for i in s.layout.instances} for s in open_samples(out)}


def test_a_dataset_gets_its_masks_from_a_worker(
    cli_here: Here, tmp_path: Path, dataset: Path
) -> None:
    """The dark image has nothing: classical there, with the reason; the same line: no-op."""
    told = line(dataset, tmp_path / "out", command("class"))
    done = cli_here(*told)
    assert done.code == 0, done
    assert done.json["counts"]["masks: worker"] == 6
    assert "of the masks are not by worker" in (done.out + done.err).replace("\n", " ")
    for sample in open_samples(tmp_path / "out"):
        for instance in sample.layout.instances:
            assert instance.quad is not None and instance.mask is not None
            outline = Mask.from_polygons([np.array(instance.quad)], *SIZE)
            assert outline is not None
            if instance.origin == "worker":
                assert instance.mask.iou(outline) > 0.95
            else:
                assert instance.reasons[0] == "worker: nothing found in the label"
    assert cli_here(*told).json["status"] == "no-op"


def test_the_command_is_part_of_the_request_and_its_time_is_not(
    cli_here: Here, tmp_path: Path, dataset: Path
) -> None:
    """Catches masks of two programs in one run, and a run that cannot be given more time."""
    out = tmp_path / "out"
    assert cli_here(*line(dataset, out, command("class"))).code == 0
    patient = cli_here(
        *line(dataset, out, command("class"), "-s", "extract_masks.command_limit_s=9")
    )
    assert patient.code == 0 and patient.json["status"] == "no-op"
    other = cli_here(*line(dataset, out, command("each")))
    assert other.code == 2 and "extract_masks.command" in other.err


def test_a_mended_script_is_another_program(cli_here: Here, tmp_path: Path, dataset: Path) -> None:
    """Catches a run that goes on with the masks of the script as it was before."""
    script = tmp_path / "worker.py"
    script.write_bytes(SCRIPT.read_bytes())
    told = line(dataset, tmp_path / "out", shlex.join([sys.executable, str(script), "class"]))
    assert cli_here(*told).code == 0
    script.write_bytes(SCRIPT.read_bytes() + b"# mended\n")
    other = cli_here(*told)
    assert other.code == 2 and "contents of the file" in other.err, other


def test_a_death_is_forgiven_once(cli_here: Here, tmp_path: Path, dataset: Path) -> None:
    done = cli_here(*line(dataset, tmp_path / "out", command("dies-once", tmp_path / "died")))
    assert done.code == 0 and done.json["counts"]["failures"] == 0, done


def test_a_second_death_is_a_failure_and_nothing_is_lost(
    cli_here: Here, tmp_path: Path, dataset: Path
) -> None:
    """It dies over one image each time: that one is classical and says so, the others are not."""
    out = tmp_path / "out"
    done = cli_here(*line(dataset, out, command("dies-in-the-dark"), *LENIENT))
    assert done.code == 0, done
    (failure,) = read_failures(out)
    assert failure.item == "images/1.png"
    assert "code 3" in failure.message and "no memory left" in failure.message
    assert failure.message.endswith("the masks of this image are by classical")
    found = origins(out)
    assert found.pop(failure.item) <= {"classical", "box"}
    assert list(found.values()) == [{"worker"}] * 2
    reasons = [i.reasons for s in open_samples(out) for i in s.layout.instances if i.reasons]
    assert len(reasons) == 3
    assert all(r[0] == "worker: no usable answer for the image" for r in reasons)


def test_failures_above_the_rate_are_told(cli_here: Here, tmp_path: Path, dataset: Path) -> None:
    done = cli_here(*line(dataset, tmp_path / "out", command("dies-in-the-dark")))
    assert done.code == 5 and "1 failures in 3 items" in done.err.replace("\n", " ")


def test_nonsense_is_a_failure_of_its_image(cli_here: Here, tmp_path: Path, dataset: Path) -> None:
    answer = json.dumps(
        {"masks": [{"label": "ship", "score": 1, "rle": {"size": [896, 896], "counts": "1"}}]}
    )
    out = tmp_path / "out"
    more = ("-s", "execution.max_failure_rate=1")
    done = cli_here(*line(dataset, out, command("says", answer), *more))
    assert done.code == 0, done
    assert len(list(read_failures(out))) == 3
    assert len(open_samples(out)) == 3


def test_one_that_always_dies_ends_the_run(cli_here: Here, tmp_path: Path, dataset: Path) -> None:
    done = cli_here(*line(dataset, tmp_path / "out", command("dies"), *LENIENT))
    assert done.code == 4
    assert "failed on 3 questions in a row" in done.err.replace("\n", " ")


def test_one_that_is_slow_is_ended(cli_here: Here, tmp_path: Path, dataset: Path) -> None:
    """The limit reaches the worker; each image costs two tries."""
    started = time.monotonic()
    limit = ("-s", "extract_masks.command_limit_s=0.1")
    done = cli_here(*line(dataset, tmp_path / "out", command("slow"), *limit))
    assert done.code == 4 and "no answer within 0.5 s" in done.err.replace("\n", " ")
    assert time.monotonic() - started < 30


def test_it_works_in_several_processes(cli: CommandLine, tmp_path: Path, dataset: Path) -> None:
    more = ("--workers", 2, "-s", "execution.shard_size=1")
    done = cli(*line(dataset, tmp_path / "out", command("class"), *more))
    assert done.code == 0 and done.json["counts"]["masks: worker"] == 6, done


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
def test_no_orphan_outlives_a_killed_run(cli: CommandLine, tmp_path: Path, dataset: Path) -> None:
    """rsgen is killed outright while a deaf worker with a child of its own is at work."""
    pids = tmp_path / "pids"
    told = line(dataset, tmp_path / "out", command("stubborn", pids))
    process = subprocess.Popen(
        [sys.executable, "-m", "rsgen_cli", *map(str, told)],
        env=cli.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _until(lambda: pids.is_file() and len(pids.read_text().split()) == 2)
        mine = [int(pid) for pid in pids.read_text().split()]
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        _until(lambda: not any(_alive(pid) for pid in mine), 15)
    finally:
        process.kill()
        process.wait()


def _until(ready: Callable[[], bool], limit_s: float = 60) -> None:
    end = time.monotonic() + limit_s
    while not ready():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0]
    except OSError:
        return False
    return state != "Z"
