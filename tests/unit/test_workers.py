"""Detectors of the user's own: one JSON line in, one out, whatever they do in between."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from rsgen.errors import DataError, SetupError, UsageError
from rsgen.geometry import Box
from rsgen.judge.outside import OutsideDetector
from rsgen.records import ClassTable, ObjectClass
from rsgen.workers.process import Worker

SCRIPT = Path(__file__).parents[1] / "outside_worker.py"
CLASSES = ClassTable(
    (ObjectClass("plane"), ObjectClass("ship", ("boat",)), ObjectClass("water", kind="stuff"))
)


def command(mode: str, file: str | Path = "") -> str:
    return shlex.join([sys.executable, str(SCRIPT), mode, str(file)])


def image(*boxes: tuple[int, tuple[int, int, int, int]]) -> np.ndarray:
    """Black, with boxes (channel, (x0, y0, x1, y1)) of full brightness."""
    pixels = np.zeros((40, 60, 3), np.uint8)
    for channel, (x0, y0, x1, y1) in boxes:
        pixels[y0:y1, x0:x1, channel] = 255
    return pixels


def one(mode: str, file: str | Path = "", limit: float = 20.0) -> OutsideDetector:
    return OutsideDetector(command(mode, file), CLASSES, limit)


def test_a_good_worker_finds_what_is_there() -> None:
    """Catches x and y swapped on the way, stuff that is asked for, and images out of order."""
    detector = one("good")
    pair = np.stack([image((0, (5, 10, 25, 18))), image((1, (30, 2, 50, 30)), (0, (0, 0, 4, 4)))])
    first, second = detector.detect(pair)
    assert first.labels == ("plane",) and first.scores.tolist() == [0.9]
    assert first.box(0) == Box(5, 10, 25, 18)
    assert sorted(second.labels) == ["plane", "ship"]
    assert np.isnan(first.headings).all()
    detector.close()


def test_an_image_without_objects_is_an_answer() -> None:
    assert len(one("good").detect(image()[None])[0]) == 0


@pytest.mark.parametrize("mode", ["dies-once", "leaves"])
def test_a_death_is_forgiven_once(mode: str, tmp_path: Path) -> None:
    """Catches images that are lost because the worker died or left before them."""
    detector = one(mode, tmp_path / "died")
    found = detector.detect(np.stack([image((0, (1, 1, 9, 9)))] * 3))
    assert [d.labels for d in found] == [("plane",)] * 3


def test_a_worker_that_always_dies_says_why(tmp_path: Path) -> None:
    """One image is a failure of its own; three in a row are the worker's: nothing goes on."""
    detector = one("dies")
    for _ in range(2):
        with pytest.raises(DataError, match=r"failed twice .*code 3.*no memory left"):
            detector.detect(image()[None])
    with pytest.raises(SetupError, match="3 questions in a row"):
        detector.detect(image()[None])


