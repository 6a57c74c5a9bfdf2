"""Records: class names meet, rows survive Arrow, nothing is invented."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rsgen.errors import DataError, UsageError
from rsgen.geometry import Box
from rsgen.records import (
    ClassTable,
    Failure,
    Instance,
    Layout,
    ObjectClass,
    Provenance,
    Sample,
    with_instances,
)
from rsgen.tables import sample_schema, samples_from_table, samples_to_table
from tests.build import CLASSES, full_sample, instance, layout, sample, water


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("plane", "plane"),
        ("Airplane", "plane"),
        ("storage_tank", "storage-tank"),
        ("Storage Tank", "storage-tank"),
        (" storage  tank ", "storage-tank"),
        ("BOAT", "ship"),
    ],
)
def test_names_meet_through_spelling_and_aliases(asked: str, meant: str) -> None:
    assert CLASSES.resolve(asked).name == meant


def test_an_unknown_name_lists_the_known_and_the_way_out() -> None:
    with pytest.raises(DataError, match=r"'zebra'.*known: plane, ship") as caught:
        CLASSES.resolve("zebra")
    assert "--class-map zebra=" in str(caught.value)
    assert CLASSES.find("zebra") is None


def test_indices_start_after_background() -> None:
    """Catches 0-based class ids, which would make the first class background."""
    assert [CLASSES.index(name) for name in CLASSES.names] == [1, 2, 3, 4]
    assert CLASSES.is_stuff("water") and not CLASSES.is_stuff("plane")


@pytest.mark.parametrize(
    "classes",
    [
        (ObjectClass("ship"), ObjectClass("Ship")),
        (ObjectClass("ship", ("vessel",)), ObjectClass("tug", ("Vessel",))),
        (ObjectClass("ship"), ObjectClass("tug", ("ship",))),
    ],
    ids=["same name", "same alias", "alias is another's name"],
)
def test_a_name_belongs_to_one_class(classes: tuple[ObjectClass, ...]) -> None:
    with pytest.raises(UsageError, match="belongs to both"):
        ClassTable(classes)


def test_class_table_json_round_trip() -> None:
    assert ClassTable.from_json(CLASSES.to_json()) == CLASSES
    assert ClassTable.from_json([{"name": "a"}]) == ClassTable.of("a")


@pytest.mark.parametrize(
    "item",
    [
        pytest.param(full_sample(), id="every field set"),
        pytest.param(Sample("x", Layout(1, 1)), id="nothing set"),
        pytest.param(sample(), id="usual"),
        pytest.param(sample(of=layout(())), id="no instances"),
        pytest.param(sample(of=layout((Instance("ship"),))), id="label only"),
        pytest.param(sample(of=layout((water(),))), id="stuff only"),
    ],
)
def test_arrow_round_trip(item: Sample, tmp_path: Path) -> None:
    """Catches a lost field, None becoming empty, float rounding, and list order."""
    path = tmp_path / "x.parquet"
    pq.write_table(samples_to_table([item, item]), path)
    assert list(samples_from_table(pq.read_table(path))) == [item, item]


def test_no_samples_is_a_table_with_the_schema() -> None:
    table = samples_to_table([])
    assert table.num_rows == 0
    assert table.schema.equals(sample_schema(), check_metadata=True)


def test_every_record_field_has_a_column() -> None:
    """Catches a field added to a record and forgotten in the schema."""
    schema = sample_schema()
    columns = set(schema.names)
    fields = set(Sample.__slots__) - {"layout"} | set(Layout.__slots__)
    assert columns == fields
    inner = schema.field("instances").type.value_type
    assert {inner.field(k).name for k in range(inner.num_fields)} == set(Instance.__slots__)


def test_records_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        sample().split = "test"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("item", "parent"),
    [
        (Sample("a/b.png", Layout(1, 1)), "a/b.png"),
        (Sample("a/b.png#128,0", Layout(1, 1)), "a/b.png"),
        (Sample("x", Layout(1, 1), provenance=Provenance("synthetic", parent="s.png")), "s.png"),
    ],
    ids=["whole", "tile", "synthetic"],
)
def test_parent_is_the_scene(item: Sample, parent: str) -> None:
    """Catches tiles of one scene counted as different scenes: leakage over splits."""
    assert item.parent == parent


def test_bounds_prefer_box_then_quad_then_mask() -> None:
    full = instance()
    assert full.bounds() == full.box
    assert replace(full, box=None).bounds() == full.box
    only_mask = replace(full, box=None, quad=None)
    assert full.mask is not None and only_mask.bounds() == full.mask.box
    assert Instance("ship").bounds() is None
    assert Instance("ship", box=Box(0, 0, 1, 1), quad=full.quad).bounds() == Box(0, 0, 1, 1)


def test_with_instances_keeps_the_canvas() -> None:
    changed = with_instances(sample(), [instance("ship")])
    assert [i.label for i in changed.layout.instances] == ["ship"]
    assert changed.layout.gsd_m == sample().layout.gsd_m


def test_failure_row() -> None:
    row = Failure("a.png", "extract-masks", "DataError", "truncated").to_json()
    assert row == {
        "item": "a.png",
        "stage": "extract-masks",
        "error": "DataError",
        "message": "truncated",
    }
