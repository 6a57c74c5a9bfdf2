"""Backend `worker`: masks by another program, whatever it answers."""

from __future__ import annotations

import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from rsgen.errors import DataError, SetupError, UsageError
from rsgen.extraction.backends import check_backend
from rsgen.extraction.text_prompted import WorkerBackend
from rsgen.geometry import Box, RotatedBox, rotated_box_to_quad
from rsgen.mask import Mask
from rsgen.records import ClassTable, Instance, ObjectClass
from rsgen.settings import ExtractMasksConfig

SCRIPT = Path(__file__).parents[1] / "mask_worker.py"
CLASSES = ClassTable(
    (ObjectClass("plane"), ObjectClass("ship", ("boat",)), ObjectClass("water", kind="stuff"))
)
WIDTH, HEIGHT = 60, 40


def command(mode: str, file: str | Path = "") -> str:
    return shlex.join([sys.executable, str(SCRIPT), mode, str(file)])


def picture(*boxes: tuple[int, int, int, int]) -> npt.NDArray[np.uint8]:
    """Dark ground with bright boxes (x0, y0, x1, y1)."""
    pixels = np.random.default_rng(1).normal(60, 3, (HEIGHT, WIDTH, 3)).clip(0, 255)
    for x0, y0, x1, y1 in boxes:
        pixels[y0:y1, x0:x1] = 220
    return pixels.astype(np.uint8)


def boxed(x0: float, y0: float, x1: float, y1: float, label: str = "ship") -> Instance:
    return Instance(label, box=Box(x0, y0, x1, y1))


def made(mode: str, known: list[Instance], image: Any, file: str | Path = "") -> list[Instance]:
    backend = WorkerBackend(command(mode, file), 20.0)
    try:
        return backend.annotate(image, known, CLASSES)
    finally:
        backend.close()


def rle(*boxes: tuple[int, int, int, int]) -> dict[str, Any]:
    array = np.zeros((HEIGHT, WIDTH), bool)
    for x0, y0, x1, y1 in boxes:
        array[y0:y1, x0:x1] = True
    mask = Mask.from_array(array)
    return mask.to_coco(WIDTH, HEIGHT) if mask else {"size": [40, 60], "counts": [2400]}


def says(*masks: dict[str, Any]) -> str:
    return json.dumps({"masks": masks})


SHIPS = [(5, 5, 25, 13), (30, 20, 50, 28)]


@pytest.mark.parametrize("mode", ["class", "each", "found"])
def test_a_good_worker_gives_each_label_its_mask(mode: str) -> None:
    """Catches x and y swapped on the way, masks of other objects, and a scale."""
    known = [boxed(4, 4, 26, 14), boxed(29, 19, 51, 29, "plane")]
    found = made(mode, known, picture(*SHIPS))
    assert [i.origin for i in found] == ["worker", "worker"]
    for instance, (x0, y0, x1, y1) in zip(found, SHIPS, strict=True):
        assert instance.mask is not None
        assert instance.mask.box == Box(x0, y0, x1, y1) and instance.mask.area == 160
        assert instance.scores["mask_probability"] == pytest.approx(0.9)
        assert instance.scores["mask_leakage"] == 0


def test_the_question_has_what_is_asked_for(tmp_path: Path) -> None:
    """Stuff, labels with a mask and labels outside are not asked for; quads go along."""
    script = tmp_path / "worker.py"
    script.write_text(
        "import json, sys\n"
        f"print(open({str(tmp_path / 'seen')!r}, 'w').write(sys.stdin.readline()) and "
        "'{\"masks\": []}', flush=True)\n"
    )
    quad = rotated_box_to_quad(RotatedBox(30, 20, 20, 6, 0.5))
    known = [
        boxed(100, 100, 120, 120),
        Instance("ship", quad=quad),
        boxed(4, 4, 26, 14, "plane"),
        Instance("water", mask=Mask.from_array(np.ones((4, 4), bool))),
        Instance("ship", box=Box(1, 1, 5, 5), mask=Mask.from_array(np.ones((4, 4), bool), 1, 1)),
    ]
    backend = WorkerBackend(shlex.join([sys.executable, str(script)]), 20.0)
    backend.annotate(picture(), known, CLASSES)
    backend.close()
    asked = json.loads((tmp_path / "seen").read_text())
    assert (asked["width"], asked["height"], asked["classes"]) == (60, 40, ["plane", "ship"])
    assert [row["label"] for row in asked["objects"]] == ["ship", "plane"]
    assert asked["objects"][0]["quad"] == [list(corner) for corner in quad]
    assert asked["objects"][1] == {"label": "plane", "box": [4.0, 4.0, 26.0, 14.0]}
    assert not Path(asked["image"]).exists(), "nothing is left behind"


