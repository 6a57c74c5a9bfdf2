"""Whose rights an exported set may be under: what is known of its data and of its models.

Nothing is guessed: a source that says nothing is named, with `unknown`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from rsgen.errors import RsgenError
from rsgen.request import MODEL_KEYS, InputRef, RunInfo
from rsgen.store import is_model_name, run_folder

__all__ = ["Licence", "gather_licences"]

OWN = "Apache-2.0 (part of rsgen)"
LICENCE_FILE = re.compile(r"^(licen[cs]es?|copying|notice)([._-].*)?$", re.IGNORECASE)
README_FILE = re.compile(r"^readme([._-].*)?$", re.IGNORECASE)
SHOWN = 120  # characters of a licence file's first line


@dataclass(frozen=True)
class Licence:
    """What one source of a set says of its licence; `text` None where it says nothing."""

    what: str  # real data, scenes, model
    name: str
    text: str | None = None
    where: str = ""  # what says so, or may be looked at

    def line(self) -> str:
        """One line for a reader."""
        found = self.text or "unknown"
        return f"{self.what} {self.name}: {found}" + (f" ({self.where})" if self.where else "")


def gather_licences(chain: Iterable[RunInfo]) -> list[Licence]:
    """The licences of everything that these runs have read, each named once."""
    found: dict[tuple[str, str], Licence] = {}
    for info in chain:
        for licence in (*_data(info), *_models(info)):
            key = licence.what, licence.name
            if key not in found or found[key].text is None:
                found[key] = licence
    return list(found.values())


def _data(info: RunInfo) -> list[Licence]:
    if info.command == "scenes":
        return [Licence("scenes", "of rsgen", "free of others' rights", "drawn by the program")]
    if info.command != "extract-masks":
        return []
    given = [ref for ref in info.inputs if ref.name == "dataset"] or list(info.inputs)[:1]
    return [
        _of_data_set(ref, info.config.extract_masks.license)
        for ref in given
        if run_folder(Path(ref.path)) is None
    ]


def _of_data_set(ref: InputRef, told: str | None) -> Licence:
    path = Path(ref.path)
    name = path.name
    if told is not None:
        return Licence("real data", name, told, "extract_masks.license")
    folder = path if path.is_dir() else path.parent
    files = sorted(p for p in folder.iterdir() if p.is_file()) if folder.is_dir() else []
    for file in files:
        if LICENCE_FILE.match(file.name):
            return Licence("real data", name, _first_line(file), f"its file {file.name}")
    for file in files:
        if README_FILE.match(file.name):
            text = _front_matter(file)
            where = f"its {file.name}" + ("" if text else " may say more")
            return Licence("real data", name, text, where)
    return Licence("real data", name)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")[:20_000]
    except OSError:
        return ""


def _first_line(file: Path) -> str | None:
    lines = [text for line in _read(file).splitlines() if (text := line.strip(" \t#*=-"))]
    if len(lines) > 1 and lines[1].lower().startswith("version"):
        lines[0] += f", {lines[1]}"
    return lines[0][:SHOWN] if lines else None


def _front_matter(file: Path) -> str | None:
    """`license:` of a model or data card."""
    match = re.match(r"\ufeff?---\s*\n(.*?)\n---", _read(file), re.DOTALL)
    if match is None:
        return None
    try:
        data = yaml.safe_load(match.group(1))
    except yaml.YAMLError:
        return None
    if not isinstance(data, dict):
        return None
    value = data.get("license_name") or data.get("license") or data.get("licence")
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    return None if value is None else str(value)[:SHOWN]


# ---------------------------------------------------------------- models


def _models(info: RunInfo) -> list[Licence]:
    """Models that a run was given by name or folder, and the base of one that it trained."""
    named = _named_models(info)
    found = [_of_model(name) for name in named]
    if info.command == "train":
        base = named[0] if named else "tiny"
        trained = _card_lines(info.out / "model")
        if trained:
            found = [Licence("model", _model_name(base), "; ".join(trained), "its rsgen.json")]
        elif not named:
            found = [_of_model("tiny")]
    return found


def _named_models(info: RunInfo) -> list[str]:
    names: list[str] = []
    for key in sorted(MODEL_KEYS):
        section, _, entry = key.partition(".")
        if section == info.command.replace("-", "_"):
            value = getattr(getattr(info.config, section), entry, None)
            names += [] if value is None else [str(value)]
    for ref in info.inputs:
        path = Path(ref.path)
        is_model = is_model_name(ref.name, path) or ref.name in (
            "checkpoint",
            "base",
            "judge",
            "clip",
        )
        if is_model and run_folder(path) is None:
            names.append(ref.path)
    return names


def _model_name(name: str) -> str:
    """A folder by its name alone: where it lies is nobody else's business."""
    return name if name == "tiny" or name.startswith("hub:") else Path(name).name


def _of_model(name: str) -> Licence:
    if name == "tiny":
        return Licence("model", "tiny", OWN)
    shown = _model_name(name)
    folder = _hub_folder(name) if name.startswith("hub:") else Path(name)
    if folder is None or not folder.is_dir():
        return Licence("model", shown)
    lines = _card_lines(folder)
    if lines:
        return Licence("model", shown, "; ".join(lines), "its rsgen.json")
    for file in sorted(p for p in folder.iterdir() if p.is_file()):
        if README_FILE.match(file.name) and (text := _front_matter(file)) is not None:
            return Licence("model", shown, text, f"its {file.name}")
        if LICENCE_FILE.match(file.name):
            return Licence("model", shown, _first_line(file), f"its file {file.name}")
    return Licence("model", shown)


def _card_lines(folder: Path) -> tuple[str, ...]:
    from rsgen.models.card import read_card

    try:
        card = read_card(folder)
    except RsgenError:
        return ()
    return () if card is None else card.licence


def _hub_folder(name: str) -> Path | None:
    """Where a hub model's files lie on this machine; nothing is downloaded for a card."""
    from huggingface_hub import try_to_load_from_cache

    place, _, revision = name.removeprefix("hub:").partition("@")
    repository = "/".join(place.split("/")[:2])
    for file in ("README.md", "model_index.json", "config.json"):
        found = try_to_load_from_cache(repository, file, revision=revision.split("/")[0] or None)
        if isinstance(found, str):
            return Path(found).parent
    return None


def licence_values(licences: Iterable[Licence]) -> list[str]:
    """What Croissant's `license` lists: each text once, and which sources are unknown."""
    values: Mapping[str, None] = dict.fromkeys(
        licence.text or f"unknown: {licence.what} {licence.name}" for licence in licences
    )
    return list(values)
