"""Which files of a hub repository a model needs: safetensors, configurations, tokenizers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from rsgen.errors import SetupError

__all__ = ["PICKLES", "chosen_files", "tokenizer_files"]

PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
TEXTS = (".json", ".txt")
TOKENIZER_NOTES = ("tokenizer_config.json", "special_tokens_map.json", "config.json")
SKIPPED_FOLDERS = frozenset({"safety_checker"})
# The same weights in another number type or for another library.
VARIANTS = (".fp16.", ".bf16.", "non_ema", "flax", "onnx", "openvino")
USUAL = ("diffusion_pytorch_model", "model")  # what diffusers and transformers call weights


def chosen_files(names: Sequence[str], model: str) -> list[str]:
    """The files of a diffusers pipeline, or of one network, sorted.

    Args:
        names: every file, relative to the model's folder. model: for messages.

    Raises:
        SetupError: no model there, or a network with pickle weights alone.
    """
    folders: dict[str, list[str]] = {"": []}
    for name in names:
        parts = PurePosixPath(name).parts
        if ".." not in parts and not name.startswith("/") and len(parts) <= 2:
            folders.setdefault(parts[0] if len(parts) == 2 else "", []).append(name)
    root = set(folders[""])
    if "model_index.json" in root:
        chosen = [name for name in root if name.endswith(".json")]
        for folder, inside in folders.items():
            if folder and folder not in SKIPPED_FOLDERS:
                chosen += _network(folder, inside, model)
        return sorted(chosen)
    if "config.json" not in root:
        places = sorted(f for f, inside in folders.items() if f"{f}/config.json" in inside)
        raise SetupError(
            f"model {model}: no model_index.json and no config.json there",
            hint=f"it may be one of its folders: {', '.join(f'{model}/{p}' for p in places[:3])}"
            if places
            else "give a diffusers pipeline, or one network of a library that has a config.json",
        )
    return sorted(_network("", folders[""], model))


def tokenizer_files(names: Sequence[str], model: str) -> list[str]:
    """The files of a tokenizer alone, sorted; for models whose weights are not wanted.

    Raises:
        SetupError: no tokenizer there.
    """
    wanted = ("vocab.json", "merges.txt", "tokenizer.json", *TOKENIZER_NOTES)
    chosen = sorted(name for name in names if name in wanted)
    if "tokenizer.json" not in chosen and not {"vocab.json", "merges.txt"} <= set(chosen):
        raise SetupError(
            f"model {model}: no vocab.json and merges.txt there, and no tokenizer.json",
            hint="CLIP's vocabulary is in hub:openai/clip-vit-base-patch32",
        )
    return chosen


def _network(folder: str, names: Sequence[str], model: str) -> list[str]:
    """Texts and weights of one folder; a tokenizer or scheduler has no weights."""
    texts = [name for name in names if name.endswith(TEXTS)]
    weights = [
        name
        for name in names
        if name.endswith(".safetensors") and not any(v in name for v in VARIANTS)
    ]
    # Beside a network's own weights, a root may hold whole checkpoints of other programs.
    usual = [name for name in weights if PurePosixPath(name).name.startswith(USUAL)]
    config = f"{folder}/config.json" if folder else "config.json"
    pickles = sorted(name for name in names if name.endswith(PICKLES))
    if config in names and not weights and pickles:
        raise SetupError(
            f"model {model}: {folder or 'it'} has only pickle weights ({pickles[0]}), which can "
            "run code when opened; rsgen fetches safetensors only",
            hint="choose a model or revision with safetensors, or convert once where you trust the "
            "file: load it with diffusers, then save_pretrained(FOLDER, safe_serialization=True)",
        )
    return [*texts, *(usual or weights)]
