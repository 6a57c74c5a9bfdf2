"""Detectors of transformers through rsgen's eyes: real classes, small, against their own code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rsgen.errors import SetupError, UsageError
from rsgen.judge.eyes import EyesRef
from rsgen.judge.pretrained import Preparation, PretrainedDetector
from rsgen.models.processing import processor_settings
from rsgen.records import ClassTable, ObjectClass
from tests import build_detectors as build

CLASSES = ClassTable(
    (
        ObjectClass("plane", ("airplane",)),
        ObjectClass("storage-tank"),
        ObjectClass("ship"),
        ObjectClass("water", kind="stuff"),
    )
)
NAMES = ("cat", "airplane", "ship")
FAMILIES: dict[str, Callable[[Path], Path]] = {
    "yolos": lambda folder: build.yolos(folder, NAMES),
    "detr": lambda folder: build.detr(folder, NAMES),
    "owlvit": build.owlvit,
    "owlv2": lambda folder: build.owlvit(folder, second=True),
    "grounding-dino": build.grounding_dino,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("detectors")
    return {name: make(root / name) for name, make in FAMILIES.items()}


def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (2, 50, 70, 3), dtype=np.uint8)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_answers(family: str, folders: dict[str, Path]) -> None:
    """Boxes lie inside the image, best first, known classes alone; each image for itself."""
    detector = PretrainedDetector.load(str(folders[family]), CLASSES)
    zero_shot = family not in ("yolos", "detr")
    assert detector.known == {"plane", "ship"} | ({"storage-tank"} if zero_shot else set())
    found = detector.detect(pictures())
    assert sum(len(d) for d in found) > 0
    for one in found:
        assert set(one.labels) <= detector.known
        assert (np.diff(one.scores) <= 0).all() and one.scores.max(initial=0) <= 1
        assert one.quads.min(initial=0) >= 0 and (one.quads <= (70, 50)).all()
    alone = detector.detect(pictures()[1:])[0]
    assert alone.labels == found[1].labels and np.array_equal(alone.quads, found[1].quads)


def processor_of(family: str, folder: Path) -> Any:
    from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil
    from transformers.models.owlv2.image_processing_pil_owlv2 import Owlv2ImageProcessorPil
    from transformers.models.owlvit.image_processing_pil_owlvit import OwlViTImageProcessorPil
    from transformers.models.yolos.image_processing_pil_yolos import YolosImageProcessorPil

    kinds: dict[str, Any] = {
        "yolos": YolosImageProcessorPil,
        "detr": DetrImageProcessorPil,
        "owlvit": OwlViTImageProcessorPil,
        "owlv2": Owlv2ImageProcessorPil,
    }
    return kinds[family].from_pretrained(folder)


@pytest.mark.parametrize("family", ["yolos", "detr", "owlvit", "owlv2"])
def test_pixels_are_prepared_as_the_model_was_trained(
    family: str, folders: dict[str, Path]
) -> None:
    """Against transformers' own processors: sizes, resampling, mean and spread, padding."""
    image = np.kron(pictures()[0, :25, :35], np.ones((2, 2, 1), np.uint8))
    processor = processor_of(family, folders[family])
    wanted = processor(images=image, return_tensors="pt")["pixel_values"]
    ours = Preparation.read(processor_settings(folders[family]), family).pixels(image)
    assert ours.shape == wanted.shape
    # OWLv2's own resizing is scipy's with a blur before it; ours is Pillow's
    limit = 0.6 if family == "owlv2" else 0.03
    assert float((ours - wanted).abs().mean()) < limit


