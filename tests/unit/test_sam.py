"""The backend `sam` on real classes of transformers at small size, without torchvision."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from rsgen.config import load_config
from rsgen.errors import OutOfMemory, RsgenError, SetupError, UsageError
from rsgen.execution import run_stage
from rsgen.extraction import backends
from rsgen.extraction.backends import BackendSetup, check_backend, open_backend
from rsgen.extraction.choose import placed
from rsgen.extraction.crops import Crop
from rsgen.extraction.sam import SamBackend, sam_family, sam_folder
from rsgen.extraction.sam_network import Preprocessing, SamNetwork
from rsgen.extraction.stage import annotate_sample
from rsgen.geometry import RotatedBox, bounds, rotated_box_to_quad
from rsgen.images import write_png
from rsgen.mask import Mask
from rsgen.records import ClassTable, Instance, ObjectClass
from rsgen.registry import BUILT_IN
from rsgen.runs import Job
from rsgen.settings import ExtractMasksConfig
from rsgen.store import open_samples
from tests import build_sam
from tests.build_sam import BRIGHT, DARK, MEAN, SIDE, STD, Family

Pixels = npt.NDArray[np.uint8]
CLASSES = ClassTable((ObjectClass("ship"), ObjectClass("water", kind="stuff")))
FAMILIES: tuple[Family, ...] = ("sam", "sam2")


@pytest.fixture(autouse=True)
def _no_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    """An import of it fails, also where somebody has installed it."""
    monkeypatch.setitem(sys.modules, "torchvision", None)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[Family, Path]:
    root = tmp_path_factory.mktemp("models")
    return {family: build_sam.save_sam(root / family, family) for family in FAMILIES}


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SAM that was taught, in its own frame, to find bright ellipses (a few seconds)."""
    return build_sam.save_sam(
        tmp_path_factory.mktemp("models") / "seeing", "sam", build_sam.seeing_sam()
    )


def settings(model: Path | str | None, **more: Any) -> ExtractMasksConfig:
    return ExtractMasksConfig(backend="sam", model=None if model is None else str(model), **more)


def opened(model: Path, **more: Any) -> SamBackend:
    backend = open_backend(BackendSetup(settings(model), **more))
    assert isinstance(backend, SamBackend)
    return backend


def ships(
    size: tuple[int, int], places: Sequence[tuple[float, ...]], seed: int = 0
) -> tuple[Pixels, list[Mask], list[Instance]]:
    """Bright ellipses (cx, cy, half length, half width, angle) on dark ground, with quads."""
    rng = np.random.default_rng(seed)
    image = rng.normal(DARK, 5, (size[1], size[0], 3))
    masks, instances = [], []
    for cx, cy, a, b, angle in places:
        mask = Mask.from_array(build_sam.ellipse(size, cx, cy, a, b, angle) >= 1)
        assert mask is not None
        mask.paint(image, BRIGHT)
        masks.append(mask)
        quad = rotated_box_to_quad(RotatedBox(cx, cy, 2 * a, 2 * b, angle))
        instances.append(Instance("ship", quad=quad, box=mask.box))
    return np.clip(image, 0, 255).astype(np.uint8), masks, instances


# ---------------------------------------------------------------- preprocessing

