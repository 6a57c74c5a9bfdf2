"""The worker scripts that ship, run as a user would: in a process, with a package they drive.

RemoteSAM and Ultralytics are not installed here: stand-ins with the same names and sicknesses
are written to a folder, so that the scripts' own work is seen.
"""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from rsgen.config import templates_root
from rsgen.errors import DataError
from rsgen.extraction.text_prompted import WorkerBackend
from rsgen.geometry import Box
from rsgen.images import write_png
from rsgen.judge.outside import OutsideDetector
from rsgen.records import ClassTable, Instance, ObjectClass

FOLDER = templates_root() / "workers"
SCRIPTS = sorted(FOLDER.glob("*.py"))
CLASSES = ClassTable((ObjectClass("ship"), ObjectClass("small-vehicle")))
Pixels = npt.NDArray[np.uint8]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.name)
def test_it_parses_where_it_will_run_and_rsgen_does_not_need_it(path: Path) -> None:
    """Python 3.8: no `match`, `zip(strict=)` or `removeprefix`; rsgen is not imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 8))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert not (node.func.id == "zip" and [k for k in node.keywords if k.arg == "strict"])
        if isinstance(node, ast.Attribute):
            assert node.attr not in {"removeprefix", "removesuffix", "is_relative_to"}
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not [n for n in names if n.split(".")[0] in {"rsgen", "rsgen_cli"}]


# ---------------------------------------------------------------- RemoteSAM

REPO = '''
    """A stand-in: sees red as ships and green as small vehicles, by one learnt number."""
    import argparse
    import pathlib
    import torch

    print("loading the stand-in")

    def get_parser():
        parser = argparse.ArgumentParser()
        parser.add_argument("--window12", action="store_true")
        return parser

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.head = torch.nn.Linear(1, 1)
            self.register_buffer("relative_position_index", torch.zeros(3))

    def init_demo_model(checkpoint, device):
        options = get_parser().parse_args()
        assert pathlib.Path("bert.txt").is_file(), "not started in its root"
        model = Net()
        saved = torch.load(checkpoint, map_location="cpu", weights_only=False)["model"]
        model.load_state_dict(saved, strict=False)
        return model.to(device)

    class RemoteSAM:
        def __init__(self, RemoteSAM_model, device, use_EPOC=True):
            assert not use_EPOC, "that would be a second network"
            self.model = RemoteSAM_model

        def referring_seg(self, image, sentence):
            raise NotImplementedError

        def semantic_seg(self, image, classnames, return_prob=False):
            print("looking for", classnames, image.shape)
            assert torch.is_inference_mode_enabled() and not self.model.training
            assert image.shape[0] == image.shape[1], "squashed"
            (name,) = classnames
            if name == "fail":
                raise RuntimeError("CUDA out of memory")
            channel = {"ship": 0, "car": 1}[name]
            weight = float(self.model.head.weight.detach())
            seen = torch.from_numpy((image[..., channel] > 150).copy()).float()
            prob = seen * weight
            return {name: (prob > 0.5).numpy().astype("uint8")}, {name: prob.numpy()}
'''


@pytest.fixture(scope="module")
def remotesam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with repo/ (tasks/code/model.py) and checkpoints good, backbone, other, text."""
    import argparse

    import torch

    root = tmp_path_factory.mktemp("remotesam")
    package = root / "repo" / "tasks" / "code"
    package.mkdir(parents=True)
    (root / "repo" / "bert.txt").touch()
    (package / "model.py").write_text(textwrap.dedent(REPO))
    good = {"head.weight": torch.full((1, 1), 0.9), "head.bias": torch.zeros(1)}
    saved = {
        "good": {**good, "bert.embeddings.position_ids": torch.arange(3)},
        "backbone": {"layers.0.weight": torch.zeros(2), "norm.bias": torch.zeros(2)},
        "prefixed": {f"module.{k}": v for k, v in good.items()},
        "shaped": {**good, "head.bias": torch.zeros(2)},
    }
    for name, model in saved.items():
        row = {"model": model, "args": argparse.Namespace(epoch=3), "optimizer": {}}
        torch.save(row, root / f"{name}.pth")
    torch.save({"state_dict": good}, root / "other.pth")
    (root / "text.pth").write_text("version https://git-lfs.github.com/spec/v1")
    return root


def remotesam_command(root: Path, checkpoint: str = "good.pth", *more: str) -> str:
    files = ("--repo", str(root / "repo"), "--checkpoint", str(root / checkpoint))
    line = (sys.executable, str(FOLDER / "remotesam.py"), *files, "--device", "cpu", *more)
    return shlex.join(line)