@pytest.mark.parametrize("family", ["yolos", "detr"])
def test_boxes_are_where_the_library_puts_them(family: str, folders: dict[str, Path]) -> None:
    """Catches swapped width and height, a shifted 'no object' class, and lost best boxes."""
    image = pictures()[0]
    detector = PretrainedDetector.load(str(folders[family]), ClassTable.of(*NAMES))
    found = detector.detect(image[None])[0]
    model = detector._model
    pixels = Preparation.read(processor_settings(folders[family]), family).pixels(image)
    with torch.no_grad():
        outputs = model(pixel_values=pixels)
    processor = processor_of(family, folders[family])
    wanted = processor.post_process_object_detection(outputs, 0.0, target_sizes=[(50, 70)])[0]
    rows = {
        (round(float(score), 4), NAMES[int(label)]): np.clip(box.numpy(), 0, (70, 50, 70, 50))
        for score, label, box in zip(
            wanted["scores"], wanted["labels"], wanted["boxes"], strict=True
        )
    }
    assert len(found)
    for k, label in enumerate(found.labels):
        box = found.box(k)
        theirs = rows[round(float(found.scores[k]), 4), label]
        assert np.allclose((box.x0, box.y0, box.x1, box.y1), theirs, atol=1e-3)


def test_a_phrase_is_scored_by_its_own_tokens(folders: dict[str, Path]) -> None:
    """Catches spans that run into the next class, or a full stop that counts as a ship."""
    detector = PretrainedDetector.load(str(folders["grounding-dino"]), CLASSES)
    (question,) = detector._questions
    tokens = question.texts["input_ids"][0].tolist()
    # [CLS] plane . storage tank . ship . [SEP]
    assert dict(question.columns) == {"plane": (1,), "storage-tank": (3, 4), "ship": (6,)}
    assert len(tokens) == 9


@pytest.mark.parametrize(
    ("size", "family", "image", "wanted"),
    [
        pytest.param({"height": 32, "width": 48}, "detr", (50, 70), (32, 48), id="both sides"),
        pytest.param(
            {"shortest_edge": 100, "longest_edge": 133}, "detr", (50, 70), (95, 133),
            id="the longest edge decides",
        ),
        pytest.param(
            {"shortest_edge": 100, "longest_edge": 200}, "detr", (50, 70), (100, 140),
            id="the shortest edge decides",
        ),
        pytest.param(100, "detr", (50, 70), (100, 140), id="an old file's one number"),
        pytest.param(96, "owlvit", (50, 70), (96, 96), id="one number of a square model"),
        pytest.param([96, 64], "owlvit", (50, 70), (96, 64), id="a pair"),
        pytest.param({"longest_edge": 140}, "detr", (50, 70), (100, 140), id="longest alone"),
        pytest.param(None, "detr", (400, 800), (666, 1333), id="nothing said"),
    ],
)  # fmt: skip
def test_input_sizes(
    size: Any, family: str, image: tuple[int, int], wanted: tuple[int, int]
) -> None:
    assert Preparation.read({"size": size}, family).input_size(*image) == wanted


def test_a_detector_of_other_things_is_refused(folders: dict[str, Path]) -> None:
    other = ClassTable.of("baseball-diamond")
    with pytest.raises(UsageError, match="cat, airplane, ship; none of these"):
        PretrainedDetector.load(str(folders["yolos"]), other)


def test_what_is_no_detector_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    """Weights that lack tensors would go on with random numbers, a pickle could run code."""
    from safetensors.torch import load_file, save_file

    folder = build.yolos(tmp_path / "torn", NAMES)
    weights = load_file(folder / "model.safetensors")
    weights.pop("bbox_predictor.layers.0.weight")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(SetupError, match="lack 1 tensors"):
        PretrainedDetector.load(str(folder), CLASSES)
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(SetupError, match="not a bert detector"):
        PretrainedDetector.load(str(folder), CLASSES)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(SetupError, match="pickle"):
        PretrainedDetector.load(str(folder), CLASSES)


@pytest.mark.parametrize(
    ("text", "judge", "kind"),
    [
        ("judge", "judges", "judge"),
        ("hub:org/name", "", "model"),
        ("./folder", "", "model"),
        ("command: python worker.py --weights w.pt", "", "command"),
    ],
)
def test_eyes_are_named_by_one_line(text: str, judge: str, kind: str) -> None:
    assert EyesRef.parse(text, judge).kind == kind


@pytest.mark.parametrize("text", ["", "judge", "command:", "command:   "])
def test_eyes_that_are_nobodys(text: str) -> None:
    with pytest.raises(UsageError):
        EyesRef.parse(text)
