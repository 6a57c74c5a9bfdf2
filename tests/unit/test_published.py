"""Published ControlNets, as EarthSynth's, on a Stable Diffusion 1.5 pipeline of real classes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding
from safetensors.torch import load_file, save_file

from rsgen.classes import load_class_table
from rsgen.condition import ConditionEncoding, encode
from rsgen.errors import RsgenError, SetupError, UsageError
from rsgen.execution import run_stage
from rsgen.generation.defaults import guidance_notes, settled
from rsgen.generation.naming import known_classes, model_class
from rsgen.images import write_png
from rsgen.models.base import ModelCard, ModelRef, load_model, model_folders
from rsgen.models.exact_hint import keep_exact
from rsgen.models.stable_diffusion import StableDiffusion
from rsgen.prompts import make_prompt
from rsgen.records import ClassTable, Sample
from rsgen.reporting import RunSummary
from rsgen.runs import Job
from rsgen.settings import GenerateConfig
from rsgen.store import open_samples
from tests.build import config, instance, layout, sample, sample_run
from tests.build_published import SIDE, WIDTH, base, controlnet

EARTH = load_class_table("earthsynth-67")
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def sd15(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return base(tmp_path_factory.mktemp("published") / "sd15")


@pytest.fixture(scope="module")
def branch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published") / "branch"
    controlnet().save_pretrained(folder)
    return folder


def opened(model: Path, pipeline: Path, **more: Any) -> StableDiffusion:
    found = load_model(model, base=pipeline, **more)
    assert isinstance(found, StableDiffusion)
    return found


# ---------------------------------------------------------------- where its files lie


def in_subfolder(place: Path, branch: Path) -> Path:
    """As the published repository: README and .gitattributes at its root, weights in a folder."""
    shutil.copytree(branch, place / "controlnet")
    (place / "README.md").write_text("# a model")
    return place


def subfolder_itself(place: Path, branch: Path) -> Path:
    return in_subfolder(place, branch) / "controlnet"


def at_root(place: Path, branch: Path) -> Path:
    shutil.copytree(branch, place)
    return place


def flat(place: Path, branch: Path) -> Path:
    """A copy by hand: the weights renamed, beside other people's files."""
    place.mkdir()
    shutil.copy(branch / "config.json", place)
    shutil.copy(branch / WEIGHTS, place / "earthsynth.safetensors")
    (place / "mask.png").write_bytes(b"no picture")
    return place


LAYOUTS = [in_subfolder, subfolder_itself, at_root, flat]


@pytest.mark.parametrize("arrange", LAYOUTS, ids=[f.__name__ for f in LAYOUTS])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_controlnet_is_found_wherever_its_files_lie(
    arrange: Callable[[Path, Path], Path], dtype: str, branch: Path, sd15: Path, tmp_path: Path
) -> None:
    """Catches a layout that is refused, and weights that are opened as random ones."""
    model = opened(arrange(tmp_path / "model", branch), sd15, dtype=dtype)
    assert (model.factor, model.image_size, model.condition_channels) == (8, SIDE, 3)
    assert model.card is None and model.vocabulary is None
    wanted = load_file(branch / WEIGHTS)
    assert model.controlnet is not None
    found = model.controlnet.state_dict()
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        exact = dtype == "fp32" or name.startswith("controlnet_cond_embedding")
        kind = torch.float32 if exact else torch.bfloat16
        assert torch.equal(found[name], tensor.to(kind)), name


def test_a_safety_checker_is_neither_needed_nor_kept(
    branch: Path, sd15: Path, tmp_path: Path
) -> None:
    """Catches black images by a checker that was trained on photographs of people."""
    assert "safety_checker" in json.loads((sd15 / "model_index.json").read_text())
    assert not (sd15 / "safety_checker").exists()
    opened(branch, sd15).save(tmp_path / "saved")
    index = json.loads((tmp_path / "saved" / "model_index.json").read_text())
    assert index["safety_checker"] == [None, None]
    assert index["requires_safety_checker"] is False


# ---------------------------------------------------------------- what does not fit


def other_base(place: Path, sd15: Path, **changes: Any) -> Path:
    shutil.copytree(sd15, place)
    path = place / "model_index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return place


def of(place: Path, **shape: Any) -> Path:
    controlnet(**shape).save_pretrained(place)
    return place


