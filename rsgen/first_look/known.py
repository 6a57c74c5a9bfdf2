"""What is known of classes by name: the embedded model's, whether symmetric, their length."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from rsgen.classes import load_class_table
from rsgen.models.base import EMBEDDED
from rsgen.models.card import read_card
from rsgen.records import ClassTable, ObjectClass, normal_name

__all__ = ["Known", "known_class", "length_m"]

TABLES = ("dota-v1.0", "dior-r")
# Metres along the long side, for classes whose size is much the same everywhere; planes vary by
# two, ships by fifty, so ships say nothing about the ground.
LENGTH_M = {
    "small-vehicle": 4.6,
    "tennis-court": 24.0,
    "basketball-court": 28.0,
    "ground-track-field": 175.0,
    "helicopter": 13.0,
    "plane": 35.0,
}


class Known(NamedTuple):
    embedded: str | None
    symmetric: bool


@lru_cache(maxsize=1)
def _embedded() -> ClassTable:
    card = read_card(EMBEDDED)
    return ClassTable(()) if card is None else card.classes


@lru_cache(maxsize=1)
def _tables() -> tuple[ClassTable, ...]:
    return (_embedded(), *(load_class_table(name) for name in TABLES))


def _find(names: tuple[str, ...]) -> ObjectClass | None:
    found = (table.find(name) for table in _tables() for name in names)
    return next((entry for entry in found if entry is not None), None)


@lru_cache(maxsize=4096)
def known_class(name: str, aliases: tuple[str, ...] = ()) -> Known:
    """The embedded model's class of that name or alias, and whether the class has no front."""
    names = (name, *aliases)
    own = next((e for n in names if (e := _embedded().find(n)) is not None), None)
    entry = _find(names)
    return Known(None if own is None else own.name, entry is not None and entry.symmetric)


@lru_cache(maxsize=4096)
def length_m(name: str) -> float | None:
    """Usual metres along the long side; None where that varies too much."""
    entry = _find((name,))
    return None if entry is None else LENGTH_M.get(normal_name(entry.name))