def test_a_silent_worker_is_ended(tmp_path: Path) -> None:
    detector = one("slow", limit=0.1)
    started = time.monotonic()
    with pytest.raises(DataError, match=r"no answer within 0\.5 s"):
        detector.detect(image()[None])
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("mode", "says", "message"),
    [
        pytest.param("chatty", "", "answered no JSON: 'looking at", id="remarks on stdout"),
        pytest.param("says", "[1, 2", "answered no JSON", id="cut off"),
        pytest.param("says", "[]", "no list of detections", id="no object"),
        pytest.param("says", '{"detections": 3}', "no list of detections", id="no list"),
        pytest.param("says", '{"detections": [7]}', "detection 0 .* is no object", id="no row"),
        pytest.param(
            "says", '{"detections": [{"label": "cat", "score": 1, "box": [0, 0, 1, 1]}]}',
            "label that was not asked for", id="unknown class",
        ),
        pytest.param(
            "says", '{"detections": [{"label": "water", "score": 1, "box": [0, 0, 1, 1]}]}',
            "label that was not asked for", id="stuff",
        ),
        pytest.param(
            "says", '{"detections": [{"label": "ship", "score": 90, "box": [0, 0, 1, 1]}]}',
            "score from 0 to 1", id="score in percent",
        ),
        pytest.param(
            "says", '{"detections": [{"label": "ship", "score": NaN, "box": [0, 0, 1, 1]}]}',
            "score from 0 to 1", id="score NaN",
        ),
        pytest.param(
            "says", '{"detections": [{"label": "ship", "score": 1, "box": [5, 5, 2, 9]}]}',
            "no box", id="width and height, or swapped corners",
        ),
        pytest.param(
            "says", '{"detections": [{"label": "ship", "score": 1, "quad": [[0, 0], [1, 1]]}]}',
            "no quad of 4 corners", id="two corners",
        ),
        pytest.param(
            "says", '{"detections": [{"label": "ship", "score": 1, "box": "0 0 1 1"}]}',
            "no box", id="text",
        ),
        pytest.param("says", '{"error": "too dark"}', "too dark", id="it says so"),
    ],
)  # fmt: skip
def test_nonsense_is_named(mode: str, says: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        one(mode, says).detect(image()[None])


def test_an_answer_too_many_is_not_taken_for_the_next(tmp_path: Path) -> None:
    """Catches the second image getting the first one's boxes."""
    detector = one("twice")
    detector.detect(image((0, (1, 1, 9, 9)))[None])
    time.sleep(0.2)
    with pytest.raises(DataError, match="more than one line"):
        detector.detect(image()[None])


def test_quads_and_headings_come_through() -> None:
    """Aliases are the table's classes; corners are made clockwise; best first."""
    rows = (
        '{"detections": [{"label": "boat", "score": 0.4, "heading": -1.5708, '
        '"quad": [[2, 0], [6, 0], [6, 10], [2, 10]]}, {"label": "plane", "score": 0.6, '
        '"heading": null, "quad": [6, 0, 2, 0, 2, 10, 6, 10]}]}'
    )
    found = one("says", rows).detect(image()[None])[0]
    assert found.labels == ("plane", "ship") and found.scores.tolist() == [0.6, 0.4]
    assert found.quads[1].tolist() == [[2, 0], [6, 0], [6, 10], [2, 10]]
    assert found.quads[0].tolist() == [[2, 0], [6, 0], [6, 10], [2, 10]]
    assert np.isnan(found.headings[0]) and found.headings[1] == -1.5708


@pytest.mark.parametrize(
    ("line", "error"),
    [
        pytest.param("", UsageError, id="empty"),
        pytest.param("python 'worker.py", UsageError, id="open quotation mark"),
        pytest.param("no-such-program-here worker.py", SetupError, id="no program"),
    ],
)
def test_a_command_that_cannot_be(line: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        Worker(line)


PARENT = """
import sys, time
from rsgen.workers.process import Worker
worker = Worker(sys.argv[1])
worker.ask({"image": sys.argv[2], "classes": []})
print("ready", flush=True)
time.sleep(60)
"""


def test_no_orphan_outlives_a_killed_run(tmp_path: Path) -> None:
    """A worker that is deaf to the end of its input goes too, and so does its own child."""
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
    line = command("stubborn", tmp_path / "pids")
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, line, str(tmp_path / "image.png")], stdout=subprocess.PIPE
    )
    assert parent.stdout is not None and parent.stdout.readline() == b"ready\n"
    pids = [int(p) for p in (tmp_path / "pids").read_text().split()]
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    until = time.monotonic() + 10
    while any(alive(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in pids)


def test_a_closed_worker_is_gone_with_its_child(tmp_path: Path) -> None:
    detector = one("stubborn", tmp_path / "pids")
    detector.detect(image()[None])
    pids = [int(p) for p in (tmp_path / "pids").read_text().split()]
    detector.close()
    until = time.monotonic() + 5
    while any(alive(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in pids)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0]
    except OSError:
        return False
    return state != "Z"