SHAPES = [(50, 80), (80, 50), (64, 64), (7, 200), (300, 213)]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_sam_pixels_are_those_of_the_processor_of_transformers(shape: tuple[int, int]) -> None:
    """A swapped mean, a scale before the resize, or padding on the left would show."""
    from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    theirs = SamImageProcessorPil(
        size={"longest_edge": SIDE}, pad_size={"height": SIDE, "width": SIDE}
    )(images=image, return_tensors="np")
    ours = Preprocessing(side=SIDE)
    view = ours.view(Crop(0, 0, shape[1], shape[0], ()))
    assert [view.input_height, view.input_width] == list(theirs["reshaped_input_sizes"][0])
    assert np.abs(ours.pixels(image, view) - theirs["pixel_values"][0]).max() < 1e-5


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_sam2_pixels_are_squashed_and_normalised(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    ours = Preprocessing(side=SIDE, keep_aspect=False)
    view = ours.view(Crop(0, 0, shape[1], shape[0], ()))
    assert (view.input_width, view.input_height) == (SIDE, SIDE)
    resized = np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    expected = (resized / 255.0 - MEAN) / STD
    assert np.abs(ours.pixels(image, view).transpose(1, 2, 0) - expected).max() < 1e-5


def test_a_window_is_cut_before_it_is_resized() -> None:
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    ours = Preprocessing(side=SIDE)
    crop = ours.pixels(image, ours.view(Crop(30, 20, 50, 40, ())))
    alone = np.ascontiguousarray(image[20:60, 30:80])
    assert (crop == ours.pixels(alone, ours.view(Crop(0, 0, 50, 40, ())))).all()


@pytest.mark.parametrize(
    ("name", "wrapped"), [("preprocessor_config.json", False), ("processor_config.json", True)]
)
def test_preprocessing_is_read_from_the_folder(tmp_path: Path, name: str, wrapped: bool) -> None:
    """transformers 5 writes image_processor into processor_config.json."""
    data: dict[str, Any] = {
        "size": {"height": 48, "width": 48},
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.2, 0.2, 0.1],
        "resample": 3,
    }
    (tmp_path / name).write_text(json.dumps({"image_processor": data} if wrapped else data))
    found = Preprocessing.read(tmp_path, 48, keep_aspect=True)
    assert found == Preprocessing(48, False, 3, 1 / 255, (0.5, 0.4, 0.3), (0.2, 0.2, 0.1))
    with pytest.raises(SetupError, match="takes 64 x 64"):
        Preprocessing.read(tmp_path, 64, keep_aspect=True)


@pytest.mark.parametrize("keep_aspect", [True, False], ids=["sam", "sam2"])
@pytest.mark.parametrize(
    "size",
    [None, 48, {"height": None, "width": None, "longest_edge": None}],
    ids=["none", "number", "nulls"],
)
def test_sizes_that_say_little_leave_it_to_the_family(
    tmp_path: Path, size: object, keep_aspect: bool
) -> None:
    """A null longest_edge is no longest edge: SAM 2 would be padded instead of squashed."""
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": size}))
    found = Preprocessing.read(tmp_path, 48, keep_aspect)
    assert found == Preprocessing(48, keep_aspect)


def test_what_transformers_writes_is_read(tmp_path: Path) -> None:
    from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

    SamImageProcessorPil(image_mean=[0.1, 0.2, 0.3]).save_pretrained(tmp_path)
    found = Preprocessing.read(tmp_path, 1024, keep_aspect=False)
    assert found == Preprocessing(1024, True, mean=(0.1, 0.2, 0.3))


# ---------------------------------------------------------------- prompts


@pytest.mark.parametrize("family", FAMILIES)
def test_box_corners_reach_the_network_at_their_edges(
    folders: dict[Family, Path], family: Family
) -> None:
    """As shares of the input: a window of 40 x 20 at (10, 30), and the box (20, 35)-(30, 45) in it.

    x: (20 - 10) / 40 = 0.25 and 0.5. y: SAM pads below, so (35 - 30) / 40 = 0.125 and 0.375;
    SAM 2 squashes, so 5 / 20 = 0.25 and 0.75.
    """
    network = SamNetwork.load(folders[family], family, "cpu", "fp32")
    seen: list[Any] = []
    embedding = network._model.prompt_encoder.shared_embedding
    embedding.register_forward_hook(lambda _, given, __: seen.append(given))
    view = network.preprocessing.view(Crop(10, 30, 40, 20, ()))
    image = np.zeros((80, 80, 3), np.uint8)
    boxes = view.to_input(np.array([[20.0, 35, 30, 45]]))
    network.decode(network.encode(image, view), boxes)
    corners, size = seen[-1]
    assert tuple(size) == (SIDE, SIDE)
    shares = (corners[0, 0, :2] / SIDE).flatten().tolist()
    down = (0.125, 0.375) if family == "sam" else (0.25, 0.75)
    assert shares == pytest.approx([0.25, down[0], 0.5, down[1]])


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_a_plain_forward_pass(
    folders: dict[Family, Path], family: Family
) -> None:
    """Encoding once and decoding in batches is the same as giving pixels and boxes together."""
    network = SamNetwork.load(folders[family], family, "cpu", "fp32")
    image = np.random.default_rng(3).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    view = network.preprocessing.view(Crop(0, 0, 60, 60, ()))
    boxes = view.to_input(np.array([[5.0, 6, 30, 20], [10, 20, 50, 55], [0, 0, 9, 9]]))
    logits, predicted = network.decode(network.encode(image, view), boxes)
    assert logits.shape[:2] == predicted.shape == (3, 3)
    model = build_sam.sam_model() if family == "sam" else build_sam.sam2_model()
    pixels = torch.from_numpy(network.preprocessing.pixels(image, view))[None]
    with torch.no_grad():
        plain = model(pixel_values=pixels, input_boxes=torch.tensor(boxes - 0.5)[None].float())
    assert np.allclose(logits, plain.pred_masks[0], atol=1e-5)
    assert np.allclose(predicted, plain.iou_scores[0], atol=1e-5)