def test_nothing_to_ask_starts_nothing() -> None:
    """A worker that would die is no matter for an image that has its masks."""
    mask = Mask.from_array(np.ones((4, 4), bool))
    known = [Instance("ship", box=Box(0, 0, 4, 4), mask=mask), boxed(90, 90, 99, 99)]
    found = made("dies", known, picture())
    assert found[0] == known[0] and found[1].reasons == ("no box inside the image",)


def test_own_found_and_class_masks_may_be_mixed() -> None:
    """An index wins over a box, a box over the class's map; aliases are the table's classes."""
    known = [boxed(4, 4, 26, 14), boxed(29, 19, 51, 29), boxed(4, 24, 20, 34)]
    answer = says(
        {"label": "boat", "index": 1, "score": 0.8, "rle": rle((30, 20, 50, 28))},
        {"label": "ship", "box": [5, 5, 25, 13], "score": 0.7, "rle": rle((5, 5, 25, 13))},
        {"label": "ship", "score": 0.6, "rle": rle((5, 25, 12, 33))},
        {"label": "ship", "score": 0.9, "rle": rle((12, 25, 19, 33))},
    )
    found = made("says", known, picture(), answer)
    assert [i.origin for i in found] == ["worker"] * 3
    given = [i.scores["mask_probability"] for i in found]
    assert given == pytest.approx([0.7, 0.8, 0.75]), "the last: two halves, 0.6 and 0.9"


SAYS = {
    "empty": (says({"label": "ship", "score": 1, "rle": rle()}), "nothing found in the label"),
    "nothing": (says(), "the answer has nothing of its class"),
    "elsewhere": (
        says({"label": "ship", "box": [40, 30, 50, 38], "score": 1, "rle": rle((40, 30, 50, 38))}),
        "no mask of the answer fits the label",
    ),
    "unsure": (
        says({"label": "ship", "score": 0.3, "rle": rle((5, 5, 25, 13))}),
        "low probability 0.30",
    ),
    "sure of nothing": (
        says({"label": "ship", "score": 0, "rle": rle((5, 5, 25, 13))}),
        "nothing found in the label",
    ),
    "all": (says({"label": "ship", "score": 1, "rle": rle((0, 0, 60, 40))}), "lies outside"),
}


@pytest.mark.parametrize(("answer", "why"), SAYS.values(), ids=SAYS)
def test_an_answer_of_no_use_for_a_label_is_replaced(answer: str, why: str) -> None:
    (found,) = made("says", [boxed(4, 4, 26, 14)], picture((5, 5, 25, 13)), answer)
    assert found.origin == "classical" and found.mask is not None
    assert found.reasons[0].startswith("worker: ") and why in found.reasons[0]


