"""Condition encodings: slots, raster order, sizes, pixels."""

from __future__ import annotations

import json
import math
import time

import numpy as np
import pytest
import torch

from rsgen.classes import load_class_table
from rsgen.condition import (
    CONDITION_CHANNELS,
    ConditionEncoding,
    assign_slots,
    encode,
    from_model,
    palette_png,
    rasterize,
    resize_index,
    to_model,
)
from rsgen.errors import DataError, UsageError
from rsgen.geometry import Box, RotatedBox, rotated_box_to_quad
from rsgen.mask import Mask
from rsgen.records import ClassTable, Instance, Layout, ObjectClass
from tests import build

TABLE = build.CLASSES  # plane (airplane), ship (boat), storage-tank, water (stuff)


def square(label: str, x0: int, y0: int, side: int, **more: object) -> Instance:
    return Instance(label, mask=Mask.from_array(np.ones((side, side)), x0, y0), **more)  # type: ignore[arg-type]


class TestSlots:
    def test_one_slot_a_class_in_order(self) -> None:
        assert assign_slots(TABLE) == {
            "plane": (0,),
            "ship": (1,),
            "storage-tank": (2,),
            "water": (3,),
        }

    def test_known_classes_keep_their_slots_by_alias(self) -> None:
        """Catches a fine-tune that moves `airplane` away from what the model learned as plane."""
        base = assign_slots(TABLE)
        slots = assign_slots(ClassTable.of("crane", "boat", "airplane"), base, TABLE)
        assert slots == {"crane": (4,), "boat": (1,), "airplane": (0,)}

    def test_own_alias_is_enough(self) -> None:
        table = ClassTable((ObjectClass("vessel", ("ship",)),))
        assert assign_slots(table, {"ship": (7,)}) == {"vessel": (7,)}

    def test_slots_of_absent_base_classes_are_reused_last(self) -> None:
        """Catches new classes written over learned slots while free ones exist."""
        base = {f"old-{k}": (k,) for k in range(30)}
        slots = assign_slots(ClassTable.of("a", "b", "c"), base)
        assert slots == {"a": (30,), "b": (31,), "c": (0,)}

    def test_beyond_32_classes_codes_are_distinct_pairs(self) -> None:
        slots = assign_slots(load_class_table("earthsynth-67"))
        assert len(set(slots.values())) == 66
        assert [len(code) for code in slots.values()] == [1] * 32 + [2] * 34

    def test_too_many(self) -> None:
        with pytest.raises(UsageError, match="529 classes"):
            assign_slots(ClassTable.of(*(f"c{k}" for k in range(529))))


class TestEncoding:
    def test_json_both_ways(self) -> None:
        """Catches slots that come back as lists and no longer equal themselves."""
        encoding = ConditionEncoding.for_classes("classes", TABLE)
        assert ConditionEncoding.from_json(json.dumps(encoding.to_json())) == encoding
        assert ConditionEncoding.from_json({"name": "binary"}).channels == 3

    @pytest.mark.parametrize(
        ("row", "problem"),
        [
            ({"name": "rgb"}, "unknown condition encoding"),
            ({"slots": {}}, "cannot be read"),
            ({"name": "classes", "slots": {"a": [40]}}, "0..31"),
            ({"name": "classes", "slots": {"a": [1], "b": [1]}}, "distinct"),
            ({"name": "classes", "slots": {"a": ["x"]}}, "cannot be read"),
        ],
    )
    def test_bad_json(self, row: dict[str, object], problem: str) -> None:
        with pytest.raises((DataError, UsageError), match=problem):
            ConditionEncoding.from_json(row)

    def test_label_without_slot_is_named(self) -> None:
        encoding = ConditionEncoding("classes", {"plane": (0,)})
        with pytest.raises(DataError, match="ship"):
            encode(build.layout(), (64, 64), encoding, TABLE)

    def test_labels_resolve_by_alias_of_the_models_table(self) -> None:
        encoding = ConditionEncoding.for_classes("classes", TABLE)
        layout = Layout(8, 8, (square("airplane", 2, 2, 4),))
        assert encode(layout, (8, 8), encoding, TABLE)[0].sum() == 16

    @pytest.mark.parametrize("name", ["binary", "index", "classes"])
    @pytest.mark.parametrize("size", [(64, 64), (40, 24), (128, 96)])
    def test_shape_range_and_dtype(self, name: str, size: tuple[int, int]) -> None:
        encoding = ConditionEncoding.for_classes(name, TABLE)  # type: ignore[arg-type]
        array = encode(build.layout(), size, encoding, TABLE)
        assert array.shape == (encoding.channels, size[1], size[0])
        assert array.dtype == np.float32 and array.min() >= 0 and array.max() <= 1
        assert encoding.channels == (CONDITION_CHANNELS if name == "classes" else 3)

    def test_resizing_invents_no_class(self) -> None:
        """Catches a bilinear resize: index 1 and 3 side by side would read as 2."""
        layout = Layout(64, 64, (square("water", 0, 0, 64), square("plane", 5, 5, 31)))
        array = encode(layout, (37, 37), ConditionEncoding("index"), TABLE)
        assert set(np.unique(np.round(array * 255)).tolist()) == {1.0, 4.0}

    def test_speed(self) -> None:
        """20 objects at 128 px under 5 ms: catches a mask decoded on the whole canvas."""
        rng = np.random.default_rng(0)
        things = tuple(
            build.instance(
                "plane",
                *rng.uniform(10, 118, 2),
                20,
                10,
                float(rng.uniform(-3, 3)),
                size=(128, 128),
            )
            for _ in range(20)
        )
        layout = Layout(128, 128, things)
        encoding = ConditionEncoding.for_classes("classes", TABLE)
        times = []
        for _ in range(15):
            start = time.perf_counter()
            encode(layout, (128, 128), encoding, TABLE)
            times.append(time.perf_counter() - start)
        assert min(times) < 0.005


