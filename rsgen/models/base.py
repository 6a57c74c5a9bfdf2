"""Which model is meant, where its files lie, what is written beside them, what it can do.

This module loads no tensors: names, folders, cards and hashes only. Networks come from the
family that `load_model` finds in the registry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from rsgen.errors import SetupError, UsageError
from rsgen.hints import check_path
from rsgen.images import sha256_file
from rsgen.models.adapter_file import ADAPTER_FILE, check_base, is_adapter
from rsgen.models.architecture import check_fit, model_family, model_side, model_step
from rsgen.models.card import ModelCard, read_card
from rsgen.models.choice import PICKLES
from rsgen.models.fetch import Fetched, Unreachable, cached_folder, fetch_model, is_offline
from rsgen.registry import resolve
from rsgen.reporting import Reporter
from rsgen.request import digest

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "EMBEDDED",
    "DiffusionModel",
    "ModelCard",
    "ModelRef",
    "Residuals",
    "fetch_reference",
    "load_model",
    "model_folder",
    "model_folders",
    "model_hash",
    "model_side",
    "model_step",
    "read_card",
]

EMBEDDED = Path(__file__).parent / "weights" / "tiny"


# ---------------------------------------------------------------- references


@dataclass(frozen=True)
class ModelRef:
    """`tiny`, a local folder, or `hub:ORG/NAME[@REVISION][/SUBFOLDER]`."""

    kind: Literal["embedded", "folder", "hub"]
    location: str
    revision: str | None = None
    subfolder: str | None = None

    @classmethod
    def parse(cls, text: str) -> ModelRef:
        """Read a reference; the file system and the network are not touched.

        Raises:
            UsageError: empty, or a hub name without an organisation.
        """
        if not text.strip():
            raise UsageError("empty model name", hint="give tiny, a folder, or hub:ORG/NAME")
        if text == "tiny":
            return cls("embedded", "tiny")
        if not text.startswith("hub:"):
            return cls("folder", text)
        head, _, tail = text.removeprefix("hub:").partition("@")
        organisation, _, rest = head.partition("/")
        name, _, subfolder = rest.partition("/")
        if tail:
            revision, _, subfolder = tail.partition("/")
        else:
            revision = ""
        if not organisation or not name:
            raise UsageError(
                f"model {text!r}: a hub model needs an organisation and a name",
                hint="write hub:ORG/NAME, hub:ORG/NAME@REVISION or hub:ORG/NAME/SUBFOLDER",
            )
        return cls("hub", f"{organisation}/{name}", revision or None, subfolder or None)

    def __str__(self) -> str:
        if self.kind != "hub":
            return self.location
        revision = f"@{self.revision}" if self.revision else ""
        subfolder = f"/{self.subfolder}" if self.subfolder else ""
        return f"hub:{self.location}{revision}{subfolder}"


def model_folder(ref: ModelRef) -> Path:
    """The local folder of a model: a diffusers pipeline, a bare ControlNet, or an adapter.

    A run of `train` may be given as OUT or OUT/model. Hub models are downloaded once.

    Raises:
        UsageError: no such folder.
        SetupError: not downloaded and the hub is out of reach, or only pickle weights.
    """
    if ref.kind == "hub":
        return _checked(_hub_folder(ref), ref)
    if ref.kind == "embedded":
        if not (EMBEDDED / "model_index.json").is_file():
            raise SetupError(
                "this installation holds no weights for the embedded model 'tiny'",
                hint="rebuild them with: rsgen run tiny-pretrain --work tiny-pretrain",
            )
        return _checked(EMBEDDED, ref)
    path = Path(ref.location).expanduser()
    if not path.exists():
        hub_like = ref.location.count("/") == 1 and not ref.location.startswith((".", "/", "~"))
        hint = check_path(path)
        if hub_like and not hint.startswith("did you mean"):
            hint = f"for a hub model write hub:{ref.location}"
        raise UsageError(f"model {ref.location!r}: no such folder", hint=hint)
    if path.is_file():
        _refuse_single_file(path)
    if not _is_model(path):
        # OUT of train, or a hub repository that keeps a ControlNet in a folder of its own
        inside = (path / name for name in ("model", "controlnet"))
        path = next((folder for folder in inside if _is_model(folder)), path)
    return _checked(path, ref)


def _is_model(folder: Path) -> bool:
    named = (folder / "model_index.json").is_file() or (folder / "config.json").is_file()
    return named or is_adapter(folder)


def _refuse_single_file(path: Path) -> None:
    if path.suffix in PICKLES:
        raise SetupError(
            f"{path}: a pickle checkpoint can run code when it is opened; rsgen reads "
            "safetensors only",
            hint="get the safetensors version of the model, as a diffusers or transformers folder",
        )
    raise SetupError(
        f"{path}: a single file; rsgen opens diffusers folders",
        hint="convert it: StableDiffusionPipeline.from_single_file(FILE).save_pretrained(FOLDER)",
    )


def _checked(folder: Path, ref: ModelRef) -> Path:
    """The folder, once it is known to hold safetensors for every network it names."""
    if not _is_model(folder):
        raise SetupError(
            f"model {ref}: {folder} has no model_index.json and no config.json",
            hint="give a diffusers or transformers model's folder, or the OUT of rsgen train",
        )
    for part in _network_folders(folder):
        if any(part.glob("*.safetensors")):
            continue
        pickles = sorted(p.name for p in part.iterdir() if p.suffix in PICKLES)
        if pickles:
            raise SetupError(
                f"model {ref}: {part} has only pickle weights ({pickles[0]}), which can run code "
                "when opened; rsgen reads safetensors only",
                hint="take a revision with safetensors, or convert once where you trust the file: "
                "load it with its library, then save_pretrained(FOLDER, safe_serialization=True)",
            )
        raise SetupError(
            f"model {ref}: {part} has no *.safetensors file",
            hint="download the folder again (an interrupted copy, or git without LFS?)",
        )
    return folder


def _network_folders(folder: Path) -> list[Path]:
    if not (folder / "model_index.json").is_file():
        return [folder]
    named = ("unet", "vae", "text_encoder", "controlnet")
    return [folder / name for name in named if (folder / name / "config.json").is_file()]


def _hub_folder(ref: ModelRef) -> Path:
    """The model in the cache, fetched where it is missing; without a network what is there."""
    given = (ref.location, ref.revision, ref.subfolder)
    try:
        return fetch_model(*given, verify=False).folder
    except Unreachable as error:
        cached = cached_folder(*given)
        if cached is not None:
            return cached
        name = ref.location.split("/")[1]
        revision = f" --revision {ref.revision}" if ref.revision else ""
        why = "HF_HUB_OFFLINE is set" if is_offline() else error.message
        inside = f"./{name}/{ref.subfolder}" if ref.subfolder else f"./{name}"
        raise SetupError(
            f"model {ref} is not in the local cache and cannot be fetched ({why})",
            hint=f"where there is a network: rsgen doctor --fetch {ref}. Or bring a folder: hf "
            f"download {ref.location}{revision} --local-dir {name} --include '*.json' "
            f"'*.safetensors' '*.txt', and give {inside} instead of {ref}",
        ) from error


def fetch_reference(text: str, reporter: Reporter) -> Fetched:
    """Fetch `hub:ORG/NAME[@REVISION][/SUBFOLDER]` whole, every hash checked.

    Raises:
        UsageError: no hub model.
        SetupError: see `fetch_model`; or the folder is not one that rsgen can open.
    """
    ref = ModelRef.parse(text)
    if ref.kind != "hub":
        near = f"hub:{text}" if text.count("/") == 1 and text[0] not in "./~" else "hub:ORG/NAME"
        raise UsageError(f"--fetch {text}: only hub models are fetched", hint=f"--fetch {near}")
    found = fetch_model(ref.location, ref.revision, ref.subfolder, reporter=reporter)
    _checked(found.folder, ref)
    return found


def model_hash(folder: Path) -> str:
    """32 hex digits over the model's weight and configuration files, in name order.

    README, sample grids and the card do not count; the same weights hash alike anywhere.
    """
    files = [folder / "model_index.json", folder / "config.json", folder / ADAPTER_FILE]
    files += list(folder.glob("*.safetensors"))
    for name in ("unet", "vae", "text_encoder", "controlnet", "tokenizer", "scheduler"):
        files += [p for p in (folder / name).glob("*") if p.suffix in {".safetensors", ".json"}]
    rows = sorted((p.relative_to(folder).as_posix(), sha256_file(p)) for p in files if p.is_file())
    return digest(rows)


# ---------------------------------------------------------------- the protocol


@dataclass(frozen=True)
class Residuals:
    """What a control branch adds to the UNet: one tensor a skip connection, and the middle."""

    down: tuple[Tensor, ...]
    middle: Tensor

    def scaled(self, factor: float) -> Residuals:
        return Residuals(tuple(t * factor for t in self.down), self.middle * factor)

    def detached(self) -> Residuals:
        return Residuals(tuple(t.detach() for t in self.down), self.middle.detach())

    def __add__(self, other: Residuals) -> Residuals:
        pairs = zip(self.down, other.down, strict=True)
        return Residuals(tuple(a + b for a, b in pairs), self.middle + other.middle)


class DiffusionModel(Protocol):
    """A latent diffusion model with a layout branch.

    Tensors live on the model's device; latents and predictions are float32 whatever the
    networks compute in. N samples, C latent channels, h = H / factor, L tokens, K channels.
    """

    card: ModelCard | None
    hash: str | None

    @property
    def factor(self) -> int:
        """Image pixels a latent pixel, along one side."""
        ...

    @property
    def latent_channels(self) -> int: ...

    @property
    def image_size(self) -> int:
        """Side in pixels that the model was trained at."""
        ...

    @property
    def vocabulary(self) -> frozenset[str] | None:
        """Words of a closed vocabulary, or None where any word can be spelled."""
        ...

    @property
    def scheduler_config(self) -> Mapping[str, Any]: ...

    @property
    def device(self) -> Any: ...

    def encode_images(self, pixels: Tensor) -> Tensor:
        """[N, 3, H, W] in [-1, 1] -> scaled posterior means [N, C, h, w]."""
        ...

    def decode_latents(self, latents: Tensor) -> Tensor:
        """[N, C, h, w] -> pixels [N, 3, H, W], about [-1, 1], not clamped."""
        ...

    def encode_prompts(self, texts: Sequence[str]) -> Tensor:
        """Texts -> hidden states [N, L, D]."""
        ...

    def control(
        self, latents: Tensor, timesteps: Tensor, text: Tensor, condition: Tensor
    ) -> Residuals:
        """Layout branch: condition [N, K, H, W] in [0, 1] -> residuals."""
        ...

    def predict(
        self,
        latents: Tensor,
        timesteps: Tensor,
        text: Tensor,
        residuals: Residuals | None = None,
    ) -> Tensor:
        """Noise, velocity or image, as `scheduler_config["prediction_type"]` says."""
        ...

    def save(self, folder: Path, card: ModelCard | None = None) -> None:
        """Write a pipeline folder that diffusers opens, and the card beside it."""
        ...


def load_model(
    model: str | ModelRef | Path,
    *,
    base: str | ModelRef | Path | None = None,
    device: str = "cpu",
    dtype: str = "fp32",
    inference: bool = False,
) -> DiffusionModel:
    """Open a pipeline folder, or a bare ControlNet or an adapter on top of `base`.

    `inference`: laid out for speed; such a model is neither trained nor saved.

    Raises:
        UsageError: a bare ControlNet or an adapter without its `base`, or a family that rsgen
            cannot run.
        SetupError: files are missing, are pickles, or do not fit the device.
    """
    folder, pipeline = model_folders(_as_ref(model), None if base is None else _as_ref(base))
    beside = {} if folder == pipeline else {"controlnet_folder": folder}
    if is_adapter(folder):
        beside = {"adapter_folder": folder}
    loaded = resolve("models", model_family(pipeline)).load(
        pipeline, device=device, dtype=dtype, inference=inference, **beside
    )
    return cast(DiffusionModel, loaded)


def model_folders(model: ModelRef, base: ModelRef | None) -> tuple[Path, Path]:
    """The model's folder, and that of the pipeline it runs in: the same for a whole model.

    Raises:
        UsageError: a bare ControlNet or an adapter without a base, or with another's.
        SetupError: as `model_folder`; where the hub is out of reach both are named.
    """
    try:
        folder = model_folder(model)
    except SetupError as error:
        raise (error if base is None else _with_base(error, base)) from error
    if (folder / "model_index.json").is_file():
        return folder, folder
    if base is None:
        what = "an adapter" if is_adapter(folder) else "a bare ControlNet"
        raise UsageError(
            f"model {model}: {what} needs the model that it "
            f"{'was tuned from' if is_adapter(folder) else 'steers'}",
            hint="add --base hub:ORG/NAME, --base FOLDER or --base tiny",
        )
    pipeline = model_folder(base)
    if is_adapter(folder):
        check_base(folder, model_hash(pipeline))
        return folder, pipeline
    check_fit(folder, pipeline, str(model), f"base {base}")
    return folder, pipeline


def _with_base(error: SetupError, base: ModelRef) -> SetupError:
    """The same error, and what there is to do for the base: one line a model, told at once."""
    try:
        model_folder(base)
    except SetupError as other:
        hints = [hint for hint in (error.hint, other.hint) if hint]
        return SetupError(
            f"{error.message}; its base: {other.message}", hint="; and for the base: ".join(hints)
        )
    return SetupError(f"{error.message}; its base {base} is there", hint=error.hint)


def _as_ref(model: str | ModelRef | Path) -> ModelRef:
    if isinstance(model, ModelRef):
        return model
    return ModelRef("folder", str(model)) if isinstance(model, Path) else ModelRef.parse(model)