def cut(place: Path, branch: Path, name: str, *, extra: str | None = None) -> Path:
    """A folder whose weights lack a tensor, or have one too many."""
    place.mkdir()
    shutil.copy(branch / "config.json", place)
    tensors = dict(load_file(branch / WEIGHTS))
    removed = tensors.pop("conv_in.weight")
    if extra is not None:
        tensors[extra] = removed
    save_file(tensors, place / name, metadata={"format": "pt"})
    return place


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (
            lambda t, b, s: (of(t / "wide", width=2 * WIDTH), s),
            UsageError,
            f"does not fit base .*: cross_attention_dim {2 * WIDTH} and not {WIDTH}",
        ),
        (
            lambda t, b, s: (of(t / "big", channels=(16, 16, 32, 32)), s),
            UsageError,
            "block_out_channels 16/16/32/32 and not 8/8/16/16",
        ),
        (lambda t, b, s: (s / "unet", s), UsageError, "a UNet2DConditionModel, not a ControlNet"),
        (lambda t, b, s: (b, b), UsageError, "base .*: a ControlNetModel alone, where a whole"),
        (
            lambda t, b, s: (b, other_base(t / "xl", s, _class_name="StableDiffusionXLPipeline")),
            UsageError,
            "base .*: a StableDiffusionXLPipeline; rsgen runs",
        ),
        (lambda t, b, s: (cut(t / "cut", b, WEIGHTS), s), SetupError, "lack 1 tensors .*conv_in"),
        (
            lambda t, b, s: (cut(t / "lone", b, "a.safetensors"), s),
            SetupError,
            "lack 1 tensors .*conv_in",
        ),
        (
            lambda t, b, s: (cut(t / "odd", b, "a.safetensors", extra="lora.down"), s),
            SetupError,
            "not the weights of a ControlNet .*unknown tensor lora.down",
        ),
    ],
    ids=[
        "another text encoder",
        "other widths",
        "a UNet",
        "the base is a ControlNet",
        "XL",
        "a tensor is missing",
        "a tensor is missing, flat",
        "other weights, flat",
    ],
)
def test_what_does_not_fit_is_told_in_one_line(
    make: Callable[[Path, Path, Path], tuple[Path, Path]],
    kind: type[RsgenError],
    words: str,
    branch: Path,
    sd15: Path,
    tmp_path: Path,
) -> None:
    """Catches a page of tensor shapes, and a network that starts with random numbers in silence."""
    model, pipeline = make(tmp_path, branch, sd15)
    with pytest.raises(kind, match=words) as caught:
        load_model(model, base=pipeline)
    assert "\n" not in caught.value.message and caught.value.hint


def test_what_it_was_made_for_is_named(branch: Path, sd15: Path, tmp_path: Path) -> None:
    for place, source in ((tmp_path / "two", branch), (tmp_path / "base" / "unet", sd15 / "unet")):
        place.mkdir(parents=True)
        row = json.loads((source / "config.json").read_text())
        wide = 1024 if place.name == "two" else 768
        (place / "config.json").write_text(json.dumps({**row, "cross_attention_dim": wide}))
        shutil.copy(source / WEIGHTS, place)
    shutil.copy(sd15 / "model_index.json", tmp_path / "base")
    refs = [ModelRef("folder", str(tmp_path / name)) for name in ("two", "base")]
    with pytest.raises(UsageError, match="1024 and not 768") as caught:
        model_folders(*refs)
    assert "made for Stable Diffusion 2" in str(caught.value.hint)


def test_what_is_not_there_is_told_at_once() -> None:
    """Catches a second round for the base after the first download."""
    refs = [ModelRef.parse(text) for text in ("hub:some/net@v1/controlnet", "hub:some/base")]
    with pytest.raises(SetupError, match=r"hub:some/net@v1/controlnet .*its base.* hub:some/base "):
        model_folders(*refs)
    with pytest.raises(SetupError, match="its base tiny is there"):
        model_folders(refs[0], ModelRef.parse("tiny"))


# ---------------------------------------------------------------- what it sees


def hints(embedding: Any) -> torch.Tensor:
    """What the hint network makes of a plain image of each class index, [67, D]."""
    grey = torch.arange(67, dtype=torch.float32)[:, None, None, None] / 255
    with torch.no_grad():
        found: torch.Tensor = embedding(grey.expand(-1, 3, 16, 16).contiguous())
    return found.float()[:, :, 1, 1]


def distinct(rows: torch.Tensor) -> int:
    return len({tuple(row) for row in rows.tolist()})


