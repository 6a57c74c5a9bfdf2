"""Model references, cards, hashes, the closed tokenizer and the embedded architecture."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from rsgen.condition import ConditionEncoding
from rsgen.errors import DataError, RsgenError, SetupError, UsageError
from rsgen.models import base as base_module
from rsgen.models.base import (
    ModelCard,
    ModelRef,
    Residuals,
    load_model,
    model_folder,
    model_hash,
    model_side,
    model_step,
    read_card,
)
from rsgen.models.tiny import CONDITION_CHANNELS, build_tiny
from rsgen.models.tokenizer import (
    MAX_TOKENS,
    closed_tokenizer,
    closed_vocabulary,
    read_vocabulary,
)
from rsgen.prompts import VOCABULARY
from rsgen.sensor import SensorNoise
from tests.build import CLASSES
from tests.build_models import SIZE, SavedModel, card, save_model, small_model


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> SavedModel:
    return save_model(tmp_path_factory.mktemp("models") / "small")


# ---------------------------------------------------------------- references


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("tiny", ModelRef("embedded", "tiny"), id="embedded"),
        pytest.param("./tiny", ModelRef("folder", "./tiny"), id="a folder of that name"),
        pytest.param("/a/b", ModelRef("folder", "/a/b"), id="absolute folder"),
        pytest.param("hub:o/n", ModelRef("hub", "o/n"), id="hub"),
        pytest.param("hub:o/n@v1", ModelRef("hub", "o/n", "v1"), id="hub revision"),
        pytest.param("hub:o/n/sub/x", ModelRef("hub", "o/n", None, "sub/x"), id="hub subfolder"),
        pytest.param("hub:o/n@v1/sub", ModelRef("hub", "o/n", "v1", "sub"), id="hub both"),
    ],
)
def test_a_reference_reads_and_prints_back(text: str, expected: ModelRef) -> None:
    """Catches a revision swallowed by the subfolder, and `./tiny` taken for the embedded model."""
    assert ModelRef.parse(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize("text", ["", "  ", "hub:", "hub:name", "hub:/name", "hub:org/"])
def test_a_bad_reference_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError):
        ModelRef.parse(text)


def test_a_hub_model_offline_says_what_to_bring_where() -> None:
    """Catches a bare library traceback where there is no network."""
    with pytest.raises(SetupError) as caught:
        model_folder(ModelRef.parse("hub:some-org/some-model@v2/part"))
    text = str(caught.value)
    assert "hf download some-org/some-model --revision v2" in text
    assert "./some-model/part" in text
    assert caught.value.exit_code == 4


def test_a_missing_folder_that_looks_like_a_hub_name_gets_the_hub_spelling() -> None:
    with pytest.raises(UsageError, match="hub:org/name"):
        model_folder(ModelRef.parse("org/name"))


def test_without_embedded_weights_tiny_says_how_to_rebuild_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_module, "EMBEDDED", tmp_path / "absent")
    with pytest.raises(SetupError, match="tiny-pretrain"):
        model_folder(ModelRef.parse("tiny"))


def test_the_out_of_a_training_run_stands_for_its_model(saved: SavedModel, tmp_path: Path) -> None:
    shutil.copytree(saved.path, tmp_path / "run" / "model")
    found = model_folder(ModelRef("folder", str(tmp_path / "run")))
    assert found == tmp_path / "run" / "model"


def _pickled(folder: Path, source: Path) -> Path:
    shutil.copytree(source, folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    return folder


def _without_weights(folder: Path, source: Path) -> Path:
    shutil.copytree(source, folder)
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    return folder


def _damaged(folder: Path, source: Path) -> Path:
    shutil.copytree(source, folder)
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"cut short")
    return folder


def _single_file(folder: Path, source: Path) -> Path:
    folder.with_suffix(".ckpt").write_bytes(b"x")
    return folder.with_suffix(".ckpt")


def _empty(folder: Path, source: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(_pickled, "safetensors only", id="pickle weights"),
        pytest.param(_single_file, "pickle checkpoint", id="single pickle file"),
        pytest.param(_without_weights, "no \\*.safetensors", id="weights missing"),
        pytest.param(_damaged, "cannot be opened as UNet2DConditionModel", id="damaged weights"),
        pytest.param(_empty, "no model_index.json", id="empty folder"),
    ],
)
def test_a_folder_that_is_no_safe_model_is_refused_with_a_way_out(
    make: object, message: str, saved: SavedModel, tmp_path: Path
) -> None:
    """Catches a pickle being opened, and library errors without a fix."""
    folder = make(tmp_path / "model", saved.path)  # type: ignore[operator]
    with pytest.raises(SetupError, match=message) as caught:
        load_model(folder)
    assert caught.value.hint


def test_another_family_is_named(saved: SavedModel, tmp_path: Path) -> None:
    shutil.copytree(saved.path, tmp_path / "model")
    index = tmp_path / "model" / "model_index.json"
    row = json.loads(index.read_text())
    index.write_text(json.dumps({**row, "_class_name": "FluxPipeline"}))
    with pytest.raises(UsageError, match="FluxPipeline"):
        load_model(tmp_path / "model")


# ---------------------------------------------------------------- save and load


def test_a_saved_model_loads_with_equal_weights_and_card(saved: SavedModel) -> None:
    """Catches a part that is not saved, or that a library re-initialises on loading."""
    loaded = load_model(saved.path)
    assert loaded.card == card()
    for name, network in saved.model.networks().items():
        other = loaded.networks()[name].state_dict()  # type: ignore[attr-defined]
        for key, value in network.state_dict().items():
            assert torch.equal(value, other[key]), f"{name}.{key}"
    assert loaded.image_size == SIZE == model_side(saved.path)
    assert loaded.factor == 4
    assert model_step(saved.path) == 16
    assert loaded.vocabulary == frozenset(VOCABULARY) == read_vocabulary(saved.path)


def test_fp16_files_open_without_a_type_in_diffusers(tmp_path: Path) -> None:
    """Catches a text encoder in fp16 beside a UNet in fp32: transformers keeps a file's type."""
    from diffusers import StableDiffusionControlNetPipeline

    small_model().save(tmp_path / "half", card(), dtype="fp16")
    pipeline = StableDiffusionControlNetPipeline.from_pretrained(
        tmp_path / "half", local_files_only=True
    )
    pipeline.set_progress_bar_config(disable=True)
    condition = torch.zeros(1, CONDITION_CHANNELS, SIZE, SIZE)
    images = pipeline("a plane", image=condition, num_inference_steps=1, output_type="np").images
    assert images.shape == (1, SIZE, SIZE, 3)


