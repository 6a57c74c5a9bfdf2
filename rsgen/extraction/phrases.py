"""Candidate phrases of a class, from a YAML file or a template: what a CLIP model chooses among."""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rsgen.config import problem_lines, read_yaml, template_path, templates_root
from rsgen.errors import UsageError
from rsgen.hints import near_name
from rsgen.prompts import spaced
from rsgen.records import ClassTable

__all__ = ["MOST_PHRASES", "PhraseBook", "load_phrases"]

MOST_PHRASES = 500  # of one class; each is read by the model once a run


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    templates: tuple[str, ...] = Field(("a satellite photo of a {phrase}",), min_length=1)
    words: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    phrases: tuple[str, ...] = ("{class}",)
    classes: dict[str, tuple[str, ...]] = Field(default_factory=dict)


@dataclass(frozen=True)
class PhraseBook:
    """Phrases by class. `templates` have a {phrase}; `source` is for messages."""

    templates: tuple[str, ...]
    words: Mapping[str, tuple[str, ...]]
    phrases: tuple[str, ...]
    classes: Mapping[str, tuple[str, ...]]
    source: str

    def candidates(self, label: str, table: ClassTable) -> tuple[str, ...]:
        """Phrases of a class, each once, in the order of the file; a class may be named by alias.

        Raises:
            UsageError: more than `MOST_PHRASES`.
        """
        entry = table.resolve(label)
        own = [self.classes[n] for n in (entry.name, *entry.aliases) if n in self.classes]
        patterns = own[0] if own else self.phrases
        found = dict.fromkeys(
            text for pattern in patterns for text in self._filled(pattern, spaced(entry.name))
        )
        if len(found) > MOST_PHRASES:
            raise UsageError(
                f"{self.source}: {len(found)} phrases of class {entry.name!r}, at most "
                f"{MOST_PHRASES}",
                hint="fewer words a list, or fewer lists in one phrase",
            )
        return tuple(found)

    def texts(self, label: str, table: ClassTable) -> list[str]:
        """Every candidate in the first template, in the second, and so on."""
        found = self.candidates(label, table)
        return [template.format(phrase=phrase) for template in self.templates for phrase in found]

    def _filled(self, pattern: str, name: str) -> Iterable[str]:
        fields = list(dict.fromkeys(_fields(pattern)))
        lists = [(name,) if field == "class" else self.words[field] for field in fields]
        for chosen in itertools.product(*lists):
            yield " ".join(pattern.format(**dict(zip(fields, chosen, strict=True))).split())


def load_phrases(name_or_path: str) -> PhraseBook:
    """A book from a template name (`colours`) or a YAML file; see templates/phrases.

    Raises:
        UsageError: no such file, or one that makes no phrases (the place is named).
    """
    path = template_path(name_or_path, "phrases")
    if path is None:
        path = Path(name_or_path).expanduser()
        if not path.suffix and not path.is_file():
            shipped = sorted(p.stem for p in (templates_root() / "phrases").glob("*.yaml"))
            near = near_name(name_or_path, shipped)
            raise UsageError(
                f"no phrases {name_or_path!r}",
                hint=f"did you mean {near}?" if near else f"give a file, or {', '.join(shipped)}",
            )
    data = read_yaml(path)
    try:
        read = _File.model_validate(data)
    except ValidationError as error:
        raise UsageError(f"{path}: {'; '.join(problem_lines(error, _File, data))}") from error
    for key, patterns, known in (
        ("templates", read.templates, {"phrase"}),
        ("phrases", read.phrases, {"class", *read.words}),
        *((f"classes.{c}", p, {"class", *read.words}) for c, p in read.classes.items()),
    ):
        _check(f"{path}: {key}", patterns, known, needs="phrase" if key == "templates" else None)
    empty = [key for key, words in read.words.items() if not words or key == "class"]
    if empty:
        raise UsageError(f"{path}: words.{empty[0]}: give a list of words under another name")
    return PhraseBook(read.templates, read.words, read.phrases, read.classes, str(path))


def _check(place: str, patterns: Sequence[str], known: set[str], needs: str | None) -> None:
    if not patterns:
        raise UsageError(f"{place}: no phrase")
    for pattern in patterns:
        fields = _fields(pattern, place)
        unknown = [name for name in fields if name not in known]
        if unknown:
            raise UsageError(
                f"{place}: {pattern!r} has {{{unknown[0]}}}; known: "
                f"{', '.join(f'{{{name}}}' for name in sorted(known))}",
                hint=f"add `words: {{{unknown[0]}: [...]}}`" if needs is None else None,
            )
        if needs is not None and needs not in fields:
            raise UsageError(f"{place}: {pattern!r} has no {{{needs}}}")
        if not pattern.strip():
            raise UsageError(f"{place}: an empty phrase")


def _fields(pattern: str, place: str = "phrase") -> list[str]:
    try:
        return [name for _, name, _, _ in string.Formatter().parse(pattern) if name is not None]
    except ValueError as error:
        raise UsageError(f"{place}: {pattern!r}: {error}") from error