def sea(width: int, height: int, blocks: Mapping[tuple[int, int, int, int], int]) -> Pixels:
    """Grey, with blocks (x0, y0, x1, y1) of full brightness in one channel."""
    pixels = np.full((height, width, 3), 60, np.uint8)
    for (x0, y0, x1, y1), channel in blocks.items():
        pixels[y0:y1, x0:x1, channel] = 250
    return pixels


def boxed(x0: float, y0: float, x1: float, y1: float, label: str = "ship") -> Instance:
    return Instance(label, box=Box(x0, y0, x1, y1))


def masks(line: str, image: Pixels, known: list[Instance]) -> list[Instance]:
    backend = WorkerBackend(line, 60.0)
    try:
        return backend.annotate(image, known, CLASSES)
    finally:
        backend.close()


def test_remotesam_finds_objects_of_all_sizes_where_they_are(remotesam: Path) -> None:
    """A wide image, three windows: catches x and y swapped, squashed windows, lost offsets,
    a parser that eats the worker's arguments, and remarks on stdout."""
    blocks = {
        (20, 30, 32, 36): 0,
        (1100, 40, 1112, 52): 1,
        (400, 100, 700, 260): 0,
        (1180, 290, 1200, 300): 0,
    }
    known = [
        boxed(x0 - 1, y0 - 1, x1 + 1, y1 + 1, ("ship", "small-vehicle")[channel])
        for (x0, y0, x1, y1), channel in blocks.items()
    ]
    line = remotesam_command(remotesam, "good.pth", "--prompt", "small-vehicle=car")
    found = masks(line, sea(1200, 300, blocks), known)
    assert [i.origin for i in found] == ["worker"] * 4
    for instance, (x0, y0, x1, y1) in zip(found, blocks, strict=True):
        assert instance.mask is not None and instance.mask.box == Box(x0, y0, x1, y1)
        assert instance.scores["mask_probability"] == pytest.approx(0.9, abs=1e-3)


def test_remotesam_failures_of_an_image_are_answers(remotesam: Path) -> None:
    """The worker goes on after an image it could not do."""
    line = remotesam_command(remotesam, "good.pth", "--prompt", "small-vehicle=fail")
    backend = WorkerBackend(line, 60.0)
    image = sea(64, 64, {(10, 10, 30, 20): 0})
    with pytest.raises(DataError, match="RuntimeError: CUDA out of memory"):
        backend.annotate(image, [boxed(40, 40, 50, 50, "small-vehicle")], CLASSES)
    found = backend.annotate(image, [boxed(9, 9, 31, 21)], CLASSES)
    backend.close()
    assert found[0].origin == "worker"


BAD = {
    "a backbone": ("backbone.pth", "2 of its 2 parameters are missing .*2 are unknown"),
    "another prefix": ("prefixed.pth", "head.bias, head.weight.*module.head.weight"),
    "another shape": ("shaped.pth", "size mismatch"),
    "other keys": ("other.pth", "no weights under 'model'"),
    "a git-lfs pointer": ("text.pth", "text.pth cannot be read"),
}


