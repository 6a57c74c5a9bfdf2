"""What `generate` does where it is not told: as the checkpoint was trained."""

from __future__ import annotations

from rsgen.models.card import ModelCard
from rsgen.prompts import DEFAULT_TEMPLATE
from rsgen.settings import GenerateConfig

__all__ = ["GUIDANCE", "guidance_notes", "settled"]

#: Equal guidances need two network calls a step and give the contrast of the training images.
GUIDANCE = 1.75
#: Text guidance of published models: what diffusers' pipelines do where they are not told.
PUBLISHED_GUIDANCE = 7.5


def settled(settings: GenerateConfig, card: ModelCard) -> GenerateConfig:
    """The settings with prompt and guidances filled in.

    The prompt is the template that the checkpoint was trained with. A guidance that was not
    asked for is 1 where the checkpoint has not learned what it moves away from.
    """
    prompt = settings.prompt
    if prompt is None:
        prompt = DEFAULT_TEMPLATE if card.prompt is None else card.prompt
    text, layout = settings.text_guidance, settings.layout_guidance
    if layout is None:
        layout = GUIDANCE if card.knows_empty_layouts else 1.0
    if text is None:
        # with nothing to say the prompt's term is none, and one call a step is enough
        known = PUBLISHED_GUIDANCE if card.published else GUIDANCE
        text = known if prompt.strip() or settings.negative_prompt.strip() else 1.0
    return settings.model_copy(
        update={"prompt": prompt, "text_guidance": text, "layout_guidance": layout}
    )


def guidance_notes(asked: GenerateConfig, card: ModelCard) -> list[str]:
    """What was asked for and changes nothing, or not what it seems to."""
    settings, notes = settled(asked, card), []
    same = (settings.prompt or "").strip() == settings.negative_prompt.strip()
    if asked.text_guidance not in (None, 1.0) and same:
        notes.append(
            f"text_guidance {asked.text_guidance:g} changes nothing: the prompt equals the "
            f"negative prompt ({settings.negative_prompt.strip() or 'both are empty'}), so that "
            "part is computed once; layout_guidance works without words"
        )
    if card.prompt == "" and ((asked.prompt or "").strip() or asked.negative_prompt.strip()):
        notes.append(
            "the checkpoint was trained without captions (train.prompt was empty): it has not "
            "learned what these words mean here"
        )
    if asked.layout_guidance not in (None, 1.0) and not card.knows_empty_layouts:
        why = (
            "nothing says that this published checkpoint has seen empty layouts"
            if card.published
            else "the checkpoint has not seen empty layouts (train.hint_dropout was 0)"
        )
        notes.append(
            f"layout_guidance {asked.layout_guidance:g}: {why}, so what it moves away from is the "
            "base without its layout branch, which was not trained for that; train with "
            "-s train.hint_dropout=0.1"
        )
    return [*notes, *_tuned_notes(settings, card)]


def _tuned_notes(settings: GenerateConfig, card: ModelCard) -> list[str]:
    """Where a checkpoint of rl-tune paints otherwise than it was tuned; one note at most.

    `settings` come settled; a size of None is the model's own.
    """
    now = {**settings.model_dump(), "size": settings.size or card.image_size}
    differ = {
        key: (now[key], card.training[f"tuned {key}"])
        for key in ("steps", "text_guidance", "layout_guidance", "size")
        if card.training.get(f"tuned {key}", now[key]) != now[key]
    }
    if not differ:
        return []
    here = ", ".join(f"{key} {value:g}" for key, (value, _) in differ.items())
    there = ", ".join(f"{key} {value:g}" for key, (_, value) in differ.items())
    flags = " ".join(f"--{k.replace('_', '-')} {value:g}" for k, (_, value) in differ.items())
    return [
        f"{here}: rl-tune taught this checkpoint with {there}, and what it learned may be lost "
        f"otherwise; use {flags}"
    ]