def test_half_precision_leaves_box_corners_whole(folders: dict[Family, Path]) -> None:
    """bf16 knows 8 bits: a corner at 1003 of 1024 would move by pixels."""
    for family in FAMILIES:
        whole, half = (SamNetwork.load(folders[family], family, "cpu", t) for t in ("fp32", "bf16"))
        weights = half._model.state_dict()
        assert all(w.dtype == torch.float32 for w in weights.values())
        view = whole.preprocessing.view(Crop(0, 0, 60, 60, ()))
        image = np.random.default_rng(3).integers(0, 256, (60, 60, 3), dtype=np.uint8)
        boxes = view.to_input(np.array([[5.0, 6, 30, 20]]))
        a, b = (n.decode(n.encode(image, view), boxes)[0] for n in (whole, half))
        assert a.dtype == b.dtype == np.float32
        assert 0 < np.abs(a - b).max() < 0.2


# ---------------------------------------------------------------- placing as transformers does


def smooth_logits(seed: int, cells: int = 16) -> npt.NDArray[np.float32]:
    noise = torch.from_numpy(np.random.default_rng(seed).normal(0, 5, (1, 1, 5, 5)))
    grid = torch.nn.functional.interpolate(noise, size=(cells, cells), mode="bicubic")
    return np.asarray(grid[0, 0].numpy(), dtype=np.float32)


@pytest.mark.parametrize("shape", [(50, 80), (90, 40), (64, 64)], ids=lambda s: f"{s[0]}x{s[1]}")
@pytest.mark.parametrize("family", FAMILIES)
def test_masks_are_placed_as_transformers_places_them(
    family: Family, shape: tuple[int, int]
) -> None:
    """SAM: up to the input's size, padding cut, then to the image. SAM 2: straight to the image."""
    from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

    for seed in range(5):
        logits = smooth_logits(seed)
        view = Preprocessing(SIDE, family == "sam").view(Crop(0, 0, shape[1], shape[0], ()))
        ours = placed(logits, view, (0, 0, shape[1], shape[0])) > 0
        tensor = torch.from_numpy(logits)[None, None]
        if family == "sam":
            processor: Any = SamImageProcessorPil()
            (theirs,) = processor.post_process_masks(
                [tensor],
                [shape],
                [(view.input_height, view.input_width)],
                pad_size={"height": SIDE, "width": SIDE},
            )
            theirs = np.asarray(theirs)[0, 0]
        else:
            scaled = torch.nn.functional.interpolate(tensor, size=shape, mode="bilinear")
            theirs = (scaled > 0).numpy()[0, 0]
        assert (ours != theirs).mean() < (0.02 if family == "sam" else 0.005)


# ---------------------------------------------------------------- seeing

SCENE = (300, 180)
PLACES = [
    (60, 40, 24, 9, 0.5),
    (200, 50, 12, 6, 2.3),
    (110, 130, 7, 4, -0.9),
    (250, 140, 30, 14, 0),
]


