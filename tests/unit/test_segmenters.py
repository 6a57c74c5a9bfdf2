"""Backend `text-prompted`: CLIPSeg, and SAM prompted by a detector; real classes, small."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rsgen.detections import Detections
from rsgen.errors import RsgenError, SetupError, UsageError
from rsgen.extraction.backends import BackendSetup, check_backend
from rsgen.extraction.clipseg import PHRASE, ClipSegBackend, ClipSegNetwork
from rsgen.extraction.grounding import Grounding, match_boxes
from rsgen.extraction.patch import frame_of_label
from rsgen.extraction.sam import SamBackend
from rsgen.extraction.sam_network import SamNetwork
from rsgen.extraction.segmenters import TextPromptedBackend
from rsgen.geometry import Box, RotatedBox, rotated_box_to_quad
from rsgen.judge.pretrained import PretrainedDetector
from rsgen.mask import Mask
from rsgen.records import ClassTable, Instance, Layout, ObjectClass, Sample
from rsgen.scorers.remask import Remask
from rsgen.settings import ExtractMasksConfig
from tests import build_clip, build_detectors, build_sam

CLASSES = ClassTable(
    (
        ObjectClass("ship", ("vessel",)),
        ObjectClass("storage-tank"),
        ObjectClass("water", kind="stuff"),
    )
)
SIZE = (150, 110)
SHIPS = [(30, 30, 16, 7, 0.4), (85, 70, 10, 6, 2.0), (120, 25, 6, 4, 1.2)]


def truth() -> list[Mask]:
    masks = [Mask.from_array(build_sam.ellipse(SIZE, *ship) >= 1) for ship in SHIPS]
    return [mask for mask in masks if mask is not None]


def picture() -> np.ndarray:
    pixels = np.random.default_rng(0).normal(build_sam.DARK, 5, (SIZE[1], SIZE[0], 3))
    for mask in truth():
        mask.paint(pixels, build_sam.BRIGHT)
    return np.asarray(pixels.clip(0, 255).astype(np.uint8))


def upright(margin: float = 0.0) -> list[Instance]:
    """The ships' boxes, each grown by a share of its sides on all four."""
    made = []
    for mask in truth():
        x, y = margin * mask.width, margin * mask.height
        box = Box(mask.x0 - x, mask.y0 - y, mask.x0 + mask.width + x, mask.y0 + mask.height + y)
        made.append(Instance("ship", box.clip(*SIZE)))
    return made


def oriented() -> list[Instance]:
    return [
        Instance("ship", quad=rotated_box_to_quad(RotatedBox(cx, cy, 2 * a, 2 * b, angle)))
        for cx, cy, a, b, angle in SHIPS
    ]


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clipseg") / "model"
    return build_clip.clipseg(folder, build_clip.seeing_clipseg(), build_sam.SIDE)


@pytest.fixture(scope="module")
def network(seeing: Path) -> ClipSegNetwork:
    return ClipSegNetwork.load(seeing, "cpu", "fp32")


# ---------------------------------------------------------------- CLIPSeg


def test_maps_are_those_of_the_library(network: ClipSegNetwork, seeing: Path) -> None:
    """Against transformers' own processor and forward pass: pixels, words, one text a class."""
    from transformers import CLIPSegForImageSegmentation, CLIPTokenizer
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    kinds: Any = (CLIPSegForImageSegmentation, CLIPTokenizer, ViTImageProcessorPil)
    model, words, processor = (kind.from_pretrained(seeing) for kind in kinds)
    image = picture()[:70]
    pixels = processor(images=image, return_tensors="pt")["pixel_values"]
    assert np.abs(network.preparation.pixels(image) - pixels[0].numpy()).max() < 1e-5
    texts = [PHRASE.format(name) for name in ("ship", "storage tank", "a b c")]
    with torch.no_grad():
        given = words(texts, padding=True, return_tensors="pt")
        wanted = model(**given, pixel_values=pixels.expand(3, -1, -1, -1)).logits
    for batch_size in (1, 2, 16):
        found = network.logits(image, ["ship", "storage-tank", "a_b_c"], batch_size)
        assert found.shape == (3, build_sam.SIDE, build_sam.SIDE)
        assert np.abs(found - wanted.numpy()).max() < 1e-3


@pytest.mark.parametrize("object_px", [16, 96], ids=["few windows", "a window each"])
@pytest.mark.parametrize("kind", [upright, oriented])
def test_objects_are_found_where_they_are(
    network: ClipSegNetwork, kind: Any, object_px: int
) -> None:
    """Catches a shift by half a cell, swapped axes, a window's map put at another's place."""
    backend = ClipSegBackend(network, object_px, 16, "text-prompted")
    known = [*kind(), Instance("water", Box(0, 0, 150, 110))]
    found = backend.annotate(picture(), known, CLASSES)
    assert found[3] == known[3]
    for instance, mask in zip(found[:3], truth(), strict=True):
        assert instance.origin == "text-prompted", instance.reasons
        assert instance.mask is not None and instance.mask.iou(mask) > 0.6
        assert instance.quad == known[found.index(instance)].quad
        assert 0 < instance.scores["mask"] <= 1
    assert backend.annotate(picture(), known, CLASSES) == found


