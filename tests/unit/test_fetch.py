"""doctor --fetch against a hub on this machine: whole, resumed, refused; then used offline."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants

from rsgen.errors import SetupError, UsageError
from rsgen.models.base import ModelRef, load_model, model_folder
from rsgen.models.choice import chosen_files
from rsgen.models.clip import clip_folder, clip_hash
from rsgen.models.fetch import Unreachable, fetch_model
from tests import build_clip
from tests.build_models import save_model
from tests.hub import COMMIT, Hub, serving

Here = Callable[..., Any]
NAME = "some-org/small"
PIN = f"hub:{NAME}@{COMMIT}"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"

pytestmark = pytest.mark.loopback


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline folder, with what a real repository also has: to be left alone."""
    folder = save_model(tmp_path_factory.mktemp("model") / "small").path
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"pickle" * 10)
    (folder / "unet" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"half")
    (folder / "v1-5-pruned.safetensors").write_bytes(b"a whole checkpoint")
    (folder / "v1-5-pruned.ckpt").write_bytes(b"pickle")
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker" / "model.safetensors").write_bytes(b"x")
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    return folder


@pytest.fixture
def hub(saved: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with the model; the environment points at it, and it alone."""
    made = Hub()
    made.add(NAME, saved)
    with serving(made):
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", made.url)
        template = made.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield made


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    return lambda: monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def blobs(cache: Path) -> list[Path]:
    return sorted(cache.glob("models--*/blobs/*"))


def test_a_model_is_fetched_whole_and_then_loads_offline(
    hub: Hub, cache: Path, saved: Path, offline: Callable[[], None], cli_here: Here
) -> None:
    """Catches pickles, other number types and root checkpoints (gigabytes) being fetched, a
    reference that does not name the commit, and a cache that others cannot read."""
    done = cli_here("doctor", "--fetch", f"hub:{NAME}", "--json")
    assert done.code == 0, done
    assert done.json["model"] == PIN and done.json["commit"] == COMMIT
    asked = hub.files_asked()
    assert WEIGHTS in asked and "model_index.json" in asked and len(asked) == len(set(asked))
    assert not [n for n in asked if n.endswith((".bin", ".ckpt")) or "fp16" in n]
    assert not [n for n in asked if n.startswith(("v1-5", "safety_checker"))]
    offline()
    for text in (PIN, f"hub:{NAME}"):
        folder = model_folder(ModelRef.parse(text))
        assert (folder / WEIGHTS).read_bytes() == (saved / WEIGHTS).read_bytes()
    assert load_model(PIN).image_size == 32
    from huggingface_hub import snapshot_download, try_to_load_from_cache

    found = try_to_load_from_cache(NAME, WEIGHTS, cache_dir=cache)
    assert isinstance(found, str) and Path(found).is_file()
    assert Path(snapshot_download(NAME, cache_dir=cache, local_files_only=True)).name == COMMIT


def test_again_fetches_nothing(hub: Hub, cache: Path, cli_here: Here) -> None:
    first = cli_here("doctor", "--fetch", PIN)
    assert first.code == 0 and f"--base {PIN}" in first.out
    hub.asked.clear()
    again = fetch_model(NAME, COMMIT)
    assert again.fetched_bytes == 0 and hub.files_asked() == []


def test_a_download_that_was_killed_goes_on_where_it_was(
    hub: Hub, cache: Path, saved: Path
) -> None:
    """What a killed process leaves is a part file; the next start asks for the rest alone."""
    data = (saved / WEIGHTS).read_bytes()
    part = cache / "models--some-org--small" / "blobs" / f"{hashlib.sha256(data).hexdigest()}"
    part.parent.mkdir(parents=True)
    part.with_name(f"{part.name}.rsgen-part").write_bytes(data[:1000])
    found = fetch_model(NAME)
    ranges = {path.rpartition("/")[2]: header for path, header in hub.asked if header}
    assert ranges == {Path(WEIGHTS).name: "bytes=1000-"}
    assert (found.folder / WEIGHTS).read_bytes() == data
    assert found.fetched_bytes == found.bytes - 1000
    assert not list(cache.rglob("*.rsgen-part"))


def test_a_connection_that_breaks_is_taken_up_again(
    hub: Hub, cache: Path, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # it keeps whole chunks
    hub.cut[WEIGHTS] = 5000
    found = fetch_model(NAME)
    assert (found.folder / WEIGHTS).read_bytes() == (saved / WEIGHTS).read_bytes()
    assert ("bytes=5000-") in [header for path, header in hub.asked if path.endswith(WEIGHTS)]


@pytest.mark.parametrize("name", [WEIGHTS, "unet/config.json"], ids=["sha256", "git sha1"])
def test_a_wrong_hash_is_an_error_and_the_file_is_gone(
    name: str, hub: Hub, cache: Path, saved: Path, cli_here: Here, offline: Callable[[], None]
) -> None:
    """Catches altered weights that are kept because their size is right."""
    hub.alter.add(name)
    done = cli_here("doctor", "--fetch", f"hub:{NAME}")
    assert done.code == 4 and f"{name} came with the hash" in done.err, done
    bad = bytes([(saved / name).read_bytes()[0] ^ 1]) + (saved / name).read_bytes()[1:]
    assert not [p for p in blobs(cache) if p.read_bytes() == bad]
    assert not list(cache.glob("models--*/snapshots/*")), "an incomplete model is none"
    hub.alter.clear()
    assert cli_here("doctor", "--fetch", f"hub:{NAME}").code == 0, "the same line, later"


def test_a_damaged_file_in_the_cache_is_fetched_again(hub: Hub, cache: Path, saved: Path) -> None:
    first = fetch_model(NAME)
    blob = (first.folder / WEIGHTS).resolve()
    blob.write_bytes(bytes(blob.stat().st_size))
    hub.asked.clear()
    again = fetch_model(NAME)
    assert hub.files_asked() == [WEIGHTS]
    assert (again.folder / WEIGHTS).read_bytes() == (saved / WEIGHTS).read_bytes()


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("hub:some-org/other", 4, "no such model"),
        (f"hub:{NAME}@v9", 4, "no such revision"),
        (f"hub:{NAME}/nowhere", 4, "no model_index.json"),
        (NAME, 2, f"--fetch hub:{NAME}"),
        ("tiny", 2, "only hub models"),
        (f"hub:{NAME}@../x", 2, "'..'"),
    ],
)
def test_what_is_not_there_is_said(
    text: str, code: int, said: str, hub: Hub, cache: Path, cli_here: Here
) -> None:
    done = cli_here("doctor", "--fetch", text)
    assert done.code == code and said in done.err and "fix:" in done.err, done


def test_pickles_alone_are_refused_before_anything_is_fetched(
    hub: Hub, cache: Path, saved: Path, tmp_path: Path, cli_here: Here
) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(saved, folder)
    for path in (folder / "unet").glob("*.safetensors"):
        path.unlink()
    hub.add("some-org/pickled", folder)
    done = cli_here("doctor", "--fetch", "hub:some-org/pickled")
    assert done.code == 4 and "only pickle weights" in done.err and "convert" in done.err, done
    assert hub.files_asked() == [] and not cache.exists()


def test_no_network_is_exit_4_with_the_line(cache: Path, hub: Hub, cli_here: Here,
                                            monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    done = cli_here("doctor", "--fetch", f"hub:{NAME}")
    assert done.code == 4 and "cannot be fetched" in done.err and "same line" in done.err, done


def test_without_a_network_the_cache_will_do(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HF_HUB_OFFLINE is not set, the net is merely gone: a night's run goes on."""
    fetch_model(NAME)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert (model_folder(ModelRef.parse(PIN)) / WEIGHTS).is_file()


def test_offline_mode_is_exit_4_with_the_line(cache: Path, cli_here: Here) -> None:
    done = cli_here("doctor", "--fetch", f"hub:{NAME}")
    assert done.code == 4 and "HF_HUB_OFFLINE=0 rsgen doctor --fetch" in done.err, done
    with pytest.raises(Unreachable):
        fetch_model(NAME)


def test_a_full_disk_is_said_first(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(cache.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(SetupError, match=r"needs .* left"):
        fetch_model(NAME)
    assert hub.files_asked() == []


def test_a_revision_and_a_subfolder(hub: Hub, cache: Path, offline: Callable[[], None]) -> None:
    found = fetch_model(NAME, "v1", "unet")
    assert found.reference == f"hub:{NAME}@{COMMIT}/unet" and found.folder.name == "unet"
    assert all(name.startswith("unet/") for name in hub.files_asked())
    offline()
    for revision in (COMMIT, "v1"):
        assert model_folder(ModelRef.parse(f"hub:{NAME}@{revision}/unet")) == found.folder
    with pytest.raises(SetupError, match="not in the local cache"):
        model_folder(ModelRef.parse(f"hub:{NAME}"))


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        pytest.param(
            ["config.json", "diffusion_pytorch_model.safetensors", "x.safetensors", "a.bin"],
            ["config.json", "diffusion_pytorch_model.safetensors"],
            id="a bare ControlNet",
        ),
        pytest.param(
            ["config.json", "preprocessor_config.json", "model.safetensors", "pytorch_model.bin"],
            ["config.json", "model.safetensors", "preprocessor_config.json"],
            id="a transformers model",
        ),
        pytest.param(
            ["config.json", "control_net.safetensors"],
            ["config.json", "control_net.safetensors"],
            id="weights by another name",
        ),
        pytest.param(
            ["model_index.json", "../x.json", "/etc/x.json", "unet/a/b.json", "unet/config.json",
             "unet/model-00001-of-00002.safetensors", "unet/model.safetensors.index.json"],
            ["model_index.json", "unet/config.json", "unet/model-00001-of-00002.safetensors",
             "unet/model.safetensors.index.json"],
            id="names that leave the folder, and shards",
        ),
    ],
)  # fmt: skip
def test_choice(names: list[str], chosen: list[str]) -> None:
    assert chosen_files(names, "hub:o/n") == chosen


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["README.md"], "no model_index.json"),
        (["sub/config.json"], "hub:o/n/sub"),
        (["config.json", "model.ckpt"], "pickle"),
    ],
)
def test_no_choice(names: list[str], said: str) -> None:
    with pytest.raises(SetupError, match=said):
        chosen_files(names, "hub:o/n")


