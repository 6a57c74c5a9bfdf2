"""The end of a generate run: what was painted, pictures of it, and what to know about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rsgen.execution import Finish, FinishedRun
from rsgen.images import Pixels
from rsgen.models.card import ModelCard
from rsgen.pictures import contact_sheet, draw_layout
from rsgen.prompts import unknown_words
from rsgen.records import ClassTable

__all__ = ["finish_generate", "unknown_words_note"]

CONTACT_SHEET_IMAGES = 48


def finish_generate(
    run: FinishedRun,
    classes: ClassTable,
    card: ModelCard,
    pipeline: Path,
    missing: Mapping[str, int],
    notes: Sequence[str],
) -> Finish:
    """Tables of objects and layouts, a contact sheet, notes.

    Args:
        pipeline: the folder whose vocabulary the prompts were read with.
        missing: objects that were wanted and that no layout gave, by class.
        notes: what was known before.
    """
    objects: dict[str, float | int | str] = {}
    templates: dict[str, float | int | str] = {}
    tiles: list[Pixels] = []
    titles: list[str] = []
    prompts: set[str] = set()
    outside = 0
    span = card.gsd_range_m
    for sample in run.samples():
        prompts.add(sample.prompt or "")
        template = sample.provenance.layout_template or ""
        templates[template] = int(templates.get(template, 0)) + 1
        gsd_m = sample.layout.gsd_m
        outside += bool(span and gsd_m and not 0.99 * span[0] <= gsd_m <= 1.01 * span[1])
        for instance in sample.layout.instances:
            if not classes.is_stuff(instance.label):
                objects[instance.label] = int(objects.get(instance.label, 0)) + 1
        if len(tiles) < CONTACT_SHEET_IMAGES:
            image = run.read_image(sample)
            tiles += [image, draw_layout(image, sample.layout, labels=False)]
            titles += [f"{len(titles) // 2} {template}", "with labels"]
    sheet = contact_sheet(tiles, run.path / "contact_sheet.png", titles=titles)
    found = [*notes, *_wanted_notes(missing), *_call_notes(run.counts)]
    found += _word_notes({*prompts, run.info.config.generate.negative_prompt}, pipeline)
    if outside and span:
        found.append(
            f"{outside} layouts have a ground sampling outside the {span[0]:.2f} to "
            f"{span[1]:.2f} m that the model was trained at"
        )
    tables = {"objects": dict(sorted(objects.items())), "layouts": templates}
    return Finish({"contact sheet": sheet}, tables, found)


def _wanted_notes(missing: Mapping[str, int]) -> list[str]:
    text = ", ".join(f"{name} {number}" for name, number in missing.items())
    return [f"wanted objects that the layouts did not give: {text}"] if missing else []


def _call_notes(counts: Mapping[str, int]) -> list[str]:
    saved = counts.get("network calls saved", 0)
    if not saved:
        return []
    return [
        f"equal guidance branches were computed once: {counts['network calls']} network "
        f"calls instead of {counts['network calls'] + saved}"
    ]


def _word_notes(prompts: set[str], pipeline: Path) -> list[str]:
    from rsgen.models.tokenizer import read_vocabulary

    vocabulary = read_vocabulary(pipeline)
    words = [] if vocabulary is None else unknown_words(" ".join(sorted(prompts)), vocabulary)
    return [unknown_words_note(words)] if words else []


def unknown_words_note(words: Sequence[str]) -> str:
    return (
        f"the model's vocabulary lacks {', '.join(words)}: "
        "these words of the prompts mean nothing to it"
    )
