"""CLIP's family against transformers' own code, and the conversion of open_clip's weights."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rsgen.errors import RsgenError, SetupError, UsageError
from rsgen.models.clip import Clip, clip_folder, clip_hash
from rsgen.models.clip_conversion import convert_clip
from rsgen.models.processing import PixelPreparation
from tests import build_clip as build

TEXTS = ["ship", "a plane of a ship", "grey water", ""]
SIZES = [(32, 32), (50, 70), (71, 40), (9, 33), (64, 64)]


def pictures() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [
        np.kron(rng.integers(0, 255, ((h + 3) // 4, (w + 3) // 4, 3)), np.ones((4, 4, 1)))[
            :h, :w
        ].astype(np.uint8)
        for h, w in SIZES
    ]


@pytest.fixture(scope="module")
def clip_folder_(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build.clip(tmp_path_factory.mktemp("clip") / "model")


@pytest.fixture(scope="module")
def clip(clip_folder_: Path) -> Clip:
    return Clip.load(clip_folder_)


def unit(tensor: torch.Tensor) -> np.ndarray:
    return np.asarray(torch.nn.functional.normalize(tensor, dim=-1).detach().numpy())


def test_pixels_are_prepared_as_the_model_was_trained(clip: Clip, clip_folder_: Path) -> None:
    """Against transformers: resampling, which rows a crop loses, mean and spread."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    kind: Any = CLIPImageProcessorPil
    processor = kind.from_pretrained(clip_folder_)
    for image in pictures():
        wanted = processor(images=image, return_tensors="np")["pixel_values"][0]
        assert np.abs(clip.preparation.pixels(image) - wanted).max() < 1e-6


def test_vectors_are_those_of_the_library(clip: Clip, clip_folder_: Path) -> None:
    """Pixels, tokens, pooling at the text's end, projection, length 1, batches."""
    from transformers import CLIPModel, CLIPTokenizer
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    kinds: Any = (CLIPModel, CLIPTokenizer, CLIPImageProcessorPil)
    model, words, processor = (kind.from_pretrained(clip_folder_) for kind in kinds)
    images = pictures()
    with torch.no_grad():
        made = model(
            **words(TEXTS, padding=True, return_tensors="pt"),
            pixel_values=processor(images=images, return_tensors="pt")["pixel_values"],
        )
    seen, read = clip.embed_images(images, 2), clip.embed_texts(TEXTS, 3)
    assert seen.shape == (5, clip.dimension) and read.dtype == seen.dtype == np.float32
    assert np.abs(seen - unit(made.image_embeds)).max() < 1e-6
    assert np.abs(read - unit(made.text_embeds)).max() < 1e-6
    logits = clip.scale * seen @ read.T
    assert np.abs(logits - made.logits_per_image.detach().numpy()).max() < 1e-4
    assert clip.embed_images([]).shape == clip.embed_texts([]).shape == (0, clip.dimension)


def test_siglip_reads_its_filling_too(tmp_path: Path) -> None:
    """Without the filling up to its limit its vectors are others."""
    from transformers import AutoTokenizer, SiglipModel
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    folder = build.siglip(tmp_path / "siglip")
    ours = Clip.load(folder)
    kinds: Any = (SiglipModel, AutoTokenizer, SiglipImageProcessorPil)
    model, words, processor = (kind.from_pretrained(folder) for kind in kinds)
    texts = words(TEXTS, padding="max_length", max_length=build.LIMIT, return_tensors="pt")
    with torch.no_grad():
        made = model(
            input_ids=texts["input_ids"],
            pixel_values=processor(images=pictures(), return_tensors="pt")["pixel_values"],
        )
    assert np.abs(ours.embed_images(pictures()) - unit(made.image_embeds)).max() < 1e-6
    assert np.abs(ours.embed_texts(TEXTS) - unit(made.text_embeds)).max() < 1e-6


def test_a_text_that_does_not_fit_is_refused(clip: Clip) -> None:
    """Cut off in silence, a long phrase would be ranked by its beginning."""
    clip.embed_texts(["x " * (build.LIMIT - 2)])
    with pytest.raises(UsageError, match="has 49 tokens, the model reads 48"):
        clip.embed_texts(["ship", "x " * (build.LIMIT - 1)])