@pytest.mark.parametrize("oriented", [True, False], ids=["quads", "boxes"])
def test_masks_lie_on_the_objects(seeing: Path, oriented: bool) -> None:
    """Objects of 14 to 60 pixels, anywhere in a scene that is no square."""
    image, truth, known = ships(SCENE, PLACES)
    if not oriented:
        known = [Instance("ship", box=i.box) for i in known]
    made = opened(seeing).annotate(image, known, CLASSES)
    assert [i.origin for i in made] == ["sam"] * 4
    for instance, mask in zip(made, truth, strict=True):
        assert instance.mask is not None
        assert instance.mask.iou(mask) > 0.75
        y, x = np.nonzero(instance.mask.to_array(*SCENE))
        v, u = np.nonzero(mask.to_array(*SCENE))
        assert abs(x.mean() - u.mean()) < 0.7 and abs(y.mean() - v.mean()) < 0.7
        assert 0.5 < instance.scores["mask"] <= 1
        assert instance.reasons == ()


def test_a_given_mask_and_stuff_stay(seeing: Path) -> None:
    image, truth, known = ships(SCENE, PLACES)
    sea = Instance("water", mask=Mask.from_array(np.ones((180, 300), bool)))
    given = Instance("ship", box=known[0].box, mask=truth[1])
    made = opened(seeing).annotate(image, [sea, given, known[2]], CLASSES)
    assert made[:2] == [sea, given]
    assert made[2].origin == "sam"


def test_contested_pixels_go_to_the_tighter_label(seeing: Path) -> None:
    image, truth, known = ships(SCENE, PLACES[:1])
    around = Instance("ship", box=bounds(np.array([[20, 10], [110, 70]], float)))
    small, large = opened(seeing).annotate(image, [known[0], around], CLASSES)
    assert small.mask is not None and small.mask.iou(truth[0]) > 0.75
    if large.mask is not None:
        both = small.mask.to_array(*SCENE) & large.mask.to_array(*SCENE)
        assert not both.any()


def test_where_sam_sees_nothing_classical_does_it(folders: dict[Family, Path]) -> None:
    """Random weights: the mask is not trusted, the reason is kept, and every object has one."""
    image, truth, known = ships(SCENE, PLACES)
    outside = Instance("ship", box=bounds(np.array([[400.0, 400], [420, 420]])))
    made = opened(folders["sam"]).annotate(image, [*known, outside], CLASSES)
    for instance, mask in zip(made[:-1], truth, strict=True):
        assert instance.origin == "classical"
        assert instance.reasons[0].startswith("sam: ")
        assert instance.mask is not None and instance.mask.iou(mask) > 0.6
    assert made[-1].mask is None
    assert made[-1].reasons == ("no box inside the image",)