def test_a_base_without_a_control_branch_saves_and_loads(tmp_path: Path) -> None:
    model = small_model()
    model.controlnet = None
    model.save(tmp_path / "base")
    loaded = load_model(tmp_path / "base")
    assert loaded.condition_channels is None  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="no layout branch"):
        loaded.control(torch.zeros(1), torch.zeros(1), torch.zeros(1), torch.zeros(1))


def test_a_bare_controlnet_needs_and_takes_a_base(saved: SavedModel, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(saved.path / "controlnet", bare)
    with pytest.raises(UsageError, match="--base"):
        load_model(bare)
    loaded = load_model(bare, base=saved.path)
    assert loaded.card is None, "the base's classes are not the ControlNet's"
    assert loaded.condition_channels == CONDITION_CHANNELS  # type: ignore[attr-defined]


def test_a_fresh_control_branch_changes_nothing_yet(saved: SavedModel) -> None:
    """Catches joints that are not zero: training would start from a damaged base."""
    model = small_model()
    model.controlnet = model.fresh_controlnet(3)
    text = model.encode_prompts(["a ship"])
    latents, steps = torch.randn(1, 4, 8, 8), torch.tensor([400])
    with torch.no_grad():
        residuals = model.control(latents, steps, text, torch.rand(1, 3, SIZE, SIZE))
        with_control = model.predict(latents, steps, text, residuals)
        assert torch.equal(with_control, model.predict(latents, steps, text))


def test_residuals_scale_add_and_detach() -> None:
    one = Residuals((torch.ones(1, 2), torch.full((1, 3), 2.0)), torch.full((1, 4), 3.0))
    total = one + one.scaled(0.5).detached()
    assert [float(t.mean()) for t in (*total.down, total.middle)] == [1.5, 3.0, 4.5]


def test_images_survive_the_trip_through_latents_in_shape_and_scale(saved: SavedModel) -> None:
    """Catches a forgotten scaling factor on one of the two ways."""
    model = small_model()
    pixels = torch.rand(2, 3, SIZE, SIZE) * 2 - 1
    with torch.no_grad():
        before = model.decode_latents(model.encode_images(pixels))
        model.vae.register_to_config(scaling_factor=0.25)
        after = model.decode_latents(model.encode_images(pixels))
    assert before.shape == pixels.shape
    torch.testing.assert_close(before, after)


def test_a_model_for_inference_paints_the_same_for_every_condition(saved: SavedModel) -> None:
    """Catches a remembered condition that is used for the next one."""
    plain, fast = load_model(saved.path), load_model(saved.path, inference=True)
    latents, steps = torch.randn(2, 4, 8, 8), torch.tensor([400, 400])
    with torch.no_grad():
        text = plain.encode_prompts(["a ship", "a plane"])
        for seed in range(3):
            generator = torch.Generator().manual_seed(seed)
            condition = torch.rand(2, CONDITION_CHANNELS, SIZE, SIZE, generator=generator)
            for _ in range(2):
                expected = plain.control(latents, steps, text, condition)
                got = fast.control(latents, steps, text, condition)
                for a, b in zip(expected.down, got.down, strict=True):
                    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


# ---------------------------------------------------------------- the card and the hash


def test_the_card_round_trips(tmp_path: Path) -> None:
    written = ModelCard(
        "classes",
        CLASSES,
        {"plane": (0,), "ship": (1, 5)},
        128,
        (0.3, 0.9),
        "f" * 32,
        "tiny",
        ("Apache-2.0",),
        {"steps": 3},
        sensor_noise=SensorNoise.of_level(3.0),
    )
    written.write(tmp_path)
    assert read_card(tmp_path) == written
    assert written.encoding() == ConditionEncoding("classes", {"plane": (0,), "ship": (1, 5)})
    assert read_card(tmp_path / "elsewhere") is None


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 1}', '{"schema": 99}'])
def test_a_broken_card_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "rsgen.json").write_text(text)
    with pytest.raises(DataError, match=r"rsgen\.json"):
        read_card(tmp_path)