def test_a_plain_name_is_no_hub_model() -> None:
    with pytest.raises(UsageError):
        ModelRef.parse("hub:small")


def test_clips_vocabulary_is_fetched_without_its_weights(
    hub: Hub, tmp_path: Path, offline: Callable[[], None], cli_here: Here
) -> None:
    """OpenAI's repository has pickle weights of 600 MB beside the 1 MB that is wanted."""
    words = build_clip.clip_words(tmp_path / "words")
    (words / "config.json").write_text("{}")
    (words / "pytorch_model.bin").write_bytes(b"pickle")
    hub.add("openai/clip", words)
    file = tmp_path / "RemoteCLIP-ViT-B-32.pt"
    torch.save(build_clip.as_open_clip(build_clip.clip_model()), file)
    line = ("doctor", "--convert-clip", file, "--tokenizer", "hub:openai/clip")
    done = cli_here(*line, "--out", tmp_path / "one", "--json")
    assert done.code == 0, done
    assert sorted(hub.files_asked()) == ["config.json", "merges.txt", "vocab.json"]
    assert done.json["quick_gelu"] is True
    offline()
    assert cli_here(*line, "--out", tmp_path / "two", "--gelu").code == 0
    hashes = {clip_hash(clip_folder(str(tmp_path / name))) for name in ("one", "two")}
    assert len(hashes) == 2  # the activation is part of what a run depends on
    done = cli_here("doctor", "--convert-clip", file)
    assert done.code == 2 and "--tokenizer hub:openai/clip-vit-base-patch32" in done.err
    done = cli_here(*line[:-1], "hub:openai/other", "--out", tmp_path / "three")
    assert done.code == 4 and "HF_HUB_OFFLINE" in done.err