def test_an_image_without_labels_costs_nothing(folders: dict[Family, Path]) -> None:
    assert opened(folders["sam"]).annotate(np.zeros((50, 50, 3), np.uint8), [], CLASSES) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_a_window_is_encoded_once_and_boxes_go_in_batches(
    folders: dict[Family, Path], family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """531 boxes at once would take tens of gigabytes; the picture costs more than they do."""
    calls: dict[str, list[Any]] = {"encode": [], "decode": []}
    plain = {name: getattr(SamNetwork, name) for name in calls}

    def counting(name: str) -> Any:
        def call(self: SamNetwork, first: Any, second: Any) -> Any:
            calls[name].append(second)
            return plain[name](self, first, second)

        return call

    for name in calls:
        monkeypatch.setattr(SamNetwork, name, counting(name))
    image, _, known = ships((64, 64), [(8 + 8 * k, 30, 9, 7, math.pi / 2) for k in range(7)])
    results = [
        opened(folders[family], batch_size=n).annotate(image, known, CLASSES) for n in (3, 9)
    ]
    assert [len(boxes) for boxes in calls["decode"]] == [3, 3, 1, 7]
    assert len(calls["encode"]) == 2
    assert [i.mask for i in results[0]] == [i.mask for i in results[1]]


@pytest.mark.parametrize("family", FAMILIES)
def test_any_label_gets_a_mask_within_itself_and_the_image(
    folders: dict[Family, Path], family: Family
) -> None:
    """Dots, giants, labels across the border, all at once and overlapping."""
    rng = np.random.default_rng(7)
    known = []
    for k in range(60):
        cx, cy = rng.uniform(-10, 210), rng.uniform(-10, 160)
        w, h = np.exp(rng.uniform(np.log(0.4), np.log(250), 2))
        quad = rotated_box_to_quad(RotatedBox(cx, cy, float(w), float(h), rng.uniform(-3, 3)))
        known.append(Instance("ship", quad=quad, box=bounds(np.asarray(quad))))
        if k % 2:
            known[-1] = Instance("ship", box=known[-1].box)
    image = rng.integers(0, 256, (150, 200, 3), dtype=np.uint8)
    made = opened(folders[family]).annotate(image, known, CLASSES)
    assert len(made) == len(known)
    for before, after in zip(known, made, strict=True):
        if after.mask is None:
            assert after.reasons
            continue
        assert 0 <= after.scores["mask"] <= 1
        inside, around = after.mask.box, before.bounds()
        assert around is not None
        assert inside.x0 >= 0 and inside.y0 >= 0 and inside.x1 <= 200 and inside.y1 <= 150
        assert inside.x0 > around.x0 - 1 and inside.y1 < around.y1 + 1
        assert inside.y0 > around.y0 - 1 and inside.x1 < around.x1 + 1


@pytest.mark.parametrize("step", ["encode", "decode"])
def test_too_little_memory_is_told_as_such(
    folders: dict[Family, Path], step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver answers with smaller batches; a bare RuntimeError would be a failure row."""

    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    backend = opened(folders["sam"])
    model = backend._network._model
    target = model.vision_encoder if step == "encode" else model.mask_decoder
    monkeypatch.setattr(target, "forward", full)
    image, _, known = ships((64, 64), [(30, 30, 12, 7, 0.3)])
    with pytest.raises(OutOfMemory):
        backend.annotate(image, known, CLASSES)


# ---------------------------------------------------------------- models that will not do


def other_family(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "clip"}))


def pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def torn_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "sam"')


def pipeline(folder: Path) -> None:
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')


@pytest.mark.parametrize(
    ("harm", "kind", "says"),
    [
        (other_family, UsageError, "'clip'.*sam, sam2.*facebook/sam-vit-base"),
        (pipeline, UsageError, "a diffusion pipeline.*facebook/sam-vit-base"),
        (pickle_only, SetupError, "only pickle weights"),
        (no_weights, SetupError, r"no \*.safetensors"),
        (no_config, SetupError, "no config.json"),
        (torn_config, SetupError, "not readable"),
    ],
    ids=lambda v: v.__name__ if callable(v) and not isinstance(v, type) else None,
)
def test_folders_that_are_no_sam_are_refused(
    tmp_path: Path, harm: Any, kind: type[RsgenError], says: str
) -> None:
    folder = build_sam.save_sam(tmp_path / "model", "sam")
    harm(folder)
    with pytest.raises(kind, match=f"(?s){says}"):
        sam_folder(str(folder))


def test_weights_that_are_not_all_there_are_refused(tmp_path: Path) -> None:
    """transformers would fill the rest with random numbers and only log a table."""
    from safetensors.torch import load_file, save_file

    folder = build_sam.save_sam(tmp_path / "model", "sam")
    weights = load_file(folder / "model.safetensors")
    del weights["mask_decoder.iou_token.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(SetupError, match=r"lack 1 tensors.*iou_token"):
        opened(folder)


def test_a_torn_weights_file_is_named(tmp_path: Path) -> None:
    folder = build_sam.save_sam(tmp_path / "model", "sam")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(SetupError, match="download the folder again"):
        opened(folder)


def test_a_hub_model_that_is_not_here_names_the_line_to_fetch_it() -> None:
    with pytest.raises(SetupError) as caught:
        sam_folder("hub:facebook/sam2.1-hiera-tiny@main")
    text = str(caught.value)
    assert "hf download facebook/sam2.1-hiera-tiny --revision main --local-dir" in text


def test_a_sam2_checkpoint_of_the_hub_says_sam2_video(tmp_path: Path) -> None:
    """facebook/sam2.1-* hold the video model, whose image part is a Sam2Model."""
    from transformers.models.sam2_video.configuration_sam2_video import Sam2VideoConfig

    folder = build_sam.save_sam(tmp_path / "model", "sam2")
    config = build_sam.sam2_config(Sam2VideoConfig).to_dict()
    (folder / "config.json").write_text(json.dumps(config))
    assert config["model_type"] == "sam2_video"
    assert sam_family(folder) == "sam2"
    image, _, known = ships((64, 64), [(30, 30, 12, 7, 0.3)])
    assert opened(folder).annotate(image, known, CLASSES)[0].mask is not None


# ---------------------------------------------------------------- life of a backend


class Plain:
    """A third party's backend: no more than `annotate`."""

    name = "plain"

    def annotate(
        self, image: Pixels, known: Sequence[Instance], labels: ClassTable
    ) -> list[Instance]:
        assert all(i.mask is None for i in known)
        return [Instance(i.label, box=i.box, origin=self.name) for i in known]


def test_a_backend_without_a_model_is_made_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BUILT_IN["mask_backends"], "plain", f"{__name__}:Plain")
    image, _, known = ships(SCENE, PLACES)
    made = annotate_sample(image, known, CLASSES, "plain")
    assert [i.origin for i in made] == ["plain"] * 4
    check_backend(ExtractMasksConfig(backend="plain"))
    with pytest.raises(UsageError, match=r"backend 'plain' runs no model(?s:.*)--backend sam"):
        check_backend(ExtractMasksConfig(backend="plain", model="somewhere"))


@pytest.mark.parametrize("backend", ["auto", "classical", "box", "polygon"])
def test_a_model_for_a_backend_that_has_none_is_refused(backend: str) -> None:
    """Left alone, --model without --backend sam would be ignored in silence."""
    with pytest.raises(UsageError, match="runs no model"):
        check_backend(ExtractMasksConfig(backend=backend, model="hub:facebook/sam-vit-base"))


def test_sam_without_a_model_names_one() -> None:
    with pytest.raises(UsageError, match="--model hub:facebook/sam-vit-base"):
        check_backend(settings(None))


def dataset(root: Path, count: int = 3) -> Path:
    (root / "images").mkdir(parents=True)
    (root / "labelTxt").mkdir()
    for k in range(count):
        image, _, known = ships((96, 80), [(30, 30, 14, 6, 0.4 * k), (70, 50, 9, 5, 1.0)], seed=k)
        write_png(root / "images" / f"{k}.png", image)
        rows = [" ".join(f"{v:.2f}" for p in i.quad or () for v in p) + " ship 0" for i in known]
        (root / "labelTxt" / f"{k}.txt").write_text("\n".join(rows) + "\n")
    return root


def extract(out: Path, data: Path, model: Path, **keys: Any) -> None:
    pairs = {"extract_masks.backend": "sam", "extract_masks.model": str(model), **keys}
    config = load_config(settings=list(pairs.items()), environ={})
    run_stage(Job(command="extract-masks", config=config, out=out, inputs={"dataset": [data]}))


def test_the_model_is_opened_once_for_all_shards(
    tmp_path: Path, seeing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 0
    plain = backends.open_backend

    def counted(setup: BackendSetup) -> Any:
        nonlocal count
        count += 1
        assert (setup.device, setup.dtype, setup.batch_size) == ("cpu", "fp32", 5)
        return plain(setup)

    monkeypatch.setattr("rsgen.extraction.stage.open_backend", counted)
    keys = {"execution.shard_size": 1, "execution.batch_size": 5, "execution.device": "cpu"}
    extract(tmp_path / "out", dataset(tmp_path / "data"), seeing, **keys)
    assert count == 1
    origins = [i.origin for s in open_samples(tmp_path / "out") for i in s.layout.instances]
    assert origins == ["sam"] * 6


def test_the_request_holds_the_weights_and_the_preprocessing(
    tmp_path: Path, folders: dict[Family, Path]
) -> None:
    """The same folder elsewhere is the same request; another mean is another."""
    data, out = dataset(tmp_path / "data", 1), tmp_path / "out"
    extract(out, data, folders["sam"])
    copy = build_sam.save_sam(tmp_path / "copy", "sam")
    extract(out, data, copy)
    path = copy / "preprocessor_config.json"
    path.write_text(path.read_text().replace("0.485", "0.5"))
    with pytest.raises(UsageError, match="model sam"):
        extract(out, data, copy)