GOOD = {"label": "ship", "score": 0.9, "rle": rle((5, 5, 25, 13))}
NONSENSE = {
    "cut off": ('{"masks": [', "answered no JSON"),
    "remarks": ("looking", "answered no JSON: 'looking"),
    "no object": ("[]", "no list of masks"),
    "no list": ('{"masks": {"ship": 1}}', "no list of masks"),
    "no row": ('{"masks": [7]}', "mask 0 .* is no object"),
    "it says so": ('{"error": "too dark"}', "too dark"),
    "unknown class": (says({**GOOD, "label": "cat"}), "label that was not asked for"),
    "a class of the table": (says({**GOOD, "label": "plane"}), "label that was not asked for"),
    "percent": (says({**GOOD, "score": 90}), "score from 0 to 1"),
    "no number": (says({**GOOD, "score": "high"}), "score from 0 to 1"),
    "no score": (says({"label": "ship", "rle": GOOD["rle"]}), "score from 0 to 1"),
    "NaN": ('{"masks": [{"label": "ship", "score": NaN, "rle": {}}]}', "score from 0 to 1"),
    "index past the end": (says({**GOOD, "index": 2}), r"index outside 0\.\.1"),
    "index below": (says({**GOOD, "index": -1}), r"index outside 0\.\.1"),
    "index text": (says({**GOOD, "index": "1"}), "index that is no whole number"),
    "two for one": (says({**GOOD, "index": 1}, {**GOOD, "index": 1}), "two masks for one object"),
    "box of three": (says({**GOOD, "box": [1, 2, 3]}), r"not \[x0, y0, x1, y1\]"),
    "box turned": (says({**GOOD, "box": [9, 9, 3, 3]}), r"not \[x0, y0, x1, y1\]"),
    "box ragged": (says({**GOOD, "box": [[1], [2, 3]]}), r"not \[x0, y0, x1, y1\]"),
    "no rle": (says({"label": "ship", "score": 1, "mask": "x"}), "has no rle"),
    "896 x 896": (
        says({**GOOD, "rle": {"size": [896, 896], "counts": [896 * 896]}}),
        r"size \[896, 896\], the image is \[40, 60\]",
    ),
    "turned size": (says({**GOOD, "rle": {"size": [60, 40], "counts": [2400]}}), "the image is"),
    "runs too short": (says({**GOOD, "rle": {"size": [40, 60], "counts": [5, 5]}}), "add up to 10"),
    "runs too long": (
        says({**GOOD, "rle": {"size": [40, 60], "counts": [5, 10**18]}}),
        "bad run-length code",
    ),
    "negative run": (
        says({**GOOD, "rle": {"size": [40, 60], "counts": [2405, -5]}}),
        "bad run-length code",
    ),
    "not a code": (says({**GOOD, "rle": {"size": [40, 60], "counts": "héé"}}), "bad run-length"),
    "overflow": (says({**GOOD, "rle": {"size": [40, 60], "counts": "o" * 40}}), "bad run-length"),
    "polygon": (says({**GOOD, "rle": {"size": [40, 60]}}), "has no counts"),
}


@pytest.mark.parametrize(("answer", "message"), NONSENSE.values(), ids=NONSENSE)
def test_nonsense_is_named(answer: str, message: str) -> None:
    """Each is one failure of its image; none is taken for a mask, none ends the run."""
    known = [boxed(4, 4, 26, 14), boxed(29, 19, 51, 29)]
    with pytest.raises(DataError, match=message):
        made("says", known, picture(), answer)


def test_a_death_is_forgiven_once(tmp_path: Path) -> None:
    found = made("dies-once", [boxed(4, 4, 26, 14)], picture((5, 5, 25, 13)), tmp_path / "died")
    assert found[0].origin == "worker"


def test_a_silent_worker_is_ended() -> None:
    started = time.monotonic()
    backend = WorkerBackend(command("slow"), 0.3)
    with pytest.raises(DataError, match=r"no answer within 1\.5 s"):
        backend.annotate(picture(), [boxed(4, 4, 26, 14)], CLASSES)
    assert time.monotonic() - started < 15


def settings(**keys: Any) -> ExtractMasksConfig:
    return ExtractMasksConfig(**keys)


@pytest.mark.parametrize(
    ("keys", "error", "message"),
    [
        pytest.param({"backend": "worker"}, UsageError, "needs a program", id="no command"),
        pytest.param({"command": "python w.py"}, UsageError, "runs no program", id="auto"),
        pytest.param(
            {"backend": "worker", "command": "no-such-program w.py"},
            SetupError,
            "no program 'no-such-program'",
            id="no such program",
        ),
        pytest.param(
            {"backend": "worker", "command": "python 'w.py"}, UsageError, "quotation", id="quotes"
        ),
        pytest.param(
            {"backend": "worker", "command": sys.executable, "model": "x"},
            UsageError,
            "runs no model",
            id="a model too",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(
    keys: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        check_backend(settings(**keys))
