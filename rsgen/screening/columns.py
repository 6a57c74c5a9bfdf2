"""The samples of a part as columns: what judging and counting need, without building samples.

A sample is a row of the table, an object a row of its flattened `instances`; both are named by
their position from 0. `judging` says what is done to one sample, this does it to all at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rsgen.tables import sample_schema

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "COUNTED",
    "NAMES",
    "ORIGIN",
    "Columns",
    "Floats",
    "Reasons",
    "Scores",
    "first_word",
    "with_verdicts",
]

# Columns of a part file that counting needs: all but shapes and what nobody asks for.
_OBJECT = "instances.list.element."
NAMES = ("scores", "reasons", f"{_OBJECT}scores")
COUNTED = (
    *("verdict", *NAMES),
    *(f"{_OBJECT}{name}" for name in ("label", "box", "quad", "iscrowd", "reasons")),
)
ORIGIN = f"{_OBJECT}origin"
Reasons = dict[int, list[str]]  # by position, where there are any
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Scores = Mapping[str, float]


@dataclass(frozen=True)
class Columns:
    """A table of samples [N] with their objects [M]."""

    table: pa.Table

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @cached_property
    def _instances(self) -> pa.ListArray:
        return self.table.column("instances").combine_chunks()

    @cached_property
    def objects(self) -> pa.StructArray:
        """Every object, [M]."""
        return self._instances.flatten()

    @cached_property
    def counts(self) -> Ints:
        """Objects of each sample, [N]."""
        import pyarrow.compute as pc

        lengths = pc.list_value_length(self._instances)
        return np.asarray(lengths.to_numpy(zero_copy_only=False), dtype=np.int64)

    @cached_property
    def owners(self) -> Ints:
        """The sample of each object, [M]."""
        return np.repeat(np.arange(len(self)), self.counts)

    @cached_property
    def scores(self) -> list[Scores]:
        return _mappings(self.table.column("scores").to_pylist())

    @cached_property
    def object_scores(self) -> list[Scores]:
        return _mappings(self.objects.field("scores").to_pylist())

    def values(self, rule: str) -> Floats:
        """A rule's scores of images, float64 [N]; NaN where it does not apply."""
        return _values(self.scores, rule)

    def object_values(self, rule: str) -> Floats:
        """A rule's scores of objects, float64 [M]; NaN where it does not apply."""
        return _values(self.object_scores, rule)

    @cached_property
    def reasons(self) -> Reasons:
        return _texts(self.table.column("reasons").combine_chunks())

    @cached_property
    def object_reasons(self) -> Reasons:
        return _texts(self.objects.field("reasons"))

    @cached_property
    def verdicts(self) -> list[str]:
        return [str(verdict) for verdict in self.table.column("verdict").to_pylist()]

    @cached_property
    def _coded_labels(self) -> tuple[Ints, list[str]]:
        coded = self.objects.field("label").dictionary_encode()
        return coded.indices.to_numpy().astype(np.int64), coded.dictionary.to_pylist()

    @property
    def labels(self) -> list[str]:
        """The labels that occur, in order of their first object."""
        return self._coded_labels[1]

    @property
    def label_numbers(self) -> Ints:
        """The position in `labels` of each object's label, [M]."""
        return self._coded_labels[0]

    def origins(self, places: Ints) -> list[str]:
        """Where the masks of some objects are from; the column is not among `COUNTED`."""
        import pyarrow as pa

        taken = self.objects.field("origin").take(pa.array(places))
        return [str(origin) for origin in taken.to_pylist()]

    @cached_property
    def things(self) -> Bools:
        """Whether instance rules apply to each object, bool [M]: see `is_thing`."""
        import pyarrow.compute as pc

        placed = pc.or_(self.objects.field("box").is_valid(), self.objects.field("quad").is_valid())
        crowd = self.objects.field("iscrowd")
        return np.asarray(pc.and_not(placed, crowd).to_numpy(zero_copy_only=False), dtype=bool)

    def class_counts(
        self, wanted: Iterable[str], of: Bools, name_of: Callable[[str], str]
    ) -> dict[str, Ints]:
        """Things of each wanted class in each sample, [N] by class; those of samples `of` [N]."""
        mine = self.things & of[self.owners]
        found = {name: np.zeros(len(self), dtype=np.int64) for name in wanted}
        for number in np.unique(self.label_numbers[mine]).tolist():
            name = name_of(self.labels[number])
            if name in found:
                places = self.owners[mine & (self.label_numbers == number)]
                found[name] += np.bincount(places, minlength=len(self))
        return found


def _mappings(texts: list[str | None]) -> list[Scores]:
    """JSON objects, parsed in one go; an absent one is empty."""
    found: list[Scores] = json.loads(f"[{','.join(text or '{}' for text in texts)}]")
    return found


def _values(rows: list[Scores], rule: str) -> Floats:
    nan = float("nan")
    return np.fromiter((row.get(rule, nan) for row in rows), dtype=np.float64, count=len(rows))


def _texts(array: pa.ListArray) -> Reasons:
    import pyarrow as pa
    import pyarrow.compute as pc

    lengths = pc.list_value_length(array).to_numpy(zero_copy_only=False)
    places = np.flatnonzero(lengths)
    return dict(zip(places.tolist(), array.take(pa.array(places)).to_pylist(), strict=True))


def first_word(reason: str) -> str:
    """The rule that a reason names."""
    return reason.split(" ", 1)[0]


# ---------------------------------------------------------------- back to a table


def with_verdicts(
    columns: Columns,
    verdicts: list[str],
    reasons: Reasons,
    object_reasons: Reasons,
    scores: tuple[list[Scores], list[Scores]] | None = None,
) -> pa.Table:
    """The same samples with other verdicts and reasons; the schema of a part file.

    scores: new ones of samples [N] and of objects [M].
    """
    import pyarrow as pa

    schema, table, objects = sample_schema(), columns.table, columns.objects
    lists = schema.field("instances").type
    fields = list(lists.value_type)
    told = _text_lists(object_reasons, len(objects), lists.value_type.field("reasons").type)
    parts = {f.name: objects.field(f.name).cast(f.type) for f in fields}
    parts["reasons"] = told
    ends = np.concatenate([[0], np.cumsum(columns.counts)])
    replaced: dict[str, Any] = {}
    if scores is not None:
        replaced["scores"] = _score_texts(scores[0])
        parts["scores"] = _score_texts(scores[1])
    structs = pa.StructArray.from_arrays([*parts.values()], fields=fields)
    replaced |= {
        "instances": pa.ListArray.from_arrays(pa.array(ends, pa.int32()), structs, type=lists),
        "verdict": pa.array(verdicts, pa.string()),
        "reasons": _text_lists(reasons, len(columns), schema.field("reasons").type),
    }
    arrays = [replaced.get(name, table.column(name)) for name in schema.names]
    return pa.Table.from_arrays(arrays, schema=schema)


def _score_texts(rows: list[Scores]) -> pa.StringArray:
    import pyarrow as pa

    texts = [json.dumps(scores, sort_keys=True) if scores else None for scores in rows]
    return pa.array(texts, pa.string())


def _text_lists(reasons: Reasons, count: int, kind: pa.DataType) -> pa.ListArray:
    import pyarrow as pa

    lengths = np.zeros(count + 1, dtype=np.int64)
    for place, texts in reasons.items():
        lengths[place + 1] = len(texts)
    texts = [text for place in sorted(reasons) for text in reasons[place]]
    ends = pa.array(np.cumsum(lengths), pa.int32())
    return pa.ListArray.from_arrays(ends, pa.array(texts, pa.string()), type=kind)