@pytest.mark.parametrize(
    ("settings", "image", "wanted"),
    [
        pytest.param({}, (20, 30), (32, 32), id="nothing said"),
        pytest.param({"size": 32, "crop_size": 32}, (20, 30), (32, 32), id="an old file"),
        pytest.param({"size": {"height": 24, "width": 40}, "do_center_crop": False}, (9, 9),
                     (24, 40), id="exact"),
        pytest.param({"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 36}},
                     (50, 90), (32, 36), id="cut out of more"),
    ],
)  # fmt: skip
def test_sizes_of_pictures(
    tmp_path: Path, settings: dict[str, Any], image: tuple[int, int], wanted: tuple[int, int]
) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    usual = PixelPreparation((32, 32), (32, 32), keep_aspect=True)
    found = PixelPreparation.read(tmp_path, usual)
    assert found.input_size == wanted
    assert found.pixels(np.zeros((*image, 3), np.uint8)).shape == (3, *wanted)


def lose(name: str) -> Any:
    def change(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        weights = load_file(folder / "model.safetensors")
        weights.pop(name)
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    return change


def rewrite(name: str, **keys: Any) -> Any:
    def change(folder: Path) -> None:
        path = folder / name
        row = json.loads(path.read_text()) if path.is_file() else {}
        path.write_text(json.dumps({**row, **keys}))

    return change


def unlink(*names: str) -> Any:
    return lambda folder: [(folder / name).unlink() for name in names]


@pytest.mark.parametrize(
    ("damage", "error", "says"),
    [
        (lose("visual_projection.weight"), SetupError, "lack 1 tensors"),
        (rewrite("config.json", model_type="bert"), UsageError, "'bert'"),
        (rewrite("preprocessor_config.json", crop_size=24), SetupError, "network takes 32 x 32"),
        (rewrite("preprocessor_config.json", do_center_crop=False), SetupError, "one size"),
        (rewrite("preprocessor_config.json", crop_size=48), SetupError, "out of"),
        (unlink("vocab.json", "merges.txt"), SetupError, "no tokenizer"),
        (unlink("model.safetensors"), SetupError, "no \\*.safetensors"),
        (
            lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
            SetupError,
            "only pickle weights",
        ),
        (rewrite("model_index.json"), UsageError, "diffusion pipeline"),
    ],
    ids=["torn weights", "bert", "side", "no crop", "large crop", "no words", "none", "pickle",
         "pipeline"],
)  # fmt: skip
def test_folders_that_will_not_do(
    tmp_path: Path, damage: Any, error: type[RsgenError], says: str
) -> None:
    folder = build.clip(tmp_path / "clip")
    damage(folder)
    with pytest.raises(error, match=says):
        Clip.load(folder)


def test_the_hash_is_of_everything_that_changes_vectors(tmp_path: Path) -> None:
    folder = build.clip(tmp_path / "clip")
    hashes = [clip_hash(folder)]
    for change in (
        rewrite("preprocessor_config.json", resample=0),
        rewrite("config.json", hidden_act="gelu"),
        lambda f: (f / "merges.txt").write_text("#version: 0.2\n"),
    ):
        change(folder)
        hashes.append(clip_hash(folder))
    assert len(set(hashes)) == 4
    (folder / "README.md").write_text("changed")
    assert clip_hash(folder) == hashes[-1]


# ---------------------------------------------------------------- conversion


def open_clip_vectors(
    state: dict[str, torch.Tensor], pixels: torch.Tensor, tokens: torch.Tensor, quick: bool
) -> tuple[np.ndarray, np.ndarray]:
    """open_clip's forward pass from its own names, by torch's MultiheadAttention's formula."""

    def tower(x: torch.Tensor, prefix: str, depth: int, mask: torch.Tensor | None) -> torch.Tensor:
        width = x.shape[-1]
        for k in range(depth):
            p = f"{prefix}transformer.resblocks.{k}."
            y = norm(x, f"{p}ln_1")
            y, _ = torch.nn.functional.multi_head_attention_forward(
                *(y.transpose(0, 1),) * 3, width, width // 64,
                state[f"{p}attn.in_proj_weight"], state[f"{p}attn.in_proj_bias"], None, None, False,
                0.0, state[f"{p}attn.out_proj.weight"], state[f"{p}attn.out_proj.bias"],
                training=False, need_weights=False, attn_mask=mask,
            )  # fmt: skip
            x = x + y.transpose(0, 1)
            y = norm(x, f"{p}ln_2") @ state[f"{p}mlp.c_fc.weight"].T + state[f"{p}mlp.c_fc.bias"]
            y = y * torch.sigmoid(1.702 * y) if quick else torch.nn.functional.gelu(y)
            x = x + y @ state[f"{p}mlp.c_proj.weight"].T + state[f"{p}mlp.c_proj.bias"]
        return x

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        return torch.nn.functional.layer_norm(x, x.shape[-1:], weight, bias)

    kernel = state["visual.conv1.weight"]
    x = torch.nn.functional.conv2d(pixels, kernel, stride=kernel.shape[-1]).flatten(2)
    x = x.transpose(1, 2)
    first = state["visual.class_embedding"].expand(len(x), 1, -1)
    x = norm(torch.cat([first, x], 1) + state["visual.positional_embedding"], "visual.ln_pre")
    x = norm(tower(x, "visual.", 3, None)[:, 0], "visual.ln_post") @ state["visual.proj"]
    length = tokens.shape[1]
    mask = torch.full((length, length), -math.inf).triu(1)
    t = state["token_embedding.weight"][tokens] + state["positional_embedding"][:length]
    t = norm(tower(t, "", 2, mask), "ln_final")
    t = t[torch.arange(len(t)), tokens.argmax(-1)] @ state["text_projection"]
    return unit(x), unit(t)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build.clip_words(tmp_path_factory.mktemp("words"))


@pytest.mark.parametrize("quick", [True, False], ids=["quick", "gelu"])
@pytest.mark.parametrize("whole", [False, True], ids=["vocab.json", "tokenizer.json"])
def test_converted_weights_give_the_same_vectors(
    tmp_path: Path, quick: bool, whole: bool, clip_folder_: Path
) -> None:
    """Against the model it was written from, and open_clip's own arithmetic: a swap of two
    equal shapes (ln_1 and ln_2, queries and keys), a missed transpose, another activation."""
    activation = "quick_gelu" if quick else "gelu"
    original = build.clip_model(activation)
    state = build.as_open_clip(original)
    file = tmp_path / "RemoteCLIP.pt"
    torch.save(state, file)
    vocabulary = build.clip_words(tmp_path / "words", whole=whole)
    made = convert_clip(file, str(vocabulary), tmp_path / "out", quick_gelu=quick)
    assert (made.tensors, made.image_size, made.dimension) == (len(state), build.SIDE, 24)
    ours = Clip.load(tmp_path / "out")
    build.clip(tmp_path / "wanted", activation)
    wanted = Clip.load(tmp_path / "wanted")
    images = pictures()
    seen, read = ours.embed_images(images), ours.embed_texts(TEXTS)
    assert np.abs(seen - wanted.embed_images(images)).max() < 1e-6
    assert np.abs(read - wanted.embed_texts(TEXTS)).max() < 1e-6
    assert ours.scale == pytest.approx(wanted.scale)
    pixels = torch.from_numpy(np.stack([wanted.preparation.pixels(i) for i in images]))
    tokens = wanted._tokenizer(
        TEXTS, padding="max_length", max_length=build.LIMIT, return_tensors="pt"
    )
    by_hand = open_clip_vectors(state, pixels, tokens["input_ids"], quick)
    assert np.abs(seen - by_hand[0]).max() < 2e-6 and np.abs(read - by_hand[1]).max() < 2e-6
    record = json.loads((tmp_path / "out" / "conversion.json").read_text())
    modes = {p.stat().st_mode for p in (tmp_path / "out").iterdir()}
    assert len(modes) == 1  # weights that only their owner can read are no use on a server
    assert record["quick_gelu"] is quick and str(tmp_path) not in json.dumps(record)
    assert not [p for p in tmp_path.iterdir() if "rsgen-part" in p.name]


def test_half_precision_and_training_checkpoints(tmp_path: Path, words: Path) -> None:
    """open_clip's trainer wraps the state dict and puts `module.` before each name."""
    state = build.as_open_clip(build.clip_model())
    wrapped = {"epoch": 3, "state_dict": {f"module.{k}": t.half() for k, t in state.items()}}
    torch.save(wrapped, tmp_path / "epoch_3.pt")
    convert_clip(tmp_path / "epoch_3.pt", str(words), tmp_path / "out")
    from safetensors.torch import load_file

    kinds = {t.dtype for t in load_file(tmp_path / "out" / "model.safetensors").values()}
    assert kinds == {torch.float32}


class Harm:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("harm-was-done"),))