def test_the_map_of_an_object_is_that_of_its_class(
    network: ClipSegNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two classes in one window: catches maps that are handed to the wrong label."""

    def logits(window: np.ndarray, names: list[str], batch_size: int) -> np.ndarray:
        assert sorted(names) == ["ship", "storage-tank"] and batch_size == 16
        values = np.array([9.0 if name == "ship" else -9.0 for name in names], np.float32)
        return np.tile(values[:, None, None], (1, network.side, network.side))

    monkeypatch.setattr(network, "logits", logits)
    known = [
        Instance("storage-tank", Box(10, 10, 30, 30)),
        Instance("vessel", Box(40, 10, 60, 30)),
    ]
    found = ClipSegBackend(network, 16, 16, "text-prompted").annotate(
        np.zeros((64, 64, 3), np.uint8), known, CLASSES
    )
    assert found[0].reasons[0] == "text-prompted: nothing found in the label"
    assert "nothing found" not in found[1].reasons[0]


def test_objects_at_the_border_and_outside(network: ClipSegNetwork) -> None:
    backend = ClipSegBackend(network, 96, 16, "text-prompted")
    known = [Instance("ship", Box(-20, -5, 12, 12)), Instance("ship", Box(300, 0, 320, 9))]
    found = backend.annotate(picture(), known, CLASSES)
    assert len(found) == 2 and found[1].mask is None
    assert backend.annotate(picture(), [], CLASSES) == []


# ---------------------------------------------------------------- SAM and a detector


@pytest.mark.parametrize(
    ("labels", "boxes", "expected"),
    [
        ([(0, 0, 10, 10)], [(2, 2, 9, 9)], [(0, 0)]),
        ([(0, 0, 10, 10)], [(0, 0, 2, 2)], []),
        ([(0, 0, 10, 10)], [(5, 5, 15, 15)], []),
        ([(0, 0, 10, 10)], [(1, 1, 11, 10)], [(0, 0)]),
        ([(0, 0, 10, 10)], [(-20, -20, 30, 30)], []),
        ([(0, 0, 10, 10)], [(2, 2, 8, 8), (1, 1, 9, 9)], [(0, 1)]),
        ([(0, 0, 10, 10), (4, 0, 14, 10)], [(5, 0, 10, 10), (5, 1, 13, 9)], [(0, 0), (1, 1)]),
        ([], [(0, 0, 1, 1)], []),
        ([(0, 0, 1, 1)], [], []),
    ],
    ids=["inside", "a part of it", "half outside", "a little outside", "the whole quay",
         "the better of two", "one each", "no labels", "nothing found"],
)  # fmt: skip
def test_labels_and_detections_in_pairs(
    labels: list[tuple[float, ...]],
    boxes: list[tuple[float, ...]],
    expected: list[tuple[int, int]],
) -> None:
    assert match_boxes([Box(*b) for b in labels], [Box(*b) for b in boxes]) == expected


@dataclass
class Knowing:
    """A detector that finds the bright objects of a window, for tests of what follows."""

    label: str = "ship"
    score: float = 0.8
    input_side: int = 64

    def detect(self, images: np.ndarray) -> list[Detections]:
        import cv2

        (image,) = images
        hot = (image[..., 0] > 130).astype(np.uint8)
        _, _, stats, _ = cv2.connectedComponentsWithStats(hot)
        boxes = [(x, y, x + w, y + h) for x, y, w, h, area in stats[1:].tolist() if area > 8]
        quads = np.array([[(a, b), (c, b), (c, d), (a, d)] for a, b, c, d in boxes], float)
        count = len(boxes)
        return [
            Detections(
                quads.reshape(-1, 4, 2), (self.label,) * count, np.full(count, self.score),
                np.full(count, np.nan),
            )
        ]  # fmt: skip


@pytest.fixture(scope="module")
def sam(tmp_path_factory: pytest.TempPathFactory) -> SamNetwork:
    folder = build_sam.save_sam(tmp_path_factory.mktemp("sam"), "sam", build_sam.seeing_sam())
    return SamNetwork.load(folder, "sam", "cpu", "fp32")


def test_a_detector_makes_loose_labels_tight(sam: SamNetwork) -> None:
    """Boxes with a margin of 0.6 of the object's sides: with the detector the masks are the
    ships', with their own labels kept; alone SAM doubts what fills so little of its label."""
    known = upright(0.6)
    alone = SamBackend(sam, 96).annotate(picture(), known, CLASSES)
    helped = SamBackend(sam, 96, 16, "text-prompted", Grounding(Knowing(), 96)).annotate(
        picture(), known, CLASSES
    )
    overlaps = [
        [i.mask.iou(mask) if i.mask else 0.0 for i, mask in zip(found, truth(), strict=True)]
        for found in (alone, helped)
    ]
    assert min(overlaps[1]) > 0.7, overlaps
    assert np.mean(overlaps[1]) > np.mean(overlaps[0]) + 0.05, overlaps
    assert [i.box for i in helped] == [i.box for i in known]
    assert {i.origin for i in helped} == {"text-prompted"}
    assert all(i.scores["detector"] == 0.8 for i in helped)


@pytest.mark.parametrize(
    ("detector", "known"),
    [
        (Knowing("storage-tank"), upright(0.6)),
        (Knowing(score=0.05), upright(0.6)),
        (Knowing(input_side=64), [Instance("ship", Box(0, 60, 40, 100))]),
    ],
    ids=["another class", "hardly sure", "elsewhere"],
)
def test_what_is_not_seen_is_prompted_by_its_label(
    detector: Knowing, known: list[Instance]
) -> None:
    frames = {
        k: found[0] for k, i in enumerate(known) if (found := frame_of_label(i, *SIZE)) is not None
    }
    assert Grounding(detector, 96).look(picture(), known, frames, CLASSES) == {}


def test_an_oriented_label_keeps_its_frame() -> None:
    """An upright box around a turned ship would be looser than its quad."""
    known = oriented()
    frames = {
        k: found[0] for k, i in enumerate(known) if (found := frame_of_label(i, *SIZE)) is not None
    }
    seen = Grounding(Knowing(), 96).look(picture(), known, frames, CLASSES)
    assert {k: s.frame for k, s in seen.items()} == frames
    boxes = Grounding(Knowing(), 96).look(
        picture(), upright(0.3), dict(enumerate(_frames(upright(0.3)))), CLASSES
    )
    for k, mask in enumerate(truth()):
        assert np.allclose(boxes[k].frame.outline.min(axis=0), (mask.x0, mask.y0), atol=1.01)


def _frames(known: list[Instance]) -> list[Any]:
    return [found[0] for i in known if (found := frame_of_label(i, *SIZE)) is not None]


def larger(folder: Path) -> Path:
    """A square window of 64 pixels would be a single cell of the small network's last level."""
    path = folder / "preprocessor_config.json"
    row = json.loads(path.read_text())
    if "shortest_edge" in row["size"]:
        path.write_text(json.dumps({**row, "size": {"shortest_edge": 128, "longest_edge": 256}}))
    return folder


@pytest.mark.parametrize("family", ["grounding-dino", "owlvit"])
def test_detectors_of_the_library_take_part(family: str, tmp_path: Path) -> None:
    """Random weights: whatever they say, prompts stay inside the labels, and twice the same."""
    make = {"grounding-dino": build_detectors.grounding_dino, "owlvit": build_detectors.owlvit}
    folder = larger(make[family](tmp_path / family))
    detector = PretrainedDetector.load(str(folder), CLASSES)
    assert detector.input_side == (128 if family == "grounding-dino" else 64)
    known = upright(1.0)
    frames = dict(enumerate(_frames(known)))
    grounding = Grounding(detector, 96)
    seen = grounding.look(picture(), known, frames, CLASSES)
    again = grounding.look(picture(), known, frames, CLASSES)
    assert {k: s.score for k, s in seen.items()} == {k: s.score for k, s in again.items()}
    for k, one in seen.items():
        box = known[k].box
        assert box is not None and 0.1 <= one.score <= 1
        low, high = one.frame.outline.min(axis=0), one.frame.outline.max(axis=0)
        assert (low >= np.array([box.x0, box.y0]) - 1e-6).all()
        assert (high <= np.array([box.x1, box.y1]) + 1e-6).all()


# ---------------------------------------------------------------- which of the two


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("models")
    build_clip.clipseg(root / "clipseg")
    build_sam.save_sam(root / "sam", "sam")
    larger(build_detectors.grounding_dino(root / "dino"))
    build_clip.clip(root / "clip")
    (root / "pickle").mkdir()
    (root / "pickle" / "config.json").write_text('{"model_type": "clipseg"}')
    (root / "pickle" / "pytorch_model.bin").write_bytes(b"x")
    return {path.name: str(path) for path in root.iterdir()}


def settings(folders: dict[str, str], **names: str) -> ExtractMasksConfig:
    given = {k: name if k == "backend" else folders.get(name, name) for k, name in names.items()}
    return ExtractMasksConfig(**{"backend": "text-prompted", **given})


@pytest.mark.parametrize(
    ("names", "kind"),
    [({"model": "clipseg"}, ClipSegBackend), ({"model": "sam", "detector": "dino"}, SamBackend)],
    ids=["clipseg", "sam"],
)
def test_the_model_says_which_backend_it_is_for(
    folders: dict[str, str], names: dict[str, str], kind: type
) -> None:
    chosen = settings(folders, **names)
    check_backend(chosen)
    made = TextPromptedBackend.open(BackendSetup(chosen, classes=CLASSES))
    assert isinstance(made, kind) and made.name == "text-prompted"
    assert len(made.annotate(picture(), upright(), CLASSES)) == 3


@pytest.mark.parametrize(
    ("names", "error", "says"),
    [
        ({"model": "sam"}, UsageError, "SAM cannot be asked"),
        ({"model": "clipseg", "detector": "dino"}, UsageError, "a detector is for SAM"),
        ({"model": "clip"}, UsageError, "says 'clip'"),
        ({"model": "tiny"}, UsageError, "diffusion pipeline"),
        ({"model": "nowhere"}, UsageError, "no such folder"),
        ({"model": "pickle"}, SetupError, "only pickle weights"),
        ({"model": "sam", "detector": "nowhere"}, UsageError, "no such folder"),
        ({"model": "sam", "detector": "pickle"}, SetupError, "only pickle weights"),
    ],
    ids=["sam alone", "clipseg with one", "clip", "tiny", "none", "pickle", "no detector",
         "pickled detector"],
)  # fmt: skip
def test_models_that_do_not_go_together(
    folders: dict[str, str], names: dict[str, str], error: type[RsgenError], says: str
) -> None:
    with pytest.raises(error, match=says):
        TextPromptedBackend.model_hashes(settings(folders, **names))


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ({}, "needs a model"),
        ({"backend": "sam", "model": "sam", "detector": "dino"}, "asks no detector"),
        ({"backend": "classical", "detector": "dino"}, "asks no detector"),
    ],
)
def test_settings_that_do_not_go_together(
    folders: dict[str, str], names: dict[str, str], says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        check_backend(settings(folders, **names))


def test_the_filter_asks_the_model_that_made_the_real_masks(
    folders: dict[str, str], seeing: Path
) -> None:
    """remask of a real set made so: CLIPSeg likewise, SAM without its detector, as what was
    asked for is tight; it knows the labels of one image alone."""
    ships = [replace(i, mask=mask) for i, mask in zip(upright(), truth(), strict=True)]
    asked = Sample("s", Layout(*SIZE, tuple(ships)))
    (scores,) = Remask("text-prompted", str(seeing)).score(picture()[None], [asked])
    assert scores.shape == (3,) and scores.min() > 0.6
    sam = Remask("text-prompted", folders["sam"], folders["dino"])
    sam.check()
    assert sam.model_hash() == Remask("sam", folders["sam"]).model_hash()
    assert sam.score(picture()[None], [asked])[0].shape == (3,)


def test_the_request_depends_on_weights_pixels_and_words(
    folders: dict[str, str], tmp_path: Path
) -> None:
    folder = build_clip.clipseg(tmp_path / "one")
    seen = [TextPromptedBackend.model_hashes(settings(folders, model=str(folder)))]
    for name, text in (("preprocessor_config.json", None), ("merges.txt", "#version: 0.2\n")):
        path = folder / name
        path.write_text(text or json.dumps({**json.loads(path.read_text()), "resample": 0}))
        seen.append(TextPromptedBackend.model_hashes(settings(folders, model=str(folder))))
    assert len({json.dumps(row) for row in seen}) == 3
    both = TextPromptedBackend.model_hashes(settings(folders, model="sam", detector="dino"))
    assert set(both) == {"segmenter", "detector"}


@pytest.mark.parametrize("change", ["torn", "oblong", "cut"])
def test_clipseg_folders_that_will_not_do(tmp_path: Path, change: str) -> None:
    from safetensors.torch import load_file, save_file

    folder = build_clip.clipseg(tmp_path / "model")
    path = folder / "preprocessor_config.json"
    row = json.loads(path.read_text())
    if change == "torn":
        weights = load_file(folder / "model.safetensors")
        weights.pop("decoder.film_mul.weight")
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
    elif change == "oblong":
        path.write_text(json.dumps({**row, "size": {"height": 64, "width": 32}}))
    else:
        path.write_text(json.dumps({**row, "size": {"shortest_edge": 64}, "crop_size": 64}))
    with pytest.raises(SetupError, match="lack 1 tensors" if change == "torn" else "square"):
        ClipSegNetwork.load(folder, "cpu", "fp32")
