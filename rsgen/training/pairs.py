"""What the diffusion tasks learn from: image, layout, text, noise and level of every step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rsgen.composition.composing import Group
from rsgen.data import CategorySettings, View, category_view, class_rarity, image_weights
from rsgen.errors import DataError
from rsgen.losses import foreground_cells, object_weights
from rsgen.records import WEIGHT, ClassTable, Layout
from rsgen.store import item_seed
from rsgen.training.composites import Composites, CompositeSettings, Member
from rsgen.training.latents import LatentView, LatentViews
from rsgen.training.tally import Tally

__all__ = ["Encoder", "PairSettings", "TrainingPairs", "draw_timesteps"]

Encoder = Callable[[Layout], np.ndarray]


@dataclass(frozen=True)
class PairSettings:
    """How training pairs are drawn."""

    seed: int
    size: int
    caption_dropout: float
    hint_dropout: float
    object_weight: float
    timesteps: str  # "uniform" | "logit-normal"
    own_prompts: bool = True  # a sample's own goes before that of its layout
    with_images: bool = True  # pixels of views that have them go into the batch
    foreground: str | None = None  # "things" | "all": what the local loss counts
    categories: CategorySettings | None = None
    class_balance: float = 0.0
    composites: CompositeSettings | None = None


@dataclass(frozen=True)
class _Drawn:
    """A sample of a batch, and what else is drawn for it."""

    view: LatentView
    rng: np.random.Generator


class TrainingPairs:
    """Draws the batch of a step; everything random follows from (seed, step, position)."""

    def __init__(
        self,
        views: LatentViews,
        classes: ClassTable,
        settings: PairSettings,
        *,
        tokenize: Callable[[Sequence[str]], Tensor],
        prompt: Callable[[Layout], str],
        encode: Encoder | None,
        levels: int,
    ) -> None:
        """`encode` gives a layout's condition, None for a model without one.

        An image is drawn as often as its weight (1, or what a filter gave it) asks, times what
        `class_balance` does. `levels` is the length of the noise schedule. Composites need views
        with pixels.
        """
        self.views, self.classes, self.settings = views, classes, settings
        self.tokenize, self.prompt, self.encode, self.levels = tokenize, prompt, encode, levels
        samples, balance = views.images.samples, settings.class_balance
        self._rarity: Mapping[str, float] = {}
        self._shares: npt.NDArray[np.float64] | None = None
        weights = np.array([sample.scores.get(WEIGHT, 1.0) for sample in samples])
        if balance > 0:
            self._rarity = class_rarity(samples, classes, balance)
            weights *= image_weights(samples, classes, self._rarity)
        if len(weights) and not weights.any():
            raise DataError(
                f"each of {len(weights)} training images has weight 0: none would be drawn",
                hint="filter again (--rescore none) with a lower `full`, min or quantile",
            )
        if balance > 0 or (weights != 1).any():
            self._shares = np.cumsum(weights)
        self._recent: dict[tuple[int, int], View] = {}
        self.composites: Composites | None = None
        if settings.composites is not None:
            self.composites = Composites(
                classes, settings.composites, self._members, self._note_group
            )
        counted = settings.composites or settings.categories or balance
        self.tally = Tally(classes, settings.composites is not None) if counted else None

    def batch(self, step: int, start: int, stop: int, device: torch.device) -> dict[str, Tensor]:
        """Samples start..stop of a step and their composites, a pure function of its arguments.

        latents and noise [N, C, h, w], timesteps [N], tokens [N, L], weights [N, 1, h, w] of
        mean 1. N is stop - start without composites, with them up to twice that. With an encoder
        also condition [N, K, H, W] in [0, 1] and kept [N]: 0 where the condition was dropped,
        else 1. With views that keep pixels also image [N, 3, H, W] in [0, 1], with a local loss
        foreground [N, 1, h, w], 0 or 1. Where ranks have composites of a batch in common also
        scale [N]: with it the mean of their mean losses is the mean over the whole batch.
        """
        settings = self.settings
        drawn = self._with_composites(self._drawn(step, start, stop), step, start)
        latents = np.stack([d.view.latent for d in drawn])
        noise = np.stack([d.rng.standard_normal(latents.shape[1:], np.float32) for d in drawn])
        steps = [draw_timesteps(d.rng, settings.timesteps, self.levels) for d in drawn]
        texts = []
        for d in drawn:
            own = d.view.prompt if settings.own_prompts else None
            text = own if own is not None else self.prompt(d.view.layout)
            texts.append("" if d.rng.random() < settings.caption_dropout else text)
        factor = settings.size // latents.shape[-1]
        layouts = [d.view.layout for d in drawn]
        weights = [
            object_weights(of, self.classes, settings.object_weight, factor) for of in layouts
        ]
        batch = {
            "latents": torch.from_numpy(latents),
            "noise": torch.from_numpy(noise),
            "timesteps": torch.tensor(steps),
            "tokens": self.tokenize(texts),
            "weights": torch.from_numpy(np.stack(weights))[:, None],
        }
        if self.encode is not None:
            kept = [d.rng.random() >= settings.hint_dropout for d in drawn]
            conditions = [
                encoded if keep else np.zeros_like(encoded)
                for keep, encoded in zip(kept, map(self.encode, layouts), strict=True)
            ]
            batch["condition"] = torch.from_numpy(np.stack(conditions))
            batch["kept"] = torch.tensor(kept, dtype=torch.float32)
        pixels = [d.view.pixels for d in drawn if d.view.pixels is not None]
        if pixels and settings.with_images:
            images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
            batch["image"] = images.to(torch.float32).div_(255).contiguous()
        if settings.foreground is not None:
            stuff = settings.foreground == "all"
            cells = [foreground_cells(of, self.classes, factor, stuff) for of in layouts]
            batch["foreground"] = torch.from_numpy(np.stack(cells))[:, None]
        scale = self._scale(step, start, stop, len(drawn))
        if scale is not None:
            batch["scale"] = torch.full((len(drawn),), scale)
        return {name: tensor.to(device) for name, tensor in batch.items()}

    def _drawn(self, step: int, start: int, stop: int) -> list[_Drawn]:
        """The real samples of a batch."""
        places = [self._place(step, position) for position in range(start, stop)]
        views = self.views.get([key for key, _ in places])
        self._recent = {
            key: View(view.pixels, view.layout, view.prompt)
            for (key, _), view in zip(places, views, strict=True)
            if view.pixels is not None
        }
        found = []
        for position, ((item, _), rng), view in zip(range(start, stop), places, views, strict=True):
            layout, prompt = self._category(step, position, item, view.layout, view.prompt)
            found.append(_Drawn(replace(view, layout=layout, prompt=prompt), rng))
        return found

    def _place(self, step: int, position: int) -> tuple[tuple[int, int], np.random.Generator]:
        """Item and view of a sample, and the generator that draws the rest of it."""
        rng = np.random.default_rng(item_seed(self.settings.seed, "train", f"{step}/{position}"))
        items = len(self.views.images)
        if self._shares is None:
            item = int(rng.integers(items))
        else:
            at = np.searchsorted(self._shares, rng.random() * self._shares[-1], side="right")
            item = min(int(at), items - 1)
        return (item, int(rng.integers(2**31))), rng

    def _category(
        self, step: int, position: int, item: int, layout: Layout, prompt: str | None
    ) -> tuple[Layout, str | None]:
        """Labels and prompt of a sample: those of one class where its draw says so."""
        categories = self.settings.categories
        if categories is None:
            return layout, prompt
        seed = item_seed(self.settings.seed, "category", f"{step}/{position}")
        rng = np.random.default_rng(seed)
        found = category_view(layout, self.classes, categories, self._rarity, rng)
        if found is None:
            return layout, prompt
        single, name = found
        return single, self.views.images.samples[item].attributes.get(f"prompt of {name}")

    # ---------------------------------------------------------------- composites

    def _with_composites(self, drawn: list[_Drawn], step: int, start: int) -> list[_Drawn]:
        """The samples, then composites of them, or these in their place; all are counted."""
        composed: dict[int, _Drawn] = {}
        settings = self.settings.composites
        if settings is not None and self.composites is not None:
            first = step * settings.samples_a_step + start
            found = [self.composites.of(first + k) for k in range(len(drawn))]
            made = {k: one for k, one in enumerate(found) if one is not None}
            if made:
                latents = self.views.encode(np.stack([one.image for one in made.values()]))
                for latent, (k, one) in zip(latents, made.items(), strict=True):
                    seed = item_seed(self.settings.seed, "composite", f"{step}/{start + k}")
                    view = LatentView(latent, one.layout, None, one.image)
                    composed[k] = _Drawn(view, np.random.default_rng(seed))
            if settings.replace:
                drawn = [d for k, d in enumerate(drawn) if k not in composed]
        if self.tally is not None:
            for d in drawn:
                self.tally.add(step, d.view.layout, False)
            for d in composed.values():
                self.tally.add(step, d.view.layout, True)
        return [*drawn, *composed.values()]

    def _scale(self, step: int, start: int, stop: int, count: int) -> float | None:
        """This rank's share of a batch's samples over its share of the real ones."""
        settings = self.settings.composites
        if settings is None or self.composites is None or stop - start >= settings.batch_size:
            return None
        first = step * settings.samples_a_step + start // settings.batch_size * settings.batch_size
        whole = self.composites.samples_of(first, first + settings.batch_size)
        return count / whole * settings.batch_size / (stop - start)

    def _members(self, numbers: Sequence[int]) -> list[Member]:
        """Samples of any steps by their number, as `batch` draws them."""
        settings = self.settings.composites
        assert settings is not None
        places = [divmod(number, settings.samples_a_step) for number in numbers]
        keys = [self._place(*place)[0] for place in places]
        others = [key for key in keys if key not in self._recent]
        views = {**self._recent, **dict(zip(others, self.views.look(others), strict=True))}
        found = []
        for (step, position), key in zip(places, keys, strict=True):
            item, view = key[0], views[key]
            layout, _ = self._category(step, position, item, view.layout, None)
            found.append(Member(view.image, layout, self.views.images.samples[item].id))
        return found

    def _note_group(self, group: Group) -> None:
        if self.tally is not None:
            self.tally.add_pairs(group.matched, group.refused)


def draw_timesteps(rng: np.random.Generator, kind: str, length: int) -> int:
    """One noise level in [0, length): uniform, or dense in the middle (logit-normal).

    Source: Esser et al. 2024, "Scaling Rectified Flow Transformers", section 3.1.
    """
    if kind == "uniform":
        return int(rng.integers(length))
    share = 1 / (1 + np.exp(-rng.standard_normal()))
    return min(int(share * length), length - 1)
