"""Stable Diffusion 1.x / 2.x and the embedded model: diffusers networks behind one protocol."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDPMScheduler,
    UNet2DConditionModel,
)
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from rsgen.errors import OutOfMemory, SetupError, UsageError
from rsgen.models.adapter_file import check_base
from rsgen.models.base import ModelCard, Residuals, model_hash, read_card
from rsgen.models.exact_hint import Remembered, is_exact, keep_exact
from rsgen.models.lora import add_adapter
from rsgen.models.network_files import (
    open_layout_branch,
    open_network,
    open_part,
    open_schedule,
    parts_of,
)
from rsgen.models.tokenizer import closed_vocabulary
from rsgen.models.weight_files import share_weights

__all__ = ["DTYPES", "StableDiffusion", "silence_libraries"]

# diffusers and transformers carry no types that mypy --strict could check.
Network = Any
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def silence_libraries() -> None:
    """Only errors from diffusers and transformers, no bars: their advice is not for users."""
    libraries: list[Any] = [diffusers.utils.logging, transformers.logging]
    for logging in libraries:
        logging.set_verbosity_error()
        logging.disable_progress_bar()


def _forget_origin(folder: Path) -> None:
    """Drop `_name_or_path`: where a base lay on this machine is nobody's business elsewhere."""
    for path in sorted(folder.glob("*/config.json")):
        data = json.loads(path.read_text(encoding="utf-8"))
        if data.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n", encoding="utf-8")