@pytest.mark.parametrize(("name", "message"), BAD.values(), ids=BAD)
def test_remotesam_refuses_a_wrong_checkpoint(
    remotesam: Path,
    name: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`strict=False` hides it: the network would answer with noise."""
    monkeypatch.chdir(remotesam)  # the script changes these three
    monkeypatch.setattr(sys, "argv", ["pytest", "--no-such-option"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises((SystemExit, RuntimeError)) as caught:
        module("remotesam").load_network(
            remotesam / "repo", "tasks.code.model", remotesam / name, "cpu"
        )
    assert re.search(message, capsys.readouterr().err + str(caught.value))


def run(line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        shlex.split(line), input="", capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    ("more", "message"),
    [
        pytest.param(("none.pth",), "none.pth: no such file", id="no file"),
        pytest.param(("good.pth", "--prompt", "ship"), "write CLASS=WORDS", id="no words"),
    ],
)
def test_remotesam_says_what_it_cannot_start_with(
    remotesam: Path, more: tuple[str, ...], message: str
) -> None:
    done = run(remotesam_command(remotesam, *more))
    assert done.returncode == 1 and done.stdout == "" and message in done.stderr


def test_remotesam_wants_its_repository(remotesam: Path, tmp_path: Path) -> None:
    line = remotesam_command(remotesam).replace(str(remotesam / "repo"), str(tmp_path))
    assert "defines init_demo_model" in run(line).stderr


def module(name: str) -> Any:
    """A script as a module, for its functions."""
    import importlib.util

    spec = importlib.util.spec_from_file_location(f"template_{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def test_every_label_lies_whole_in_one_window() -> None:
    """200 boxes of all sizes, also over the border: each once, with its surround, large enough."""
    windows = module("remotesam").windows
    rng = np.random.default_rng(3)
    centres, sides = rng.uniform(0, (1600, 900), (200, 2)), np.exp(rng.uniform(1, 6, (200, 2)))
    low, high = (centres - sides / 2).clip(0), (centres + sides / 2).clip(0, (1600, 900))
    boxes = [(*a, *b) for a, b in zip(low.tolist(), high.tolist(), strict=True)]
    seen: list[int] = []
    for x0, y0, side, members in windows(boxes, 1600, 900, 128, 4.0):
        assert 0 <= x0 <= max(1600 - side, 0) and 0 <= y0 <= max(900 - side, 0)
        assert 224 <= side <= 1600
        for k in members:
            left, top, right, bottom = boxes[k]
            assert x0 <= left + 1 and right <= x0 + side + 1
            assert y0 <= top + 1 and bottom <= y0 + side + 1
        smallest = min(max(b[2] - b[0], b[3] - b[1]) for b in (boxes[k] for k in members))
        assert side <= max(896 * smallest / 128, 224, 2 * smallest) + 1
        seen += members
    assert sorted(seen) == list(range(200))


# ---------------------------------------------------------------- detectors

ULTRALYTICS = """
    import pathlib
    import numpy as np

    print("Ultralytics, as it greets")

    class Found:
        names = {0: "Ship", 7: "small vehicle", 9: "cat"}

        def __init__(self, oriented):
            numbers, conf = np.array([7.0, 0.0, 9.0]), np.array([0.5, 0.9, 0.8])
            self.boxes = self.obb = None
            part = type("Part", (), {"cls": numbers, "conf": conf})()
            if oriented:
                corners = [[10.0, 5.0], [20.0, 5.0], [20.0, 9.0], [10.0, 9.0]]
                part.xyxyxyxy = np.array([corners] * 3)
                self.obb = part
            else:
                part.xyxy = np.array([[10.0, 5.0, 20.0, 9.0]] * 3)
                self.boxes = part

    class YOLO:
        def __init__(self, weights):
            self.oriented = "obb" in weights

        def predict(self, path, device=None, verbose=True):
            assert pathlib.Path(path).is_file() and not verbose
            return [Found(self.oriented)]
"""


@pytest.mark.parametrize("weights", ["best.pt", "best-obb.pt"])
def test_ultralytics_boxes_and_quads(
    weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names are matched in spite of spelling; what was not asked for is left out."""
    (tmp_path / "ultralytics.py").write_text(textwrap.dedent(ULTRALYTICS))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    line = (sys.executable, str(FOLDER / "detector.py"), "ultralytics", weights)
    detector = OutsideDetector(shlex.join(line), CLASSES, 60.0)
    (found,) = detector.detect(np.zeros((1, 32, 32, 3), np.uint8))
    detector.close()
    assert found.labels == ("ship", "small-vehicle")
    assert found.scores.tolist() == pytest.approx([0.9, 0.5])
    assert found.box(0) == Box(10, 5, 20, 9)


def test_the_example_without_weights_talks(tmp_path: Path) -> None:
    image = sea(40, 30, {})
    image[5:9, 10:20] = 255
    write_png(tmp_path / "image.png", image)
    line = (sys.executable, str(FOLDER / "detector.py"), "bright")
    detector = OutsideDetector(shlex.join(line), CLASSES, 60.0)
    (found,) = detector.detect(image[None])
    detector.close()
    assert found.labels == ("ship",) and found.box(0) == Box(10, 5, 20, 9)


def test_a_detector_that_is_not_there_is_named() -> None:
    done = run(shlex.join([sys.executable, str(FOLDER / "detector.py"), "ultralytics", "x.pt"]))
    assert done.returncode != 0 and "No module named 'ultralytics'" in done.stderr


def test_corners_of_a_turned_rectangle() -> None:
    """Angle from +x toward +y, y down: a quarter turn puts the width along y."""
    found = np.array(module("detector").corners(10, 20, 8, 2, np.pi / 2))
    assert found.min(axis=0) == pytest.approx([9, 16])
    assert found.max(axis=0) == pytest.approx([11, 24])
    turned = np.array(module("detector").corners(0, 0, 8, 2, np.pi / 6))
    along = turned[1] - turned[0]
    assert along == pytest.approx([8 * np.cos(np.pi / 6), 8 * np.sin(np.pi / 6)])