def offset(embedding: Any) -> None:
    """Weights that carry an index as 8 + index / 255 from layer to layer, and blow it up last.

    bf16 numbers between 8 and 16 are 1/16 apart: sixteen indices.
    """
    layers = [embedding.conv_in, *embedding.blocks, embedding.conv_out]
    for layer in layers:
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
        layer.weight.data[0, : 3 if layer is layers[0] else 1, 1, 1] = 1.0
    embedding.conv_in.weight.data[0] /= 3
    torch.nn.init.constant_(embedding.conv_in.bias, 8.0)
    embedding.conv_out.weight.data[:, 0, 1, 1] = 100.0
    torch.nn.init.constant_(embedding.conv_out.bias, -800.0)


@pytest.mark.parametrize("how", ["loaded in bf16", "for inference", "autocast"])
def test_neighbouring_class_indices_stay_apart(how: str, sd15: Path, tmp_path: Path) -> None:
    """Catches a hint network in bf16, for which a ship and a plane are the same grey."""
    network = controlnet()
    offset(network.controlnet_cond_embedding)
    network.save_pretrained(tmp_path / "branch")
    wanted = hints(network.controlnet_cond_embedding)
    assert distinct(wanted) == 67
    plain = hints(lambda grey: network.controlnet_cond_embedding.bfloat16()(grey.bfloat16()))
    assert distinct(plain) < 12
    model = opened(
        tmp_path / "branch",
        sd15,
        dtype="fp32" if how == "autocast" else "bf16",
        inference=how == "for inference",
    )
    assert model.controlnet is not None
    embedding = model.controlnet.controlnet_cond_embedding
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        found = embedding(torch.zeros(1, 3, 16, 16)).dtype, hints(embedding)
    assert found[0] == torch.bfloat16, "the rest of the network computes as before"
    assert distinct(found[1]) == 67
    torch.testing.assert_close(found[1], wanted, rtol=2**-7, atol=2**-7)


def test_conditions_reach_the_hint_network_unrounded(branch: Path, sd15: Path) -> None:
    """Catches a condition that is cast with the latents, before the hint network."""
    model = opened(branch, sd15, dtype="bf16")
    assert model.controlnet is not None
    seen: list[torch.Tensor] = []
    model.controlnet.controlnet_cond_embedding.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0])
    )
    condition = torch.full((1, 3, SIDE, SIDE), 63 / 255)
    text = model.encode_prompts(["a ship"])
    with torch.no_grad():
        model.control(torch.zeros(1, 4, 8, 8), torch.tensor([500]), text, condition)
    assert torch.equal(seen[0], condition)


def test_other_hint_networks_are_as_they_were() -> None:
    """Catches a cost for one-hot channels, which bf16 holds exactly."""
    network = keep_exact(controlnet(hint=35), torch.bfloat16)
    assert type(network.controlnet_cond_embedding) is ControlNetConditioningEmbedding
    assert {p.dtype for p in network.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("name", "label", "value"),
    [
        ("dior-r", "airplane", 16),
        ("dior-r", "Expressway-toll-station", 32),
        ("dior-r", "golffield", 34),
        ("dior-r", "vehicle", 38),
        ("dota-v1.0", "storage-tank", 25),
        ("dota-v1.0", "large-vehicle", 12),
        ("dota-v1.0", "soccer-ball-field", 18),
        ("hrsc2016", "ship", 17),
        ("earthsynth-67", "buildings", 8),
        ("earthsynth-67", "expresswalltoll station", 32),
        ("earthsynth-67", "storage_tank", 25),
        ("earthsynth-67", "warship", 66),
    ],
)
def test_classes_of_the_known_sets_have_their_index(name: str, label: str, value: int) -> None:
    """Catches a class that means another index than in the published masks."""
    entry = load_class_table(name).resolve(label)
    found = model_class(entry, EARTH)
    assert found is not None and EARTH.index(found.name) == value
    shape = instance(found.name, cx=16, cy=16, length=12, across=9, size=(32, 32))
    condition = encode(layout((shape,), (32, 32)), (32, 32), ConditionEncoding("index"), EARTH)
    assert set(np.unique(condition)) == {np.float32(0), np.float32(value / 255)}
    assert np.array_equal(condition[0], condition[1]) and np.array_equal(condition[0], condition[2])


@pytest.mark.parametrize("name", ["dior-r", "dota-v1.0", "hrsc2016"])
def test_no_class_of_the_known_sets_is_lost(name: str) -> None:
    """Catches a spelling that no alias meets, and two classes that become one."""
    table = load_class_table(name)
    assert known_classes(table, EARTH) == table
    found = [model_class(entry, EARTH) for entry in table.classes]
    assert len({entry.name for entry in found if entry is not None}) == len(table.classes)