class StableDiffusion:
    """UNet2DConditionModel + AutoencoderKL + CLIPTextModel + ControlNetModel.

    `controlnet` is None for a base model that has no layout branch yet.
    """

    def __init__(
        self,
        *,
        unet: Network,
        vae: Network,
        text_encoder: Network,
        tokenizer: Any,
        scheduler: Any,
        controlnet: Network | None = None,
        card: ModelCard | None = None,
        hash: str | None = None,
    ) -> None:
        silence_libraries()
        self.unet, self.vae, self.text_encoder = unet, vae, text_encoder
        self.tokenizer, self.scheduler, self.controlnet = tokenizer, scheduler, controlnet
        self.card, self.hash = card, hash
        # The last condition, and what it is in the networks' number type.
        self._condition: tuple[Tensor | None, Tensor | None] = (None, None)
        for network in self.networks().values():
            network.eval()

    # ------------------------------------------------------------ files

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        controlnet_folder: Path | None = None,
        adapter_folder: Path | None = None,
        device: str = "cpu",
        dtype: str = "fp32",
        inference: bool = False,
    ) -> StableDiffusion:
        """Open a pipeline folder; the ControlNet may come from a folder of its own.

        The low-rank layers of an adapter of this pipeline are added in full precision.

        `inference` makes it a third faster on a CPU, and neither to be trained nor saved.

        Raises:
            SetupError: a part is missing or damaged, or the device is not there.
            OutOfMemory: the networks do not fit the device.
        """
        silence_libraries()
        number_type = DTYPES[dtype if adapter_folder is None else "fp32"]
        names = parts_of(folder)
        beside = controlnet_folder or (folder / "controlnet" if "controlnet" in names else None)
        model = cls(
            unet=open_network(UNet2DConditionModel, folder / "unet", number_type),
            vae=open_network(AutoencoderKL, folder / "vae", number_type),
            text_encoder=open_network(CLIPTextModel, folder / "text_encoder", number_type),
            tokenizer=open_part(CLIPTokenizer, folder / "tokenizer"),
            scheduler=open_schedule(folder / "scheduler"),
            controlnet=None if beside is None else open_layout_branch(beside, number_type),
            card=read_card(adapter_folder or controlnet_folder or folder),
            hash=_joint_hash(folder, adapter_folder or controlnet_folder),
        )
        if adapter_folder is not None:
            names_of_layers = check_base(adapter_folder, model_hash(folder))
            add_adapter(model.networks(), adapter_folder, names_of_layers)
            for network in model.networks().values():
                network.to(DTYPES[dtype])
        model.to(device)
        return model.for_inference() if inference else model

    def for_inference(self) -> StableDiffusion:
        """Lay weights out as convolutions want them, and embed each condition once."""
        for name, network in self.networks().items():
            network.requires_grad_(False)
            if name != "text_encoder":
                network.to(memory_format=torch.channels_last)
        if self.controlnet is not None:
            embedding = self.controlnet.controlnet_cond_embedding
            self.controlnet.controlnet_cond_embedding = Remembered(embedding)
        return self

    def save(
        self, folder: Path, card: ModelCard | None = None, *, dtype: str | None = None
    ) -> None:
        """Write safetensors of every network and model_index.json; `dtype` converts them.

        The text encoder stays fp32: transformers opens a file in its own type, diffusers in
        fp32, and a pipeline opened without a type must not mix the two.
        """
        # Here, because the pipelines load half of both libraries and painting needs neither.
        from diffusers import StableDiffusionControlNetPipeline, StableDiffusionPipeline

        parts = self.networks()
        if dtype is not None:
            parts = {k: copy.deepcopy(v).to(DTYPES[dtype]) for k, v in parts.items()}
        parts["text_encoder"] = copy.deepcopy(self.text_encoder).float()
        kind: Any = (
            StableDiffusionPipeline
            if self.controlnet is None
            else (StableDiffusionControlNetPipeline)
        )
        pipeline = kind(
            **parts,
            tokenizer=self.tokenizer,
            scheduler=self.scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        folder.mkdir(parents=True, exist_ok=True)
        pipeline.save_pretrained(folder, safe_serialization=True)
        _forget_origin(folder)
        share_weights(folder)
        kept = card or self.card
        if kept is not None:
            kept.write(folder)

    def networks(self) -> dict[str, Network]:
        """The parts that have weights, by their folder's name."""
        parts: dict[str, Network] = {
            "unet": self.unet,
            "vae": self.vae,
            "text_encoder": self.text_encoder,
        }
        if self.controlnet is not None:
            parts["controlnet"] = self.controlnet
        return parts

    def to(self, device: str | torch.device) -> StableDiffusion:
        """Move every network.

        Raises:
            SetupError: no such device. OutOfMemory: it is too small.
        """
        if torch.device(device).type == "cuda" and not torch.cuda.is_available():
            raise SetupError(
                "device cuda: no CUDA device is visible", hint="use --device cpu; see rsgen doctor"
            )
        try:
            for network in self.networks().values():
                network.to(device)
                _align(network)
        except torch.OutOfMemoryError as error:
            raise OutOfMemory(
                f"the model does not fit the memory of {device}",
                hint="use --device cpu, or -s execution.dtype=bf16",
            ) from error
        return self

    def fresh_controlnet(self, channels: int) -> Network:
        """A new layout branch on this UNet: its encoder copied, zero at the joints.

        The hint network is initialised from torch's global generator; seed it first.
        """
        levels = len(self.vae.config.block_out_channels)
        widths = (16, 32, 96, 256) if levels == 4 else tuple(16 * 2**k for k in range(levels))
        network = ControlNetModel.from_unet(
            self.unet,
            conditioning_channels=channels,
            conditioning_embedding_out_channels=widths,
        )
        return keep_exact(network, network.dtype)

    # ------------------------------------------------------------ facts

    @property
    def factor(self) -> int:
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def latent_channels(self) -> int:
        return int(self.vae.config.latent_channels)

    @property
    def image_size(self) -> int:
        return (
            self.card.image_size if self.card else int(self.unet.config.sample_size) * self.factor
        )

    @property
    def condition_channels(self) -> int | None:
        """Channels that the ControlNet expects, None without one."""
        return (
            None if self.controlnet is None else int(self.controlnet.config.conditioning_channels)
        )

    @property
    def vocabulary(self) -> frozenset[str] | None:
        return closed_vocabulary(self.tokenizer)

    @property
    def scheduler_config(self) -> Mapping[str, Any]:
        return dict(self.scheduler.config)

    @property
    def device(self) -> torch.device:
        device: torch.device = self.unet.device
        return device

    def noise_schedule(self) -> Any:
        """The schedule to train with."""
        return DDPMScheduler.from_config(self.scheduler.config)  # type: ignore[no-untyped-call]

    # ------------------------------------------------------------ computing

    def encode_images(self, pixels: Tensor) -> Tensor:
        posterior = self.vae.encode(pixels.to(self.vae.device, self.vae.dtype)).latent_dist
        latents: Tensor = posterior.mean.float() * self.vae.config.scaling_factor
        return latents

    def decode_latents(self, latents: Tensor) -> Tensor:
        scaled = latents / self.vae.config.scaling_factor
        pixels: Tensor = self.vae.decode(scaled.to(self.vae.dtype), return_dict=False)[0]
        return pixels.float()

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """Token ids padded to the full length, int64 [N, L]; longer texts are cut."""
        coded = self.tokenizer(
            list(texts),
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        ids = coded["input_ids"]
        return torch.as_tensor(ids)

    def encode_prompts(self, texts: Sequence[str]) -> Tensor:
        ids = self.tokens(texts).to(self.text_encoder.device)
        states: Tensor = self.text_encoder(ids)[0]
        return states

    def control(
        self, latents: Tensor, timesteps: Tensor, text: Tensor, condition: Tensor
    ) -> Residuals:
        if self.controlnet is None:
            raise UsageError(
                "this model has no layout branch (ControlNet)",
                hint="train one first: rsgen train RUN --base MODEL",
            )
        number_type = self.controlnet.dtype
        if condition is not self._condition[0]:
            kept = torch.float32 if is_exact(self.controlnet) else number_type
            self._condition = (condition, condition.to(latents.device, kept))
        down, middle = self.controlnet(
            latents.to(number_type),
            timesteps,
            text.to(number_type),
            controlnet_cond=self._condition[1],
            return_dict=False,
        )
        return Residuals(tuple(down), middle)

    def predict(
        self,
        latents: Tensor,
        timesteps: Tensor,
        text: Tensor,
        residuals: Residuals | None = None,
    ) -> Tensor:
        number_type = self.unet.dtype
        output: Tensor = self.unet(
            latents.to(number_type),
            timesteps,
            text.to(number_type),
            down_block_additional_residuals=None if residuals is None else residuals.down,
            mid_block_additional_residual=None if residuals is None else residuals.middle,
            return_dict=False,
        )[0]
        return output.float()


def _joint_hash(folder: Path, beside: Path | None) -> str:
    if beside is None:
        return model_hash(folder)
    return f"{model_hash(folder)[:16]}{model_hash(beside)[:16]}"


def _align(network: Network) -> None:
    """Put weights where torch would: safetensors leaves them at any address of a file's bytes.

    Matrix products on a CPU round by the alignment of their operands, so without this the
    same model gives bits that differ from one process to the next.
    """
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.device.type == "cpu" and tensor.data_ptr() % 64:
            tensor.data = tensor.data.clone()
