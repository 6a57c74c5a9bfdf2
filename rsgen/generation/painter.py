"""A batch of layouts to pictures: conditions, prompts, noise, the sampling loop, decoding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from rsgen.condition import ConditionEncoding, encode, from_model
from rsgen.devices import memory_error
from rsgen.errors import UsageError
from rsgen.generation.naming import model_class
from rsgen.images import Pixels
from rsgen.models.base import DiffusionModel
from rsgen.models.sampling import Branches, SamplingSettings, draw_noise, sample
from rsgen.prompts import make_prompt, unknown_words
from rsgen.records import ClassTable, Layout
from rsgen.settings import GenerateConfig

__all__ = ["Painter", "memory_error"]


@dataclass
class Painter:
    """A model with everything that turns its layouts into pictures.

    `classes` is the table that the labels are of; `model_classes` the one that the model was
    trained with: labels are translated for the condition and the prompt (`generation.naming`).
    `settings` have a prompt and guidances (`generation.defaults.settled`).
    """

    model: DiffusionModel
    encoding: ConditionEncoding
    classes: ClassTable
    model_classes: ClassTable
    settings: GenerateConfig
    calls: int = 0
    full_calls: int = 0

    def __post_init__(self) -> None:
        expected = getattr(self.model, "condition_channels", None)
        if expected is None:
            raise UsageError(
                "this checkpoint has no layout branch (ControlNet)",
                hint="train one on it: rsgen train RUN --base CHECKPOINT",
            )
        if expected != self.encoding.channels:
            raise UsageError(
                f"condition `{self.encoding.name}` has {self.encoding.channels} channels, the "
                f"ControlNet expects {expected}",
                hint="set -s generate.condition=binary, index or classes",
            )

    def prompt(self, layout: Layout) -> str:
        """The prompt of a layout, in the model's class names."""
        template = self.settings.prompt
        assert template is not None, "settings come settled"
        return make_prompt(self._translated(layout), self.model_classes, template=template)

    def unknown_words(self, prompts: Sequence[str]) -> tuple[str, ...]:
        """Words that the model's closed vocabulary lacks, each once; () for an open one."""
        vocabulary = self.model.vocabulary
        if vocabulary is None:
            return ()
        return unknown_words(" ".join([*prompts, self.settings.negative_prompt]), vocabulary)

    def condition(self, layout: Layout) -> np.ndarray:
        """The control tensor float32 [C, H, W] at the layout's own size."""
        size = (layout.width, layout.height)
        return encode(self._translated(layout), size, self.encoding, self.model_classes)

    def latents(
        self, layouts: Sequence[Layout], prompts: Sequence[str], seeds: Sequence[int]
    ) -> Tensor:
        """Denoised latents [N, C, h, w] on the model's device.

        Raises:
            OutOfMemory: the batch does not fit.
        """
        factor, settings = self.model.factor, self.settings
        text_guidance, layout_guidance = settings.text_guidance, settings.layout_guidance
        assert text_guidance is not None and layout_guidance is not None, "settings come settled"
        shape = (
            self.model.latent_channels,
            layouts[0].height // factor,
            layouts[0].width // factor,
        )
        steps = settings.steps

        def count(branches: Branches) -> None:
            self.calls += len(branches) * steps
            self.full_calls += branches.full * steps

        try:
            with torch.inference_mode():
                return sample(
                    self.model,
                    noise=draw_noise(seeds, shape),
                    text=self.model.encode_prompts(prompts),
                    negative=self.model.encode_prompts([settings.negative_prompt] * len(prompts)),
                    condition=torch.from_numpy(np.stack([self.condition(x) for x in layouts])),
                    settings=SamplingSettings(
                        settings.scheduler,
                        steps,
                        text_guidance,
                        layout_guidance,
                        settings.control_scale,
                        eta=settings.eta,
                        window=settings.window,
                    ),
                    seeds=seeds,
                    on_branches=count,
                )
        except (RuntimeError, MemoryError) as error:
            raise (memory_error(error) or error) from error

    def pictures(self, latents: Tensor) -> list[Pixels | None]:
        """uint8 [H, W, 3] a sample; None where the model gave numbers that are not finite.

        Raises:
            OutOfMemory: the batch does not fit.
        """
        try:
            with torch.inference_mode():
                pixels = self.model.decode_latents(latents)
        except (RuntimeError, MemoryError) as error:
            raise (memory_error(error) or error) from error
        good = torch.isfinite(pixels).flatten(1).all(dim=1).tolist()
        images = from_model(torch.nan_to_num(pixels, 0.0, 0.0, 0.0))
        return [image if ok else None for image, ok in zip(images, good, strict=True)]

    def _translated(self, layout: Layout) -> Layout:
        """The layout with the model's class names."""
        names: dict[str, str] = {}
        for label in {instance.label for instance in layout.instances}:
            own = self.classes.resolve(label)
            found = model_class(own, self.model_classes, self.settings.class_map)
            names[label] = found.name if found is not None else label
        moved = tuple(replace(i, label=names[i.label]) for i in layout.instances)
        return replace(layout, instances=moved)