def test_prompts_as_it_was_trained() -> None:
    """Catches hyphens, articles, a full stop, and the order of the labels."""
    assert make_prompt(["storage-tank", "ship", "buildings", "ship"], EARTH) == (
        "A satellite image of building, ship, storage tank"
    )


def test_guidance_of_a_published_checkpoint() -> None:
    """Catches the embedded model's guidance, which leaves such a model grey and aimless."""
    card = ModelCard("index", EARTH, published=True)
    chosen = settled(GenerateConfig(), card)
    assert (chosen.text_guidance, chosen.layout_guidance) == (7.5, 1.0)
    assert chosen.prompt == "A satellite image of {classes}"
    (note,) = guidance_notes(GenerateConfig(layout_guidance=2.0), card)
    assert "published checkpoint" in note


# ---------------------------------------------------------------- the whole way


def paint(out: Path, model: Path, pipeline: Path, layouts: Path, **keys: Any) -> RunSummary:
    values = {
        "generate.base": str(pipeline),
        "generate.condition": "index",
        "generate.classes": "earthsynth-67",
        "generate.steps": 2,
        "execution.max_failure_rate": 0.0,
        **keys,
    }
    return run_stage(
        Job("generate", config(**values), out, {"checkpoint": [model], "layouts": [layouts]})
    )


def made_by(summary: RunSummary) -> list[Sample]:
    return list(open_samples(Path(summary.out)))


def test_published_masks_are_layouts(branch: Path, sd15: Path, tmp_path: Path) -> None:
    """EarthSynth's demo mask: gray 25 is a storage tank. Catches a class x mask cross product."""
    for name, value, x in (("a", 25, 8), ("b", 17, 30), ("c", 17, 20)):
        mask = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
        mask[10:30, x : x + 20] = value
        if name == "c":
            mask[40:60, 5:30] = 25
        write_png(tmp_path / "set" / "masks" / f"{name}.png", mask)
    splits = {"generate.layout_splits": ["train", "val", "test"]}
    made = made_by(paint(tmp_path / "out", branch, sd15, tmp_path / "set", **splits))
    assert [s.prompt for s in made] == [
        "A satellite image of storage tank",
        "A satellite image of ship",
        "A satellite image of ship, storage tank",
    ]
    for one in made:
        assert {i.label for i in one.layout.instances} <= {"ship", "storage tank"}


def test_labels_keep_their_names_and_the_model_hears_its_own(
    branch: Path, sd15: Path, tmp_path: Path
) -> None:
    """Catches a class map that renames labels, or that conditions on nothing."""
    table = ClassTable.of("trawler", "airplane", "balloon")
    shapes = [
        instance("trawler", cx=20, cy=20, size=(SIDE, SIDE)),
        instance("airplane", cx=44, cy=44, size=(SIDE, SIDE)),
    ]
    run = sample_run(
        tmp_path / "run", [sample("a.png", layout(shapes, (SIDE, SIDE)))], classes=table
    )
    told = {"generate.class_map": {"Trawler": "ship"}}
    (one,) = made_by(paint(tmp_path / "out", branch, sd15, run.path, **told))
    assert one.prompt == "A satellite image of plane, ship"
    assert [i.label for i in one.layout.instances] == ["trawler", "airplane"]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"generate.class_map": {"trawlers": "ship"}}, "'trawlers' is no class of the layouts"),
        ({"generate.class_map": {"trawler": "shipp"}}, "'shipp' is no class of the model .*ship"),
        ({"generate.condition": "classes"}, "35 channels, the ControlNet expects 3"),
        ({"generate.size": 72}, "multiple of 64"),
    ],
    ids=["not in the labels", "not in the model", "another encoding", "another size"],
)
def test_what_cannot_be_is_said_before_anything_is_painted(
    keys: dict[str, Any], words: str, branch: Path, sd15: Path, tmp_path: Path
) -> None:
    table = ClassTable.of("trawler", "ship")
    of = layout([instance("ship", size=(SIDE, SIDE))], (SIDE, SIDE))
    run = sample_run(tmp_path / "run", [sample("a.png", of)], classes=table)
    with pytest.raises(UsageError, match=words):
        paint(tmp_path / "out", branch, sd15, run.path, **keys)
    assert not (tmp_path / "out").exists()