def changed(**new: Any) -> Any:
    def make() -> Any:
        state: dict[str, Any] = build.as_open_clip(build.clip_model())
        for key, value in new.items():
            name = key.replace("__", ".")
            if value is None:
                del state[name]
            else:
                state[name] = value
        return state

    return make


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (changed(visual__proj=None), "lacks visual.proj"),
        (changed(transformer__resblocks__1__ln_2__bias=None), "lacks .*resblocks.1.ln_2.bias"),
        (changed(transformer__resblocks__0__ln_1__weight=None), "lacks .*resblocks.0.ln_1.weight"),
        (changed(logit_bias=torch.zeros(1)), "1 tensors have no place .*: logit_bias"),
        (changed(visual__proj=torch.zeros(7, 24)), "do not fit together"),
        (changed(visual__positional_embedding=torch.zeros(16, 128)), "not a square"),
        (changed(visual__attnpool__positional_embedding=torch.zeros(1)), "RN50"),
        (lambda: {"visual.layer1.0.conv1.weight": torch.zeros(1)}, "RN50"),
        (dict, "not a state dict"),
        (lambda: [1, 2], "not a state dict"),
        (lambda: {"model": {"a": 1}}, "not a state dict"),
        (lambda: {"model": Harm()}, "could run code"),
    ],
    ids=["missing", "missing in a block", "missing in the first", "one too many", "shape",
         "no square", "attention pool", "resnet", "empty", "list", "nested", "code"],
)  # fmt: skip
def test_files_that_are_not_converted(
    tmp_path: Path, words: Path, content: Any, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(content(), tmp_path / "weights.pt")
    with pytest.raises(SetupError, match=says):
        convert_clip(tmp_path / "weights.pt", str(words), tmp_path / "out")
    assert not (tmp_path / "out").exists() and not Path("harm-was-done").exists()


def test_broken_files_and_places(tmp_path: Path, words: Path) -> None:
    whole = tmp_path / "weights.pt"
    torch.save(build.as_open_clip(build.clip_model()), whole)
    data = whole.read_bytes()
    for k, part in enumerate((data[: len(data) // 2], b"", b"version https://git-lfs")):
        (tmp_path / f"{k}.pt").write_bytes(part)
        with pytest.raises(SetupError, match=r"can be read|could run code"):
            convert_clip(tmp_path / f"{k}.pt", str(words), tmp_path / "out")
    with pytest.raises(UsageError, match="no such file"):
        convert_clip(tmp_path / "wieghts.pt", str(words), tmp_path / "out")
    (tmp_path / "there").mkdir()
    with pytest.raises(UsageError, match="exists already"):
        convert_clip(whole, str(words), tmp_path / "there")
    with pytest.raises(UsageError, match=r"no vocab\.json"):
        convert_clip(whole, str(tmp_path), tmp_path / "out")
    with pytest.raises(UsageError, match="not CLIP's"):
        convert_clip(whole, "tiny", tmp_path / "out")
    with pytest.raises(SetupError, match="doctor --convert-clip"):
        clip_folder(str(whole))


def test_another_vocabulary_is_refused(tmp_path: Path, words: Path) -> None:
    """Its numbers would name other words, in silence."""
    state = build.as_open_clip(build.clip_model())
    state["token_embedding.weight"] = torch.cat([state["token_embedding.weight"]] * 2)
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(SetupError, match=r"522 entries, .* have 1044 entries"):
        convert_clip(tmp_path / "weights.pt", str(words), tmp_path / "out")