def test_the_hash_follows_the_weights_and_nothing_else(saved: SavedModel, tmp_path: Path) -> None:
    """Catches a hash that a README changes, or that a changed weight does not."""
    copy = tmp_path / "copy"
    shutil.copytree(saved.path, copy)
    (copy / "README.md").write_text("hello")
    assert model_hash(copy) == model_hash(saved.path)
    save_model(tmp_path / "other", seed=5)
    assert model_hash(tmp_path / "other") != model_hash(saved.path)


# ---------------------------------------------------------------- tokenizer, architecture


def test_every_word_of_the_vocabulary_is_one_token_before_and_after_saving(tmp_path: Path) -> None:
    """Catches words split into letters after a round trip through tokenizer.json."""
    tokenizer = closed_tokenizer(VOCABULARY)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    again = type(tokenizer).from_pretrained(tmp_path / "tokenizer")
    for candidate in (tokenizer, again):
        for word in VOCABULARY:
            assert len(candidate(word)["input_ids"]) == 3, word
        assert candidate.model_max_length == MAX_TOKENS
        assert closed_vocabulary(candidate) == frozenset(VOCABULARY)
    text = "A Satellite image of plane, storage tank"
    assert tokenizer(text)["input_ids"] == again(text)["input_ids"]
    assert len(again(text)["input_ids"]) == 2 + 8


def test_an_unknown_word_is_unknown_and_not_the_end(saved: SavedModel) -> None:
    """Catches unknown letters read as the end token: the rest of the prompt would be lost."""
    tokenizer = closed_tokenizer(["a", "plane"])
    ids = tokenizer("a zq plane")["input_ids"]
    assert ids[1:-1] == [tokenizer.convert_tokens_to_ids(t) for t in ("a",)] + [2, 2] + [
        tokenizer.convert_tokens_to_ids("plane")
    ]
    assert saved.model.tokens(["x" * 100]).shape == (1, MAX_TOKENS)


def test_the_embedded_architecture_fits_its_size_budget() -> None:
    """Catches a wider network: the package may carry 24 MB, and 16 MB a file."""
    with torch.device("meta"):
        model = build_tiny()
    halves = {
        name: 2 * sum(p.numel() for p in network.parameters())
        for name, network in model.networks().items()
    }
    halves["text_encoder"] *= 2  # kept in fp32
    assert sum(halves.values()) <= 23.5e6, halves
    assert max(halves.values()) <= 15.5e6, halves
    assert model.condition_channels == CONDITION_CHANNELS
    assert model.image_size == 128
    assert model.scheduler_config["prediction_type"] == "v_prediction"


def test_building_is_deterministic_and_leaves_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    first, second = small_model(3), small_model(3)
    assert torch.equal(torch.get_rng_state(), state)
    for a, b in zip(first.unet.parameters(), second.unet.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first.unet.conv_in.weight, small_model(4).unet.conv_in.weight)


def test_cuda_without_a_device_is_exit_4(saved: SavedModel) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(RsgenError) as caught:
        load_model(saved.path, device="cuda")
    assert caught.value.exit_code == 4
