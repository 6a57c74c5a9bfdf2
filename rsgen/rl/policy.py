"""The guided prediction of a model that learns, on the way from noise to image."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from rsgen.generation.painter import Painter
from rsgen.images import Pixels
from rsgen.models.process import Process
from rsgen.models.sampling import Predictor, SamplingSettings, draw_noise, sample
from rsgen.models.schedulers import OnDraw
from rsgen.rl.layouts import Drawn

__all__ = ["Policy"]


@dataclass
class Policy:
    """A model with its layouts' conditions and prompt states kept, and the steps it takes.

    `process` has a stochastic window; `sampling` the guidances, which are those of generate:
    rollout, update and generate see one prediction.
    """

    painter: Painter
    process: Process
    sampling: SamplingSettings
    accelerator: Accelerator
    _texts: dict[str, Tensor] = field(default_factory=dict)
    _conditions: dict[int, Tensor] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        return torch.device(self.accelerator.device)

    @property
    def shape(self) -> tuple[int, int, int]:
        """C, h, w of a latent."""
        model = self.painter.model
        side = self.size // model.factor
        return model.latent_channels, side, side

    @property
    def size(self) -> int:
        size = self.painter.settings.size
        assert size is not None, "settings come settled"
        return size

    @property
    def text_width(self) -> int:
        """E of prompt states [N, L, E]."""
        with torch.no_grad():
            return self._text("").shape[-1]

    @property
    def window(self) -> tuple[int, ...]:
        """Steps that draw noise, and are learned from."""
        return self.process.stochastic

    def inputs(self, drawn: Sequence[Drawn]) -> tuple[Tensor, Tensor, Tensor]:
        """Prompt states, negative ones [N, L, W], and conditions [N, K, H, W] of a batch."""
        with torch.no_grad():
            text = torch.stack([self._text(self.painter.prompt(d.layout)) for d in drawn])
            negative = self._text(self.painter.settings.negative_prompt).expand_as(text)
            condition = torch.stack([self._condition(d) for d in drawn]).to(self.device)
        return text, negative, condition

    def predictor(self, drawn: Sequence[Drawn]) -> Predictor:
        """The prediction for a batch of layouts."""
        return Predictor(self.painter.model, *self.inputs(drawn), self.sampling)

    def paint(
        self,
        drawn: Sequence[Drawn],
        seeds: Sequence[int],
        storage: torch.dtype,
        on_draw: OnDraw,
    ) -> Tensor:
        """Final latents [N, C, h, w] of a batch, by the loop that `generate` runs."""
        text, negative, condition = self.inputs(drawn)
        mixed: AbstractContextManager[Any] = self.accelerator.autocast()
        with mixed:
            return sample(
                self.painter.model,
                noise=draw_noise(seeds, self.shape),
                text=text,
                negative=negative,
                condition=condition,
                settings=self.sampling,
                seeds=seeds,
                store_dtype=storage,
                on_draw=on_draw,
            )

    def predict(self, predictor: Predictor, latents: Tensor, step: int) -> Tensor:
        """float32 [N, C, h, w] at a step of the process, in the run's number type."""
        mixed: AbstractContextManager[Any] = self.accelerator.autocast()
        with mixed:
            return predictor(latents, self.process.timesteps[step])

    def keep(self, numbers: Collection[int]) -> None:
        """Forget the conditions of all other layouts: one of 512 px takes 36 MB."""
        for number in set(self._conditions) - set(numbers):
            del self._conditions[number]

    def pictures(self, latents: Tensor) -> list[Pixels | None]:
        """uint8 [H, W, 3] a sample, as generate writes them; None where not finite."""
        return self.painter.pictures(latents)

    def _text(self, prompt: str) -> Tensor:
        if prompt not in self._texts:
            self._texts[prompt] = self.painter.model.encode_prompts([prompt])[0].to(self.device)
        return self._texts[prompt]

    def _condition(self, drawn: Drawn) -> Tensor:
        if drawn.number not in self._conditions:
            encoded = torch.from_numpy(self.painter.condition(drawn.layout))
            self._conditions[drawn.number] = encoded
        return self._conditions[drawn.number]
