"""Prompts: what a layout says in words, and the closed vocabulary of the embedded model.

The default template and the order of the classes follow EarthSynth's training text
("A satellite image of c1, c2", ascending class index, background left out), so that its
checkpoints are prompted as they were trained.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Collection

from rsgen.errors import UsageError
from rsgen.records import ClassTable, Layout

__all__ = [
    "DEFAULT_TEMPLATE",
    "VOCABULARY",
    "make_prompt",
    "prompt_names",
    "prompt_words",
    "unknown_words",
]

DEFAULT_TEMPLATE = "A satellite image of {classes}"
EMPTY_CLASSES = "empty land"
# About 30 tokens, rarely above 50, of the 77 that Stable Diffusion's text encoder reads.
MOST_CAPTIONS = 8
MOST_CAPTION_WORDS = 32

_TEMPLATE_WORDS = """
a an the of in on at with and no empty land scene view image photo photograph picture
satellite aerial overhead top down remote sensing
"""
_COUNT_WORDS = """
one two three four five six seven eight nine ten few several some many dozens single row rows
group dense sparse
"""
_COLOUR_WORDS = """
white grey gray black red green blue yellow orange brown beige tan silver dark light bright
pale colourful
"""
_SIZE_WORDS = "small large big tiny long short wide narrow round square"
_SCENE_WORDS = """
airfield airport apron runway taxiway terminal hangar harbour harbor port quay pier dock marina
coast beach sea ocean river lake open tank farm refinery industrial car park parking lot sports
ground field court residential street suburb town city urban rural desert forest snow summer
winter autumn spring hazy clear sunny cloudy morning noon evening shadow
"""
_STUFF_WORDS = """
water road grass pavement concrete asphalt soil sand dirt bare barren tree trees vegetation
building buildings roof house houses agriculture farmland background rangeland developed space
"""
# DIOR-R, DOTA-v1.0, HRSC2016, LoveDA, EarthSynth's base classes and the procedural scenes.
_CLASS_WORDS = """
plane airplane aircraft helicopter helipad ship boat vessel yacht carrier warship submarine
cruise barge cargo tugboat fishing passenger vehicle van bus truck trailer tractor excavator
train storage tank silo chimney windmill crane container bridge overpass roundabout intersection
swimming pool tennis basketball baseball diamond soccer ball football track golf stadium
station expressway service area toll dam
"""

#: Every word the tiny tokenizer knows, sorted, lower case, each once.
VOCABULARY: tuple[str, ...] = tuple(
    sorted(
        {
            word
            for words in (
                _TEMPLATE_WORDS,
                _COUNT_WORDS,
                _COLOUR_WORDS,
                _SIZE_WORDS,
                _SCENE_WORDS,
                _STUFF_WORDS,
                _CLASS_WORDS,
            )
            for word in words.split()
        }
    )
)

_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_FIELDS = frozenset({"classes", "counts", "scene", "captions"})
_OPTIONAL = re.compile(r"\[([^\[\]]*)\]")
_WORD = re.compile(r"[^\W_]+")


def spaced(name: str) -> str:
    """`storage-tank` -> `storage tank`; upper case is kept (A220)."""
    return " ".join(name.replace("_", " ").replace("-", " ").split())


def make_prompt(
    layout: Layout | Collection[str],
    classes: ClassTable,
    *,
    scene: str | None = None,
    template: str = DEFAULT_TEMPLATE,
    lower: bool = False,
) -> str:
    """The prompt of a layout, or of a collection of labels (repeats count).

    Template fields: `{classes}` (each class once, ascending class index, names with spaces),
    `{counts}` (`two plane, many ship`), `{scene}`, `{captions}` (what instances are described
    by, each once, the most certain first, so many as leave room in 77 tokens). A part in square
    brackets is left out when a field inside it has no value: `"...of {classes}[, {scene}]"`.
    Without any class `{classes}` reads "empty land". Stuff classes count like others;
    background has no name.

    Args:
        scene: overrides the layout's own.
        lower: all lower case, as the embedded model's tokenizer wants it.

    Raises:
        UsageError: an unknown field or a broken template.
        DataError: a label outside the class table.
    """
    if isinstance(layout, Layout):
        labels = [instance.label for instance in layout.instances]
        scene = scene if scene is not None else layout.scene
        captions = _captions(layout)
    else:
        labels, captions = list(layout), []
    counts = Counter(classes.index(label) for label in labels)
    names = {index: spaced(classes.names[index - 1]) for index in sorted(counts)}
    names = {index: name for index, name in names.items() if name.lower() != "background"}
    values = {
        "classes": ", ".join(names.values()) or EMPTY_CLASSES,
        "counts": ", ".join(
            name if classes.classes[i - 1].kind == "stuff" else f"{_number(counts[i])} {name}"
            for i, name in names.items()
        )
        or EMPTY_CLASSES,
        "scene": spaced(scene) if scene else "",
        "captions": ", ".join(captions),
    }
    text = _OPTIONAL.sub(lambda part: _filled_or_nothing(part.group(1), values), template)
    prompt = " ".join(_fill(text, values).split())
    return prompt.lower() if lower else prompt


def _captions(layout: Layout) -> list[str]:
    """Captions, each once, by certainty (`scores["caption"]`; one without a score was given)."""
    certainty: dict[str, float] = {}
    for instance in layout.instances:
        text = " ".join((instance.caption or "").split())
        if text:
            sure = instance.scores.get("caption", 1.0)
            certainty[text] = max(sure, certainty.get(text, 0.0))
    chosen, words = list[str](), 0
    for text in sorted(certainty, key=lambda text: -certainty[text]):
        words += len(text.split())
        if words > MOST_CAPTION_WORDS or len(chosen) == MOST_CAPTIONS:
            break
        chosen.append(text)
    return chosen


def _number(count: int) -> str:
    return _NUMBERS[count] if count < len(_NUMBERS) else "many"


def _filled_or_nothing(part: str, values: dict[str, str]) -> str:
    return part if all(values.get(name) for name in _field_names(part)) else ""


def _field_names(template: str) -> list[str]:
    try:
        return [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise UsageError(f"prompt template {template!r}: {error}") from error


def _fill(template: str, values: dict[str, str]) -> str:
    unknown = [name for name in _field_names(template) if name not in _FIELDS]
    if unknown:
        raise UsageError(
            f"prompt template {template!r}: unknown field {unknown[0]!r}",
            hint="use {classes}, {counts}, {scene} or {captions}",
        )
    return template.format(**values)


def prompt_names(layout: Layout, classes: ClassTable) -> tuple[str, ...]:
    """Classes of the layout, ascending index, each once, as table names."""
    present = sorted({classes.index(instance.label) for instance in layout.instances})
    return tuple(classes.names[index - 1] for index in present)


def prompt_words(text: str) -> list[str]:
    """Words as the closed vocabulary splits them: lower case, no punctuation."""
    return _WORD.findall(text.lower())


def unknown_words(text: str, vocabulary: Collection[str] = VOCABULARY) -> tuple[str, ...]:
    """Words of a prompt that the vocabulary lacks, in order, each once."""
    known = frozenset(vocabulary)
    return tuple(dict.fromkeys(w for w in prompt_words(text) if w not in known))