class TestRaster:
    def test_order_stuff_then_large_to_small(self) -> None:
        """Catches a layout's own order: a car listed before its car park would vanish."""
        small, large = square("plane", 4, 4, 2), square("ship", 2, 2, 8)
        raster = rasterize(Layout(12, 12, (small, large, square("water", 0, 0, 12))), TABLE)
        assert raster.index[5, 5] == 1 and raster.index[3, 3] == 2 and raster.index[0, 0] == 4
        assert raster.things[5, 5] == 1 and raster.things[3, 3] == 2 and raster.things[0, 0] == 0

    @pytest.mark.parametrize(
        ("instance", "area"),
        [
            (Instance("plane", box=Box(2, 3, 6, 5)), 8),
            (Instance("plane", quad=rotated_box_to_quad(RotatedBox(8, 8, 6, 4, 0.0))), 24),
            (Instance("plane", quad=((2, 2), (2, 6), (6, 6), (6, 2))), 16),
            (Instance("plane", box=Box(-3, -3, 2, 2)), 4),
            (Instance("plane", box=Box(20, 20, 24, 24)), 0),
            (Instance("plane", box=Box(3.6, 3.6, 3.9, 3.9)), 1),
        ],
        ids=["box", "quad", "anticlockwise quad", "cut", "outside", "thinner than a pixel"],
    )
    def test_without_a_mask_the_label_is_filled(self, instance: Instance, area: int) -> None:
        raster = rasterize(Layout(16, 16, (instance,)), TABLE)
        assert int((raster.index > 0).sum()) == area

    def test_nothing_to_paint_is_an_error(self) -> None:
        with pytest.raises(DataError, match="no mask, quad or box"):
            rasterize(Layout(8, 8, (Instance("plane"),)), TABLE)

    def test_resize_index_samples_pixel_centres(self) -> None:
        """Catches nearest resizing that reads the pixel to the left of the centre."""
        assert resize_index(np.arange(4)[None], (2, 1)).tolist() == [[1, 3]]
        assert resize_index(np.arange(2)[None], (4, 1)).tolist() == [[0, 0, 1, 1]]


class TestPixels:
    def test_all_grey_levels_come_back(self) -> None:
        values = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
        model = to_model(values)
        assert model.shape == (1, 3, 16, 16) and model.dtype == torch.float32
        assert float(model.min()) == -1.0 and float(model.max()) == 1.0
        assert np.array_equal(from_model(model), values)

    def test_rounding_and_clamping(self) -> None:
        pixels = torch.tensor([-3.0, -1 + 1.2 / 127.5, 0.999, 2.0]).reshape(1, 1, 1, 4)
        assert from_model(pixels.repeat(1, 3, 1, 1))[0, 0, :, 0].tolist() == [0, 1, 255, 255]

    def test_nan_is_an_error(self) -> None:
        with pytest.raises(DataError, match="not finite"):
            from_model(torch.full((1, 3, 2, 2), math.nan))

    def test_palette_png(self) -> None:
        image = palette_png(build.layout(), TABLE, (32, 48))
        assert image.shape == (48, 32, 3) and image.dtype == np.uint8
        assert len(np.unique(image.reshape(-1, 3), axis=0)) >= 4
