"""What of a model learns from rewards, the way back to its start, and how it is saved."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rsgen.models.adapter_file import write_adapter_file
from rsgen.models.lora import WEIGHTS
from rsgen.models.stable_diffusion import StableDiffusion
from rsgen.models.weight_files import share_weights
from rsgen.request import item_seed
from rsgen.training.setup import LORA_NAME, LORA_TARGETS, choose_weights, save_lora

__all__ = ["Learner"]


class Learner:
    """The weights that learn: LoRA on the UNet decoder's attention (and the ControlNet's), or all.

    `reference()` is the model as it was at the start: LoRA off, or the first weights put back.
    LoRA starts at no change and has no dropout.
    """

    def __init__(self, model: StableDiffusion, learn: str, rank: int, seed: int) -> None:
        self.model, self.learn = model, learn
        mode = "full" if learn == "full" else "lora"
        task = "controlnet" if learn == "full" else "base"
        choose_weights(model, task, mode, False, rank, decoder_only=True, seed=seed)
        if learn == "lora+controlnet":
            _add_to_controlnet(model.controlnet, rank, seed)
        self._networks: dict[str, Any] = {"unet": model.unet}
        if learn != "lora":
            self._networks["controlnet"] = model.controlnet
        for network in model.networks().values():
            network.eval()  # dropout in one path alone would move the ratio
        self._start: list[Tensor] = []

    def freeze_start(self) -> None:
        """Remember the start, once the weights lie where they stay."""
        if self.learn == "full":
            self._start = [p.detach().clone() for p in self.parameters().values()]

    @property
    def start_bytes(self) -> int:
        """Memory of the remembered start; low-rank layers are switched off instead."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self._start)

    def parameters(self) -> dict[str, nn.Parameter]:
        """What learns, by name, in a fixed order."""
        return {
            f"{name}.{key}": parameter
            for name, network in self._networks.items()
            for key, parameter in network.named_parameters()
            if parameter.requires_grad
        }

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Within it the model is the one that the run started from; without gradients."""
        parameters = list(self.parameters().values())
        now = [p.data for p in parameters]
        with torch.no_grad():
            try:
                self._switch(parameters, self._start, on=False)
                yield
            finally:
                self._switch(parameters, now, on=True)

    def _switch(self, parameters: list[nn.Parameter], values: list[Tensor], on: bool) -> None:
        if self.learn == "full":
            for parameter, value in zip(parameters, values, strict=True):
                parameter.data = value
            return
        for network in self._networks.values():
            (network.enable_adapters if on else network.disable_adapters)()

    def save_adapter(self, folder: Path, base_hash: str) -> tuple[str, ...]:
        """Write the low-rank layers; the networks that have some, none where all weights learn."""
        if self.learn == "full":
            return ()
        if self.learn == "lora+controlnet":
            controlnet: Any = self.model.controlnet
            controlnet.save_lora_adapter(str(folder / "controlnet"), LORA_NAME, weight_name=WEIGHTS)
            share_weights(folder / "controlnet")
        save_lora(self.model.unet, folder)
        write_adapter_file(folder, base_hash, list(self._networks))
        return tuple(self._networks)

    def copy_to(self, model: StableDiffusion) -> None:
        """Give all that learned to a model as it was at the start."""
        assert self.learn == "full", "low-rank layers are added by add_adapter"
        for name, network in self._networks.items():
            model.networks()[name].load_state_dict(network.state_dict())


def _add_to_controlnet(controlnet: Any, rank: int, seed: int) -> None:
    from peft import LoraConfig

    with torch.random.fork_rng(devices=[]):  # every rank must start from the same layers
        torch.manual_seed(item_seed(seed, "rl-tune", "lora of the controlnet") % 2**31)
        controlnet.add_adapter(
            LoraConfig(
                r=rank,
                lora_alpha=rank,
                init_lora_weights="gaussian",
                target_modules=list(LORA_TARGETS),
            ),
            adapter_name=LORA_NAME,
        )
